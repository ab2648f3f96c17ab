//! The one thread that touches the disk.
//!
//! Jobs come through a bounded queue and are carried out in its order. Whatever has queued up while
//! the disk was busy becomes one cycle: apply, sync, witness, acknowledge. After the first failure
//! nothing is acknowledged any more; a sync that failed is never tried again, because the kernel
//! may have dropped what it could not write.

#[cfg(feature = "sabotage")]
mod held;

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot, watch};

use super::StoreError;
use super::disk::{Disk, to_io};
use super::record;
use super::witness::{Mark, Promise, Witness};
use crate::error_chain::chain;
use crate::types::{LogId, TypeConfig, Vote};

#[cfg(feature = "sabotage")]
pub(super) use held::Held;

/// How many jobs one cycle takes at most.
const CYCLE_MAX: usize = 64;
/// How many entries are deleted at once: sled takes a second for tens of thousands.
const DELETE_MAX: u64 = 256;

/// One thing to do.
pub(super) enum Job {
    /// Write entries.
    Append { records: Vec<(u64, Vec<u8>)>, last: Mark, done: IOFlushed<TypeConfig> },
    /// Write the vote.
    Vote { vote: Vote, done: oneshot::Sender<std::io::Result<()>> },
    /// Note what is committed; goes to disk with the next cycle that syncs.
    Committed { id: Option<LogId> },
    /// Delete the entries `remove`, from the end; `keep` is the last one left.
    Truncate { keep: Option<Mark>, remove: Range<u64>, done: oneshot::Sender<std::io::Result<()>> },
    /// Write up to where the log is purged, then delete in the background.
    Purge { upto: LogId, remove: Range<u64> },
    /// Write what is left, and end.
    Stop { done: oneshot::Sender<()> },
}

/// What the thread has done so far.
#[derive(Debug)]
pub(super) struct Counters {
    opened: Instant,
    /// Since when it has been at one cycle, as [`Counters::now`] counts; 0 if it is not.
    pub(super) busy_since: AtomicU64,
    pub(super) jobs: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) sync_micros: AtomicU64,
    pub(super) sync_micros_max: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            busy_since: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            sync_micros: AtomicU64::new(0),
            sync_micros_max: AtomicU64::new(0),
        }
    }

    /// Returns microseconds since the store was opened, at least 1.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// The thread's state.
pub(super) struct IoThread {
    pub(super) disk: Disk,
    pub(super) witness: Witness,
    /// What is purged and still to be deleted.
    pub(super) doomed: VecDeque<Range<u64>>,
    pub(super) counters: Arc<Counters>,
    pub(super) failure: watch::Sender<Option<Arc<str>>>,
    /// What was acknowledged and would be lost with the process.
    #[cfg(feature = "sabotage")]
    pub(super) held: Held,
}

