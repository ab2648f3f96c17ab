//! Clusters of other shapes than two and a witness.

use ha_tests::{Plan, scenario, status, within};

use super::FAULTS;

/// Rule 20: of `S` acknowledgers of which `k` must acknowledge, an election asks `S − k + 1`.
#[test]
fn five_voters_survive_the_primary_and_a_witness_rule_20() {
    let plan = Plan::within(180).quorum().shape(3, 2).announces(&FAULTS).patience(20);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.quorum_in_force(2, within(40)).await;
        c.write().await;
        c.more_writes(100, within(20)).await;
        c.node_mut("n5").kill_everything();
        c.node_mut(&primary).kill_everything();
        c.more_writes(100, within(30)).await;
        let now = c.await_status("a new primary", within(20), |s| {
            !status::holder(s).is_empty() && status::holder(s) != primary
        });
        let new = status::holder(&now.await).to_owned();
        c.node_mut(&primary).start();
        c.node_mut("n5").start();
        c.healthy(within(60)).await;
        c.say(&format!("{new} took over"));
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn five_voters_survive_the_primary_and_a_standby_at_once() {
    let plan = Plan::within(180).quorum().shape(3, 2).announces(&FAULTS).patience(20);
    scenario(plan, async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(2, within(40)).await;
        c.write().await;
        c.more_writes(100, within(20)).await;
        // The third data node lags for sure: what it lacks comes from others.
        let third = ["n1", "n2", "n3"].into_iter().find(|n| *n != primary && *n != standby);
        let third = third.expect("three data nodes").to_owned();
        let receiver = c.node(&third).await_receiver(within(10)).await;
        ha_tests::processes::send(receiver, rustix::process::Signal::STOP);
        c.more_writes(100, within(20)).await;
        c.node_mut(&primary).kill_everything();
        c.node_mut(&standby).kill_everything();
        ha_tests::processes::send(receiver, rustix::process::Signal::CONT);
        c.writes_on(&third, within(40)).await;
        let acks = c.end_writing().await;
        c.assert_nothing_lost_on(&third, &acks).await;
        c.node_mut(&primary).start();
        c.node_mut(&standby).start();
        c.healthy(within(60)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn three_databases_without_a_witness_lose_the_primary_and_nothing_else() {
    let plan = Plan::within(180).quorum().shape(3, 0).announces(&FAULTS).patience(20);
    scenario(plan, async |c| {
        let (primary, _) = c.bootstrap().await;
        c.quorum_in_force(1, within(40)).await;
        c.write().await;
        c.more_writes(100, within(20)).await;
        c.node_mut(&primary).kill_everything();
        c.more_writes(100, within(30)).await;
        c.node_mut(&primary).start();
        let after = c.healthy(within(60)).await;
        assert_ne!(status::holder(&after), primary);
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}
