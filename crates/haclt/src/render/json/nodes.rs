//! The nodes of the cluster, for programs.

use ha_core::NodeId;
use serde::Serialize;

use super::{Layout, object};
use crate::reply::nodes::{NodeEntry, Tags};

#[derive(Serialize)]
struct Nodes<'a> {
    nodes: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a NodeId,
    kind: Option<&'a str>,
    grpc: &'a str,
    postgres: Option<&'a str>,
    raft: &'a str,
    leads: bool,
    store: Option<&'a str>,
    reachable: bool,
    other_store: Option<&'a str>,
    tags: Option<TagsOf>,
}

#[derive(Serialize)]
struct TagsOf {
    promotable: bool,
    sync: bool,
    read: bool,
    priority: i32,
}

impl From<Tags> for TagsOf {
    fn from(tags: Tags) -> Self {
        let Tags { promotable, sync, read, priority } = tags;
        Self { promotable, sync, read, priority }
    }
}

/// Returns the nodes as one JSON object and a line feed.
#[must_use]
pub fn nodes(nodes: &[NodeEntry], layout: Layout) -> String {
    let nodes = nodes.iter().map(|node| Entry {
        name: &node.name,
        kind: node.kind.as_deref(),
        grpc: &node.grpc,
        postgres: node.postgres.as_deref(),
        raft: &node.raft,
        leads: node.leads,
        store: node.store.as_deref(),
        reachable: node.reachable,
        other_store: node.other_store.as_deref(),
        tags: node.tags.map(TagsOf::from),
    });
    object(&Nodes { nodes: nodes.collect() }, layout)
}
