//! What agents answer, checked: the wire's messages turned into what can be shown.
//!
//! "Unknown" is `None` here, whatever it looks like on the wire. Texts lose their control
//! characters, so that no database's error message can command the terminal.

use ha_core::node::ParseNodeIdError;
use ha_core::{Epoch, Lsn, NodeId, TimelineId};
use ha_proto::v1;

pub mod config;
pub mod credentials;
pub mod diverged;
pub mod doctor;
pub mod drill;
pub mod failover;
pub mod journal;
pub mod nodes;
pub mod order;
pub mod restart;
#[cfg(test)]
pub(crate) mod samples;
pub mod schedule;
pub mod switchover;

/// A reply that makes no sense, from another version perhaps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedReply {
    /// A field that is never empty is empty.
    #[error("it has no {field}")]
    Missing {
        /// The field's name.
        field: &'static str,
    },
    /// A node's name is not one.
    #[error("{0}")]
    Name(ParseNodeIdError),
    /// A node is listed twice.
    #[error("node {node} is listed twice")]
    ListedTwice {
        /// The node in question.
        node: NodeId,
    },
    /// A node's position is not an LSN.
    #[error("node {node} has an invalid {field}: {text:?}")]
    Position {
        /// The node in question.
        node: NodeId,
        /// The field's name.
        field: &'static str,
        /// What stands there.
        text: String,
    },
    /// A position of diverged WAL is not an LSN.
    #[error("diverged WAL {id} has an invalid {field}: {text:?}")]
    DivergedPosition {
        /// Its number.
        id: u64,
        /// The field's name.
        field: &'static str,
        /// What stands there.
        text: String,
    },
    /// What became of an order is a word that is not known here.
    #[error("it has an unknown outcome: {text:?}")]
    Outcome {
        /// The word.
        text: String,
    },
}

/// The cluster as one agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// `healthy`, or what else the agent calls it.
    pub state: String,
    /// Why it is not healthy.
    pub reason: Option<String>,
    /// The number of the last lease grant.
    pub epoch: Epoch,
    /// The timeline of the primary.
    pub timeline: Option<TimelineId>,
    /// Which commits are safe: `quorum`, `strict-standby` or `async`.
    pub durability: String,
    /// Whether agents observe and take no step.
    pub paused: bool,
    /// The lease.
    pub lease: Option<LeaseView>,
    /// The Raft group.
    pub raft: Option<RaftView>,
    /// Who may acknowledge commits.
    pub wal_quorum: Option<WalQuorumView>,
    /// The nodes, in the order of the agent.
    pub nodes: Vec<NodeView>,
    /// The node whose view this is.
    pub answered_by: Option<NodeId>,
    /// What would be lost if the primary were lost for good now.
    pub loss: Option<String>,
}

/// The right to be primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Who has it; none if it is vacant.
    pub holder: Option<NodeId>,
    /// How long it lasts unless it is renewed, in milliseconds.
    pub left_ms: u64,
    /// How long it lasts from a renewal, in milliseconds.
    pub ttl_ms: u64,
}

/// The Raft group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftView {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// Who has a vote.
    pub voters: Vec<NodeId>,
    /// Whether a majority of the voters answered just now.
    pub quorum: bool,
}

/// Who acknowledges commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalQuorumView {
    /// Who may acknowledge.
    pub members: Vec<NodeId>,
    /// How many of them must.
    pub required: u32,
    /// Who does at present.
    pub acknowledging: Vec<NodeId>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: NodeId,
    /// `data` or `witness`.
    pub kind: String,
    /// `primary`, `standby`, `witness` or `none`.
    pub role: String,
    /// What it is doing.
    pub state: String,
    /// Where its PostgreSQL listens, if it has one.
    pub postgres: Option<String>,
    /// The timeline it is on.
    pub timeline: Option<TimelineId>,
    /// How far its WAL is on disk.
    pub flushed: Option<Lsn>,
    /// How far its WAL is replayed.
    pub replayed: Option<Lsn>,
    /// How much WAL it has still to receive, in bytes.
    pub lag_bytes: Option<u64>,
    /// Whether commits count it as an acknowledger at present.
    pub wal_ack: bool,
    /// Whether its agent answers.
    pub reachable: bool,
    /// The version of its agent.
    pub agent_version: Option<String>,
    /// What is wrong with it.
    pub troubles: Vec<String>,
}

