//! Fault injection on real agents, real guards and real PostgreSQL; checkers of what clients saw.
#![expect(clippy::must_use_candidate, reason = "what is asked for is used, or the question does")]

pub mod checker;
pub mod disk;
pub mod env;
pub mod harness;
pub mod history;
pub mod journal;
pub mod nemesis;
pub mod random;
pub mod report;
pub mod run;
pub mod sabotage;
pub mod suite;
pub mod workload;
