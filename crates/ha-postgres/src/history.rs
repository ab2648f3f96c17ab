//! Timeline history files and the names of files in `pg_wal`.
//!
//! # Sources
//! PostgreSQL, `timeline.c: readTimeLineHistory` (lines of `timeline<TAB>switch LSN<TAB>reason`,
//! comments begin with `#`) and `xlog_internal.h` (names of segments: timeline, then the segment's
//! number in two parts, eight hexadecimal digits each).

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId};

/// Returns the name of a timeline's history file.
pub(crate) fn history_file_name(timeline: TimelineId) -> String {
    format!("{:08X}.history", timeline.0)
}

/// Reads a history file, oldest switch first; the error says what is wrong with it.
pub(crate) fn parse_history(text: &str) -> Result<Vec<TimelineSwitch>, String> {
    let mut switches: Vec<TimelineSwitch> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let wrong = || format!("invalid line in a timeline history file: {line:?}");
        let mut words = line.split_whitespace();
        let (timeline, end) = (words.next().ok_or_else(wrong)?, words.next().ok_or_else(wrong)?);
        let timeline = TimelineId(timeline.parse().map_err(|_| wrong())?);
        let end = end.parse().map_err(|_| wrong())?;
        if switches.last().is_some_and(|last| last.timeline >= timeline) {
            return Err(wrong());
        }
        switches.push(TimelineSwitch { timeline, end });
    }
    Ok(switches)
}

/// One WAL segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub(crate) timeline: TimelineId,
    pub(crate) number: u64,
}

impl Segment {
    /// Returns the segment that holds the byte at `lsn`.
    #[cfg(test)]
    pub(crate) const fn holding(timeline: TimelineId, lsn: Lsn, segment_bytes: u64) -> Self {
        Self { timeline, number: lsn.0 / segment_bytes }
    }

    /// Returns the segment with this file name; a `.partial` one counts.
    pub(crate) fn parse(name: &str, segment_bytes: u64) -> Option<Self> {
        let name = name.strip_suffix(".partial").unwrap_or(name);
        if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let part = |from: usize| u64::from_str_radix(name.get(from..from + 8)?, 16).ok();
        let timeline = TimelineId(u32::try_from(part(0)?).ok()?);
        let per_log = (1_u64 << 32).checked_div(segment_bytes)?;
        let (log, part) = (part(8)?, part(16)?);
        // Nothing else is the name of a segment of that size; from 8 EiB of WAL on positions would run over.
        (part < per_log && log < 1 << 31).then_some(Self { timeline, number: log * per_log + part })
    }

    /// Returns the file name.
    #[cfg(test)]
    pub(crate) fn name(self, segment_bytes: u64) -> String {
        let per_log = (1_u64 << 32) / segment_bytes;
        let (log, part) = (self.number / per_log, self.number % per_log);
        format!("{:08X}{log:08X}{part:08X}", self.timeline.0)
    }

    /// Returns where the segment begins.
    pub(crate) const fn begin(self, segment_bytes: u64) -> Lsn {
        Lsn(self.number * segment_bytes)
    }

    pub(crate) const fn next(self) -> Self {
        Self { timeline: self.timeline, number: self.number + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn a_history_file_is_read_oldest_switch_first() {
        let text = "1\t0/5000000\tno recovery target specified\n\n# note\n3\t1/A0\tby us\n";
        let switch = |t, end| TimelineSwitch { timeline: TimelineId(t), end: Lsn(end) };
        let expected = vec![switch(1, 0x0500_0000), switch(3, 0x1_0000_00A0)];
        assert_eq!(parse_history(text), Ok(expected));
        for bad in ["x\t0/1\t", "1", "1\tx\t", "2\t0/1\t\n1\t0/2\t", "1\t0/1\n1\t0/2"] {
            assert!(parse_history(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_segment_survives_being_named_and_read() {
        let segment = Segment::holding(TimelineId(0x12), Lsn(0x3_FF00_0000), SEGMENT);
        assert_eq!(segment.name(SEGMENT), "0000001200000003000000FF");
        assert_eq!(Segment::parse("0000001200000003000000FF", SEGMENT), Some(segment));
        assert_eq!(Segment::parse("0000001200000003000000FF.partial", SEGMENT), Some(segment));
        assert_eq!(segment.next().name(SEGMENT), "000000120000000400000000");
        assert_eq!(segment.begin(SEGMENT), Lsn(0x3_FF00_0000));
        for endless in ["00000001FFFFFFFF000000FF", "000000010000000000000100"] {
            assert_eq!(Segment::parse(endless, SEGMENT), None, "{endless}");
        }
        for bad in ["", "00000002.history", "archive_status", "0000001200000003000000FF.0.backup"] {
            assert_eq!(Segment::parse(bad, SEGMENT), None, "{bad}");
        }
    }
}
