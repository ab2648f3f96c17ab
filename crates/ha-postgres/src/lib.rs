//! One local PostgreSQL instance: the narrow driver trait, its implementations, probes and tools.

pub mod adopt;
mod attempt;
mod control_file;
pub mod credentials;
pub mod diverged;
pub mod docker;
pub mod drill;
pub mod driver;
pub mod fake;
#[doc(hidden)]
pub mod fuzz_door;
mod guard_files;
mod history;
pub mod instance;
pub mod parameters;
pub mod pgbouncer;
mod probe;
pub mod process;
mod runtime;
mod secret;
mod sql;
mod tool;
pub mod wal;
mod wire;

pub use docker::{DockerConfig, Examined, KillError, PeerAddress, PeerEngine};
pub use instance::{Instance, InstanceConfig, Role, RunAs};
pub use process::ProcessConfig;
pub use secret::{Password, Secret};
