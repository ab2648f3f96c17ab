//! Durations as people write them: `5s`, `500ms`, `1m`.

use std::time::Duration;

/// The longest duration that is taken: more is surely a slip.
const LONGEST: Duration = Duration::from_hours(1);

/// A text that is not a duration we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// It is not a whole number with a unit.
    #[error("expected a whole number and a unit (ms, s, m), such as 500ms or 5s")]
    Form,
    /// It is zero, or longer than an hour.
    #[error("expected more than nothing and at most an hour")]
    Range,
    /// It is not a number of seconds.
    #[error("expected a number of seconds, from 0.1 to 3600")]
    Seconds,
}

/// Returns the duration that `text` writes: a whole number and a unit, up to one hour.
///
/// # Errors
/// [`ParseDurationError`] if the text has no unit, has another one, or is out of range.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(ParseDurationError::Form),
    };
    if number.is_empty() {
        return Err(ParseDurationError::Form);
    }
    // Digits only, so that what does not parse is too large.
    let number: u64 = number.parse().map_err(|_| ParseDurationError::Range)?;
    let ms = number.checked_mul(unit_ms).ok_or(ParseDurationError::Range)?;
    let duration = Duration::from_millis(ms);
    if duration.is_zero() || duration > LONGEST {
        return Err(ParseDurationError::Range);
    }
    Ok(duration)
}

/// Returns the duration that `text` writes as [`parse_duration`] takes it, or as a whole number of
/// seconds.
///
/// # Errors
/// [`ParseDurationError`] as [`parse_duration`].
pub fn parse_wait(text: &str) -> Result<Duration, ParseDurationError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        parse_duration(&format!("{text}s"))
    } else {
        parse_duration(text)
    }
}

/// Returns the interval that `text` writes as seconds, such as `2` or `0.5`.
///
/// # Errors
/// [`ParseDurationError::Seconds`] if it is no number, or not within 0.1 to 3600.
pub fn parse_seconds(text: &str) -> Result<Duration, ParseDurationError> {
    let plain = |c: char| c.is_ascii_digit() || c == '.';
    let seconds = text.parse::<f64>().ok().filter(|_| text.chars().all(plain));
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|interval| (Duration::from_millis(100)..=LONGEST).contains(interval))
        .ok_or(ParseDurationError::Seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        #[rustfmt::skip]
        let table = [
            ("5s",      Ok(5000)),
            ("500ms",   Ok(500)),
            ("1ms",     Ok(1)),
            ("2m",      Ok(120_000)),
            ("60m",     Ok(3_600_000)),
            ("007s",    Ok(7000)),
            ("61m",     Err(ParseDurationError::Range)),
            ("3601s",   Err(ParseDurationError::Range)),
            ("0s",      Err(ParseDurationError::Range)),
            ("18446744073709551615s", Err(ParseDurationError::Range)),
            ("99999999999999999999s", Err(ParseDurationError::Range)),
            ("",        Err(ParseDurationError::Form)),
            ("5",       Err(ParseDurationError::Form)),
            ("s",       Err(ParseDurationError::Form)),
            ("-5s",     Err(ParseDurationError::Form)),
            ("+5s",     Err(ParseDurationError::Form)),
            ("1.5s",    Err(ParseDurationError::Form)),
            ("5 s",     Err(ParseDurationError::Form)),
            ("5S",      Err(ParseDurationError::Form)),
            ("1h",      Err(ParseDurationError::Form)),
            ("٥s",      Err(ParseDurationError::Form)),
        ];
        for (text, expected) in table {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_wait_is_in_seconds_unless_it_says_otherwise() {
        #[rustfmt::skip]
        let table = [
            ("60",    Ok(60_000)),
            ("60s",   Ok(60_000)),
            ("500ms", Ok(500)),
            ("3601",  Err(ParseDurationError::Range)),
            ("0",     Err(ParseDurationError::Range)),
            ("",      Err(ParseDurationError::Form)),
            ("-1",    Err(ParseDurationError::Form)),
            ("1.5",   Err(ParseDurationError::Form)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_wait(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn an_interval_is_a_number_of_seconds() {
        #[rustfmt::skip]
        let table = [
            ("1",    Some(1000)),
            ("0.5",  Some(500)),
            ("0.1",  Some(100)),
            ("3600", Some(3_600_000)),
            ("0",    None),
            ("0.05", None),
            ("3601", None),
            ("-1",   None),
            ("inf",  None),
            ("NaN",  None),
            ("1e3",  None),
            ("2s",   None),
            ("",     None),
            (".",    None),
        ];
        for (text, expected) in table {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(parse_seconds(text).ok(), expected, "{text:?}");
        }
    }
}
