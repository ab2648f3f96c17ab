//! Signals for processes of the server that the agent asks for: where the guard is process 1 of a
//! container, the agent lives in another process namespace, and its numbers mean nothing here.
//!
//! Done on the files thread: it may wait for the disk that the data directory is on.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ha_core::BootId;
use ha_core::permit::{SIGNAL_FILE, SIGNALLED_FILE, ServerSignal, SignalRequest, Signalled};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::files::{read_small, replace};

const REQUEST_BYTES_MAX: u64 = 4096;

/// Serves one request after the other.
#[derive(Debug)]
pub struct Signaller {
    directory: PathBuf,
    pgdata: PathBuf,
    boot: BootId,
    /// The request answered last.
    answered: Option<u64>,
}

impl Signaller {
    /// Takes the permit directory and the data directory. What an earlier guard answered is not done
    /// again.
    #[must_use]
    pub fn new(directory: PathBuf, pgdata: PathBuf, boot: BootId) -> Self {
        let text = read_small(&directory.join(SIGNALLED_FILE), REQUEST_BYTES_MAX);
        let answer = text.ok().and_then(|text| Signalled::decode(&text).ok());
        let answered = answer.filter(|answer| answer.boot == boot).map(|answer| answer.number);
        Self { directory, pgdata, boot, answered }
    }

    /// Serves the request that lies there, if it is a new one of this boot.
    pub fn serve(&mut self) {
        let text = read_small(&self.directory.join(SIGNAL_FILE), REQUEST_BYTES_MAX);
        let request = text.ok().and_then(|text| SignalRequest::decode(&text).ok());
        let Some(request) = request.filter(|request| request.boot == self.boot) else { return };
        if self.answered == Some(request.number) {
            return;
        }
        let done = send(request.pid, &request.signals, &self.pgdata);
        let answer = Signalled { boot: self.boot, number: request.number, done };
        // Whoever waits for an answer that cannot be written gives up, and asks again.
        let _unwritten = replace(&self.directory, SIGNALLED_FILE, answer.encode().as_bytes());
        self.answered = Some(request.number);
    }
}

/// Signals a process of the server. Returns whether the number means one.
fn send(pid: i32, signals: &[ServerSignal], pgdata: &Path) -> bool {
    // Process 1 is the guard itself.
    let pid_held = if pid > 1 { Pid::from_raw(pid) } else { None };
    let handle = pid_held.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at while held: the number cannot mean another process any more.
    let Some(handle) = handle.filter(|_| is_server(pid, pgdata)) else { return false };
    signals.iter().all(|signal| {
        let signal = match signal {
            ServerSignal::Hup => Signal::HUP,
            ServerSignal::Term => Signal::TERM,
            ServerSignal::Cont => Signal::CONT,
        };
        pidfd_send_signal(&handle, signal).is_ok()
    })
}

/// Returns whether the process is a `postgres` at work in the data directory.
fn is_server(pid: i32, pgdata: &Path) -> bool {
    let place = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let here = place(Path::new(&format!("/proc/{pid}/cwd")));
    // " (deleted)" after an upgrade of the package.
    here.is_some()
        && here == place(pgdata)
        && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
            let name = exe.file_name().unwrap_or_default().as_bytes();
            name.strip_suffix(b" (deleted)").unwrap_or(name) == b"postgres"
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_the_server_is_signalled() {
        let me = i32::try_from(std::process::id()).unwrap();
        let here = std::env::current_dir().unwrap();
        for pid in [-1, 0, 1, me, i32::MAX] {
            assert!(!send(pid, &[ServerSignal::Term], &here), "{pid}");
        }
    }
}
