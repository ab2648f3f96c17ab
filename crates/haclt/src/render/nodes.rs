//! The nodes of the cluster, for people.

use crate::render::grid::grid;
use crate::reply::nodes::{NodeEntry, Tags};

const NODES: [&str; 8] = ["NODE", "KIND", "AGENT", "POSTGRES", "RAFT", "STORE", "TAGS", "ANSWERS"];
/// So much of a store's identity tells two apart.
const STORE_CHARS: usize = 8;

/// Returns a line for each node.
#[must_use]
pub fn nodes(nodes: &[NodeEntry]) -> String {
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let dash = || "-".to_owned();
            let raft = if node.leads { format!("{}, leads", node.raft) } else { node.raft.clone() };
            let answers = match (&node.other_store, node.reachable) {
                (Some(other), _) => format!("with another store, {}", short(other)),
                (None, true) => "yes".to_owned(),
                (None, false) => "no".to_owned(),
            };
            [
                node.name.to_string(),
                node.kind.clone().unwrap_or_else(dash),
                node.grpc.clone(),
                node.postgres.clone().unwrap_or_else(dash),
                raft,
                node.store.as_deref().map_or_else(dash, short),
                node.tags.and_then(unusual).unwrap_or_else(dash),
                answers,
            ]
        })
        .collect();
    grid(NODES, &[], &rows)
}

/// Returns what is not as it is by default, if anything.
fn unusual(tags: Tags) -> Option<String> {
    let Tags { promotable, sync, read, priority } = tags;
    let off = [("promotable", promotable), ("sync", sync), ("read", read)];
    let off = off.into_iter().filter(|(_, on)| !on).map(|(name, _)| format!("{name}=false"));
    let priority = (priority != 0).then(|| format!("priority={priority}"));
    let all: Vec<String> = off.chain(priority).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

fn short(store: &str) -> String {
    store.chars().take(STORE_CHARS).collect()
}
