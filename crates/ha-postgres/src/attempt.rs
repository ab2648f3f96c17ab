//! One action being attempted: its name, its deadline, and the errors that name it.

use std::fmt;
use std::time::Duration;

use ha_core::clock::millis;
use tokio::time::Instant;

use crate::driver::{ActionError, Effect};

/// What is being attempted, since when, and until when at most.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    action: String,
    started: Instant,
    deadline: Instant,
}

impl Attempt {
    /// Begins an attempt. `action` is in the infinitive: `promote`, `clone from n2`.
    pub(crate) fn new(action: impl Into<String>, deadline: Instant) -> Self {
        Self { action: action.into(), started: Instant::now(), deadline }
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(crate) fn timed_out(&self) -> ActionError {
        let waited_ms = millis(self.started.elapsed());
        ActionError::TimedOut { action: self.action.clone(), waited_ms }
    }

    pub(crate) fn failed(&self, why: impl fmt::Display, effect: Effect) -> ActionError {
        let (action, why) = (self.action.clone(), one_line(&why.to_string()));
        ActionError::Failed { action, why, effect }
    }

    /// Failed before anything was changed.
    pub(crate) fn refused(&self, why: impl fmt::Display) -> ActionError {
        self.failed(why, Effect::None)
    }

    pub(crate) fn cannot(&self, why: impl fmt::Display) -> ActionError {
        ActionError::Cannot { action: self.action.clone(), why: one_line(&why.to_string()) }
    }
}

/// Returns the text on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
