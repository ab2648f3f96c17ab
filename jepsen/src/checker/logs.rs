//! Lines of agents' logs that somebody must look at, and that the run did not announce.

use super::{Class, Verdict};

/// One log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// Returns whether a line is a warning, an error or a panic.
///
/// The agents write `2026-11-28T15:51:58.687964Z  WARN ha::event: …`: the level is the second word.
fn alarming(line: &str) -> bool {
    let level = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    matches!(level, "WARN" | "ERROR") || line.starts_with("error:") || panics(line)
}

fn panics(line: &str) -> bool {
    line.contains("panicked at") || line.contains("PANIC:")
}

/// Checks logs against the texts that the run's faults announce. A panic cannot be announced.
#[must_use]
pub fn check(logs: &[Log], announced: &[String]) -> Verdict {
    let mut verdict = Verdict::new("logs");
    for Log { name, text } in logs {
        for line in text.lines().filter(|line| alarming(line)) {
            let expected = announced.iter().any(|part| line.contains(part.as_str()));
            match (panics(line), expected) {
                (true, _) => verdict.find(Class::Panic, Vec::new(), format!("{name}: {line}")),
                (false, true) => verdict.count("announced", 1),
                (false, false) => {
                    verdict.find(Class::UnannouncedLine, Vec::new(), format!("{name}: {line}"));
                }
            }
        }
    }
    verdict.figure("files", logs.len() as u64);
    verdict
}