impl ClusterStatus {
    /// Returns whether all is as it should be.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.state == "healthy" && !self.paused
    }

    /// Returns whether this agent knows what the majority knows: a leader, and a quorum behind it.
    #[must_use]
    pub fn is_informed(&self) -> bool {
        let (quorum, leader) = self.authority();
        quorum && leader && !matches!(self.state.as_str(), "leaderless" | "no_quorum")
    }

    /// Returns how much this view is worth beside another one: a quorum first, then a leader.
    #[must_use]
    pub fn authority(&self) -> (bool, bool) {
        let raft = self.raft.as_ref();
        (raft.is_some_and(|raft| raft.quorum), raft.is_some_and(|raft| raft.leader.is_some()))
    }
}

/// Why the cluster is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// In one line, what state it is in.
    pub summary: String,
    /// Each node's reasons.
    pub nodes: Vec<NodeExplanation>,
    /// What would happen if the primary died now.
    pub if_primary_died: Option<IfPrimaryDied>,
    /// The node whose view this is.
    pub answered_by: Option<NodeId>,
}

/// Why one node does what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeExplanation {
    /// The node.
    pub node: NodeId,
    /// The rule that decided last.
    pub rule: Option<String>,
    /// What the rule means.
    pub why: Option<String>,
    /// What has to happen for it to change.
    pub waiting_for: Option<String>,
}

/// What would happen if the primary died now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfPrimaryDied {
    /// Who would be promoted; nobody if absent.
    pub successor: Option<NodeId>,
    /// Why that one, or why nobody.
    pub why: Option<String>,
    /// Who would not be chosen, and why.
    pub refusals: Vec<String>,
    /// Acknowledged commits that would be lost, in bytes of WAL.
    pub lost_bytes: Option<u64>,
    /// What that number means.
    pub lost: Option<String>,
    /// Until writes are accepted again, in milliseconds.
    pub expected_ms: Option<u64>,
}

impl TryFrom<v1::StatusReply> for ClusterStatus {
    type Error = MalformedReply;

    fn try_from(wire: v1::StatusReply) -> Result<Self, MalformedReply> {
        let nodes =
            wire.nodes.into_iter().map(NodeView::try_from).collect::<Result<Vec<_>, _>>()?;
        no_duplicates(nodes.iter().map(|node| &node.name))?;
        Ok(Self {
            cluster: filled(&wire.cluster, "cluster")?,
            state: filled(&wire.state, "state")?,
            reason: text(&wire.reason),
            epoch: Epoch(wire.epoch),
            timeline: timeline(wire.timeline),
            durability: plain(&wire.durability),
            paused: wire.paused,
            lease: wire.lease.map(LeaseView::try_from).transpose()?,
            raft: wire.raft.map(RaftView::try_from).transpose()?,
            wal_quorum: wire.wal_quorum.map(WalQuorumView::try_from).transpose()?,
            nodes,
            answered_by: optional_name(&wire.answered_by)?,
            loss: text(&wire.loss),
        })
    }
}

impl TryFrom<v1::LeaseStatus> for LeaseView {
    type Error = MalformedReply;

    fn try_from(wire: v1::LeaseStatus) -> Result<Self, MalformedReply> {
        let v1::LeaseStatus { holder, left_ms, ttl_ms } = wire;
        Ok(Self { holder: optional_name(&holder)?, left_ms, ttl_ms })
    }
}

impl TryFrom<v1::RaftStatus> for RaftView {
    type Error = MalformedReply;

    fn try_from(wire: v1::RaftStatus) -> Result<Self, MalformedReply> {
        let v1::RaftStatus { leader, term, voters, quorum } = wire;
        Ok(Self { leader: optional_name(&leader)?, term, voters: names(&voters)?, quorum })
    }
}

