//! The guard process and the two files through which it is talked to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::PoisonError;
use std::time::Duration;

use ha_core::clock::millis;
use ha_core::permit::{GuardStatus, LOCK_FILE, PERMIT_FILE, Permit, STATUS_FILE};
use ha_core::{BootId, BootNanos};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::{ProcessConfig, ProcessDriver, RunAs, orphans, settings};
use crate::attempt::{Attempt, one_line};
use crate::driver::{ActionError, Effect, GuardSeen};

/// A heartbeat older than this means a frozen guard: it writes four a second.
const SILENT_AFTER: Duration = Duration::from_millis(1500);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Reads the id of this boot.
pub(crate) fn boot_id() -> Result<BootId, String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    text.trim().parse().map_err(|error| format!("cannot read {path}: {error}"))
}

/// Reads `CLOCK_BOOTTIME`.
pub(crate) fn boot_now() -> BootNanos {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    BootNanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

pub(super) fn read_permit(directory: &Path, boot: BootId) -> Result<Option<Permit>, ActionError> {
    let attempt = Attempt::new("read the permit", Instant::now());
    let text = match fs::read_to_string(directory.join(PERMIT_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(attempt.refused(error)),
    };
    let permit = Permit::decode(&text).map_err(|error| attempt.cannot(error))?;
    Ok(Some(permit).filter(|permit| permit.boot == boot))
}

/// Replaces the permit.
///
/// Nothing is flushed to a disk: the permit is worth nothing after a reboot, until then the page
/// cache keeps it, and a renewal several times a second must not wait for a disk.
pub(super) fn write_permit(directory: &Path, permit: &Permit) -> Result<(), ActionError> {
    let attempt = Attempt::new("write the permit", Instant::now());
    let scratch = directory.join(format!("{PERMIT_FILE}.new"));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&scratch)
        .and_then(|mut file| file.write_all(permit.encode().as_bytes()))
        .and_then(|()| fs::rename(&scratch, directory.join(PERMIT_FILE)));
    written.map_err(|error| attempt.refused(error))
}

impl ProcessDriver {
    /// Reads the status and judges how old it is.
    pub(super) fn guard_seen(&self) -> GuardSeen {
        let last = self.last_status();
        let age = last.as_ref().map(|status| boot_now().since(status.heartbeat));
        if let (Some(status), Some(age)) = (&last, age)
            && age <= SILENT_AFTER
            && orphans::is_alive(status.guard_pid)
        {
            self.note_silence(false);
            return GuardSeen::Alive(status.clone());
        }
        if self.starting.try_lock().is_ok() && !is_locked(&self.config.permit_dir) {
            self.note_silence(false);
            return GuardSeen::Absent;
        }
        let seen = self.note_silence(true);
        GuardSeen::Silent { silent_ms: millis(age.map_or(seen, |age| age.max(seen))), last }
    }

    fn last_status(&self) -> Option<GuardStatus> {
        let text = fs::read_to_string(self.config.permit_dir.join(STATUS_FILE)).ok()?;
        GuardStatus::decode(&text).ok().filter(|status| status.boot == self.boot)
    }

    /// Returns for how long the guard has been silent as far as this process has seen.
    fn note_silence(&self, silent: bool) -> Duration {
        let mut since = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        if !silent {
            *since = None;
            return Duration::ZERO;
        }
        since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Starts a guard unless one holds the lock.
    pub(super) async fn start_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let lock = timeout_at(attempt.deadline(), self.starting.lock());
        let _starting = lock.await.map_err(|_| attempt.timed_out())?;
        let seen = self.last_status();
        if is_locked(&self.config.permit_dir) {
            return match self.guard_seen() {
                GuardSeen::Alive(_) => Ok(()),
                _ => Err(attempt.refused("a guard that does not report holds the lock")),
            };
        }
        let major = self.program_major(attempt).await?;
        let mut child = self.spawn_guard(major, attempt)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        loop {
            let reports = self.last_status().filter(|status| Some(status.guard_pid) == pid);
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
        let mut command = Command::new(&config.guard);
        command.arg("run").arg("--permit-dir").arg(&config.permit_dir);
        command.arg("--pgdata").arg(&self.layout.data_dir);
        command.arg("--margin-ms").arg(number(config.margin));
        command.arg("--fast-stop-ms").arg(number(config.fast_stop));
        command.arg("--immediate-stop-ms").arg(number(config.immediate_stop));
        if let Some(RunAs { uid, gid }) = config.run_as {
            command.arg("--uid").arg(uid.to_string()).arg("--gid").arg(gid.to_string());
        }
        command.arg("--").arg(config.bin_dir.join("postgres"));
        command.args(settings::server_args(config, &self.layout, major));
        // The agent's environment may hold secrets, and the server inherits the guard's.
        command.env_clear().current_dir("/").kill_on_drop(false);
        for kept in ["PATH", "TZ", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        command.spawn().map_err(|error| {
            attempt.cannot(format!("cannot start {}: {error}", config.guard.display()))
        })
    }

    /// Returns the major version of the programs.
    pub(super) async fn program_major(&self, attempt: &Attempt) -> Result<u32, ActionError> {
        let output = self
            .tool("postgres")
            .args(["--version"])
            .run(attempt.deadline())
            .await
            .map_err(|error| error.during(attempt, Effect::None))?;
        let line = output.lines.concat();
        let version = line.split_whitespace().nth(2).unwrap_or_default();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| attempt.cannot(format!("unknown version {line:?}")))
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

/// Returns whether somebody holds the lock of the permit directory.
///
/// It takes a shared lock for an instant if it is free, which a guard that starts in that instant
/// would take for another guard: hence not while we are starting one, nor while one reports.
fn is_locked(directory: &Path) -> bool {
    match File::open(directory.join(LOCK_FILE)) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        // Not there: never locked. Unreadable: we do not know, and act as if it were.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn last_line(config: &ProcessConfig) -> String {
    let text = fs::read(config.log_dir.join("guard.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    one_line(text.lines().next_back().unwrap_or("it said nothing"))
}
