//! The segments of one branch of history: which file holds which part of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId};

use super::WalError;
use super::files::{WalFile, list, open, segment_name};
use super::page::{Form, PAGE, PAGE_BYTES};
use super::scan::{Pages, read_header};
use crate::history::{history_file_name, parse_history};

/// How much is read at once, bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// One branch: its timelines, and the files that hold them.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) dir: PathBuf,
    pub(super) form: Form,
    /// Timelines with where each begins, oldest first.
    branch: Vec<(TimelineId, Lsn)>,
    files: BTreeMap<(u64, TimelineId), WalFile>,
}

/// Reads a timeline's history file in the directory, oldest switch first; the first timeline has none.
///
/// # Errors
/// [`WalError::Missing`] if it is not there, [`WalError::Invalid`] if it is none, [`WalError::Io`].
pub fn read_history(dir: &Path, timeline: TimelineId) -> Result<Vec<TimelineSwitch>, WalError> {
    if timeline <= TimelineId(1) {
        return Ok(Vec::new());
    }
    let name = history_file_name(timeline);
    let path = dir.join(&name);
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => WalError::Missing { name, dir: dir.display().to_string() },
        io::ErrorKind::InvalidData => WalError::invalid(&path, "it is no text"),
        _ => WalError::io("read", &path)(error),
    })?;
    let history = parse_history(&text).map_err(|why| WalError::invalid(&path, why))?;
    if history.last().is_some_and(|last| last.timeline >= timeline) {
        return Err(WalError::invalid(&path, "it names a timeline that is not older"));
    }
    Ok(history)
}

impl Chain {
    /// Reads the directory for one timeline. A missing history file leaves it without ancestors.
    pub(super) fn of_timeline(dir: &Path, timeline: TimelineId) -> Result<Self, WalError> {
        let history = match read_history(dir, timeline) {
            Err(WalError::Missing { .. }) => Vec::new(),
            other => other?,
        };
        let files = list(dir)?;
        if let Some(form) = form_of(&files)? {
            return Ok(Self::new(dir, form, &files, timeline, &history));
        }
        // Without a readable segment the size of segments is unknown: the newest one says what is wrong.
        let newest = files.iter().rfind(|file| file.is_segment());
        let fault = newest.map(|file| read_header(&file.path).map(drop));
        fault.unwrap_or(Ok(()))?;
        Err(no_segment(dir, timeline))
    }

    pub(super) fn new(
        dir: &Path,
        form: Form,
        files: &[WalFile],
        timeline: TimelineId,
        history: &[TimelineSwitch],
    ) -> Self {
        let older = history.iter().filter(|switch| switch.timeline < timeline);
        let mut branch = vec![];
        let mut begin = Lsn::ZERO;
        for switch in older {
            branch.push((switch.timeline, begin));
            begin = switch.end;
        }
        branch.push((timeline, begin));
        let mut of_branch = BTreeMap::new();
        for file in files {
            let Some((timeline, number, partial)) = file.segment(form.segment_bytes) else {
                continue;
            };
            // A whole segment counts before one that is being received.
            if !partial || !of_branch.contains_key(&(number, timeline)) {
                of_branch.insert((number, timeline), file.clone());
            }
        }
        Self { dir: dir.to_owned(), form, branch, files: of_branch }
    }

    /// Returns the branch as it was before its newest timeline began, and where that was.
    pub(super) fn before_newest(mut self) -> Option<(Self, Lsn)> {
        let (_, begin) = self.branch.pop()?;
        (!self.branch.is_empty()).then_some((self, begin))
    }

    pub(super) fn newest(&self) -> TimelineId {
        self.branch.last().map_or(TimelineId(0), |(timeline, _)| *timeline)
    }

    /// Returns where the newest timeline begins; zero if it is the first.
    pub(super) fn begin_of_newest(&self) -> Lsn {
        self.branch.last().map_or(Lsn::ZERO, |(_, begin)| *begin)
    }

