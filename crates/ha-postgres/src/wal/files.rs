//! Files with WAL: their names, what a directory holds, and what of it a node needs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ha_core::{Lsn, TimelineId};

use super::WalError;
use super::page::is_segment_size;
use crate::history::history_file_name;

pub use super::chain::read_history;
pub use super::serve::{Piece, serve};
pub use super::tip::{Tip, tip, tip_of_local, tip_of_server};

/// What the name of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalName {
    /// `TTTTTTTT.history`.
    History(TimelineId),
    /// `TTTTTTTTLLLLLLLLPPPPPPPP`, `.partial` after it while it is being received.
    Segment {
        /// The upper half of the position: `LLLLLLLL`.
        log: u32,
        /// Which segment of those 4 GiB: `PPPPPPPP`.
        part: u32,
        /// The timeline: `TTTTTTTT`.
        timeline: TimelineId,
        /// Whether it is being received.
        partial: bool,
    },
}

impl WalName {
    /// Reads a file name; none if it is another file's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let number = |from: usize| {
            let digits = name.get(from..from + 8)?;
            let plain = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'A'..=b'F'));
            if plain { u32::from_str_radix(digits, 16).ok() } else { None }
        };
        let timeline = TimelineId(number(0)?);
        let partial = match name.get(8..)? {
            ".history" => return Some(Self::History(timeline)),
            rest if rest.len() == 16 => false,
            rest if rest.len() == 24 && rest.ends_with(".partial") => true,
            _ => return None,
        };
        Some(Self::Segment { log: number(8)?, part: number(16)?, timeline, partial })
    }

    /// Returns the timeline.
    #[must_use]
    pub const fn timeline(self) -> TimelineId {
        match self {
            Self::History(timeline) | Self::Segment { timeline, .. } => timeline,
        }
    }

    /// Returns the number of the segment: its position divided by its size. None for a history file,
    /// if no segment of that size has the name, and from 8 EiB of WAL on.
    #[must_use]
    pub fn number(self, segment_bytes: u64) -> Option<u64> {
        let Self::Segment { log, part, .. } = self else { return None };
        let per_log = (1_u64 << 32).checked_div(segment_bytes)?;
        let (log, part) = (u64::from(log), u64::from(part));
        (part < per_log && log < 1 << 31).then_some(log * per_log + part)
    }
}

/// Returns the name of a segment; `segment_bytes` as in [`super::scan::SegmentHeader`].
///
/// # Sources
/// PostgreSQL, `xlog_internal.h: XLogFileName`.
#[must_use]
pub fn segment_name(timeline: TimelineId, number: u64, segment_bytes: u64) -> String {
    let per_log = ((1_u64 << 32) / segment_bytes.max(1)).max(1);
    format!("{:08X}{:08X}{:08X}", timeline.0, number / per_log, number % per_log)
}

/// Returns the name of a timeline's history file.
#[must_use]
pub fn history_name(timeline: TimelineId) -> String {
    history_file_name(timeline)
}

/// A file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFile {
    /// What its name says.
    pub name: WalName,
    /// Where it is.
    pub path: PathBuf,
    /// Its length, bytes.
    pub bytes: u64,
}

impl WalFile {
    pub(crate) const fn is_segment(&self) -> bool {
        matches!(self.name, WalName::Segment { .. })
    }

    /// Returns timeline, number, and whether it is being received.
    pub(super) fn segment(&self, segment_bytes: u64) -> Option<(TimelineId, u64, bool)> {
        let WalName::Segment { timeline, partial, .. } = self.name else { return None };
        Some((timeline, self.name.number(segment_bytes)?, partial))
    }
}

/// Returns the WAL and history files of a directory: history files first, then segments in the order
/// of their positions. Other files, and those that vanish meanwhile, are left out.
///
/// # Errors
/// [`WalError::Io`].
pub fn list(dir: &Path) -> Result<Vec<WalFile>, WalError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(WalError::io("list", dir))? {
        let entry = entry.map_err(WalError::io("list", dir))?;
        let Some(name) = entry.file_name().to_str().and_then(WalName::parse) else { continue };
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => files.push(WalFile { name, path, bytes: found.len() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(WalError::io("read", &path)(error)),
        }
    }
    files.sort_by_key(|file| file.name);
    Ok(files)
}

