//! Votes and log entries on disk, and how their loss is noticed.
//!
//! [`LogStore`] is what openraft talks to. Reads come from memory. Writes go to one thread that
//! owns sled (`io_thread`): `append` returns as soon as its entries can be read, and its callback
//! fires once they are durable, which on this path means: sled has flushed, *we* have synced sled's
//! file (`disk`), and the witness file has been written and synced (`witness`). `save_vote`
//! returns after the same. `save_committed` and the deletion of purged entries wait for nothing.
//!
//! An idle store writes nothing. Any error of the disk ends the store: nothing is acknowledged
//! after it, and [`LogStore::failure`] says so to whoever must end the process.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha_core::NodeId;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot, watch};

use crate::store_dir::{StoreDir, StoreLock, log_in, witness_in};
use crate::types::{Entry, LogId, TypeConfig, Vote};

mod disk;
mod error;
#[doc(hidden)]
pub mod fuzz_door;
mod io_thread;
mod mirror;
mod record;
#[cfg(test)]
mod tests;
mod witness;

pub use error::StoreError;

use disk::Disk;
use io_thread::{Counters, IoThread, Job};
use mirror::Mirror;
use witness::Witness;

/// How many jobs may wait for the disk. openraft itself has far fewer in flight.
const QUEUE_MAX: usize = 1024;
/// How long opening may take: a store of the size we allow opens in milliseconds.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Do without our own sync of sled's file, for tests that must notice that it is missing.
    pub trust_sled: bool,
    /// Let the first entry have any index, as openraft's test suite does.
    pub start_anywhere: bool,
}

/// What the store has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStats {
    /// Jobs given to the disk's thread.
    pub jobs: u64,
    /// Times it wrote and synced.
    pub syncs: u64,
    /// How long these took, together.
    pub sync_total: Duration,
    /// How long the slowest took.
    pub sync_max: Duration,
    /// For how long the disk's thread has been at what it is doing: long means that the disk hangs.
    pub busy_for: Duration,
    /// Entries in the live log.
    pub entries: usize,
}

/// The log of one node. Clones are handles of the same log.
#[derive(Debug, Clone)]
pub struct LogStore {
    mirror: Arc<Mutex<Mirror>>,
    jobs: mpsc::Sender<Job>,
    counters: Arc<Counters>,
    failure: watch::Receiver<Option<Arc<str>>>,
    /// Closed when the disk's thread has let go of everything.
    ended: watch::Receiver<()>,
}

/// Opens the store under `root`, or makes it if there is none; returns its directory and its log.
///
/// sled runs on a thread of its own from the first moment, so neither its blocking nor its panics
/// reach the caller. Dropping this future leaves the thread to finish and then let go of the store.
///
/// # Errors
/// [`StoreError`]; its [`StoreError::hint`] says what the operator can do. A store that is damaged
/// or has lost something is left as it is.
pub async fn open(
    root: &Path,
    cluster: &str,
    node: &NodeId,
    options: StoreOptions,
) -> Result<(StoreDir, LogStore), StoreError> {
    let (ready, opened) = oneshot::channel();
    let (jobs, queue) = mpsc::channel(QUEUE_MAX);
    let (failure, failed) = watch::channel(None);
    let (running, ended) = watch::channel(());
    let counters = Arc::new(Counters::new());
    let shared = Arc::clone(&counters);
    let (root_dir, cluster, node) = (root.to_owned(), cluster.to_owned(), node.clone());
    let log = log_in(&root.join("store"));
    let body = move || {
        let result = io_thread::caught(log, || prepare(&root_dir, &cluster, &node, &options));
        match result {
            Ok((dir, lock, disk, witness, recovered)) => {
                let doomed = recovered.doomed;
                if ready.send(Ok((dir, recovered.mirror))).is_ok() {
                    IoThread {
                        disk,
                        witness,
                        doomed,
                        counters: shared,
                        failure,
                        #[cfg(feature = "sabotage")]
                        held: io_thread::Held::default(),
                    }
                    .run(queue);
                }
                // The lock goes last: nobody may open the store before sled is closed.
                drop(lock);
            }
            Err(e) => {
                ready.send(Err(e)).ok();
            }
        }
        drop(running);
    };
    std::thread::Builder::new()
        .name("ha-raft-disk".to_owned())
        .spawn(body)
        .map_err(|e| StoreError::io(root, "start the thread for", e))?;
    let opened = tokio::time::timeout(OPEN_LIMIT, opened).await.map_err(|_| {
        let waited_ms = u64::try_from(OPEN_LIMIT.as_millis()).unwrap_or(u64::MAX);
        StoreError::TooSlow { path: root.to_owned(), waited_ms }
    })?;
    let (dir, mirror) = opened.unwrap_or_else(|_| {
        Err(StoreError::Panicked { path: root.to_owned(), what: "its thread ended".to_owned() })
    })?;
    let mirror = Arc::new(Mutex::new(mirror));
    Ok((dir, LogStore { mirror, jobs, counters, failure: failed, ended }))
}

