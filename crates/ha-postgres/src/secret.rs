//! Passwords, kept out of logs by their type.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;

/// A text that is never shown: `Debug` and `Display` print stars.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself: for authentication and for files of mode 0600 only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user's password, which may be under change: the one that is believed to be taken, and another one that
/// some server may take instead. Clones are one and the same.
#[derive(Clone)]
pub struct Password(Arc<RwLock<Candidates>>);

#[derive(Clone, PartialEq, Eq)]
struct Candidates {
    preferred: Secret,
    other: Option<Secret>,
}

impl Password {
    /// Returns the one to begin with.
    #[must_use]
    pub fn preferred(&self) -> Secret {
        self.read().preferred
    }

    /// Returns the one to try if that is refused.
    #[must_use]
    pub fn other(&self) -> Option<Secret> {
        self.read().other
    }

    /// Returns one that is not `tried`, if there is one now.
    #[must_use]
    pub fn another(&self, tried: &Secret) -> Option<Secret> {
        let Candidates { preferred, other } = self.read();
        std::iter::once(preferred).chain(other).find(|secret| secret != tried)
    }

    /// Replaces both; every clone sees it.
    pub fn set(&self, preferred: Secret, other: Option<Secret>) {
        let other = other.filter(|other| *other != preferred);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Candidates { preferred, other };
    }

    /// Begins with `taken` from now on, if it is one of the two.
    pub fn prefer(&self, taken: &Secret) {
        let mut both = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if both.other.as_ref() == Some(taken) {
            let before = std::mem::replace(&mut both.preferred, taken.clone());
            both.other = Some(before);
        }
    }

    fn read(&self) -> Candidates {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl From<Secret> for Password {
    fn from(preferred: Secret) -> Self {
        Self(Arc::new(RwLock::new(Candidates { preferred, other: None })))
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.read() == other.read()
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_tried_first_from_then_on() {
        let [old, new] = ["old", "new"].map(Secret::new);
        let password = Password::from(old.clone());
        let clone = password.clone();
        password.prefer(&new);
        assert_eq!((clone.preferred(), clone.other()), (old.clone(), None), "it was no candidate");
        password.set(old.clone(), Some(new.clone()));
        clone.prefer(&new);
        assert_eq!((password.preferred(), password.other()), (new.clone(), Some(old.clone())));
        // Whoever began with the old one before that, and was refused, goes on with the new one.
        assert_eq!(password.another(&old), Some(new.clone()));
        assert_eq!(password.another(&new), Some(old.clone()));
        password.set(new.clone(), Some(new));
        assert_eq!((clone.other(), format!("{clone:?}")), (None, "***".to_owned()));
        assert_eq!(clone.another(&old), Some(clone.preferred()));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
    }
}
