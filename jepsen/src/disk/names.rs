//! What was done to directories and is not on the disk yet: how to undo it.
//!
//! As in a journal that is written in order: what was done last is lost first. Nothing is removed until that is
//! on the disk; until then it lies in a directory that the mount does not show.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// A directory that is open.
pub(super) type Directory = Arc<OwnedFd>;

#[derive(Debug)]
enum Step {
    Made { inode: u64, at: (Directory, OsString), is_dir: bool },
    Removed { at: (Directory, OsString), kept: OsString },
    Moved { from: (Directory, OsString), to: (Directory, OsString), kept: Option<OsString> },
}

/// Steps that are not on the disk, in their order.
#[derive(Debug)]
pub(super) struct Names {
    steps: Vec<Step>,
    /// Where removed things lie.
    bin: OwnedFd,
    next: u64,
}

impl Names {
    pub(super) fn new(bin: OwnedFd) -> Self {
        Self { steps: Vec::new(), bin, next: 0 }
    }

    /// Returns how many steps there are.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Returns whether the name of that inode is not on the disk yet.
    pub(super) fn made(&self, wanted: u64) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Made { inode, .. } if *inode == wanted))
    }

    /// A name was made.
    pub(super) fn add(&mut self, inode: u64, dir: Directory, name: &OsStr, is_dir: bool) {
        self.steps.push(Step::Made { inode, at: (dir, name.to_owned()), is_dir });
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, dir: Directory, name: &OsStr) -> Result<(), Errno> {
        let kept = self.keep(&dir, name)?;
        self.steps.push(Step::Removed { at: (dir, name.to_owned()), kept });
        Ok(())
    }

    /// Moves a name, in place of another if there is one.
    pub(super) fn rename(
        &mut self,
        from: (Directory, &OsStr),
        to: (Directory, &OsStr),
    ) -> Result<(), Errno> {
        let kept = match self.keep(&to.0, to.1) {
            Ok(kept) => Some(kept),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        if let Err(error) = renameat(&from.0, from.1, &to.0, to.1) {
            if let Some(kept) = kept {
                renameat(&self.bin, kept, &to.0, to.1)?;
            }
            return Err(error);
        }
        let owned = |(dir, name): (Directory, &OsStr)| (dir, name.to_owned());
        self.steps.push(Step::Moved { from: owned(from), to: owned(to), kept });
        Ok(())
    }

    fn keep(&mut self, dir: &OwnedFd, name: &OsStr) -> Result<OsString, Errno> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let inside = Dir::new(openat(dir, name, flags, Mode::empty())?)?;
            for entry in inside {
                if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                    return Err(Errno::NOTEMPTY);
                }
            }
        }
        self.next += 1;
        let kept = OsString::from(self.next.to_string());
        renameat(dir, name, &self.bin, &kept)?;
        Ok(kept)
    }

    /// All steps are on the disk now; returns the inodes that nothing names any more.
    pub(super) fn commit(&mut self) -> Result<Vec<u64>, Errno> {
        let mut gone = Vec::new();
        for step in std::mem::take(&mut self.steps) {
            let (Step::Removed { kept, .. } | Step::Moved { kept: Some(kept), .. }) = step else {
                continue;
            };
            let stat = statat(&self.bin, &kept, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            unlinkat(&self.bin, &kept, removal(is_dir))?;
            if is_dir || stat.st_nlink == 1 {
                gone.push(stat.st_ino);
            }
        }
        Ok(gone)
    }

    /// Undoes all steps but the first so many.
    pub(super) fn lose(&mut self, left: usize) -> Result<(), Errno> {
        while self.steps.len() > left {
            let Some(step) = self.steps.pop() else { break };
            match step {
                Step::Made { at: (dir, name), is_dir, .. } => {
                    unlinkat(dir.as_fd(), name, removal(is_dir))?;
                }
                Step::Removed { at: (dir, name), kept } => renameat(&self.bin, kept, &dir, name)?,
                Step::Moved { from, to, kept } => {
                    renameat(&to.0, &to.1, &from.0, &from.1)?;
                    if let Some(kept) = kept {
                        renameat(&self.bin, kept, &to.0, &to.1)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn removal(is_dir: bool) -> AtFlags {
    if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() }
}
