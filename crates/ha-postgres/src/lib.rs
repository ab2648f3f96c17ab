//! One local PostgreSQL instance: the narrow driver trait, its implementations, probes and tools.

mod attempt;
mod control_file;
pub mod diverged;
pub mod docker;
pub mod driver;
pub mod fake;
mod guard_files;
mod history;
pub mod instance;
mod probe;
pub mod process;
mod runtime;
mod secret;
mod sql;
mod tool;
pub mod wal;
mod wire;

pub use docker::{DockerConfig, Examined};
pub use instance::{Instance, InstanceConfig, Role, RunAs};
pub use process::ProcessConfig;
pub use secret::Secret;
