//! What a client asks for, and what it is told.

use crate::env::Database;

/// A part of a transaction on lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A value goes to the end of a list.
    Append(i64, i64),
    /// A list is read.
    Read(i64),
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A transaction on lists.
    Lists(Vec<Step>),
    /// A register is read.
    Read(i64),
    /// A register is set.
    Write(i64, i64),
    /// A register is set if it has a value.
    Cas(i64, i64, i64),
    /// A value is inserted.
    Add(i64),
    /// The same, in a transaction that stays open for so many milliseconds before it commits.
    AddSlowly(i64, u64),
    /// Money goes from one account to another.
    Transfer(i64, i64, i64),
    /// All accounts are read.
    Balances,
    /// A value is inserted, and the server says who it is.
    Probe(i64),
    /// The same, in a transaction that stays open for so many milliseconds before it commits.
    ProbeSlowly(i64, u64),
    /// All inserted values are read.
    ReadAll,
    /// Something is read from a standby, which may be behind.
    OnStandby(Reading),
}

/// What is read from a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Lists, in one snapshot.
    Lists(Vec<i64>),
    /// The newest values.
    Newest,
    /// All accounts.
    Balances,
}

/// Who a server says it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Address and port.
    pub server: String,
    /// The timeline that it writes on.
    pub timeline: u32,
    /// The database's identifier.
    pub system: String,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What each step that reads found.
    Lists(Vec<Option<Vec<i64>>>),
    /// What a register has.
    Register(Option<i64>),
    /// It was done.
    Done,
    /// Accounts and what is on them.
    Balances(Vec<(i64, i64)>),
    /// It was done by that server.
    By(Identity),
    /// All values.
    Values(Vec<i64>),
    /// Nothing was done, for this reason.
    Refused(String),
}

/// Returns the node whose database has an address.
pub fn node_of<'a>(databases: &'a [Database], server: &str) -> Option<&'a str> {
    let found = databases.iter().find(|d| format!("{}:{}", d.host, d.port) == server);
    found.map(|database| database.node.as_str())
}
