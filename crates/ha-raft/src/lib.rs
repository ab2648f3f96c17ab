//! The replicated log of a cluster: openraft over sled and tonic.
//!
//! | Module | Holds |
//! |---|---|
//! | [`registry`] | the front door: open a node, propose, confirm leadership, watch the state |
//! | [`recovery`] | a group is made anew from the store of one survivor |
//! | [`log_store`] | votes and log entries on disk, and how their loss is noticed |
//! | [`state_machine`] | the applied [`ha_core::state::State`] and its snapshots |
//! | [`transport`] | Raft's messages between nodes, as `ha.v1.Raft` |
//! | [`store_dir`] | the directory: identity, lock, names of its files |
//! | [`types`] | how the cluster's words map to openraft's |
//!
//! # Versions and traps
//!
//! openraft is pinned to one release; its log can be lost silently by sled 0.34.7 alone, because
//! sled's `flush` does not sync on Linux. [`log_store`] says what is done about it, and the tests
//! under `tests/` show both that it helps and that they would notice if it did not.

mod error_chain;
pub mod log_store;
pub mod recovery;
pub mod registry;
#[cfg(feature = "sabotage")]
pub mod sabotage;
pub mod state_machine;
pub mod store_dir;
pub mod transport;
pub mod types;

pub use log_store::StoreError;

pub use registry::{
    Applied, ConfirmError, Confirmed, Effect, InitializeError, Leadership, MemberInfo, OpenError,
    ProposeError, RaftHandle, RaftSettings, RaftStatus, ReplaceError, TransferError,
};
pub use transport::{Cut, RaftService};