impl TryFrom<v1::WalQuorumStatus> for WalQuorumView {
    type Error = MalformedReply;

    fn try_from(wire: v1::WalQuorumStatus) -> Result<Self, MalformedReply> {
        let v1::WalQuorumStatus { members, required, acknowledging } = wire;
        Ok(Self { members: names(&members)?, required, acknowledging: names(&acknowledging)? })
    }
}

impl TryFrom<v1::NodeStatus> for NodeView {
    type Error = MalformedReply;

    fn try_from(wire: v1::NodeStatus) -> Result<Self, MalformedReply> {
        let name = name(&wire.name)?;
        Ok(Self {
            kind: plain(&wire.kind),
            role: plain(&wire.role),
            state: plain(&wire.state),
            postgres: text(&wire.postgres),
            timeline: timeline(wire.timeline),
            flushed: position(&name, "flushed_lsn", &wire.flushed_lsn)?,
            replayed: position(&name, "replayed_lsn", &wire.replayed_lsn)?,
            lag_bytes: wire.lag_bytes,
            wal_ack: wire.wal_ack,
            reachable: wire.reachable,
            agent_version: text(&wire.agent_version),
            troubles: texts(&wire.troubles),
            name,
        })
    }
}

impl TryFrom<v1::ExplainReply> for Explanation {
    type Error = MalformedReply;

    fn try_from(wire: v1::ExplainReply) -> Result<Self, MalformedReply> {
        let nodes =
            wire.nodes.iter().map(NodeExplanation::try_from).collect::<Result<Vec<_>, _>>()?;
        no_duplicates(nodes.iter().map(|node| &node.node))?;
        Ok(Self {
            summary: filled(&wire.summary, "summary")?,
            nodes,
            if_primary_died: wire.if_primary_died.map(IfPrimaryDied::try_from).transpose()?,
            answered_by: optional_name(&wire.answered_by)?,
        })
    }
}

impl TryFrom<&v1::NodeExplanation> for NodeExplanation {
    type Error = MalformedReply;

    fn try_from(wire: &v1::NodeExplanation) -> Result<Self, MalformedReply> {
        Ok(Self {
            node: name(&wire.node)?,
            rule: text(&wire.rule),
            why: text(&wire.why),
            waiting_for: text(&wire.waiting_for),
        })
    }
}

impl TryFrom<v1::IfPrimaryDied> for IfPrimaryDied {
    type Error = MalformedReply;

    fn try_from(wire: v1::IfPrimaryDied) -> Result<Self, MalformedReply> {
        let successor = optional_name(&wire.successor)?;
        // Without a successor there is nothing to expect, whatever number stands there.
        let expected_ms = successor.is_some().then_some(wire.expected_ms).filter(|ms| *ms > 0);
        Ok(Self {
            successor,
            why: text(&wire.why),
            refusals: texts(&wire.refusals),
            lost_bytes: wire.lost_bytes,
            lost: text(&wire.lost),
            expected_ms,
        })
    }
}

