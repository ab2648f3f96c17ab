//! Connections to the other nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha_core::NodeId;
use ha_proto::v1::raft_client::RaftClient;
use tonic::transport::{Channel, Endpoint};

use super::{Cut, MESSAGE_BYTES_MAX};
use crate::types::{Member, VoterId};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(300);
/// How often a silent connection is asked whether it is alive, and how long it may think about it.
/// Tighter is a false alarm on a busy host; tonic's own defaults notice a dead peer after minutes.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(500));
/// After how many calls in a row without an answer the connection is given up.
const SILENT_MAX: u32 = 3;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Heartbeats, votes, transfer of leadership.
    Control,
    /// Log entries.
    Entries,
    /// Snapshots.
    Snapshot,
}

/// The connections of one node to all others, and where they lead.
#[derive(Debug)]
pub struct Peers {
    cluster: String,
    me: NodeId,
    addresses: BTreeMap<NodeId, String>,
    open: Mutex<BTreeMap<(NodeId, String), Arc<Peer>>>,
    cut: Cut,
}

impl Peers {
    /// Returns no connections yet. `addresses` come before those of the membership.
    #[must_use]
    pub fn new(cluster: String, me: NodeId, addresses: BTreeMap<NodeId, String>) -> Self {
        Self { cluster, me, addresses, open: Mutex::default(), cut: Cut::default() }
    }

    /// Returns the switch that cuts this node off from its peers.
    #[must_use]
    pub fn cut(&self) -> &Cut {
        &self.cut
    }

    /// Returns this node.
    pub(super) fn me(&self) -> &NodeId {
        &self.me
    }

    /// Returns the cluster's name.
    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Returns the connections to a member. openraft asks anew for every vote.
    pub(super) fn get(&self, to: &VoterId, member: &Member) -> Arc<Peer> {
        let address = self.addresses.get(&to.0).unwrap_or(&member.grpc).clone();
        let key = (to.0.clone(), address.clone());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(open.entry(key).or_insert_with(|| Arc::new(Peer::new(address))))
    }
}

/// The connections to one address.
#[derive(Debug)]
pub(super) struct Peer {
    address: String,
    lanes: [Mutex<Line>; 3],
}

/// One connection, and how it has been doing.
#[derive(Debug, Default)]
struct Line {
    client: Option<RaftClient<Channel>>,
    /// Which connection it is: a late failure of an old one says nothing about the new one.
    generation: u64,
    silent: u32,
}

impl Peer {
    fn new(address: String) -> Self {
        Self { address, lanes: Default::default() }
    }

    /// Returns where the connections lead.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Returns a connection, and which one it is. It connects when it is first used.
    pub(super) fn client(
        &self,
        lane: Lane,
    ) -> Result<(RaftClient<Channel>, u64), tonic::transport::Error> {
        let mut line = self.line(lane);
        if let Some(client) = &line.client {
            return Ok((client.clone(), line.generation));
        }
        let channel = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let client = RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        line.client = Some(client.clone());
        line.generation += 1;
        line.silent = 0;
        Ok((client, line.generation))
    }

    /// The peer has answered on this connection.
    pub(super) fn answered(&self, lane: Lane, generation: u64) {
        let mut line = self.line(lane);
        if line.generation == generation {
            line.silent = 0;
        }
    }

    /// The connection failed: the next call gets a new one.
    pub(super) fn failed(&self, lane: Lane, generation: u64) {
        let mut line = self.line(lane);
        if line.generation == generation {
            line.client = None;
        }
    }

    /// The peer has not answered in time. Once may be a slow disk; often means that this
    /// connection, whatever the kernel thinks of it, leads nowhere.
    pub(super) fn silent(&self, lane: Lane, generation: u64) {
        let mut line = self.line(lane);
        if line.generation == generation {
            line.silent += 1;
            if line.silent >= SILENT_MAX {
                line.client = None;
            }
        }
    }

    fn line(&self, lane: Lane) -> MutexGuard<'_, Line> {
        self.lanes[lane as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
