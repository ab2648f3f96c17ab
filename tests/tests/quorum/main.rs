//! Clusters with real Postgres whose commits wait for a quorum: nothing that was acknowledged may be
//! lost, whatever fails.

mod accidents;
mod config;
mod credentials;
mod diverged;
mod docs;
mod doctor;
mod drill;
mod election;
mod first_start;
mod hooks;
mod interruptions;
mod killed_orders;
mod membership;
mod modes;
mod operations;
mod pgbouncer;
mod recovery;
mod rejoin;
mod restart;
mod sequences;
mod shapes;
mod slots;
mod stalls;
mod support;
mod switchover;
mod tools;

/// What a failover without the old primary's help writes, and what is said of receivers that come and
/// go with it.
const FAULTS: [&str; 17] = [
    "lease expired",
    "lease is lost: a later epoch was granted",
    "could not",
    "local WAL diverges from the primary's history",
    "guard ended",
    "database did not answer",
    "node fenced",
    "did not answer",
    "step failed",
    "receiver ended",
    "database crashed",
    "quorum",
    "diverged WAL was kept aside",
    "kept WAL is not part of the primary's history: set aside",
    "the guard is frozen",
    "killing a tool that was left behind",
    // Of an agent that was frozen: what it sees first when it goes on.
    "the control loop hangs",
];
