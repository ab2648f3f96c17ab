//! Moments as people write them: a time with its offset, or a span from now.

use chrono::DateTime;

use crate::commands::journal::now_unix_ms;

/// A text that names no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMomentError {
    /// Neither a span nor a time.
    #[error("expected a span such as 15m or 2h, or a time such as 2026-11-26T03:00:00Z")]
    Form,
    /// A moment to come that is past already.
    #[error("that time is past")]
    Past,
}

/// Returns the moment that `text` names, milliseconds of Unix time: so long ago, or that time.
///
/// # Errors
/// [`ParseMomentError::Form`].
pub fn parse_since(text: &str) -> Result<u64, ParseMomentError> {
    match span_ms(text) {
        Some(span) => Ok(now_unix_ms().saturating_sub(span)),
        None => time(text),
    }
}

/// Returns the moment that `text` names, milliseconds of Unix time: in so long, or that time.
///
/// # Errors
/// [`ParseMomentError`].
pub fn parse_at(text: &str) -> Result<u64, ParseMomentError> {
    let now = now_unix_ms();
    let span = text.strip_prefix('+').unwrap_or(text);
    let at = match span_ms(span) {
        Some(span) => now.saturating_add(span),
        None => time(text)?,
    };
    if at <= now { Err(ParseMomentError::Past) } else { Ok(at) }
}

/// RFC 3339: with an offset or `Z`, since a time without one means another moment on another machine.
fn time(text: &str) -> Result<u64, ParseMomentError> {
    let parsed = DateTime::parse_from_rfc3339(text).map_err(|_| ParseMomentError::Form)?;
    u64::try_from(parsed.timestamp_millis()).map_err(|_| ParseMomentError::Form)
}

fn span_ms(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_an_offset() {
        #[rustfmt::skip]
        let table = [
            ("1970-01-01T00:00:01Z",      Ok(1000)),
            ("1970-01-01T01:00:01+01:00", Ok(1000)),
            ("1970-01-01 00:00:01Z",      Ok(1000)),
            ("1970-01-01T00:00:01",       Err(ParseMomentError::Form)),
            ("03:00",                     Err(ParseMomentError::Form)),
            ("5",                         Err(ParseMomentError::Form)),
            ("",                          Err(ParseMomentError::Form)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_since(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_span_counts_from_now() {
        let now = now_unix_ms();
        for (text, span) in
            [("90s", 90_000), ("15m", 900_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            let since = parse_since(text).unwrap();
            assert!((now - span..now - span + 60_000).contains(&since), "{text}: {since}");
            let at = parse_at(text).unwrap();
            assert!((now + span..now + span + 60_000).contains(&at), "{text}: {at}");
            assert!(parse_at(&format!("+{text}")).is_ok());
        }
        assert_eq!(parse_at("1970-01-01T00:00:01Z"), Err(ParseMomentError::Past));
    }
}
