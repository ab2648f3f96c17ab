//! The end of WAL of a stopped data directory, found with `pg_waldump`.

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId, WalPosition};

use super::Instance;
use super::directory::{history_of, wal_files};
use crate::attempt::Attempt;
use crate::control_file::ControlData;
use crate::driver::{ActionError, Effect};
use crate::history::Segment;
use crate::tool::ToolError;

/// Header of a page inside a segment, and of the first page of one, in bytes.
///
/// # Sources
/// PostgreSQL, `xlog_internal.h: XLogPageHeaderData, XLogLongPageHeaderData`, with padding.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// Sizes that the layout of WAL depends on.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    segment: u64,
    block: u64,
}

impl Sizes {
    const fn header(self, page: u64) -> u64 {
        if page.is_multiple_of(self.segment) { SEGMENT_HEADER } else { PAGE_HEADER }
    }

    /// Returns where a record that begins at `begin` with `length` bytes ends: page headers lie in
    /// between, and the next record begins at a multiple of 8.
    fn end_of_record(self, begin: u64, length: u64) -> u64 {
        let mut at = begin;
        let mut left = length.next_multiple_of(8);
        loop {
            let page = at - at % self.block;
            if at == page {
                at += self.header(page);
            }
            let room = page + self.block - at;
            if left <= room {
                return at + left;
            }
            (at, left) = (page + self.block, left - room);
        }
    }
}

impl Instance {
    /// Follows the WAL from the latest checkpoint's REDO to the end of its last whole record.
    ///
    /// The control file may be behind: a standby's WAL, and that of a primary promoted after its
    /// latest checkpoint, goes on on newer timelines. Whether it does is told by the segments that
    /// are there: recovery, too, takes a segment of the newer timeline if it finds one.
    pub(super) async fn find_end_of_wal(
        &self,
        attempt: &Attempt,
    ) -> Result<WalPosition, ActionError> {
        let control = self.read_control(attempt).await?;
        let sizes = Sizes { segment: control.segment_bytes, block: control.block_bytes };
        if sizes.segment == 0 || sizes.block == 0 {
            return Err(attempt.cannot("the control file gives no segment size"));
        }
        let names = wal_files(&self.layout).map_err(|why| attempt.cannot(why))?;
        let mut segments: Vec<Segment> =
            names.iter().filter_map(|name| Segment::parse(name, sizes.segment)).collect();
        segments.sort_unstable();
        let mut timeline = control.checkpoint.timeline;
        let mut start = control.redo;
        for next in self.branch(&control, &segments).map_err(|why| attempt.cannot(why))? {
            let fork = next.end;
            let first = Segment::holding(next.timeline, fork, sizes.segment);
            if !segments.contains(&first) || is_past(&control, timeline, fork) {
                break;
            }
            let from = first.begin(sizes.segment).max(start);
            let end = self.end_on(next.timeline, from, &segments, sizes, attempt).await?;
            if end.is_none_or(|end| end <= fork) {
                // The new timeline's own WAL is not here yet, so the old one's counts, up to the fork.
                let end = self.end_on(timeline, start, &segments, sizes, attempt).await?;
                let lsn = end.unwrap_or(start).min(fork);
                return Ok(WalPosition { timeline, lsn });
            }
            (timeline, start) = (next.timeline, from);
        }
        let end = self.end_on(timeline, start, &segments, sizes, attempt).await?;
        let lsn = end.ok_or_else(|| attempt.cannot(format!("no WAL record at {start}")))?;
        Ok(WalPosition { timeline, lsn })
    }

    /// Returns the timelines that may follow the control file's, with where each begins.
    fn branch(
        &self,
        control: &ControlData,
        segments: &[Segment],
    ) -> Result<Vec<TimelineSwitch>, String> {
        let from = control.checkpoint.timeline;
        let newest = segments.last().map_or(from, |segment| segment.timeline);
        if newest <= from {
            return Ok(Vec::new());
        }
        let history = history_of(&self.layout, newest)?;
        let Some(at) = history.iter().position(|switch| switch.timeline == from) else {
            return Ok(Vec::new());
        };
        let later = history.get(at..).unwrap_or_default();
        let names = later.iter().skip(1).map(|switch| switch.timeline).chain([newest]);
        let begins = later.iter().map(|switch| switch.end);
        Ok(names.zip(begins).map(|(timeline, end)| TimelineSwitch { timeline, end }).collect())
    }

    /// Returns the end of the last whole record on one timeline, reading from `start`; none if there
    /// is no whole record.
    async fn end_on(
        &self,
        timeline: TimelineId,
        start: Lsn,
        segments: &[Segment],
        sizes: Sizes,
        attempt: &Attempt,
    ) -> Result<Option<Lsn>, ActionError> {
        let mut last = Segment::holding(timeline, start, sizes.segment);
        if !segments.contains(&last) {
            return Ok(None);
        }
        while segments.contains(&last.next()) {
            last = last.next();
        }
        // pg_waldump would wait five seconds for a segment that is not there.
        let limit = last.next().begin(sizes.segment);
        let mut begin = match self.dump(timeline, start, limit, true, attempt).await? {
            Dumped::Stopped { last_record: Lsn::ZERO } | Dumped::Nothing => return Ok(None),
            Dumped::Stopped { last_record } => Some(last_record),
            Dumped::All { .. } => None,
        };
        // It read on to the limit without a word: then the last record is in one of the last
        // segments.
        while begin.is_none() {
            let from = last.begin(sizes.segment).max(start);
            begin = match self.dump(timeline, from, limit, false, attempt).await? {
                Dumped::All { last_line } => last_line.as_deref().and_then(record_begin),
                Dumped::Stopped { last_record: Lsn::ZERO } | Dumped::Nothing => None,
                Dumped::Stopped { last_record } => Some(last_record),
            };
            if from == start {
                break;
            }
            last.number -= 1;
        }
        let Some(begin) = begin else { return Ok(None) };
        self.end_of_record(timeline, begin, sizes, attempt).await.map(Some)
    }

