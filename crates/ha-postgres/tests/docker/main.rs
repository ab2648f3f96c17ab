//! The docker driver on a real engine: the contract of all drivers, and what is its own.
//!
//! The agent is on the machine itself here: directories are bound under their own names, and the
//! containers use the machine's network. Without an engine every test says `SKIPPED` and nothing else;
//! with `CI` in the environment that is a failure.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stderr, reason = "figures for people, shown with --nocapture")]

#[path = "../contract/mod.rs"]
mod contract;
mod engine;
mod proxy;
mod restarts;
#[path = "../support/mod.rs"]
mod support;

mod kind {
    /// Which driver is tested.
    pub(crate) const DOCKER: bool = true;
}
