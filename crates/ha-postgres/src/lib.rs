//! One local PostgreSQL instance: the narrow driver trait, its implementations, probes and tools.

mod attempt;
mod control_file;
pub mod diverged;
pub mod driver;
pub mod fake;
mod history;
mod probe;
pub mod process;
mod secret;
mod sql;
mod tool;
pub mod wal;
mod wire;

pub use process::{ProcessConfig, ProcessDriver, Role, RunAs};
pub use secret::Secret;
