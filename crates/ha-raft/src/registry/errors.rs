//! What can go wrong at the front door.

use ha_core::NodeId;

use crate::log_store::StoreError;
use crate::types::{ENTRY_BYTES_MAX, store_id_text};

/// Whether a failed change may have happened all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It has not happened and will not.
    None,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// A node that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its store cannot be used.
    #[error("could not open the Raft store")]
    Store(#[source] StoreError),
    /// openraft does not accept the settings.
    #[error("cannot run Raft with these settings: {what}")]
    Settings {
        /// What openraft says.
        what: String,
    },
    /// openraft does not accept what the store holds.
    #[error("cannot run Raft with what its store holds: {what}")]
    Raft {
        /// What openraft says.
        what: String,
    },
}

impl OpenError {
    /// Returns what the operator can do, as full sentences.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(e) => Some(e.hint()),
            Self::Settings { .. } => {
                Some("Choose heartbeat < election_min < election_max, as in 100, 300, 600 ms.")
            }
            Self::Raft { .. } => None,
        }
    }
}

/// A cluster that could not be initialized.
#[derive(Debug, thiserror::Error)]
pub enum InitializeError {
    /// This node has taken part in a cluster, or has been asked for a vote by one.
    #[error("cannot initialize the Raft group: node {node} is already part of one")]
    AlreadyInitialized {
        /// This node.
        node: NodeId,
    },
    /// The members do not include the node that should begin with them.
    #[error("cannot initialize the Raft group: node {node} is not one of its members")]
    NotAMember {
        /// This node.
        node: NodeId,
    },
    /// The members name another store than the one this node has.
    #[error(
        "cannot initialize the Raft group: it names store {} of node {node}, which has store {}",
        store_id_text(*named),
        store_id_text(*own)
    )]
    OtherStore {
        /// This node.
        node: NodeId,
        /// What the members say.
        named: u128,
        /// What it has.
        own: u128,
    },
    /// Raft has stopped on this node.
    #[error("could not initialize the Raft group: Raft has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

impl InitializeError {
    /// Returns whether the group may have been initialized all the same.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::AlreadyInitialized { .. } | Self::NotAMember { .. } | Self::OtherStore { .. } => {
                Effect::None
            }
            Self::Stopped { .. } => Effect::Unknown,
        }
    }
}

/// A command of which this node cannot say that it was carried out.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// This node is not the leader, or is handing leadership over.
    #[error("cannot propose here: {}", leader_is(leader.as_ref()))]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// This node leads, but not in the term the command was decided in.
    #[error("cannot propose what was decided in term {bound}: this node leads in another term")]
    OtherTerm {
        /// The term it was bound to.
        bound: u64,
    },
    /// This node leads, but a majority has not confirmed that lately: so it is for a moment after
    /// each election, and for as long as the majority is out of reach.
    #[error("could not propose: no majority has confirmed this leader lately")]
    NotReady,
    /// The log does not take entries of that size.
    #[error("cannot propose a command of {bytes} bytes: at most {ENTRY_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No answer in time: the entry may be committed, or be committed later.
    #[error("could not confirm the command within {waited_ms} ms")]
    TimedOut {
        /// For how long was waited.
        waited_ms: u64,
    },
    /// Another leader came before the entry was committed here; it may be committed there.
    #[error("could not confirm the command: {}", leader_is(leader.as_ref()))]
    LeaderChanged {
        /// Who it is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Raft has stopped on this node.
    #[error("could not confirm the command: Raft has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

impl ProposeError {
    /// Returns whether the command may have been carried out all the same.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::NotLeader { .. }
            | Self::OtherTerm { .. }
            | Self::NotReady
            | Self::TooLarge { .. } => Effect::None,
            Self::TimedOut { .. } | Self::LeaderChanged { .. } | Self::Stopped { .. } => {
                Effect::Unknown
            }
        }
    }
}

/// A leadership that is not confirmed. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// This node is not the leader, or is handing leadership over.
    #[error("cannot confirm leadership: {}", leader_is(leader.as_ref()))]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// A majority did not answer in time.
    #[error("could not confirm leadership: no majority answered within {waited_ms} ms")]
    NoQuorum {
        /// For how long was waited.
        waited_ms: u64,
    },
    /// A majority confirmed it, but what the term began with is not applied yet.
    #[error("could not confirm leadership: its first entry was not applied within {waited_ms} ms")]
    NotApplied {
        /// For how long was waited.
        waited_ms: u64,
    },
    /// It was confirmed for a term that is over.
    #[error("could not confirm leadership of term {asked}: the term is {now} now")]
    TermChanged {
        /// The term when the question was asked.
        asked: u64,
        /// The term afterwards.
        now: u64,
    },
    /// Raft has stopped on this node.
    #[error("could not confirm leadership: Raft has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

/// A leadership that was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// This node is not the leader.
    #[error("cannot hand over leadership: {}", leader_is(leader.as_ref()))]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The group has no such voter.
    #[error("cannot hand over leadership to {to}: it is not a voter")]
    NotAVoter {
        /// The node.
        to: NodeId,
    },
    /// The other node does not answer, or has not all entries; handing over to it would leave the
    /// group without a leader until the next election.
    #[error(
        "could not hand over leadership to node {to}: it was not up to date within {waited_ms} ms"
    )]
    TargetBehind {
        /// The node.
        to: NodeId,
        /// For how long was waited.
        waited_ms: u64,
    },
    /// It was told to take over and has not; the group will elect a leader.
    #[error(
        "could not hand over leadership to node {to}: it did not take over within {waited_ms} ms"
    )]
    NotTaken {
        /// The node.
        to: NodeId,
        /// For how long was waited.
        waited_ms: u64,
    },
    /// Raft has stopped on this node.
    #[error("could not hand over leadership: Raft has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
}

impl TransferError {
    /// Returns whether leadership may have moved, or may move yet.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match self {
            Self::NotLeader { .. } | Self::NotAVoter { .. } | Self::TargetBehind { .. } => {
                Effect::None
            }
            Self::NotTaken { .. } | Self::Stopped { .. } => Effect::Unknown,
        }
    }
}

/// A member that was not replaced, or not completely: given again, the same order goes on where it ended.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// This node is not the leader.
    #[error("cannot replace a member: {}", leader_is(leader.as_ref()))]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The leader's own store is at work.
    #[error("cannot replace node {node}: it leads the group")]
    Leads {
        /// This node.
        node: NodeId,
    },
    /// Not done in time.
    #[error("could not {step} node {node} within {waited_ms} ms")]
    TimedOut {
        /// What was under way.
        step: &'static str,
        /// Which member.
        node: NodeId,
        /// For how long was waited.
        waited_ms: u64,
    },
    /// Raft said no.
    #[error("could not {step} node {node}: {why}")]
    Failed {
        /// What was under way.
        step: &'static str,
        /// Which member.
        node: NodeId,
        /// Raft's own words.
        why: String,
    },
}

fn leader_is(leader: Option<&NodeId>) -> String {
    leader.map_or_else(|| "no leader is known".to_owned(), |id| format!("the leader is {id}"))
}
