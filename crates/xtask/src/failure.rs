//! The one error of this program: a line for a person, and perhaps a hint.

use std::fmt::{self, Display};

/// What went wrong, worded for whoever typed the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
}

/// What most functions here return.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Returns a failure that says `message`.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds a hint: a full sentence of its own.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the hint, if there is one.
    pub(crate) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Turns any error into a [`Failure`] that says what was being done.
pub(crate) trait Doing<T> {
    /// Says what was being done, such as "could not read `x`".
    fn doing(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::new(format!("{}: {error}", what())))
    }
}

impl<T> Doing<T> for Option<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.ok_or_else(|| Failure::new(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_being_done_and_why_it_failed() {
        let failed = "x".parse::<u16>().doing(|| "could not read the port".to_owned());
        let text = failed.map_or_else(|failure| failure.to_string(), |_| String::new());
        assert_eq!(text, "could not read the port: invalid digit found in string");
    }
}
