//! sled, and what it takes to trust it: our own sync, and a check of everything read back.
//!
//! sled 0.34.7 writes with `pwrite` and `sync_file_range`, which gets data to the disk's cache at
//! best; its `flush` never syncs. So every acknowledgement waits for [`Disk::sync`], which flushes
//! sled and then syncs sled's main file through a descriptor of our own. sled also does not sync
//! its settings file when it makes it, hence [`Disk::create`].

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StoreError;
use super::mirror::{Mirror, Slot};
use super::record;
use super::witness::Witness;
use crate::store_dir::sync_dir;
use crate::types::{LogId, Vote, term_of};

/// sled's cache. The live log is in memory anyway, this is for sled's own pages.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;
/// How long sled's threads of a store closed before may hold its lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The open database.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    db: sled::Db,
    main: File,
    /// Leave out our own sync: only the tests that must notice its absence do.
    trust_sled: bool,
}

/// What a log on disk holds.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) mirror: Mirror,
    /// Indices of entries purged but not yet deleted.
    pub(super) doomed: VecDeque<Range<u64>>,
}

impl Disk {
    /// Makes an empty database; on disk when this returns, except for the parent's name of it.
    pub(super) fn create(path: &Path) -> Result<(), StoreError> {
        let db = open_sled(path)?;
        db.flush().map_err(|e| engine_error(path, "write", e))?;
        drop(db);
        for name in ["conf", "db"] {
            let file = path.join(name);
            File::open(&file)
                .and_then(|file| file.sync_all())
                .map_err(|e| StoreError::io(&file, "sync", e))?;
        }
        sync_dir(&path.join("blobs"))?;
        sync_dir(path)
    }

    /// Opens an existing database.
    pub(super) fn open(path: &Path, trust_sled: bool) -> Result<Self, StoreError> {
        // sled would make a missing file anew, without a word.
        for name in ["conf", "db"] {
            let file = path.join(name);
            if !file.is_file() {
                return Err(StoreError::damaged(&file, "it is missing"));
            }
        }
        let file = path.join("db");
        let main = File::options()
            .read(true)
            .write(true)
            .open(&file)
            .map_err(|e| StoreError::io(&file, "open", e))?;
        // sled is about to write, and sync, a summary of what this file holds. It must not be more
        // durable than the file itself, parts of which a process that was killed may have left to
        // the kernel.
        main.sync_all().map_err(|e| StoreError::io(&file, "sync", e))?;
        remove_unfinished(path)?;
        let db = open_sled(path)?;
        Ok(Self { path: path.to_owned(), db, main, trust_sled })
    }

    /// Applies changes, all or none; not durable before [`Disk::sync`].
    pub(super) fn apply(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.db.apply_batch(batch).map_err(|e| engine_error(&self.path, "write", e))
    }

