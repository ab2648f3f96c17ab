//! The process driver: the contract of all drivers, and what is its own.

mod clones;
#[path = "../contract/mod.rs"]
mod contract;
mod guards;
#[path = "../support/mod.rs"]
mod support;
mod wal;

mod kind {
    /// Which driver is tested.
    pub(crate) const DOCKER: bool = false;
}
