//! Raft's messages between nodes, as `ha.v1.Raft`.
//!
//! Every request says which cluster it is for, who sends it, who is meant to get it and which store
//! that one had when it became a member. The [`server`](RaftService) refuses what is not for it, so
//! neither an address that leads astray nor a node with a new disk can take part in a vote. The
//! content of a message is openraft's own, as JSON.
//!
//! The [client](Network) keeps three connections to each peer, so that neither entries nor a
//! snapshot delay heartbeats and votes. Only unary `append_entries` is implemented, on purpose:
//! with a pipelined `stream_append`, openraft can count an old answer as a fresh one, and the lease
//! of the primary rests on fresh ones.

use serde::{Deserialize, Serialize};

use crate::types::{ENTRY_BYTES_MAX, SnapshotMeta, Vote};

mod client;
mod cut;
#[doc(hidden)]
pub mod fuzz_door;
mod peer;
mod server;

pub use client::Network;
pub use cut::Cut;
pub use peer::Peers;
pub use server::RaftService;

/// Version of the payloads: JSON of openraft 0.10.
const FORMAT: u32 = 1;
/// The most entries in one message.
pub const MESSAGE_ENTRIES_MAX: usize = 64;
/// The longest message in bytes: as many entries as fit into one, each as long as allowed, twice
/// for what JSON and the envelope add.
pub const MESSAGE_BYTES_MAX: usize = 2 * MESSAGE_ENTRIES_MAX * ENTRY_BYTES_MAX;

/// A snapshot on its way to a follower.
#[derive(Debug, Serialize, Deserialize)]
struct InstallSnapshot {
    /// The leader's.
    vote: Vote,
    /// Up to where it reaches.
    meta: SnapshotMeta,
    /// The content, as it lies on disk.
    text: String,
}
