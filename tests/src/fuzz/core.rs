//! What `ha-core` reads: the files between agent and guard, and words with a meaning.

use std::fmt::{Debug, Display, Write as _};
use std::str::FromStr;

use ha_core::permit::{GuardStatus, Launch, ParseError, Permit, SignalRequest, Signalled};
use ha_core::policy::Durability;
use ha_core::{BootId, Lsn, NodeId};

use super::{choice, text};

/// The files of the permit directory: what is accepted is written and read back the same.
pub(super) fn permit(data: &[u8]) {
    let (kind, rest) = choice(data);
    let mut text = text(rest).into_owned();
    // The checksum keeps all else out, so that nothing behind it would be reached.
    if kind & 1 == 1 {
        seal(&mut text);
    }
    match kind >> 1 {
        0 => again(&text, Permit::decode, Permit::encode),
        1 => again(&text, GuardStatus::decode, GuardStatus::encode),
        2 => again(&text, Launch::decode, Launch::encode),
        3 => again(&text, SignalRequest::decode, SignalRequest::encode),
        _ => again(&text, Signalled::decode, Signalled::encode),
    }
}

fn again<T>(
    text: &str,
    decode: impl Fn(&str) -> Result<T, ParseError>,
    encode: impl Fn(&T) -> String,
) {
    match decode(text) {
        // What is written is read back the same. What is read may hold what is never written, such as a line
        // break of another kind.
        Ok(value) => {
            let written = encode(&value);
            assert_eq!(decode(&written).map(|again| encode(&again)), Ok(written));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// FNV-1a, as the files have it.
fn seal(text: &mut String) {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    writeln!(text, "sum {sum:016x}").expect("writing to a String cannot fail");
}

/// Positions, names and spans: what is read is shown, and what is shown is read as the same.
pub(super) fn texts(data: &[u8]) {
    let text = text(data);
    shown_again::<Lsn>(&text);
    shown_again::<NodeId>(&text);
    shown_again::<BootId>(&text);
    if let Ok(mode) = text.parse::<Durability>() {
        assert_eq!(mode.name(), text);
    }
    if let Some(span) = ha_agent::fuzz_door::duration(&text) {
        let written = format!("{}ms", span.as_millis());
        assert_eq!(ha_agent::fuzz_door::duration(&written), Some(span));
    }
    if let Some(bytes) = ha_agent::fuzz_door::bytes(&text) {
        assert_eq!(ha_agent::fuzz_door::bytes(&bytes.to_string()), Some(bytes));
    }
    if let Ok(span) = haclt::duration::parse_duration(&text) {
        let written = format!("{}ms", span.as_millis());
        assert_eq!(haclt::duration::parse_duration(&written), Ok(span));
        assert_eq!(haclt::duration::parse_wait(&text), Ok(span));
    }
    if let Ok(span) = haclt::duration::parse_seconds(&text) {
        assert!((0.1..=3600.0).contains(&span.as_secs_f64()), "{span:?}");
    }
    let _moment = haclt::moment::parse_since(&text);
    let _moment = haclt::moment::parse_at(&text);
    if let Ok(endpoints) = haclt::endpoint::parse_endpoints([&*text]) {
        for endpoint in endpoints {
            let again = haclt::endpoint::parse_endpoints([&*endpoint.to_string()]);
            assert_eq!(again, Ok(vec![endpoint]));
        }
    }
}

fn shown_again<T: FromStr + Display + Debug + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value));
    }
}
