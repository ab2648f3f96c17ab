//! How far the WAL of a directory goes.

use std::collections::BTreeSet;
use std::path::Path;

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId, WalPosition};

use super::WalError;
use super::chain::{Chain, form_of, no_segment, read_history};
use super::files::{WalFile, WalName, list, segment_before, written_bytes};
use super::scan::{Scanner, StoppedBy, end_in_segment, read_header};

/// How far the WAL of a directory goes, and how far back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// End of the last whole record; position zero if no segment is usable. The timeline is the one
    /// that the position lies on: it may be older than the newest file, of which too little is there.
    pub end: WalPosition,
    /// End of what is written, on the same timeline and never before `end`: it may lie inside a record
    /// that is not whole.
    pub written: WalPosition,
    /// How the timeline of `end` came about, oldest switch first.
    pub history: Vec<TimelineSwitch>,
    /// Beginning of the oldest segment from which all are there up to `end`, without a gap.
    pub oldest: Lsn,
    /// What is wrong with the last segments, if anything is. `end` holds all the same.
    pub damaged: Option<String>,
}

/// One branch's end.
struct Found {
    timeline: TimelineId,
    end: Lsn,
    written: Lsn,
    oldest: Lsn,
}

/// Finds how far the WAL goes in a directory that `pg_receivewal` writes.
///
/// While it does, the answer may be behind, by a segment at most: names change under the eyes of the
/// reader. What an election rests on is read after the receiver's end.
///
/// Counts the newest timeline with a segment; if less is there of it than of the one before it, that
/// one, up to where it ended. None if there is no WAL at all.
///
/// # Errors
/// [`WalError::Io`]; [`WalError::Missing`] and [`WalError::Invalid`] for the history file of a timeline
/// above 1. A damaged or cut segment is no error: then what is before it counts.
pub fn tip(dir: &Path) -> Result<Option<Tip>, WalError> {
    let files = list(dir)?;
    let segments = files.iter().filter(|file| file.is_segment());
    let Some(newest) = segments.map(|file| file.name.timeline()).max() else { return Ok(None) };
    let Some(form) = form_of(&files)? else { return Ok(unusable(&files, newest)) };
    let history = read_history(dir, newest)?;
    let chain = Chain::new(dir, form, &files, newest, &history);
    let mut damaged = None;
    let found = longest(chain, |chain, limit| last_usable(chain, limit, &mut damaged))?;
    Ok(Some(match found {
        Some(found) => told(&found, &history, damaged),
        None => nothing_at(newest, &history, damaged),
    }))
}

/// Finds how far the WAL goes in the `pg_wal` of a standby or of a stopped server.
///
/// `timeline` and `history` are the server's, `from` is a position that it has replayed to: the end of
/// a record. `flushed` bounds the search, as what lies behind it may be anything; if it is zero, the
/// search goes on as long as there are records.
///
/// # Errors
/// [`WalError::Io`]; [`WalError::Missing`] if the directory holds no usable segment.
pub fn tip_of_server(
    pg_wal: &Path,
    timeline: TimelineId,
    history: &[TimelineSwitch],
    from: Lsn,
    flushed: Lsn,
) -> Result<Tip, WalError> {
    let files = list(pg_wal)?;
    let form = form_of(&files)?.ok_or_else(|| no_segment(pg_wal, timeline))?;
    let bound = (flushed != Lsn::ZERO).then_some(flushed);
    let mut damaged = None;
    let chain = Chain::new(pg_wal, form, &files, timeline, history);
    let found = longest(chain, |chain, fork| {
        if chain.file(from.0 / form.segment_bytes).is_none() {
            return Ok(None);
        }
        let limit = [bound, fork].into_iter().flatten().min();
        let mut scanner = Scanner::new(chain.pages(), form, chain.newest(), limit);
        let walked = scanner.walk(from.0, u64::MAX)?;
        if let (StoppedBy::Damaged(why), Some(_)) = (walked.why, bound) {
            damaged.get_or_insert(why);
        }
        let end = Lsn(walked.end);
        let (timeline, oldest) = (chain.newest(), oldest(chain, end));
        Ok(Some(Found { timeline, end, written: end, oldest }))
    })?;
    // What is replayed is there, in the data if not in this directory.
    let found = found.unwrap_or(Found { timeline, end: from, written: from, oldest: from });
    let found = Found { written: found.end.max(flushed), ..found };
    Ok(told(&found, history, damaged))
}

