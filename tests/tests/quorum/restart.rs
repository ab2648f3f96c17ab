//! A crash restart in place while nobody could take over.

use std::time::{Duration, Instant};

use ha_tests::{Plan, eventually, node, processes, scenario, within};
use rustix::process::Signal;

use super::FAULTS;

const APP: &str = "app-Secret-of-tests";

/// Rule 99: after a primary restarts, ordinary clients stay out until the quorum has caught up:
/// commits that waited when it died are visible again although nobody acknowledged them.
#[test]
fn after_a_crash_restart_ordinary_clients_wait_until_the_quorum_has_caught_up_rule_99() {
    scenario(Plan::within(150).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_in_force(1, within(20)).await;
        let role = format!("create role app login password '{APP}'; grant select on writes to app");
        c.node(&primary).sql(&role).await.expect("a primary");
        let app = c.node(&primary).session_as("app", APP).await;
        drop(app.expect("an ordinary client is let in"));
        // Nobody acknowledges; the standby's agent lives, so there is a majority.
        c.node_mut(&witness).kill_everything();
        let receiver = c.node(&standby).await_receiver(within(10)).await;
        processes::send(receiver, Signal::STOP);
        let session = c.node(&primary).session().await.expect("a session");
        let waiting = tokio::spawn(async move {
            session.simple_query("insert into writes values (77, 'waits')").await.is_ok()
        });
        eventually("the commit waits", within(10), async || {
            let sql = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
            let waits = c.node(&primary).sql(sql).await.ok()?;
            (waits != "0").then_some(())
        })
        .await;
        let old = c.node(&primary).postmaster().expect("it runs");
        processes::send(old, Signal::KILL);
        assert!(!waiting.await.expect("no panic"), "never acknowledged");
        eventually("it is up again", within(30), async || {
            let up = c.node(&primary).sql("select pg_is_in_recovery()").await;
            (up.as_deref() == Ok("f")).then_some(())
        })
        .await;
        let up = Instant::now();
        let mut refused = 0;
        while up.elapsed() < Duration::from_secs(4) {
            let tried = c.node(&primary).session_as("app", APP).await;
            let error = tried.expect_err("an ordinary client sees what nobody acknowledged");
            refused += usize::from(node::said(&error).contains("pg_hba.conf"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(refused > 5, "refused by the server, {refused} times");
        assert!(c.node(&primary).postmaster().is_some_and(|new| new != old));
        processes::send(receiver, Signal::CONT);
        let caught_up = Instant::now();
        let seen = eventually("ordinary clients are let in", within(30), async || {
            let session = c.node(&primary).session_as("app", APP).await.ok()?;
            node::first_value(&session, "select count(*) from writes where value = 77").await.ok()
        })
        .await;
        c.say(&format!("let in {} ms after the standby went on", caught_up.elapsed().as_millis()));
        assert_eq!(seen, "1", "on the quorum now, so it may be seen");
        let there = c.node(&standby).sql("select count(*) from writes where value = 77").await;
        assert_eq!(there.as_deref(), Ok("1"), "seen by a client means kept by the quorum");
        c.node_mut(&witness).start();
        c.healthy(within(60)).await;
    });
}