fn prepare(
    root: &Path,
    cluster: &str,
    node: &NodeId,
    options: &StoreOptions,
) -> Result<(StoreDir, StoreLock, Disk, Witness, disk::Recovered), StoreError> {
    let (dir, lock) = StoreDir::open(root, cluster, node, |store, identity| {
        Disk::create(&log_in(store))?;
        Witness::create(&witness_in(store), identity)
    })?;
    // The witness first: without it, nothing sled says can be trusted.
    let witness = Witness::open(&dir.witness(), dir.identity())?;
    let disk = Disk::open(&dir.log(), options.trust_sled)?;
    let mut recovered = disk.recover(&witness)?;
    recovered.mirror.start_anywhere = options.start_anywhere;
    Ok((dir, lock, disk, witness, recovered))
}

impl LogStore {
    /// Returns why the store failed, once it has; the process must end then.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.failure.clone()
    }

    /// Returns what the store has done so far.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let busy_for = match self.counters.busy_since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.counters.now().saturating_sub(since),
        };
        StoreStats {
            busy_for: Duration::from_micros(busy_for),
            jobs: self.counters.jobs.load(Ordering::Relaxed),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            sync_total: Duration::from_micros(self.counters.sync_micros.load(Ordering::Relaxed)),
            sync_max: Duration::from_micros(self.counters.sync_micros_max.load(Ordering::Relaxed)),
            entries: self.mirror().len(),
        }
    }

    /// Returns whether this node has a log or has ever voted, which openraft calls initialized.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        let mirror = self.mirror();
        mirror.last().is_some() || mirror.vote.as_ref().is_some_and(|v| v.leader_id.term > 0)
    }

    /// Returns up to where the log has been purged: what a snapshot must hold.
    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.mirror().purged()
    }

    /// Writes what is left, and ends the disk's thread. May be called again; bounded by the disk.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if self.jobs.send(Job::Stop { done }).await.is_ok() {
            ended.await.ok();
        }
        let mut thread = self.ended.clone();
        while thread.changed().await.is_ok() {}
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| self.closed())
    }

    async fn wait<T>(&self, done: oneshot::Receiver<io::Result<T>>) -> io::Result<T> {
        done.await.unwrap_or_else(|_| Err(self.closed()))
    }

    fn closed(&self) -> io::Error {
        let failure = self.failure.borrow().clone();
        io::Error::other(failure.as_deref().unwrap_or("the Raft store is closed").to_owned())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.mirror().range(&range))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.mirror().vote.clone())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let mirror = self.mirror();
        Ok(LogState { last_purged_log_id: mirror.purged(), last_log_id: mirror.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.send(Job::Vote { vote: vote.clone(), done }).await?;
        self.wait(written).await?;
        self.mirror().vote = Some(vote.clone());
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.mirror().committed = committed;
        self.send(Job::Committed { id: committed }).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.mirror().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (records, last) = {
            let mut mirror = self.mirror();
            let mut records = Vec::new();
            for entry in entries {
                let index = entry.log_id.index;
                records.push((index, mirror.push(entry)?));
            }
            (records, mirror.last_mark())
        };
        match last {
            Some(last) if !records.is_empty() => {
                self.send(Job::Append { records, last, done }).await
            }
            _ => {
                done.io_completed(Ok(()));
                Ok(())
            }
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let (keep, remove) = {
            let mut mirror = self.mirror();
            let remove = mirror.truncate_after(last_log_id.map(|id| id.index));
            (mirror.last_mark(), remove)
        };
        let (done, written) = oneshot::channel();
        self.send(Job::Truncate { keep, remove, done }).await?;
        self.wait(written).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let remove = self.mirror().purge(log_id);
        self.send(Job::Purge { upto: log_id, remove }).await
    }
}
