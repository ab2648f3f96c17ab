//! What people and programs get to see: pure functions from checked replies to text.

pub mod config;
pub mod diverged;
pub mod grid;
pub mod json;
pub mod prose;
pub mod table;
pub mod units;
