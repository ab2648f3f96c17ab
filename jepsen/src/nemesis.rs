//! Faults: which there are, when they come, how they are made and undone.

pub mod clocks;
pub mod containers;
pub mod disks;
pub mod fault;
pub mod inflict;
pub mod links;
pub mod members;
pub mod orders;
pub mod plan;
pub mod slow;
pub mod targets;
pub mod victims;

pub use fault::Fault;
pub use plan::{Plan, Planned};

/// What became of a fault. A broken suite is none of these: it ends the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was made, as the text says.
    Installed(String),
    /// It was not, for this reason; nothing happened.
    Skipped(String),
    /// Nobody knows.
    Indeterminate(String),
}

impl Outcome {
    /// Returns the word for it, as in histories.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Installed(_) => "installed",
            Self::Skipped(_) => "skipped",
            Self::Indeterminate(_) => "indeterminate",
        }
    }

    /// Returns what there is to say about it.
    pub fn detail(&self) -> &str {
        match self {
            Self::Installed(text) | Self::Skipped(text) | Self::Indeterminate(text) => text,
        }
    }
}
