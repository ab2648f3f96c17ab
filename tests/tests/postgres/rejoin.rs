//! Coming back: with and without divergence, by rewind and by clone.

use std::fs;

use ha_tests::{Cluster, Plan, eventually, logs, programs, scenario, status, within};

use super::FAILOVER;

/// Leaves the primary with rows that nobody else has, and another node primary. Returns both names.
///
/// The standby is down while the rows are written; then the primary's node dies at once, and the
/// standby comes back alone with the witness. It lacks less than may be lost, so it is promoted.
async fn diverge(c: &mut Cluster, rows: u32) -> (String, String) {
    let (old, new) = c.bootstrap().await;
    let shared = "insert into writes select g, 'shared' from generate_series(1, 100) g";
    c.node(&old).sql(shared).await.expect("a primary");
    c.same_rows(within(20)).await;
    c.node_mut(&new).kill_everything();
    let lonely =
        format!("insert into writes select 1000 + g, 'lost' from generate_series(1, {rows}) g");
    c.node(&old).sql(&lonely).await.expect("async: the primary acknowledges alone");
    // The witness must have led before, so that a majority survives the primary's node, and must have heard how
    // far that got: otherwise nobody knows what would be lost, and nobody is elected.
    c.heard_by(&c.witness(), within(20)).await;
    c.node_mut(&old).kill_everything();
    c.node_mut(&new).start();
    c.primary_is(&new, within(40)).await;
    let kept = "insert into writes select 9000 + g, 'kept' from generate_series(1, 50) g";
    c.node(&new).sql(kept).await.expect("the new primary");
    (old, new)
}

async fn assert_converged(c: &mut Cluster, new: &str) {
    let status = c.healthy(within(60)).await;
    assert_eq!(status::holder(&status), new);
    let sum = c.same_rows(within(20)).await;
    assert!(sum.starts_with("150/"), "100 shared and 50 kept rows on both, not {sum}");
    for name in ["n1", "n2"] {
        let lost = c.node(name).sql("select count(*) from writes where node = 'lost'").await;
        assert_eq!(lost.as_deref(), Ok("0"), "what only the old primary had is gone on {name}");
    }
}

#[test]
fn a_diverged_primary_is_rewound_and_what_only_it_had_is_gone() {
    scenario(Plan::within(150).announces(&FAILOVER), async |c| {
        let (old, new) = diverge(c, 500).await;
        c.node_mut(&old).start();
        assert_converged(c, &new).await;
        let log = logs::read(&c.node(&old).log());
        assert!(log.contains("local WAL diverges"), "it is said how much is thrown away");
        assert!(log.contains("step=\"rewind\" took_ms"), "rewound, not cloned");
        assert!(!log.contains("step=\"clone\" took_ms"));
    });
}

#[test]
fn a_primary_that_cannot_be_rewound_is_cloned_and_its_directory_kept_aside() {
    let plan = Plan::within(150).announces(&FAILOVER);
    scenario(
        plan.announces(&[
            "step failed event=\"step_failed\" node=n1 step=\"rewind\"",
            "diverged WAL is incomplete",
        ]),
        async |c| {
            let (old, new) = diverge(c, 500).await;
            // pg_rewind needs the WAL since the last common checkpoint; this throws it away.
            let pgdata = c.node(&old).pgdata();
            fs::remove_file(pgdata.join("postmaster.pid")).expect("it was killed");
            let done = std::process::Command::new("setpriv")
                .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
                .arg(programs::postgres_dir().join("pg_resetwal"))
                .args(["-f", "-D"])
                .arg(&pgdata)
                .current_dir("/")
                .output()
                .expect("pg_resetwal can be run");
            assert!(done.status.success(), "{}", programs::said(&done));
            c.node_mut(&old).start();
            assert_converged(c, &new).await;
            let log = logs::read(&c.node(&old).log());
            assert!(log.contains("step=\"clone\" took_ms"), "cloned");
            let aside: Vec<String> = fs::read_dir(c.node(&old).dir.join("pg"))
                .expect("a readable directory")
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| name.contains("aside"))
                .collect();
            assert_eq!(aside.len(), 1, "the old directory is kept: {aside:?}");
        },
    );
}

