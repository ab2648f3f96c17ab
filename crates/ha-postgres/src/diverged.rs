//! What is known of WAL that a node wrote and the cluster did not take over.

use ha_core::{Lsn, WalPosition};
use serde::{Deserialize, Serialize};

/// Name of the file that holds a [`Diverged`] as JSON beside the kept WAL. It is written last.
pub const SUMMARY_FILE: &str = "summary.json";

/// How many transactions are listed one by one.
pub const TRANSACTIONS_MAX: usize = 1000;

/// How many relations are named for each transaction.
pub const RELATIONS_MAX: usize = 20;

/// Name under which all relations of the system catalogs stand in a list of relations.
pub const CATALOG: &str = "catalog";

/// Diverged WAL that was kept: from where to where, and which transactions committed in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// Where the history of the cluster and that of this node part.
    pub fork: WalPosition,
    /// End of the last whole record of this node.
    pub end: WalPosition,
    /// From the fork to the end, in bytes.
    pub bytes: u64,
    /// Size of the files that were copied, in bytes: whole segments, and history files.
    pub copied_bytes: u64,
    /// Transactions that committed after the fork, in the order of their commits: the first
    /// [`TRANSACTIONS_MAX`].
    pub transactions: Vec<DivergedTransaction>,
    /// How many there are in all.
    pub transactions_total: u64,
    /// Whether transactions, relations or records were left out, because there are too many.
    pub truncated: bool,
    /// What an operator should know beyond that, such as WAL that was not there any more.
    pub note: Option<String>,
}

/// One transaction that committed after the fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergedTransaction {
    /// Its number, as in WAL: 32 bits, without PostgreSQL's epoch.
    pub xid: u64,
    /// Where its commit record begins.
    pub commit_lsn: Lsn,
    /// When it committed, as `pg_waldump` prints it, in UTC: `2026-01-31 12:00:00.123456 UTC`.
    pub committed_at: String,
    /// What it changed, its own changes before those of its subtransactions, indexes and TOAST tables
    /// too: `tablespace/database/relfilenode`, at most [`RELATIONS_MAX`]; all system catalogs together
    /// are one [`CATALOG`]. Names are not in the WAL.
    pub relations: Vec<String>,
    /// How many WAL records after the fork are its own or its subtransactions', the commit included.
    pub records: u64,
}
