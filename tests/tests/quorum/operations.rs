//! What operators order beside switchovers: pauses, fences, clones, failovers, schedules; and the record of it.

use std::fs;
use std::time::Duration;

use ha_core::BootNanos;
use ha_core::permit::Order;
use ha_tests::{Cluster, Plan, eventually, scenario, status, within};
use rustix::process::Signal;
use tokio::time::sleep;

use super::FAULTS;

/// Longer than any lease.
const PAST_THE_TTL: Duration = Duration::from_secs(5);

/// Runs `haclt`; returns its exit code and what it printed to both streams.
fn haclt(c: &Cluster, arguments: &[&str]) -> (i32, String) {
    let output = c.haclt(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("not killed"), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn done(c: &Cluster, arguments: &[&str]) -> String {
    let (code, text) = haclt(c, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

fn deadline(c: &Cluster, node: &str) -> Option<BootNanos> {
    match c.node(node).permit()?.order {
        Order::Primary { deadline, .. } => Some(deadline),
        Order::Down { .. } | Order::Standby => None,
    }
}

const UNBOUND: BootNanos = BootNanos(u64::MAX);

#[test]
fn in_a_pause_the_databases_go_on_without_any_agent_rule_85() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let text = done(c, &["pause", "--reason", "new switches"]);
        assert!(text.starts_with("paused: nothing is promoted"), "{text}");
        assert_eq!(deadline(c, &primary), Some(UNBOUND));
        let shown = c.node(&standby).status().await.expect("an answer");
        assert_eq!((shown.state.as_str(), shown.paused), ("paused", true), "{}", shown.reason);
        assert!(shown.reason.contains("new switches"), "{}", shown.reason);
        for order in [&["switchover"][..], &["restart", &primary], &["reclone", &standby]] {
            let (code, text) = haclt(c, order);
            assert_eq!(code, 3, "{order:?}: {text}");
            assert!(text.contains("the cluster is paused"), "{text}");
        }
        for node in c.nodes_mut() {
            node.kill_agent();
        }
        c.more_writes(20, within(10)).await;
        sleep(PAST_THE_TTL).await;
        c.more_writes(20, within(10)).await;
        c.start_agents();
        c.more_writes(20, within(10)).await;
        let text = done(c, &["resume"]);
        assert!(text.starts_with("resumed"), "{text}");
        let status = c.healthy(within(40)).await;
        assert_eq!((status::holder(&status), status.epoch), (primary.as_str(), 1));
        assert!(deadline(c, &primary).is_some_and(|deadline| deadline != UNBOUND));
        let (code, text) = haclt(c, &["resume"]);
        assert_eq!((code, text.contains("(as before)")), (0, true), "{text}");
        // From here on a lost primary is replaced again.
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(40)).await;
        c.node_mut(&primary).start();
        c.healthy(within(60)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn a_primary_that_fails_in_a_pause_stays_down_and_nobody_takes_over() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(10, within(10)).await;
        done(c, &["pause"]);
        ha_tests::processes::send(c.node(&primary).postmaster().expect("it runs"), Signal::KILL);
        sleep(PAST_THE_TTL).await;
        let shown = c.node(&standby).status().await.expect("an answer");
        assert_eq!((shown.state.as_str(), shown.epoch), ("paused", 1), "{}", shown.reason);
        assert!(c.node(&primary).postmaster().is_none(), "nothing is started");
        // A standby that fails is not started either.
        ha_tests::processes::send(c.node(&standby).postmaster().expect("it runs"), Signal::KILL);
        sleep(Duration::from_secs(2)).await;
        assert!(c.node(&standby).postmaster().is_none(), "nothing is started");
        done(c, &["resume"]);
        c.healthy(within(60)).await;
        c.more_writes(10, within(10)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

/// Whoever says so must know: the machine of the holder is off. Here its guard and its database were killed.
#[test]
fn a_pause_ends_without_the_holder_only_by_an_operators_word() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(10, within(10)).await;
        done(c, &["pause"]);
        c.node_mut(&primary).kill_everything();
        let (code, text) = haclt(c, &["resume", "--timeout", "3"]);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains(&format!("haclt resume --without {primary}")), "{text}");
        sleep(PAST_THE_TTL).await;
        let shown = c.node(&standby).status().await.expect("an answer");
        assert_eq!((shown.state.as_str(), shown.epoch), ("paused", 1), "{}", shown.reason);
        let (code, text) = haclt(c, &["resume", "--without", &standby, "--yes"]);
        assert_eq!(code, 2, "{text}");
        done(c, &["resume", "--without", &primary, "--yes"]);
        c.writes_on(&standby, within(40)).await;
        // Its permit of this boot has no deadline, and nothing comes of that.
        assert_eq!(deadline(c, &primary), Some(UNBOUND));
        c.node_mut(&primary).start();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), standby);
        assert_eq!(deadline(c, &primary), None);
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

/// A frozen guard may not have read that there is a deadline again: it is not believed, and replaced.
#[test]
fn a_pause_does_not_end_before_the_guard_is_known_to_have_a_deadline() {
    let orphans = ["killing an orphaned server"];
    scenario(Plan::within(150).quorum().announces(&FAULTS).announces(&orphans), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        done(c, &["pause"]);
        let guard = c.node(&primary).guard_pid().expect("a guard");
        ha_tests::processes::send(guard, Signal::STOP);
        sleep(PAST_THE_TTL).await;
        assert!(ha_tests::processes::is_alive(guard), "in a pause nothing is killed");
        let text = done(c, &["resume"]);
        assert!(!ha_tests::processes::is_alive(guard), "{text}");
        c.healthy(within(60)).await;
        c.more_writes(10, within(20)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn a_fenced_standby_is_down_and_is_not_promoted_until_it_is_unfenced() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let (code, text) = haclt(c, &["fence", &primary]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("switch over first"), "{text}");
        let (code, text) = haclt(c, &["fence", &c.witness()]);
        assert_eq!(code, 2, "{text}");
        done(c, &["fence", &standby, "--reason", "its disk"]);
        assert!(c.node(&standby).postmaster().is_none());
        c.more_writes(20, within(10)).await;
        let (code, text) = haclt(c, &["switchover", "--to", &standby]);
        assert_eq!(code, 3, "{text}");
        // The agent starts anew and keeps to it.
        c.node_mut(&standby).kill_agent();
        c.node_mut(&standby).start();
        c.node_mut(&primary).kill_everything();
        sleep(PAST_THE_TTL).await;
        assert!(c.node(&standby).postmaster().is_none());
        let explained = done(c, &["explain"]);
        assert!(explained.contains("fenced_by_order"), "{explained}");
        done(c, &["unfence", &standby, "--timeout", "30"]);
        c.writes_on(&standby, within(40)).await;
        c.node_mut(&primary).start();
        c.healthy(within(60)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn a_standby_is_cloned_by_order_with_progress_and_the_order_can_be_taken_back() {
    scenario(Plan::within(200).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let (code, text) = haclt(c, &["reclone", &primary]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("switch over first"), "{text}");
        let marker = c.node(&standby).pgdata().join("of_the_old_copy");
        fs::write(&marker, "").expect("a directory of root's");
        // At the lowest rate it takes for ever.
        let (code, text) = haclt(c, &["reclone", &standby, "--max-rate", "1", "--timeout", "5"]);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains(" of ") && text.contains(" bytes"), "progress is shown: {text}");
        done(c, &["reclone", &standby, "--cancel"]);
        c.healthy(within(60)).await;
        assert!(marker.exists(), "what was there is in place still");
        let text = done(c, &["reclone", &standby]);
        assert!(text.contains(&format!("node {standby} follows the primary")), "{text}");
        assert!(!marker.exists(), "it is a new copy");
        c.healthy(within(60)).await;
        // Nobody serves: what the standby has may be the last good copy.
        c.node_mut(&primary).kill_everything();
        let (code, text) = haclt(c, &["reclone", &standby]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("last good copy"), "{text}");
        c.writes_on(&standby, within(40)).await;
        c.node_mut(&primary).start();
        c.healthy(within(60)).await;
        let events = done(c, &["events"]);
        assert!(
            events.contains("cloned") && events.contains(&format!("from {primary}")),
            "{events}"
        );
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn a_failover_by_order_gives_up_what_an_election_would_wait_for_rule_97() {
    scenario(Plan::within(200).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let (code, text) = haclt(c, &["failover"]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("use haclt switchover"), "{text}");
        let witness = c.witness();
        c.node_mut(&standby).kill_everything();
        let insert = "insert into writes select g, 'lost' from generate_series(1, 50) g";
        c.node(&primary).sql(insert).await.expect("acknowledged by the witness");
        // The primary is gone for good, and so is what the witness kept.
        c.node_mut(&witness).kill_agent();
        c.node_mut(&primary).kill_everything();
        fs::remove_dir_all(c.node(&witness).wal_dir()).expect("kept WAL");
        c.node_mut(&witness).start();
        c.node_mut(&standby).start();
        let refused = async || {
            let (code, text) = haclt(c, &["failover", "--dry-run"]);
            (code == 3 && text.contains("commits that were acknowledged")).then_some(text)
        };
        let text = eventually("the loss is refused", within(40), refused).await;
        c.say(&text.replace('\n', "; "));
        let (code, text) = haclt(c, &["failover", "--timeout", "30"]);
        assert_eq!(code, 3, "{text}");
        let text = done(c, &["failover", "--dry-run", "--accept-data-loss"]);
        assert!(text.contains(&format!("winner    {standby}")), "{text}");
        let shown = c.node(&standby).status().await.expect("an answer");
        assert_eq!(shown.epoch, 1, "a dry run changes nothing");
        let ordered = ["failover", "--accept-data-loss", "--yes", "--timeout", "60"];
        let text = done(c, &ordered);
        assert!(text.contains(&format!("node {standby} is primary under epoch 2")), "{text}");
        let insert = "insert into writes select 100 + g, 'kept' from generate_series(1, 50) g";
        c.node(&standby).sql(insert).await.expect("the new primary accepts writes");
        c.node_mut(&primary).start();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), standby);
        let history = done(c, &["history"]);
        assert!(
            history.contains("ordered by") && history.contains("a loss was accepted"),
            "{history}"
        );
        let list = done(c, &["diverged", "list"]);
        assert!(list.contains(&primary), "what was given up is kept aside: {list}");
        c.same_rows(within(20)).await;
    });
}

#[test]
fn a_switchover_can_be_scheduled_and_cancelled_and_everything_is_on_record() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        let (old, new) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        done(c, &["switchover", "--at", "1h", "--to", &new]);
        let listed = done(c, &["switchover", "--scheduled"]);
        assert!(listed.contains(&new) && listed.contains('@'), "{listed}");
        done(c, &["switchover", "--cancel", "1"]);
        let (code, text) = haclt(c, &["switchover", "--cancel", "1"]);
        assert_eq!(code, 1, "{text}");
        let (code, text) = haclt(c, &["switchover", "--at", "2001-01-01T00:00:00Z"]);
        assert_eq!(code, 2, "{text}");
        done(c, &["switchover", "--at", "2s"]);
        c.writes_on(&new, within(30)).await;
        c.healthy(within(40)).await;
        assert_eq!(done(c, &["switchover", "--scheduled"]), "no switchover is scheduled\n");

        done(c, &["restart", &old]);
        c.healthy(within(40)).await;
        let text = done(c, &["reload", "--all"]);
        assert!(text.contains(&format!("node {old}: reloaded")), "{text}");
        let events = done(c, &["events"]);
        for kind in [
            "founded",
            "bootstrapped",
            "granted",
            "promoted",
            "scheduled",
            "unscheduled",
            "transferred",
            "switchover",
            "restarted",
            "reloaded",
        ] {
            assert!(events.contains(&format!("  {kind}  ")), "{kind} is missing: {events}");
        }
        let line = events.lines().find(|line| line.contains("  switchover  ")).expect("seen above");
        assert!(line.contains(&format!("handed over to {new}")) && line.contains("by "), "{line}");
        let id = line.trim_start_matches([' ', '*']).split(' ').next().expect("a number");
        let log = done(c, &["events", "show", id]);
        assert!(log.contains("checkpoint: while clients are served"), "{log}");
        assert!(log.contains(&format!("proof: {new} has everything")), "{log}");
        let history = done(c, &["history"]);
        assert!(history.contains("switchover from"), "{history}");
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}
