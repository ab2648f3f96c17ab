//! WAL made by hand, for tests.

use std::fs;
use std::path::Path;

use ha_core::{Lsn, TimelineId};

use super::WalError;
use super::files::segment_name;
use super::page::{Form, LONG_HEADER, PAGE, PAGE_BYTES, SHORT_HEADER};
use super::scan::Pages;

pub(super) const SEGMENT: u64 = 1 << 20;
pub(super) const FORM: Form =
    Form { magic: 0xD110, segment_bytes: SEGMENT, system_identifier: 0x1234_5678_9ABC };

/// A record that was written: where its bytes begin and end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) begin: u64,
    /// End of its bytes; the next record begins at the next multiple of 8.
    pub(super) end: u64,
}

/// Writes WAL into memory.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) begin: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) timeline: u32,
    pub(super) previous: u64,
}

impl Writer {
    /// Begins at the beginning of a segment.
    pub(super) fn new(segment: u64, timeline: u32) -> Self {
        Self { begin: segment * SEGMENT, bytes: Vec::new(), timeline, previous: 0 }
    }

    pub(super) fn at(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }

    fn page_header(&mut self, flags: u16, left: u32) {
        let at = self.at();
        let long = at.is_multiple_of(SEGMENT);
        self.bytes.extend(FORM.magic.to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(left.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(FORM.system_identifier.to_le_bytes());
            self.bytes.extend(u32::try_from(SEGMENT).unwrap().to_le_bytes());
            self.bytes.extend(u32::try_from(PAGE).unwrap().to_le_bytes());
        }
    }

    /// Writes a record with a body of that many bytes, none of them zero.
    pub(super) fn record(&mut self, body: usize) -> Made {
        self.record_of(10, 0, body)
    }

    pub(super) fn record_of(&mut self, rmgr: u8, info: u8, body: usize) -> Made {
        self.record_on_page_with(0, rmgr, info, body)
    }

    /// As if the record that the page was to go on with had been given up.
    pub(super) fn overwriting_record(&mut self, body: usize) -> Made {
        assert!(self.at().is_multiple_of(PAGE));
        self.record_on_page_with(8, 0, 0xD0, body)
    }

    fn record_on_page_with(&mut self, flags: u16, rmgr: u8, info: u8, body: usize) -> Made {
        if self.at().is_multiple_of(PAGE) {
            self.page_header(flags, 0);
        }
        let begin = self.at();
        let bytes = record_bytes(self.previous, rmgr, info, body);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            if self.at().is_multiple_of(PAGE) {
                self.page_header(1, u32::try_from(rest.len()).unwrap());
            }
            let room = usize::try_from(PAGE - self.at() % PAGE).unwrap();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        let end = self.at();
        self.pad_to(end.next_multiple_of(8));
        self.previous = begin;
        Made { begin, end }
    }

    pub(super) fn pad_to(&mut self, end: u64) {
        self.bytes.resize(usize::try_from(end - self.begin).unwrap(), 0);
    }

    /// Writes the segments as files; the last one is filled with zeros.
    pub(super) fn files(&self, dir: &Path, last_is_partial: bool) {
        let mut chunks =
            self.bytes.chunks(usize::try_from(SEGMENT).unwrap()).enumerate().peekable();
        while let Some((skip, chunk)) = chunks.next() {
            let number = self.begin / SEGMENT + skip as u64;
            let mut name = segment_name(TimelineId(self.timeline), number, SEGMENT);
            if chunks.peek().is_none() && last_is_partial {
                name.push_str(".partial");
            }
            let mut bytes = chunk.to_vec();
            bytes.resize(usize::try_from(SEGMENT).unwrap(), 0);
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

fn record_bytes(previous: u64, rmgr: u8, info: u8, body: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(24 + body).unwrap().to_le_bytes());
    bytes.extend(7_u32.to_le_bytes());
    bytes.extend(previous.to_le_bytes());
    bytes.extend([info, rmgr, 0, 0]);
    let body: Vec<u8> = (0..body).map(|i| u8::try_from(i % 255).unwrap() + 1).collect();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&body), &bytes);
    bytes.extend(sum.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Memory as a source of pages.
pub(super) struct Memory<'a> {
    pub(super) begin: u64,
    pub(super) bytes: &'a [u8],
}

impl Pages for Memory<'_> {
    fn page(&mut self, at: Lsn) -> Result<&[u8], WalError> {
        let skip = at.0.checked_sub(self.begin).and_then(|skip| usize::try_from(skip).ok());
        let bytes = skip.and_then(|skip| self.bytes.get(skip..)).unwrap_or_default();
        Ok(bytes.get(..PAGE_BYTES).unwrap_or(bytes))
    }
}

/// Returns whether the byte at this position belongs to a page's header.
pub(super) fn in_page_header(at: u64) -> bool {
    let header = if at % SEGMENT < PAGE { LONG_HEADER } else { SHORT_HEADER };
    at % PAGE < header as u64
}
