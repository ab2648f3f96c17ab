//! What people and programs get to see: pure functions from checked replies to text.

pub mod config;
pub mod credentials;
pub mod diverged;
pub mod doctor;
pub mod drill;
pub mod failover;
pub mod grid;
pub mod journal;
pub mod json;
pub mod nodes;
pub mod prose;
pub mod switchover;
pub mod table;
pub mod units;
