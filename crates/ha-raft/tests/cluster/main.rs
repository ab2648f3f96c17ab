//! Three nodes in one process, over real connections.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "figures are printed for the record")]

mod recovery;
mod refusals;
mod replace;
mod support;

use std::time::Duration;

use ha_core::state::{Outcome, Refused};
use ha_raft::{ConfirmError, Effect, InitializeError, ProposeError, TransferError};
use support::{Cluster, LIMIT, NAMES, describe, id, until};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_initialized_once_and_carries_out_commands() {
    let cluster = Cluster::new().await;
    let n1 = cluster.raft(&id("n1")).clone();
    assert!(!n1.is_initialized());
    let e = n1.propose(describe("n1", 1), None, LIMIT).await.unwrap_err();
    assert!(matches!(e, ProposeError::NotLeader { leader: None }), "{e}");
    assert_eq!(e.effect(), Effect::None);
    let e = n1.confirm_leadership(LIMIT).await.unwrap_err();
    assert_eq!(e.to_string(), "cannot confirm leadership: no leader is known");

    let mut members = cluster.members();
    members.get_mut(&id("n1")).unwrap().store_id ^= 1;
    let e = n1.initialize(members.clone()).await.unwrap_err();
    assert!(matches!(e, InitializeError::OtherStore { .. }), "{e}");
    members.remove(&id("n1"));
    let e = n1.initialize(members).await.unwrap_err();
    assert_eq!(
        e.to_string(),
        "cannot initialize the Raft group: node n1 is not one of its members"
    );

    let begun = Instant::now();
    n1.initialize(cluster.members()).await.unwrap();
    assert_eq!(cluster.write(describe("n1", 1)).await, Outcome::Applied);
    eprintln!("figure: first write {:?} after initialize", begun.elapsed());
    assert!(n1.is_initialized());
    let e = n1.initialize(cluster.members()).await.unwrap_err();
    assert!(matches!(e, InitializeError::AlreadyInitialized { .. }), "{e}");

    assert_eq!(
        cluster.write(describe("n1", 1)).await,
        Outcome::Refused(Refused::AlreadyFounded),
        "a refusal comes back to the proposer"
    );
    cluster.settled().await;
    let state = cluster.raft(&id("n3")).state().borrow().clone();
    assert_eq!(state.state.cluster, "orders");
    assert_eq!(state.state.cluster_id, u128::MAX - 1);

    let (leader, confirmed) = cluster.leader().await;
    let status = cluster.raft(&leader).status();
    assert!(status.is_leader && status.term == confirmed.term && status.failure.is_none());
    assert_eq!(status.voters, NAMES.map(id));
    assert_eq!(status.members, cluster.members());
    assert_eq!(status.matched.len(), 3);
    assert!(status.quorum_acked_ago.unwrap() < Duration::from_secs(1), "{status:?}");
    let follower = NAMES.map(id).into_iter().find(|node| *node != leader).unwrap();
    let e = cluster.raft(&follower).propose(describe("n1", 3), None, LIMIT).await.unwrap_err();
    assert_eq!(e.to_string(), format!("cannot propose here: the leader is {leader}"));
    let e = cluster.raft(&follower).confirm_leadership(LIMIT).await.unwrap_err();
    assert!(matches!(e, ConfirmError::NotLeader { leader: Some(l) } if l == leader));
    figures(&cluster).await;
    cluster.shutdown().await;
}

