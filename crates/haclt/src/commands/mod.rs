//! The commands: each one request and one rendering.

pub mod adopt;
pub mod completions;
pub mod config;
pub mod credentials;
pub mod diverged;
pub mod doctor;
pub mod drill;
pub mod explain;
pub mod failover;
pub mod fence;
pub mod journal;
pub mod man;
pub mod node;
pub mod order;
pub mod pause;
pub mod recover;
pub mod remake;
pub mod restart;
pub mod status;
pub mod support;
pub mod switchover;
