//! Counting tests by the closing lines of their runners.

use std::fmt;

/// Who runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// `cargo nextest run`.
    Nextest,
    /// `cargo test`.
    Cargo,
}

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

    /// Reads one line; no tests unless it is a closing line of this runner. A runner also shows what
    /// failed tests printed, closing lines of another one among it: those do not count.
    pub(crate) fn of_line(runner: Runner, line: &str) -> Self {
        let plain = without_colour(line);
        let tail = match runner {
            Runner::Nextest => {
                let summary = plain.trim().strip_prefix("Summary [");
                summary.and_then(|tail| tail.split_once("run:"))
            }
            Runner::Cargo => {
                plain.strip_prefix("test result: ").and_then(|tail| tail.split_once('.'))
            }
        };
        let tail = tail.map(|(_, tail)| tail);
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
        use Runner::{Cargo, Nextest};
        #[rustfmt::skip]
        let table = [
            (Nextest, "     Summary [   0.130s] 26 tests run: 26 passed, 0 skipped",                  (26, 0, 0)),
            (Nextest, "Summary [ 9s] 7/9 tests run: 4 passed (1 slow), 2 failed, 1 timed out, 3 skipped", (4, 3, 3)),
            (Nextest, "\x1b[32;1m     Summary\x1b[0m [   1s] \x1b[1m2\x1b[0m tests run: \x1b[1m2\x1b[0m passed, 0 skipped", (2, 0, 0)),
            (Nextest, "test result: FAILED. 0 passed; 1 failed; 0 ignored",                           (0, 0, 0)),
            (Nextest, "        PASS [   0.005s] ( 1/26) xtask tests::a",                              (0, 0, 0)),
            (Cargo,   "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",   (5, 0, 1)),
            (Cargo,   "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured",               (5, 2, 0)),
            (Cargo,   "    test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured",           (0, 0, 0)),
        ];
        for (runner, line, (passed, failed, skipped)) in table {
            let expected = Counts { passed, failed, skipped };
            assert_eq!(Counts::of_line(runner, line), expected, "{line}");
        }
    }
}
