//! Durability modes: what each promises, and changing from any to any under load.

use std::time::{Duration, Instant};

use ha_tests::{
    Cluster, Mode, Plan, eventually, processes, programs, scenario, status, wait, within,
};
use rustix::process::Signal;

use super::FAULTS;

/// From any mode to any other one, once each.
const ALL_CHANGES: [Mode; 6] = [
    Mode::Async,
    Mode::StrictStandby,
    Mode::Quorum,
    Mode::StrictStandby,
    Mode::Async,
    Mode::Quorum,
];

/// Rule 75: strict means that the setting is never empty while writes are allowed.
#[test]
fn strict_standby_blocks_without_a_standby_and_goes_on_with_one_rule_75() {
    scenario(Plan::within(120).strict().announces(&FAULTS).patience(60), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_requires(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(10)).await;
        c.node_mut(&standby).kill_everything();
        let down = Instant::now();
        let last = eventually("writes stop", within(10), async || {
            let last = c.writer().so_far().0.last()?.acked;
            (last.elapsed() > Duration::from_secs(1)).then_some(last)
        })
        .await;
        assert!(last.saturating_duration_since(down) < Duration::from_secs(1), "at once");
        let before = c.writer().count();
        wait::always("nothing is acknowledged", within(5), async || c.writer().count() == before)
            .await;
        let setting = c.node(&primary).sql("show synchronous_standby_names").await;
        assert!(setting.is_ok_and(|setting| !setting.is_empty()), "never empty");
        c.node_mut(&standby).start();
        c.more_writes(100, within(30)).await;
        c.healthy(within(40)).await;
        c.node_mut(&primary).kill_everything();
        // The standby has all of it, and nobody acknowledges its own writes until there is another.
        c.node_mut(&primary).start();
        c.writes_on(&standby, within(40)).await;
        c.end_writing_and_check(None).await;
    });
}

/// Rule 74: grow before shrink, record before set, so that no window is left between two modes.
#[test]
fn modes_change_from_any_to_any_under_load_without_a_loss_rule_74() {
    scenario(Plan::within(180).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        for mode in ALL_CHANGES {
            c.more_writes(20, within(10)).await;
            let set = ["config", "set", "durability.mode", mode.name(), "--yes"];
            let said = c.haclt(&set);
            assert_eq!(said.status.code(), Some(0), "{}", programs::said(&said));
            c.mode_in_force(mode, within(20)).await;
            let setting = c.node(&primary).sql("show synchronous_standby_names").await;
            let setting = setting.expect("a primary");
            match mode {
                Mode::Async => assert_eq!(setting, ""),
                Mode::Quorum => assert_eq!(setting, "ANY 1 (\"n2\", \"n3\")"),
                Mode::StrictStandby => assert_eq!(setting, "ANY 1 (\"n2\")"),
            }
            c.say(mode.name());
        }
        let slowest = c.writer().so_far().longest_gap();
        c.say(&format!("longest gap {} ms", slowest.as_millis()));
        c.quorum_in_force(1, within(20)).await;
        c.more_writes(50, within(10)).await;
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(20)).await;
        let acks = c.end_writing().await;
        // Also what was acknowledged in `async`: the standby had it long before.
        c.assert_nothing_lost_on(&standby, &acks).await;
    });
}

/// Rule 72: a standby counts only once it has passed what was flushed when the setting changed.
#[test]
fn a_stronger_mode_is_in_force_once_the_standby_has_passed_the_change_rule_72() {
    scenario(Plan::within(120).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.set_mode(Mode::Async, within(20)).await;
        c.write().await;
        // Connected, and it gets nowhere.
        let receiver = c.node(&standby).await_receiver(within(20)).await;
        processes::send(receiver, Signal::STOP);
        c.more_writes(30, within(10)).await;
        c.ask_for_mode(Mode::StrictStandby, within(0)).await.expect("an agent accepts it");
        let recorded = async || c.node(&primary).status().await.and_then(|s| s.wal_quorum);
        wait::always("elections go by the primary alone", within(3), async || {
            recorded().await.is_none_or(|quorum| quorum.required == 0)
        })
        .await;
        processes::send(receiver, Signal::CONT);
        c.mode_in_force(Mode::StrictStandby, within(20)).await;
        c.more_writes(30, within(10)).await;
        c.node_mut(&primary).kill_everything();
        // Also what was acknowledged while the primary was alone.
        c.primary_is(&standby, within(30)).await;
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(&standby, &acks).await;
    });
}

/// Rule 76: the setting never names the primary itself, and a former primary keeps nothing of its own.
#[test]
fn nobody_is_a_member_of_its_own_quorum_nor_of_one_that_it_lost_rule_76() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let show = "show synchronous_standby_names";
        c.quorum_in_force(1, within(20)).await;
        let others = |not: &str| {
            let names = c.nodes().iter().map(|node| node.name.clone());
            let quoted: Vec<String> =
                names.filter(|name| name != not).map(|name| format!("\"{name}\"")).collect();
            format!("ANY 1 ({})", quoted.join(", "))
        };
        let (of_first, of_second) = (others(&primary), others(&standby));
        let closed = Ok("FIRST 1 (haclt_nobody)");
        assert_eq!(c.node(&primary).sql(show).await, Ok(of_first));
        assert_eq!(c.node(&standby).sql(show).await.as_deref(), closed);
        c.node_mut(&primary).kill_everything();
        c.primary_is(&standby, within(30)).await;
        c.node_mut(&primary).start();
        c.quorum_in_force(1, within(60)).await;
        assert_eq!(c.node(&standby).sql(show).await, Ok(of_second));
        assert_eq!(c.node(&primary).sql(show).await.as_deref(), closed);
    });
}

async fn agent_is_killed_at(c: &mut Cluster, primary: &str, mode: Mode, delay: Duration) {
    let grpc = c.node(primary).grpc();
    let asking = tokio::spawn(async move {
        ha_tests::admin::config_set(&grpc, "durability.mode", mode.name(), Duration::ZERO).await
    });
    tokio::time::sleep(delay).await;
    c.node_mut(primary).kill_agent();
    let outcome = asking.await.expect("no panic");
    c.node_mut(primary).start();
    if outcome.is_err() {
        // Nobody knows whether it was accepted: ask again, of anybody.
        c.set_mode(mode, within(40)).await;
    }
    c.mode_in_force(mode, within(40)).await;
    c.say(&format!("{} killed after {} ms", mode.name(), delay.as_millis()));
}

#[test]
fn an_agent_killed_at_any_moment_of_a_change_carries_it_out_later() {
    scenario(Plan::within(240).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let delays = [0_u64, 3, 10, 30, 80, 200, 500, 40];
        for (delay, mode) in delays.into_iter().zip(ALL_CHANGES.into_iter().cycle()) {
            c.more_writes(10, within(20)).await;
            agent_is_killed_at(c, &primary, mode, Duration::from_millis(delay)).await;
            c.more_writes(10, within(20)).await;
        }
        c.set_mode(Mode::Quorum, within(40)).await;
        let status = c.quorum_in_force(1, within(40)).await;
        assert_eq!(status::holder(&status), primary, "an agent that comes back keeps the lease");
        c.more_writes(50, within(10)).await;
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(20)).await;
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(&standby, &acks).await;
    });
}
