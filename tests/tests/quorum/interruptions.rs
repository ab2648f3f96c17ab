//! The agent dies between any two steps of a change, and is started again: the change is carried out
//! in the end, and nothing that was acknowledged is lost.

use std::fs;

use ha_tests::{Cluster, Mode, Plan, processes, scenario, within};
use rustix::process::Signal;

use super::FAULTS;
use super::slots::{clones, keep_little, move_on};

/// Waits until the agent has died where it was told to, and starts it again.
async fn dies_and_is_back(c: &mut Cluster, node: &str, place: &str) {
    c.node_mut(node).crashed(within(40)).await;
    c.node_mut(node).start();
    c.say(&format!("{node} died at {place:?}"));
}

/// Ends the primary for good, checks that the other node has everything, and brings it back. Returns
/// the new primary and the new standby.
async fn taken_over(c: &mut Cluster, old: String, new: String) -> (String, String) {
    c.writes_on(&new, within(40)).await;
    let present = c.rows(&new).await;
    // Those of the old primary: the new one goes on meanwhile.
    let acks = c.writer().so_far().only(&old);
    assert_eq!(acks.missing(&present).len(), 0, "acknowledged by {old} and not on {new}");
    c.node_mut(&old).start();
    c.healthy(within(60)).await;
    (new, old)
}

#[test]
fn an_agent_may_die_at_any_step_of_a_change_of_the_quorum() {
    use Mode::{Async, Quorum, StrictStandby};
    // Async and back, strict and back; a weaker quorum is recorded first, a stronger one last.
    let changes = [
        (Async, "quorum: settled"),
        (Quorum, "quorum: settled"),
        (Async, "quorum: recorded"),
        (Quorum, "quorum: passed"),
        (Async, "quorum: before it is set"),
        (Quorum, "quorum: recorded"),
        (Async, "quorum: set"),
        (StrictStandby, "quorum: settled"),
        (Quorum, "quorum: recorded"),
        (StrictStandby, "quorum: passed"),
        (Quorum, "quorum: before it is set"),
        (StrictStandby, "quorum: recorded"),
        (Quorum, "quorum: set"),
    ];
    scenario(Plan::within(240).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        for (mode, place) in changes {
            c.more_writes(10, within(20)).await;
            c.node(&primary).crash_at(place);
            c.ask_for_mode(mode, within(0)).await.expect("an agent accepts it");
            dies_and_is_back(c, &primary, place).await;
            c.mode_in_force(mode, within(40)).await;
        }
        let status = c.quorum_in_force(1, within(40)).await;
        assert_eq!(status.epoch, 1, "an agent that comes back keeps the lease");
        c.more_writes(50, within(20)).await;
        c.node_mut(&primary).kill_everything();
        c.writes_on(&standby, within(20)).await;
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(&standby, &acks).await;
    });
}

