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
//! | [`parameters`] | keeps the local server in line with the parameters that the cluster sets |
//! | [`credentials`] | this node's passwords of the internal users, and the steps of changing one |
//! | [`housekeeping`] | slots, addresses |
//! | [`scheduler`] | the Raft leader's clock: switchovers whose time has come |
//! | [`doctor`] | examines this node, when somebody asks |
//! | [`drill`] | rehearses a fault, and measures it |
//! | [`door`] | lets no peer in while a partition is rehearsed |
//! | [`hooks`] | runs the operator's programs, one at a time |
//! | [`pgbouncer`] | points PgBouncers at the primary, and pauses them during a switchover |
//! | [`recent_log`], [`support`] | what it logged last, and a bundle for whoever helps |
//! | [`service`], [`admin`] | what other agents and `haclt` are answered |

pub mod act;
pub mod admin;
pub mod adopt;
pub mod agent;
pub mod clock;
pub mod config;
pub mod control_loop;
pub mod crash_point;
pub mod credentials;
pub mod diverged;
pub mod doctor;
pub mod door;
pub mod drill;
pub mod events;
pub mod facts;
pub mod failover;
pub mod fencing;
pub mod founding;
#[doc(hidden)]
pub mod fuzz_door;
pub mod granter;
pub mod guard_watch;
pub mod hand_over;
pub mod hooks;
pub mod housekeeping;
pub mod jobs;
pub mod launch;
pub mod lease_keeper;
pub mod leave;
pub mod notes;
pub mod observe;
pub mod oplog;
pub mod parameters;
pub mod pause;
pub mod peers;
pub mod permit_book;
pub mod pgbouncer;
pub mod pledge;
pub mod preflight;
pub mod prober;
pub mod promotions;
pub mod quorum_keeper;
pub mod recent_log;
pub mod recover;
pub mod remake;
pub mod report;
pub mod restart;
pub mod revoke;
pub mod scheduler;
pub mod service;
pub mod support;
pub mod switchover;
pub mod tend;
pub mod wal_transfer;
pub mod witness;
