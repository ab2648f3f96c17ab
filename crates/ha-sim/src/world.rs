//! A deterministic world: clocks, network, disks and a PostgreSQL model, driven by one seed.
//!
//! What is real in it is `ha-core`: the replicated state, both sides of the lease, the permit, the table
//! of decisions, elections, the WAL quorum. Around that is a thin agent that does what `ha-agent` does,
//! file by file, a guard that judges as `ha-guard` does, and a small Raft. `docs/simulation.md` says what is
//! left out.

mod agent;
mod aimed;
mod astray;
mod clients;
mod control;
mod directed;
mod directed_wal;
mod event;
mod faults;
mod granter;
mod guard;
mod handle;
mod host;
mod jobs;
mod kernel;
mod lease;
mod mutation;
mod net;
mod observe;
mod oracle;
mod pg;
mod plan;
mod quorum;
mod raft;
mod rejoin;
mod replay;
mod replay_wal;
mod replication;
mod report;
mod rng;
mod run;
mod state;
mod switchover;
mod trace;
mod wal;
mod witness;

pub use aimed::Aim;
pub use mutation::Mutation;
pub use plan::{Plan, ScriptError};
pub use replay::{Replayed, Step, replay_lease};
pub use replay_wal::replay_wal;
pub(crate) use rng::Rng;
pub use run::{Ended, Outcome, run, search, shrink};
