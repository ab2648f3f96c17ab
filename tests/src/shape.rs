//! What a cluster consists of, and what it promises to begin with.

use std::time::Duration;

use crate::writer;

/// What clients of a new cluster are promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The default: nothing is written into the configuration.
    Quorum,
    /// A standby has every commit.
    StrictStandby,
    /// The primary alone.
    Async,
}

impl Mode {
    /// Returns the mode's name, as in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::StrictStandby => "strict-standby",
            Self::Async => "async",
        }
    }
}

/// How many nodes of which kind, and how they begin.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Nodes with a database.
    pub data: u8,
    /// Nodes without.
    pub witnesses: u8,
    /// Whether witnesses have what they need to keep WAL.
    pub witness_programs: bool,
    /// What clients are promised.
    pub durability: Mode,
    /// How long a client waits for an answer.
    pub patience: Duration,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            data: 2,
            witnesses: 1,
            witness_programs: true,
            durability: Mode::Async,
            patience: writer::PATIENCE,
        }
    }
}

impl Shape {
    /// Returns every node's name, and whether it has a database.
    pub(crate) fn nodes(self) -> impl Iterator<Item = (String, bool)> {
        (1..=self.data + self.witnesses).map(move |n| (format!("n{n}"), n <= self.data))
    }
}
