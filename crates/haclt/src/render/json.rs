//! The shapes that programs rely on. Fields may be added; none is ever renamed or removed.

use ha_core::{Lsn, NodeId};
use serde::Serialize;

use crate::reply::{self, ClusterStatus, Explanation};

mod bundle;
mod config;
mod credentials;
mod diverged;
mod doctor;
mod drill;
mod nodes;
mod operations;
mod switchover;

pub use bundle::{bundle, listed};
pub use config::{changed, changes, config_history, configuration, item};
pub use credentials::credentials;
pub use diverged::{dropped, list, report};
pub use doctor::examination;
pub use drill::{drill, drill_plan};
pub use nodes::nodes;
pub use operations::{event, event_report, events, failover_plan, history, ordered, schedule};
pub use switchover::{switchover, switchover_plan};

/// How the object is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Over several lines, for people.
    Pretty,
    /// On one line, for streams of objects.
    Line,
}

#[derive(Serialize)]
struct Status<'a> {
    cluster: &'a str,
    state: &'a str,
    reason: Option<&'a str>,
    epoch: u64,
    timeline: Option<u32>,
    durability: &'a str,
    paused: bool,
    lease: Option<Lease<'a>>,
    raft: Option<Raft<'a>>,
    wal_quorum: Option<WalQuorum<'a>>,
    nodes: Vec<Node<'a>>,
    loss: Option<&'a str>,
}

#[derive(Serialize)]
struct Lease<'a> {
    holder: Option<&'a NodeId>,
    left_ms: u64,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct Raft<'a> {
    leader: Option<&'a NodeId>,
    term: u64,
    voters: &'a [NodeId],
    quorum: bool,
}

#[derive(Serialize)]
struct WalQuorum<'a> {
    members: &'a [NodeId],
    required: u32,
    acknowledging: &'a [NodeId],
}

#[derive(Serialize)]
struct Node<'a> {
    name: &'a NodeId,
    kind: &'a str,
    role: &'a str,
    state: &'a str,
    postgres: Option<&'a str>,
    timeline: Option<u32>,
    flushed_lsn: Option<String>,
    replayed_lsn: Option<String>,
    lag_bytes: Option<u64>,
    wal_ack: bool,
    reachable: bool,
    agent_version: Option<&'a str>,
}

#[derive(Serialize)]
struct Explained<'a> {
    summary: &'a str,
    answered_by: Option<&'a NodeId>,
    nodes: Vec<ExplainedNode<'a>>,
    if_primary_died: Option<IfPrimaryDied<'a>>,
}

#[derive(Serialize)]
struct ExplainedNode<'a> {
    node: &'a NodeId,
    rule: Option<&'a str>,
    why: Option<&'a str>,
    waiting_for: Option<&'a str>,
}

#[derive(Serialize)]
struct IfPrimaryDied<'a> {
    successor: Option<&'a NodeId>,
    why: Option<&'a str>,
    refusals: &'a [String],
    lost_bytes: Option<u64>,
    lost: Option<&'a str>,
    expected_ms: Option<u64>,
}

/// Returns the cluster's state as one JSON object and a line feed.
#[must_use]
pub fn status(status: &ClusterStatus, layout: Layout) -> String {
    let lease = status.lease.as_ref().map(|lease| {
        let reply::LeaseView { holder, left_ms, ttl_ms } = lease;
        Lease { holder: holder.as_ref(), left_ms: *left_ms, ttl_ms: *ttl_ms }
    });
    let raft = status.raft.as_ref().map(|raft| {
        let reply::RaftView { leader, term, voters, quorum } = raft;
        Raft { leader: leader.as_ref(), term: *term, voters, quorum: *quorum }
    });
    let wal_quorum = status.wal_quorum.as_ref().map(|quorum| {
        let reply::WalQuorumView { members, required, acknowledging } = quorum;
        WalQuorum { members, required: *required, acknowledging }
    });
    let shape = Status {
        cluster: &status.cluster,
        state: &status.state,
        reason: status.reason.as_deref(),
        epoch: status.epoch.0,
        timeline: status.timeline.map(|timeline| timeline.0),
        durability: &status.durability,
        paused: status.paused,
        lease,
        raft,
        wal_quorum,
        nodes: status.nodes.iter().map(node).collect(),
        loss: status.loss.as_deref(),
    };
    object(&shape, layout)
}

fn node(node: &reply::NodeView) -> Node<'_> {
    let position = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string());
    Node {
        name: &node.name,
        kind: &node.kind,
        role: &node.role,
        state: &node.state,
        postgres: node.postgres.as_deref(),
        timeline: node.timeline.map(|timeline| timeline.0),
        flushed_lsn: position(node.flushed),
        replayed_lsn: position(node.replayed),
        lag_bytes: node.lag_bytes,
        wal_ack: node.wal_ack,
        reachable: node.reachable,
        agent_version: node.agent_version.as_deref(),
    }
}

