//! The commands that the documentation tells people to type: the lines of `sh` blocks that begin with `haclt`.

use std::fs;
use std::path::Path;

/// The pages whose every command is under test.
pub const PAGES: [&str; 5] =
    ["operations.md", "runbook.md", "doctor.md", "configuration.md", "support.md"];

/// One command of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The page, and the line in it.
    pub place: String,
    /// Its words, `haclt` first.
    pub words: Vec<String>,
}

/// Returns the commands of a page.
pub fn commands(page: &str) -> Vec<Command> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("docs").join(page))
        .find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("docs/{page} is there"));
    of(page, &fs::read_to_string(path).expect("a page can be read"))
}

fn of(page: &str, text: &str) -> Vec<Command> {
    let mut within = false;
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            within = line.trim() == "```sh";
        } else if within && line.starts_with("haclt ") {
            found.push(Command { place: format!("{page}:{number}"), words: words(line) });
        }
    }
    found
}

/// Splits a line as a shell would: at blanks outside of double quotes, up to a comment or a pipe.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            '#' | '|' if !quoted && word.is_empty() => break,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(c),
        }
    }
    words
}

/// Returns whether a command only looks, and ends by itself.
pub fn only_looks(words: &[String]) -> bool {
    let has = |option: &str| words.iter().any(|word| word == option);
    let second = words.get(2).map(String::as_str);
    match words.get(1).map(String::as_str) {
        Some("status" | "events") => !has("--watch") && !has("--follow") && second != Some("show"),
        Some("explain" | "doctor" | "history") => true,
        Some("switchover") => has("--dry-run") || has("--scheduled"),
        Some("failover") => has("--dry-run"),
        Some("node" | "diverged") => second == Some("list"),
        Some("config") => matches!(second, Some("show" | "get" | "history")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_a_shell_would_read_its_blocks() {
        let page = "haclt no\n```sh\nhaclt pause --reason \"a b\"  # why\nexport X=1\nhaclt status | head\n```\n```text\nhaclt no\n```\n";
        let found: Vec<String> = of("p", page).into_iter().map(|c| c.words.join("/")).collect();
        assert_eq!(found, ["haclt/pause/--reason/a b", "haclt/status"]);
        assert_eq!(of("p", page)[0].place, "p:3");
    }

    #[test]
    fn only_what_changes_nothing_is_run() {
        let looks = |line: &str| only_looks(&words(line));
        for line in
            ["haclt status", "haclt doctor n1", "haclt failover --dry-run", "haclt node list"]
        {
            assert!(looks(line), "{line}");
        }
        for line in
            ["haclt status --watch", "haclt failover", "haclt node replace n3", "haclt pause"]
        {
            assert!(!looks(line), "{line}");
        }
    }
}
