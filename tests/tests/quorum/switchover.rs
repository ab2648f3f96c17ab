//! The primary role handed over because an operator wants it: in order, back to where it was, or, if
//! somebody dies in between, to whoever is elected. Nothing acknowledged is lost in any case.

use std::time::Duration;

use ha_tests::{Cluster, Plan, admin, eventually, logs, processes, scenario, status, within};
use rustix::process::Signal;

use super::FAULTS;

/// What is said of a switchover that did not come about, beside the faults that are made.
const BROKEN: [&str; 3] = ["switchover", "killed", "right of epoch"];

/// Hands the primary role over with `haclt`; returns what it printed to both streams.
fn switch(c: &Cluster, arguments: &[&str]) -> (i32, String) {
    let output = c.haclt(&[&["switchover"], arguments].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("not killed"), String::from_utf8_lossy(&text).into_owned())
}

async fn lease(c: &Cluster) -> (String, u64) {
    let status = c.healthy(within(40)).await;
    (status::holder(&status).to_owned(), status.epoch)
}

#[test]
fn a_switchover_loses_nothing_and_the_old_primary_follows_without_a_rewind() {
    scenario(Plan::within(150).quorum(), async |c| {
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(10)).await;

        let (code, text) = switch(c, &["--dry-run"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.starts_with(&format!("{old} -> {new}, epoch 1\n")), "{text}");
        assert_eq!(lease(c).await, (old.clone(), 1), "a dry run changes nothing");

        for (from, to) in [(&old, &new), (&new, &old)] {
            let (code, text) = switch(c, &["--to", to]);
            assert_eq!(code, 0, "{text}");
            c.writes_on(to, within(5)).await;
            c.healthy(within(20)).await;
            let rewinds = logs::count(&c.node(from).log(), "\"rewind\"");
            assert_eq!(rewinds, 0, "{from} had nothing that {to} lacks");
            c.say(&text.replace('\n', "; "));
        }
        let (code, text) = switch(c, &["--to", &old]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(&format!("node {old} is the primary already")), "{text}");
        let witness = c.witness();
        let (code, text) = switch(c, &["--to", &witness]);
        assert_eq!(code, 2, "{text}");

        let gap = c.writer().so_far().longest_gap();
        c.say(&format!("longest write gap {} ms", gap.as_millis()));
        c.end_writing_and_check(Some(0)).await;
        assert!(gap < Duration::from_secs(3), "quicker than a failover: {gap:?}");
        let diverged = admin::diverged_list(&c.node(&new).grpc()).await.expect("an answer");
        assert!(diverged.entries.is_empty(), "{diverged:?}");
        c.same_rows(within(20)).await;
    });
}

