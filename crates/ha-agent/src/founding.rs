//! The first start of a cluster: who makes the Raft group, and whose store may join it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use ha_core::state::{Command, Node, State};
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::{DataDir, PostgresDriver};
use ha_proto::v1::{HelloReply, HelloRequest, NodeTags};
use ha_raft::MemberInfo;
use tracing::{debug, info, warn};

use crate::agent::Agent;
use crate::clock;
use crate::peers::PeerError;

/// How long a peer may take to say who it is.
const HELLO_LIMIT: Duration = Duration::from_millis(900);
/// How long the founding command may take.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);

/// Why this node must not go on under its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// The cluster knows another store under this node's name.
    #[error(
        "cannot join cluster {cluster} as node {node}: its Raft store in {dir} is not the one that \
         joined the cluster"
    )]
    OtherStore {
        /// The cluster.
        cluster: String,
        /// The node.
        node: NodeId,
        /// Where its store is.
        dir: String,
    },
    /// The cluster was made anew without this node.
    #[error(
        "cluster {cluster} was made anew from node {by} (generation {theirs}, here {ours}): node {node} belongs \
         to what was given up"
    )]
    Superseded {
        /// The cluster.
        cluster: String,
        /// This node.
        node: NodeId,
        /// Who says so.
        by: NodeId,
        /// Its generation.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// A peer serves another cluster, or is another node.
    #[error("cannot work with the peer at {address}: {why}")]
    WrongPeer {
        /// Its address.
        address: String,
        /// What is wrong.
        why: String,
    },
}

/// Returns who this agent is, for a peer.
pub fn hello<D>(agent: &Agent<D>, to: &NodeId) -> HelloRequest {
    HelloRequest {
        cluster: agent.config.cluster.clone(),
        from: agent.node().to_string(),
        to: to.to_string(),
        incarnation: agent.incarnation.0,
        protocol: ha_proto::PROTOCOL,
        store: store_text(agent.raft.store_id()),
    }
}

/// What is to be done about a node whose store is new, in one line.
#[must_use]
pub fn new_store(node: &NodeId) -> String {
    format!(
        "its Raft store is new and the cluster knows another: if its disk was lost, haclt node replace {node}"
    )
}

/// Returns the identity of a store as it travels.
#[must_use]
pub fn store_text(id: u128) -> String {
    format!("{id:032x}")
}

/// Returns the identity of the cluster as it travels; empty before it is founded.
#[must_use]
pub fn cluster_text(state: &State) -> String {
    if state.is_founded() { format!("{:032x}", state.cluster_id) } else { String::new() }
}

/// Asks every other node who it is, and checks that it is who the configuration says.
///
/// # Errors
/// [`Stranger`] if a peer knows another store under this node's name. A peer of another cluster, or an
/// address that leads to the wrong node, is logged and counts as silent.
pub async fn ask_all<D: PostgresDriver>(
    agent: &Agent<D>,
) -> Result<BTreeMap<NodeId, HelloReply>, Stranger> {
    // Those of the configuration too: a node of a cluster that was made anew finds a second one like it there.
    let members = agent.members();
    let others: BTreeSet<&NodeId> = members.keys().chain(agent.config.peers.keys()).collect();
    let others = others.into_iter().filter(|node| *node != agent.node());
    let asked = others.map(|node| async move {
        (node.clone(), agent.peers.hello(node, hello(agent, node), HELLO_LIMIT).await)
    });
    let mut replies = BTreeMap::new();
    for (node, reply) in join_all(asked).await {
        match reply {
            Ok(reply) => {
                expect_current(agent, &node, &reply)?;
                // What a node that was taken out remembers of stores says nothing any more.
                if !members.contains_key(&node) {
                    continue;
                }
                let ours = store_text(agent.raft.store_id());
                let known = !reply.expected_store.is_empty();
                if known && reply.expected_store == ours {
                    agent.is_stranger.store(false, Ordering::Relaxed);
                }
                if known && reply.expected_store != ours && !agent.raft.is_initialized() {
                    // Its store is new: it takes part in nothing until an operator takes it in.
                    if !agent.is_stranger.swap(true, Ordering::Relaxed) {
                        warn!(
                            "cannot join cluster {}: {}",
                            agent.config.cluster,
                            new_store(agent.node())
                        );
                    }
                    replies.insert(node, reply);
                    continue;
                }
                if known && reply.expected_store != ours {
                    return Err(Stranger::OtherStore {
                        cluster: agent.config.cluster.clone(),
                        node: agent.node().clone(),
                        dir: agent.config.data_dir.join("raft").display().to_string(),
                    });
                }
                replies.insert(node, reply);
            }
            Err(PeerError::Failed { node, why }) => debug!(peer = %node, why, "peer said no"),
            Err(error) => debug!(%error, "peer is silent"),
        }
    }
    Ok(replies)
}

/// A node of a group that was given up must not go on.
fn expect_current<D: PostgresDriver>(
    agent: &Agent<D>,
    by: &NodeId,
    reply: &HelloReply,
) -> Result<(), Stranger> {
    let state = agent.state();
    let own = cluster_text(&state);
    // Two that were made anew from the same one do not know better than each other: neither goes on.
    let rival = reply.generation == state.generation
        && state.generation > 0
        && !own.is_empty()
        && reply.cluster_id != own;
    let newer = reply.generation > state.generation;
    if !agent.raft.is_initialized() || reply.cluster_id.is_empty() || !(newer || rival) {
        return Ok(());
    }
    // A member of the new group that lags behind is none of the old one: it is known there by its store.
    if reply.expected_store == store_text(agent.raft.store_id()) {
        return Ok(());
    }
    Err(Stranger::Superseded {
        cluster: agent.config.cluster.clone(),
        node: agent.node().clone(),
        by: by.clone(),
        theirs: reply.generation,
        ours: state.generation,
    })
}

