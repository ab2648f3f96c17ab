//! Nodes: one machine each, with a permanent name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The permanent, never reused name of a node: also its `application_name` and its slot name.
///
/// Lower-case letters, digits and underscores, starting with a letter, at most 40 characters: what
/// PostgreSQL accepts as the name of a replication slot without quoting or case folding.
///
/// # Sources
/// PostgreSQL manual, "Querying and Manipulating Replication Slots".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A text that cannot be a node's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid node name {text:?}: expected 1 to 40 lower-case letters, digits and underscores, \
     starting with a letter"
)]
pub struct ParseNodeIdError {
    text: String,
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if starts && text.len() <= 40 && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseNodeIdError { text: text.to_owned() })
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = ParseNodeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Runs a PostgreSQL that may become primary.
    Data,
    /// Votes, and never runs a PostgreSQL.
    Witness,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Witness => "witness",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_replication_slot_may_be_called() {
        for good in ["n1", "a", "db_east_2"] {
            assert_eq!(good.parse::<NodeId>().map(String::from), Ok(good.to_owned()));
        }
        let long = "a".repeat(41);
        for bad in ["", "1n", "N1", "n-1", "n 1", "_n", "ü", long.as_str()] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }
}