/// Opens a segment, also if the receiver has just given it its final name; none if it is gone.
pub(super) fn open(path: &Path) -> Result<Option<File>, WalError> {
    let partial = path.extension().is_some_and(|extension| extension == "partial");
    let names = [Some(path.to_owned()), partial.then(|| path.with_extension(""))];
    for name in names.into_iter().flatten() {
        match File::open(&name) {
            Ok(file) => return Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(WalError::io("read", &name)(error)),
        }
    }
    Ok(None)
}

/// Gives segments that are shorter than they should be their size again, filled with zeros.
///
/// `pg_receivewal` refuses a `.partial` file of another length for ever, and leaves such a one when it
/// is killed while it makes it. What is missing is received again, since it begins anew with the
/// segment.
///
/// # Sources
/// PostgreSQL, `receivelog.c: open_walfile`.
pub(super) fn mend_partial(dir: &Path) -> Result<(), WalError> {
    let files = list(dir)?;
    let segment_bytes = super::chain::form_of(&files)?.map(|form| form.segment_bytes);
    for file in files {
        let WalName::Segment { partial: true, .. } = file.name else { continue };
        // Of unknown size: emptied, which the program accepts too.
        let wanted = segment_bytes.unwrap_or(0);
        let complete = segment_bytes.map_or_else(
            || file.bytes == 0 || is_segment_size(file.bytes),
            |segment_bytes| file.bytes == 0 || file.bytes >= segment_bytes,
        );
        if complete {
            continue;
        }
        let mended = fs::OpenOptions::new().write(true).open(&file.path).and_then(|handle| {
            handle.set_len(wanted)?;
            handle.sync_all()
        });
        mended.map_err(WalError::io("mend", &file.path))?;
    }
    Ok(())
}

/// Returns where the last byte that is not zero ends, counted from the beginning of the file.
pub(super) fn written_bytes(path: &Path) -> Result<u64, WalError> {
    use std::os::unix::fs::FileExt as _;
    const CHUNK: u64 = 1 << 20;
    let Some(file) = open(path)? else { return Ok(0) };
    let fault = || WalError::io("read", path);
    let mut end = file.metadata().map_err(fault())?.len();
    let mut chunk = vec![0; usize::try_from(CHUNK).unwrap_or_default()];
    while end > 0 {
        let begin = (end - 1) / CHUNK * CHUNK;
        let length = usize::try_from(end - begin).unwrap_or_default();
        let bytes = chunk.get_mut(..length).unwrap_or_default();
        match file.read_exact_at(bytes, begin) {
            // It has become shorter meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            other => other.map_err(fault())?,
        }
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Returns the segment that the last byte before `end` lies in.
pub(super) const fn segment_before(end: Lsn, segment_bytes: u64) -> u64 {
    end.0.saturating_sub(1) / segment_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_timeline_and_place() {
        let segment = |timeline, log, part, partial| {
            Some(WalName::Segment { log, part, timeline: TimelineId(timeline), partial })
        };
        #[rustfmt::skip]
        let table = [
            ("0000000A.history",                 Some(WalName::History(TimelineId(10)))),
            ("0000001200000003000000FF",         segment(0x12, 3, 0xFF, false)),
            ("0000001200000003000000FF.partial", segment(0x12, 3, 0xFF, true)),
            ("0000001200000003000000FF.gz",      None),
            ("0000001200000003000000FF.00000028.backup", None),
            ("0000001200000003000000ff",         None),
            ("+000001200000003000000FF",         None),
            ("archive_status",                   None),
            ("",                                 None),
        ];
        for (name, expected) in table {
            assert_eq!(WalName::parse(name), expected, "{name}");
        }
        for bytes in [1 << 20, 16 << 20, 1 << 30] {
            for number in [0, 1, 4095, 4096, 70_000] {
                let name = segment_name(TimelineId(3), number, bytes);
                let parsed = WalName::parse(&name).unwrap();
                assert_eq!(
                    (parsed.number(bytes), parsed.timeline()),
                    (Some(number), TimelineId(3))
                );
            }
        }
        let too_high = WalName::parse("000000010000000000000100").unwrap();
        assert_eq!(too_high.number(16 << 20), None);
        let endless = WalName::parse("00000001FFFFFFFF000000FF").unwrap();
        assert_eq!(endless.number(16 << 20), None);
    }
}
