//! Reads WAL records from files, far enough to know where the whole ones end.
//!
//! # Sources
//! PostgreSQL, `xlogrecord.h: XLogRecord`; `xlogreader.c: XLogDecodeNextRecord, ValidXLogRecord,
//! XLogFindNextRecord`; `xlog.c: CopyXLogRecordToWAL`. The layout of records is the same in the major
//! versions 15 to 18; only little-endian servers are read.

use std::io::{self, Read as _};
use std::path::Path;

use ha_core::{Lsn, TimelineId};

use super::WalError;
use super::chain::Chain;
use super::files::open;
use super::page::{
    self, Fault, Form, LONG_HEADER, PAGE, PAGE_BYTES, PageHeader, first_page, is_zero, u32_at,
    u64_at,
};

/// Size of a record's own header, bytes.
const RECORD_HEADER: usize = 24;
/// The server refuses to write longer ones.
const RECORD_BYTES_MAX: u64 = 1 << 30;
/// Resource manager and kind of the record that leaves the rest of its segment unused.
const RMGR_XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;

/// Where the whole records end, and what comes then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedEnd {
    /// End of the last whole record, a multiple of 8: where the next one would begin. It lies before
    /// the scanned segment if the record that goes on into it is not whole, and after it if its last
    /// record goes on into the next one.
    pub end: Lsn,
    /// Why nothing after it counts.
    pub why: StoppedBy,
}

/// What ended a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoppedBy {
    /// Every record that begins before the end of the segment, or before the limit, is whole.
    Bound,
    /// Nothing is written there.
    Zeros,
    /// A record goes on past the end of the file, the limit, or what was written so far.
    Incomplete,
    /// A page of an earlier place in the WAL: the server uses old segments again.
    OldPage,
    /// Something that is no record; what, and where. In the `pg_wal` of a server this is no reason to
    /// worry by itself: behind the end may lie bytes of a segment that was used before.
    Damaged(String),
}

/// What the first page of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Timeline on which its first page was written: older than the file's name says if the timeline
    /// began inside this segment.
    pub timeline: TimelineId,
    /// Position of its first byte.
    pub start: Lsn,
    /// Identity of the database cluster.
    pub system_identifier: u64,
    /// Size of a whole segment, bytes: a power of two from 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// Version of the page format.
    pub magic: u16,
}

impl SegmentHeader {
    /// Returns the major version of the server that wrote it.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        page::major_of(self.magic)
    }

    pub(super) const fn form(&self) -> Form {
        let Self { magic, segment_bytes, system_identifier, .. } = *self;
        Form { magic, segment_bytes, system_identifier }
    }
}

/// Reads the header of a segment file.
///
/// # Errors
/// [`WalError::Empty`] if nothing is written there yet, [`WalError::Invalid`] if it is no segment of
/// a known version, [`WalError::Io`] if it cannot be read.
pub fn read_header(path: &Path) -> Result<SegmentHeader, WalError> {
    let fault = WalError::io("read", path);
    let mut bytes = Vec::with_capacity(LONG_HEADER);
    let Some(file) = open(path)? else { return Err(fault(io::ErrorKind::NotFound.into())) };
    file.take(LONG_HEADER as u64).read_to_end(&mut bytes).map_err(fault)?;
    let (form, start, timeline) = first_page(&bytes).map_err(|fault| match fault {
        Fault::Zeros => WalError::Empty { path: path.display().to_string() },
        Fault::Ends => WalError::invalid(path, format!("it ends after {} bytes", bytes.len())),
        Fault::Old => WalError::invalid(path, "it begins elsewhere"),
        Fault::Bad(why) => WalError::invalid(path, why),
    })?;
    let Form { magic, segment_bytes, system_identifier } = form;
    Ok(SegmentHeader { timeline, start, system_identifier, segment_bytes, magic })
}

/// Finds the end of the whole records of one segment of one timeline.
///
/// A record that goes on into the next segment is followed there. If one goes on into this segment,
/// it is read from its beginning where the segments before it are in the directory too; where they
/// are not, it counts as whole only if another record follows it. `limit`: nothing at or after it is
/// looked at.
///
/// # Errors
/// As [`read_header`]; [`WalError::Missing`] if there is no such segment; [`WalError::Invalid`] also
/// if the timeline's history file is unreadable. Damage after the first page is no error.
///
/// # Sources
/// PostgreSQL, `xlogreader.c: XLogDecodeNextRecord`: what is checked here is what recovery checks.
pub fn end_of_records(
    dir: &Path,
    timeline: TimelineId,
    segment: u64,
    limit: Option<Lsn>,
) -> Result<ScannedEnd, WalError> {
    let chain = Chain::of_timeline(dir, timeline)?;
    end_in_segment(&chain, segment, limit)
}