/// Prints how long the leader's two main tasks take here.
async fn figures(cluster: &Cluster) {
    let (leader, _) = cluster.leader().await;
    let raft = cluster.raft(&leader);
    let mut writes = Vec::new();
    let mut confirms = Vec::new();
    for round in 0..100 {
        let begun = Instant::now();
        raft.propose(describe("n1", round + 10), None, LIMIT).await.unwrap();
        writes.push(begun.elapsed());
        let begun = Instant::now();
        raft.confirm_leadership(LIMIT).await.unwrap();
        confirms.push(begun.elapsed());
    }
    writes.sort();
    confirms.sort();
    let stats = raft.status().store;
    eprintln!(
        "figure: propose p50 {:?} max {:?}; confirm p50 {:?} max {:?}; sync mean {:?} max {:?}",
        writes[50],
        writes[99],
        confirms[50],
        confirms[99],
        stats.sync_total / u32::try_from(stats.syncs).unwrap(),
        stats.sync_max
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_leads_when_the_leader_dies_and_a_restart_keeps_everything() {
    let mut cluster = Cluster::founded().await;
    let (leader, before) = cluster.leader().await;
    let begun = Instant::now();
    cluster.stop(&leader).await;
    let (next, after) = cluster.leader().await;
    eprintln!("figure: confirmed leader {:?} after the last one died", begun.elapsed());
    assert!(next != leader && after.term > before.term);
    assert_eq!(cluster.write(describe("n2", 2)).await, Outcome::Applied);

    cluster.start(&leader).await;
    cluster.settled().await;
    let again = cluster.raft(&leader).state().borrow().clone();
    assert_eq!(again.state.nodes[&id("n2")].postgres, "n2:2");

    // All at once, so that everything must come from the disks.
    let mut handles = Vec::new();
    for name in NAMES {
        handles.push(cluster.raft(&id(name)).state().borrow().clone());
        cluster.stop(&id(name)).await;
    }
    for name in NAMES {
        cluster.start(&id(name)).await;
    }
    cluster.leader().await;
    cluster.settled().await;
    assert_eq!(cluster.raft(&id("n1")).state().borrow().state, handles[0].state);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_to_a_node_that_is_ready_for_it() {
    let mut cluster = Cluster::founded().await;
    let (leader, before) = cluster.leader().await;
    let [to, other] = {
        let others: Vec<_> = NAMES.map(id).into_iter().filter(|node| *node != leader).collect();
        [others[0].clone(), others[1].clone()]
    };
    let begun = Instant::now();
    cluster.raft(&leader).transfer_leader(&to).await.unwrap();
    eprintln!("figure: leadership handed over in {:?}", begun.elapsed());
    let (now, after) = cluster.leader().await;
    assert!(now == to && after.term > before.term);
    assert_eq!(cluster.write(describe("n2", 2)).await, Outcome::Applied);

    let e = cluster.raft(&leader).transfer_leader(&other).await.unwrap_err();
    assert!(matches!(&e, TransferError::NotLeader { leader: Some(l) } if *l == to), "{e}");
    let e = cluster.raft(&to).transfer_leader(&id("n4")).await.unwrap_err();
    assert_eq!(e.to_string(), "cannot hand over leadership to n4: it is not a voter");
    cluster.raft(&to).transfer_leader(&to).await.unwrap();

    cluster.stop(&other).await;
    let (now, _) = cluster.leader().await;
    let raft = cluster.raft(&now).clone();
    let e = raft.transfer_leader(&other).await.unwrap_err();
    assert!(matches!(e, TransferError::TargetBehind { .. }), "{e}");
    assert_eq!(e.effect(), Effect::None);
    assert_eq!(cluster.write(describe("n2", 3)).await, Outcome::Applied, "it still proposes");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_confirms_nothing_and_what_it_proposes_is_unknown() {
    let mut cluster = Cluster::founded().await;
    let (leader, before) = cluster.leader().await;
    let raft = cluster.raft(&leader).clone();
    cluster.cut(&leader);
    let begun = Instant::now();
    let limit = Duration::from_millis(400);
    let e = raft.confirm_leadership(limit).await.unwrap_err();
    assert!(matches!(e, ConfirmError::NoQuorum { waited_ms: 400 }), "{e}");
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    assert!(raft.status().is_leader, "openraft's leader does not step down by itself");
    let e = raft.propose(describe("n2", 2), Some(before.term), limit).await.unwrap_err();
    match e.effect() {
        Effect::Unknown => assert!(matches!(e, ProposeError::TimedOut { .. }), "{e}"),
        Effect::None => assert!(matches!(e, ProposeError::NotReady), "{e}"),
    }
    let e = until("refused proposals", async || {
        match raft.propose(describe("n2", 2), None, limit).await {
            Err(ProposeError::NotReady) => Ok(()),
            found => Err(found),
        }
    });
    e.await;

    // The others go on without it; healed, it follows.
    let others: Vec<_> = NAMES.map(id).into_iter().filter(|node| *node != leader).collect();
    let after = until("a leader of the others", async || {
        for node in &others {
            if let Ok(confirmed) = cluster.raft(node).confirm_leadership(LIMIT).await {
                return Ok(confirmed);
            }
        }
        Err(())
    })
    .await;
    assert!(after.term > before.term);
    cluster.heal(&leader);
    cluster.write(describe("n2", 4)).await;
    cluster.settled().await;
    assert!(!raft.status().is_leader);

    // A leader alone because the others are gone, not because of the network.
    let (leader, _) = cluster.leader().await;
    for node in NAMES.map(id).into_iter().filter(|node| *node != leader) {
        cluster.stop(&node).await;
    }
    let e = cluster.raft(&leader).confirm_leadership(limit).await.unwrap_err();
    assert!(matches!(e, ConfirmError::NoQuorum { .. }), "{e}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_bound_to_a_term_is_refused_in_every_other_one() {
    let cluster = Cluster::founded().await;
    let (leader, first) = cluster.leader().await;
    let raft = cluster.raft(&leader).clone();
    let accepted = raft.propose(describe("n2", 2), Some(first.term), LIMIT).await;
    assert_eq!(accepted.unwrap(), Outcome::Applied);
    for term in [first.term - 1, first.term + 1, 0, u64::MAX] {
        let e = raft.propose(describe("n2", 3), Some(term), LIMIT).await.unwrap_err();
        assert!(matches!(e, ProposeError::OtherTerm { bound } if bound == term), "{e}");
        assert_eq!(e.effect(), Effect::None);
    }

    // Leader A, then B, then A again: A's first term is over although A leads.
    let other = NAMES.map(id).into_iter().find(|node| *node != leader).unwrap();
    cluster.raft(&leader).transfer_leader(&other).await.unwrap();
    let e = raft.propose(describe("n2", 3), Some(first.term), LIMIT).await.unwrap_err();
    assert!(matches!(e, ProposeError::NotLeader { .. }), "{e}");
    let second =
        until("B's leadership", async || cluster.raft(&other).confirm_leadership(LIMIT).await)
            .await;
    // A follower of the term it is bound to refuses as well.
    let e = raft.propose(describe("n2", 3), Some(second.term), LIMIT).await.unwrap_err();
    assert!(matches!(e, ProposeError::NotLeader { .. }), "{e}");
    until("leadership back", async || cluster.raft(&other).transfer_leader(&leader).await).await;
    let third = until("A's leadership", async || raft.confirm_leadership(LIMIT).await).await;
    assert!(first.term < second.term && second.term < third.term);
    let e = raft.propose(describe("n2", 3), Some(first.term), LIMIT).await.unwrap_err();
    assert!(matches!(e, ProposeError::OtherTerm { .. }), "{e}");
    until("A's proposals", async || raft.propose(describe("n2", 5), Some(third.term), LIMIT).await)
        .await;
    cluster.settled().await;
    let state = raft.state().borrow().clone();
    assert_eq!(state.state.nodes[&id("n2")].postgres, "n2:5", "no refused one came through");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_gets_a_snapshot_and_keeps_it() {
    let mut cluster = Cluster::founded().await;
    let (leader, _) = cluster.leader().await;
    let away = NAMES.map(id).into_iter().find(|node| *node != leader).unwrap();
    cluster.stop(&away).await;
    let raft = cluster.raft(&leader).clone();
    let mut waiting = JoinSet::new();
    for round in 10..4010 {
        let raft = raft.clone();
        waiting.spawn(async move { raft.propose(describe("n2", round), None, LIMIT).await });
        if waiting.len() >= 64 {
            waiting.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    while let Some(written) = waiting.join_next().await {
        written.unwrap().unwrap();
    }
    // Three snapshots' worth of entries; the log begins after where the other node stopped.
    until("a purged log", async || match raft.status() {
        status if status.snapshot > Some(2000) && status.store.entries < 3000 => Ok(()),
        status => Err(status),
    })
    .await;
    cluster.start(&away).await;
    cluster.settled().await;
    let status = cluster.raft(&away).status();
    assert!(status.snapshot > Some(2000), "{status:?}");
    let state = cluster.raft(&away).state().borrow().clone();
    cluster.stop(&away).await;
    cluster.start(&away).await;
    let again = cluster.raft(&away).state().borrow().clone();
    assert!(again.index > 2000 && again.state.cluster == "orders", "from its own disk");
    cluster.settled().await;
    assert_eq!(cluster.raft(&away).state().borrow().state, state.state);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_writes_nothing() {
    let cluster = Cluster::founded().await;
    cluster.settled().await;
    let bytes = |node: &str| {
        let mut sum = Vec::new();
        let mut dirs = vec![cluster.path(&id(node))];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                if meta.is_dir() {
                    dirs.push(entry.path());
                } else {
                    sum.push((entry.path(), meta.len(), meta.modified().unwrap()));
                }
            }
        }
        sum.sort();
        sum
    };
    let look = || {
        NAMES.map(|node| {
            let stats = cluster.raft(&id(node)).status().store;
            (stats.jobs, stats.syncs, bytes(node))
        })
    };
    // The last commit reaches the followers with a heartbeat; after it, three seconds of nothing.
    let mut last = look();
    let mut still = Instant::now();
    let deadline = Instant::now() + support::PATIENCE;
    while still.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = look();
        if now != last {
            assert!(Instant::now() < deadline, "it goes on writing: {now:?}");
            last = now;
            still = Instant::now();
        }
    }
    let (leader, _) = cluster.leader().await;
    assert_eq!(look(), last, "confirming leadership writes nothing either");
    assert!(cluster.raft(&leader).status().is_leader);
    cluster.shutdown().await;
}
