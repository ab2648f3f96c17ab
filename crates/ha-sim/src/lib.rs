//! What can be shown about haclt without a machine: a deterministic world in which the real core runs, and small
//! models of which every schedule is tried.

pub mod model;
pub mod world;
