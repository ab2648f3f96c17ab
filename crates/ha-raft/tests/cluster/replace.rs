//! A member whose store was lost.

use std::fs;

use ha_core::state::Outcome;
use ha_raft::{MemberInfo, ReplaceError};

use crate::support::{Cluster, NAMES, PATIENCE, describe, id, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_replaced_under_its_name_and_votes_again() {
    let mut cluster = Cluster::founded().await;
    let (leader, _) = cluster.leader().await;
    let [lost, other] = <[_; 2]>::try_from(
        NAMES.map(id).into_iter().filter(|node| *node != leader).collect::<Vec<_>>(),
    )
    .unwrap();
    let old = cluster.members()[&lost].clone();
    cluster.stop(&lost).await;
    fs::remove_dir_all(cluster.path(&lost)).unwrap();
    assert_eq!(cluster.write(describe("n1", 2)).await, Outcome::Applied);
    cluster.start(&lost).await;
    let new = cluster.members()[&lost].clone();
    assert_ne!(old.store_id, new.store_id);

    // Whoever does not lead cannot, and nobody replaces the leader.
    let refused = cluster.raft(&other).replace(&lost, new.clone(), PATIENCE).await.unwrap_err();
    assert!(matches!(refused, ReplaceError::NotLeader { .. }), "{refused}");
    let raft = cluster.raft(&leader).clone();
    let own = cluster.members()[&leader].clone();
    let refused = raft.replace(&leader, own, PATIENCE).await.unwrap_err();
    assert!(matches!(refused, ReplaceError::Leads { .. }), "{refused}");

    raft.replace(&lost, new.clone(), PATIENCE).await.unwrap();
    // Asked again it is done already.
    raft.replace(&lost, new.clone(), PATIENCE).await.unwrap();
    let status = raft.status();
    assert_eq!(status.voters, NAMES.map(id));
    assert_eq!(status.members[&lost].store_id, new.store_id);
    cluster.settled().await;

    // Its vote counts: with it and one other there is a majority.
    cluster.stop(&other).await;
    let accepted = until("a majority", async || match cluster.write(describe("n1", 3)).await {
        Outcome::Applied => Ok(()),
        refused @ Outcome::Refused(_) => Err(refused),
    });
    accepted.await;
    cluster.start(&other).await;
    cluster.settled().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_that_never_comes_leaves_the_others_at_work_and_can_be_given_again() {
    let mut cluster = Cluster::founded().await;
    let (leader, _) = cluster.leader().await;
    let lost = NAMES.map(id).into_iter().find(|node| *node != leader).unwrap();
    let grpc = cluster.members()[&lost].grpc.clone();
    cluster.stop(&lost).await;
    fs::remove_dir_all(cluster.path(&lost)).unwrap();
    let raft = cluster.raft(&leader).clone();
    // Nobody has that store.
    let nobody = MemberInfo { grpc, store_id: 7 };
    let late = std::time::Duration::from_secs(2);
    let error = raft.replace(&lost, nobody, late).await.unwrap_err();
    assert!(matches!(error, ReplaceError::TimedOut { .. }), "{error}");
    assert!(!raft.status().voters.contains(&lost));
    assert_eq!(cluster.write(describe("n1", 2)).await, Outcome::Applied);
    cluster.start(&lost).await;
    let new = cluster.members()[&lost].clone();
    raft.replace(&lost, new, PATIENCE).await.unwrap();
    assert_eq!(raft.status().voters, NAMES.map(id));
    cluster.settled().await;
    cluster.shutdown().await;
}
