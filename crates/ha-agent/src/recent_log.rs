//! What this process logged last, kept in memory: the lines themselves go to standard error, and where they end
//! up from there is not ours to know.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Mutex;

use crate::agent::lock;
use crate::clock;

/// How much is kept: a quiet agent writes that much in weeks, a troubled one in hours.
const BYTES_MAX: usize = 4 << 20;
const RECORDS_MAX: usize = 10_000;
/// What is kept of one record.
const RECORD_BYTES_MAX: usize = 16 << 10;

static RECENT: Ring = Ring::new();

/// The latest records, oldest first.
#[derive(Debug)]
struct Ring(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    /// Each with when it was written, milliseconds of Unix time.
    records: VecDeque<(u64, Box<str>)>,
    bytes: usize,
    dropped: u64,
}

impl Ring {
    const fn new() -> Self {
        Self(Mutex::new(Kept { records: VecDeque::new(), bytes: 0, dropped: 0 }))
    }

    fn push(&self, at_unix_ms: u64, record: &[u8]) {
        let text = String::from_utf8_lossy(record);
        let mut end = RECORD_BYTES_MAX.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text: Box<str> = match text.get(..end) {
            Some(begin) if end < text.len() => format!("{begin} [cut]\n").into(),
            Some(_) | None => text.into(),
        };
        let mut kept = lock(&self.0);
        kept.bytes += text.len();
        kept.records.push_back((at_unix_ms, text));
        while kept.bytes > BYTES_MAX || kept.records.len() > RECORDS_MAX {
            let Some((_, oldest)) = kept.records.pop_front() else { break };
            kept.bytes -= oldest.len();
            kept.dropped += 1;
        }
    }

    fn since(&self, unix_ms: u64) -> (Vec<Box<str>>, u64) {
        let kept = lock(&self.0);
        let wanted = kept.records.iter().filter(|(at, _)| *at >= unix_ms);
        (wanted.map(|(_, record)| record.clone()).collect(), kept.dropped)
    }
}

/// Writes records to standard error, and keeps them.
#[derive(Debug)]
pub struct Recorder;

/// Returns what log records are to be written to, each in one piece.
#[must_use]
pub fn writer() -> Recorder {
    Recorder
}

impl Write for Recorder {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        RECENT.push(clock::wall_unix_ms(), record);
        io::stderr().lock().write_all(record)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Returns the records that are kept and were written at that time, milliseconds of Unix time, or later; and how
/// many older ones are kept no more.
#[must_use]
pub fn since(unix_ms: u64) -> (Vec<Box<str>>, u64) {
    RECENT.since(unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_records_are_kept_and_no_more_than_a_bound() {
        let ring = Ring::new();
        for number in 0..RECORDS_MAX + 5 {
            ring.push(number as u64, format!("record {number}\n").as_bytes());
        }
        let (records, dropped) = ring.since(0);
        assert_eq!((records.len(), dropped), (RECORDS_MAX, 5));
        assert_eq!(records.first().map(|record| &**record), Some("record 5\n"));
        let (records, _) = ring.since(RECORDS_MAX as u64 + 3);
        assert_eq!(records.len(), 2);
        for _ in 0..500 {
            ring.push(1_000_000, "ä".repeat(RECORD_BYTES_MAX).as_bytes());
        }
        let (records, _) = ring.since(0);
        assert!(records.iter().map(|record| record.len()).sum::<usize>() <= BYTES_MAX);
        let last = records.last().expect("a record");
        assert!(last.len() < RECORD_BYTES_MAX + 10 && last.ends_with("ä [cut]\n"), "cut");
    }
}
