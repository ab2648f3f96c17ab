//! Where PostgreSQL's programs run: as processes of this machine, or in containers.
//!
//! The instance asks a runtime for the few things that differ. It is an enumeration and no trait:
//! the agent is compiled once, for one kind of driver, and nothing of this shows outside.

use rustix::process::Signal;
use tokio::time::Instant;

use crate::attempt::Attempt;
use crate::docker::DockerRuntime;
use crate::driver::{ActionError, GuardSeen};
use crate::guard_files::GuardFiles;
use crate::process::ProcessRuntime;
use crate::tool::Programs;

/// Where PostgreSQL's programs run.
#[derive(Debug)]
pub(crate) enum Runtime {
    /// As processes of this machine.
    Process(Box<ProcessRuntime>),
    /// In containers.
    Docker(DockerRuntime),
}

impl Runtime {
    /// Returns the permit directory.
    pub(crate) fn files(&self) -> &GuardFiles {
        match self {
            Self::Process(process) => process.files(),
            Self::Docker(docker) => docker.files(),
        }
    }

    /// Returns whether names and published ports may be dead although the server is not: both are an
    /// engine's doing.
    pub(crate) fn is_network_in_doubt(&self) -> bool {
        match self {
            Self::Process(_) => false,
            Self::Docker(docker) => docker.shared().is_engine_away(),
        }
    }

    /// Returns where tools run.
    pub(crate) fn programs(&self) -> Programs<'_> {
        match self {
            Self::Process(process) => Programs::Local(process.local()),
            Self::Docker(docker) => Programs::Docker(docker.shared()),
        }
    }

    /// Returns what is seen of the guard.
    pub(crate) fn guard_seen(&self) -> GuardSeen {
        match self {
            Self::Process(process) => process.guard_seen(),
            Self::Docker(docker) => docker.shared().guard_seen(),
        }
    }

    /// Starts a guard unless one holds the lock.
    pub(crate) async fn start_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.start_guard(attempt).await,
            Self::Docker(docker) => Box::pin(docker.shared().start_guard(attempt)).await,
        }
    }

    /// Kills a guard that does not report.
    pub(crate) async fn kill_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.kill_guard(attempt).await,
            Self::Docker(docker) => docker.shared().kill_guard(attempt).await,
        }
    }

    /// Tells the guard to end.
    pub(crate) async fn stop_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.stop_guard(attempt).await,
            Self::Docker(docker) => docker.shared().stop_guard(attempt).await,
        }
    }

    /// Kills servers and tools that nobody guards, and returns once they are gone.
    pub(crate) async fn end_orphans(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.end_orphans(attempt).await,
            Self::Docker(docker) => docker.shared().end_orphans(attempt).await,
        }
    }

    /// Ends the tools of this agent before it goes.
    pub(crate) async fn end_tools(&self, deadline: Instant) {
        match self {
            // Each dies with whoever waits for it.
            Self::Process(_) => {}
            Self::Docker(docker) => docker.shared().end_tools(deadline).await,
        }
    }

    /// Kills tools that an earlier agent left behind on the data directory (rule 63).
    pub(crate) async fn end_leftover_tools(&self, attempt: &Attempt) -> Result<(), ActionError> {
        match self {
            Self::Process(process) => process.end_leftover_tools(attempt).await,
            Self::Docker(docker) => docker.shared().end_leftover_tools(attempt).await,
        }
    }

    /// Returns what runs on the data directory, in words, if anything does.
    pub(crate) async fn in_use(&self) -> Option<String> {
        match self {
            Self::Process(process) => process.in_use(),
            Self::Docker(docker) => docker.shared().in_use().await,
        }
    }

    /// Signals a process of our server. Returns whether the number still meant one.
    pub(crate) async fn signal_server(&self, pid: i32, signals: &[Signal]) -> bool {
        match self {
            Self::Process(process) => process.signal_server(pid, signals),
            Self::Docker(docker) => docker.shared().signal_server(pid, signals).await,
        }
    }

    /// Returns the number in `postmaster.pid` if a tool would take it for a living postmaster.
    pub(crate) fn foreign_postmaster(&self) -> Option<i32> {
        match self {
            Self::Process(process) => process.foreign_postmaster(),
            // A tool in a container sees no process of another one.
            Self::Docker(_) => None,
        }
    }

    /// The same for whoever only reads: what can be told without an engine is told without one.
    pub(crate) async fn in_use_by_server(&self) -> Option<String> {
        match self {
            Self::Process(process) => process.in_use(),
            Self::Docker(docker) => docker.shared().in_use_by_server().await,
        }
    }

    /// Writes what the guard is to start, where that is no argument of the guard itself.
    pub(crate) fn write_launch(&self) -> Result<(), String> {
        match self {
            Self::Process(_) => Ok(()),
            Self::Docker(docker) => docker.shared().write_launch(),
        }
    }

    /// Returns what is not well with what the programs run in, in one line.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self {
            Self::Process(_) => None,
            Self::Docker(docker) => docker.trouble(),
        }
    }

    /// Returns the id of the container that the guard runs in, if it runs in one.
    pub(crate) fn container_id(&self) -> Option<String> {
        match self {
            Self::Process(_) => None,
            Self::Docker(docker) => docker.container_id(),
        }
    }

    /// Waits until that changes, or something else that the agent should look at.
    pub(crate) async fn changed(&self) {
        match self {
            Self::Process(_) => std::future::pending().await,
            Self::Docker(docker) => docker.changed().await,
        }
    }
}
