//! What the Raft service refuses, and in which words.

use std::collections::BTreeMap;

use ha_proto::v1::RaftRequest;
use ha_proto::v1::raft_client::RaftClient;
use ha_raft::types::store_id_text;
use ha_raft::{MemberInfo, RaftHandle};
use tonic::Code;

use crate::support::{Cluster, LIMIT, describe, id, until};

/// What makes a good message a bad one.
type Change = fn(&mut RaftRequest);

/// Returns a Pre-Vote of n2 that n1 takes.
fn good(cluster: &Cluster) -> RaftRequest {
    RaftRequest {
        format: 1,
        cluster: "orders".to_owned(),
        from: "n2".to_owned(),
        to: "n1".to_owned(),
        to_store: store_id_text(cluster.raft(&id("n1")).store_id()),
        payload: br#"{"vote":{"leader_id":{"term":0,"voted_for":"n2"},"committed":false},
            "last_log_id":null,"leadership_transfer":false}"#
            .to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_somebody_else_is_refused_with_both_names() {
    let cluster = Cluster::founded().await;
    let good = good(&cluster);
    let address = format!("http://{}", cluster.address("n1"));
    let mut client = RaftClient::connect(address).await.unwrap();
    client.pre_vote(good.clone()).await.unwrap();

    let other_store = format!(r#"for store "0123", this is store "{}""#, good.to_store);
    let cases: [(Change, Code, &str); 9] = [
        (
            |r| r.cluster = "bills".to_owned(),
            Code::FailedPrecondition,
            r#"from n2: it is for cluster "bills", this is cluster "orders""#,
        ),
        (
            |r| r.to = "n3".to_owned(),
            Code::FailedPrecondition,
            r#"from n2: it is for node "n3", this is node "n1""#,
        ),
        (|r| r.to_store = "0123".to_owned(), Code::FailedPrecondition, &other_store),
        (|r| r.from = "n1".to_owned(), Code::FailedPrecondition, "from n1: that is this node"),
        (|r| r.from = "N 1".to_owned(), Code::InvalidArgument, "an invalid sender: "),
        (|r| r.format = 2, Code::FailedPrecondition, "this node knows format 1"),
        (|r| r.payload = b"{".to_vec(), Code::InvalidArgument, "an invalid payload: EOF"),
        (|r| r.payload = vec![0xff; 9], Code::InvalidArgument, "an invalid payload: "),
        (|r| r.from = "n3".to_owned(), Code::InvalidArgument, "is not n3's to send"),
    ];
    for (change, code, expected) in cases {
        let mut request = good.clone();
        change(&mut request);
        let status = client.pre_vote(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{} has not {expected}", status.message());
        assert!(!status.message().contains('\n'), "{}", status.message());
    }
    cluster.shutdown().await;
}

/// What openraft or the log store would take for a broken invariant, and stop the node for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_would_stop_the_node_is_refused() {
    let cluster = Cluster::founded().await;
    let (leader, _) = cluster.leader().await;
    let good = good(&cluster);
    let address = format!("http://{}", cluster.address("n1"));
    let mut client = RaftClient::connect(address).await.unwrap();
    let vote = r#""vote":{"leader_id":{"term":9,"voted_for":"n2"},"committed":true}"#;
    let large = "x".repeat(70_000);
    let entry = |index: u64, why: &str| {
        format!(
            r#"{{"log_id":{{"leader_id":9,"index":{index}}},"payload":{{"Normal":{{"vacate":
                {{"epoch":1,"reason":{{"released":{{"why":"{why}"}}}}}}}}}}}}"#
        )
    };
    for (entries, expected) in [
        ([entry(0, ""), entry(2, "")].join(","), "log entry 2 does not follow"),
        (entry(5, ""), "log entry 5 does not follow"),
        (entry(0, &large), "log entry 0 is 700"),
    ] {
        let payload =
            format!(r#"{{{vote},"prev_log_id":null,"entries":[{entries}],"leader_commit":null}}"#);
        let request = RaftRequest { payload: payload.into_bytes(), ..good.clone() };
        let status = client.append(request).await.unwrap_err();
        assert!(status.message().contains(expected), "{}", status.message());
    }
    let payload = format!(
        r#"{{{vote},"meta":{{"last_log_id":null,"last_membership":{{"log_id":null,"membership":
            {{"configs":[],"nodes":{{}}}}}},"snapshot_id":""}},"text":"haclt"}}"#
    );
    let request = RaftRequest { payload: payload.into_bytes(), ..good };
    let status = client.install_snapshot(request).await.unwrap_err();
    assert!(status.message().contains("an invalid snapshot: it has no header"), "{status}");

    assert!(cluster.raft(&id("n1")).status().failure.is_none());
    cluster.raft(&leader).confirm_leadership(LIMIT).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_new_disk_takes_part_in_nothing() {
    let mut cluster = Cluster::founded().await;
    cluster.settled().await;
    let (leader, _) = cluster.leader().await;
    let lost = [id("n1"), id("n2"), id("n3")].into_iter().find(|node| *node != leader).unwrap();
    let before = cluster.raft(&lost).store_id();
    cluster.stop(&lost).await;
    std::fs::remove_dir_all(cluster.path(&lost)).unwrap();
    cluster.start(&lost).await;
    let empty = cluster.raft(&lost).clone();
    assert_ne!(empty.store_id(), before);
    // Its word counts neither for entries nor for votes: with one more node gone, nobody leads.
    cluster.write(describe("n2", 2)).await;
    let third = [id("n1"), id("n2"), id("n3")];
    let third = third.into_iter().find(|node| *node != leader && *node != lost).unwrap();
    cluster.stop(&third).await;
    let raft: RaftHandle = cluster.raft(&leader).clone();
    until("a leader without majority", async || match raft.confirm_leadership(LIMIT).await {
        Err(_) => Ok(()),
        Ok(confirmed) => Err(confirmed),
    })
    .await;
    let members: BTreeMap<_, MemberInfo> = raft.status().members;
    assert_eq!(members[&lost].store_id, before);
    assert!(!empty.is_initialized(), "it was not even asked for a vote");
    assert_eq!(empty.status().last_log, None);
    cluster.shutdown().await;
}
