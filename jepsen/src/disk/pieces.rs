//! What was written to a file and is not on the disk yet: how the file was before, to go back to.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::{fstat, ftruncate};
use rustix::io::{Errno, pread, pwrite};

use crate::random::Random;

/// What is remembered at once, in bytes.
const PIECE: u64 = 4096;
const PIECE_LEN: usize = 4096;
/// What a disk writes whole or not at all, in bytes.
const SECTOR_LEN: usize = 512;

/// What a power cut leaves of what was not synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    All,
    /// Some, which this decides.
    Some(u64),
}

/// A file that has changes which are not on the disk.
#[derive(Debug)]
pub(super) struct Unsynced {
    file: OwnedFd,
    /// Its size on the disk.
    size: u64,
    /// What the disk has where the file was changed; shorter than a piece at the end of the file.
    before: BTreeMap<u64, Vec<u8>>,
}

/// What becomes of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Torn,
}

impl Unsynced {
    /// Begins with a file that has no such changes yet; it has to be open for reading and writing.
    pub(super) fn new(file: OwnedFd) -> Result<Self, Errno> {
        let size = size(&file)?;
        Ok(Self { file, size, before: BTreeMap::new() })
    }

    /// Remembers what lies between two places; to be called before it changes.
    pub(super) fn remember(&mut self, from: u64, to: u64) -> Result<(), Errno> {
        for piece in from / PIECE..to.div_ceil(PIECE) {
            if self.before.contains_key(&piece) {
                continue;
            }
            let start = piece * PIECE;
            let there = self.size.saturating_sub(start).min(PIECE);
            let content = read(&self.file, start, usize::try_from(there).unwrap_or(PIECE_LEN))?;
            self.before.insert(piece, content);
        }
        Ok(())
    }

    /// Remembers what a new size takes away.
    pub(super) fn remember_cut(&mut self, to: u64) -> Result<(), Errno> {
        let now = size(&self.file)?;
        if to < now { self.remember(to, now) } else { Ok(()) }
    }

    /// Returns whether the file has another size on the disk.
    pub(super) fn is_resized(&self) -> bool {
        size(&self.file).is_ok_and(|now| now != self.size)
    }

    /// Returns how many bytes were changed, counted in pieces.
    pub(super) fn bytes(&self) -> u64 {
        self.before.len() as u64 * PIECE
    }

    /// Makes the file what a disk has after a power cut.
    pub(super) fn lose(self, loss: &Loss, random: &mut Random) -> Result<(), Errno> {
        let now = size(&self.file)?;
        let keeps_size = *loss != Loss::All && random.percent(50);
        let size = if keeps_size { now } else { self.size };
        let mut left = Vec::new();
        for (piece, before) in &self.before {
            let start = piece * PIECE;
            let mut content = before.clone();
            content.resize(PIECE_LEN, 0);
            let current = read(&self.file, start, PIECE_LEN)?;
            let fate = match (loss, random.below(3)) {
                (Loss::All, _) | (Loss::Some(_), 0) => Fate::Lost,
                (Loss::Some(_), 1) => Fate::Kept,
                (Loss::Some(_), _) => Fate::Torn,
            };
            for at in (0..current.len()).step_by(SECTOR_LEN) {
                if fate == Fate::Kept || (fate == Fate::Torn && random.percent(50)) {
                    let end = (at + SECTOR_LEN).min(current.len());
                    content[at..end].copy_from_slice(&current[at..end]);
                }
            }
            content.truncate(usize::try_from(size.saturating_sub(start)).unwrap_or(PIECE_LEN));
            left.push((start, content));
        }
        ftruncate(&self.file, size)?;
        left.iter().try_for_each(|(start, content)| write(&self.file, *start, content))
    }
}

/// Returns a file's size.
pub(super) fn size(file: &OwnedFd) -> Result<u64, Errno> {
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0))
}

