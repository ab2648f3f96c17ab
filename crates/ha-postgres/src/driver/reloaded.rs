//! What comes of reading the configuration files again.

/// What came of reading the configuration files again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What is wrong with the files, one line each: then they were not read.
    pub faults: Vec<String>,
    /// Parameters that were changed and wait for a restart.
    pub pending_restart: Vec<String>,
}