/// A standby whose receiver hangs cannot prove anything; the server does not even stop in order, since it
/// waits for that receiver.
#[test]
fn without_the_proof_the_old_primary_goes_on_under_the_same_grant_rule_33() {
    scenario(Plan::within(120).quorum().announces(&FAULTS).announces(&BROKEN), async |c| {
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(20, within(10)).await;
        let receiver = c.node(&new).database_processes();
        let receiver = receiver.iter().find(|p| p.command.contains("walreceiver"));
        let receiver = receiver.expect("a standby that streams").pid;
        processes::send(receiver, Signal::STOP);

        let asked = c.node(&c.witness()).grpc();
        let shown = tokio::spawn(async move {
            while status::status(&asked).await.is_none_or(|status| status.state != "switching") {
                tokio::task::yield_now().await;
            }
        });
        let (code, text) = switch(c, &["--to", &new]);
        assert_eq!(code, 1, "{text}");
        let shown = tokio::time::timeout(within(10), shown).await;
        shown.expect("the status tells of it").expect("no panic");
        assert!(text.contains(&format!("{old} is still primary")), "{text}");
        processes::send(receiver, Signal::CONT);
        c.say(&text.replace('\n', "; "));
        c.writes_on(&old, within(20)).await;
        assert_eq!(lease(c).await, (old.clone(), 1), "the same grant");
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn either_agent_may_die_at_any_step_of_a_switchover() {
    // Whose agent dies: the old primary's, or that of the node that takes over.
    let places = [
        (true, "switchover: checkpoint"),
        (true, "hand over: stopping"),
        (true, "hand over: stopped"),
        (true, "switchover: proven"),
        (true, "switchover: given up"),
        (true, "switchover: transferred"),
        (false, "promote: noted"),
        (false, "promote: permitted"),
        (false, "promote: promoted"),
    ];
    let plan = Plan::within(300).quorum().announces(&FAULTS).announces(&BROKEN).patience(20);
    scenario(plan, async |c| {
        c.bootstrap().await;
        c.write().await;
        for (old_dies, place) in places {
            c.quorum_in_force(1, within(60)).await;
            c.more_writes(20, within(20)).await;
            let (old, epoch) = lease(c).await;
            let new = c.other(&old);
            let dies = if old_dies { old.clone() } else { new.clone() };
            c.node(&dies).crash_at(place);
            let asked = c.node(&c.witness()).grpc();
            let order = tokio::spawn(async move {
                admin::switchover(&asked, &old, &new, epoch, Duration::from_secs(10)).await
            });
            c.node_mut(&dies).crashed(within(40)).await;
            c.node_mut(&dies).start();
            drop(order.await.expect("no panic"));
            let status = c.healthy(within(60)).await;
            c.more_writes(20, within(20)).await;
            let holder = status::holder(&status).to_owned();
            c.say(&format!(
                "{dies} died at {place:?}, {holder} is primary, epoch {}",
                status.epoch
            ));
        }
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

/// The standby is lost right after the lease was handed to it: the old primary is elected again.
#[test]
fn a_successor_that_is_lost_gives_way_to_the_old_primary() {
    scenario(Plan::within(120).quorum().announces(&FAULTS).announces(&BROKEN), async |c| {
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(20, within(10)).await;
        c.node(&new).crash_at("promote: noted");
        let (code, text) = switch(c, &["--to", &new, "--timeout", "40"]);
        assert!(code == 1 || code == 4, "{code}: {text}");
        c.node_mut(&new).kill_everything();
        c.writes_on(&old, within(30)).await;
        c.node_mut(&new).start();
        c.healthy(within(60)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
        eventually("the status tells of no switchover", within(10), async || {
            let status = c.node(&old).status().await?;
            (status.state == "healthy").then_some(())
        })
        .await;
    });
}

/// Stopped by one and started by the other, a server could write what the new primary lacks.
#[test]
fn of_two_orders_at_once_one_is_carried_out_at_a_time() {
    scenario(Plan::within(150).quorum().announces(&FAULTS).announces(&BROKEN), async |c| {
        c.bootstrap().await;
        c.write().await;
        for _ in 0..4 {
            c.quorum_in_force(1, within(60)).await;
            c.more_writes(20, within(20)).await;
            let (old, epoch) = lease(c).await;
            let new = c.other(&old);
            let run = c.node(&old).guard_status().expect("a guard").run;
            let asked = c.node(&c.witness()).grpc();
            let wait = Duration::from_secs(20);
            let (restarted, again, switched) = tokio::join!(
                admin::restart(&asked, &old, run, wait),
                admin::restart(&asked, &old, run, wait),
                admin::switchover(&asked, &old, &new, epoch, wait),
            );
            c.say(&format!("{restarted:?}; {again:?}; {:?}", switched.map(|s| s.outcome)));
            let runs = c.node(&old).guard_status().expect("a guard").run - run;
            assert!(runs <= 2, "restarted once, and once more as a standby: {runs}");
        }
        c.healthy(within(60)).await;
        c.more_writes(20, within(20)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

fn restart(c: &Cluster, arguments: &[&str]) -> String {
    let output = c.haclt(&[&["restart"], arguments].concat());
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    text
}

#[test]
fn a_database_is_restarted_in_the_role_that_it_has_and_all_in_turn() {
    scenario(Plan::within(180).quorum().announces(&["receiver ended"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(20, within(10)).await;
        for node in [&standby, &primary] {
            let before = c.node(node).postmaster();
            let text = restart(c, &[node]);
            c.say(&text.replace('\n', "; "));
            assert_ne!(c.node(node).postmaster(), before, "it is another server");
            assert_eq!(lease(c).await, (primary.clone(), 1), "the same grant");
            c.more_writes(20, within(20)).await;
        }
        let gap = c.writer().so_far().longest_gap();
        c.say(&format!("longest write gap {} ms", gap.as_millis()));
        assert!(gap < Duration::from_secs(5), "{gap:?}");
        let text = restart(c, &["--all"]);
        c.say(&text.replace('\n', "; "));
        assert_eq!(lease(c).await, (standby.clone(), 2), "one switchover");
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}
