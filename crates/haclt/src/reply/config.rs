//! The replicated configuration, and what became of a change to it.

use ha_proto::v1;

use super::{MalformedReply, filled, plain, text};

/// The replicated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Counts its changes.
    pub version: u64,
    /// Its keys, in the order of the agent.
    pub items: Vec<ConfigItem>,
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
}

impl TryFrom<v1::ConfigShowReply> for Configuration {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigShowReply) -> Result<Self, MalformedReply> {
        let v1::ConfigShowReply { version, items } = wire;
        let items = items.into_iter().map(ConfigItem::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { version, items })
    }
}

impl TryFrom<v1::ConfigItem> for ConfigItem {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigItem) -> Result<Self, MalformedReply> {
        let value = plain(&wire.value);
        Ok(Self {
            key: filled(&wire.key, "key")?,
            in_force: text(&wire.in_force).unwrap_or_else(|| value.clone()),
            value,
            about: text(&wire.about),
        })
    }
}

impl TryFrom<v1::ConfigSetReply> for ConfigChanged {
    type Error = MalformedReply;

    fn try_from(wire: v1::ConfigSetReply) -> Result<Self, MalformedReply> {
        let v1::ConfigSetReply { outcome, detail, before, version } = wire;
        let known = [Outcome::Done, Outcome::Accepted, Outcome::Unchanged];
        let outcome = known
            .into_iter()
            .find(|known| known.word() == outcome)
            .ok_or(MalformedReply::Outcome { text: outcome })?;
        Ok(Self { outcome, detail: text(&detail), before: text(&before), version })
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
        });
        assert_eq!(nameless, Err(MalformedReply::Missing { field: "key" }));
    }
}
