//! The commands: each one request and one rendering.

pub mod completions;
pub mod config;
pub mod diverged;
pub mod explain;
pub mod man;
pub mod status;
