//! The suite itself failed: that says nothing of the cluster, and is never counted as a result.

use std::fmt;

/// What the suite could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Harness(String);

impl Harness {
    /// Makes one from what is to be read.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Says what was being tried when something failed.
pub trait Trying<T> {
    /// Turns a failure into one of the suite.
    ///
    /// # Errors
    /// The failure, with what was tried in front of it.
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, Harness>;
}

impl<T, E: fmt::Display> Trying<T> for Result<T, E> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, Harness> {
        self.map_err(|error| Harness(format!("could not {}: {error}", what())))
    }
}