    /// Makes everything applied so far durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| engine_error(&self.path, "write", e))?;
        if self.trust_sled {
            return Ok(());
        }
        rustix::fs::fdatasync(&self.main)
            .map_err(|e| StoreError::io(&self.path.join("db"), "sync", e.into()))
    }

    /// Reads everything, and refuses what cannot be what was acknowledged.
    pub(super) fn recover(&self, witness: &Witness) -> Result<Recovered, StoreError> {
        let file = self.path.join("db");
        let damaged = |what: String| StoreError::damaged(&file, what);
        let mut records = Vec::new();
        let (mut vote, mut purged, mut committed) = (None::<Vote>, None::<LogId>, None);
        for item in self.db.iter() {
            let (key, value) = item.map_err(|e| engine_error(&self.path, "read", e))?;
            let of = |name: &str, e| damaged(format!("the record of {name} is damaged: {e}"));
            match key.as_ref() {
                record::VOTE => {
                    vote = Some(record::decode_meta(&value).map_err(|e| of("the vote", e))?);
                }
                record::PURGED => {
                    purged = record::decode_meta(&value).map_err(|e| of("the purged id", e))?;
                }
                record::COMMITTED => {
                    committed =
                        record::decode_meta(&value).map_err(|e| of("the committed id", e))?;
                }
                key => match record::index_of(key) {
                    Some(index) => records.push((index, value)),
                    None => return Err(damaged(format!("it has an unknown key {key:?}"))),
                },
            }
        }
        // sled iterates in the order of the keys, which is that of the indices.
        let begin = purged.map_or(0, |id| id.index + 1);
        let mut doomed = VecDeque::<Range<u64>>::new();
        for (index, _) in records.iter().filter(|(index, _)| *index < begin) {
            match doomed.back_mut() {
                Some(range) if range.end == *index => range.end += 1,
                _ => doomed.push_back(*index..*index + 1),
            }
        }
        let mut slots = VecDeque::<Slot>::new();
        for (index, value) in records.iter().filter(|(index, _)| *index >= begin) {
            let expected = begin + slots.len() as u64;
            if *index != expected {
                return Err(StoreError::lost(&file, format!("log entry {expected}")));
            }
            let found = record::decode(*index, value)
                .map_err(|e| damaged(format!("the record of log entry {index} is damaged: {e}")))?;
            let term = term_of(&found.entry.log_id);
            let before = slots.back().map(|slot| slot.entry.log_id).or(purged);
            if before.is_some_and(|id| term_of(&id) > term) {
                return Err(damaged(format!("log entry {index} has an older term than the last")));
            }
            if slots.back().is_some_and(|slot| slot.crc != found.prev_crc) {
                let what = format!("log entry {index} does not follow the one before it");
                return Err(StoreError::lost(&file, what));
            }
            slots.push_back(Slot { entry: found.entry, crc: found.crc, bytes: found.bytes });
        }
        check_promises(&file, witness, vote.as_ref(), purged, &slots)?;
        let mut mirror = Mirror::new(purged, slots);
        mirror.vote = vote;
        // It is not synced by itself, so after a power cut it may be ahead of the log.
        mirror.committed = committed.filter(|id| Some(*id) <= mirror.last());
        Ok(Recovered { mirror, doomed })
    }
}

fn check_promises(
    file: &Path,
    witness: &Witness,
    vote: Option<&Vote>,
    purged: Option<LogId>,
    slots: &VecDeque<Slot>,
) -> Result<(), StoreError> {
    let promise = witness.promise();
    // Votes of one term for two nodes do not compare: neither of them keeps the other's promise.
    let keeps =
        |vote: &Vote, promised: &Vote| vote.partial_cmp(promised).is_some_and(Ordering::is_ge);
    if let Some(promised) = &promise.vote
        && !vote.is_some_and(|vote| keeps(vote, promised))
    {
        let found = vote.map_or_else(|| "none".to_owned(), ToString::to_string);
        let what = format!("the vote {promised}; it has {found}");
        return Err(StoreError::lost(file, what));
    }
    if purged < promise.purged {
        return Err(StoreError::lost(file, "up to where the log was purged"));
    }
    if let Some(mark) = promise.last {
        let begin = purged.map_or(0, |id| id.index + 1);
        if let Some(offset) = mark.id.index.checked_sub(begin) {
            let slot = usize::try_from(offset).ok().and_then(|at| slots.get(at));
            let intact = |slot: &Slot| slot.entry.log_id == mark.id && slot.crc == mark.crc;
            if !slot.is_some_and(intact) {
                let what = format!("log entry {} of term {}", mark.id.index, term_of(&mark.id));
                return Err(StoreError::lost(file, what));
            }
        }
    }
    Ok(())
}

/// Removes summaries that sled began and did not finish: it would take them for damaged ones.
fn remove_unfinished(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).map_err(|e| StoreError::io(path, "read", e))?;
    for entry in entries {
        let file = entry.map_err(|e| StoreError::io(path, "read", e))?.path();
        if file.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(&file).map_err(|e| StoreError::io(&file, "remove", e))?;
        }
    }
    Ok(())
}

fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        // The only writes are ours, so that an idle node writes nothing.
        .flush_every_ms(None);
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match config.open() {
            // Our own lock says that nobody else has it: it is a thread about to end.
            Err(sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock")
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(|e| engine_error(path, "open", e)),
        }
    }
}

fn engine_error(path: &Path, doing: &'static str, e: sled::Error) -> StoreError {
    match e {
        sled::Error::Io(e) => StoreError::io(path, doing, e),
        source => StoreError::Engine { path: path.to_owned(), source },
    }
}

/// Returns an error of the operating system's kind, for openraft.
pub(super) fn to_io(line: &str) -> io::Error {
    io::Error::other(line.to_owned())
}
