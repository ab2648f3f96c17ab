//! Something dies at once.

use std::time::{Duration, Instant};

use super::FAILOVER;
use ha_core::permit::RunState;
use ha_tests::{Plan, eventually, processes, scenario, status, within};
use rustix::process::Signal;

#[test]
fn a_killed_postmaster_costs_no_acknowledged_write() {
    let plan = Plan::within(90).announces(&FAILOVER).announces(&["database did not answer"]);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let before = c.healthy(within(10)).await;
        let postmaster = c.node(&primary).postmaster().expect("it runs");
        processes::send(postmaster, Signal::KILL);
        c.more_writes(50, within(20)).await;
        let after = c.healthy(within(40)).await;
        let moved = status::holder(&after) != primary;
        // By rule: the standby had every byte and took over, or it recovered in place.
        assert_eq!(moved, after.epoch > before.epoch);
        let gap = c.writer().so_far().longest_gap();
        c.say(if moved { "moved to the standby" } else { "recovered in place" });
        assert!(gap < Duration::from_secs(3), "a gap of {gap:?}");
    });
}

#[test]
fn a_killed_node_is_replaced_and_comes_back_as_a_standby() {
    let plan = Plan::within(120).announces(&FAILOVER).may_lose(100);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let before = c.healthy(within(10)).await;
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(15)).await;
        let gap = c.writer().so_far().longest_gap();
        assert!(gap < Duration::from_secs(6), "ttl is 3 s, the gap was {gap:?}");
        c.say(&format!("gap {} ms", gap.as_millis()));
        let back = Instant::now();
        c.node_mut(&primary).start();
        let after = c.healthy(within(40)).await;
        c.say(&format!("streams again after {:.1} s", back.elapsed().as_secs_f64()));
        assert_eq!(status::holder(&after), standby);
        assert!(after.epoch > before.epoch && after.timeline > before.timeline);
        assert!(status::streams(&after, &primary));
        c.end_writing_and_check(Some(100)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn an_agent_that_comes_back_within_the_ttl_interrupts_nobody() {
    scenario(Plan::within(90), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let before = c.healthy(within(10)).await;
        let postmaster = c.node(&primary).postmaster();
        let guard = c.node(&primary).guard_pid();
        let session = c.node(&primary).session().await.expect("a session from before");
        session.simple_query("begin; create temp table t (x int)").await.expect("a transaction");
        c.node_mut(&primary).kill_agent();
        c.node_mut(&primary).start();
        c.more_writes(100, within(10)).await;
        let after = c.healthy(within(20)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        assert_eq!(c.node(&primary).postmaster(), postmaster, "the same server");
        assert_eq!(c.node(&primary).guard_pid(), guard, "the same guard");
        // Past the deadline that the agent found, under renewals of its own.
        let until = Instant::now() + Duration::from_secs(4);
        eventually("the ttl has passed", within(6), async || {
            (Instant::now() > until).then_some(())
        })
        .await;
        session
            .simple_query("insert into t values (1); commit")
            .await
            .expect("still the same session");
        let gap = c.writer().so_far().longest_gap();
        assert!(gap < Duration::from_millis(1000), "no gap at all, but {gap:?}");
    });
}

#[test]
fn an_agent_that_stays_dead_loses_its_postgres_before_the_next_primary_writes() {
    scenario(Plan::within(120).announces(&FAILOVER), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        c.more_writes(30, within(10)).await;
        let session = c.node(&primary).session().await.expect("a session from before");
        session.simple_query("begin; insert into writes values (-1, 'x')").await.expect("open");
        c.node_mut(&primary).kill_agent();
        eventually("the guard kills at the deadline", within(10), async || {
            let status = c.node(&primary).guard_status()?;
            (status.state == RunState::KilledAtDeadline).then_some(())
        })
        .await;
        assert!(session.simple_query("commit").await.is_err(), "a session from before the fault");
        c.writes_on(&standby, within(15)).await;
        let postgres: Vec<_> = c.node(&primary).database_processes();
        assert!(postgres.iter().all(|p| p.program != "postgres"), "{postgres:?}");
        c.node_mut(&primary).start();
        c.healthy(within(40)).await;
        assert_eq!(
            c.node(&standby).sql("select count(*) from writes where value = -1").await.as_deref(),
            Ok("0")
        );
    });
}
