//! How long commits take while one of the two acknowledgers is lost.

use std::time::{Duration, Instant};

use ha_tests::{Cluster, Plan, eventually, processes, scenario, within};
use rustix::process::Signal;

use super::FAULTS;

/// How much longer than usual the slowest commit may take (issue 3, "Bars").
const SLOWER: Duration = Duration::from_millis(200);
/// How long a fault lasts: longer than any timeout that could make commits wait for it.
const FAULT: Duration = Duration::from_secs(7);

async fn pass(span: Duration) {
    let until = Instant::now() + span;
    eventually("time passes", span * 2, async || (Instant::now() >= until).then_some(())).await;
}

/// Measures the slowest commit on the primary for a while; returns when that began, too.
async fn slowest(c: &Cluster, primary: &str, from: Instant, span: Duration) -> Duration {
    pass(span).await;
    let to = Instant::now();
    // What is under way now counts as well, however long it takes.
    c.more_writes(3, within(30)).await;
    c.writer().so_far().slowest(primary, from, to)
}

/// Begins a fault, measures, says and judges.
async fn measure(c: &mut Cluster, primary: &str, what: &str, begin: impl FnOnce(&mut Cluster)) {
    c.quorum_in_force(1, within(60)).await;
    let usual = slowest(c, primary, Instant::now(), Duration::from_secs(4)).await;
    let from = Instant::now();
    begin(c);
    let hurt = slowest(c, primary, from, FAULT).await;
    c.say(&format!("{what}: {} ms, usually {} ms", hurt.as_millis(), usual.as_millis()));
    assert!(hurt <= usual + SLOWER, "{what}: a commit took {hurt:?}, usually {usual:?}");
}

#[test]
fn no_commit_waits_for_a_standby_that_is_killed_or_frozen() {
    scenario(Plan::within(150).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        measure(c, &primary, "standby killed", |c| c.node_mut(&standby).kill_everything()).await;
        c.node_mut(&standby).start();
        measure(c, &primary, "standby frozen", |c| c.node(&standby).freeze()).await;
        c.node(&standby).thaw();
        let receiver = c.node(&standby).await_receiver(within(30)).await;
        measure(c, &primary, "standby's receiver frozen", |_| {
            processes::send(receiver, Signal::STOP);
        })
        .await;
        processes::send(receiver, Signal::CONT);
        c.quorum_in_force(1, within(60)).await;
        c.end_writing_and_check(None).await;
    });
}

#[test]
fn no_commit_waits_for_a_witness_that_is_killed_or_frozen() {
    scenario(Plan::within(150).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, _) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let receiver = c.node(&witness).await_receiver(within(20)).await;
        measure(c, &primary, "witness's receiver killed", |_| {
            processes::send(receiver, Signal::KILL);
        })
        .await;
        let receiver = c.node(&witness).await_receiver(within(20)).await;
        measure(c, &primary, "witness's receiver frozen", |_| {
            processes::send(receiver, Signal::STOP);
        })
        .await;
        processes::send(receiver, Signal::CONT);
        measure(c, &primary, "witness frozen", |c| c.node(&witness).freeze()).await;
        c.node(&witness).thaw();
        measure(c, &primary, "witness killed", |c| c.node_mut(&witness).kill_everything()).await;
        c.node_mut(&witness).start();
        c.quorum_in_force(1, within(60)).await;
        c.end_writing_and_check(None).await;
    });
}

/// The witness's agent alone: its receiver must neither die with it nor be left without an owner.
#[test]
fn a_witness_agent_that_is_killed_and_back_leaves_one_receiver() {
    scenario(Plan::within(120).quorum().announces(&FAULTS).patience(30), async |c| {
        let (primary, _) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        measure(c, &primary, "witness's agent killed", |c| c.node_mut(&witness).kill_agent()).await;
        c.node_mut(&witness).start();
        c.quorum_in_force(1, within(30)).await;
        let dir = c.node(&witness).wal_dir();
        let receivers = || processes::marked(&dir, "pg_receivewal").len();
        // The one that the killed agent left is ended before the next begins.
        eventually("the new agent has a receiver", within(20), async || {
            assert!(receivers() <= 1, "two receivers for one directory");
            (receivers() == 1).then_some(())
        })
        .await;
        c.quorum_in_force(1, within(30)).await;
        c.end_writing_and_check(None).await;
    });
}
