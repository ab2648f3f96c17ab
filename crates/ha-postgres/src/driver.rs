//! What the agent may ask of the one PostgreSQL instance on its node, however it is run.

mod checkup;
mod cluster;
mod data_dir;
mod drill;
mod reloaded;
mod synchronous;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_core::ancestry::TimelineSwitch;
use ha_core::permit::{GuardStatus, Permit};
use ha_core::{Lsn, NodeId, TimelineId, WalPosition};
use tokio::time::Instant;

use crate::credentials::Logins;
use crate::diverged::Diverged;
use crate::wal::files::Tip;

pub use checkup::{
    Archiver, Checkup, Knock, KnockError, Measured, Purpose, Slot, Standby, Survey, Transactions,
    Wal,
};
pub use cluster::{ClusterApplied, ClusterConf, Pending, PendingChange, Verdict};
pub use data_dir::{ControlFile, ControlState, DataDir, HalfMade};
pub use drill::DrillDriver;
pub use reloaded::Reloaded;
pub use synchronous::{Detached, Receiver, Receivers, Synchronous};

/// What a new connection to the running server tells. All positions are zero where they mean nothing.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each read by its name")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whether it is in recovery: a standby, or a primary still replaying after a crash.
    pub in_recovery: bool,
    /// Identity of the database cluster.
    pub system_identifier: u64,
    /// `server_version_num`, such as `150018`.
    pub version_num: u32,
    /// Timeline it is on now: the one being written (primary) or replayed (standby).
    pub timeline: TimelineId,
    /// Primary: flushed; standby: the last WAL received and flushed to disk (never below `replayed`).
    /// It may lie in the middle of a record, which nobody can replay to; no acknowledged commit ends
    /// in that record.
    pub flushed: Lsn,
    /// Primary: same as `flushed`; standby: the last WAL replayed.
    pub replayed: Lsn,
    /// Standby: whether a WAL receiver is streaming now.
    pub streaming: bool,
    /// Standby: end of the primary's WAL as the WAL receiver last heard it.
    pub upstream_end: Lsn,
    /// Settings changed that wait for a restart.
    pub pending_restart: bool,
    /// Standbys attached to this server: application name and flushed LSN.
    pub attached: Vec<(String, Lsn)>,
    /// Client backends (not ours) that are running a statement or sit in a transaction.
    pub busy_clients: u32,
    /// `synchronous_standby_names` as it is in force.
    pub synchronous: String,
    /// Whether a WAL receiver process exists, streaming or not.
    pub wal_receiver: bool,
    /// Primary: `promotion checkpoint done`: the control file's checkpoint is on the current timeline,
    /// so that `pg_rewind` against it is safe (rule 59). Standby: false.
    pub checkpoint_on_timeline: bool,
}

/// Why a probe has no answer. None of these alone means that the server is dead (rule 105).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Nothing listens.
    #[error("connection refused")]
    Refused,
    /// "the database system is starting up" and its relatives: alive, not ready.
    #[error("not ready: {0}")]
    NotReady(String),
    /// No answer by the deadline; a frozen postmaster looks like this.
    #[error("no answer while {during}, waited {waited_ms} ms")]
    TimedOut {
        /// What was being done: `connecting`, `reading the state`, `writing`.
        during: &'static str,
        /// How long, milliseconds.
        waited_ms: u64,
    },
    /// Password or `pg_hba` refused our own user.
    #[error("authentication refused: {0}")]
    Authentication(String),
    /// "too many clients already": alive, but full.
    #[error("no connection slot left: {0}")]
    Full(String),
    /// The server could not write: disk full or failing.
    #[error("could not write: {0}")]
    CannotWrite(String),
    /// Anything else, with PostgreSQL's own words.
    #[error("{0}")]
    Other(String),
}