/// Returns `text` on one line, without control characters.
#[must_use]
pub fn plain(text: &str) -> String {
    let visible = text.replace(char::is_control, " ");
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(wire: &str) -> Option<String> {
    Some(plain(wire)).filter(|text| !text.is_empty())
}

fn texts(wire: &[String]) -> Vec<String> {
    wire.iter().filter_map(|one| text(one)).collect()
}

fn filled(wire: &str, field: &'static str) -> Result<String, MalformedReply> {
    text(wire).ok_or(MalformedReply::Missing { field })
}

fn timeline(wire: u32) -> Option<TimelineId> {
    (wire > 0).then_some(TimelineId(wire))
}

fn name(wire: &str) -> Result<NodeId, MalformedReply> {
    wire.parse().map_err(MalformedReply::Name)
}

fn optional_name(wire: &str) -> Result<Option<NodeId>, MalformedReply> {
    if wire.is_empty() { Ok(None) } else { name(wire).map(Some) }
}

fn names(wire: &[String]) -> Result<Vec<NodeId>, MalformedReply> {
    wire.iter().map(|one| name(one)).collect()
}

fn position(node: &NodeId, field: &'static str, wire: &str) -> Result<Option<Lsn>, MalformedReply> {
    if wire.is_empty() {
        return Ok(None);
    }
    let refuse = |_| MalformedReply::Position { node: node.clone(), field, text: wire.to_owned() };
    wire.parse().map(Some).map_err(refuse)
}

fn no_duplicates<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> Result<(), MalformedReply> {
    let mut seen = std::collections::BTreeSet::new();
    for node in nodes {
        if !seen.insert(node) {
            return Err(MalformedReply::ListedTwice { node: node.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::StatusReply {
        v1::StatusReply {
            cluster: "orders".into(),
            state: "healthy".into(),
            nodes: vec![v1::NodeStatus { name: "n1".into(), ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn what_an_agent_leaves_out_is_unknown() {
        let status = ClusterStatus::try_from(wire()).unwrap();
        assert_eq!((status.lease, status.raft, status.wal_quorum), (None, None, None));
        assert_eq!((status.reason, status.timeline, status.answered_by), (None, None, None));
        let node = &status.nodes[0];
        assert_eq!((node.flushed, node.replayed, node.lag_bytes), (None, None, None));
        assert_eq!((&node.postgres, node.timeline, &node.agent_version), (&None, None, &None));
    }

    #[test]
    fn a_reply_that_makes_no_sense_is_refused() {
        let change = |change: fn(&mut v1::StatusReply)| {
            let mut reply = wire();
            change(&mut reply);
            ClusterStatus::try_from(reply).unwrap_err().to_string()
        };
        assert_eq!(change(|reply| reply.cluster.clear()), "it has no cluster");
        assert_eq!(change(|reply| reply.state = "\n".into()), "it has no state");
        assert_eq!(
            change(|reply| reply.nodes[0].flushed_lsn = "0/\u{1b}".into()),
            "node n1 has an invalid flushed_lsn: \"0/\\u{1b}\""
        );
        assert_eq!(
            change(|reply| reply.nodes.push(reply.nodes[0].clone())),
            "node n1 is listed twice"
        );
        assert!(change(|reply| reply.nodes[0].name.clear()).contains("invalid node name"));
        assert!(change(|reply| reply.answered_by = "N".into()).contains("invalid node name"));
        let raft = |reply: &mut v1::StatusReply| {
            reply.raft = Some(v1::RaftStatus { voters: vec![String::new()], ..Default::default() });
        };
        assert!(change(raft).contains("invalid node name"));
        let empty = Explanation::try_from(v1::ExplainReply::default()).unwrap_err();
        assert_eq!(empty.to_string(), "it has no summary");
    }

    #[test]
    fn text_from_the_wire_cannot_command_the_terminal() {
        assert_eq!(
            plain("FATAL:\r\n\u{1b}[2J  too many\tclients\u{9b}"),
            "FATAL: [2J too many clients"
        );
    }

    #[test]
    fn an_agent_is_informed_if_a_majority_stands_behind_its_leader() {
        #[rustfmt::skip]
        let table = [
            // state        leader  quorum  informed
            ("healthy",     "n1",   true,   true),
            ("electing",    "n1",   true,   true),
            ("healthy",     "n1",   false,  false),
            ("healthy",     "",     true,   false),
            ("leaderless",  "n1",   true,   false),
            ("no_quorum",   "n1",   true,   false),
        ];
        for (state, leader, quorum, expected) in table {
            let raft = v1::RaftStatus { leader: leader.into(), quorum, ..Default::default() };
            let reply = v1::StatusReply { state: state.into(), raft: Some(raft), ..wire() };
            let status = ClusterStatus::try_from(reply).unwrap();
            assert_eq!(status.is_informed(), expected, "{state} {leader} {quorum}");
        }
        assert!(!ClusterStatus::try_from(wire()).unwrap().is_informed());
    }

    #[test]
    fn nothing_is_expected_without_a_successor() {
        let wire = v1::IfPrimaryDied { expected_ms: 3500, ..Default::default() };
        assert_eq!(IfPrimaryDied::try_from(wire).unwrap().expected_ms, None);
    }
}
