//! The harness of the system tests: a real cluster on loopback, faults, a writer that remembers
//! what was acknowledged, and the checks that every test ends with.
#![expect(clippy::missing_panics_doc, reason = "a harness fails a test by panicking")]
#![expect(clippy::must_use_candidate, reason = "tests call for the effect as often as the value")]

pub mod address;
pub mod admin;
pub mod bouncer;
pub mod by_hand;
pub mod cluster;
pub mod compose;
pub mod config;
pub mod docs;
pub mod engine;
pub mod fuzz;
pub mod logs;
pub mod mount;
pub mod node;
pub mod pair;
pub mod processes;
pub mod programs;
pub mod quorum;
pub mod scenario;
pub mod shape;
pub mod status;
pub mod wait;
pub mod writer;

pub use bouncer::Bouncer;
pub use cluster::Cluster;
pub use compose::Compose;
pub use config::Config;
pub use engine::Engine;
pub use node::Node;
pub use scenario::{Plan, scenario};
pub use shape::Mode;
pub use wait::{eventually, within};
pub use writer::Writer;
