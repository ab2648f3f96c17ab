//! Postgres dies again and again.

use ha_tests::{Plan, eventually, logs, processes, scenario, status, within};
use rustix::process::Signal;

use super::FAILOVER;

/// With no standby to go to, a crash is recovered in place; with one that lacks WAL, too, until it has
/// happened too often.
#[test]
fn a_crash_loop_fails_over_after_the_configured_number() {
    let plan = Plan::within(150).announces(&FAILOVER).may_lose(500);
    scenario(plan.announces(&["database did not answer", "node fenced"]), async |c| {
        c.set_on_data_nodes("crash.restarts_max", "2");
        let (primary, standby) = c.bootstrap().await;
        // A standby that never has every byte: its WAL receiver is cut off again and again.
        c.write().await;
        c.more_writes(20, within(10)).await;
        let mut crashes = 0;
        let moved = loop {
            let Some(postmaster) = c.node(&primary).postmaster() else {
                if c.node(&standby).sql("select pg_is_in_recovery()").await.as_deref() == Ok("f") {
                    break true;
                }
                continue;
            };
            for process in c.node(&standby).database_processes() {
                if process.command.contains("walreceiver") {
                    processes::send(process.pid, Signal::STOP);
                }
            }
            c.more_writes(5, within(20)).await;
            crashes += 1;
            processes::send(postmaster, Signal::KILL);
            eventually("the crash is noticed", within(20), async || {
                (logs::count(&c.node(&primary).log(), "database crashed") >= crashes).then_some(())
            })
            .await;
            let last = logs::read(&c.node(&primary).log());
            let last = last.lines().rfind(|line| line.contains("database crashed")).unwrap_or("");
            c.say(if last.contains("RestartInPlace") { "restart" } else { "fail over" });
            if last.contains("FailOver") {
                break true;
            }
            assert!(crashes < 6, "it never fails over");
            eventually("it runs again", within(20), async || {
                let new = c.node(&primary).postmaster()?;
                (new != postmaster).then_some(())
            })
            .await;
        };
        assert!(moved && crashes <= 3, "two restarts in place, then the standby: {crashes}");
        for process in c.node(&standby).database_processes() {
            processes::send(process.pid, Signal::CONT);
        }
        let after = c.healthy(within(60)).await;
        c.say(&format!("{} crashes, then {}", crashes, status::holder(&after)));
    });
}

#[test]
fn a_crash_of_a_primary_without_a_standby_is_recovered_in_place() {
    let plan = Plan::within(120).announces(&FAILOVER).announces(&["database did not answer"]);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.node_mut(&standby).kill_everything();
        c.write().await;
        c.more_writes(20, within(10)).await;
        let before = c.primary_is(&primary, within(10)).await;
        let postmaster = c.node(&primary).postmaster().expect("it runs");
        processes::send(postmaster, Signal::KILL);
        c.more_writes(20, within(20)).await;
        let gap = c.writer().so_far().longest_gap();
        c.say(&format!("gap {} ms", gap.as_millis()));
        let after = c.primary_is(&primary, within(10)).await;
        assert_eq!((after.epoch, after.timeline), (before.epoch, before.timeline), "in place");
        c.node_mut(&standby).start();
        c.healthy(within(40)).await;
    });
}

#[test]
fn a_crashed_backend_is_no_failover() {
    let plan =
        Plan::within(90).announces(&["database did not answer", "could not read the history"]);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.write().await;
        let before = c.healthy(within(10)).await;
        let postmaster = c.node(&primary).postmaster();
        let session = c.node(&primary).session().await.expect("a session");
        let row = session.query_one("select pg_backend_pid()", &[]).await.expect("an answer");
        processes::send(row.get(0), Signal::KILL);
        c.more_writes(20, within(20)).await;
        let after = c.healthy(within(20)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        assert_eq!(c.node(&primary).postmaster(), postmaster, "the postmaster restarts by itself");
    });
}
