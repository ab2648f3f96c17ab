//! Processes of a cluster, told from others by its directory.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Programs that a cluster runs. Nothing else is ever signalled.
const PROGRAMS: [&str; 9] = [
    "ha-agent",
    "ha-guard",
    "initdb",
    "pg_basebackup",
    "pg_controldata",
    "pg_rewind",
    "pg_waldump",
    "postgres",
    "pg_receivewal",
];

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// The file name of its program.
    pub program: String,
    /// Its command line, arguments separated by spaces.
    pub command: String,
}

/// Returns every living process of ours whose command line or working directory is under `base`.
pub fn under(base: &Path) -> Vec<Process> {
    let prefix = format!("{}/", base.display());
    let pids = fs::read_dir("/proc").expect("/proc is mounted");
    pids.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let process = known(pid)?;
        let home = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let ours = process.command.contains(&prefix) || home.starts_with(base);
        ours.then_some(process)
    })
    .collect()
}

/// Returns every living process of ours in a container, by its full id. No engine is asked.
pub fn of_container(id: &str) -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("/proc is mounted");
    pids.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let process = groups.contains(id).then(|| known(pid)).flatten()?;
        is_alive(pid).then_some(process)
    })
    .collect()
}

/// Returns a process that runs one of the programs.
fn known(pid: i32) -> Option<Process> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let program = exe.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
    if !PROGRAMS.contains(&program.as_str()) {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(Process { pid, program, command })
}

/// Returns the parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Returns the living processes of a program that were started for a directory: each tool carries it in
/// its environment.
pub fn marked(dir: &Path, program: &str) -> Vec<i32> {
    let mark = format!("HACLT_DATA_DIR={}", dir.display());
    let pids = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        exe.file_name().is_some_and(|name| name == program)
            && is_alive(*pid)
            && environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .collect()
}

/// Returns whether a process is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Returns the letter that the kernel gives for the state of a process, such as `T` for stopped.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Sends a signal; that the process is gone already is no error.
pub fn send(pid: i32, signal: Signal) {
    assert!(pid > 1, "not a process of ours: {pid}");
    if let Some(pid) = Pid::from_raw(pid) {
        let _gone: Result<(), rustix::io::Errno> = kill_process(pid, signal);
    }
}

/// Returns the bytes that a process caused to be written to a disk.
pub fn write_bytes(pid: i32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process lives");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).expect("the kernel counts I/O")
}

/// Kills the child of a process that runs this program.
pub fn kill_child(parent: i32, program: &str) {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let list = list.expect("the parent is running");
    let runs = |pid: &i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program))
    };
    let mut children = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    send(children.find(runs).expect("a child that runs it"), Signal::KILL);
}
