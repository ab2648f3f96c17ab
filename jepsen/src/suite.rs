//! Lists of runs, made one after the other. What was made already is not made again.

mod lists;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::env::{Kind, world};
use crate::harness::{Harness, Trying as _};
use crate::report;
use lists::Entry;

/// Which list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum List {
    /// A few minutes: each workload once.
    Quick,
    /// Hours: workloads, levels and faults in many combinations.
    Full,
}

impl List {
    const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    name: String,
    seed: u64,
    seconds: u64,
    /// Nothing if it was skipped.
    code: Option<u8>,
    /// What it said last, or why it was skipped.
    said: String,
    /// Its arguments: the same again is the same run.
    command: String,
}

impl Row {
    fn word(&self) -> &'static str {
        match self.code {
            Some(0) => "valid",
            Some(1) => "INVALID",
            Some(3) => "unknown",
            Some(_) => "HARNESS",
            None => "skipped",
        }
    }
}

/// Makes the runs of a list that are not made yet; returns the exit code of all: 1 if any found something, else
/// 2 if any failed itself, else 3 if any could not be decided or was skipped.
///
/// # Errors
/// If runs cannot be started, or what they gave cannot be kept.
pub fn all(
    list: List,
    store: &Path,
    seed: u64,
    only: &str,
    say: &mut dyn FnMut(&str),
) -> Result<u8, Harness> {
    std::fs::create_dir_all(store).trying(|| format!("make {}", store.display()))?;
    let file = store.join(format!("suite-{}.jsonl", list.name()));
    let made = rows(&file)?;
    let mut table = Vec::new();
    for (entry, seed) in lists::of(list).into_iter().zip(seed..) {
        if !entry.name().contains(only) {
            continue;
        }
        let command = entry.arguments(store, seed).join(" ");
        let row = if let Some(row) = made.iter().find(|row| row.command == command) {
            row.clone()
        } else {
            let row = make(&entry, store, seed, say)?;
            keep(&file, &row)?;
            row
        };
        say(&line(&row));
        table.push(row);
    }
    report::index(store).trying(|| "write the index of the runs".to_owned())?;
    say("");
    for row in &table {
        say(&line(row));
    }
    Ok(code(&table))
}

fn line(row: &Row) -> String {
    let Row { name, seed, seconds, said, .. } = row;
    format!("{:<8} {name:<58} seed {seed:<4} {seconds:>4} s  {said}", row.word())
}

fn code(table: &[Row]) -> u8 {
    let any = |wanted: &str| table.iter().any(|row| row.word() == wanted);
    if any("INVALID") {
        1
    } else if any("HARNESS") {
        2
    } else {
        u8::from(any("unknown") || any("skipped")) * 3
    }
}

fn rows(file: &Path) -> Result<Vec<Row>, Harness> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(file).trying(|| format!("read {}", file.display()))?;
    let read = |line: &str| serde_json::from_str(line).trying(|| format!("read a row {line:?}"));
    text.lines().map(read).collect()
}

fn keep(file: &Path, row: &Row) -> Result<(), Harness> {
    // A run that the suite broke, or that this machine cannot make, is made again the next time.
    if matches!(row.word(), "HARNESS" | "skipped") {
        return Ok(());
    }
    let what = || format!("add to {}", file.display());
    let line = serde_json::to_string(row).trying(what)?;
    let opened = OpenOptions::new().append(true).create(true).open(file);
    writeln!(opened.trying(what)?, "{line}").trying(what)
}

/// Makes one run in a process of its own: whatever happens there, the list goes on.
fn make(entry: &Entry, store: &Path, seed: u64, say: &mut dyn FnMut(&str)) -> Result<Row, Harness> {
    let arguments = entry.arguments(store, seed);
    let row = |code, said: &str| Row {
        name: entry.name(),
        seed,
        seconds: entry.seconds,
        code,
        said: said.to_owned(),
        command: arguments.join(" "),
    };
    if entry.env == Kind::Netns
        && let Some(missing) = world::missing()
    {
        return Ok(row(None, &missing));
    }
    let (code, said) = call(&arguments, None, say)?;
    Ok(row(Some(code), &said))
}

/// Makes one run in a process of its own, with a variable in its environment; returns its exit code and what
/// was not well.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn call(
    arguments: &[String],
    variable: Option<(&str, &str)>,
    say: &mut dyn FnMut(&str),
) -> Result<(u8, String), Harness> {
    say(&format!("run      jepsen {}", arguments.join(" ")));
    let program: PathBuf = std::env::current_exe().trying(|| "find this program".to_owned())?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).envs(variable);
    let output = command.output().trying(|| "make a run".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let bad = text
        .lines()
        .filter(|l| ["INVALID  ", "unknown  ", "HARNESS  "].iter().any(|w| l.starts_with(w)));
    let bad: Vec<&str> = bad.collect();
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Ok((code.unwrap_or(2), bad.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(code: Option<u8>) -> Row {
        let (name, said, command) = ("n".to_owned(), String::new(), "run x".to_owned());
        Row { name, seed: 1, seconds: 1, code, said, command }
    }

    #[test]
    fn what_was_found_weighs_more_than_what_could_not_be_made() {
        let of = |codes: &[Option<u8>]| code(&codes.iter().map(|c| row(*c)).collect::<Vec<_>>());
        assert_eq!(of(&[Some(0), Some(0)]), 0);
        assert_eq!(of(&[Some(0), Some(2), Some(1)]), 1);
        assert_eq!(of(&[Some(0), Some(2), Some(3)]), 2);
        assert_eq!(of(&[Some(0), Some(3)]), 3);
        assert_eq!(of(&[Some(0), None]), 3);
    }

    #[test]
    fn a_run_that_ended_is_kept_and_one_that_the_suite_broke_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows");
        for code in [Some(0), Some(2), None, Some(1)] {
            keep(&file, &row(code)).unwrap();
        }
        assert_eq!(rows(&file).unwrap(), [row(Some(0)), row(Some(1))]);
    }
}