#[test]
fn an_agent_may_die_at_any_step_of_a_promotion() {
    let places = [
        "revoke: pledged",
        "revoke: read",
        "promote: told who acknowledges",
        "promote: noted",
        "promote: permitted",
        "promote: promoted",
        "promote: recorded",
    ];
    scenario(Plan::within(280).quorum().announces(&FAULTS).patience(10), async |c| {
        let (mut primary, mut standby) = c.bootstrap().await;
        c.write().await;
        for place in places {
            c.quorum_in_force(1, within(40)).await;
            c.more_writes(20, within(20)).await;
            c.node(&standby).crash_at(place);
            c.node_mut(&primary).kill_everything();
            dies_and_is_back(c, &standby, place).await;
            (primary, standby) = taken_over(c, primary, standby).await;
        }
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn an_agent_may_die_at_any_step_of_fetching_what_its_node_lacks() {
    let places = ["pull: detached", "pull: fetched", "pull: placed", "pull: replayed"];
    scenario(Plan::within(240).quorum().announces(&FAULTS).patience(10), async |c| {
        let (mut primary, mut standby) = c.bootstrap().await;
        c.write().await;
        for place in places {
            c.quorum_in_force(1, within(40)).await;
            c.node_mut(&standby).kill_everything();
            // Only the witness acknowledges these.
            c.more_writes(50, within(20)).await;
            c.node(&standby).crash_at(place);
            c.node_mut(&primary).kill_everything();
            c.node_mut(&standby).start();
            dies_and_is_back(c, &standby, place).await;
            (primary, standby) = taken_over(c, primary, standby).await;
        }
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn an_agent_may_die_while_a_starved_standby_is_filled_up_from_the_witness() {
    let plan = Plan::within(240).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["lost", "removed"]), async |c| {
        keep_little(c);
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let before = clones(c, &standby);
        c.node_mut(&standby).kill_everything();
        move_on(c, &primary).await;
        c.node(&standby).crash_at("pull: placed");
        c.node_mut(&standby).start();
        for next in ["pull: fetched", "pull: replayed"] {
            c.node_mut(&standby).crashed(within(60)).await;
            c.node(&standby).crash_at(next);
            c.node_mut(&standby).start();
        }
        dies_and_is_back(c, &standby, "pull: replayed").await;
        c.healthy(within(90)).await;
        assert_eq!(clones(c, &standby), before, "caught up, not cloned");
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn an_agent_may_die_at_any_step_of_a_rewind() {
    let places = ["diverged: recorded", "diverged: kept", "rewind: done", "standby: prepared"];
    scenario(Plan::within(240).announces(&FAULTS), async |c| {
        let (mut old, mut new) = c.bootstrap().await;
        for (round, place) in (1..).zip(places) {
            c.same_rows(within(20)).await;
            c.node_mut(&new).kill_everything();
            let lonely = format!("insert into writes values (-{round}, 'lost')");
            c.node(&old).sql(&lonely).await.expect("async: the primary acknowledges alone");
            c.node_mut(&old).kill_everything();
            c.node_mut(&new).start();
            c.primary_is(&new, within(40)).await;
            c.node(&old).crash_at(place);
            c.node_mut(&old).start();
            dies_and_is_back(c, &old, place).await;
            c.healthy(within(60)).await;
            // Each is kept once, however often it was begun.
            c.diverged(round, within(20)).await;
            (old, new) = (new, old);
        }
        let rows = c.node(&old).sql("select count(*) from writes").await;
        assert_eq!(rows.as_deref(), Ok("0"), "what was lost stays lost");
        c.same_rows(within(20)).await;
    });
}

#[test]
fn an_agent_may_die_at_any_step_of_a_clone() {
    let places = ["clone: copying", "clone: done", "standby: prepared"];
    scenario(Plan::within(200).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        for place in places {
            c.node_mut(&standby).kill_everything();
            let pgdata = c.node(&standby).pgdata();
            fs::remove_dir_all(&pgdata).expect("a stopped database");
            fs::create_dir(&pgdata).expect("its parent is there");
            ha_tests::node::chown(&pgdata);
            c.node(&standby).crash_at(place);
            c.node_mut(&standby).start();
            dies_and_is_back(c, &standby, place).await;
            c.quorum_in_force(1, within(60)).await;
            c.more_writes(20, within(20)).await;
        }
        let status = c.healthy(within(40)).await;
        assert_eq!(ha_tests::status::holder(&status), primary);
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn an_agent_may_die_at_any_step_of_giving_the_lease_back() {
    scenario(Plan::within(150).quorum().announces(&FAULTS), async |c| {
        // Each crash is one too many for a restart in place.
        c.set_on_data_nodes("crash.restarts_max", "0");
        let (mut primary, mut standby) = c.bootstrap().await;
        for (round, place) in (1..).zip(["release: burnt", "release: vacated"]) {
            let before = c.quorum_in_force(1, within(40)).await.epoch;
            let row = format!("insert into writes values ({round}, 'kept')");
            c.node(&primary).sql(&row).await.expect("a primary");
            c.same_rows(within(20)).await;
            c.node(&primary).crash_at(place);
            let postmaster = c.node(&primary).postmaster().expect("it runs");
            processes::send(postmaster, Signal::KILL);
            dies_and_is_back(c, &primary, place).await;
            let after = c.primary_is(&standby, within(40)).await;
            assert!(after.epoch > before, "an epoch that was given up is never used again");
            c.healthy(within(60)).await;
            c.same_rows(within(20)).await;
            (primary, standby) = (standby, primary);
        }
        let rows = c.node(&primary).sql("select count(*) from writes").await;
        assert_eq!(rows.as_deref(), Ok("2"));
    });
}

#[test]
fn an_agent_may_die_at_any_step_of_a_restart_in_place() {
    scenario(Plan::within(150).quorum().announces(&FAULTS).patience(10), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        for place in ["restart: prepared", "restart: permitted"] {
            // Nobody else could take over.
            c.node_mut(&standby).kill_everything();
            c.more_writes(20, within(20)).await;
            c.node(&primary).crash_at(place);
            let postmaster = c.node(&primary).postmaster().expect("it runs");
            processes::send(postmaster, Signal::KILL);
            dies_and_is_back(c, &primary, place).await;
            c.more_writes(20, within(40)).await;
            c.node_mut(&standby).start();
            c.quorum_in_force(1, within(60)).await;
        }
        c.healthy(within(40)).await;
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}