/// Whether a failed change may have happened all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It did not happen.
    None,
    /// Nobody knows.
    Unknown,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// It did not end in time.
    #[error("could not {action} within {waited_ms} ms")]
    TimedOut {
        /// What was attempted, in the infinitive: `promote`, `clone from n2`.
        action: String,
        /// How long, milliseconds.
        waited_ms: u64,
    },
    /// A tool or the server said no.
    #[error("could not {action}: {why}")]
    Failed {
        /// What was attempted, in the infinitive.
        action: String,
        /// The tool's or server's words, one line.
        why: String,
        /// Whether it may have happened.
        effect: Effect,
    },
    /// Cannot work before somebody mends something: wrong version, missing binary, foreign data.
    #[error("cannot {action}: {why}")]
    Cannot {
        /// What was attempted, in the infinitive.
        action: String,
        /// What stands against it.
        why: String,
    },
}

impl ActionError {
    /// Returns whether the action may have happened all the same.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        match self {
            Self::TimedOut { .. } => Effect::Unknown,
            Self::Failed { effect, .. } => *effect,
            Self::Cannot { .. } => Effect::None,
        }
    }
}

/// Returns whether a [`rewind`](PostgresDriver::rewind) failed because the data directory lacks WAL
/// of its own that goes back to the last checkpoint before the fork. The error names the segment.
///
/// # Sources
/// PostgreSQL, `pg_rewind/parsexlog.c`: a segment is opened by `SimpleXLogPageRead`; `findLastCheckpoint`
/// and `extractPageMap` tell which record was wanted.
#[must_use]
pub fn missing_wal(error: &ActionError) -> bool {
    let (ActionError::Failed { why, .. } | ActionError::Cannot { why, .. }) = error else {
        return false;
    };
    let no_file = why.contains("could not open file") && why.contains("No such file or directory");
    (no_file && why.contains("pg_wal/")) || why.contains("could not find previous WAL record")
}

/// Another node's server, to stream, clone or rewind from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its node.
    pub node: NodeId,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What a reachable primary tells about its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamHistory {
    /// Identity of its database cluster.
    pub system_identifier: u64,
    /// Its timeline now.
    pub timeline: TimelineId,
    /// Where each earlier timeline ended, oldest first (its `.history` file).
    pub switches: Vec<TimelineSwitch>,
    /// Its end of WAL (flushed).
    pub flushed: Lsn,
    /// Whether it accepts writes (rule 54).
    pub writable: bool,
    /// Whether the checkpoint after its promotion is done (rule 59).
    pub checkpoint_on_timeline: bool,
    /// From where on it keeps WAL for the asking node's slot; zero if the slot has lost its WAL, `None`
    /// if there is no such slot.
    pub kept_from: Option<Lsn>,
}

/// The guard as seen through its status file and its lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardSeen {
    /// No guard holds the lock of the permit directory.
    Absent,
    /// A guard holds the lock, but its last heartbeat is old or unreadable: frozen, or starting.
    Silent {
        /// Since when, as far as this process has seen.
        silent_ms: u64,
        /// The last status it wrote in this boot, if any.
        last: Option<GuardStatus>,
    },
    /// It reports.
    Alive(GuardStatus),
}

