//! What agents wrote, and whether a test announced it.

use std::path::Path;

/// Returns the text of a log; nothing if there is none yet.
pub fn read(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Returns the last lines of a log.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = read(path);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Returns the lines that somebody must look at: warnings, errors, panics.
pub fn alarming(text: &str) -> Vec<&str> {
    let alarms = |line: &&str| {
        line.contains(" WARN ")
            || line.contains(" ERROR ")
            || line.starts_with("error:")
            || line.contains("panicked at")
            || line.contains("PANIC:")
    };
    text.lines().filter(alarms).collect()
}

/// Returns the alarming lines that contain none of the announced texts. A panic cannot be announced.
pub fn unannounced<'a>(text: &'a str, announced: &[String]) -> Vec<&'a str> {
    let expected =
        |line: &str| announced.iter().any(|text| line.contains(text.as_str())) && !panics(line);
    alarming(text).into_iter().filter(|line| !expected(line)).collect()
}

fn panics(line: &str) -> bool {
    line.contains("panicked at")
}

/// Returns how often a text occurs in the log's lines.
pub fn count(path: &Path, text: &str) -> usize {
    read(path).lines().filter(|line| line.contains(text)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_announced_is_held_against_a_test() {
        let log = "t  INFO a: fine\nt  WARN a: lease expired epoch=1\nt ERROR a: broken\nthread 'x' \
                   panicked at lease expired\n";
        let announced = ["lease expired".to_owned()];
        assert_eq!(unannounced(log, &announced).len(), 2);
        assert_eq!(alarming(log).len(), 3);
    }
}
