//! Clusters with real Postgres, each on addresses and in directories of its own.

mod adopt;
mod bootstrap;
mod crashes;
mod damage;
mod disks;
mod freezes;
mod identity;
mod idle;
mod kills;
mod leaving;
mod permits;
mod rejoin;

/// What a failover without the old primary's help writes.
const FAILOVER: [&str; 8] = [
    "lease expired",
    "lease is lost: a later epoch was granted",
    "could not read the history of",
    "could not renew lease",
    "local WAL diverges from the primary's history",
    "guard ended",
    "diverged WAL was kept aside",
    "kept WAL is not part of the primary's history: set aside",
];
