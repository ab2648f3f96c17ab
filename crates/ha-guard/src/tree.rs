//! Finding and killing processes.
//!
//! The guard is a child subreaper: whatever its postmaster starts, even a process that left its
//! session and lost its parent, stays below the guard in the process tree. Hence "the guard has no
//! child" is the kernel's own proof that nothing is left, and a walk over `/proc` finds all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ha_core::permit::ExitHow;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// How often one call walks over `/proc` at most; whoever calls it does so again.
const PASSES_MAX: usize = 16;
/// How many ended children one call collects at most.
const REAPED_MAX: usize = 4096;

/// One line of `/proc/PID/stat`, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The parent's process id.
    pub parent: i32,
    /// Whether it has run its last instruction.
    pub dead: bool,
}

impl Stat {
    /// Reads the line; `None` if it is not one.
    ///
    /// A process whose first thread ended while others run is shown as a zombie; it is not dead.
    ///
    /// # Sources
    /// `proc_pid_stat(5)`: the name in parentheses may hold any byte, parentheses too.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let name_end = line.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(line.get(name_end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let threads: i64 = fields.nth(15)?.parse().ok()?;
        let dead = matches!(state, "X" | "x") || (state == "Z" && threads <= 1);
        Some(Self { parent, dead })
    }
}

/// Returns all processes, by process id. One that ends meanwhile may be missing.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn processes() -> io::Result<BTreeMap<i32, Stat>> {
    let mut all = BTreeMap::new();
    let mut line = Vec::with_capacity(1024);
    for entry in fs::read_dir("/proc")?.flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            && let Some(stat) = read_stat(pid, &mut line)
        {
            all.insert(pid, stat);
        }
    }
    Ok(all)
}

fn read_stat(pid: i32, line: &mut Vec<u8>) -> Option<Stat> {
    line.clear();
    fs::File::open(format!("/proc/{pid}/stat")).ok()?.take(4096).read_to_end(line).ok()?;
    Stat::parse(line)
}

/// Returns whether the process ended and nobody has collected it yet.
#[must_use]
pub fn is_zombie(pid: i32) -> bool {
    read_stat(pid, &mut Vec::new()).is_some_and(|stat| stat.dead)
}

/// Returns the living processes below `root`; for process 1, all of the container but itself.
#[must_use]
pub fn below(root: i32, all: &BTreeMap<i32, Stat>) -> Vec<i32> {
    let is_below = |start: i32| {
        let mut at = start;
        // A chain longer than the number of processes runs in a circle: ids were reused meanwhile.
        for _ in 0..=all.len() {
            match all.get(&at) {
                Some(stat) if stat.parent == root => return true,
                Some(stat) => at = stat.parent,
                None => return false,
            }
        }
        false
    };
    let alive = all.iter().filter(|(pid, stat)| **pid != root && !stat.dead);
    alive.map(|(pid, _)| *pid).filter(|pid| root == 1 || is_below(*pid)).collect()
}

/// Sends a signal to a process; one that is gone is none.
pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _gone = kill_process(pid, signal);
    }
}

/// Freezes the postmaster, sends SIGKILL to everything below the guard, then to the postmaster.
///
/// Returns once a walk over `/proc` found nothing that it had not killed before, or after a bounded
/// number of walks. The processes may take a while to be gone: [`reap`] tells. To be called again,
/// not too often, until they are.
pub fn kill(postmaster: Option<i32>) {
    let me = getpid().as_raw_pid();
    if let Some(pid) = postmaster {
        send(pid, Signal::STOP);
    }
    let mut killed = BTreeSet::new();
    for _ in 0..PASSES_MAX {
        let Ok(all) = processes() else { break };
        let mut found_new = false;
        for pid in below(me, &all) {
            if Some(pid) != postmaster {
                send(pid, Signal::KILL);
                found_new |= killed.insert(pid);
            }
        }
        if !found_new {
            break;
        }
    }
    if let Some(pid) = postmaster {
        send(pid, Signal::KILL);
    }
}

/// What [`reap`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    /// How the postmaster ended, if it was among them.
    pub postmaster: Option<ExitHow>,
    /// Whether children are left, alive or not yet collected.
    pub left: bool,
}