/// Returns the explanation as one JSON object and a line feed.
#[must_use]
pub fn explanation(explanation: &Explanation, layout: Layout) -> String {
    let nodes = explanation.nodes.iter().map(|node| {
        let reply::NodeExplanation { node, rule, why, waiting_for } = node;
        let (rule, why) = (rule.as_deref(), why.as_deref());
        ExplainedNode { node, rule, why, waiting_for: waiting_for.as_deref() }
    });
    let if_primary_died = explanation.if_primary_died.as_ref().map(|future| IfPrimaryDied {
        successor: future.successor.as_ref(),
        why: future.why.as_deref(),
        refusals: &future.refusals,
        lost_bytes: future.lost_bytes,
        lost: future.lost.as_deref(),
        expected_ms: future.expected_ms,
    });
    let shape = Explained {
        summary: &explanation.summary,
        answered_by: explanation.answered_by.as_ref(),
        nodes: nodes.collect(),
        if_primary_died,
    };
    object(&shape, layout)
}

fn object(shape: &impl Serialize, layout: Layout) -> String {
    let text = match layout {
        Layout::Pretty => serde_json::to_string_pretty(shape),
        Layout::Line => serde_json::to_string(shape),
    };
    text.expect("these shapes have text keys and no failing fields") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::samples;

    #[test]
    fn a_status_has_the_shape_that_scripts_rely_on() {
        let expected = concat!(
            r#"{"cluster":"orders","state":"healthy","reason":null,"epoch":7,"timeline":4,"#,
            r#""durability":"quorum","paused":false,"#,
            r#""lease":{"holder":"n2","left_ms":2400,"ttl_ms":3000},"#,
            r#""raft":{"leader":"n3","term":12,"voters":["n1","n2","n3"],"quorum":true},"#,
            r#""wal_quorum":{"members":["n1","n3"],"required":1,"acknowledging":["n1","n3"]},"#,
            r#""nodes":[{"name":"n1","kind":"data","role":"standby","state":"streaming","#,
            r#""postgres":"10.77.0.1:5432","timeline":4,"flushed_lsn":"0/5A3C9F0","#,
            r#""replayed_lsn":"0/5A3C9F0","lag_bytes":0,"wal_ack":true,"reachable":true,"#,
            r#""agent_version":"0.1.0"}],"loss":"nothing"}"#,
            "\n"
        );
        let mut cluster = ClusterStatus { loss: Some("nothing".into()), ..samples::healthy() };
        cluster.nodes.truncate(1);
        assert_eq!(status(&cluster, Layout::Line), expected);
    }

    #[test]
    fn what_is_unknown_is_null() {
        let expected = r#"{
  "cluster": "orders",
  "state": "no_quorum",
  "reason": "1 of 3 voters answers",
  "epoch": 7,
  "timeline": null,
  "durability": "quorum",
  "paused": true,
  "lease": null,
  "raft": null,
  "wal_quorum": null,
  "nodes": [
    {
      "name": "n1",
      "kind": "data",
      "role": "none",
      "state": "stopped",
      "postgres": null,
      "timeline": null,
      "flushed_lsn": null,
      "replayed_lsn": null,
      "lag_bytes": null,
      "wal_ack": false,
      "reachable": true,
      "agent_version": null
    }
  ],
  "loss": null
}
"#;
        let mut cluster = samples::cut_off();
        cluster.nodes.truncate(1);
        assert_eq!(status(&cluster, Layout::Pretty), expected);
    }

    #[test]
    fn a_vacant_lease_has_no_holder_and_an_unknown_leader_no_name() {
        let mut cluster = samples::healthy();
        if let (Some(lease), Some(raft)) = (&mut cluster.lease, &mut cluster.raft) {
            lease.holder = None;
            raft.leader = None;
        }
        let text = status(&cluster, Layout::Line);
        assert!(text.contains(r#""lease":{"holder":null,"#), "{text}");
        assert!(text.contains(r#""raft":{"leader":null,"#), "{text}");
    }

    #[test]
    fn an_explanation_has_the_shape_that_scripts_rely_on() {
        let expected = concat!(
            r#"{"summary":"the cluster is healthy","answered_by":"n3","nodes":["#,
            r#"{"node":"n1","rule":"following","why":"n2 holds the lease.","waiting_for":null},"#,
            r#"{"node":"n2","rule":"serving","why":"It holds the lease.","#,
            r#""waiting_for":"the standby n1 to catch up"}],"#,
            r#""if_primary_died":{"successor":"n1","why":"It has all WAL.","#,
            r#""refusals":["n4: 20 MiB behind"],"lost_bytes":0,"#,
            r#""lost":"Every acknowledged commit is on n1 or n3.","expected_ms":3500}}"#,
            "\n"
        );
        assert_eq!(explanation(&samples::explanation(), Layout::Line), expected);

        let bare = Explanation { if_primary_died: None, nodes: vec![], ..samples::explanation() };
        let expected = concat!(
            r#"{"summary":"the cluster is healthy","answered_by":"n3","nodes":[],"#,
            r#""if_primary_died":null}"#,
            "\n"
        );
        assert_eq!(explanation(&bare, Layout::Line), expected);
    }
}
