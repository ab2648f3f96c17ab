//! What no other tool checks: sizes of files, words, `TODO` without an issue, paths of one machine.

mod words;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::{exec, note, paths};

/// Files of code are split past this.
const LINES_MAX: usize = 600;

/// Something that has to change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks every file that git knows or would take.
pub(crate) fn tidy() -> Outcome<()> {
    let root = paths::workspace();
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&root);
    let list = exec::output(&mut git, Duration::from_mins(1))?;
    let mut findings = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // Files that are not text, or were deleted and not yet committed, have no lines.
        if let Ok(text) = fs::read_to_string(root.join(path)) {
            findings.extend(check(path, &text));
        }
    }
    for finding in &findings {
        note!("tidy: {finding}");
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{} places are not tidy", findings.len())))
}

fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |line: usize, what: String| {
        findings.push(Finding { path: path.to_owned(), line, what });
    };
    let lines = text.lines().count();
    if is_code(path) && !is_test(path) && lines > LINES_MAX {
        found(lines, format!("{lines} lines; split it past {LINES_MAX}"));
    }
    // The lists of what is not wanted name it.
    if path.starts_with("crates/xtask/src/tidy") || path == "Cargo.lock" {
        return findings;
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(mark) = bare_mark(line) {
            found(index + 1, format!("`{mark}` without an issue: write `{mark}(#12)`"));
        }
        if let Some(folder) = machine_path(line) {
            found(index + 1, format!("`{folder}` is a path of one machine"));
        }
        if is_code(path) {
            for (word, better) in words::unwanted(path, line) {
                found(index + 1, format!("`{word}`: say {better} (STYLE.md §2)"));
            }
        }
    }
    findings
}

fn is_code(path: &str) -> bool {
    let extension = Path::new(path).extension().unwrap_or_default();
    (extension == "rs" || extension == "proto")
        && ["crates/", "proto/", "tests/", "jepsen/"].iter().any(|room| path.starts_with(room))
}

/// Tests and tables may be as long as it takes.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// Finds a `TODO` or `FIXME` that names no issue.
fn bare_mark(line: &str) -> Option<&'static str> {
    ["TODO", "FIXME", "XXX"].into_iter().find(|mark| {
        line.match_indices(mark).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = &line[at + mark.len()..];
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let whole = !before.is_some_and(is_word) && !after.starts_with(is_word);
            let quoted = before == Some('`') || before == Some('"');
            let issue = after.strip_prefix("(#").and_then(|rest| rest.split_once(')'));
            let named = issue.is_some_and(|(number, _)| number.parse::<u32>().is_ok());
            whole && !quoted && !named
        })
    })
}

/// Finds a path that exists on the machine of whoever wrote it.
fn machine_path(line: &str) -> Option<&'static str> {
    ["/work/", "/home/", "/root/", "/Users/"].into_iter().find(|folder| {
        line.match_indices(folder).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + folder.len()..].chars().next();
            // `a/work/b` and `/home/…` in prose are something else.
            !before.is_some_and(|c| c.is_alphanumeric() || "._-)}]*/~$".contains(c))
                && after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_needs_an_issue() {
        #[rustfmt::skip]
        let table = [
            ("// TODO: later",       Some("TODO")),
            ("// TODO(#12): later",  None),
            ("// TODO(me): later",   Some("TODO")),
            ("// FIXME",             Some("FIXME")),
            ("let TODOS = 1;",       None),
            ("says `TODO` in prose", None),
        ];
        for (line, expected) in table {
            assert_eq!(bare_mark(line), expected, "{line}");
        }
    }

    #[test]
    fn paths_of_one_machine_are_found_and_others_are_not() {
        #[rustfmt::skip]
        let table = [
            ("cd /work/main",                 Some("/work/")),
            ("see ../work/main",              None),
            ("path = \"/root/.haclt\"",       Some("/root/")),
            ("under /home/… or so",           None),
            ("target/root/x and a/home/b",    None),
            ("/var/lib/postgresql/15",        None),
        ];
        for (line, expected) in table {
            assert_eq!(machine_path(line), expected, "{line}");
        }
    }

    #[test]
    fn long_files_of_code_are_found_and_long_tests_are_not() {
        let long = "x\n".repeat(LINES_MAX + 1);
        assert_eq!(check("crates/a/src/b.rs", &long).len(), 1);
        assert_eq!(check("crates/a/src/b/tests.rs", &long), []);
        assert_eq!(check("docs/b.md", &long), []);
        assert_eq!(check("crates/a/src/b.rs", &"x\n".repeat(LINES_MAX)), []);
    }

    #[test]
    fn a_finding_says_where() {
        let text = "//! Fine.\n// the slave waits\n";
        let findings = check("crates/a/src/b.rs", text);
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["crates/a/src/b.rs:2: `slave`: say standby (STYLE.md §2)"]);
    }
}
