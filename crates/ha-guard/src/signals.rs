//! Signals for processes of the server that the agent asks for: where the guard is process 1 of a
//! container, the agent lives in another process namespace, and its numbers mean nothing here.
//!
//! Done on the files thread, which may wait for whatever it reads.

use std::fs;
use std::path::PathBuf;

use ha_core::BootId;
use ha_core::permit::{
    GuardStatus, SIGNAL_FILE, SIGNALLED_FILE, ServerSignal, SignalRequest, Signalled,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::files::{read_small, replace};
use crate::tree::Stat;

const REQUEST_BYTES_MAX: u64 = 4096;

/// Serves one request after the other.
#[derive(Debug)]
pub struct Signaller {
    directory: PathBuf,
    boot: BootId,
    /// The postmaster of the current run, as last reported.
    postmaster: Option<i32>,
    /// The request answered last.
    answered: Option<u64>,
}

impl Signaller {
    /// Takes the permit directory. What an earlier guard answered is not done again.
    #[must_use]
    pub fn new(directory: PathBuf, boot: BootId) -> Self {
        let text = read_small(&directory.join(SIGNALLED_FILE), REQUEST_BYTES_MAX);
        let answer = text.ok().and_then(|text| Signalled::decode(&text).ok());
        let answered = answer.filter(|answer| answer.boot == boot).map(|answer| answer.number);
        Self { directory, boot, postmaster: None, answered }
    }

    /// Takes in a status that the guard reports.
    pub fn hear(&mut self, status: &[u8]) {
        let status =
            std::str::from_utf8(status).ok().and_then(|text| GuardStatus::decode(text).ok());
        self.postmaster = status.and_then(|status| status.postmaster);
    }

    /// Serves the request that lies there, if it is a new one of this boot.
    pub fn serve(&mut self) {
        let text = read_small(&self.directory.join(SIGNAL_FILE), REQUEST_BYTES_MAX);
        let request = text.ok().and_then(|text| SignalRequest::decode(&text).ok());
        let Some(request) = request.filter(|request| request.boot == self.boot) else { return };
        if self.answered == Some(request.number) {
            return;
        }
        let done = send(request.pid, &request.signals, self.postmaster);
        let answer = Signalled { boot: self.boot, number: request.number, done };
        // Whoever waits for an answer that cannot be written gives up, and asks again.
        let _unwritten = replace(&self.directory, SIGNALLED_FILE, answer.encode().as_bytes());
        self.answered = Some(request.number);
    }
}

/// Signals a process of the server. Returns whether the number means one.
fn send(pid: i32, signals: &[ServerSignal], postmaster: Option<i32>) -> bool {
    // Process 1 is the guard itself.
    let pid_held = if pid > 1 { Pid::from_raw(pid) } else { None };
    let handle = pid_held.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at while held: the number cannot mean another process any more.
    let Some(handle) = handle.filter(|_| is_server(pid, postmaster)) else { return false };
    signals.iter().all(|signal| {
        let signal = match signal {
            ServerSignal::Hup => Signal::HUP,
            ServerSignal::Term => Signal::TERM,
            ServerSignal::Cont => Signal::CONT,
            ServerSignal::Kill => Signal::KILL,
        };
        pidfd_send_signal(&handle, signal).is_ok()
    })
}

/// Returns whether the process is the postmaster of the current run or one of its children.
///
/// By name and parent, which everybody may read: program file and working directory of another user's
/// process are hidden from a root that lacks `CAP_SYS_PTRACE`, as in a container.
fn is_server(pid: i32, postmaster: Option<i32>) -> bool {
    let named = fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"postgres\n");
    let parent = fs::read(format!("/proc/{pid}/stat")).ok().and_then(|line| Stat::parse(&line));
    let ours = |postmaster| pid == postmaster || parent.is_some_and(|it| it.parent == postmaster);
    named && postmaster.is_some_and(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_the_server_is_signalled() {
        let me = i32::try_from(std::process::id()).unwrap();
        let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        for pid in [-1, 0, 1, me, i32::MAX] {
            for postmaster in [None, Some(me), Some(parent), Some(1)] {
                assert!(!send(pid, &[ServerSignal::Term], postmaster), "{pid} {postmaster:?}");
            }
        }
    }
}
