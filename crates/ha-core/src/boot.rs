//! The identity of one boot of a machine.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kernel's random id of this boot (`/proc/sys/kernel/random/boot_id`), as a number.
///
/// A permit of another boot is worthless: its deadline counts on a clock that started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub u128);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        write!(
            f,
            "{}-{}-{}-{}-{}",
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32)
        )
    }
}

/// A text that is not a boot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid boot id {text:?}: expected a UUID")]
pub struct ParseBootIdError {
    text: String,
}

impl FromStr for BootId {
    type Err = ParseBootIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let number = if plain { u128::from_str_radix(&digits, 16).ok() } else { None };
        number.map(Self).ok_or_else(|| ParseBootIdError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_survives_being_read_and_written() {
        let text = "cb3bdfd2-10ba-4040-8fa0-d66193e97ac5";
        assert_eq!(text.parse::<BootId>().map(|id| id.to_string()), Ok(text.to_owned()));
        assert!("".parse::<BootId>().is_err());
        assert!("cb3bdfd2-10ba-4040-8fa0-d66193e97ac".parse::<BootId>().is_err());
    }
}
