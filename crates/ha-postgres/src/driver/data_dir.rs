//! What is found on disk, without a running server.

use ha_core::{Lsn, WalPosition};

/// What is on disk where the data directory should be. Read without a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDir {
    /// The path does not exist. If it existed before, a mount may have vanished: not "empty".
    Missing,
    /// It cannot be read or makes no sense; the text says why.
    Unreadable(String),
    /// It exists and holds nothing: a place for `initdb` or a clone.
    Empty,
    /// A clone, an `initdb` or a rewind was begun here and not finished: unusable as it is.
    HalfMade(HalfMade),
    /// A data directory.
    Present(ControlFile),
}

/// Which multi-step change left a data directory unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfMade {
    /// `initdb`.
    Initdb,
    /// `pg_basebackup`.
    Clone,
    /// `pg_rewind`: may be repeated from the start; otherwise reclone.
    Rewind,
}

/// What the control file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Identity of the database cluster, drawn by `initdb`.
    pub system_identifier: u64,
    /// Server major version that made the directory (`PG_VERSION`), such as 15.
    pub major: u32,
    /// How the server left it.
    pub state: ControlState,
    /// Timeline and location of the latest checkpoint record.
    pub checkpoint: WalPosition,
    /// REDO location of the latest checkpoint.
    pub redo: Lsn,
    /// Minimum recovery ending location; `0/0` on timeline 0 if it last ran as a primary.
    pub min_recovery_end: WalPosition,
    /// Whether data checksums are on.
    pub checksums: bool,
    /// Whether `standby.signal` is in place.
    pub standby_signal: bool,
}

/// "Database cluster state" of the control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// `shut down`: cleanly, as a primary.
    ShutDown,
    /// `shut down in recovery`: cleanly, as a standby.
    ShutDownInRecovery,
    /// Any other: it crashed, or is running.
    InProduction,
    /// `in archive recovery` / `in crash recovery` / `starting up` / `shutting down`.
    InRecovery,
}
