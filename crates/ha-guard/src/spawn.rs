//! Starting `PostgreSQL` so that it cannot outlive the guard.
//!
//! The guard starts itself again as `ha-guard exec`, already under the other user's id, because the
//! kernel forgets a parent-death signal when the user changes. That second stage asks for the
//! signal, makes sure that the guard is still there to give it, and becomes `PostgreSQL`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use crate::steady;

/// A log longer than this is set aside before the next start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// This program, also when its file was replaced meanwhile.
const MYSELF: &str = "/proc/self/exe";

/// What to start, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
    /// User and group id to run it under; the guard's own if absent.
    pub identity: Option<(u32, u32)>,
    /// File that its output is appended to; the guard's own output if absent.
    pub log: Option<PathBuf>,
}

/// A started process.
#[derive(Debug)]
pub struct Started {
    /// Its process id.
    pub pid: i32,
    /// Why its output does not go to the log, if it should.
    pub without_log: Option<io::Error>,
}

impl Program {
    /// Starts it. `oom_before` is what its children shall have as OOM score adjustment.
    ///
    /// # Errors
    /// If no process could be made, for example because the user may not be changed. That the
    /// program itself could not be started shows as exit code 126 or 127.
    ///
    /// # Sources
    /// `PostgreSQL` manual, "Linux Memory Overcommit": a protected postmaster gives its children
    /// `PG_OOM_ADJUST_VALUE` by writing it to `PG_OOM_ADJUST_FILE`.
    pub fn start(&self, oom_before: Option<&str>) -> io::Result<Started> {
        let mut stage = Command::new(MYSELF);
        stage.arg0("ha-guard").arg("exec").arg(getpid().to_string()).arg("--").args(&self.command);
        stage.stdin(Stdio::null());
        if let Some((uid, gid)) = self.identity {
            stage.uid(uid).gid(gid);
        }
        if let Some(before) = oom_before
            && std::env::var_os("PG_OOM_ADJUST_FILE").is_none()
        {
            stage.env("PG_OOM_ADJUST_FILE", "/proc/self/oom_score_adj");
            stage.env("PG_OOM_ADJUST_VALUE", before);
        }
        let mut without_log = None;
        if let Some(log) = &self.log {
            match open_log(log).and_then(|file| Ok((file.try_clone()?, file))) {
                Ok((out, err)) => {
                    stage.stdout(out).stderr(err);
                }
                Err(error) => without_log = Some(error),
            }
        }
        let child = stage.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Started { pid, without_log })
    }
}

/// Opens the log for appending; sets it aside as `.1` first if it has grown long.
fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(path, aside)?;
    }
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    Ok(rustix::fs::open(path, flags, mode)?.into())
}

/// Why the second stage did not become `PostgreSQL`.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The guard died meanwhile.
    #[error("cannot start {program:?}: the guard that asked for it is gone")]
    Orphaned {
        /// The program.
        program: OsString,
    },
    /// The process could not be made to die with the guard, or not made ordinary.
    #[error("cannot start {program:?} safely: could not {attempt}")]
    Unsafe {
        /// The program.
        program: OsString,
        /// What was attempted.
        attempt: &'static str,
    },
    /// The system would not run it.
    #[error("cannot start {program:?}")]
    Exec {
        /// The program.
        program: OsString,
        /// What the system said.
        source: io::Error,
    },
}

/// The second stage: becomes the program, bound to the life of `guard`. Returns only if it cannot.
#[must_use]
pub fn become_program(guard: i32, command: &[OsString]) -> ExecError {
    let program = command.first().cloned().unwrap_or_default();
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return ExecError::Unsafe { program, attempt: "ask for a signal when the guard dies" };
    }
    // The guard may have died before the kernel was asked to tell.
    if getppid().map(rustix::process::Pid::as_raw_pid) != Some(guard) {
        return ExecError::Orphaned { program };
    }
    if !steady::ordinary_priority() {
        return ExecError::Unsafe { program, attempt: "give up the guard's priority" };
    }
    let arguments = command.get(1..).unwrap_or_default();
    let source = Command::new(&program).args(arguments).exec();
    ExecError::Exec { program, source }
}
