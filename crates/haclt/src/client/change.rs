//! A change of the replicated configuration.

use crate::confirm::Confirmed;

/// The one key whose wrong value can cost data.
const DURABILITY: &str = "durability.mode";

/// A key and the value it is to have. One that may lose data exists only confirmed.
#[derive(Debug)]
pub struct Change {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) confirmed: Option<Confirmed>,
}

impl Change {
    /// Returns the change, or none if it may lose data and so has to be [`Self::confirmed`].
    #[must_use]
    pub fn harmless(key: &str, value: &str) -> Option<Self> {
        let risky = key == DURABILITY && value == "async";
        let change = || Self { key: key.to_owned(), value: value.to_owned(), confirmed: None };
        (!risky).then(change)
    }

    /// Returns the change, whatever it may lose.
    #[must_use]
    pub fn confirmed(key: &str, value: &str, confirmed: Confirmed) -> Self {
        Self { key: key.to_owned(), value: value.to_owned(), confirmed: Some(confirmed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_going_to_async_may_lose_data() {
        #[rustfmt::skip]
        let table = [
            // key               value             harmless
            ("durability.mode",  "quorum",         true),
            ("durability.mode",  "strict-standby", true),
            ("durability.mode",  "async",          false),
            ("durability.mode",  "sync",           true),
            ("another",          "async",          true),
        ];
        for (key, value, expected) in table {
            assert_eq!(Change::harmless(key, value).is_some(), expected, "{key} {value}");
        }
    }
}
