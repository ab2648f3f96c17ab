//! The files of diverged WAL: which they are, copying them out, and copying segments in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ha_core::{Lsn, TimelineId, WalPosition};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::{info, warn};

use super::super::InstanceConfig;
use super::super::directory::{Layout, history_of, make_dir, remove_file, sync_parent, wal_files};
use crate::control_file::ControlData;
use crate::diverged::{Diverged, SUMMARY_FILE};
use crate::history::{Segment, history_file_name};

/// A name that the server itself removes from `pg_wal` when it starts.
///
/// # Sources
/// PostgreSQL, `xlog.c: RemoveTempXlogFiles`.
const SCRATCH: &str = "xlogtemp.haclt";

/// What is to be copied and read.
#[derive(Debug)]
pub(super) struct Plan {
    /// Files in `pg_wal` with their sizes in bytes.
    pub(super) files: Vec<(PathBuf, u64)>,
    /// Stretches of WAL whose segments are all there, oldest first.
    pub(super) runs: Vec<Run>,
    /// What is not there.
    pub(super) notes: Vec<String>,
}

/// A stretch of WAL on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) timeline: TimelineId,
    pub(super) start: Lsn,
    pub(super) end: Lsn,
}

/// Returns what was kept in the directory, if it is complete.
pub(super) fn kept(into: &Path) -> Result<Option<Diverged>, String> {
    let path = into.join(SUMMARY_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(kept) => Ok(Some(kept)),
            // Not written by us in one step: what it would say can be found out again.
            Err(error) => {
                warn!(file = %path.display(), %error, "unreadable summary of diverged WAL");
                Ok(None)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Finds the files between fork and end, on all timelines involved.
pub(super) fn plan(
    layout: &Layout,
    fork: WalPosition,
    end: WalPosition,
    segment_bytes: u64,
) -> Result<Plan, String> {
    let names = wal_files(layout)?;
    let mut notes = Vec::new();
    let mut parts = parts(layout, fork, end, &mut notes)?;
    let has = |segment: Segment| names.contains(&name_of(segment, segment_bytes));
    avoid_partial(&mut parts, segment_bytes, has);
    let (mut wanted, mut runs, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for part in &parts {
        let mut run: Option<Run> = None;
        for segment in segments_of(*part, segment_bytes) {
            if has(segment) {
                let start = part.start.max(segment.begin(segment_bytes));
                let end = part.end.min(segment.next().begin(segment_bytes));
                run = Some(Run { start: run.map_or(start, |run| run.start), end, ..*part });
            } else {
                missing.push(name_of(segment, segment_bytes));
                runs.extend(run.take());
            }
        }
        runs.extend(run);
    }
    // The copies are of everything: of a partial segment too, whatever could be read elsewhere.
    for part in self::parts(layout, fork, end, &mut Vec::new())? {
        for segment in segments_of(part, segment_bytes) {
            let name = name_of(segment, segment_bytes);
            wanted.extend([format!("{name}.partial"), name]);
        }
    }
    wanted.extend((2..=end.timeline.0).map(|number| history_file_name(TimelineId(number))));
    if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
        notes.push(match missing.len() {
            1 => format!("segment {first} is not there any more"),
            count => format!("{count} segments from {first} to {last} are not there any more"),
        });
    }
    let files = wanted.iter().filter(|name| names.contains(name)).map(|name| {
        let path = layout.wal_dir().join(name);
        let size = fs::metadata(&path).map(|file| file.len());
        size.map(|size| (path, size)).map_err(|error| format!("cannot read {name}: {error}"))
    });
    Ok(Plan { files: files.collect::<Result<_, _>>()?, runs, notes })
}

/// Returns the stretches from fork to end, one for each timeline.
fn parts(
    layout: &Layout,
    fork: WalPosition,
    end: WalPosition,
    notes: &mut Vec<String>,
) -> Result<Vec<Run>, String> {
    let history = if end.timeline == fork.timeline {
        Vec::new()
    } else {
        history_of(layout, end.timeline).unwrap_or_else(|why| {
            notes.push(why);
            Vec::new()
        })
    };
    let (mut parts, mut start) = (Vec::new(), fork.lsn);
    for switch in history.iter().filter(|switch| switch.timeline >= fork.timeline) {
        if switch.end < start || switch.end > end.lsn {
            return Err(format!("{fork} and {end} are not on one branch of the history here"));
        }
        parts.push(Run { timeline: switch.timeline, start, end: switch.end });
        start = switch.end;
    }
    parts.push(Run { timeline: end.timeline, start, end: end.lsn });
    Ok(parts)
}

/// A server that archives renames the last segment of the timeline that it leaves, to `.partial`. The
/// same bytes are in the first segment of the next timeline.
fn avoid_partial(parts: &mut [Run], segment_bytes: u64, has: impl Fn(Segment) -> bool) {
    for at in 1..parts.len() {
        let Some([older, newer]) = parts.get_mut(at - 1..=at) else { return };
        let Some(last) = segments_of(*older, segment_bytes).last() else { continue };
        if !has(last) && has(Segment { timeline: newer.timeline, ..last }) {
            older.end = older.start.max(last.begin(segment_bytes));
            newer.start = older.end;
        }
    }
}

fn segments_of(part: Run, segment_bytes: u64) -> impl Iterator<Item = Segment> {
    let first = part.start.0 / segment_bytes;
    let past = if part.end > part.start { part.end.0.div_ceil(segment_bytes) } else { first };
    (first..past).map(move |number| Segment { timeline: part.timeline, number })
}

fn name_of(segment: Segment, segment_bytes: u64) -> String {
    let per_log = (1_u64 << 32) / segment_bytes;
    let Segment { timeline, number } = segment;
    format!("{:08X}{:08X}{:08X}", timeline.0, number / per_log, number % per_log)
}

/// Makes the directory, removes what an earlier attempt left in it, and returns the free space there.
pub(super) fn make_room(into: &Path) -> Result<u64, String> {
    let fault = |error: io::Error| format!("cannot empty {}: {error}", into.display());
    make_dir(into, None, 0o700)?;
    for entry in fs::read_dir(into).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_wal(&name) || name.starts_with(SUMMARY_FILE) {
            remove_file(&path)?;
        }
    }
    let space = rustix::fs::statvfs(into)
        .map_err(|errno| format!("cannot read the space under {}: {errno}", into.display()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

fn is_wal(name: &str) -> bool {
    let digits = |text: &str, count| {
        text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let segment = name.strip_suffix(".partial").unwrap_or(name);
    digits(segment, 24) || name.strip_suffix(".history").is_some_and(|stem| digits(stem, 8))
}

/// Copies the files; on disk when it returns.
pub(super) fn copy(files: &[(PathBuf, u64)], into: &Path) -> Result<(), String> {
    for (from, _) in files {
        let to = into.join(from.file_name().unwrap_or_default());
        let copied = fs::copy(from, &to).and_then(|_| File::open(&to)?.sync_all());
        copied.map_err(|error| format!("cannot copy {}: {error}", from.display()))?;
    }
    sync_parent(&into.join(SUMMARY_FILE))?;
    sync_parent(into)
}

/// Says what is wrong with a file that should be a complete segment of this database cluster.
///
/// # Sources
/// PostgreSQL, `xlog_internal.h: XLogPageHeaderData, XLogLongPageHeaderData`: at 8 the address of the
/// page, at 24 the system identifier, at 32 the size of the segment; in the machine's byte order.
pub(super) fn check(file: &Path, control: &ControlData) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{} {what}", file.display()));
    let unreadable = |error: io::Error| format!("cannot read {}: {error}", file.display());
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let segment = Segment::parse(&name, control.segment_bytes);
    let Some(segment) = segment.filter(|_| !name.ends_with(".partial")) else {
        return wrong("is not named as a complete WAL segment");
    };
    let mut opened = File::open(file).map_err(unreadable)?;
    if opened.metadata().map_err(unreadable)?.len() != control.segment_bytes {
        return wrong("has not the size of a WAL segment");
    }
    let mut header = [0; 40];
    opened.read_exact(&mut header).map_err(unreadable)?;
    let number = |at: usize| {
        let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    if number(8) != segment.begin(control.segment_bytes).0 {
        return wrong("does not hold the WAL that its name says");
    }
    if number(24) != control.system_identifier {
        return wrong("is of another database cluster");
    }
    Ok(())
}

/// Copies a segment into `pg_wal` if there is none of its name.
pub(super) fn adopt(file: &Path, config: &InstanceConfig, layout: &Layout) -> Result<(), String> {
    let place = layout.wal_dir().join(file.file_name().unwrap_or_default());
    if fs::symlink_metadata(&place).is_ok() {
        return Ok(());
    }
    let scratch = layout.wal_dir().join(SCRATCH);
    let fault = |error: io::Error| {
        format!("cannot copy {} to {}: {error}", file.display(), place.display())
    };
    remove_file(&scratch)?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&scratch)
        .map_err(fault)?;
    let mut source = File::open(file).map_err(fault)?;
    io::copy(&mut source, &mut target).map_err(fault)?;
    target.sync_all().map_err(fault)?;
    if let Some(owner) = config.run_as {
        std::os::unix::fs::lchown(&scratch, Some(owner.uid), Some(owner.gid)).map_err(fault)?;
    }
    match renameat_with(CWD, &scratch, CWD, &place, RenameFlags::NOREPLACE) {
        Ok(()) => info!(segment = %place.display(), "WAL segment adopted"),
        // Not on every file system; that there was none was seen, and nobody else writes here.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::rename(&scratch, &place).map_err(fault)?;
        }
        Err(errno) => return Err(fault(errno.into())),
    }
    sync_parent(&place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn run(timeline: u32, start: u64, end: u64) -> Run {
        Run { timeline: TimelineId(timeline), start: Lsn(start), end: Lsn(end) }
    }

    #[test]
    fn a_stretch_has_the_segments_that_hold_its_bytes() {
        let numbers = |start, end| {
            let segments = segments_of(run(1, start, end), SEGMENT);
            segments.map(|segment| segment.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(5 * SEGMENT + 7, 5 * SEGMENT + 8), [5]);
        assert_eq!(numbers(5 * SEGMENT + 7, 7 * SEGMENT), [5, 6]);
        assert_eq!(numbers(5 * SEGMENT, 7 * SEGMENT + 1), [5, 6, 7]);
        assert_eq!(numbers(5 * SEGMENT, 5 * SEGMENT), Vec::<u64>::new());
    }

    #[test]
    fn a_partial_segment_is_read_from_the_next_timeline() {
        let before =
            [run(1, 5 * SEGMENT + 8, 7 * SEGMENT + 8), run(2, 7 * SEGMENT + 8, 9 * SEGMENT)];
        let mut parts = before;
        avoid_partial(&mut parts, SEGMENT, |_| true);
        assert_eq!(parts, before);
        avoid_partial(&mut parts, SEGMENT, |segment| segment.timeline == TimelineId(2));
        let moved = [run(1, 5 * SEGMENT + 8, 7 * SEGMENT), run(2, 7 * SEGMENT, 9 * SEGMENT)];
        assert_eq!(parts, moved);
        // The fork is in that very segment.
        let mut parts =
            [run(1, 7 * SEGMENT + 4, 7 * SEGMENT + 8), run(2, 7 * SEGMENT + 8, 8 * SEGMENT)];
        avoid_partial(&mut parts, SEGMENT, |segment| segment.timeline == TimelineId(2));
        assert_eq!(
            parts,
            [run(1, 7 * SEGMENT + 4, 7 * SEGMENT + 4), run(2, 7 * SEGMENT + 4, 8 * SEGMENT)]
        );
    }

    #[test]
    fn only_names_of_wal_are_cleared_away() {
        for ours in
            ["000000010000000000000003", "000000010000000000000003.partial", "00000002.history"]
        {
            assert!(is_wal(ours), "{ours}");
        }
        for other in
            ["", "notes", "0000000100000000000000zz", "x.history", ".history", "archive_status"]
        {
            assert!(!is_wal(other), "{other}");
        }
    }
}
