//! The directory in which a node without a server keeps WAL.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId, WalPosition};

use super::WalError;
use super::chain::{form_of, read_history};
use super::files::{Tip, WalFile, list, open, tip, written_bytes};

/// How many directories with WAL that was set aside are kept.
const ASIDE_MAX: usize = 3;
const ASIDE: &str = "aside-";
/// How many of the last segments may not be on disk: those of two timelines, and one before each.
const UNFLUSHED_MAX: usize = 4;

/// A directory with WAL that `pg_receivewal` writes and this removes from.
#[derive(Debug, Clone)]
pub struct WalStore {
    dir: PathBuf,
}

/// What was removed because nobody needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Files, history files included.
    pub files: u64,
    /// Their length, bytes.
    pub bytes: u64,
}

/// What was removed although somebody may need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Where the last removed segment ended: WAL before it is not here any more.
    pub up_to: Lsn,
    /// Length of what was removed, bytes.
    pub bytes: u64,
}

/// What was moved aside because the primary's history lacks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The directory that holds it now.
    pub path: PathBuf,
    /// From where on, and of which timeline, the store's WAL is not part of that history.
    pub fork: WalPosition,
    /// Segments moved.
    pub segments: u64,
}

/// A segment of the store.
struct Kept {
    number: u64,
    timeline: TimelineId,
    partial: bool,
    file: WalFile,
}

impl WalStore {
    /// Opens the directory, and makes it if it is not there.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, WalError> {
        let dir = dir.into();
        if !dir.is_dir() {
            let mut builder = fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(&dir).map_err(WalError::io("make", &dir))?;
            sync(dir.parent().unwrap_or(&dir))?;
        }
        Ok(Self { dir })
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Finds how far the WAL goes; none if there is none. Reads the last segment: about 10 ms.
    ///
    /// # Errors
    /// As [`tip`].
    pub fn tip(&self) -> Result<Option<Tip>, WalError> {
        tip(&self.dir)
    }

