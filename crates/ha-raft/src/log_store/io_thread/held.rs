//! `fsync-skipped`: what a disk that was never synced would lose in a power cut is lost with the process.
//!
//! A process that is killed leaves its writes to the kernel, synced or not; so here they do not get that far.
//! One that is told to stop writes them all, as a machine that is shut down in order does.

use std::ops::Range;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::{IoThread, Job};
use crate::log_store::witness::Mark;
use crate::sabotage;
use crate::types::{LogId, Vote};

/// Jobs in their order.
#[derive(Debug, Default)]
pub(in crate::log_store) struct Held {
    jobs: Vec<HeldJob>,
    /// Whether they are being written now.
    released: bool,
}

#[derive(Debug)]
enum HeldJob {
    Append { records: Vec<(u64, Vec<u8>)>, last: Mark },
    Vote(Vote),
    Committed(Option<LogId>),
    Truncate { keep: Option<Mark>, remove: Range<u64> },
    Purge { upto: LogId, remove: Range<u64> },
}

impl Held {
    pub(super) fn writes(&mut self, jobs: &[Job]) {
        self.jobs.extend(jobs.iter().filter_map(|job| match job {
            Job::Append { records, last, .. } => {
                Some(HeldJob::Append { records: records.clone(), last: *last })
            }
            Job::Vote { vote, .. } => Some(HeldJob::Vote(vote.clone())),
            Job::Committed { id } => Some(HeldJob::Committed(*id)),
            Job::Truncate { .. } | Job::Purge { .. } | Job::Stop { .. } => None,
        }));
    }

    pub(super) fn truncation(&mut self, keep: Option<Mark>, remove: Range<u64>) {
        self.jobs.push(HeldJob::Truncate { keep, remove });
    }

    pub(super) fn purge(&mut self, upto: LogId, remove: Range<u64>) {
        self.jobs.push(HeldJob::Purge { upto, remove });
    }
}

impl IoThread {
    /// Keeps something in memory instead of writing it; returns whether it did.
    pub(super) fn holds(&mut self, keep: impl FnOnce(&mut Held)) -> bool {
        if self.held.released || !sabotage::is("fsync-skipped") {
            return false;
        }
        keep(&mut self.held);
        true
    }

    /// Writes all of it.
    pub(super) fn write_held(&mut self) {
        self.held.released = true;
        for job in std::mem::take(&mut self.held.jobs) {
            let written = self.guarded(|io| match job {
                HeldJob::Append { records, last } => {
                    io.persist(&[Job::Append { records, last, done: IOFlushed::noop() }])
                }
                HeldJob::Vote(vote) => {
                    io.persist(&[Job::Vote { vote, done: oneshot::channel().0 }])
                }
                HeldJob::Committed(id) => io.persist(&[Job::Committed { id }]),
                HeldJob::Truncate { keep, remove } => io.truncate(keep, remove),
                HeldJob::Purge { upto, remove } => io.purge(upto, remove),
            });
            if written.is_err() {
                return;
            }
        }
    }
}
