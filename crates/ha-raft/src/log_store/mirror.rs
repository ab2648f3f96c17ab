//! The live log in memory: what readers see, and what the next record is chained to.
//!
//! The log is short, because snapshots and purges keep it so; it may not outgrow [`ENTRIES_MAX`]
//! and [`BYTES_MAX`], beyond which appending fails and the agent stops.

use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, RangeBounds};

use super::record;
use super::witness::Mark;
use crate::types::{Entry, LogId, Vote};

/// The most entries the live log may have: many times what a snapshot leaves behind.
pub(super) const ENTRIES_MAX: usize = 64 * 1024;
/// The most bytes the records of the live log may have.
pub(super) const BYTES_MAX: usize = 64 * 1024 * 1024;

/// An entry and its record's checksum and length.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    pub(super) crc: u32,
    pub(super) bytes: usize,
}

/// The log as it is, or will be once what is queued is on disk.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// The last vote that is on disk.
    pub(super) vote: Option<Vote>,
    /// The last committed log id, as far as this node was told.
    pub(super) committed: Option<LogId>,
    purged: Option<LogId>,
    slots: VecDeque<Slot>,
    bytes: usize,
    /// Let the first entry of an empty log have any index, as openraft's test suite does.
    pub(super) start_anywhere: bool,
}

impl Mirror {
    /// Returns the mirror of a log read from disk.
    pub(super) fn new(purged: Option<LogId>, slots: VecDeque<Slot>) -> Self {
        let bytes = slots.iter().map(|slot| slot.bytes).sum();
        Self { purged, slots, bytes, ..Self::default() }
    }

    /// Returns the last purged log id.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Returns the last entry's log id, or the last purged one if there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.entry.log_id).or(self.purged)
    }

    /// Returns the last entry with its checksum; 0 if it is purged.
    pub(super) fn last_mark(&self) -> Option<Mark> {
        match self.slots.back() {
            Some(slot) => Some(Mark { id: slot.entry.log_id, crc: slot.crc }),
            None => self.purged.map(|id| Mark { id, crc: 0 }),
        }
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds an entry, and returns its record.
    ///
    /// # Errors
    /// It does not follow the last one, it is too large, or the log is full.
    pub(super) fn push(&mut self, entry: Entry) -> io::Result<Vec<u8>> {
        let expected = self.last().map_or(0, |id| id.index + 1);
        let found = entry.log_id.index;
        let anywhere = self.start_anywhere && self.last().is_none();
        if found != expected && !anywhere {
            let what = format!("cannot append entry {found}: the next one is {expected}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let prev_crc = self.slots.back().map_or(0, |slot| slot.crc);
        let (record, crc) = record::encode(&entry, prev_crc)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        if self.slots.len() >= ENTRIES_MAX || self.bytes + record.len() > BYTES_MAX {
            let what = format!(
                "cannot append entry {found}: the log has {} entries of {} bytes, no snapshot \
                 has made it shorter",
                self.slots.len(),
                self.bytes
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, what));
        }
        self.bytes += record.len();
        self.slots.push_back(Slot { entry, crc, bytes: record.len() });
        Ok(record)
    }

    /// Removes the entries after `keep`, all if it is `None`; returns their indices.
    pub(super) fn truncate_after(&mut self, keep: Option<u64>) -> std::ops::Range<u64> {
        let end = self.next_index();
        let start = self.first_index().max(keep.map_or(0, |index| index + 1)).min(end);
        while self.slots.back().is_some_and(|slot| slot.entry.log_id.index >= start) {
            let slot = self.slots.pop_back();
            self.bytes -= slot.map_or(0, |slot| slot.bytes);
        }
        start..end
    }

    /// Removes the entries up to `upto`; returns their indices.
    pub(super) fn purge(&mut self, upto: LogId) -> std::ops::Range<u64> {
        let start = self.first_index();
        let mut end = start;
        while self.slots.front().is_some_and(|slot| slot.entry.log_id.index <= upto.index) {
            let slot = self.slots.pop_front();
            self.bytes -= slot.map_or(0, |slot| slot.bytes);
            end += 1;
        }
        self.purged = self.purged.max(Some(upto));
        start..end
    }

    /// Returns the entries of a range, as far as there are any.
    pub(super) fn range(&self, range: &impl RangeBounds<u64>) -> Vec<Entry> {
        let first = self.first_index();
        let from = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        let at = |index: u64| {
            let offset = index.saturating_sub(first);
            usize::try_from(offset).unwrap_or(usize::MAX).min(self.slots.len())
        };
        let (from, to) = (at(from), at(to));
        if from >= to {
            return Vec::new();
        }
        self.slots.range(from..to).map(|slot| slot.entry.clone()).collect()
    }

    fn first_index(&self) -> u64 {
        match self.slots.front() {
            Some(slot) => slot.entry.log_id.index,
            None => self.next_index(),
        }
    }

    fn next_index(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }
}