/// As [`end_of_records`], along the segments of one branch.
pub(super) fn end_in_segment(
    chain: &Chain,
    segment: u64,
    limit: Option<Lsn>,
) -> Result<ScannedEnd, WalError> {
    let (file, form) = (chain.expect(segment)?, chain.form);
    let header = read_header(&file.path)?;
    let begin = segment * form.segment_bytes;
    if header.form() != form || header.start != Lsn(begin) || header.timeline > chain.newest() {
        let SegmentHeader { start, timeline, .. } = header;
        let why = format!("it begins with {start} on timeline {timeline} of another file");
        return Err(WalError::invalid(&file.path, why));
    }
    let stop_before = begin + form.segment_bytes;
    let mut scanner = Scanner::new(chain.pages(), form, chain.newest(), limit);
    if scanner.limit <= begin {
        return Ok(ScannedEnd { end: Lsn(scanner.limit), why: StoppedBy::Bound });
    }
    let here = scanner.first_boundary(begin)?;
    if here == Ok(Some(begin)) {
        return scanner.walk(begin, stop_before).map(Walked::into_end);
    }
    let reach = RECORD_BYTES_MAX / form.segment_bytes + 2;
    for earlier in (segment.saturating_sub(reach)..segment).rev() {
        if chain.file(earlier).is_none() {
            break;
        }
        match scanner.first_boundary(earlier * form.segment_bytes)? {
            Ok(Some(start)) => return scanner.walk(start, stop_before).map(Walked::into_end),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    // What goes on into this segment cannot be checked.
    let unproven = |why| ScannedEnd { end: Lsn(begin), why };
    match here {
        Ok(Some(start)) => {
            let walked = scanner.walk(start, stop_before)?;
            let damaged = matches!(walked.why, StoppedBy::Damaged(_));
            Ok(match walked {
                Walked { records: 0, why, .. } if damaged => unproven(why),
                Walked { records: 0, .. } => unproven(StoppedBy::Incomplete),
                walked => walked.into_end(),
            })
        }
        Ok(None) => Ok(unproven(StoppedBy::Incomplete)),
        Err(Fault::Zeros) => Ok(unproven(StoppedBy::Incomplete)),
        Err(fault) => Ok(unproven(stopped_by(fault))),
    }
}

/// Where pages come from.
pub(super) trait Pages {
    /// Returns the page that begins at `at`: fewer bytes if they end inside it, none if there are
    /// none.
    fn page(&mut self, at: Lsn) -> Result<&[u8], WalError>;
}

/// Why no record was read.
#[derive(Debug)]
enum Stop {
    Fault(Fault),
    /// It is no record, but would be none either if only its beginning had been written; it would end
    /// at `end`.
    Doubtful {
        end: u64,
        why: String,
    },
    Error(WalError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<WalError> for Stop {
    fn from(error: WalError) -> Self {
        Self::Error(error)
    }
}

/// What was read in place of a record.
enum Read {
    Record {
        begin: u64,
        end: u64,
        is_switch: bool,
    },
    /// It was given up by the server; another one begins at this page.
    Overwritten {
        page: u64,
    },
}

/// How far a walk came.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) end: u64,
    pub(super) why: StoppedBy,
    /// Whole records that were read.
    pub(super) records: u64,
}

impl Walked {
    pub(super) fn into_end(self) -> ScannedEnd {
        ScannedEnd { end: Lsn(self.end), why: self.why }
    }
}

fn stopped_by(fault: Fault) -> StoppedBy {
    match fault {
        Fault::Zeros => StoppedBy::Zeros,
        Fault::Ends => StoppedBy::Incomplete,
        Fault::Old => StoppedBy::OldPage,
        Fault::Bad(why) => StoppedBy::Damaged(why),
    }
}

/// Reads records one after the other.
pub(super) struct Scanner<P> {
    pages: P,
    form: Form,
    /// No page may be of a newer timeline.
    newest: TimelineId,
    limit: u64,
    /// The last page looked at: timelines never go back.
    latest: (u64, TimelineId),
}

impl<P: Pages> Scanner<P> {
    pub(super) fn new(pages: P, form: Form, newest: TimelineId, limit: Option<Lsn>) -> Self {
        let limit = limit.map_or(u64::MAX - (1 << 31), |limit| limit.0);
        Self { pages, form, newest, limit, latest: (0, TimelineId(0)) }
    }

    fn bytes(&mut self, page: u64) -> Result<&[u8], WalError> {
        let room = usize::try_from(self.limit.saturating_sub(page)).unwrap_or(usize::MAX);
        let bytes = self.pages.page(Lsn(page))?;
        Ok(bytes.get(..room).unwrap_or(bytes))
    }

    fn page(&mut self, page: u64) -> Result<(PageHeader, &[u8]), Stop> {
        let room = usize::try_from(self.limit.saturating_sub(page)).unwrap_or(usize::MAX);
        let bytes = self.pages.page(Lsn(page))?;
        let bytes = bytes.get(..room).unwrap_or(bytes);
        let header = page::header(bytes, Lsn(page), &self.form)?;
        let (last, timeline) = self.latest;
        if header.timeline > self.newest || page > last && header.timeline < timeline {
            let why = format!("page {} is of timeline {}", Lsn(page), header.timeline);
            return Err(Fault::Bad(why).into());
        }
        self.latest = (page, header.timeline);
        Ok((header, bytes))
    }

    /// Returns where the first record of a segment begins, if one does, or what stands against it.
    fn first_boundary(&mut self, segment: u64) -> Result<Result<Option<u64>, Fault>, WalError> {
        self.latest = (0, TimelineId(0));
        let (mut page, mut expected) = (segment, None);
        while page < segment + self.form.segment_bytes {
            let header = match self.page(page) {
                Ok((header, _)) => header,
                Err(Stop::Fault(fault)) => return Ok(Err(fault)),
                Err(Stop::Doubtful { why, .. }) => return Ok(Err(Fault::Bad(why))),
                Err(Stop::Error(error)) => return Err(error),
            };
            let Some(left) = header.left_of_record.map(u64::from) else {
                return Ok(Ok(Some(page)));
            };
            if expected.is_some_and(|expected| expected != left) {
                return Ok(Fault::bad(format!("page {} goes on with another record", Lsn(page))));
            }
            let room = PAGE - header.bytes as u64;
            if left <= room {
                return Ok(Ok(Some(page + header.bytes as u64 + left.next_multiple_of(8))
                    .filter(|first| *first < segment + self.form.segment_bytes)));
            }
            (page, expected) = (page + PAGE, Some(left - room));
        }
        Ok(Ok(None))
    }

    /// Reads on from `start`, where a record begins, as long as records begin before `stop_before`.
    pub(super) fn walk(&mut self, start: u64, stop_before: u64) -> Result<Walked, WalError> {
        self.latest = (0, TimelineId(0));
        let (mut at, mut previous) = (start, None);
        let mut walked = Walked { end: start, why: StoppedBy::Bound, records: 0 };
        while at < stop_before && at < self.limit {
            match self.record(at, previous) {
                Ok(Read::Overwritten { page }) => at = page,
                Ok(Read::Record { begin, end, is_switch }) => {
                    (previous, walked.end) = (Some(begin), end);
                    walked.records += 1;
                    at = end;
                    if is_switch {
                        at = end.next_multiple_of(self.form.segment_bytes);
                        if !self.is_there(at)? {
                            walked.why = StoppedBy::Incomplete;
                            return Ok(walked);
                        }
                        walked.end = at;
                    }
                }
                Err(Stop::Error(error)) => return Err(error),
                Err(Stop::Fault(fault)) => {
                    walked.why = stopped_by(fault);
                    return Ok(walked);
                }
                Err(Stop::Doubtful { end, why }) => {
                    let torn = self.end_of_bytes(at, end)? < end;
                    walked.why = if torn { StoppedBy::Incomplete } else { StoppedBy::Damaged(why) };
                    return Ok(walked);
                }
            }
        }
        Ok(walked)
    }

    /// Returns whether all bytes before `end` are there, whatever they are.
    fn is_there(&mut self, end: u64) -> Result<bool, WalError> {
        let page = (end - 1) - (end - 1) % PAGE;
        Ok(page + self.bytes(page)?.len() as u64 >= end)
    }

    /// Returns where the last byte that is not zero lies, from `from` to the end of the segment that
    /// `to` lies in; `from` if there is none.
    fn end_of_bytes(&mut self, from: u64, to: u64) -> Result<u64, WalError> {
        let (mut page, mut end) = (from - from % PAGE, from);
        while page < to.next_multiple_of(self.form.segment_bytes) {
            if let Some(last) = self.bytes(page)?.iter().rposition(|byte| *byte != 0) {
                end = end.max(page + last as u64 + 1);
            }
            page += PAGE;
        }
        Ok(end)
    }

    fn record(&mut self, at: u64, previous: Option<u64>) -> Result<Read, Stop> {
        let mut page = at - at % PAGE;
        let (header, bytes) = self.page(page)?;
        let begin = if at == page { page + header.bytes as u64 } else { at };
        if at == page && header.left_of_record.is_some() {
            return Err(Fault::Bad(format!("page {} goes on with no record", Lsn(page))).into());
        }
        let mut offset = usize::try_from(begin - page).unwrap_or(usize::MAX);
        let mut here = bytes.get(offset..).unwrap_or_default();
        let Some(total) = u32_at(here, 0) else { return Err(Fault::Ends.into()) };
        let mut left = total as usize;
        if left < RECORD_HEADER || u64::from(total) > RECORD_BYTES_MAX {
            if is_zero(here.get(..RECORD_HEADER).unwrap_or(here)) {
                return Err(Fault::Zeros.into());
            }
            let why = format!("record at {} has a length of {total} bytes", Lsn(begin));
            return Err(Stop::Doubtful { end: begin + 4, why });
        }
        let mut check = Check::new(begin, previous);
        let end = loop {
            let wanted = left.min(PAGE_BYTES - offset);
            let present = here.get(..wanted);
            check.feed(present.unwrap_or(here))?;
            if present.is_none() {
                return Err(Fault::Ends.into());
            }
            left -= wanted;
            if left == 0 {
                break page + (offset + wanted) as u64;
            }
            page += PAGE;
            let (header, bytes) = self.page(page).map_err(|stop| match stop {
                Stop::Fault(Fault::Zeros) => Stop::Fault(Fault::Ends),
                other => other,
            })?;
            if header.overwrites {
                return Ok(Read::Overwritten { page });
            }
            if header.left_of_record.map(|left| left as usize) != Some(left) {
                let (page, begin) = (Lsn(page), Lsn(begin));
                return Err(Fault::Bad(format!("page {page} lacks the rest of {begin}")).into());
            }
            offset = header.bytes;
            here = bytes.get(offset..).unwrap_or_default();
        };
        let is_switch = check.finish(end)?;
        let end = end.next_multiple_of(8);
        if self.is_there(end)? {
            Ok(Read::Record { begin, end, is_switch })
        } else {
            Err(Fault::Ends.into())
        }
    }
}

/// The checks on one record while its bytes come by.
struct Check {
    begin: u64,
    previous: Option<u64>,
    header: [u8; RECORD_HEADER],
    filled: usize,
    sum: u32,
}

impl Check {
    const fn new(begin: u64, previous: Option<u64>) -> Self {
        Self { begin, previous, header: [0; RECORD_HEADER], filled: 0, sum: 0 }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let (head, body) = bytes.split_at(bytes.len().min(RECORD_HEADER - self.filled));
        if !head.is_empty() {
            for (to, from) in self.header.iter_mut().skip(self.filled).zip(head) {
                *to = *from;
            }
            self.filled += head.len();
            if self.filled == RECORD_HEADER {
                self.check_link()?;
            }
        }
        self.sum = crc32c::crc32c_append(self.sum, body);
        Ok(())
    }

    /// Each record names the one before it: a left-over of another time does not.
    fn check_link(&self) -> Result<(), Stop> {
        let named = u64_at(&self.header, 8).unwrap_or(u64::MAX);
        if self.previous.map_or(named < self.begin, |previous| named == previous) {
            return Ok(());
        }
        let why = format!("record at {} names {} before it", Lsn(self.begin), Lsn(named));
        Err(Stop::Doubtful { end: self.begin + RECORD_HEADER as u64, why })
    }

    /// Compares the checksum; returns whether the record leaves the rest of its segment unused.
    fn finish(self, end: u64) -> Result<bool, Stop> {
        let [covered @ .., _, _, _, _] = &self.header;
        let sum = crc32c::crc32c_append(self.sum, covered);
        if u32_at(&self.header, 20) != Some(sum) {
            let why = format!("record at {} has a wrong checksum", Lsn(self.begin));
            return Err(Stop::Doubtful { end, why });
        }
        let [.., info, rmgr, _, _, _, _, _, _] = self.header;
        Ok(rmgr == RMGR_XLOG && info & 0xF0 == XLOG_SWITCH)
    }
}

#[cfg(test)]
mod tests;
