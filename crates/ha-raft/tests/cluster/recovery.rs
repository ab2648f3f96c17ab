//! A group that lost its majority for good.

use ha_core::state::{Outcome, State};
use ha_raft::StoreError;
use ha_raft::recovery::{AnewError, Survivor, last_state, make_anew};

use crate::support::{Cluster, NAMES, describe, id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_makes_it_anew_and_nothing_is_done_behind_an_agents_back() {
    let mut cluster = Cluster::founded().await;
    assert_eq!(cluster.write(describe("n1", 2)).await, Outcome::Applied);
    cluster.settled().await;
    let n1 = id("n1");
    let root = cluster.path(&n1);
    let locked = last_state(&root, "orders", &n1).await.unwrap_err();
    assert!(matches!(locked, StoreError::Locked { .. }), "{locked}");

    for node in NAMES.map(id) {
        cluster.stop(&node).await;
    }
    let survivor = last_state(&root, "orders", &n1).await.unwrap();
    assert_eq!(survivor.state.nodes[&n1].postgres, "n1:2");
    let new = State { generation: 1, ..survivor.state.clone() };
    let anew = |survivor: Survivor| {
        let (root, n1, new) = (root.clone(), n1.clone(), new.clone());
        async move { make_anew(&root, "orders", &n1, "h:1", &survivor, new).await }
    };
    let other = Survivor { last_log: survivor.last_log + 1, ..survivor.clone() };
    let changed = anew(other).await.unwrap_err();
    assert!(matches!(changed, AnewError::Changed), "{changed}");
    let kept = anew(survivor.clone()).await.unwrap();
    assert!(kept.join("store/identity").exists(), "the old store is there: {}", kept.display());
    assert!(!root.with_file_name("raft.anew").exists());
    // What was cut short is given again: nothing that was a store is lost.
    let again = anew(survivor).await.unwrap_err();
    assert!(matches!(again, AnewError::Changed), "{again}");

    cluster.start(&n1).await;
    let (leader, _) = cluster.leader().await;
    assert_eq!(leader, n1);
    assert_eq!(cluster.raft(&n1).state().borrow().state.generation, 1);
    assert_eq!(cluster.raft(&n1).status().voters, [n1]);
    assert_eq!(cluster.write(describe("n1", 3)).await, Outcome::Applied);
    // What was written is there after a start, too: nothing of the log was lost on the way.
    let n1 = id("n1");
    cluster.stop(&n1).await;
    cluster.start(&n1).await;
    cluster.leader().await;
    assert_eq!(cluster.raft(&n1).state().borrow().state.nodes[&n1].postgres, "n1:3");
    cluster.shutdown().await;
}
