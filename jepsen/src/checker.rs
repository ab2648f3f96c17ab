//! What a history shows: nothing lost, nothing forbidden.
//!
//! Each checker reads a [`History`] and returns its own [`Verdict`]. A history that cannot be
//! believed (see [`History::unsound`]) is a failure of the harness, and no verdict on the cluster.

pub mod bank;
pub mod graph;
pub mod linearizable;
pub mod list_append;
pub mod logs;
pub mod overlap;
pub mod recovery;
pub mod rights;
pub mod set;
pub mod standby_reads;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::history::History;

/// How many findings of one class are told in words; more are only counted.
pub const TOLD_MAX: usize = 8;

/// Whether all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    /// It only tells what was seen; nothing of it makes a run invalid.
    #[serde(rename = "info")]
    Told,
    /// Nothing forbidden was found.
    Valid,
    /// It could not be decided. A run with that fails, as indeterminate.
    Unknown,
    /// Something forbidden happened.
    Invalid,
}

impl Validity {
    /// Returns the word that results have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Told => "info",
            Self::Valid => "valid",
            Self::Unknown => "unknown",
            Self::Invalid => "invalid",
        }
    }
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A cycle of writes that overwrite each other (Adya's G0).
    #[serde(rename = "G0")]
    G0,
    /// Something was read that a failed transaction wrote.
    #[serde(rename = "G1a")]
    G1a,
    /// Something was read that its transaction overwrote later.
    #[serde(rename = "G1b")]
    G1b,
    /// A cycle of writes and reads of them.
    #[serde(rename = "G1c")]
    G1c,
    /// A cycle with exactly one anti-dependency: a lost update, a read skew.
    #[serde(rename = "G-single")]
    GSingle,
    /// A cycle with several anti-dependencies, of which no two follow each other.
    #[serde(rename = "G-nonadjacent")]
    GNonadjacent,
    /// A cycle with anti-dependencies that follow each other: write skew.
    #[serde(rename = "G2-item")]
    G2Item,
    /// Two reads of one list of which neither is the beginning of the other.
    IncompatibleOrder,
    /// A list has an element twice.
    DuplicateElement,
    /// A list has an element that nobody appended.
    Garbage,
    /// A transaction does not see what it did or read itself.
    Internal,
    /// A committed write is built on a failed one.
    DirtyUpdate,
    /// An acknowledged append is not there.
    LostAppend,
    /// No order of one register's operations explains what was read.
    NotLinearizable,
    /// The search for an order was given up.
    GivenUp,
    /// An acknowledged element is not there.
    LostElement,
    /// An element is there whose write certainly failed.
    Resurrected,
    /// An element is there that nobody wrote.
    Unexpected,
    /// Nobody read the set at the end: nothing can be said.
    NeverRead,
    /// Money was made or lost.
    WrongTotal,
    /// An account is overdrawn.
    Negative,
    /// Two nodes acknowledged writes at the same time.
    Overlap,
    /// A write was acknowledged under an older epoch than one acknowledged before it was sent.
    EpochBackwards,
    /// Two nodes acknowledged writes under the same epoch.
    SharedEpoch,
    /// Writes were acknowledged on two timelines under the same epoch: it was given twice.
    EpochTwice,
    /// Two nodes had a right to accept writes at once.
    TwoRights,
    /// A node answered with another database's identity.
    ForeignDatabase,
    /// Writes were not acknowledged again in time.
    SlowRecovery,
    /// The epoch changed although no fault asked for it.
    NeedlessFailover,
    /// A log has a line that nobody announced.
    UnannouncedLine,
    /// A log has a panic.
    Panic,
    /// A standby answered with less than what was acknowledged before.
    StaleRead,
    /// A standby answered with what is not in the history that survived.
    DivergedRead,
    /// A standby answered with what was never acknowledged.
    UnacknowledgedRead,
    /// The workload or the harness did what it must not.
    Harness,
}

impl Class {
    /// Returns the word that results have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::G0 => "G0",
            Self::G1a => "G1a",
            Self::G1b => "G1b",
            Self::G1c => "G1c",
            Self::GSingle => "G-single",
            Self::GNonadjacent => "G-nonadjacent",
            Self::G2Item => "G2-item",
            Self::IncompatibleOrder => "incompatible-order",
            Self::DuplicateElement => "duplicate-element",
            Self::Garbage => "garbage",
            Self::Internal => "internal",
            Self::DirtyUpdate => "dirty-update",
            Self::LostAppend => "lost-append",
            Self::NotLinearizable => "not-linearizable",
            Self::GivenUp => "given-up",
            Self::LostElement => "lost-element",
            Self::Resurrected => "resurrected",
            Self::Unexpected => "unexpected",
            Self::NeverRead => "never-read",
            Self::WrongTotal => "wrong-total",
            Self::Negative => "negative",
            Self::Overlap => "overlap",
            Self::EpochBackwards => "epoch-backwards",
            Self::SharedEpoch => "shared-epoch",
            Self::EpochTwice => "epoch-twice",
            Self::TwoRights => "two-rights",
            Self::ForeignDatabase => "foreign-database",
            Self::SlowRecovery => "slow-recovery",
            Self::NeedlessFailover => "needless-failover",
            Self::UnannouncedLine => "unannounced-line",
            Self::Panic => "panic",
            Self::StaleRead => "stale-read",
            Self::DivergedRead => "diverged-read",
            Self::UnacknowledgedRead => "unacknowledged-read",
            Self::Harness => "harness",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One thing that a checker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its kind.
    pub class: Class,
    /// What happened, in words.
    pub text: String,
    /// Indices of the operations that show it.
    pub operations: Vec<u64>,
}

