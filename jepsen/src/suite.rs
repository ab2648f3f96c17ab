//! Lists of runs. What was made already is not made again.

mod lists;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::env::{Kind, containers, world};
use crate::harness::{Harness, Trying as _};
use crate::report;
use lists::Entry;

/// The exit code of a run that failed itself.
const HARNESS_FAILED: u8 = 2;
/// What a run may take besides the time in which faults are made: to found the cluster, to heal it, to check.
pub(crate) const BESIDES: Duration = Duration::from_secs(400);
/// How often it is looked whether a run has ended.
const POLL: Duration = Duration::from_millis(100);

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

/// What is asked of a suite.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Which runs.
    pub list: List,
    /// Where they are kept.
    pub store: &'a Path,
    /// Seed of the first; each next one has the next.
    pub seed: u64,
    /// Only those whose name contains this.
    pub only: &'a str,
    /// How many at once.
    pub jobs: usize,
}

/// Makes the runs of a list that are not made yet; returns the exit code of all: 1 if any found something, else
/// 2 if any failed itself, else 3 if any could not be decided or was skipped.
///
/// # Errors
/// If runs cannot be started, or what they gave cannot be kept.
pub fn all(asked: &Asked, say: &mut (dyn FnMut(&str) + Send)) -> Result<u8, Harness> {
    let Asked { list, store, seed, only, jobs } = *asked;
    std::fs::create_dir_all(store).trying(|| format!("make {}", store.display()))?;
    let file = store.join(format!("suite-{}.jsonl", list.name()));
    let made = rows(&file)?;
    let entries = lists::of(list).into_iter().zip(seed..);
    let wanted: Vec<(Entry, u64)> = entries.filter(|(e, _)| e.name().contains(only)).collect();
    if wanted.is_empty() {
        let list = list.name();
        return Err(Harness::new(format!("no run of the list {list} has {only:?} in its name")));
    }
    let (next, say) = (Mutex::new(wanted.iter()), Mutex::new(say));
    let told = |line: &str| (say.lock().unwrap_or_else(PoisonError::into_inner))(line);
    let work = || -> Result<Vec<Row>, Harness> {
        let mut done = Vec::new();
        loop {
            let entry = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((entry, seed)) = entry else { return Ok(done) };
            let command = entry.arguments(store, *seed).join(" ");
            let row = if let Some(row) = made.iter().find(|row| row.command == command) {
                row.clone()
            } else {
                let row = make(entry, store, *seed, &mut |line| told(line))?;
                keep(&file, &row)?;
                row
            };
            told(&line(&row));
            done.push(row);
        }
    };
    let done: Result<Vec<Vec<Row>>, Harness> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(rows) => rows,
            Err(_) => Err(Harness::new("the suite panicked: standard error says where")),
        });
        ended.collect()
    });
    let mut table: Vec<Row> = done?.concat();
    table.sort_by_key(|row| row.seed);
    report::index(store).trying(|| "write the index of the runs".to_owned())?;
    told("");
    for row in &table {
        told(&line(row));
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
    let missing = match entry.env {
        Kind::Process => None,
        Kind::Netns => world::missing(),
        Kind::Compose => containers::missing().map(str::to_owned),
    };
    if let Some(missing) = missing {
        return Ok(row(None, &missing));
    }
    let limit = Duration::from_secs(entry.seconds) + BESIDES;
    let (code, said) = call(&arguments, None, limit, say)?;
    Ok(row(Some(code), &said))
}

/// Makes one run in a process of its own, with a variable in its environment, and ends it if it has not ended
/// after `limit`; returns its exit code and what was not well.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn call(
    arguments: &[String],
    variable: Option<(&str, &str)>,
    limit: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<(u8, String), Harness> {
    say(&format!("run      jepsen {}", arguments.join(" ")));
    let program: PathBuf = std::env::current_exe().trying(|| "find this program".to_owned())?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).envs(variable);
    let mut child = command.spawn().trying(|| "make a run".to_owned())?;
    let pipe = child.stdout.take();
    let reader =
        std::thread::spawn(move || pipe.map_or(Ok(String::new()), std::io::read_to_string));
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().trying(|| "wait for a run".to_owned())? {
            break status;
        }
        if Instant::now() >= until {
            child.kill().trying(|| "end a run that takes too long".to_owned())?;
            child.wait().trying(|| "wait for a run".to_owned())?;
            return Ok((HARNESS_FAILED, format!("HARNESS  not done in {} s", limit.as_secs())));
        }
        std::thread::sleep(POLL);
    };
    let read = reader.join().unwrap_or_else(|_| Ok(String::new()));
    let text = read.trying(|| "read what a run said".to_owned())?;
    let bad = text
        .lines()
        .filter(|l| ["INVALID  ", "unknown  ", "HARNESS  "].iter().any(|w| l.starts_with(w)));
    let bad: Vec<&str> = bad.collect();
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok((code.unwrap_or(HARNESS_FAILED), bad.join("; ")))
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
