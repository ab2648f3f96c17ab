//! Something stands still, and then perhaps goes on.

use std::time::Duration;

use ha_core::permit::RunState;
use ha_tests::{Plan, eventually, processes, scenario, status, wait, within};
use rustix::process::Signal;

use super::FAILOVER;

#[test]
fn a_session_from_before_an_agents_freeze_cannot_commit_after_it() {
    scenario(Plan::within(120).announces(&FAILOVER).announces(&["could not"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let session = c.node(&primary).session().await.expect("a session from before");
        session.simple_query("begin; insert into writes values (-7, 'x')").await.expect("open");
        let idle = c.node(&primary).session().await.expect("another one");
        c.node(&primary).signal_agent(Signal::STOP);
        eventually("the guard kills at the deadline", within(10), async || {
            let status = c.node(&primary).guard_status()?;
            (status.state == RunState::KilledAtDeadline).then_some(())
        })
        .await;
        c.writes_on(&standby, within(15)).await;
        c.node(&primary).signal_agent(Signal::CONT);
        assert!(session.simple_query("commit").await.is_err(), "an open transaction");
        let insert = idle.simple_query("insert into writes values (-8, 'x')").await;
        assert!(insert.is_err(), "an idle session");
        let after = c.healthy(within(40)).await;
        assert_eq!(status::holder(&after), standby);
        let ghosts = c.node(&standby).sql("select count(*) from writes where value < 0").await;
        assert_eq!(ghosts.as_deref(), Ok("0"));
    });
}

#[test]
fn a_short_freeze_of_the_agent_changes_nothing() {
    scenario(Plan::within(90).announces(&["could not renew lease"]), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        c.node(&primary).signal_agent(Signal::STOP);
        let from = std::time::Instant::now();
        eventually("a second has passed", within(5), async || {
            (from.elapsed() > Duration::from_millis(1000)).then_some(())
        })
        .await;
        c.node(&primary).signal_agent(Signal::CONT);
        c.more_writes(200, within(20)).await;
        let after = c.healthy(within(10)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        let gap = c.writer().so_far().longest_gap();
        assert!(gap < Duration::from_millis(1000), "a gap of {gap:?}");
    });
}

#[test]
fn a_frozen_postmaster_is_given_up_after_the_configured_misses_and_not_after_one() {
    let plan = Plan::within(120).announces(&FAILOVER);
    let plan = plan.announces(&["database did not answer", "node fenced"]).may_lose(100);
    scenario(plan, async |c| {
        c.set_on_data_nodes("health.interval", "\"500ms\"");
        c.set_on_data_nodes("health.limit", "\"700ms\"");
        c.set_on_data_nodes("health.failures", "4");
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        let log = c.node(&primary).log();
        let misses = || ha_tests::logs::count(&log, "database did not answer");
        // One miss: the postmaster answers again before the second.
        let postmaster = c.node(&primary).postmaster().expect("it runs");
        processes::send(postmaster, Signal::STOP);
        eventually("one miss", within(10), async || (misses() >= 1).then_some(())).await;
        processes::send(postmaster, Signal::CONT);
        c.healthy(within(10)).await;
        wait::always("one miss does not demote", within(3), async || {
            c.node(&primary).postmaster() == Some(postmaster)
        })
        .await;
        let still = c.healthy(within(10)).await;
        assert_eq!(still.epoch, before.epoch);
        // As many as configured.
        processes::send(postmaster, Signal::STOP);
        c.writes_on(&standby, within(30)).await;
        assert!(ha_tests::logs::count(&log, "misses=4") >= 1, "not before the fourth miss");
        let after = c.healthy(within(40)).await;
        assert_eq!(status::holder(&after), standby);
    });
}

#[test]
fn a_killed_guard_is_replaced_and_two_postgres_never_run_on_one_directory() {
    let plan = Plan::within(120).announces(&FAILOVER).may_lose(100);
    let plan = plan.announces(&["killing an orphaned server", "database did not answer"]);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let old = c.node(&primary).postmaster().expect("it runs");
        let guard = c.node(&primary).guard_pid().expect("it runs");
        let session = c.node(&primary).session().await.expect("a session from before");
        let row = session.query_one("select pg_backend_pid()", &[]).await.expect("an answer");
        let backend: i32 = row.get(0);
        processes::send(guard, Signal::KILL);
        eventually(
            "a server without a guard is killed, its sessions too",
            within(10),
            async || (!processes::is_alive(old) && !processes::is_alive(backend)).then_some(()),
        )
        .await;
        assert!(session.simple_query("insert into writes values (-9, 'x')").await.is_err());
        c.more_writes(50, within(20)).await;
        let after = c.healthy(within(40)).await;
        assert!(status::node(&after, &primary).troubles.is_empty());
        let new = c.node(&primary).guard_pid().expect("a new guard");
        assert_ne!(new, guard);
        for name in ["n1", "n2"] {
            let node = c.node(name);
            let masters = node.database_processes();
            let masters =
                masters.iter().filter(|p| p.command.contains(" -D ") && p.program == "postgres");
            assert_eq!(masters.count(), 1, "one server on {name}");
        }
    });
}

#[test]
fn a_frozen_guard_is_noticed_and_does_not_stop_renewals_of_a_healthy_server() {
    let plan = Plan::within(120).announces(&FAILOVER).may_lose(100);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let guard = c.node(&primary).guard_pid().expect("it runs");
        processes::send(guard, Signal::STOP);
        // Nobody would kill its Postgres at the deadline any more: at least it must be named.
        let seen = c.trouble(&primary, "its guard has been silent", within(15)).await;
        c.say(&format!("state {} with a frozen guard", seen.state));
        let acks = c.writer().so_far();
        acks.assert_no_overlap();
        processes::send(guard, Signal::CONT);
        let after = c.healthy(within(40)).await;
        assert!(status::node(&after, &primary).troubles.is_empty());
        c.more_writes(30, within(20)).await;
    });
}