/// What one checker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its name.
    pub checker: String,
    /// Its word.
    pub valid: Validity,
    /// What speaks against the run, at most [`TOLD_MAX`] of each class.
    pub findings: Vec<Finding>,
    /// What is worth knowing and does not make the run invalid.
    pub notes: Vec<Finding>,
    /// How many findings there are of each class, and other figures.
    pub counts: BTreeMap<String, u64>,
    /// All of it in one line, if the figures alone would not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
}

impl Verdict {
    /// Returns the verdict of a checker that has found nothing yet.
    #[must_use]
    pub fn new(checker: &str) -> Self {
        Self {
            checker: checker.to_owned(),
            valid: Validity::Valid,
            findings: Vec::new(),
            notes: Vec::new(),
            counts: BTreeMap::new(),
            told: None,
        }
    }

    /// Adds to a figure.
    pub fn count(&mut self, name: &str, more: u64) {
        *self.counts.entry(name.to_owned()).or_default() += more;
    }

    /// Sets a figure.
    pub fn figure(&mut self, name: &str, value: u64) {
        self.counts.insert(name.to_owned(), value);
    }

    /// Something forbidden happened.
    pub fn find(&mut self, class: Class, operations: Vec<u64>, text: String) {
        self.valid = Validity::Invalid;
        self.told(class, operations, text);
    }

    /// Something keeps the checker from knowing.
    pub fn doubt(&mut self, class: Class, operations: Vec<u64>, text: String) {
        self.valid = self.valid.max(Validity::Unknown);
        self.told(class, operations, text);
    }

    /// Something is worth knowing, and does not make the run invalid.
    pub fn note(&mut self, class: Class, operations: Vec<u64>, text: String) {
        self.count(class.word(), 1);
        if self.notes.iter().filter(|note| note.class == class).count() < TOLD_MAX {
            self.notes.push(Finding { class, text, operations });
        }
    }

    fn told(&mut self, class: Class, operations: Vec<u64>, text: String) {
        self.count(class.word(), 1);
        if self.findings.iter().filter(|finding| finding.class == class).count() < TOLD_MAX {
            self.findings.push(Finding { class, text, operations });
        }
    }

    /// Returns whether it found something of that class.
    #[must_use]
    pub fn has(&self, class: Class) -> bool {
        self.findings.iter().any(|finding| finding.class == class)
    }

    /// Returns the verdict in one line: its word, and the first finding or the figures.
    #[must_use]
    pub fn line(&self) -> String {
        if let Some(told) = &self.told {
            return told.clone();
        }
        let counts: Vec<String> = self.counts.iter().map(|(n, c)| format!("{n} {c}")).collect();
        match self.findings.first() {
            Some(first) => format!("{}: {} ({})", first.class, first.text, counts.join(", ")),
            None => counts.join(", "),
        }
    }
}

/// What all checkers say of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The worst word of all checkers; unknown if the harness failed.
    pub valid: Validity,
    /// Why the run says nothing about the cluster: the history is unsound, or the workload did what
    /// it must not.
    pub harness: Vec<String>,
    /// Each checker's verdict.
    pub verdicts: Vec<Verdict>,
}

impl Outcome {
    /// Puts the verdicts on a history together.
    #[must_use]
    pub fn new(history: &History, verdicts: Vec<Verdict>) -> Self {
        let unsound = history.unsound();
        let mut harness: Vec<String> =
            unsound.iter().take(TOLD_MAX).map(ToString::to_string).collect();
        let findings = verdicts.iter().flat_map(|verdict| &verdict.findings);
        harness.extend(
            findings.filter(|f| f.class == Class::Harness).map(|finding| finding.text.clone()),
        );
        let words = verdicts.iter().map(|v| v.valid).filter(|valid| *valid != Validity::Told);
        let worst = words.max().unwrap_or(Validity::Unknown);
        // What a broken history seems to show is neither good nor bad.
        let valid = if harness.is_empty() { worst } else { Validity::Unknown };
        Self { valid, harness, verdicts }
    }
}

/// Returns a time of a history for people.
#[must_use]
pub(crate) fn seconds(time_ns: u64) -> String {
    if time_ns == u64::MAX {
        return "an unknown time".to_owned();
    }
    format!("{}.{:03} s", time_ns / 1_000_000_000, time_ns / 1_000_000 % 1000)
}
