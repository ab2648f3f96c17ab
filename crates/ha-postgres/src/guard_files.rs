//! The permit directory: the files through which a guard is talked to, and its lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ha_core::clock::millis;
use ha_core::permit::{GuardStatus, LOCK_FILE, PERMIT_FILE, Permit, STATUS_FILE};
use ha_core::{BootId, BootNanos};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::attempt::Attempt;
use crate::driver::{ActionError, GuardSeen};

/// A heartbeat older than this means a frozen guard: it writes four a second.
const SILENT_AFTER: Duration = Duration::from_millis(1500);

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

/// A permit directory, and what this process has seen of its guard.
#[derive(Debug)]
pub(crate) struct GuardFiles {
    directory: PathBuf,
    boot: BootId,
    /// Held while a guard is being started.
    pub(crate) starting: AsyncMutex<()>,
    /// Since when the guard has been silent, as far as this process has seen.
    silent_since: Mutex<Option<Instant>>,
}

impl GuardFiles {
    pub(crate) fn new(directory: PathBuf, boot: BootId) -> Self {
        let (starting, silent_since) = (AsyncMutex::new(()), Mutex::new(None));
        Self { directory, boot, starting, silent_since }
    }

    pub(crate) const fn boot(&self) -> BootId {
        self.boot
    }

    /// Reads a file of the directory.
    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.directory.join(name))
    }

    /// Reads the permit as the guard would.
    pub(crate) fn read_permit(&self) -> Result<Option<Permit>, ActionError> {
        let attempt = Attempt::new("read the permit", Instant::now());
        let text = match fs::read_to_string(self.directory.join(PERMIT_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(attempt.refused(error)),
        };
        let permit = Permit::decode(&text).map_err(|error| attempt.cannot(error))?;
        Ok(Some(permit).filter(|permit| permit.boot == self.boot))
    }

    /// Replaces the permit.
    pub(crate) fn write_permit(&self, permit: &Permit) -> Result<(), ActionError> {
        let attempt = Attempt::new("write the permit", Instant::now());
        self.replace(PERMIT_FILE, &permit.encode()).map_err(|error| attempt.refused(error))
    }

    /// Replaces a file of the directory by atomic rename.
    ///
    /// Nothing is flushed to a disk: these files are worth nothing after a reboot, until then the page
    /// cache keeps them, and a renewal several times a second must not wait for a disk.
    pub(crate) fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let scratch = self.directory.join(format!("{name}.new"));
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(true).mode(0o644);
        open.open(&scratch)?.write_all(text.as_bytes())?;
        fs::rename(&scratch, self.directory.join(name))
    }

    /// Reads the status and judges how old it is; `lives` says whether the guard that wrote it can
    /// still be there.
    pub(crate) fn seen(&self, lives: impl Fn(&GuardStatus) -> bool) -> GuardSeen {
        let last = self.last_status();
        let age = last.as_ref().map(|status| boot_now().since(status.heartbeat));
        if let (Some(status), Some(age)) = (&last, age)
            && age <= SILENT_AFTER
            && lives(status)
        {
            self.note_silence(false);
            return GuardSeen::Alive(status.clone());
        }
        if self.starting.try_lock().is_ok() && !self.is_locked() {
            self.note_silence(false);
            return GuardSeen::Absent;
        }
        let seen = self.note_silence(true);
        GuardSeen::Silent { silent_ms: millis(age.map_or(seen, |age| age.max(seen))), last }
    }

    /// Reads the last status of a guard of this boot.
    pub(crate) fn last_status(&self) -> Option<GuardStatus> {
        let text = fs::read_to_string(self.directory.join(STATUS_FILE)).ok()?;
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

    /// Returns whether somebody holds the lock of the directory.
    ///
    /// It takes a shared lock for an instant if it is free. A guard that starts in that instant tries
    /// again; still it is not asked while we are starting one, nor while one reports.
    pub(crate) fn is_locked(&self) -> bool {
        match File::open(self.directory.join(LOCK_FILE)) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
            // Not there: never locked. Unreadable: we do not know, and act as if it were.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}