#[test]
fn rejoin_manual_leaves_a_diverged_database_to_the_operator() {
    scenario(Plan::within(150).announces(&FAILOVER), async |c| {
        c.set_on_data_nodes("postgres.rejoin", "\"manual\"");
        let (old, new) = diverge(c, 50).await;
        c.node_mut(&old).start();
        let status = c.rule(&old, "diverged_manual", within(30)).await;
        assert_eq!(status::node(&status, &old).state, "diverged");
        assert_eq!(status.state, "degraded");
        let told = programs::said(&c.haclt(&["explain"]));
        assert!(told.contains("manual"), "{told}");
        // The operator changes his mind.
        c.node_mut(&old).kill_agent();
        c.node_mut(&old).config.text("postgres.rejoin", "auto");
        c.node_mut(&old).start();
        assert_converged(c, &new).await;
    });
}

#[test]
fn a_standby_beyond_the_lag_bound_is_not_promoted_and_says_so() {
    scenario(Plan::within(150).announces(&FAILOVER), async |c| {
        for node in c.nodes_mut() {
            node.config.text("durability.lag_bytes_max", "64KiB");
        }
        let (old, new) = c.bootstrap().await;
        c.same_rows(within(20)).await;
        c.node_mut(&new).kill_everything();
        let many = "insert into writes select g, repeat('x', 100) from generate_series(1, 20000) g";
        c.node(&old).sql(many).await.expect("async: the primary acknowledges alone");
        // The witness hears the primary's position with the next renewals.
        let said = eventually("the loss is announced", within(20), async || {
            let explained = status::explain(&c.node("n3").grpc()).await?;
            let if_died = explained.if_primary_died?;
            if_died.successor.is_empty().then_some(if_died.why)
        })
        .await;
        c.say(&said);
        // Not a condition that anybody shows: the next renewals, one each 0.4 s.
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        c.node_mut(&old).kill_everything();
        c.node_mut(&new).start();
        let refused = "bytes of the last known WAL, at most 65536 may be lost";
        eventually("the election is refused by name", within(30), async || {
            (logs::count(&c.node("n3").log(), refused) > 0).then_some(())
        })
        .await;
        let status = c.await_status("still nobody", within(5), |s| s.state == "electing").await;
        assert_eq!(status::holder(&status), "");
        let recovering = c.node(&new).sql("select pg_is_in_recovery()").await;
        assert_eq!(recovering.as_deref(), Ok("t"));
        // The node that has everything comes back, and nothing is lost.
        c.node_mut(&old).start();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), old);
        let sum = c.same_rows(within(20)).await;
        assert!(sum.starts_with("20000/"), "{sum}");
    });
}

#[test]
fn promotions_interrupted_at_any_moment_always_end_with_one_primary() {
    let plan = Plan::within(240).announces(&FAILOVER).may_lose(200);
    scenario(plan.announces(&["could not", "node fenced", "did not answer"]), async |c| {
        c.bootstrap().await;
        let mut epoch = 1;
        // From before the grant to after the promotion, in milliseconds after the old primary's end.
        for delay_ms in [0_u64, 5, 20, 60, 150, 400] {
            c.write().await;
            let status = c.healthy(within(60)).await;
            let old = status::holder(&status).to_owned();
            let new = c.other(&old);
            assert!(status.epoch >= epoch, "epochs only grow");
            epoch = status.epoch;
            c.more_writes(10, within(20)).await;
            let log = c.node(&new).log();
            let grants = logs::count(&log, "rule=\"awaiting_proof\"");
            c.node_mut(&old).kill_everything();
            eventually("the other one is elected", within(20), async || {
                (logs::count(&log, "rule=\"awaiting_proof\"") > grants).then_some(())
            })
            .await;
            tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
            c.node_mut(&new).kill_agent();
            c.node_mut(&old).start();
            c.node_mut(&new).start();
            let status = c.healthy(within(60)).await;
            assert!(status.epoch > epoch, "a new epoch for each primary");
            c.say(&format!("{delay_ms} ms: {} epoch {}", status::holder(&status), status.epoch));
            c.end_writing_and_check(Some(200)).await;
            let history = c.same_rows(within(20)).await;
            assert!(!history.is_empty());
        }
    });
}