    /// Returns once all that the store holds is on disk.
    ///
    /// What the receiver acknowledged is; what it wrote after that may not be when it is killed, and
    /// [`Self::tip`] counts it. To be called before others act on the tip.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn sync(&self) -> Result<(), WalError> {
        // Whatever is older was flushed when its segment was complete.
        for file in list(&self.dir)?.iter().rev().take(UNFLUSHED_MAX) {
            if let Some(handle) = open(&file.path)? {
                handle.sync_all().map_err(WalError::io("flush", &file.path))?;
            }
        }
        sync(&self.dir)
    }

    /// Returns the length of all WAL and history files, bytes; what was set aside is not counted.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn bytes(&self) -> Result<u64, WalError> {
        Ok(list(&self.dir)?.iter().map(|file| file.bytes).sum())
    }

    /// Removes the segments that end at or before `keep_from`, of all timelines, but never the last
    /// one; and history files of timelines without segments, but never the newest.
    ///
    /// Repeating it, also after a crash in the middle, does what is left to do.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn prune(&self, keep_from: Lsn) -> Result<Pruned, WalError> {
        let mut pruned = Pruned::default();
        let Some((segment_bytes, mut kept)) = self.segments()? else { return Ok(pruned) };
        let _last = kept.pop();
        for old in kept.iter().filter(|old| end(old.number, segment_bytes) <= keep_from) {
            remove(&old.file)?;
            pruned.files += 1;
            pruned.bytes += old.file.bytes;
        }
        let files = list(&self.dir)?;
        let timeline_of = |file: &WalFile| file.name.timeline();
        let used: BTreeSet<TimelineId> =
            files.iter().filter(|file| file.is_segment()).map(timeline_of).collect();
        let histories: Vec<&WalFile> = files.iter().filter(|file| !file.is_segment()).collect();
        let newest = histories.iter().map(|file| timeline_of(file)).max();
        for file in histories {
            let timeline = file.name.timeline();
            if !used.contains(&timeline) && Some(timeline) != newest {
                remove(file)?;
                pruned.files += 1;
                pruned.bytes += file.bytes;
            }
        }
        if pruned.files > 0 {
            sync(&self.dir)?;
        }
        Ok(pruned)
    }

    /// Removes the oldest segments until the store has at most `bytes_max`, but never the last two.
    /// None if nothing had to go.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn enforce(&self, bytes_max: u64) -> Result<Option<Dropped>, WalError> {
        let Some((segment_bytes, kept)) = self.segments()? else { return Ok(None) };
        let mut left = self.bytes()?;
        let mut dropped: Option<Dropped> = None;
        for old in kept.iter().take(kept.len().saturating_sub(2)) {
            if left <= bytes_max {
                break;
            }
            remove(&old.file)?;
            left = left.saturating_sub(old.file.bytes);
            let up_to = end(old.number, segment_bytes);
            let bytes = old.file.bytes + dropped.map_or(0, |dropped| dropped.bytes);
            dropped = Some(Dropped { up_to, bytes });
        }
        if dropped.is_some() {
            sync(&self.dir)?;
        }
        Ok(dropped)
    }

    /// Moves WAL that the history of the primary to be followed lacks into a directory of its own,
    /// `aside-<timeline>-<lsn>`; the newest three of those are kept. None if there is no such WAL.
    ///
    /// `timeline` and `history` are the primary's. Moved are segments of timelines that are not in that
    /// history, and of those that are, the segments behind the end of the timeline. The one in which it
    /// ended is copied, if anything is written behind that, and cut there. `pg_receivewal` begins after
    /// the highest complete segment it finds, so left in place they would stop it for ever.
    ///
    /// Not to be called while a receiver runs. Repeating it, also after a crash in the middle, does what
    /// is left to do.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn set_aside(
        &self,
        timeline: TimelineId,
        history: &[TimelineSwitch],
    ) -> Result<Option<SetAside>, WalError> {
        let Some((segment_bytes, kept)) = self.segments()? else { return Ok(None) };
        let foreign_namesake = self.is_namesake(timeline, history);
        let mut moving = Vec::new();
        for one in kept {
            let switch = history.iter().find(|switch| switch.timeline == one.timeline);
            let foreign = match switch {
                Some(switch) => is_past(&one, switch.end, segment_bytes)?,
                None => one.timeline != timeline || foreign_namesake,
            };
            if foreign {
                moving.push(one);
            }
        }
        let Some(oldest) = moving.iter().map(|one| one.timeline).min() else { return Ok(None) };
        let fork = self.fork_of(oldest, timeline, history);
        let (high, low) = (fork.lsn.0 >> 32, fork.lsn.0 & 0xFFFF_FFFF);
        let path = self.dir.join(format!("{ASIDE}{}-{high:X}-{low:X}", fork.timeline));
        fs::create_dir_all(&path).map_err(WalError::io("make", &path))?;
        // The newest first: what is left after a crash is recognised again by itself.
        for one in moving.iter().rev() {
            let switch = history.iter().find(|switch| switch.timeline == one.timeline);
            let begin = Lsn(one.number * segment_bytes);
            match switch.filter(|switch| switch.end > begin) {
                Some(switch) => self.cut(one, switch.end.bytes_after(begin), &path)?,
                None => move_into(&one.file.path, &path)?,
            }
        }
        let timelines: BTreeSet<TimelineId> = moving.iter().map(|one| one.timeline).collect();
        for file in list(&self.dir)?.iter().filter(|file| !file.is_segment()) {
            let named = file.name.timeline();
            let in_history = history.iter().any(|switch| switch.timeline == named);
            if timelines.contains(&named) && !in_history {
                move_into(&file.path, &path)?;
            }
        }
        sync(&path)?;
        sync(&self.dir)?;
        self.forget_old_asides(&path)?;
        Ok(Some(SetAside { path, fork, segments: moving.len() as u64 }))
    }

    /// Copies a segment aside in which its timeline ended, and leaves what is before that: until the
    /// receiver has fetched it anew, this may be one of few copies of acknowledged commits. It begins
    /// with the first segment that is not complete, so that is what this becomes.
    fn cut(&self, one: &Kept, bytes: u64, aside: &Path) -> Result<(), WalError> {
        let from = &one.file.path;
        let name = from.file_name().unwrap_or_default();
        fs::copy(from, aside.join(name)).map_err(WalError::io("copy", from))?;
        let shortened = File::options().write(true).open(from).and_then(|file| {
            let whole = file.metadata()?.len();
            // What follows is zeros, as in a segment that is being received.
            file.set_len(bytes.min(whole))?;
            file.set_len(whole)?;
            file.sync_all()
        });
        shortened.map_err(WalError::io("cut", from))?;
        if one.partial {
            return Ok(());
        }
        let partial = format!("{}.partial", name.to_string_lossy());
        fs::rename(from, self.dir.join(partial)).map_err(WalError::io("move", from))
    }

    /// Returns whether the store's timeline of this number is another one.
    fn is_namesake(&self, timeline: TimelineId, history: &[TimelineSwitch]) -> bool {
        read_history(&self.dir, timeline).is_ok_and(|ours| ours != history)
    }

    /// Returns the last position that the store's timeline shares with the history.
    fn fork_of(
        &self,
        ours: TimelineId,
        timeline: TimelineId,
        history: &[TimelineSwitch],
    ) -> WalPosition {
        let known =
            |switch: &TimelineSwitch| WalPosition { timeline: switch.timeline, lsn: switch.end };
        if let Some(switch) = history.iter().find(|switch| switch.timeline == ours) {
            return known(switch);
        }
        // A branch of its own: where it left the history, as far as its history file tells.
        let own = read_history(&self.dir, ours).unwrap_or_default();
        let shared = own.iter().rev().find_map(|switch| {
            let theirs = history.iter().find(|their| their.timeline == switch.timeline);
            let is_last = switch.timeline == timeline;
            let end = theirs.map(|their| their.end.min(switch.end));
            let lsn = end.or(is_last.then_some(switch.end))?;
            Some(WalPosition { timeline: switch.timeline, lsn })
        });
        shared.unwrap_or(WalPosition { timeline: ours, lsn: Lsn::ZERO })
    }

    /// Returns the size of segments and the segments, oldest first.
    fn segments(&self) -> Result<Option<(u64, Vec<Kept>)>, WalError> {
        let files = list(&self.dir)?;
        let Some(form) = form_of(&files)? else { return Ok(None) };
        let kept = files.into_iter().filter_map(|file| {
            let (timeline, number, partial) = file.segment(form.segment_bytes)?;
            Some(Kept { number, timeline, partial, file })
        });
        Ok(Some((form.segment_bytes, kept.collect())))
    }

    fn forget_old_asides(&self, just_made: &Path) -> Result<(), WalError> {
        let mut asides = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(WalError::io("list", &self.dir))? {
            let entry = entry.map_err(WalError::io("list", &self.dir))?;
            let path = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with(ASIDE) && path.is_dir();
            if ours && path != just_made {
                let changed = entry.metadata().and_then(|found| found.modified());
                asides.push((changed.unwrap_or(SystemTime::UNIX_EPOCH), path));
            }
        }
        asides.sort();
        let surplus = (asides.len() + 1).saturating_sub(ASIDE_MAX);
        for (_, path) in asides.iter().take(surplus) {
            fs::remove_dir_all(path).map_err(WalError::io("remove", path))?;
        }
        if surplus > 0 { sync(&self.dir) } else { Ok(()) }
    }
}

const fn end(number: u64, segment_bytes: u64) -> Lsn {
    Lsn((number + 1) * segment_bytes)
}

/// Returns whether a segment holds anything behind the end of its timeline.
fn is_past(one: &Kept, end_of_timeline: Lsn, segment_bytes: u64) -> Result<bool, WalError> {
    let begin = one.number * segment_bytes;
    if end_of_timeline.0 >= begin + segment_bytes {
        return Ok(false);
    }
    // A whole segment makes the receiver begin with the next one.
    if begin >= end_of_timeline.0 || !one.partial {
        return Ok(true);
    }
    Ok(begin + written_bytes(&one.file.path)? > end_of_timeline.0)
}

fn remove(file: &WalFile) -> Result<(), WalError> {
    match fs::remove_file(&file.path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(WalError::io("remove", &file.path)(error))
        }
        _ => Ok(()),
    }
}

fn move_into(file: &Path, dir: &Path) -> Result<(), WalError> {
    let name = file.file_name().unwrap_or_default();
    fs::rename(file, dir.join(name)).map_err(WalError::io("move", file))
}

fn sync(dir: &Path) -> Result<(), WalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(WalError::io("flush", dir))
}

#[cfg(test)]
mod tests;
