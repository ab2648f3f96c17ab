//! How the cluster's words map to openraft's.
//!
//! A node's id in openraft is its name, not a number: openraft does not ask for `Copy`, a name
//! needs no table that two nodes could hold differently, and it is what every message, log record
//! and error shows. Leader ids are of the standard kind: one leader per term.

use std::fmt;

use ha_core::NodeId;
use ha_core::state::{Command, Outcome};
use serde::{Deserialize, Serialize};

/// The longest serialised entry in bytes. A record in sled must stay below 128 KiB, above which
/// sled moves it to a file of its own whose durability we do not control.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;

openraft::declare_raft_types!(
    /// The types openraft is used with.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = VoterId,
        Node = Member,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// A node's name, as openraft's node id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VoterId(pub NodeId);

impl fmt::Display for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// openraft's own test suite counts its nodes.
#[cfg(test)]
impl From<u64> for VoterId {
    fn from(number: u64) -> Self {
        Self(format!("n{number}").parse().expect("a letter and digits are a name"))
    }
}

/// What the membership knows of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where its agent listens, `host:port`.
    pub grpc: String,
    /// The identity of its store: a node that lost its disk has another.
    #[serde(with = "hex_u128")]
    pub store_id: u128,
}

/// A command on its way through the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// One entry of the log.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What an entry carries.
pub type Payload = openraft::alias::PayloadOf<TypeConfig>;
/// Term and index of an entry.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote, or the leadership that came of it.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// The voters, and since which entry.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// Up to where a snapshot reaches.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// A term, as it stands in an entry.
pub(crate) type CommittedLeader = openraft::alias::CommittedLeaderIdOf<TypeConfig>;

/// Returns the log id of `term` and `index`.
#[must_use]
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeader::new(term), index)
}

/// Returns the term of a log id.
#[must_use]
pub fn term_of(id: &LogId) -> u64 {
    id.leader_id.term
}

/// Returns how a store's identity is written everywhere: 32 hexadecimal digits.
#[must_use]
pub fn store_id_text(id: u128) -> String {
    format!("{id:032x}")
}

/// Store identities as text: not every reader of JSON has integers of 128 bits.
pub(crate) mod hex_u128 {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(id: &u128, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::store_id_text(*id))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}
