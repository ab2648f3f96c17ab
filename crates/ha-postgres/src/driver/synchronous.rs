//! Whose acknowledgement commits wait for, and what a server tells about those who acknowledge.

use ha_core::{Lsn, NodeId, TimelineId};

/// A name that no receiver of WAL has: a node's name would have to be this, and nobody may.
const NAMELESS: &str = "haclt_nobody";

/// Who must acknowledge a commit before its client is told so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Synchronous {
    /// The primary alone.
    Nobody,
    /// Nobody can: every commit waits. In force on standbys and after each start, until the cluster
    /// says who.
    Closed,
    /// Any `required` of `members`.
    Any {
        /// How many must acknowledge.
        required: u32,
        /// Those whose acknowledgement counts.
        members: Vec<NodeId>,
    },
}

impl Synchronous {
    /// Returns the text of `synchronous_standby_names`. The order of the members does not matter: the
    /// same rule is always the same text. [`Self::Any`] of none, or without members, is
    /// [`Self::Nobody`].
    ///
    /// # Sources
    /// PostgreSQL manual, "Replication", `synchronous_standby_names`.
    #[must_use]
    pub fn setting(&self) -> String {
        match self {
            Self::Nobody => String::new(),
            Self::Closed => format!("FIRST 1 ({NAMELESS})"),
            Self::Any { required: 0, .. } => String::new(),
            Self::Any { members, .. } if members.is_empty() => String::new(),
            Self::Any { required, members } => {
                let mut names: Vec<&str> = members.iter().map(NodeId::as_str).collect();
                names.sort_unstable();
                names.dedup();
                let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                format!("ANY {required} ({})", names.join(", "))
            }
        }
    }
}

/// One receiver of WAL, as the server that sends to it sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receiver {
    /// Its `application_name`: the node's name.
    pub name: String,
    /// Process id of the walsender that serves it, on the sending side.
    pub pid: i32,
    /// What it said it has flushed; zero if it has not said so yet.
    pub flushed: Lsn,
    /// State of the walsender: `startup`, `catchup`, `streaming`, `backup`, `stopping`.
    pub state: String,
    /// Its place in the setting that its walsender itself has loaded; 0 if it is not in that.
    pub priority: i32,
}

/// What a running server tells about its receivers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receivers {
    /// `synchronous_standby_names` as a new session has it.
    pub setting: String,
    /// Primary: end of the WAL that it has itself flushed. Standby: the last WAL replayed.
    pub flushed: Lsn,
    /// Primary: the timeline that is written. Standby: that of its last restart point.
    pub timeline: TimelineId,
    /// Whether it is in recovery.
    pub in_recovery: bool,
    /// Sessions (not ours) whose commit waits for an acknowledgement.
    pub waiting: u32,
    /// The longest of those waits, milliseconds, counted from the start of the statement.
    pub longest_wait_ms: u64,
    /// Every receiver, tools of ours and backups not included.
    pub rows: Vec<Receiver>,
}

/// What a standby has that receives no more WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detached {
    /// The timeline of `flushed`.
    pub timeline: TimelineId,
    /// The last WAL received and flushed to disk, never below `replayed`. It may lie in the middle of
    /// a record.
    pub flushed: Lsn,
    /// The last WAL replayed.
    pub replayed: Lsn,
    /// The timeline of `replayed`: older than that of `flushed` while replay has yet to get there.
    pub replay_timeline: TimelineId,
    /// Whether replay waits for more: every complete record at hand is replayed.
    pub exhausted: bool,
}
