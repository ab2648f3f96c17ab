//! Clusters that the tests of rendering show.

use ha_core::{Epoch, Lsn, NodeId, TimelineId, WalPosition};

use super::diverged::{DivergedEntry, DivergedReport, DivergedTransaction};
use super::*;

fn n(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn node(name: &str, role: &str, state: &str) -> NodeView {
    let data = role != "witness";
    NodeView {
        name: n(name),
        kind: if data { "data" } else { "witness" }.into(),
        role: role.into(),
        state: state.into(),
        postgres: data.then(|| "10.77.0.1:5432".into()),
        timeline: data.then_some(TimelineId(4)),
        flushed: Some(Lsn(0x05A3_C9F0)),
        replayed: data.then_some(Lsn(0x05A3_C9F0)),
        lag_bytes: (role != "primary").then_some(0),
        wal_ack: role != "primary",
        reachable: true,
        agent_version: Some("0.1.0".into()),
        troubles: vec![],
    }
}

pub(crate) fn healthy() -> ClusterStatus {
    ClusterStatus {
        cluster: "orders".into(),
        state: "healthy".into(),
        reason: None,
        epoch: Epoch(7),
        timeline: Some(TimelineId(4)),
        durability: "quorum".into(),
        paused: false,
        lease: Some(LeaseView { holder: Some(n("n2")), left_ms: 2400, ttl_ms: 3000 }),
        raft: Some(RaftView {
            leader: Some(n("n3")),
            term: 12,
            voters: vec![n("n1"), n("n2"), n("n3")],
            quorum: true,
        }),
        wal_quorum: Some(WalQuorumView {
            members: vec![n("n1"), n("n3")],
            required: 1,
            acknowledging: vec![n("n1"), n("n3")],
        }),
        nodes: vec![
            node("n1", "standby", "streaming"),
            node("n2", "primary", "running"),
            node("n3", "witness", "receiving"),
        ],
        answered_by: Some(n("n3")),
        loss: None,
    }
}

pub(crate) fn degraded() -> ClusterStatus {
    let mut status = healthy();
    status.state = "degraded".into();
    status.reason = Some("node n1 lags behind".into());
    let standby = &mut status.nodes[0];
    standby.state = "catching_up".into();
    standby.flushed = Some(Lsn(0x04A3_C9F0));
    standby.lag_bytes = Some(16 << 20);
    standby.wal_ack = false;
    standby.troubles = vec!["disk 91 % full".into(), "replication slot n3 is inactive".into()];
    status
}

pub(crate) fn cut_off() -> ClusterStatus {
    let unknown = |name: &str, role: &str, state: &str| NodeView {
        postgres: None,
        timeline: None,
        flushed: None,
        replayed: None,
        lag_bytes: None,
        wal_ack: false,
        agent_version: None,
        ..node(name, role, state)
    };
    ClusterStatus {
        state: "no_quorum".into(),
        reason: Some("1 of 3 voters answers".into()),
        timeline: None,
        paused: true,
        lease: None,
        raft: None,
        wal_quorum: None,
        nodes: vec![
            unknown("n1", "none", "stopped"),
            NodeView { reachable: false, ..unknown("n2", "", "unreachable") },
        ],
        ..healthy()
    }
}

pub(crate) fn explanation() -> Explanation {
    let node = |name: &str, rule: &str, why: &str| NodeExplanation {
        node: n(name),
        rule: Some(rule.into()),
        why: Some(why.into()),
        waiting_for: None,
    };
    Explanation {
        summary: "the cluster is healthy".into(),
        nodes: vec![
            node("n1", "following", "n2 holds the lease."),
            NodeExplanation {
                waiting_for: Some("the standby n1 to catch up".into()),
                ..node("n2", "serving", "It holds the lease.")
            },
        ],
        if_primary_died: Some(IfPrimaryDied {
            successor: Some(n("n1")),
            why: Some("It has all WAL.".into()),
            refusals: vec!["n4: 20 MiB behind".into()],
            lost_bytes: Some(0),
            lost: Some("Every acknowledged commit is on n1 or n3.".into()),
            expected_ms: Some(3500),
        }),
        answered_by: Some(n("n3")),
    }
}

pub(crate) fn diverged() -> DivergedReport {
    let place = |timeline, lsn| WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) };
    DivergedReport {
        entry: DivergedEntry {
            id: 3,
            node: n("n1"),
            epoch: Epoch(7),
            fork: place(1, 0x0300_0060),
            end: place(2, 0x0400_0060),
            bytes: 16 << 20,
            at_unix_ms: 1_772_323_199_999,
        },
        reachable: true,
        kept: true,
        directory: Some("/var/lib/haclt/diverged/7-1-0_3000060".into()),
        transactions: vec![
            DivergedTransaction {
                xid: 743,
                commit: Some(Lsn(0x0300_0100)),
                committed_at: Some("2026-02-28 23:59:58 UTC".into()),
                relations: vec!["1663/5/16384".into(), "catalog".into()],
                records: 21,
            },
            DivergedTransaction {
                xid: 800,
                commit: None,
                committed_at: None,
                relations: vec![],
                records: 1,
            },
        ],
        transactions_total: 12,
        truncated: true,
        note: Some("names are of the old primary".into()),
    }
}
