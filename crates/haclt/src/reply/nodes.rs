//! The nodes of the cluster, and their places among the voters.

use ha_core::NodeId;
use ha_proto::v1;

use super::{MalformedReply, filled, name, text};

/// The nodes of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    /// By name.
    pub nodes: Vec<NodeEntry>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name.
    pub name: NodeId,
    /// `data` or `witness`; none before the cluster is founded.
    pub kind: Option<String>,
    /// Where its agent listens.
    pub grpc: String,
    /// Where its PostgreSQL listens, if it has one.
    pub postgres: Option<String>,
    /// `voter`, `learner` or `none`.
    pub raft: String,
    /// Whether it leads.
    pub leads: bool,
    /// The store that the group knows.
    pub store: Option<String>,
    /// Whether it answers.
    pub reachable: bool,
    /// The store that it answers with, if that is another one.
    pub other_store: Option<String>,
    /// What it is for; none for a witness, and if it does not answer.
    pub tags: Option<Tags>,
}

/// What a data node is for, by its own configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    /// Whether it may become primary.
    pub promotable: bool,
    /// Whether commits may wait for it.
    pub sync: bool,
    /// Whether reads are welcome while it is a standby.
    pub read: bool,
    /// Preferred among equals, higher first.
    pub priority: i32,
}

impl From<v1::NodeTags> for Tags {
    fn from(wire: v1::NodeTags) -> Self {
        let v1::NodeTags { promotable, sync, read, priority } = wire;
        Self { promotable, sync, read, priority }
    }
}

impl TryFrom<v1::NodeListReply> for Nodes {
    type Error = MalformedReply;

    fn try_from(wire: v1::NodeListReply) -> Result<Self, MalformedReply> {
        let nodes = wire.nodes.iter().map(|node| {
            Ok(NodeEntry {
                name: name(&node.name)?,
                kind: text(&node.kind),
                grpc: filled(&node.grpc, "grpc")?,
                postgres: text(&node.postgres),
                raft: filled(&node.raft, "raft")?,
                leads: node.leads,
                store: text(&node.store),
                reachable: node.reachable,
                other_store: text(&node.other_store),
                tags: node.tags.map(Tags::from),
            })
        });
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()? })
    }
}
