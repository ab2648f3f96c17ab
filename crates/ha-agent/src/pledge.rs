//! The pledge: up to which epoch this node has promised to acknowledge no WAL any more.
//!
//! An election counts on it (rules 95 and 104): what a node reports after its pledge is final for those
//! epochs. So it is on disk before anybody is told, and holds after every restart.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ha_core::Epoch;

const FILE: &str = "pledge";
const HEADER: &str = "haclt pledge 1";

/// Why there is no pledge to go by.
#[derive(Debug, thiserror::Error)]
pub enum PledgeError {
    /// The file cannot be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It makes no sense.
    #[error("{path} is damaged: it should read \"{HEADER}\", a line with an epoch, and its check")]
    Damaged {
        /// The file.
        path: String,
    },
}

/// The pledge on disk and in memory.
#[derive(Debug)]
pub struct Pledge {
    path: PathBuf,
    /// What is on disk. Read without waiting for a write.
    epoch: AtomicU64,
    writing: Mutex<()>,
}

impl Pledge {
    /// Reads the pledge in `dir`; a missing file is a node that never pledged.
    ///
    /// # Errors
    /// [`PledgeError`]: without it the node must not acknowledge anything.
    pub fn load(dir: &Path) -> Result<Self, PledgeError> {
        let path = dir.join(FILE);
        let shown = path.display().to_string();
        let epoch = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).ok_or(PledgeError::Damaged { path: shown })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Epoch::NONE,
            Err(source) => return Err(PledgeError::File { path: shown, source }),
        };
        Ok(Self { path, epoch: AtomicU64::new(epoch.0), writing: Mutex::new(()) })
    }

    /// Returns the latest epoch of which nothing is acknowledged any more.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Pledges; on disk when it returns. Waits for the disk: not for the threads that serve the lease.
    ///
    /// # Errors
    /// [`PledgeError`]: then nobody may be told.
    pub fn raise(&self, to: Epoch) -> Result<(), PledgeError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.epoch() >= to {
            return Ok(());
        }
        self.write(to).map_err(|source| PledgeError::File {
            path: self.path.display().to_string(),
            source,
        })?;
        self.epoch.store(to.0, Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, epoch: Epoch) -> io::Result<()> {
        #[cfg(feature = "sabotage")]
        if ha_raft::sabotage::is("fsync-skipped") {
            // It is in memory only, and gone with the process.
            return Ok(());
        }
        let temporary = self.path.with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text(epoch).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        fs::File::open(dir)?.sync_all()
    }
}

/// A number and the same number turned around: half a write is noticed.
pub(crate) fn text(epoch: Epoch) -> String {
    format!("{HEADER}\n{} {}\n", epoch.0, !epoch.0)
}

pub(crate) fn parse(text: &str) -> Option<Epoch> {
    let line = text.strip_prefix(HEADER)?.trim();
    let (epoch, check) = line.split_once(' ')?;
    let (epoch, check): (u64, u64) = (epoch.parse().ok()?, check.parse().ok()?);
    (check == !epoch).then_some(Epoch(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pledge_survives_a_restart_and_only_grows_rule_104() {
        let dir = tempfile::tempdir().expect("a directory");
        let pledge = Pledge::load(dir.path()).expect("nothing there");
        assert_eq!(pledge.epoch(), Epoch::NONE);
        pledge.raise(Epoch(7)).expect("a writable directory");
        pledge.raise(Epoch(5)).expect("nothing to do");
        assert_eq!(Pledge::load(dir.path()).expect("readable").epoch(), Epoch(7));
    }

    #[test]
    fn a_damaged_pledge_is_no_pledge_of_zero() {
        let dir = tempfile::tempdir().expect("a directory");
        Pledge::load(dir.path()).expect("none").raise(Epoch(7)).expect("writable");
        let whole = fs::read_to_string(dir.path().join(FILE)).expect("readable");
        for length in 0..whole.len() - 1 {
            fs::write(dir.path().join(FILE), &whole[..length]).expect("writable");
            let read = Pledge::load(dir.path());
            assert!(matches!(read, Err(PledgeError::Damaged { .. })), "{length} bytes of it");
        }
    }

    #[test]
    fn a_pledge_that_could_not_be_written_is_not_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let pledge = Pledge::load(dir.path()).expect("none");
        drop(dir);
        assert!(matches!(pledge.raise(Epoch(3)), Err(PledgeError::File { .. })));
        assert_eq!(pledge.epoch(), Epoch::NONE);
    }
}
