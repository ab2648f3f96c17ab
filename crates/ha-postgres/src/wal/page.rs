//! Pages of WAL: their headers.
//!
//! # Sources
//! PostgreSQL, `xlog_internal.h: XLogPageHeaderData, XLogLongPageHeaderData`;
//! `xlogreader.c: XLogReaderValidatePageHeader`.

use ha_core::{Lsn, TimelineId};

/// Size of a page, bytes. Others need a server compiled for it; the long header tells them.
pub(super) const PAGE_BYTES: usize = 8192;
/// The same, as a distance between positions.
pub(super) const PAGE: u64 = PAGE_BYTES as u64;
/// Size of a page's header, bytes, padding included.
pub(super) const SHORT_HEADER: usize = 24;
/// Size of the header of a segment's first page, bytes.
pub(super) const LONG_HEADER: usize = 40;

/// The first record on the page began on an earlier one.
const FIRST_IS_CONTRECORD: u16 = 1;
/// The header is the long one.
const LONG: u16 = 2;
/// The record that was to go on here never was written to its end; another one stands here.
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 8;
const ALL_FLAGS: u16 = 15;

/// Versions of the page format, with the major version of the server.
const MAGIC: [(u16, u32); 4] = [(0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// What all pages of one database cluster have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) magic: u16,
    pub(super) segment_bytes: u64,
    pub(super) system_identifier: u64,
}

/// A page's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    pub(super) timeline: TimelineId,
    /// Bytes of the header.
    pub(super) bytes: usize,
    /// Bytes that are left of the record that began on an earlier page, if there is one.
    pub(super) left_of_record: Option<u32>,
    /// Whether what an earlier page began was given up.
    pub(super) overwrites: bool,
}

/// Why something is not the page or the record that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing but zeros, or no such page.
    Zeros,
    /// The bytes end in the middle of it.
    Ends,
    /// It belongs to an earlier place in the WAL: the segment is used again.
    Old,
    /// Anything else.
    Bad(String),
}

impl Fault {
    pub(super) fn bad<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::Bad(why.into()))
    }
}

/// Returns the server's major version that writes pages with this number.
pub(super) fn major_of(magic: u16) -> Option<u32> {
    MAGIC.iter().find(|(known, _)| *known == magic).map(|(_, major)| *major)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Returns whether this is a size that a segment may have.
pub(crate) const fn is_segment_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30
}

/// Reads the first page of a segment, of which nothing is known yet.
pub(super) fn first_page(bytes: &[u8]) -> Result<(Form, Lsn, TimelineId), Fault> {
    if bytes.is_empty() || is_zero(bytes.get(..LONG_HEADER).unwrap_or(bytes)) {
        return Err(Fault::Zeros);
    }
    let read = || {
        let form = Form {
            magic: u16_at(bytes, 0)?,
            system_identifier: u64_at(bytes, 24)?,
            segment_bytes: u64::from(u32_at(bytes, 32)?),
        };
        Some((form, u16_at(bytes, 2)?, u32_at(bytes, 4)?, u64_at(bytes, 8)?, u32_at(bytes, 36)?))
    };
    let Some((form, flags, timeline, begin, page_bytes)) = read() else { return Err(Fault::Ends) };
    let Form { magic, segment_bytes, .. } = form;
    if major_of(magic).is_none() {
        return Fault::bad(format!("its format {magic:04X} is of no known PostgreSQL version"));
    }
    if flags & LONG == 0 || flags & !ALL_FLAGS != 0 {
        return Fault::bad(format!("its first page has flags {flags:04X}"));
    }
    if !is_segment_size(segment_bytes) {
        return Fault::bad(format!("it gives a segment size of {segment_bytes} bytes"));
    }
    if u64::from(page_bytes) != PAGE {
        return Fault::bad(format!("its pages have {page_bytes} bytes, expected {PAGE}"));
    }
    if !begin.is_multiple_of(segment_bytes) || timeline == 0 {
        return Fault::bad(format!("its first page says {} on timeline {timeline}", Lsn(begin)));
    }
    Ok((form, Lsn(begin), TimelineId(timeline)))
}

/// Reads the header of the page that should begin at `at`.
pub(super) fn header(bytes: &[u8], at: Lsn, form: &Form) -> Result<PageHeader, Fault> {
    let is_first = at.0.is_multiple_of(form.segment_bytes);
    let length = if is_first { LONG_HEADER } else { SHORT_HEADER };
    let present = bytes.get(..length).unwrap_or(bytes);
    if is_zero(present) {
        return Err(Fault::Zeros);
    }
    let fields = || {
        let (magic, flags) = (u16_at(present, 0)?, u16_at(present, 2)?);
        Some((magic, flags, u32_at(present, 4)?, u64_at(present, 8)?, u32_at(present, 16)?))
    };
    let (Some((magic, flags, timeline, address, left)), true) = (fields(), present.len() == length)
    else {
        return Err(Fault::Ends);
    };
    let wrong = |what: String| Fault::bad(format!("page {at} {what}"));
    if magic != form.magic {
        return wrong(format!("has format {magic:04X}, expected {:04X}", form.magic));
    }
    if flags & !ALL_FLAGS != 0 || (flags & LONG != 0) != is_first {
        return wrong(format!("has flags {flags:04X}"));
    }
    if address < at.0 && address.is_multiple_of(PAGE) {
        return Err(Fault::Old);
    }
    if address != at.0 {
        return wrong(format!("says that it is {}", Lsn(address)));
    }
    if is_first {
        let (id, segment) = (u64_at(present, 24), u32_at(present, 32).map(u64::from));
        if id != Some(form.system_identifier) || segment != Some(form.segment_bytes) {
            return wrong("is of another database cluster".to_owned());
        }
        if u32_at(present, 36).map(u64::from) != Some(PAGE) {
            return wrong("gives another page size".to_owned());
        }
    }
    let goes_on = flags & FIRST_IS_CONTRECORD != 0;
    if goes_on && left == 0 {
        return wrong("goes on with a record of which nothing is left".to_owned());
    }
    Ok(PageHeader {
        timeline: TimelineId(timeline),
        bytes: length,
        left_of_record: goes_on.then_some(left),
        overwrites: flags & FIRST_IS_OVERWRITE_CONTRECORD != 0,
    })
}
