//! The replicated configuration, and what became of a change to it.

use ha_proto::v1;

use ha_core::NodeId;

use super::{MalformedReply, filled, name, text, texts};

/// The replicated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Counts its changes.
    pub version: u64,
    /// Its keys, in the order of the agent.
    pub items: Vec<ConfigItem>,
    /// What each data node has of it.
    pub nodes: Vec<ConfigNode>,
}

/// What a data node has of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigNode {
    /// Its name.
    pub name: NodeId,
    /// The version that its server was last brought in line with, if it says.
    pub version: Option<u64>,
    /// Parameters that wait for a restart.
    pub pending: Vec<String>,
}

/// One key of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigItem {
    /// Its name.
    pub key: String,
    /// What it is set to.
    pub value: String,
    /// What is in force: another value than it is set to while a change is under way.
    pub in_force: String,
    /// What the key means and which values it may have.
    pub about: Option<String>,
    /// What it still waits for on which nodes.
    pub awaited: Option<String>,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChanged {
    /// How far it got.
    pub outcome: Outcome,
    /// What is in force, and what is still awaited.
    pub detail: Option<String>,
    /// The value before.
    pub before: Option<String>,
    /// The version of the configuration now.
    pub version: u64,
}

/// How far a change got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force.
    Done,
    /// It is recorded, and not in force yet.
    Accepted,
    /// The key had this value already.
    Unchanged,
}

impl Outcome {
    /// Returns the word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Accepted => "accepted",
            Self::Unchanged => "unchanged",
        }
    }

    fn of(word: &str) -> Result<Self, MalformedReply> {
        let known = [Self::Done, Self::Accepted, Self::Unchanged];
        let found = known.into_iter().find(|known| known.word() == word);
        found.ok_or_else(|| MalformedReply::Outcome { text: word.to_owned() })
    }
}

impl TryFrom<v1::ConfigShowReply> for Configuration {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigShowReply) -> Result<Self, MalformedReply> {
        let v1::ConfigShowReply { version, items, nodes } = wire;
        let items = items.into_iter().map(ConfigItem::try_from).collect::<Result<Vec<_>, _>>()?;
        let nodes = nodes.into_iter().map(ConfigNode::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { version, items, nodes })
    }
}

impl TryFrom<v1::ConfigItem> for ConfigItem {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigItem) -> Result<Self, MalformedReply> {
        let value = printable(&wire.value);
        Ok(Self {
            key: filled(&wire.key, "key")?,
            in_force: text(&wire.in_force).unwrap_or_else(|| value.clone()),
            value,
            about: text(&wire.about),
            awaited: text(&wire.awaited),
        })
    }
}

impl TryFrom<v1::ConfigSetReply> for ConfigChanged {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigSetReply) -> Result<Self, MalformedReply> {
        let v1::ConfigSetReply { outcome, detail, before, version } = wire;
        let outcome = Outcome::of(&outcome)?;
        Ok(Self { outcome, detail: text(&detail), before: text(&before), version })
    }
}

/// Several keys that are changed together, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChanges {
    /// How far that got; none if nothing was to be changed.
    pub outcome: Option<Outcome>,
    /// What is in force, and what is still awaited.
    pub detail: Option<String>,
    /// The version of the configuration now.
    pub version: u64,
    /// What differs.
    pub changes: Vec<Difference>,
}

/// One key that differs; no value means that it is not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub key: String,
    /// The value before.
    pub before: Option<String>,
    /// The value after.
    pub after: Option<String>,
    /// What it needs: `reload`, `restart`, or `unchecked` if nobody can say.
    pub needs: Option<String>,
}

/// One change that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The version that it led to.
    pub version: u64,
    /// When, milliseconds of Unix time.
    pub at_unix_ms: u64,
    /// Who wanted it, if that is known.
    pub by: Option<String>,
    /// What.
    pub changes: Vec<Difference>,
}

/// The changes that are remembered, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigHistory {
    /// Each of them.
    pub entries: Vec<HistoryEntry>,
}

/// A value as it is, apart from what would move the cursor: blanks at its ends count.
fn printable(value: &str) -> String {
    value.replace(char::is_control, " ")
}

impl TryFrom<v1::ConfigNode> for ConfigNode {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigNode) -> Result<Self, MalformedReply> {
        let v1::ConfigNode { name: of, version, pending } = wire;
        Ok(Self { name: name(&of)?, version, pending: texts(&pending) })
    }
}

impl TryFrom<v1::ConfigDifference> for Difference {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigDifference) -> Result<Self, MalformedReply> {
        let v1::ConfigDifference { key, before, after, needs } = wire;
        let value = |value: Option<String>| value.as_deref().map(printable);
        let (before, after) = (value(before), value(after));
        Ok(Self { key: filled(&key, "key")?, before, after, needs: text(&needs) })
    }
}

fn differences(wire: Vec<v1::ConfigDifference>) -> Result<Vec<Difference>, MalformedReply> {
    wire.into_iter().map(Difference::try_from).collect()
}

impl TryFrom<v1::ConfigChangeReply> for ConfigChanges {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigChangeReply) -> Result<Self, MalformedReply> {
        let v1::ConfigChangeReply { outcome, detail, version, changes } = wire;
        let outcome = match outcome.as_str() {
            "possible" => None,
            word => Some(Outcome::of(word)?),
        };
        Ok(Self { outcome, detail: text(&detail), version, changes: differences(changes)? })
    }
}

impl TryFrom<v1::ConfigHistoryReply> for ConfigHistory {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigHistoryReply) -> Result<Self, MalformedReply> {
        let entry = |wire: v1::ConfigHistoryEntry| {
            let v1::ConfigHistoryEntry { version, at_unix_ms, by, changes } = wire;
            let (by, changes) = (text(&by), differences(changes)?);
            Ok(HistoryEntry { version, at_unix_ms, by, changes })
        };
        Ok(Self { entries: wire.entries.into_iter().map(entry).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_to_differ_is_in_force() {
        let item = |in_force: &str| {
            let wire = v1::ConfigItem {
                key: "durability.mode".into(),
                value: "quorum".into(),
                in_force: in_force.into(),
                about: String::new(),
                awaited: String::new(),
            };
            ConfigItem::try_from(wire).unwrap().in_force
        };
        assert_eq!((item("").as_str(), item("async").as_str()), ("quorum", "async"));
    }

    #[test]
    fn an_outcome_is_one_of_three_words() {
        let outcome = |word: &str| {
            let wire = v1::ConfigSetReply { outcome: word.into(), ..Default::default() };
            ConfigChanged::try_from(wire).map(|changed| changed.outcome)
        };
        assert_eq!(outcome("done"), Ok(Outcome::Done));
        assert_eq!(outcome("accepted"), Ok(Outcome::Accepted));
        assert_eq!(outcome("unchanged"), Ok(Outcome::Unchanged));
        for word in ["", "Done", "perhaps"] {
            assert_eq!(outcome(word), Err(MalformedReply::Outcome { text: word.into() }));
        }
        let nameless = Configuration::try_from(v1::ConfigShowReply {
            version: 1,
            items: vec![v1::ConfigItem::default()],
            nodes: vec![],
        });
        assert_eq!(nameless, Err(MalformedReply::Missing { field: "key" }));
    }
}
