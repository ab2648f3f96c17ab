//! Processes of this machine: PostgreSQL's programs from a local directory, and a guard of our own.

mod orphans;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ha_core::clock::millis;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout_at};
use tracing::{info, warn};

use crate::attempt::{Attempt, one_line};
use crate::driver::{ActionError, Effect, GuardSeen};
use crate::guard_files::GuardFiles;
use crate::instance::directory::Layout;
use crate::instance::{InstanceConfig, RunAs, settings};
use crate::tool::{Local, Programs, Tool};

#[cfg(test)]
pub(crate) use orphans::is_alive;
pub(crate) use orphans::{end_tools, start_ticks, tools_on};

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where the programs of the process driver are.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Where `postgres`, `initdb`, `pg_basebackup`, … are.
    pub bin_dir: PathBuf,
    /// The guard's binary.
    pub guard: PathBuf,
}

impl ProcessConfig {
    /// Returns everything that is wrong with it, one line each. Changes nothing.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let relative = [&self.bin_dir, &self.guard].into_iter().filter(|path| !path.is_absolute());
        relative.map(|path| format!("path {} is not absolute", path.display())).collect()
    }
}

/// Runs everything as processes of this machine.
#[derive(Debug)]
pub(crate) struct ProcessRuntime {
    process: ProcessConfig,
    config: Arc<InstanceConfig>,
    layout: Layout,
    files: GuardFiles,
}

impl ProcessRuntime {
    pub(crate) const fn new(
        process: ProcessConfig,
        config: Arc<InstanceConfig>,
        layout: Layout,
        files: GuardFiles,
    ) -> Self {
        Self { process, config, layout, files }
    }

    pub(crate) const fn files(&self) -> &GuardFiles {
        &self.files
    }

    pub(crate) fn local(&self) -> Local<'_> {
        let (bin_dir, work_dir) = (&*self.process.bin_dir, &*self.layout.data_dir);
        Local { bin_dir, work_dir, run_as: self.config.run_as }
    }

    pub(crate) fn guard_seen(&self) -> GuardSeen {
        self.files.seen(|status| orphans::is_alive(status.guard_pid))
    }

    /// Starts a guard unless one holds the lock.
    pub(crate) async fn start_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let lock = timeout_at(attempt.deadline(), self.files.starting.lock());
        let _starting = lock.await.map_err(|_| attempt.timed_out())?;
        let seen = self.files.last_status();
        if self.files.is_locked() {
            return match self.guard_seen() {
                GuardSeen::Alive(_) => Ok(()),
                _ => Err(attempt.refused("a guard that does not report holds the lock")),
            };
        }
        let major = self.program_major(attempt).await?;
        let mut child = self.spawn_guard(major, attempt)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        loop {
            let reports = self.files.last_status().filter(|status| Some(status.guard_pid) == pid);
            if reports.is_some_and(|status| Some(&status) != seen.as_ref()) {
                info!(pid, "guard started");
                tokio::spawn(note_end(child));
                return Ok(());
            }
            if let Ok(Some(status)) = child.try_wait() {
                let said = last_line(&self.config);
                return Err(attempt.refused(format!("it ended with {status}: {said}")));
            }
            if attempt.left().is_zero() {
                // It may yet come up; nobody is harmed, since it starts nothing without a permit.
                tokio::spawn(note_end(child));
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }

    /// Starts the guard in its own session (it sees to that itself), so that it survives the agent.
    fn spawn_guard(&self, major: u32, attempt: &Attempt) -> Result<Child, ActionError> {
        let config = &*self.config;
        let log = config.log_dir.join("guard.log");
        let open = || OpenOptions::new().append(true).create(true).mode(0o640).open(&log);
        let (out, err) = open()
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(|error| attempt.cannot(format!("cannot open {}: {error}", log.display())))?;
        let number = |span: Duration| millis(span).to_string();
        let mut command = Command::new(&self.process.guard);
        command.arg("run").arg("--permit-dir").arg(&config.permit_dir);
        command.arg("--pgdata").arg(&self.layout.data_dir);
        command.arg("--margin-ms").arg(number(config.margin));
        command.arg("--fast-stop-ms").arg(number(config.fast_stop));
        command.arg("--immediate-stop-ms").arg(number(config.immediate_stop));
        if let Some(RunAs { uid, gid }) = config.run_as {
            command.arg("--uid").arg(uid.to_string()).arg("--gid").arg(gid.to_string());
        }
        command.arg("--").arg(self.process.bin_dir.join("postgres"));
        command.args(settings::server_args(config, &self.layout, major));
        // The agent's environment may hold secrets, and the server inherits the guard's.
        command.env_clear().current_dir("/").kill_on_drop(false);
        for kept in ["PATH", "TZ", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        #[cfg(feature = "sabotage")]
        if let Some(missing) = std::env::var_os("HACLT_SABOTAGE") {
            command.env("HACLT_SABOTAGE", missing);
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        command.spawn().map_err(|error| {
            attempt.cannot(format!("cannot start {}: {error}", self.process.guard.display()))
        })
    }

    /// Returns the major version of the programs.
    async fn program_major(&self, attempt: &Attempt) -> Result<u32, ActionError> {
        let tool = Tool::new("postgres", Programs::Local(self.local())).args(["--version"]);
        let output = tool.run(attempt.deadline()).await;
        let line = output.map_err(|error| error.during(attempt, Effect::None))?.lines.concat();
        let version = line.split_whitespace().nth(2).unwrap_or_default();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| attempt.cannot(format!("unknown version {line:?}")))
    }

    /// Its death kills the postmaster with it; what is left is killed before the next guard starts.
    pub(crate) async fn kill_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let GuardSeen::Silent { last: Some(last), .. } = self.guard_seen() else { return Ok(()) };
        let Some(guard) = orphans::hold_named(last.guard_pid, "ha-guard") else { return Ok(()) };
        warn!(guard = last.guard_pid, "the guard is frozen: it is killed, and PostgreSQL with it");
        guard.signal(Signal::KILL);
        while self.files.is_locked() {
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
        Ok(())
    }

    pub(crate) async fn stop_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        loop {
            match self.guard_seen() {
                GuardSeen::Absent => return Ok(()),
                GuardSeen::Alive(status) => {
                    // The number is from a status of this boot whose writer still holds its lock.
                    let told = Pid::from_raw(status.guard_pid)
                        .is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
                    if !told && self.files.is_locked() {
                        return Err(attempt.refused("the guard cannot be signalled"));
                    }
                }
                GuardSeen::Silent { .. } => {}
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }
}

/// Waits for the guard's end, so that it does not stay a zombie while this agent lives.
async fn note_end(mut child: Child) {
    let pid = child.id();
    match child.wait().await {
        Ok(status) if status.success() => info!(pid, "guard ended as it was told"),
        Ok(status) => warn!(pid, %status, "guard ended"),
        Err(error) => warn!(pid, %error, "could not wait for the guard"),
    }
}

fn last_line(config: &InstanceConfig) -> String {
    let text = fs::read(config.log_dir.join("guard.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    one_line(text.lines().next_back().unwrap_or("it said nothing"))
}
