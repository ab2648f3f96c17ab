//! What clients do.

pub mod call;
pub mod cancel;
pub mod client;
pub mod draw;
pub mod execute;
pub mod lane;
pub mod schema;
pub mod standby;

use clap::ValueEnum;

/// A kind of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Transactions that append to lists and read them.
    Append,
    /// Single registers: read, write, compare and set.
    Register,
    /// Values that are inserted once; all are read in the end.
    Set,
    /// Transfers between accounts; the sum never changes.
    Bank,
    /// Writes to every node over open sessions, each with what the server says of itself.
    Probe,
}

impl Workload {
    /// Returns its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Register => "register",
            Self::Set => "set",
            Self::Bank => "bank",
            Self::Probe => "probe",
        }
    }
}

/// What a transaction does not see of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// PostgreSQL's default.
    ReadCommitted,
    /// A snapshot.
    RepeatableRead,
    /// As if one after the other.
    Serializable,
}

impl Level {
    /// Returns its name in SQL.
    pub const fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
            Self::Serializable => "serializable",
        }
    }
}
