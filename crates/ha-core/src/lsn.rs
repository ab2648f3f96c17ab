//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::timeline::TimelineId;

/// A byte offset in the write-ahead log, shown as PostgreSQL shows it: `0/5A3C9F0`.
///
/// # Sources
/// PostgreSQL manual, "`pg_lsn` Type": two hexadecimal numbers of up to 8 digits, high part first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`: no position at all.
    pub const ZERO: Self = Self(0);

    /// Returns how many bytes `self` is ahead of `behind`; 0 if it is not ahead.
    #[must_use]
    pub const fn bytes_after(self, behind: Self) -> u64 {
        self.0.saturating_sub(behind.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN {text:?}: expected two hexadecimal numbers such as 0/5A3C9F0")]
pub struct ParseLsnError {
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseLsnError { text: text.to_owned() };
        let (high, low) = text.split_once('/').ok_or_else(refuse)?;
        let part = |digits: &str| {
            let short = (1..=8).contains(&digits.len());
            let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
            if short && plain { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        match (part(high), part(low)) {
            (Some(high), Some(low)) => Ok(Self(high << 32 | low)),
            _ => Err(refuse()),
        }
    }
}

/// A position that says on which timeline it lies.
///
/// Ordered by timeline first: this is the order in which two writable databases found at a first
/// start are compared. Positions of one history on different timelines must be compared with
/// [`crate::ancestry`] instead.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WalPosition {
    /// The timeline that the bytes belong to.
    pub timeline: TimelineId,
    /// The byte offset.
    pub lsn: Lsn,
}

impl fmt::Display for WalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_lsn_is_shown_as_postgres_shows_it() {
        assert_eq!(Lsn(0x05A3_C9F0).to_string(), "0/5A3C9F0");
        assert_eq!(Lsn(0x0001_0000_0000).to_string(), "1/0");
    }

    #[test]
    fn text_that_is_no_lsn_is_refused() {
        for text in ["", "0", "/", "0/", "/0", "0/1/2", "-1/0", "+1/0", "0/123456789", "g/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_lsn_survives_being_written_and_read(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }

        #[test]
        fn input_never_panics(text in ".{0,24}") {
            drop(text.parse::<Lsn>());
        }
    }
}
