//! Sizes and times as people read them.

/// Returns a size in the largest unit of which there is at least one: `0 B`, `16.0 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit_bytes: u128 = 1;
    let mut shown = String::new();
    for unit in UNITS {
        unit_bytes *= 1024;
        let tenths = (u128::from(bytes) * 10 + unit_bytes / 2) / unit_bytes;
        shown = format!("{}.{} {unit}", tenths / 10, tenths % 10);
        if tenths < 10_240 {
            break;
        }
    }
    shown
}

/// Returns a time in seconds with one decimal: `2.4 s`. What is not quite nothing is not `0.0 s`.
#[must_use]
pub fn seconds(ms: u64) -> String {
    let tenths = (ms / 100) + u64::from(ms % 100 >= 50 || (1..50).contains(&ms));
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// Returns a size as [`size`] does, and exactly: `16.0 MiB (16777216 B)`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 { size(bytes) } else { format!("{} ({bytes} B)", size(bytes)) }
}

/// Returns a point of Unix time, in milliseconds, as UTC to the second: `2026-02-28T23:59:59Z`.
///
/// # Sources
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years begin
/// in March, so that the leap day is the last of its year.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_that_of_greenwich() {
        #[rustfmt::skip]
        let table = [
            (0,                 "1970-01-01T00:00:00Z"),
            (951_782_399_999,   "2000-02-28T23:59:59Z"),
            (951_782_400_000,   "2000-02-29T00:00:00Z"),
            (951_868_800_000,   "2000-03-01T00:00:00Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59Z"),
            (1_772_323_199_999, "2026-02-28T23:59:59Z"),
            (1_772_323_200_000, "2026-03-01T00:00:00Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ];
        for (unix_ms, expected) in table {
            assert_eq!(utc(unix_ms), expected, "{unix_ms}");
        }
        assert!(utc(u64::MAX).ends_with('Z'), "whatever an agent sends is shown");
    }

    #[test]
    fn an_exact_size_is_added_where_the_short_one_is_rounded() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1025), "1.0 KiB (1025 B)");
    }

    #[test]
    fn a_size_is_shown_in_the_unit_it_is_at_least_one_of() {
        #[rustfmt::skip]
        let table = [
            (0,             "0 B"),
            (1,             "1 B"),
            (1023,          "1023 B"),
            (1024,          "1.0 KiB"),
            (1536,          "1.5 KiB"),
            (16 << 20,      "16.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1_048_000,     "1023.4 KiB"),
            (5 << 30,       "5.0 GiB"),
            (1 << 40,       "1.0 TiB"),
            (1 << 50,       "1.0 PiB"),
            (u64::MAX,      "16.0 EiB"),
        ];
        for (bytes, expected) in table {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn a_time_is_shown_in_seconds() {
        #[rustfmt::skip]
        let table = [
            (0,        "0.0 s"),
            (1,        "0.1 s"),
            (49,       "0.1 s"),
            (50,       "0.1 s"),
            (149,      "0.1 s"),
            (150,      "0.2 s"),
            (2400,     "2.4 s"),
            (2999,     "3.0 s"),
            (90_000,   "90.0 s"),
            (u64::MAX, "18446744073709551.6 s"),
        ];
        for (ms, expected) in table {
            assert_eq!(seconds(ms), expected, "{ms}");
        }
    }
}
