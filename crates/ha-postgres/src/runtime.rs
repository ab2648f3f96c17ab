//! Where PostgreSQL's programs run: as processes of this machine, or in containers.
//!
//! The instance asks a runtime for the few things that differ. It is an enumeration and no trait:
//! the agent is compiled once, for one kind of driver, and nothing of this shows outside.

use rustix::process::Signal;

use crate::attempt::Attempt;
use crate::driver::{ActionError, GuardSeen};
use crate::guard_files::GuardFiles;
use crate::process::ProcessRuntime;
use crate::tool::Programs;

/// Where PostgreSQL's programs run.
#[derive(Debug)]
pub(crate) enum Runtime {
    /// As processes of this machine.
    Process(ProcessRuntime),
}

impl Runtime {
    /// Returns the permit directory.
    pub(crate) const fn files(&self) -> &GuardFiles {
        match self {
            Self::Process(process) => process.files(),
        }
    }

    /// Returns where tools run.
    pub(crate) fn programs(&self) -> Programs<'_> {
        match self {
            Self::Process(process) => Programs::Local(process.local()),
        }
    }

    /// Returns what is seen of the guard.
    pub(crate) fn guard_seen(&self) -> GuardSeen {
        match self {
            Self::Process(process) => process.guard_seen(),
        }
    }

    /// Starts a guard unless one holds the lock.
    pub(crate) async fn start_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.start_guard(attempt).await,
        }
    }

    /// Kills a guard that does not report.
    pub(crate) async fn kill_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.kill_guard(attempt).await,
        }
    }

    /// Tells the guard to end.
    pub(crate) async fn stop_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.stop_guard(attempt).await,
        }
    }

    /// Kills servers and tools that nobody guards, and returns once they are gone.
    pub(crate) async fn end_orphans(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.end_orphans(attempt).await,
        }
    }

    /// Kills tools that an earlier agent left behind on the data directory (rule 63).
    pub(crate) async fn end_leftover_tools(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.end_leftover_tools(attempt).await,
        }
    }

    /// Returns what runs on the data directory, in words, if anything does.
    pub(crate) fn in_use(&self) -> Option<String> {
        match self {
            Self::Process(process) => process.in_use(),
        }
    }

    /// Signals a process of our server. Returns whether the number still meant one.
    pub(crate) fn signal_server(&self, pid: i32, signals: &[Signal]) -> bool {
        match self {
            Self::Process(process) => process.signal_server(pid, signals),
        }
    }

    /// Returns the number in `postmaster.pid` if a tool would take it for a living postmaster.
    pub(crate) fn foreign_postmaster(&self) -> Option<i32> {
        match self {
            Self::Process(process) => process.foreign_postmaster(),
        }
    }
}
