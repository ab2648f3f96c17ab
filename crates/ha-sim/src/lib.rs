//! What can be shown about haclt without a machine: a model whose states are all visited, and a deterministic
//! world in which the real core runs.

pub mod model;
pub mod world;
