//! Why a store cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use ha_core::NodeId;

/// A store that could not be opened, or that stopped working.
///
/// Nothing is ever repaired by starting from empty: a voter that forgot its vote or its log can
/// help to elect a leader that lacks committed entries.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("could not {doing} {path}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("cannot use the Raft store of {path}: it is in use by {}", owner(*pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that has it, if it said so.
        pid: Option<u32>,
    },
    /// It belongs to another cluster.
    #[error("cannot use {path}: it belongs to cluster {found:?}, this agent to {expected:?}")]
    OtherCluster {
        /// The identity file.
        path: PathBuf,
        /// Its cluster.
        found: String,
        /// The agent's cluster.
        expected: String,
    },
    /// It belongs to another node.
    #[error("cannot use {path}: it belongs to node {found}, this agent is node {expected}")]
    OtherNode {
        /// The identity file.
        path: PathBuf,
        /// Its node.
        found: NodeId,
        /// The agent's node.
        expected: NodeId,
    },
    /// It was written by another version of this program.
    #[error("cannot use {path}: it has format {found}, this agent knows format {known}")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Something in it cannot be what was written.
    #[error("cannot use {path}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It is consistent, but something that was acknowledged is not there any more.
    #[error("cannot use {path}: it has lost what this node once acknowledged: {what}")]
    Lost {
        /// The file that lacks it.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// The log's storage engine reports an error.
    #[error("cannot use {path}: the storage engine gave up")]
    Engine {
        /// Its directory.
        path: PathBuf,
        /// What it said.
        source: sled::Error,
    },
    /// The log's storage engine panicked: its files are not what it wrote.
    #[error("cannot use {path}: the storage engine panicked: {what}")]
    Panicked {
        /// Its directory.
        path: PathBuf,
        /// What it said.
        what: String,
    },
    /// The store does not answer.
    #[error("could not open {path} within {waited_ms} ms")]
    TooSlow {
        /// Its directory.
        path: PathBuf,
        /// For how long it was given.
        waited_ms: u64,
    },
}

impl StoreError {
    /// Returns an [`StoreError::Io`].
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), doing, source }
    }

    /// Returns a [`StoreError::Damaged`].
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    /// Returns a [`StoreError::Lost`].
    pub(crate) fn lost(path: &Path, what: impl Into<String>) -> Self {
        Self::Lost { path: path.to_owned(), what: what.into() }
    }

    /// Returns what the operator can do, as full sentences.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::TooSlow { .. } => {
                "Look after the disk and the permissions of this directory, then start the agent \
                 again; what the store holds is still there."
            }
            Self::Locked { .. } => {
                "Stop the other agent first, or give this one a directory of its own."
            }
            Self::OtherCluster { .. } | Self::OtherNode { .. } => {
                "Correct `cluster`, `node` or the data directory in the agent's configuration."
            }
            Self::UnknownVersion { .. } => {
                "Start the version of the agent that wrote this store, or a newer one that can \
                 read it."
            }
            Self::Damaged { .. }
            | Self::Lost { .. }
            | Self::Engine { .. }
            | Self::Panicked { .. } => {
                "A node that lost part of its Raft store may never vote again under its name. Keep \
                 this directory for analysis, and let the machine join the cluster again as a new \
                 node: a new name, an empty directory."
            }
        }
    }
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
