//! Processes that use the data directory: finding them, and ending those nobody guards.
//!
//! Which process a number means is decided by program and working directory, never by the number
//! in `postmaster.pid` (rule 48), and it is signalled through a file descriptor of the very process
//! that was looked at.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;
use tracing::{info, warn};

use super::ProcessRuntime;
use crate::attempt::Attempt;
use crate::driver::{ActionError, GuardSeen};
use crate::tool::{DATA_DIR_MARK, STARTED_BY_MARK, started_by};

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process that was found, and a hold on it.
pub(super) struct Found {
    pid: i32,
    parent: i32,
    handle: OwnedFd,
}

impl Found {
    pub(super) fn signal(&self, signal: Signal) {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(&self.handle, signal);
    }
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Returns the fields of `/proc/<pid>/stat` after the program's name, which may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let rest = text.get(text.rfind(')')? + 1..)?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Returns when a process started, in clock ticks since boot.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// Returns whether there is such a process, and it is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// Holds on to a process, and then looks whether it is one of those wanted.
fn find(wanted: impl Fn(i32) -> bool) -> Vec<Found> {
    let hold = |pid: i32| {
        if !wanted(pid) {
            return None;
        }
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Looked at again while held: the number cannot mean another process any more.
        let parent = stat(pid)?.get(1)?.parse().ok()?;
        wanted(pid).then_some(Found { pid, parent, handle })
    };
    pids().into_iter().filter_map(hold).collect()
}

/// Returns whether the process is a `postgres` at work in the data directory.
fn is_server(pid: i32, data_dir: &Path) -> bool {
    // The directory itself, not its name: in another mount namespace, such as a container's, the same
    // name is another place, and the database there is none of ours (rule 48).
    let place = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let here = place(Path::new(&format!("/proc/{pid}/cwd")));
    if here.is_none() || here != place(data_dir) {
        return false;
    }
    // " (deleted)" after an upgrade of the package.
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
        let name = exe.file_name().unwrap_or_default().as_bytes();
        name.strip_suffix(b" (deleted)").unwrap_or(name) == b"postgres"
    })
}

/// Returns whether the process is a tool of ours on the directory, begun by another agent than `us`.
fn is_tool(pid: i32, data_dir: &Path, us: Option<&str>) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let value = |name: &str| {
        environment.split(|byte| *byte == 0).find_map(|entry| {
            entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(OsStr::from_bytes)
        })
    };
    value(DATA_DIR_MARK).is_some_and(|dir| Path::new(dir) == data_dir)
        && value(STARTED_BY_MARK).is_some_and(|by| us.is_none_or(|us| by != us))
}

/// Holds on to a process of that number if it is a program of that name.
pub(super) fn hold_named(pid: i32, name: &str) -> Option<Found> {
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if text.trim_end() != name {
        return None;
    }
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let parent = stat(pid)?.get(1)?.parse().ok()?;
    // Looked at again while held: the number cannot mean another process any more.
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (text.trim_end() == name).then_some(Found { pid, parent, handle })
}

/// Returns the tools of ours that work on a directory, whoever began them.
pub(crate) fn tools_on(data_dir: &Path) -> Vec<i32> {
    pids().into_iter().filter(|pid| is_tool(*pid, data_dir, None)).collect()
}

/// Kills the tools on a directory, but not those begun by `spared`, and returns once they are gone.
pub(crate) async fn end_tools(
    data_dir: &Path,
    spared: Option<&str>,
    attempt: &Attempt,
) -> Result<(), ActionError> {
    loop {
        let left = find(|pid| is_tool(pid, data_dir, spared));
        if left.is_empty() {
            return Ok(());
        }
        for tool in &left {
            info!(pid = tool.pid, "killing a tool that was left behind");
            tool.signal(Signal::KILL);
        }
        if attempt.left().is_zero() {
            return Err(attempt.timed_out());
        }
        sleep(LOOK_EVERY.min(attempt.left())).await;
    }
}

impl ProcessRuntime {
    /// Kills tools that an earlier agent left behind on the data directory (rule 63).
    pub(crate) async fn end_leftover_tools(&self, attempt: &Attempt) -> Result<(), ActionError> {
        end_tools(&self.layout.data_dir, Some(&started_by()), attempt).await
    }

    /// Returns what still runs on the data directory, in words, if anything does.
    pub(crate) fn in_use(&self) -> Option<String> {
        let pid = *self.servers().first()?;
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        let title: String = title.trim().chars().take(60).collect();
        Some(format!("process {pid} ({title}) runs on {}", self.layout.data_dir.display()))
    }

    /// Returns the processes of servers on the data directory.
    fn servers(&self) -> Vec<i32> {
        let data_dir = &self.layout.data_dir;
        pids().into_iter().filter(|pid| is_server(*pid, data_dir)).collect()
    }

    /// Signals a process of our server. Returns whether the number still meant one.
    pub(crate) fn signal_server(&self, pid: i32, signals: &[Signal]) -> bool {
        let data_dir = &self.layout.data_dir;
        let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at while held.
        let Some(handle) = handle.filter(|_| is_server(pid, data_dir)) else { return false };
        signals.iter().all(|signal| pidfd_send_signal(&handle, *signal).is_ok())
    }

    /// Kills servers and tools that nobody guards, and returns once they are gone.
    pub(crate) async fn end_orphans(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self.guard_seen() {
            GuardSeen::Absent => {}
            GuardSeen::Alive(_) | GuardSeen::Silent { .. } => {
                return Err(attempt.cannot("a guard holds the lock: it alone may kill"));
            }
        }
        let data_dir: &PathBuf = &self.layout.data_dir;
        self.end_leftover_tools(attempt).await?;
        loop {
            let left = find(|pid| is_server(pid, data_dir));
            if left.is_empty() {
                return Ok(());
            }
            let is_child = |one: &Found| left.iter().any(|other| other.pid == one.parent);
            // First the postmasters hold still, so that none starts another child meanwhile.
            for postmaster in left.iter().filter(|one| !is_child(one)) {
                warn!(pid = postmaster.pid, "killing an orphaned server");
                postmaster.signal(Signal::STOP);
            }
            for child in left.iter().filter(|one| is_child(one)) {
                child.signal(Signal::KILL);
            }
            for postmaster in left.iter().filter(|one| !is_child(one)) {
                postmaster.signal(Signal::KILL);
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }

    /// Returns the number in `postmaster.pid` if it belongs to a process that is not our server.
    ///
    /// The server takes any living process of its own user for an earlier postmaster, except the
    /// one named in `PG_GRANDPARENT_PID` (rule 48). In containers numbers are used again at once.
    ///
    /// # Sources
    /// PostgreSQL, `miscinit.c: CreateLockFile`.
    pub(crate) fn foreign_postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.layout.in_data("postmaster.pid")).ok()?;
        let pid: i32 = text.lines().next()?.trim().parse().ok()?;
        (pid > 0 && is_alive(pid) && !is_server(pid, &self.layout.data_dir)).then_some(pid)
    }
}
