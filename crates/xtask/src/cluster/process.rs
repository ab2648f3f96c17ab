//! Processes as `/proc` shows them, and ending those that are ours.
//!
//! A process is only ever ended by its id, after a look at what it is, and the id is bound to the
//! process's start time: a number that the kernel gave to somebody else in between is not hit.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::exec::POLL;

/// One process, as seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: i32,
    /// When it started, in ticks since boot.
    pub(crate) started: u64,
    /// Name of the program's file, without ` (deleted)`.
    pub(crate) program: String,
    /// Whether the program's file was replaced since it started.
    pub(crate) outdated: bool,
    /// The command line, joined by blanks.
    pub(crate) command: String,
    /// Its current directory.
    pub(crate) directory: PathBuf,
}

/// Programs that agents, guards and PostgreSQL consist of.
const PROGRAMS: [&str; 11] = [
    "ha-agent",
    "ha-guard",
    "postgres",
    "initdb",
    "pg_basebackup",
    "pg_rewind",
    "pg_receivewal",
    "pg_ctl",
    "pg_controldata",
    "pg_waldump",
    "pg_verifybackup",
];

impl Process {
    /// Looks at a process; `None` if there is none, it is a zombie, or we may not look.
    pub(crate) fn look(pid: i32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let started = start_time(&stat)?;
        let exe = fs::read_link(folder.join("exe")).ok()?.to_string_lossy().into_owned();
        let path = exe.strip_suffix(" (deleted)").unwrap_or(&exe);
        let command = fs::read(folder.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
        Some(Self {
            pid,
            started,
            program: Path::new(path).file_name()?.to_string_lossy().into_owned(),
            outdated: exe.ends_with(" (deleted)"),
            command,
            directory: fs::read_link(folder.join("cwd")).unwrap_or_default(),
        })
    }

    /// Returns all processes we may look at.
    pub(crate) fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
            .filter_map(Self::look)
            .collect()
    }

    /// Returns whether it is one of a cluster's programs and works below one of these directories.
    ///
    /// An agent, a guard or a tool names a directory of the cluster on its command line; every
    /// process of a PostgreSQL server has its data directory as its current directory.
    pub(crate) fn belongs_to(&self, roots: &[&Path]) -> bool {
        PROGRAMS.contains(&self.program.as_str())
            && roots.iter().any(|root| {
                self.directory.starts_with(root)
                    || self.command.split([' ', '=']).any(|word| Path::new(word).starts_with(root))
                    || self.command.contains(&format!("{}/", root.display()))
            })
    }

    /// Returns whether it stands still because of a SIGSTOP.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after = stat.rfind(')').and_then(|at| stat.get(at + 1..)).unwrap_or_default();
        after.split_whitespace().next() == Some("T")
    }

    /// Returns whether this very process is still there.
    pub(crate) fn is_alive(&self) -> bool {
        Self::look(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Sends a signal to this very process. One that is gone is no failure.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Returns the files of PostgreSQL's shared memory that a process has mapped.
///
/// A server that is killed leaves them behind until it is started again; whoever kills one for good
/// has to remove them.
pub(crate) fn segments(process: &Process) -> Vec<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find("/dev/shm/PostgreSQL.").map(|at| &line[at..]))
        .filter(|path| !path.ends_with(" (deleted)"))
        .map(PathBuf::from)
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Removes what [`segments`] found, once its server is gone.
pub(crate) fn remove_segments(files: &[PathBuf]) {
    for file in files {
        drop(fs::remove_file(file));
    }
}

/// Returns when a process started, from its `stat`; `None` for a zombie.
fn start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything: count from the last one.
    let after = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then_some(())?;
    fields.nth(18)?.parse().ok()
}

/// Returns all processes of a cluster with these directories.
pub(crate) fn of_cluster(roots: &[&Path]) -> Vec<Process> {
    Process::all().into_iter().filter(|process| process.belongs_to(roots)).collect()
}

/// Waits until a condition holds, at most for `limit`; returns whether it does.
pub(crate) fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Ends processes: asks with each signal in turn, waiting `patience` after each, then kills.
///
/// `list` is asked anew every time, as processes may start others meanwhile. Returns what is left.
pub(crate) fn end(
    signals: &[Signal],
    patience: Duration,
    list: impl Fn() -> Vec<Process>,
) -> Vec<Process> {
    for &signal in signals {
        let targets = list();
        if targets.is_empty() {
            return targets;
        }
        for process in &targets {
            process.signal(signal);
        }
        wait_until(patience, || list().is_empty());
    }
    wait_until(Duration::from_secs(10), || {
        let targets = list();
        for process in &targets {
            process.signal(Signal::KILL);
        }
        targets.is_empty()
    });
    list()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn process(program: &str, command: &str, directory: &str) -> Process {
        Process {
            pid: 1,
            started: 1,
            program: program.to_owned(),
            outdated: false,
            command: command.to_owned(),
            directory: directory.into(),
        }
    }

    #[test]
    fn only_our_programs_on_our_directories_are_ours() {
        let roots = [Path::new("/w/.haclt"), Path::new("/dev/shm/haclt-0-1")];
        #[rustfmt::skip]
        let table = [
            // program   command line                              directory                ours
            ("ha-agent", "ha-agent --config /w/.haclt/n1/agent.toml", "/",                     true),
            ("ha-agent", "ha-agent --config /v/.haclt/n1/agent.toml", "/",                     false),
            ("ha-agent", "ha-agent --config=/w/.haclt/n1/agent.toml", "/",                     true),
            ("ha-guard", "ha-guard --permits /dev/shm/haclt-0-1/n1",  "/",                     true),
            ("ha-guard", "ha-guard --permits /dev/shm/haclt-0-12/n1", "/",                     false),
            ("postgres", "postgres: walwriter",                       "/w/.haclt/n1/postgres/data", true),
            ("postgres", "postgres: walwriter",                       "/var/lib/postgresql",   false),
            ("tail",     "tail -f /w/.haclt/n1/agent.log",            "/w/.haclt",             false),
        ];
        for (program, command, directory, ours) in table {
            let got = process(program, command, directory).belongs_to(&roots);
            assert_eq!(got, ours, "{program}: {command} in {directory}");
        }
    }

    #[test]
    fn the_start_time_is_found_behind_a_strange_name() {
        let tail = "S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(start_time(&format!("9 (a) b) {tail}")), Some(4711));
        assert_eq!(start_time("9 (a) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0"), None);
        assert_eq!(start_time("nonsense"), None);
    }

    #[test]
    fn a_process_that_ignores_requests_is_killed() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; while :; do sleep 0.05; done"])
            .spawn()
            .expect("sh starts");
        let pid = i32::try_from(child.id()).expect("process ids are small");
        assert!(wait_until(Duration::from_secs(5), || Process::look(pid).is_some()));
        let left = end(&[Signal::TERM], Duration::from_millis(100), || {
            Process::look(pid).into_iter().collect()
        });
        assert_eq!(left, []);
        child.wait().expect("the child was ours");
    }
}
