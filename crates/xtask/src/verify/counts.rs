//! Counting tests by the closing lines of their runners.

use std::fmt;

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds others.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Reads one line; no tests unless it is a closing line of nextest or of cargo's own runner.
    pub(crate) fn of_line(line: &str) -> Self {
        let plain = without_colour(line);
        let plain = plain.trim();
        let tail = match (plain.strip_prefix("Summary ["), plain.strip_prefix("test result: ")) {
            (Some(tail), _) => tail.split_once("run:").map(|(_, tail)| tail),
            (None, Some(tail)) => tail.split_once('.').map(|(_, tail)| tail),
            (None, None) => None,
        };
        let mut counts = Self::default();
        for part in tail.unwrap_or_default().split([',', ';']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => counts.passed += number,
                Some("failed" | "timed" | "exec") => counts.failed += number,
                Some("skipped" | "ignored") => counts.skipped += number,
                _ => {}
            }
        }
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

fn without_colour(line: &str) -> String {
    let mut plain = String::new();
    let mut parts = line.split('\x1b');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        #[rustfmt::skip]
        let table = [
            ("     Summary [   0.130s] 26 tests run: 26 passed, 0 skipped",                  (26, 0, 0)),
            ("Summary [ 9s] 7/9 tests run: 4 passed (1 slow), 2 failed, 1 timed out, 3 skipped", (4, 3, 3)),
            ("\x1b[32;1m     Summary\x1b[0m [   1s] \x1b[1m2\x1b[0m tests run: \x1b[1m2\x1b[0m passed, 0 skipped", (2, 0, 0)),
            ("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",   (5, 0, 1)),
            ("test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured",               (5, 2, 0)),
            ("        PASS [   0.005s] ( 1/26) xtask tests::a",                              (0, 0, 0)),
        ];
        for (line, (passed, failed, skipped)) in table {
            assert_eq!(Counts::of_line(line), Counts { passed, failed, skipped }, "{line}");
        }
    }
}
