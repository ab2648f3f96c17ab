//! The haclt daemon: observe, decide, act.
//!
//! | Task | Does |
//! |---|---|
//! | [`control_loop`] | one data node's loop: view → decision → step |
//! | [`lease_keeper`] | renews the lease while this node holds it |
//! | [`granter`] | the Raft leader's duties: renewals, expiry, elections |
//! | [`quorum_keeper`] | on the primary: who acknowledges commits, in step with what is recorded |
//! | [`witness`] | receives and keeps WAL, under the lease |
//! | [`prober`] | asks the local database and the other agents |
//! | [`housekeeping`] | slots, addresses |
//! | [`service`], [`admin`] | what other agents and `haclt` are answered |

pub mod act;
pub mod admin;
pub mod agent;
pub mod clock;
pub mod config;
pub mod control_loop;
pub mod crash_point;
pub mod diverged;
pub mod events;
pub mod facts;
pub mod founding;
pub mod granter;
pub mod guard_watch;
pub mod housekeeping;
pub mod jobs;
pub mod launch;
pub mod lease_keeper;
pub mod leave;
pub mod observe;
pub mod peers;
pub mod permit_book;
pub mod pledge;
pub mod preflight;
pub mod prober;
pub mod promotions;
pub mod quorum_keeper;
pub mod report;
pub mod revoke;
pub mod service;
pub mod tend;
pub mod wal_transfer;
pub mod witness;
