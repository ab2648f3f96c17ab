//! Timelines: the branches of a cluster's history.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a history branch. A promotion starts a new one.
///
/// Shown as a decimal number, as `pg_controldata` shows it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
