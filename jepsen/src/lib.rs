//! Fault injection on real agents, real guards and real PostgreSQL; checkers of what clients saw.

pub mod checker;
pub mod history;
pub mod report;