/// Finds how far the WAL of a server reaches on its own disk: everything that it would replay from
/// `position` on, which it has replayed to, also past the beginning of timelines that it has yet to get
/// to.
///
/// # Errors
/// As [`tip_of_server`]; [`WalError::Missing`] if the history of `position`'s timeline is not there.
pub fn tip_of_local(pg_wal: &Path, position: WalPosition) -> Result<Tip, WalError> {
    let files = list(pg_wal)?;
    let segments = files.iter().filter(|file| file.is_segment());
    let newer: BTreeSet<TimelineId> = segments
        .map(|file| file.name.timeline())
        .filter(|timeline| *timeline > position.timeline)
        .collect();
    for timeline in newer.into_iter().rev() {
        // Without its history a server would not follow it either.
        let Ok(history) = read_history(pg_wal, timeline) else { continue };
        let leads_there = history
            .iter()
            .any(|switch| switch.timeline == position.timeline && switch.end >= position.lsn);
        if leads_there {
            return tip_of_server(pg_wal, timeline, &history, position.lsn, Lsn::ZERO);
        }
    }
    let history = read_history(pg_wal, position.timeline)?;
    tip_of_server(pg_wal, position.timeline, &history, position.lsn, Lsn::ZERO)
}

/// Looks along the newest timeline, and along older ones as long as the newer has less than they may
/// have.
fn longest(
    chain: Chain,
    mut look: impl FnMut(&Chain, Option<Lsn>) -> Result<Option<Found>, WalError>,
) -> Result<Option<Found>, WalError> {
    let mut best: Option<Found> = None;
    let mut left = Some((chain, None));
    while let Some((chain, limit)) = left.take() {
        if let Some(found) = look(&chain, limit)?
            && best.as_ref().is_none_or(|best| found.end > best.end)
        {
            best = Some(found);
        }
        let begin = chain.begin_of_newest();
        if best.as_ref().is_none_or(|best| best.end < begin) {
            left = chain.before_newest().map(|(older, begin)| (older, Some(begin)));
        }
    }
    Ok(best)
}

/// Returns the end in the newest segment of the branch that is usable.
fn last_usable(
    chain: &Chain,
    limit: Option<Lsn>,
    damaged: &mut Option<String>,
) -> Result<Option<Found>, WalError> {
    let segment_bytes = chain.form.segment_bytes;
    let last = limit.map_or(u64::MAX, |limit| segment_before(limit, segment_bytes));
    for number in chain.numbers().filter(|number| *number <= last) {
        let scanned = match end_in_segment(chain, number, limit) {
            Ok(scanned) => scanned,
            // Made, and nothing received yet; or moved away meanwhile.
            Err(WalError::Empty { .. }) => continue,
            Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                continue;
            }
            Err(error @ WalError::Invalid { .. }) => {
                damaged.get_or_insert(error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        let file = chain.expect(number)?;
        let begin = Lsn(number * segment_bytes);
        let mut written = scanned.end;
        if matches!(scanned.why, StoppedBy::Incomplete | StoppedBy::Damaged(_)) {
            let bytes = written_bytes(&file.path)?;
            written = written.max(Lsn(begin.0 + bytes).min(limit.unwrap_or(Lsn(u64::MAX))));
        }
        match scanned.why {
            StoppedBy::Damaged(why) => {
                damaged.get_or_insert(format!("{}: {why}", file.path.display()));
            }
            StoppedBy::Incomplete if file.bytes < segment_bytes => {
                let (path, have) = (file.path.display(), file.bytes);
                let why = format!("{path} has {have} of {segment_bytes} bytes");
                damaged.get_or_insert(why);
            }
            _ => {}
        }
        let (timeline, oldest) = (chain.newest(), oldest(chain, scanned.end));
        return Ok(Some(Found { timeline, end: scanned.end, written, oldest }));
    }
    Ok(None)
}

fn oldest(chain: &Chain, end: Lsn) -> Lsn {
    let segment_bytes = chain.form.segment_bytes;
    let holding = end.0 / segment_bytes;
    let last = segment_before(end, segment_bytes);
    // A position at the beginning of a segment counts to the one before it, if that is there.
    let last = if chain.file(last).is_some() { last } else { holding };
    Lsn(chain.first_without_gap(last) * segment_bytes)
}

/// Says on which timeline the end lies, and how that one came about.
fn told(found: &Found, history: &[TimelineSwitch], damaged: Option<String>) -> Tip {
    let Found { timeline, end, written, oldest } = *found;
    let ended = history.iter().find(|switch| switch.timeline < timeline && end < switch.end);
    let timeline = ended.map_or(timeline, |switch| switch.timeline);
    let history = history.iter().copied().filter(|switch| switch.timeline < timeline).collect();
    let written = ended.map_or(written, |switch| written.min(switch.end));
    let at = |lsn| WalPosition { timeline, lsn };
    Tip { end: at(end), written: at(written), history, oldest, damaged }
}

fn nothing_at(timeline: TimelineId, history: &[TimelineSwitch], damaged: Option<String>) -> Tip {
    let end = WalPosition { timeline, lsn: Lsn::ZERO };
    Tip { end, written: end, history: history.to_vec(), oldest: Lsn::ZERO, damaged }
}

/// What is told of a directory none of whose segments can be read.
fn unusable(files: &[WalFile], newest: TimelineId) -> Option<Tip> {
    let fault = files.iter().rev().find_map(|file| match (file.name, read_header(&file.path)) {
        (WalName::Segment { .. }, Err(error @ WalError::Invalid { .. })) => Some(error),
        _ => None,
    });
    fault.map(|error| nothing_at(newest, &[], Some(error.to_string())))
}
