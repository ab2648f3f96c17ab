//! WAL as a sequence of records: what one node has on its disk.

use std::rc::Rc;

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId, WalPosition};

/// Where the first record begins, and how long each is.
const BASE: u64 = 0x0100_0000;
const STEP: u64 = 0x40;

/// One record. Its number is unique in a world: two nodes have the same record or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its number.
    pub(crate) id: u64,
    /// On which timeline it was written.
    pub(crate) timeline: u32,
}

/// The WAL of one node. Positions are counted in records; the node may have none before `base`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wal {
    base: usize,
    records: Vec<Record>,
    /// Where each earlier timeline ended.
    history: Vec<TimelineSwitch>,
    /// What is on the disk for sure.
    pub(crate) flushed: usize,
}

/// Returns the byte offset of a position.
pub(crate) fn lsn(at: usize) -> Lsn {
    Lsn(BASE + at as u64 * STEP)
}

/// Returns the position of a byte offset.
pub(crate) fn position(of: Lsn) -> usize {
    usize::try_from(of.0.saturating_sub(BASE) / STEP).expect("a position made by `lsn`")
}

impl Wal {
    /// Returns WAL that begins at `base`, after the given timelines.
    pub(crate) fn from(base: usize, history: &[TimelineSwitch]) -> Self {
        let history = history.iter().copied().filter(|s| s.end <= lsn(base)).collect();
        Self { base, records: Vec::new(), history, flushed: base }
    }

    /// Returns its end, written or not.
    pub(crate) fn len(&self) -> usize {
        self.base + self.records.len()
    }

    /// Returns where it begins.
    pub(crate) const fn base(&self) -> usize {
        self.base
    }

    /// Returns the record at a position, if it is here.
    pub(crate) fn get(&self, at: usize) -> Option<Record> {
        self.records.get(at.checked_sub(self.base)?).copied()
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: Record) {
        if let Some(last) = self.records.last()
            && last.timeline != record.timeline
        {
            let timeline = TimelineId(last.timeline);
            self.history.push(TimelineSwitch { timeline, end: lsn(self.len()) });
        }
        self.records.push(record);
    }

    /// Cuts everything past a position.
    pub(crate) fn truncate(&mut self, at: usize) {
        self.records.truncate(at.saturating_sub(self.base));
        self.flushed = self.flushed.min(self.len());
        let end = lsn(self.len());
        self.history.retain(|switch| switch.end < end);
    }

    /// Returns the timeline of the record before `at`.
    pub(crate) fn timeline_at(&self, at: usize) -> TimelineId {
        let before = at.checked_sub(1).and_then(|at| self.get(at));
        before.map_or_else(
            || self.history.last().map_or(TimelineId(1), |s| TimelineId(s.timeline.0 + 1)),
            |record| TimelineId(record.timeline),
        )
    }

    /// Returns the end of what is flushed.
    pub(crate) fn end(&self) -> WalPosition {
        WalPosition { timeline: self.timeline_at(self.flushed), lsn: lsn(self.flushed) }
    }

    /// Returns where the timelines before that of `at` ended.
    pub(crate) fn history_at(&self, at: usize) -> Vec<TimelineSwitch> {
        let timeline = self.timeline_at(at);
        self.history.iter().copied().filter(|s| s.timeline < timeline).collect()
    }

    /// Returns the records of a span, as far as they are here.
    pub(crate) fn slice(&self, from: usize, to: usize) -> Rc<[Record]> {
        let begin = from.max(self.base) - self.base;
        let end = to.min(self.len()).max(self.base) - self.base;
        self.records.get(begin..end.max(begin)).unwrap_or(&[]).into()
    }

    /// Returns whether both have the same records where both have any, and this does not reach further.
    pub(crate) fn is_prefix_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.agrees_with(other)
    }

    /// Returns whether both have the same records where both have any.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let from = self.base.max(other.base);
        let to = self.len().min(other.len());
        (from..to).rev().all(|at| self.get(at) == other.get(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(timelines: &[u32]) -> Wal {
        let mut wal = Wal::default();
        for (id, timeline) in (1..).zip(timelines) {
            wal.push(Record { id, timeline: *timeline });
        }
        wal.flushed = wal.len();
        wal
    }

    #[test]
    fn a_history_follows_from_the_records() {
        let wal = wal(&[1, 1, 2, 4]);
        let switch = |timeline, at| TimelineSwitch { timeline: TimelineId(timeline), end: lsn(at) };
        assert_eq!(wal.history_at(4), [switch(1, 2), switch(2, 3)]);
        assert_eq!(wal.history_at(3), [switch(1, 2)]);
        assert_eq!(wal.end(), WalPosition { timeline: TimelineId(4), lsn: lsn(4) });
        assert_eq!(position(lsn(17)), 17);
    }

    #[test]
    fn a_cut_takes_the_timelines_that_began_after_it() {
        let mut wal = wal(&[1, 1, 2, 4]);
        wal.truncate(2);
        assert_eq!((wal.history_at(2), wal.flushed), (Vec::new(), 2));
        wal.push(Record { id: 9, timeline: 3 });
        let end = TimelineSwitch { timeline: TimelineId(1), end: lsn(2) };
        assert_eq!(wal.history_at(3), [end]);
    }

    #[test]
    fn wal_that_begins_later_still_knows_what_was_before() {
        let whole = wal(&[1, 1, 2, 2]);
        let mut tail = Wal::from(3, &whole.history_at(4));
        assert_eq!(tail.timeline_at(3), TimelineId(2));
        for record in whole.slice(3, 4).iter() {
            tail.push(*record);
        }
        assert!(tail.is_prefix_of(&whole) && whole.is_prefix_of(&tail));
        tail.truncate(3);
        tail.push(Record { id: 99, timeline: 2 });
        assert!(!tail.agrees_with(&whole));
    }
}
