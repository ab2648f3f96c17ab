//! Stopping the old server for good, and letting it start again.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::container;
use super::journal::Journal;
use super::server::{PidFile, pid_file};
use crate::docker::engine::{Engine, EngineError};

/// How long a shutdown may take: it follows a checkpoint, and waits for standbys to have all WAL.
const STOP_LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stops the old server in order; done already, it changes nothing.
pub(super) async fn stop(engine: &Engine, journal: &Journal) -> Result<(), String> {
    if let Some(old) = &journal.container {
        return container::stop(engine, old, STOP_LIMIT).await;
    }
    let Some(running) = pid_file(&journal.from) else { return Ok(()) };
    if !runs_on(&running, &journal.from) {
        let path = journal.from.join("postmaster.pid");
        return Err(format!(
            "{} names process {}, which does not run there: the server crashed; start it once more",
            path.display(),
            running.pid
        ));
    }
    if let Some(unit) = &journal.unit {
        // Otherwise systemd might take the end for a failure, and start it again.
        let mut command = Command::new("systemctl");
        command.args(["stop", unit]).stdin(Stdio::null()).kill_on_drop(true);
        let ended = timeout(STOP_LIMIT, command.status()).await;
        let status = ended.map_err(|_| format!("systemctl stop {unit} has not ended"))?;
        let status = status.map_err(|error| format!("cannot run systemctl: {error}"))?;
        if !status.success() {
            return Err(format!("systemctl stop {unit} failed: {status}"));
        }
    } else {
        let pid = Pid::from_raw(running.pid).ok_or("postmaster.pid names no process")?;
        kill_process(pid, Signal::INT)
            .map_err(|error| format!("cannot stop process {}: {error}", running.pid))?;
    }
    let deadline = Instant::now() + STOP_LIMIT;
    while runs_on(&running, &journal.from) || pid_file(&journal.from).is_some() {
        if Instant::now() >= deadline {
            let waited = STOP_LIMIT.as_secs();
            return Err(format!(
                "the old server has not stopped within {waited} s; it was told to"
            ));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Gives the old container its restart policy again; one that is gone needs none.
pub(super) async fn allow_restarts(engine: &Engine, journal: &Journal) -> Result<(), String> {
    let Some(old) = &journal.container else { return Ok(()) };
    match container::set_restart(engine, &old.id, &old.restart).await {
        Ok(()) | Err(EngineError::Missing(_)) => Ok(()),
        Err(error) => {
            Err(format!("could not give container {} its restart policy again: {error}", old.name))
        }
    }
}

/// Returns whether a process is the server of a data directory.
pub(super) fn runs_on(running: &PidFile, data_dir: &Path) -> bool {
    let works_in = std::fs::read_link(format!("/proc/{}/cwd", running.pid));
    works_in.is_ok_and(|place| place == data_dir)
}
