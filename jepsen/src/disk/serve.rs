//! The kernel's questions and our answers.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::store::{Change, Made, Maker, Store};
use super::wire::{HEADER_LEN, Header, Reader, WRITE_MAX, Writer, answer};

/// Requests that there is no answer to: forgotten inodes, one or many, and interruptions, which come too late.
const FORGET: u32 = 2;
const FORGET_MANY: u32 = 42;
const INTERRUPT: u32 = 36;

/// Answers until the mount is gone, or the power was cut since then: another namespace of mounts may have a copy of
/// the mount that outlives it.
pub(super) fn serve(store: &Store, device: &Arc<File>) {
    let began = store.cuts();
    let mut buffer = vec![0; usize::try_from(WRITE_MAX).unwrap_or(0) + 4096];
    loop {
        let len = match (&**device).read(&mut buffer) {
            Ok(len) => len,
            // A request that was given up before it could be read.
            Err(error) if matches!(error.raw_os_error(), Some(2 | 4 | 11)) => continue,
            Err(_) => return,
        };
        if store.cuts() != began {
            return;
        }
        let Some(request) = buffer.get(..len).filter(|request| request.len() >= HEADER_LEN) else {
            return;
        };
        let mut reader = Reader(request);
        let Ok(header) = reader.header() else { return };
        let done = obey(store, &header, &mut reader);
        if !matches!(header.code, FORGET | FORGET_MANY | INTERRUPT) {
            // Whoever asked may be dead by now: then the kernel does not want to know.
            drop((&**device).write(&answer(header.unique, done)));
        }
    }
}

fn obey(store: &Store, header: &Header, r: &mut Reader<'_>) -> Result<Writer, Errno> {
    let Header { code, inode, uid, gid, .. } = *header;
    let maker = |mode| Maker { uid, gid, mode };
    let none = |()| Writer::default();
    let entry = |(inode, stat)| Writer::entry((inode, &stat));
    match code {
        1 => store.lookup(inode, r.name()?).map(entry),
        FORGET => {
            store.forget(inode, r.u64()?);
            Ok(Writer::default())
        }
        3 => store.stat(inode).map(|(inode, stat)| Writer::stat((inode, &stat))),
        4 => store.change(inode, &change(r)?).map(|(inode, stat)| Writer::stat((inode, &stat))),
        5 => store.readlink(inode).map(Writer),
        6 => {
            let (name, target) = (r.name()?, r.name()?);
            store.make(inode, name, Made::Symlink(Path::new(target)), maker(0o777)).map(entry)
        }
        8 => {
            let (mode, device) = (r.u32()?, r.u32()?);
            let name = r.skip(8)?.name()?;
            store.make(inode, name, Made::Special(u64::from(device)), maker(mode)).map(entry)
        }
        9 => {
            let mode = r.u32()?;
            store.make(inode, r.skip(4)?.name()?, Made::Directory, maker(mode)).map(entry)
        }
        10 | 11 => store.remove(inode, r.name()?).map(none),
        12 => rename(store, inode, (r.u64()?, 0), r).map(none),
        45 => {
            let (to, flags) = (r.u64()?, r.u32()?);
            rename(store, inode, (to, flags), r.skip(4)?).map(none)
        }
        13 => store.link(r.u64()?, inode, r.name()?).map(entry),
        14 => {
            let flags = r.u32()?.cast_signed();
            store.open_file(inode, flags).map(|handle| Writer::default().opened(handle))
        }
        27 => store.open_dir(inode).map(|handle| Writer::default().opened(handle)),
        35 => {
            let (flags, mode) = (r.u32()?.cast_signed(), r.u32()?);
            let name = r.skip(8)?.name()?;
            let (inode, stat, handle) = store.create(inode, name, maker(mode), flags)?;
            Ok(entry((inode, stat)).opened(handle))
        }
        15 => store.read(r.u64()?, r.u64()?, r.u32()?).map(Writer),
        28 => list(store, r),
        16 => {
            let (handle, from, len) = (r.u64()?, r.u64()?, r.u32()?);
            let data = r.skip(20)?.0;
            store.write(handle, from, data)?;
            Ok(Writer::default().u32(len).u32(0))
        }
        17 => store.statvfs().map(|found| Writer::statvfs(&found)),
        18 | 29 => {
            store.close(r.u64()?);
            Ok(Writer::default())
        }
        20 => store.sync(r.u64()?, r.u32()? & 1 == 1).map(none),
        30 => store.sync(r.u64()?, false).map(none),
        26 => {
            r.skip(8)?;
            Ok(Writer::hello(r.u32()?, r.u32()?))
        }
        INTERRUPT => Ok(Writer::default()),
        FORGET_MANY => {
            let count = r.u32()?;
            r.skip(4)?;
            for _ in 0..count {
                store.forget(r.u64()?, r.u64()?);
            }
            Ok(Writer::default())
        }
        // What a kernel can do without, or by itself: locks, extended attributes, room set aside, and to be told of each
        // end of a descriptor. It does not ask twice.
        _ => Err(Errno::NOSYS),
    }
}

fn rename(
    store: &Store,
    from: u64,
    (to, flags): (u64, u32),
    r: &mut Reader<'_>,
) -> Result<(), Errno> {
    // Not in place of another is all that can be asked for beside the usual.
    if flags > 1 {
        return Err(Errno::INVAL);
    }
    let (name, new) = (r.name()?, r.name()?);
    store.rename((from, name), (to, new), flags == 0)
}

fn list(store: &Store, r: &mut Reader<'_>) -> Result<Writer, Errno> {
    let (handle, from, len) = (r.u64()?, r.u64()?, r.u32()?);
    let open = store.handle(handle)?;
    let (from, len) =
        (usize::try_from(from).unwrap_or(usize::MAX), usize::try_from(len).unwrap_or(0));
    let mut to = Writer::default();
    for ((inode, kind, name), next) in open.entries.iter().zip(1..).skip(from) {
        if to.0.len() + 24 + name.len().next_multiple_of(8) > len {
            break;
        }
        to = to.listed(*inode, next, *kind, name);
    }
    Ok(to)
}

fn change(r: &mut Reader<'_>) -> Result<Change, Errno> {
    let valid = r.u32()?;
    let has = |bit: u32| valid & (1 << bit) != 0;
    let size = r.skip(12)?.u64()?;
    let (accessed, changed) = (r.skip(8)?.u64()?, r.u64()?);
    let (accessed_nanos, changed_nanos) = (r.skip(8)?.u32()?, r.u32()?);
    let mode = r.skip(4)?.u32()?;
    let (uid, gid) = (r.skip(4)?.u32()?, r.u32()?);
    let time = |given: bool, now: bool, seconds: u64, nanos: u32| {
        let nanos = match (given, now) {
            (false, _) => UTIME_OMIT,
            (true, true) => UTIME_NOW,
            (true, false) => i64::from(nanos),
        };
        Timespec { tv_sec: seconds.cast_signed(), tv_nsec: nanos }
    };
    let times = Timestamps {
        last_access: time(has(4), has(7), accessed, accessed_nanos),
        last_modification: time(has(5), has(8), changed, changed_nanos),
    };
    Ok(Change {
        mode: has(0).then_some(mode),
        owner: (has(1).then_some(uid), has(2).then_some(gid)),
        size: has(3).then_some(size),
        times: (has(4) || has(5)).then_some(times),
    })
}