impl IoThread {
    /// Works until told to stop, or until nobody can send any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        loop {
            let first = if self.doomed.is_empty() {
                jobs.blocking_recv()
            } else {
                match jobs.try_recv() {
                    Ok(job) => Some(job),
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                    Err(mpsc::error::TryRecvError::Empty) => {
                        self.guarded(Self::delete_some).ok();
                        continue;
                    }
                }
            };
            let mut cycle: Vec<Job> = first.into_iter().collect();
            while !cycle.is_empty() && cycle.len() < CYCLE_MAX {
                let Ok(job) = jobs.try_recv() else { break };
                cycle.push(job);
            }
            let ends = cycle.is_empty();
            if ends || self.work(cycle) {
                self.end();
                return;
            }
            if !self.doomed.is_empty() {
                self.guarded(Self::delete_some).ok();
            }
        }
    }

    fn end(mut self) {
        #[cfg(feature = "sabotage")]
        self.write_held();
        self.guarded(|io| io.disk.sync()).ok();
        if self.failure.borrow().is_some() {
            // Dropping it would make sled write again, and, after an error, wait for ever for that
            // to succeed, while it holds locks it shares with every other store of the process.
            std::mem::forget(self.disk);
        }
    }

    /// Carries out jobs in order; returns whether to stop.
    fn work(&mut self, cycle: Vec<Job>) -> bool {
        self.counters.jobs.fetch_add(cycle.len() as u64, Ordering::Relaxed);
        self.counters.busy_since.store(self.counters.now(), Ordering::Relaxed);
        let stop = self.work_through(cycle);
        self.counters.busy_since.store(0, Ordering::Relaxed);
        stop
    }

    fn work_through(&mut self, cycle: Vec<Job>) -> bool {
        let mut writes = Vec::new();
        for job in cycle {
            match job {
                Job::Append { .. } | Job::Vote { .. } | Job::Committed { .. } => writes.push(job),
                Job::Truncate { keep, remove, done } => {
                    self.write(std::mem::take(&mut writes));
                    let result = self.guarded(|io| io.truncate(keep, remove));
                    done.send(result.map_err(|e| to_io(&e))).ok();
                }
                Job::Purge { upto, remove } => {
                    self.write(std::mem::take(&mut writes));
                    self.guarded(|io| io.purge(upto, remove)).ok();
                }
                Job::Stop { done } => {
                    self.write(std::mem::take(&mut writes));
                    done.send(()).ok();
                    return true;
                }
            }
        }
        self.write(writes);
        false
    }

    /// Writes entries, votes and what is committed, makes them durable, and acknowledges in order.
    fn write(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let result = self.guarded(|io| io.persist(&jobs));
        for job in jobs {
            let result = result.clone().map_err(|e| to_io(&e));
            match job {
                Job::Append { done, .. } => done.io_completed(result),
                Job::Vote { done, .. } => {
                    // Whoever waited may be gone; the vote is on disk all the same.
                    done.send(result).ok();
                }
                _ => {}
            }
        }
    }

    fn persist(&mut self, jobs: &[Job]) -> Result<(), StoreError> {
        #[cfg(feature = "sabotage")]
        if self.holds(|held| held.writes(jobs)) {
            return Ok(());
        }
        let mut promise = self.witness.promise().clone();
        let mut batch = sled::Batch::default();
        for job in jobs {
            match job {
                Job::Append { records, last, .. } => {
                    for (index, bytes) in records {
                        batch.insert(&record::key(*index), bytes.as_slice());
                    }
                    promise.last = Some(*last);
                }
                Job::Vote { vote, .. } => {
                    batch.insert(record::VOTE, record::encode_meta(vote));
                    promise.vote = Some(vote.clone());
                }
                Job::Committed { id } => {
                    batch.insert(record::COMMITTED, record::encode_meta(id));
                }
                Job::Truncate { .. } | Job::Purge { .. } | Job::Stop { .. } => {}
            }
        }
        self.disk.apply(batch)?;
        let only_committed = jobs.iter().all(|job| matches!(job, Job::Committed { .. }));
        if only_committed { Ok(()) } else { self.sync_and_promise(promise) }
    }

    fn truncate(&mut self, keep: Option<Mark>, remove: Range<u64>) -> Result<(), StoreError> {
        #[cfg(feature = "sabotage")]
        if self.holds(|held| held.truncation(keep, remove.clone())) {
            return Ok(());
        }
        // The promise must shrink first: cut between the two, the log only holds more than promised.
        let mut promise = self.witness.promise().clone();
        if promise.last.is_some_and(|last| remove.contains(&last.id.index)) {
            promise.last = keep;
            self.witness.set(promise)?;
        }
        let mut end = remove.end;
        while end > remove.start {
            let start = end.saturating_sub(DELETE_MAX).max(remove.start);
            self.delete(start..end)?;
            end = start;
        }
        self.disk.sync()
    }

    fn purge(&mut self, upto: LogId, remove: Range<u64>) -> Result<(), StoreError> {
        #[cfg(feature = "sabotage")]
        if self.holds(|held| held.purge(upto, remove.clone())) {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        batch.insert(record::PURGED, record::encode_meta(&Some(upto)));
        self.disk.apply(batch)?;
        let mut promise = self.witness.promise().clone();
        promise.purged = promise.purged.max(Some(upto));
        self.sync_and_promise(promise)?;
        if !remove.is_empty() {
            self.doomed.push_back(remove);
        }
        Ok(())
    }

    fn delete_some(&mut self) -> Result<(), StoreError> {
        let Some(mut range) = self.doomed.pop_front() else { return Ok(()) };
        let end = range.end.min(range.start + DELETE_MAX);
        // Not synced: what a power cut brings back is purged, and deleted when the store is opened.
        self.delete(range.start..end)?;
        range.start = end;
        if !range.is_empty() {
            self.doomed.push_front(range);
        }
        Ok(())
    }

    fn delete(&self, indices: Range<u64>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for index in indices.rev() {
            batch.remove(&record::key(index));
        }
        self.disk.apply(batch)
    }

    fn sync_and_promise(&mut self, promise: Promise) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.disk.sync()?;
        self.witness.set(promise)?;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
        self.counters.sync_micros_max.fetch_max(micros, Ordering::Relaxed);
        Ok(())
    }

    /// Does something unless the store has failed before; any error or panic is its failure.
    fn guarded(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), Arc<str>> {
        if let Some(failure) = self.failure.borrow().clone() {
            return Err(failure);
        }
        let line = match caught(self.witness_dir(), || act(self)) {
            Ok(()) => return Ok(()),
            Err(e) => Arc::<str>::from(chain(&e)),
        };
        // Nothing more to do in the background.
        self.doomed.clear();
        tracing::error!(error = %line, "the Raft store has failed");
        self.failure.send_replace(Some(Arc::clone(&line)));
        Err(line)
    }

    fn witness_dir(&self) -> std::path::PathBuf {
        self.witness.path().parent().unwrap_or(Path::new("")).join("log")
    }
}

/// Runs something that calls sled; a panic in it becomes an error.
pub(super) fn caught<T>(
    path: std::path::PathBuf,
    act: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // Whatever the panic left half done is not used again: the caller gives up the store.
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        let what = what.lines().next().unwrap_or_default().to_owned();
        Err(StoreError::Panicked { path, what })
    })
}
