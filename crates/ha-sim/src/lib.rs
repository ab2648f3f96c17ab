//! What can be shown about haclt without a machine: a deterministic world in which the real core runs.

pub mod world;
