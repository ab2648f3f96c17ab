//! The pure heart of haclt: vocabulary, replicated state, lease arithmetic, decisions.
//!
//! Nothing here does I/O, reads a clock, draws randomness or looks at the environment: time,
//! identity and what was seen come in as arguments, so that the same code runs in the agent, in
//! property tests and in simulation.

pub mod ancestry;
pub mod boot;
pub mod candidate;
pub mod clock;
pub mod decide;
pub mod epoch;
pub mod granter;
pub mod holder;
pub mod lease;
pub mod lsn;
pub mod node;
pub mod origin;
pub mod permit;
pub mod policy;
pub mod redact;
pub mod state;
pub mod step;
pub mod timeline;
pub mod view;
pub mod wal_quorum;

pub use boot::BootId;
pub use clock::{BootNanos, ClockReading};
pub use epoch::{Epoch, Incarnation};
pub use lease::Lease;
pub use lsn::{Lsn, WalPosition};
pub use node::{NodeId, NodeKind};
pub use timeline::TimelineId;