/// Reads so many bytes; fewer only at the end of the file.
pub(super) fn read(file: &OwnedFd, from: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut content = vec![0; len];
    let mut have = 0;
    while have < len {
        match pread(file, &mut content[have..], from + have as u64)? {
            0 => break,
            more => have += more,
        }
    }
    content.truncate(have);
    Ok(content)
}

/// Writes all bytes.
pub(super) fn write(file: &OwnedFd, from: u64, content: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < content.len() {
        done += pwrite(file, &content[done..], from + done as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        fs::OpenOptions::new().read(true).write(true).open(path).unwrap().into()
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    /// Overwrites as the file system does.
    fn change(unsynced: &mut Unsynced, path: &Path, at: u64, content: &[u8]) {
        unsynced.remember(at, at + content.len() as u64).unwrap();
        write(&open(path), at, content).unwrap();
    }

    fn cut(unsynced: &mut Unsynced, path: &Path, to: u64) {
        unsynced.remember_cut(to).unwrap();
        ftruncate(open(path), to).unwrap();
    }

    #[test]
    fn losing_all_brings_back_content_and_size_whatever_was_done() {
        let old: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let steps: [fn(&mut Unsynced, &Path); 5] = [
            |u, p| change(u, p, 100, b"overwritten"),
            |u, p| change(u, p, 4090, &[7; 20]),
            |u, p| change(u, p, 9990, &vec![8; 20_000]),
            |u, p| cut(u, p, 50),
            |u, p| {
                cut(u, p, 4097);
                change(u, p, 12_000, &[9; 10]);
                cut(u, p, 0);
                change(u, p, 0, &[1; 5000]);
            },
        ];
        for (n, step) in steps.into_iter().enumerate() {
            let (_dir, path) = file(&old);
            let mut unsynced = Unsynced::new(open(&path)).unwrap();
            step(&mut unsynced, &path);
            assert_ne!(fs::read(&path).unwrap(), old, "step {n} does something");
            unsynced.lose(&Loss::All, &mut Random::new(1, 1)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), old, "step {n}");
        }
    }

    #[test]
    fn losing_some_keeps_sectors_whole_and_loses_some_of_them() {
        let (old, new) = (vec![1; 40 * PIECE_LEN], vec![2; 40 * PIECE_LEN]);
        let (mut kept, mut lost, mut torn) = (0, 0, 0);
        for seed in 0..4 {
            let (_dir, path) = file(&old);
            let mut unsynced = Unsynced::new(open(&path)).unwrap();
            change(&mut unsynced, &path, 0, &new);
            unsynced.lose(&Loss::Some(seed), &mut Random::new(seed, 1)).unwrap();
            let left = fs::read(&path).unwrap();
            assert_eq!(left.len(), old.len());
            for piece in left.chunks(PIECE_LEN) {
                let news = piece.chunks(SECTOR_LEN).filter(|sector| {
                    assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
                    sector[0] == 2
                });
                match news.count() {
                    0 => lost += 1,
                    8 => kept += 1,
                    _ => torn += 1,
                }
            }
        }
        assert!(kept > 30 && lost > 30 && torn > 30, "{kept} kept, {lost} lost, {torn} torn");
    }

    #[test]
    fn a_new_end_of_a_file_is_there_without_its_content_or_not_at_all_or_whole() {
        let mut seen = [0; 3];
        for seed in 0..60 {
            let (_dir, path) = file(&[1; 4096]);
            let mut unsynced = Unsynced::new(open(&path)).unwrap();
            change(&mut unsynced, &path, 4096, &[2; 4096]);
            unsynced.lose(&Loss::Some(seed), &mut Random::new(seed, 1)).unwrap();
            let left = fs::read(&path).unwrap();
            assert!(left[..4096].iter().all(|byte| *byte == 1));
            match left.get(4096..) {
                Some([]) | None => seen[0] += 1,
                Some(end) if end.contains(&0) => seen[1] += 1,
                Some(_) => seen[2] += 1,
            }
        }
        assert!(seen.iter().all(|times| *times > 4), "{seen:?}");
    }
}
