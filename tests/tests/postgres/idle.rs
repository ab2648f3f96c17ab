//! An idle cluster leaves the disk alone.

use std::time::{Duration, Instant};

use ha_tests::{Plan, eventually, processes, scenario, within};

#[test]
fn an_idle_healthy_cluster_writes_nothing_to_disk() {
    let span = std::env::var("HA_IDLE_SECONDS").ok().and_then(|text| text.parse().ok());
    let span = Duration::from_secs(span.unwrap_or(60));
    scenario(Plan::within(span.as_secs() + 90).on_disk(), async |c| {
        c.bootstrap().await;
        c.settled(within(20)).await;
        // Until the slots and the last checkpoint are done, there is something to write.
        let watched: Vec<(String, i32)> = c
            .nodes()
            .iter()
            .flat_map(|node| {
                let agent = Some((format!("agent of {}", node.name), node.agent_pid()));
                let guard = node.guard_pid().map(|pid| (format!("guard of {}", node.name), pid));
                [agent, guard].into_iter().flatten()
            })
            .collect();
        assert_eq!(watched.len(), 5, "three agents and two guards");
        let bytes = || -> Vec<u64> {
            watched.iter().map(|(_, pid)| processes::write_bytes(*pid)).collect()
        };
        // Sync by others may charge them late for what they wrote before.
        let mut before = bytes();
        let mut quiet_since = Instant::now();
        eventually("nothing was written for the whole span", span + within(60), async || {
            let now = bytes();
            if now != before && quiet_since.elapsed() < Duration::from_secs(10) {
                (before, quiet_since) = (now, Instant::now());
                return None;
            }
            for (((name, _), old), new) in watched.iter().zip(&before).zip(&now) {
                assert_eq!(old, new, "bytes written by the {name} in an idle cluster");
            }
            (quiet_since.elapsed() >= span).then_some(())
        })
        .await;
        c.healthy(within(5)).await;
        let wal = "select pg_current_wal_lsn()::text";
        let lsn = c.node("n1").sql(wal).await.expect("the primary");
        c.say(&format!("nothing written for {} s, WAL at {lsn}", span.as_secs()));
    });
}