/// One PostgreSQL instance on this node, however it is run.
///
/// Every call is idempotent and returns by `deadline`. Dropping a call's future kills the tool that
/// it runs. An [`ActionError`] says through [`ActionError::effect`] whether the action may have
/// happened all the same. The permit decides whether the server runs: only the guard starts, stops
/// and kills it; `write_permit` is the way to ask for that.
pub trait PostgresDriver: DrillDriver + 'static {
    /// Reads the guard's status; changes nothing. Cheap: one small file.
    fn guard(&self) -> GuardSeen;

    /// Starts a guard, detached, if none holds the permit directory's lock.
    fn ensure_guard(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Kills a guard that holds the lock and does not report, and its server with it, and returns once
    /// the lock is free. What is left is for [`PostgresDriver::kill_orphans`]. Does nothing to a guard
    /// that reports.
    fn kill_guard(&self, deadline: Instant)
    -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Tells the guard to end, which it does once its server has stopped, and returns when it is gone.
    fn stop_guard(&self, deadline: Instant)
    -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Reads the permit as the guard would.
    ///
    /// # Errors
    /// A damaged or unreadable permit; a missing one, or one of another boot, is `Ok(None)`.
    fn read_permit(&self) -> Result<Option<Permit>, ActionError>;

    /// Replaces the permit by atomic rename. Returns once every reader sees the new one.
    ///
    /// # Errors
    /// If it could not be written; then the old one stands.
    fn write_permit(&self, permit: &Permit) -> Result<(), ActionError>;

    /// Ends every tool that this process runs, starts no other, and returns once nothing is left of
    /// them. To be called when the agent goes.
    fn end_tools(&self, deadline: Instant) -> impl Future<Output = ()> + Send;

    /// Kills whatever still runs on the data directory although no guard does (rule 48), and returns
    /// once nothing can write to it. Refuses while a guard is alive.
    fn kill_orphans(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Looks at the data directory; starts no server and, for a known version, no program.
    fn inspect(&self, deadline: Instant) -> impl Future<Output = DataDir> + Send;

    /// Reads role and WAL position over a *new* connection; changes nothing.
    fn probe(&self, deadline: Instant) -> impl Future<Output = Result<Probe, ProbeError>> + Send;

    /// Writes and flushes a few bytes of WAL over a *new* connection, without waiting for standbys:
    /// proves that commits can happen.
    fn probe_write(&self, deadline: Instant)
    -> impl Future<Output = Result<(), ProbeError>> + Send;

    /// Makes a new database cluster in the empty data directory, with checksums, internal users and
    /// generated configuration, ready to be started as a standby that follows nobody.
    fn initdb(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<ControlFile, ActionError>> + Send;

    /// Clones `upstream` into the data directory; what was there is moved aside first.
    ///
    /// `progress` is called with bytes done and, where known, bytes in total. `max_rate_kib` bounds the copy, KiB
    /// a second; PostgreSQL takes 32 to 1048576. Until the copy is whole what was there stays in place, so that
    /// it may be dropped.
    fn clone_from(
        &self,
        upstream: &Upstream,
        max_rate_kib: Option<u32>,
        progress: &(dyn Fn(u64, Option<u64>) + Send + Sync),
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Rewinds the stopped data directory to follow `upstream`. An error of `Cannot` or `Failed` with
    /// the upstream still healthy means: reclone; unless it is [`missing_wal`] and the missing segments
    /// can be found and adopted, then: rewind again. A rewind that died half-way may be repeated; where
    /// it cannot, because it has changed the WAL that it would read, the error is `Cannot`.
    fn rewind(
        &self,
        upstream: &Upstream,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Keeps what the stopped data directory has beyond `fork` before it is rewound or replaced: copies
    /// the WAL from the segment of `fork` to `end` into `into` (made if missing; complete only once
    /// `summary.json` is there), and says what is in it.
    ///
    /// Begins anew what an earlier call left unfinished; what one finished, it only reads. WAL that is
    /// not there any more, or unreadable, is told by [`Diverged::note`] and is no error.
    fn keep_diverged(
        &self,
        fork: WalPosition,
        end: WalPosition,
        into: &Path,
        deadline: Instant,
    ) -> impl Future<Output = Result<Diverged, ActionError>> + Send;

    /// Puts copies of complete WAL segments into the stopped data directory's `pg_wal`, under their own
    /// names, where no file of that name is; on disk when it returns. For a [`rewind`](Self::rewind)
    /// that failed because of [`missing_wal`].
    ///
    /// # Errors
    /// [`ActionError::Cannot`] if one of `files` is no complete segment; then none was copied. While a
    /// server runs nothing is copied either.
    fn adopt_wal(
        &self,
        files: &[PathBuf],
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Writes configuration, `pg_hba`, pass file and `standby.signal` so that the next start runs as a
    /// standby of `upstream` (or of nobody). The server must be stopped. The spool is emptied; the
    /// setting is [`Synchronous::Closed`], so that no commit is acknowledged after a promotion before
    /// the cluster said by whom; ordinary clients are let in.
    fn prepare_standby(
        &self,
        upstream: Option<&Upstream>,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Writes configuration so that a crash restart in place runs as a primary. Only legal while the
    /// right of the same epoch is valid; the guard checks that again. Every commit waits after the
    /// start ([`Synchronous::Closed`]); ordinary clients are let in only if `admit` says so (rule 99).
    fn prepare_restart_in_place(
        &self,
        admit: bool,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Has the running server read its configuration files again. Returns the parameters that wait for a restart
    /// afterwards, and what is wrong with the files, one line each.
    fn reload(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Reloaded, ActionError>> + Send;

    /// Remembers what the cluster wants of every server: each later start, clone and rewind writes it, for the
    /// role that the server is to have. `None`: the next start is with what the server last ran well with.
    fn want(&self, conf: Option<ClusterConf>);

    /// Makes that so on the running server, as far as it can be without a restart, and says what cannot.
    /// What `ALTER SYSTEM` has set instead is reset. A server that would not take it keeps what it has.
    fn apply_cluster(
        &self,
        standby: bool,
        deadline: Instant,
    ) -> impl Future<Output = Result<ClusterApplied, ActionError>> + Send;

    /// To be called when the server ended right after its start. Returns whether that may be for what the
    /// cluster wants: then the next start is with what it last ran well with.
    ///
    /// # Errors
    /// [`ActionError`]; nothing was noted.
    fn condemn_cluster(&self) -> Result<bool, ActionError>;

    /// Asks the server which of the values it would take. Changes nothing.
    fn check_parameters(
        &self,
        values: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> impl Future<Output = Result<BTreeMap<String, Verdict>, ActionError>> + Send;

    /// Points the running standby at another upstream (reload, no restart).
    fn follow(
        &self,
        upstream: Option<&Upstream>,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Asks the running standby to end recovery and confirms it: returns the position where the new
    /// timeline begins, once a new connection reports that writes are accepted (rule 26).
    fn promote(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<WalPosition, ActionError>> + Send;

    /// Runs a checkpoint (before a fast stop, after a promotion), without statement timeout.
    fn checkpoint(&self, deadline: Instant)
    -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Makes sure, on a running primary, that the internal user of the peers can log in with the password
    /// that is configured: a data directory that `initdb` of haclt did not make has none, and the
    /// password file may have changed. Changes nothing if it can. Returns whether it changed something.
    fn keep_internal_user(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<bool, ActionError>> + Send;

    /// Makes the physical slots of `peers`, makes those anew that lost their WAL, and on a standby
    /// advances each to the position in `positions`, never past local replay (rules 78 to 82). Drops those
    /// of the nodes that are `gone`. Slots of other names are never touched. Changes nothing when everything is right. Returns the peers
    /// whose slot had lost its WAL: what they need may be gone.
    fn keep_slots(
        &self,
        peers: &[NodeId],
        positions: &[(NodeId, Lsn)],
        gone: &[NodeId],
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<NodeId>, ActionError>> + Send;

    /// Says who must acknowledge commits: writes the setting, has the server read it, and proves by a
    /// new session that it is live; an `ALTER SYSTEM` in the way is reset (rule 73). Cheap if it is so
    /// already. Works on a primary and on a standby.
    ///
    /// Live means for new sessions. Who still releases commits by the setting before is another
    /// question: [`PostgresDriver::settle_synchronous`].
    fn set_synchronous(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Returns what a running server sees of its receivers, over a connection that is kept open
    /// between calls: cheap enough for every tick.
    fn receivers(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Receivers, ProbeError>> + Send;

    /// Changes on a running primary who must acknowledge commits, with a barrier (rule 100): returns a
    /// position such that every commit which the setting before let through lies before it, and no
    /// commit behind it is acknowledged by any setting but `to`.
    ///
    /// In between every commit waits. After an error that may go on: then repeat it. For
    /// [`Synchronous::Nobody`] there is no barrier: whoever asks for that has recorded before that
    /// nothing is promised any more, so nothing need be proven.
    fn settle_synchronous(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> impl Future<Output = Result<Lsn, ActionError>> + Send;

    /// Lets ordinary clients in or keeps them out of the running server (rule 99). Kept out is everybody
    /// but the replication user, and the superuser on this host. Open sessions stay.
    fn admit_clients(
        &self,
        admit: bool,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), ActionError>> + Send;

    /// Has a running standby stop receiving WAL until [`PostgresDriver::follow`] names somebody, and
    /// returns what it has once nothing can be received any more (rule 95). Only reads if it is so
    /// already.
    fn detach(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Detached, ActionError>> + Send;

    /// Returns the directory that the server restores WAL from which another node gave: complete
    /// segments and history files under their names. [`PostgresDriver::prepare_standby`] leaves it
    /// empty.
    fn spool(&self) -> PathBuf;

    /// Removes everything in the spool.
    ///
    /// # Errors
    /// If it cannot be emptied.
    fn clear_spool(&self) -> Result<(), ActionError>;

    /// Returns the directory that the server has its WAL in.
    fn wal_dir(&self) -> PathBuf;

    /// Returns the real end of WAL of the *stopped* data directory: what crash recovery would replay to
    /// (rules 46, 55), read from the files, without changing anything. A clean shutdown's own
    /// checkpoint record counts.
    fn end_of_wal(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<WalPosition, ActionError>> + Send;

    /// Returns the history of the timeline that the local data directory has WAL of, oldest first.
    ///
    /// # Errors
    /// If `pg_wal` or the timeline's history file cannot be read.
    fn local_history(&self) -> Result<Vec<TimelineSwitch>, ActionError>;

    /// Returns how far the WAL on this node's own disk reaches from `position`, up to which the server has
    /// replayed or would recover: also what lies on newer timelines. Reads files, for as long as the disk
    /// needs.
    ///
    /// # Errors
    /// If the files cannot be read.
    fn wal_tip(&self, position: WalPosition) -> Result<Tip, ActionError>;

    /// Asks another node's server for its identity and history, as the internal user.
    fn upstream_history(
        &self,
        upstream: &Upstream,
        deadline: Instant,
    ) -> impl Future<Output = Result<UpstreamHistory, ActionError>> + Send;

    /// Moves the data directory aside (never deletes it) and leaves an empty one; returns the new place.
    ///
    /// # Errors
    /// If a process uses it, or it is a mount point; then nothing was moved.
    fn move_aside(
        &self,
        why: &str,
        deadline: Instant,
    ) -> impl Future<Output = Result<PathBuf, ActionError>> + Send;

    /// Deletes the older ones of the directories that `move_aside` and clones made beside the data
    /// directory, all but the newest `keep`, and returns them. Never touches anything else. Deleting
    /// takes as long as the disk needs.
    ///
    /// # Errors
    /// If they cannot be listed or one cannot be deleted; the next call goes on.
    fn prune_aside(&self, keep: usize) -> Result<Vec<PathBuf>, ActionError>;

    /// Free space of the file system under the data directory, bytes.
    ///
    /// # Errors
    /// If the file system cannot be asked.
    fn free_bytes(&self) -> Result<u64, ActionError>;

    /// How long the guard may take from the deadline until nothing is left, as configured: its margin.
    fn margin(&self) -> Duration;

    /// Looks at what a planned stop of the server would run into; changes nothing.
    ///
    /// # Errors
    /// [`ActionError`] if the server does not answer.
    fn survey(&self, deadline: Instant)
    -> impl Future<Output = Result<Survey, ActionError>> + Send;

    /// Measures what speaks for or against the health of the running server; changes nothing.
    ///
    /// # Errors
    /// [`ProbeError`] if the superuser got no session.
    fn checkup(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<Checkup, ProbeError>> + Send;

    /// Logs in to another node's server as its standby and its rewind would; changes nothing.
    fn knock(&self, at: &Upstream, deadline: Instant) -> impl Future<Output = Vec<Knock>> + Send;

    /// Returns the ways in to this node's server, and the passwords for them; `None` if it has none.
    fn logins(&self) -> Option<Logins> {
        None
    }

    /// Returns what is not well with what the instance runs in, in one line: its container is paused,
    /// the engine is gone. It says nothing about the database. Cheap.
    fn trouble(&self) -> Option<String>;

    /// Returns the id of the container that the guard runs in: if that is dead, so is the server. `None`
    /// if it runs in none, or if there is any doubt. Cheap.
    fn container_id(&self) -> Option<String>;

    /// Waits until `trouble` changes, or until something else happened that is worth a look, such as the
    /// end of a container. May be cancelled; never ends where there is nothing to watch.
    fn changed(&self) -> impl Future<Output = ()> + Send;
}
