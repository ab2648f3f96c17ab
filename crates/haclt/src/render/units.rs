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

#[cfg(test)]
mod tests {
    use super::*;

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
