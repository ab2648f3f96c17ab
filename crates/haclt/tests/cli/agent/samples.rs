//! What agents answer in these tests.

use ha_proto::v1::{
    ConfigItem, ConfigSetReply, ConfigShowReply, DivergedEntry, DivergedShowReply,
    DivergedTransaction, ExplainReply, IfPrimaryDied, LeaseStatus, NodeExplanation, NodeStatus,
    RaftStatus, StatusReply, WalQuorumStatus,
};

/// Returns the cluster of DESIGN §11, which is healthy.
pub fn healthy() -> StatusReply {
    let node = |name: &str, kind: &str, role: &str, state: &str| NodeStatus {
        name: name.into(),
        kind: kind.into(),
        role: role.into(),
        state: state.into(),
        flushed_lsn: "0/5A3C9F0".into(),
        reachable: true,
        agent_version: "0.1.0".into(),
        rule: "following".into(),
        ..Default::default()
    };
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    StatusReply {
        cluster: "orders".into(),
        state: "healthy".into(),
        epoch: 7,
        timeline: 4,
        durability: "quorum".into(),
        lease: Some(LeaseStatus { holder: "n2".into(), left_ms: 2400, ttl_ms: 3000 }),
        raft: Some(RaftStatus {
            leader: "n3".into(),
            term: 12,
            voters: list(&["n1", "n2", "n3"]),
            quorum: true,
        }),
        wal_quorum: Some(WalQuorumStatus {
            members: list(&["n1", "n3"]),
            required: 1,
            acknowledging: list(&["n1", "n3"]),
        }),
        nodes: vec![
            NodeStatus {
                postgres: "10.77.0.1:5432".into(),
                timeline: 4,
                replayed_lsn: "0/5A3C9F0".into(),
                lag_bytes: Some(0),
                wal_ack: true,
                ..node("n1", "data", "standby", "streaming")
            },
            NodeStatus {
                postgres: "10.77.0.2:5432".into(),
                timeline: 4,
                ..node("n2", "data", "primary", "running")
            },
            NodeStatus {
                lag_bytes: Some(0),
                wal_ack: true,
                ..node("n3", "witness", "witness", "receiving")
            },
        ],
        answered_by: "n3".into(),
        ..Default::default()
    }
}

/// Returns the same cluster as seen by a node that is cut off.
pub fn cut_off() -> StatusReply {
    StatusReply {
        state: "no_quorum".into(),
        reason: "1 of 3 voters answers".into(),
        lease: None,
        raft: Some(RaftStatus { term: 12, ..Default::default() }),
        nodes: vec![],
        answered_by: "n1".into(),
        ..healthy()
    }
}

pub fn explanation() -> ExplainReply {
    ExplainReply {
        summary: "the cluster is healthy".into(),
        nodes: vec![
            NodeExplanation {
                node: "n1".into(),
                rule: "following".into(),
                why: "Node n2 holds the lease, so n1 streams from it and acknowledges its \
                      commits as a member of the WAL quorum."
                    .into(),
                waiting_for: String::new(),
            },
            NodeExplanation {
                node: "n2".into(),
                rule: "serving".into(),
                why: "It holds the lease.".into(),
                waiting_for: "the backup to end".into(),
            },
        ],
        if_primary_died: Some(IfPrimaryDied {
            successor: "n1".into(),
            why: "it has all acknowledged WAL".into(),
            refusals: vec!["n4 is 20 MiB behind".into()],
            lost_bytes: Some(0),
            lost: "Every acknowledged commit is on n1 or n3.".into(),
            expected_ms: 3500,
        }),
        answered_by: "n3".into(),
    }
}

/// Returns a configuration in which a change is under way.
pub fn configuration() -> ConfigShowReply {
    ConfigShowReply {
        version: 8,
        items: vec![ConfigItem {
            key: "durability.mode".into(),
            value: "quorum".into(),
            in_force: "async".into(),
            about: "who acknowledges a commit: quorum, strict-standby or async".into(),
        }],
    }
}

/// Returns the answer to a change that is in force.
pub fn done() -> ConfigSetReply {
    ConfigSetReply {
        outcome: "done".into(),
        detail: "any 1 of n1, n3 acknowledges".into(),
        before: "async".into(),
        version: 9,
    }
}

pub fn diverged_entry() -> DivergedEntry {
    DivergedEntry {
        id: 3,
        node: "n1".into(),
        epoch: 7,
        fork_timeline: 1,
        fork_lsn: "0/3000060".into(),
        end_timeline: 1,
        end_lsn: "0/4000060".into(),
        bytes: 16 << 20,
        at_unix_ms: 1_772_323_199_999,
    }
}

pub fn diverged() -> DivergedShowReply {
    DivergedShowReply {
        entry: Some(diverged_entry()),
        reachable: true,
        kept: true,
        directory: "/var/lib/haclt/diverged/7-1-0_3000060".into(),
        transactions: vec![DivergedTransaction {
            xid: 743,
            commit_lsn: "0/3000100".into(),
            committed_at: "2026-02-28 23:59:58 UTC".into(),
            relations: vec!["1663/5/16384".into(), "catalog".into()],
            records: 21,
        }],
        transactions_total: 12,
        truncated: true,
        note: String::new(),
    }
}
