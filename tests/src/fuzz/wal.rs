//! WAL: pages and records in memory, and whole directories.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use ha_core::{Lsn, TimelineId, WalPosition};
use ha_postgres::wal::files::{read_history, segment_name, tip, tip_of_local};
use ha_postgres::wal::fuzz_door::scan;
use ha_postgres::wal::scan::{StoppedBy, end_of_records};

const PAGE: usize = 8192;
const SEGMENT: u64 = 1 << 20;
const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
const RECORD_HEADER: usize = 24;
/// What is written at most: the fuzzer's time goes into many short ones.
const BYTES_MAX: usize = 6 * PAGE;

/// Takes numbers off bytes; zeros when there are none left.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = super::choice(self.0);
        self.0 = rest;
        first
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }
}

/// Writes WAL as a server does, into memory.
struct Writer {
    begin: u64,
    timeline: u32,
    bytes: Vec<u8>,
    previous: u64,
    /// Where each record ends.
    ends: Vec<u64>,
}

impl Writer {
    fn new(segment: u64, timeline: u32) -> Self {
        Self { begin: segment * SEGMENT, timeline, bytes: vec![], previous: 0, ends: vec![] }
    }

    fn at(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }

    fn page_header(&mut self, left: usize) {
        let long = self.at().is_multiple_of(SEGMENT);
        let flags = u16::from(left > 0) | if long { 2 } else { 0 };
        let at = self.at();
        self.bytes.extend(0xD116_u16.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(u32::try_from(left).unwrap_or_default().to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(0x1234_5678_9ABC_u64.to_le_bytes());
            self.bytes.extend((1_u32 << 20).to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }

    fn record(&mut self, body: usize, info: u8, manager: u8) {
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0);
        }
        let begin = self.at();
        let mut record = Vec::with_capacity(RECORD_HEADER + body);
        record.extend(u32::try_from(RECORD_HEADER + body).unwrap_or_default().to_le_bytes());
        record.extend(700_u32.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        record.resize(RECORD_HEADER, 0);
        record.resize(RECORD_HEADER + body, 0xA5);
        let sum = crc32c::crc32c(&record[RECORD_HEADER..]);
        let sum = crc32c::crc32c_append(sum, &record[..RECORD_HEADER - 4]);
        record[RECORD_HEADER - 4..RECORD_HEADER].copy_from_slice(&sum.to_le_bytes());
        let mut rest = &record[..];
        loop {
            let room = PAGE - self.bytes.len() % PAGE;
            let (here, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(here);
            rest = later;
            if rest.is_empty() {
                break;
            }
            self.page_header(rest.len());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = begin;
        self.ends.push(self.at());
    }
}

/// Writes records as the bytes say, and returns what is left of these.
fn written(data: &[u8], segment: u64, timeline: u32) -> (Writer, &[u8]) {
    let mut draw = Draw(data);
    let mut writer = Writer::new(segment, timeline);
    for _ in 0..draw.byte() % 16 {
        let (body, info, manager) = (draw.number() % 9000, draw.byte(), draw.byte());
        if writer.bytes.len() + body > BYTES_MAX {
            break;
        }
        // The switch to another segment is one of the cases of whole directories.
        let manager = if manager == 0 && info & 0xF0 == 0x40 { 10 } else { manager };
        writer.record(body, info, manager);
    }
    (writer, draw.0)
}

/// Records that are whole are found, all of them; with a byte changed, those before it and no other.
pub(super) fn pages(data: &[u8]) {
    let (kind, rest) = super::choice(data);
    let newest = TimelineId(3);
    if kind == 0 {
        // As it comes: no promise but to end.
        if let Ok(Some((begin, _, found))) = scan(rest, newest, None) {
            assert!(found.end >= begin);
        }
        return;
    }
    let (mut writer, rest) = written(rest, u64::from(kind), 3);
    if writer.ends.is_empty() {
        return;
    }
    let whole = |bytes: &[u8], limit| {
        scan(bytes, newest, limit).expect("memory can be read").expect("it begins with a page")
    };
    let (begin, records, found) = whole(&writer.bytes, None);
    assert_eq!((begin.0, records), (writer.begin, writer.ends.len() as u64));
    assert_eq!(Some(&found.end.0), writer.ends.last());
    let mut draw = Draw(rest);
    // What lies before a limit, or before the end of a file that was cut.
    let cut = writer.begin + draw.number() as u64 % (writer.bytes.len() as u64 + 1);
    let before = writer.ends.iter().filter(|end| **end <= cut).count() as u64;
    if cut >= writer.begin + LONG_HEADER as u64 {
        assert_eq!(whole(&writer.bytes, Some(Lsn(cut))).1, before);
        let length = usize::try_from(cut - writer.begin).unwrap_or_default();
        assert_eq!(whole(&writer.bytes[..length], None).1, before);
    }
    let at = draw.number() % writer.bytes.len();
    let change = draw.byte();
    // Padding between records is not looked at, and neither is what headers of pages leave unused.
    if change == 0 || at < LONG_HEADER || at % PAGE < SHORT_HEADER {
        return;
    }
    writer.bytes[at] ^= change;
    let changed = writer.begin + at as u64;
    let before = writer.ends.iter().filter(|end| **end <= changed).count() as u64;
    let (_, records, found) = whole(&writer.bytes, None);
    let all = writer.ends.len() as u64;
    assert!(records == before || records == all, "{records} of {all}, {before} before the change");
    if records == all {
        let padding = writer.ends.iter().any(|end| (changed..changed + 8).contains(&(end - 1)));
        assert!(padding, "byte {at} of a record was changed and not noticed: {found:?}");
    } else {
        assert_ne!(found.why, StoppedBy::Bound);
    }
}

thread_local! {
    static DIRECTORY: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A directory with WAL of two timelines, files of which may be cut, changed or missing: what is said to be there is
/// there, and nobody's word is older than what it rests on.
pub(super) fn directory(data: &[u8]) {
    DIRECTORY.with_borrow_mut(|kept| {
        let kept = kept.get_or_insert_with(|| tempfile::tempdir().expect("a temporary directory"));
        fill(kept.path(), data);
        look(kept.path());
    });
}

fn fill(dir: &Path, mut data: &[u8]) {
    for entry in fs::read_dir(dir).expect("a directory of ours").flatten() {
        fs::remove_file(entry.path()).expect("a file of ours");
    }
    for _ in 0..4 {
        let mut draw = Draw(data);
        let (what, number) = (draw.byte(), u64::from(draw.byte() % 4));
        if draw.0.is_empty() {
            return;
        }
        let timeline = 1 + u32::from(what >> 4) % 3;
        if what & 7 == 7 {
            let length = usize::from(draw.byte()).min(draw.0.len());
            let (text, rest) = draw.0.split_at(length);
            fs::write(dir.join(format!("{timeline:08X}.history")), text).expect("a small file");
            data = rest;
            continue;
        }
        let (mut writer, rest) = written(draw.0, number, timeline);
        let mut draw = Draw(rest);
        if what & 1 == 1 && !writer.bytes.is_empty() {
            let at = draw.number() % writer.bytes.len();
            writer.bytes[at] ^= draw.byte();
        }
        if what & 2 == 2 {
            writer.bytes.truncate(draw.number());
        }
        let end = if what & 4 == 4 { ".partial" } else { "" };
        let name = segment_name(TimelineId(timeline), number, SEGMENT) + end;
        fs::write(dir.join(name), &writer.bytes).expect("a small file");
        data = draw.0;
    }
}

fn look(dir: &Path) {
    let bound = Lsn(6 * SEGMENT);
    if let Ok(Some(tip)) = tip(dir) {
        assert!(tip.end.lsn <= tip.written.lsn && tip.end.lsn < bound, "{tip:?}");
        assert!(tip.oldest <= tip.end.lsn, "{tip:?}");
        assert!(tip.history.iter().all(|switch| switch.timeline < tip.end.timeline), "{tip:?}");
        // Whoever asks the same directory twice gets the same answer.
        assert_eq!(super::wal::tip(dir).ok().flatten().as_ref(), Some(&tip));
    }
    for timeline in 1..=3 {
        let position = WalPosition { timeline: TimelineId(timeline), lsn: Lsn(SEGMENT) };
        if let Ok(tip) = tip_of_local(dir, position) {
            assert!(tip.end.lsn >= position.lsn, "{tip:?} of {position}");
        }
        if let Ok(history) = read_history(dir, position.timeline) {
            assert!(history.iter().all(|switch| switch.timeline < position.timeline));
        }
        for segment in 0..4 {
            if let Ok(found) = end_of_records(dir, position.timeline, segment, None) {
                assert!(found.end < bound, "{found:?}");
            }
        }
    }
}