    async fn end_of_record(
        &self,
        timeline: TimelineId,
        begin: Lsn,
        sizes: Sizes,
        attempt: &Attempt,
    ) -> Result<Lsn, ActionError> {
        let args = [format!("--start={begin}"), "--limit=1".to_owned()];
        let output = self.waldump(timeline).args(args).run(attempt.deadline()).await;
        let output = output.map_err(|error| error.during(attempt, Effect::None))?;
        let line = output.lines.last().map_or("", String::as_str);
        let length = record_length(line);
        let length = length.ok_or_else(|| attempt.cannot(format!("no WAL record at {begin}")))?;
        let end = sizes.end_of_record(begin.0, length);
        // A switch record takes up the rest of its segment.
        let is_switch = line.contains("rmgr: XLOG") && line.contains("desc: SWITCH");
        Ok(Lsn(if is_switch { end.next_multiple_of(sizes.segment) } else { end }))
    }

    fn waldump(&self, timeline: TimelineId) -> crate::tool::Tool<'_> {
        let wal_dir = self.layout.wal_dir().display().to_string();
        let timeline = timeline.to_string();
        self.tool("pg_waldump").args(["--path", &wal_dir, "--timeline", &timeline]).keep_last()
    }

    async fn dump(
        &self,
        timeline: TimelineId,
        start: Lsn,
        limit: Lsn,
        quiet: bool,
        attempt: &Attempt,
    ) -> Result<Dumped, ActionError> {
        let mut tool = self.waldump(timeline);
        tool = tool.args([format!("--start={start}"), format!("--end={limit}")]);
        if quiet {
            tool = tool.args(["--quiet"]);
        }
        match tool.run(attempt.deadline()).await {
            Ok(output) => Ok(Dumped::All { last_line: output.lines.last().cloned() }),
            Err(ToolError::Failed { why, errors, .. }) => {
                let stop = errors.iter().find_map(|line| stopped_after(line));
                match stop {
                    Some(last_record) => Ok(Dumped::Stopped { last_record }),
                    None if why.contains("could not find a valid record") => Ok(Dumped::Nothing),
                    None => Err(attempt.failed(why, Effect::None)),
                }
            }
            Err(error) => Err(error.during(attempt, Effect::None)),
        }
    }
}

/// How `pg_waldump` ended.
#[derive(Debug)]
enum Dumped {
    /// It found something that is no record, after this one; zero if that was the first thing.
    Stopped { last_record: Lsn },
    /// It reached the limit.
    All { last_line: Option<String> },
    /// There is no record at all.
    Nothing,
}

/// Returns whether the control file proves that recovery went past the fork on the old timeline.
fn is_past(control: &ControlData, timeline: TimelineId, fork: Lsn) -> bool {
    [control.min_recovery_end, control.checkpoint]
        .iter()
        .any(|seen| seen.timeline == timeline && seen.lsn > fork)
}

/// Reads `pg_waldump: error: error in WAL record at 0/3000110: invalid record length …`: the last
/// record that was read whole, zero if there was none.
fn stopped_after(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once("error in WAL record at ")?;
    let (lsn, _) = rest.split_once(": ")?;
    lsn.parse().ok()
}

/// Reads the `lsn: 0/3000110, ` of a line.
fn record_begin(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once("lsn: ")?;
    rest.split(',').next()?.trim().parse().ok()
}

/// Reads the second number of `len (rec/tot):    114/   114, `: page images included.
fn record_length(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("len (rec/tot):")?;
    let (_, total) = rest.split(',').next()?.split_once('/')?;
    total.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_ends_after_the_page_headers_that_lie_in_it() {
        let sizes = Sizes { segment: 16 << 20, block: 8192 };
        #[rustfmt::skip]
        let table = [
            // begin            length  end
            (0x0100_0028,       114,    0x0100_0028 + 120),
            (0x0100_2000 - 8,   24,     0x0100_2000 + 24 + 16),
            (0x0100_2000 - 24,  24,     0x0100_2000),
            (0x0100_2000 - 24,  20_000, 0x0100_2000 + 2 * 8192 + 24 + 20_000 - 24 - 2 * 8168),
            // Into the next segment: its first page has the longer header.
            (0x0200_0000 - 8,   24,     0x0200_0000 + 40 + 16),
        ];
        for (begin, length, end) in table {
            assert_eq!(sizes.end_of_record(begin, length), end, "{begin:#X}, {length}");
        }
    }

    #[test]
    fn what_pg_waldump_prints_is_read() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   8306, tx:          0, \
                    lsn: 0/015A8DC8, prev 0/015A8D90, desc: CHECKPOINT_SHUTDOWN redo 0/15A8DC8;";
        assert_eq!(record_length(line), Some(8306));
        assert_eq!(record_begin(line), Some(Lsn(0x015A_8DC8)));
        let error = "pg_waldump: error: error in WAL record at 0/15A8DC8: invalid record length at \
                     0/15A8E40: wanted 24, got 0";
        assert_eq!(stopped_after(error), Some(Lsn(0x015A_8DC8)));
        assert_eq!(stopped_after("pg_waldump: error: could not find file"), None);
    }
}