/// Returns whether this node has a database, or may have one.
pub fn has_database<D: PostgresDriver>(agent: &Agent<D>) -> bool {
    let Some(database) = &agent.database else { return false };
    let found = database.facts().data_dir.as_ref().map(|(_, found)| found.clone());
    !matches!(found, Some(DataDir::Empty))
}

/// Makes the Raft group, if this node is the first by name, every peer is there, and no store belongs
/// to a group yet. Returns whether the group exists as far as this node knows.
///
/// # Errors
/// [`Stranger`]: this node must not go on.
pub async fn join<D: PostgresDriver>(agent: &Agent<D>) -> Result<bool, Stranger> {
    if agent.raft.is_initialized() {
        return Ok(true);
    }
    let replies = ask_all(agent).await?;
    let first = agent.config.peers.keys().next() == Some(agent.node());
    let all = agent.others().iter().all(|node| replies.contains_key(node));
    if agent.config.join || !first || !all || replies.values().any(|reply| reply.initialized) {
        return Ok(false);
    }
    let mut members = BTreeMap::new();
    let own =
        MemberInfo { grpc: agent.config.advertise_grpc.clone(), store_id: agent.raft.store_id() };
    members.insert(agent.node().clone(), own);
    for (node, reply) in &replies {
        let Ok(store_id) = u128::from_str_radix(&reply.store, 16) else {
            warn!(peer = %node, store = reply.store, "peer has a malformed store identity");
            return Ok(false);
        };
        let grpc = agent.config.peers.get(node).cloned().unwrap_or_default();
        members.insert(node.clone(), MemberInfo { grpc, store_id });
    }
    match agent.raft.initialize(members).await {
        Ok(()) => info!(cluster = agent.config.cluster, "made the Raft group"),
        Err(error) => warn!(%error, "could not make the Raft group"),
    }
    Ok(agent.raft.is_initialized())
}

/// Proposes the founding of the cluster: its name, its identity, its nodes.
pub async fn found<D: PostgresDriver>(agent: &Agent<D>, term: u64) {
    let replies = match ask_all(agent).await {
        Ok(replies) => replies,
        Err(error) => {
            warn!(%error, "cannot found the cluster");
            return;
        }
    };
    let mut nodes = BTreeMap::from([(agent.node().clone(), own(agent))]);
    for (node, reply) in replies {
        let kind = if reply.kind == "data" { NodeKind::Data } else { NodeKind::Witness };
        let is = Node {
            kind,
            grpc: reply.grpc_address,
            postgres: reply.postgres_address,
            keeps_wal: reply.keeps_wal,
            sync: !reply.asynchronous,
        };
        nodes.insert(node, is);
    }
    let missing: Vec<String> = agent
        .others()
        .iter()
        .filter(|node| !nodes.contains_key(*node))
        .map(NodeId::to_string)
        .collect();
    if !missing.is_empty() {
        debug!(missing = missing.join(", "), "founding waits");
        return;
    }
    let cluster_id = u128::from(clock::random()) << 64 | u128::from(clock::random());
    let durability = agent.config.policy.durability;
    let cluster = agent.config.cluster.clone();
    let command = Command::Found { cluster, cluster_id, nodes, durability };
    if let Err(error) = agent.raft.propose(command, Some(term), PROPOSE_LIMIT).await {
        // Right after an election a leader proposes nothing for a moment; the next tick tries again.
        debug!(%error, "could not found the cluster yet");
    }
}

/// Returns this node as the cluster should know it.
pub fn own<D>(agent: &Agent<D>) -> Node {
    Node {
        kind: agent.config.kind,
        grpc: agent.config.advertise_grpc.clone(),
        postgres: agent
            .config
            .postgres
            .as_ref()
            .map(|postgres| join_address(&postgres.advertise))
            .unwrap_or_default(),
        keeps_wal: agent.witness.as_ref().is_none_or(|witness| witness.unable.is_none()),
        sync: agent.config.postgres.as_ref().is_none_or(|postgres| postgres.sync),
    }
}

/// Returns what this node's configuration says of its use, if it has a database.
pub fn tags<D>(agent: &Agent<D>) -> Option<NodeTags> {
    agent.config.postgres.as_ref().map(|postgres| NodeTags {
        promotable: postgres.promotable,
        sync: postgres.sync,
        read: postgres.read,
        priority: postgres.priority,
    })
}

/// Tells the cluster where this node's services listen, if it knows otherwise.
pub async fn describe<D: PostgresDriver>(agent: &Agent<D>) {
    let state = agent.state();
    let is = own(agent);
    if !state.is_founded() || state.nodes.get(agent.node()) == Some(&is) {
        return;
    }
    let command = Command::Describe { node: agent.node().clone(), is };
    match agent.submit(command, PROPOSE_LIMIT).await {
        Ok(outcome) => info!(?outcome, "told the cluster this node's addresses"),
        Err(error) => debug!(%error, "could not tell the cluster this node's addresses"),
    }
}

fn join_address((host, port): &(String, u16)) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
