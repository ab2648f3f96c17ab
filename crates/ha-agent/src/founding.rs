//! The first start of a cluster: who makes the Raft group, and whose store may join it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use ha_core::state::{Command, Node};
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{HelloReply, HelloRequest};
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

/// Returns the identity of a store as it travels.
#[must_use]
pub fn store_text(id: u128) -> String {
    format!("{id:032x}")
}

/// Asks every other node who it is, and checks that it is who the configuration says.
///
/// # Errors
/// [`Stranger`] if a peer knows another store under this node's name. A peer of another cluster, or an
/// address that leads to the wrong node, is logged and counts as silent.
pub async fn ask_all<D: PostgresDriver>(
    agent: &Agent<D>,
) -> Result<BTreeMap<NodeId, HelloReply>, Stranger> {
    let asked = agent.others().map(|node| async move {
        (node.clone(), agent.peers.hello(node, hello(agent, node), HELLO_LIMIT).await)
    });
    let mut replies = BTreeMap::new();
    for (node, reply) in join_all(asked).await {
        match reply {
            Ok(reply) => {
                let ours = store_text(agent.raft.store_id());
                if !reply.expected_store.is_empty() && reply.expected_store != ours {
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
    let all = agent.others().all(|node| replies.contains_key(node));
    if !first || !all || replies.values().any(|reply| reply.initialized) {
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
        };
        nodes.insert(node, is);
    }
    let missing: Vec<&str> =
        agent.others().filter(|node| !nodes.contains_key(*node)).map(NodeId::as_str).collect();
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
    }
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