/// Collects ended children, at most some thousands at a time.
#[must_use]
pub fn reap(postmaster: Option<i32>) -> Reaped {
    let mut reaped = Reaped { postmaster: None, left: true };
    for _ in 0..REAPED_MAX {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if Some(pid.as_raw_pid()) == postmaster {
                    let code = status.exit_status().map(ExitHow::Code);
                    let signal = status.terminating_signal().map(ExitHow::Signal);
                    reaped.postmaster = code.or(signal);
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::CHILD) => {
                reaped.left = false;
                break;
            }
            Ok(None) | Err(_) => break,
        }
    }
    reaped
}

/// Returns whether a container's process 1 has company, of whatever parentage.
#[must_use]
pub fn has_company() -> bool {
    getpid().is_init() && processes().map_or(true, |all| !below(1, &all).is_empty())
}

/// Returns the processes that an earlier guard's postmaster left behind in `pgdata`.
///
/// Backends notice that their postmaster died when they next wait for something; one that computes
/// may go on for long. They are known by their working directory and by a title that only
/// `PostgreSQL` sets, and by not having a parent in the same place: children of a living
/// postmaster are its own business. `postmaster` is the one that the earlier guard reported.
#[must_use]
pub fn orphans(pgdata: &Path, postmaster: Option<i32>) -> Vec<i32> {
    let Ok(home) = fs::metadata(pgdata) else { return Vec::new() };
    let Ok(all) = processes() else { return Vec::new() };
    // The directory itself, not its name: in another mount namespace, such as a container's, the same
    // name is another place, and the database there is none of ours (rule 48).
    let lives_there = |pid: i32| {
        fs::metadata(format!("/proc/{pid}/cwd"))
            .is_ok_and(|place| (place.dev(), place.ino()) == (home.dev(), home.ino()))
    };
    let titled = |pid: i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|title| title.starts_with(b"postgres: "))
    };
    let candidates = all.iter().filter(|(_, stat)| !stat.dead);
    let orphaned = |pid, parent| Some(pid) == postmaster || titled(pid) && !lives_there(parent);
    candidates
        .map(|(pid, stat)| (*pid, stat.parent))
        .filter(|(pid, parent)| lives_there(*pid) && orphaned(*pid, *parent))
        .map(|(pid, _)| pid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, state: &str, parent: i32, threads: i32) -> Vec<u8> {
        format!("12 ({name}) {state} {parent} 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 {threads} 0 9 9\n")
            .into_bytes()
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_process_is_called() {
        let alive = Some(Stat { parent: 3, dead: false });
        assert_eq!(Stat::parse(&line("postgres", "S", 3, 1)), alive);
        assert_eq!(Stat::parse(&line("a) Z 99 (b", "D", 3, 1)), alive);
        let mut bytes = line("x", "R", 3, 1);
        bytes[4] = 0xff;
        assert_eq!(Stat::parse(&bytes), alive);
        for nonsense in ["", ")", "1 (a)", "1 (a) S", "1 (a) S x", "1 (a) S 1 2 3"] {
            assert_eq!(Stat::parse(nonsense.as_bytes()), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_zombie_is_dead_unless_threads_of_it_run() {
        let dead = |state, threads| {
            Stat::parse(&line("p", state, 1, threads)).is_some_and(|stat| stat.dead)
        };
        assert!(dead("Z", 1) && dead("X", 0));
        assert!(!dead("Z", 2) && !dead("D", 1) && !dead("T", 1));
    }

    #[test]
    fn descendants_are_found_through_the_dead_and_circles_end() {
        let stat = |parent, dead| Stat { parent, dead };
        let all = BTreeMap::from([
            (10, stat(1, false)),
            (11, stat(10, true)),
            (12, stat(11, false)),
            (13, stat(9, false)),
            (20, stat(21, false)),
            (21, stat(20, false)),
        ]);
        assert_eq!(below(10, &all), [12]);
        let mut everything = below(1, &all);
        everything.sort_unstable();
        assert_eq!(everything, [10, 12, 13, 20, 21]);
    }
}