    /// Returns the timeline whose file holds this segment: the newest that has begun in it or before.
    ///
    /// # Sources
    /// PostgreSQL, `xlogrecovery.c: XLogFileReadAnyTLI`.
    pub(super) fn timeline_of(&self, number: u64) -> TimelineId {
        let begun = |(_, begin): &&(TimelineId, Lsn)| begin.0 / self.form.segment_bytes <= number;
        self.branch.iter().rfind(begun).map_or(TimelineId(0), |(timeline, _)| *timeline)
    }

    pub(super) fn file(&self, number: u64) -> Option<&WalFile> {
        self.files.get(&(number, self.timeline_of(number)))
    }

    pub(super) fn name(&self, number: u64) -> String {
        segment_name(self.timeline_of(number), number, self.form.segment_bytes)
    }

    pub(super) fn expect(&self, number: u64) -> Result<&WalFile, WalError> {
        self.file(number).ok_or_else(|| WalError::Missing {
            name: self.name(number),
            dir: self.dir.display().to_string(),
        })
    }

    /// Returns the numbers of the segments that are there, newest first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let on_branch =
            |(number, timeline): &&(u64, TimelineId)| self.timeline_of(*number) == *timeline;
        self.files.keys().rev().filter(on_branch).map(|(number, _)| *number)
    }

    /// Returns the first of the segments that lie without a gap up to `number`.
    pub(super) fn first_without_gap(&self, mut number: u64) -> u64 {
        while number > 0 && self.file(number - 1).is_some() {
            number -= 1;
        }
        number
    }

    pub(super) fn pages(&self) -> ChainPages<'_> {
        ChainPages { chain: self, open: None, chunk: Vec::new(), chunk_at: u64::MAX }
    }
}

/// The error if a directory has no segment that could be read.
pub(super) fn no_segment(dir: &Path, timeline: TimelineId) -> WalError {
    let name = format!("{:08X}*", timeline.0);
    WalError::Missing { name, dir: dir.display().to_string() }
}

/// Returns the form of the newest segment that has a readable header, if one has.
pub(super) fn form_of(files: &[WalFile]) -> Result<Option<Form>, WalError> {
    for file in files.iter().rev().filter(|file| file.is_segment()) {
        match read_header(&file.path) {
            Ok(header) => return Ok(Some(header.form())),
            Err(WalError::Io { source, .. }) if source.kind() != io::ErrorKind::NotFound => {
                return Err(WalError::io("read", &file.path)(source));
            }
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Pages read from the files of a branch.
#[derive(Debug)]
pub(super) struct ChainPages<'a> {
    chain: &'a Chain,
    open: Option<(u64, Option<File>)>,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl ChainPages<'_> {
    fn fill(&mut self, at: u64) -> Result<(), WalError> {
        let segment_bytes = self.chain.form.segment_bytes;
        let number = at / segment_bytes;
        self.chunk.clear();
        self.chunk_at = at;
        let Some(file) = self.chain.file(number) else { return Ok(()) };
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, open(&file.path)?));
        }
        let Some((_, Some(handle))) = &self.open else { return Ok(()) };
        let room = segment_bytes - at % segment_bytes;
        self.chunk.resize(CHUNK_BYTES.min(usize::try_from(room).unwrap_or(CHUNK_BYTES)), 0);
        let mut filled = 0;
        while let Some(rest) = self.chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match handle.read_at(rest, at % segment_bytes + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WalError::io("read", &file.path)(error)),
            }
        }
        self.chunk.truncate(filled);
        Ok(())
    }
}

impl Pages for ChainPages<'_> {
    fn page(&mut self, at: Lsn) -> Result<&[u8], WalError> {
        let holds = |begin: u64, length: usize| {
            at.0.checked_sub(begin).is_some_and(|skip| skip + PAGE <= length as u64)
        };
        if self.chunk_at != at.0 && !holds(self.chunk_at, self.chunk.len()) {
            self.fill(at.0)?;
        }
        let skip = usize::try_from(at.0 - self.chunk_at).unwrap_or(usize::MAX);
        let bytes = self.chunk.get(skip..).unwrap_or_default();
        Ok(bytes.get(..PAGE_BYTES).unwrap_or(bytes))
    }
}
