//! What is measured of a server for people: before a planned stop, and when somebody asks for a checkup.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::Lsn;

/// What a planned stop of a server would run into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Transactions of clients that have been open for longer than 30 s.
    pub long_transactions: u32,
    /// The age of the oldest of them, seconds.
    pub oldest_s: u64,
    /// Prepared transactions.
    pub prepared: u32,
    /// Logical replication slots, by name.
    pub logical_slots: Vec<String>,
    /// WAL segments that wait to be archived.
    pub archive_backlog: u32,
    /// Parameters that were changed and wait for a restart.
    pub pending_restart: Vec<String>,
}

/// A value, or in one line why it could not be had.
pub type Measured<T> = Result<T, String>;

/// What was measured of a running server. Each part may be missing by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkup {
    /// How long a session of the superuser took to open.
    pub login: Duration,
    /// Whether it is in recovery.
    pub in_recovery: bool,
    /// `synchronous_standby_names` as it is in force.
    pub synchronous: String,
    /// The settings that say whether a crash, a rewind or a failover is survived, and those that have to
    /// be alike on all nodes; by name.
    pub settings: Measured<BTreeMap<String, String>>,
    /// All replication slots.
    pub slots: Measured<Vec<Slot>>,
    /// Whoever receives WAL from it; backups and tools of ours not included.
    pub standbys: Measured<Vec<Standby>>,
    /// Its directory of WAL.
    pub wal: Measured<Wal>,
    /// Its archiver; `None` if there is none.
    pub archiver: Measured<Option<Archiver>>,
    /// Transactions that keep something from being cleaned up.
    pub transactions: Measured<Transactions>,
}

/// One replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name: a node's, or somebody else's.
    pub name: String,
    /// Whether somebody uses it now.
    pub active: bool,
    /// `wal_status`: `reserved`, `extended`, `unreserved`, `lost`; empty before it reserved anything.
    pub status: String,
    /// How much WAL it keeps, bytes; `None` if it keeps none.
    pub kept_bytes: Option<u64>,
    /// How much more can be written before it is lost, bytes; `None` without a bound.
    pub left_bytes: Option<u64>,
}

/// One receiver of WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// Its `application_name`: the node's name.
    pub name: String,
    /// `startup`, `catchup`, `streaming`, …
    pub state: String,
    /// What it has still to flush, bytes.
    pub lag_bytes: u64,
    /// How long ago the latest WAL that it replayed was written, milliseconds; `None` if it has replayed
    /// everything, or replays nothing.
    pub replay_lag_ms: Option<u64>,
}

/// The directory of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wal {
    /// The size of all files, bytes.
    pub bytes: u64,
    /// What `max_wal_size` and `wal_keep_size` allow without a reason, bytes.
    pub expected_bytes: u64,
}

/// The WAL archiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// The file that failed after the last one that was archived, if one did.
    pub failing: Option<String>,
    /// How long ago that was, seconds.
    pub failed_s: u64,
    /// How often anything failed since the statistics began.
    pub failures: u64,
}

/// Transactions that keep something from being cleaned up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transactions {
    /// Prepared ones.
    pub prepared: u32,
    /// Age of the oldest prepared one, seconds.
    pub prepared_s: u64,
    /// The database whose oldest unfrozen transaction is the oldest.
    pub oldest_database: String,
    /// How many transactions ago that was: at about 2.1 billion the server stops.
    pub oldest_age: u64,
}

/// What a login to another node's server was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To stream from it, as a standby and as `pg_basebackup` do.
    Replication,
    /// To read its files, as `pg_rewind` does.
    Rewind,
}

/// A login to another node's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knock {
    /// What for.
    pub purpose: Purpose,
    /// As whom.
    pub user: String,
    /// How long it took, and how far that server's WAL reached if it said so.
    pub answer: Result<(Duration, Option<Lsn>), KnockError>,
}

/// Why a login to another node's server did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KnockError {
    /// Nothing came back that a server said: not listening, cut off, not in time.
    #[error("{0}")]
    Unreachable(String),
    /// It said no, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It let the user in, who may not do what is needed.
    #[error("it may not execute {0}")]
    Lacks(String),
}
