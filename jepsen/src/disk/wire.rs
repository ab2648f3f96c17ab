//! The kernel's file system protocol, as far as a disk needs it: numbers and texts in the order that Linux has them.
//!
//! # Sources
//! Linux, `include/uapi/linux/fuse.h`, protocol 7.31.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, Stat, StatVfs};
use rustix::io::Errno;

/// Bytes in front of each request.
pub(super) const HEADER_LEN: usize = 40;
/// Bytes in front of each answer.
const ANSWER_LEN: u32 = 16;
/// The most that one write may have, in bytes.
pub(super) const WRITE_MAX: u32 = 1 << 20;
const PAGES_MAX: u16 = 256;
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// Reads may be asked for beside each other; writes may be large, and as large as `PAGES_MAX` says.
const FLAGS: u32 = 1 | 1 << 5 | 1 << 22;

/// How long the kernel may remember names and attributes, in seconds. Only the kernel changes anything as long as it
/// is mounted.
const REMEMBERED_S: u64 = 3600;
/// Pages of a file that the kernel has stay when it is opened once more.
const KEEP_CACHE: u32 = 1 << 1;

/// What the kernel wants; the numbers are the protocol's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) code: u32,
    pub(super) unique: u64,
    pub(super) inode: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The rest of a request, taken from the front.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Errno> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(front)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        let bytes = self.take(4)?.try_into().map_err(|_| Errno::INVAL)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        let bytes = self.take(8)?.try_into().map_err(|_| Errno::INVAL)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    pub(super) fn skip(&mut self, len: usize) -> Result<&mut Self, Errno> {
        self.take(len)?;
        Ok(self)
    }

    /// Takes a text that ends with a zero byte.
    pub(super) fn name(&mut self) -> Result<&'a OsStr, Errno> {
        let len = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let name = self.take(len)?;
        self.take(1)?;
        Ok(OsStr::from_bytes(name))
    }

    pub(super) fn header(&mut self) -> Result<Header, Errno> {
        self.u32()?;
        let (code, unique, inode) = (self.u32()?, self.u64()?, self.u64()?);
        let (uid, gid) = (self.u32()?, self.u32()?);
        self.skip(8)?;
        Ok(Header { code, unique, inode, uid, gid })
    }
}

/// An answer, without what stands in front of it.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn zeros(mut self, len: usize) -> Self {
        self.0.resize(self.0.len() + len, 0);
        self
    }

    /// What follows the begin of a mount.
    pub(super) fn hello(readahead: u32, offered: u32) -> Self {
        let begin = Self::default().u32(MAJOR).u32(MINOR).u32(readahead).u32(FLAGS & offered);
        // How much goes on in the background; times to the nanosecond.
        begin.u16(64).u16(48).u32(WRITE_MAX).u32(1).u16(PAGES_MAX).zeros(34)
    }

    fn attributes(self, inode: u64, stat: &Stat) -> Self {
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        let short = |value: u64| u32::try_from(value).unwrap_or(0);
        let numbers = self.u64(inode).u64(unsigned(stat.st_size)).u64(unsigned(stat.st_blocks));
        let times = [stat.st_atime, stat.st_mtime, stat.st_ctime].into_iter();
        let timed = times.fold(numbers, |to, time| to.u64(time.cast_unsigned()));
        let nanos = [stat.st_atime_nsec, stat.st_mtime_nsec, stat.st_ctime_nsec].into_iter();
        let timed = nanos.fold(timed, |to, nanos| to.u32(short(nanos)));
        let owned = timed.u32(stat.st_mode).u32(short(stat.st_nlink)).u32(stat.st_uid);
        owned.u32(stat.st_gid).u32(short(stat.st_rdev)).u32(4096).u32(0)
    }

    /// A file by its name.
    pub(super) fn entry((inode, stat): (u64, &Stat)) -> Self {
        let known = Self::default().u64(inode).zeros(8).u64(REMEMBERED_S).u64(REMEMBERED_S);
        known.zeros(8).attributes(inode, stat)
    }

    /// A file.
    pub(super) fn stat((inode, stat): (u64, &Stat)) -> Self {
        Self::default().u64(REMEMBERED_S).zeros(8).attributes(inode, stat)
    }

    /// A handle.
    pub(super) fn opened(self, handle: u64) -> Self {
        self.u64(handle).u32(KEEP_CACHE).u32(0)
    }

    pub(super) fn statvfs(found: &StatVfs) -> Self {
        let size = u32::try_from(found.f_frsize).unwrap_or(4096);
        let blocks = Self::default().u64(found.f_blocks).u64(found.f_bfree).u64(found.f_bavail);
        let files = blocks.u64(found.f_files).u64(found.f_ffree);
        files.u32(size).u32(255).u32(size).zeros(28)
    }

    /// An entry of a directory; `next` is what it is asked for when the reading goes on behind it.
    pub(super) fn listed(self, inode: u64, next: u64, kind: FileType, name: &OsStr) -> Self {
        let len = u32::try_from(name.len()).unwrap_or(0);
        let mut to = self.u64(inode).u64(next).u32(len).u32(kind.as_raw_mode() >> 12);
        to.0.extend(name.as_bytes());
        let padding = to.0.len().next_multiple_of(8) - to.0.len();
        to.zeros(padding)
    }
}

/// Returns an answer with what stands in front of it.
pub(super) fn answer(unique: u64, done: Result<Writer, Errno>) -> Vec<u8> {
    let (error, body) = match done {
        Ok(body) => (0_i32, body.0),
        Err(error) => (-error.raw_os_error(), Vec::new()),
    };
    let len = ANSWER_LEN + u32::try_from(body.len()).unwrap_or(0);
    let front = Writer::default().u32(len).u32(error.cast_unsigned()).u64(unique);
    [front.0, body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_as_long_as_the_kernel_wants_them() {
        let stat = rustix::fs::stat("/").unwrap();
        let found = rustix::fs::statvfs("/").unwrap();
        assert_eq!(Writer::hello(1, u32::MAX).0.len(), 64);
        assert_eq!(Writer::entry((1, &stat)).0.len(), 128);
        assert_eq!(Writer::stat((1, &stat)).0.len(), 104);
        assert_eq!(Writer::entry((1, &stat)).opened(7).0.len(), 144);
        assert_eq!(Writer::statvfs(&found).0.len(), 80);
        let name = OsStr::new("name");
        assert_eq!(Writer::default().listed(1, 1, FileType::Directory, name).0.len(), 32);
        assert_eq!(answer(1, Err(Errno::NOENT)).len(), 16);
    }

    #[test]
    fn a_request_that_ends_too_early_is_refused() {
        let mut reader = Reader(b"name");
        assert_eq!(reader.name(), Err(Errno::INVAL));
        assert_eq!(reader.u64(), Err(Errno::INVAL));
        assert_eq!(Reader(b"a\0b\0").name(), Ok(OsStr::new("a")));
    }
}
