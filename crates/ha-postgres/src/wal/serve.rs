//! Which files a node needs to go on from one position to another.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ha_core::ancestry::TimelineSwitch;
use ha_core::{TimelineId, WalPosition};

use super::WalError;
use super::chain::{Chain, form_of, no_segment};
use super::files::{history_name, list, open, segment_before};

/// A file to give to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The name that the server looks for, without `.partial`.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// How many bytes from its beginning count. What follows is to be zeros.
    pub bytes: u64,
    /// How long the file is to be at the other node; for a history file the same as `bytes`.
    pub segment_bytes: u64,
}

impl Piece {
    /// Opens the file, also if it was given its final name meanwhile.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub fn open(&self) -> Result<File, WalError> {
        let gone = || WalError::io("read", &self.path)(io::ErrorKind::NotFound.into());
        open(&self.path)?.ok_or_else(gone)
    }
}

/// Returns what a node whose WAL ends at `from` needs to replay up to `to`: history files first, then
/// segments in order, each under the name of the timeline on which the server looks for it.
///
/// `history` is that of `to`'s timeline; that `from` lies on it is the caller's to know. History files
/// of timelines between the two are given where they are there: the newest holds all that they say.
///
/// # Errors
/// [`WalError::Missing`] for the first file that is not there, [`WalError::Invalid`] if one is shorter
/// than what is asked of it, [`WalError::Io`].
///
/// # Sources
/// PostgreSQL, `xlogrecovery.c: XLogFileReadAnyTLI`: a segment in which timelines change is taken from
/// the newest.
pub fn serve(
    dir: &Path,
    from: WalPosition,
    to: WalPosition,
    history: &[TimelineSwitch],
) -> Result<Vec<Piece>, WalError> {
    if to.lsn <= from.lsn && to.timeline <= from.timeline {
        return Ok(Vec::new());
    }
    let mut pieces = histories(dir, from.timeline, to.timeline, history)?;
    let files = list(dir)?;
    let form = form_of(&files)?.ok_or_else(|| no_segment(dir, to.timeline))?;
    let segment_bytes = form.segment_bytes;
    let chain = Chain::new(dir, form, &files, to.timeline, history);
    for number in from.lsn.0 / segment_bytes..=segment_before(to.lsn, segment_bytes) {
        let file = chain.expect(number)?;
        let bytes = (to.lsn.0 - number * segment_bytes).min(segment_bytes);
        if file.bytes < bytes {
            let why = format!("it has {} bytes, needed are {bytes}", file.bytes);
            return Err(WalError::invalid(&file.path, why));
        }
        let (name, path) = (chain.name(number), file.path.clone());
        pieces.push(Piece { name, path, bytes, segment_bytes });
    }
    Ok(pieces)
}

fn histories(
    dir: &Path,
    from: TimelineId,
    to: TimelineId,
    history: &[TimelineSwitch],
) -> Result<Vec<Piece>, WalError> {
    let between = history.iter().map(|switch| switch.timeline).filter(|timeline| *timeline < to);
    let mut pieces = Vec::new();
    for timeline in between.chain([to]).filter(|timeline| *timeline > from) {
        let name = history_name(timeline);
        let path = dir.join(&name);
        match fs::metadata(&path) {
            Ok(found) => {
                let bytes = found.len();
                pieces.push(Piece { name, path, bytes, segment_bytes: bytes });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(WalError::io("read", &path)(error));
            }
            Err(_) if timeline == to => {
                return Err(WalError::Missing { name, dir: dir.display().to_string() });
            }
            Err(_) => {}
        }
    }
    Ok(pieces)
}
