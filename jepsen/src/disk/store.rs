//! The directory behind a mount: what the kernel asks for, done there, and what of it is not on the disk yet.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, StatVfs, Timestamps, Uid, chmod, chownat,
    fstat, fstatvfs, ftruncate, linkat, mkdirat, mknodat, openat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::names::{Directory, Names};
use super::pieces::{self, Loss, Unsynced};
use crate::random::Random;

/// What the kernel calls the root.
const ROOT: u64 = 1;
/// How long processes that were killed may take to let go of their files.
const LET_GO: Duration = Duration::from_secs(5);
/// How often something is looked at that must change soon.
const TICK: Duration = Duration::from_millis(2);

/// What is wrong with the disk now.
#[derive(Debug, Default)]
pub(super) struct Switches {
    /// How long each sync takes, in milliseconds.
    pub(super) sync_ms: AtomicU64,
    /// How long each write takes, in milliseconds.
    pub(super) write_ms: AtomicU64,
    /// Whether there is no room.
    pub(super) full: AtomicBool,
    /// Whether it says that it synced, and did not.
    pub(super) lying: AtomicBool,
}

/// A file or directory that is open.
#[derive(Debug)]
pub(super) struct Open {
    file: OwnedFd,
    inode: u64,
    /// Every write is a sync.
    sync: bool,
    /// What a directory had when it was opened.
    pub(super) entries: Vec<(u64, FileType, OsString)>,
}

#[derive(Debug)]
struct Node {
    place: Directory,
    lookups: u64,
}

#[derive(Debug)]
struct Inner {
    nodes: HashMap<u64, Node>,
    open: HashMap<u64, Arc<Open>>,
    unsynced: HashMap<u64, Unsynced>,
    names: Names,
    next: u64,
}

/// What there is behind a mount.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) switches: Switches,
    root: u64,
    inner: Mutex<Inner>,
    /// Held for reading by whatever is being done.
    power: RwLock<()>,
    /// How often the power was cut.
    cuts: AtomicU64,
}

/// A new owner, mode, size, times; what is not named stays.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) owner: (Option<u32>, Option<u32>),
    pub(super) size: Option<u64>,
    pub(super) times: Option<Timestamps>,
}

/// Who makes a file, and with which mode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maker {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

/// What is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Made<'a> {
    Directory,
    Special(u64),
    Symlink(&'a Path),
}

impl Store {
    /// Opens what lies in `backing`: `shown` there is what the mount shows.
    pub(super) fn open(backing: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shown = openat(CWD, backing.join("shown"), flags, Mode::empty())?;
        let bin = openat(CWD, backing.join("removed"), flags, Mode::empty())?;
        let root = fstat(&shown)?.st_ino;
        let node = Node { place: Arc::new(shown), lookups: 1 };
        let inner = Inner {
            nodes: HashMap::from([(ROOT, node)]),
            open: HashMap::new(),
            unsynced: HashMap::new(),
            names: Names::new(bin),
            next: 1,
        };
        let (switches, power) = (Switches::default(), RwLock::new(()));
        let cuts = AtomicU64::new(0);
        Ok(Self { switches, root, inner: Mutex::new(inner), power, cuts })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic ends this process: nobody sees what it left half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn powered(&self) -> RwLockReadGuard<'_, ()> {
        self.power.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self, stat: &Stat) -> u64 {
        if stat.st_ino == self.root { ROOT } else { stat.st_ino }
    }

    fn place(&self, inode: u64) -> Result<Directory, Errno> {
        self.inner().nodes.get(&inode).map(|node| Arc::clone(&node.place)).ok_or(Errno::STALE)
    }

    /// Has the kernel know one more time of what is at a name.
    fn meet(&self, dir: &OwnedFd, name: &OsStr) -> Result<(u64, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(dir, name, flags, Mode::empty())?;
        let stat = fstat(&place)?;
        let inode = self.number(&stat);
        let mut inner = self.inner();
        let met = inner.nodes.entry(inode);
        met.or_insert_with(|| Node { place: Arc::new(place), lookups: 0 }).lookups += 1;
        Ok((inode, stat))
    }

    pub(super) fn lookup(&self, dir: u64, name: &OsStr) -> Result<(u64, Stat), Errno> {
        self.meet(&*self.place(dir)?, name)
    }

    pub(super) fn forget(&self, inode: u64, times: u64) {
        let mut inner = self.inner();
        let Some(node) = inner.nodes.get_mut(&inode).filter(|_| inode != ROOT) else { return };
        node.lookups = node.lookups.saturating_sub(times);
        if node.lookups == 0 {
            inner.nodes.remove(&inode);
        }
    }

    pub(super) fn stat(&self, inode: u64) -> Result<(u64, Stat), Errno> {
        let stat = fstat(&*self.place(inode)?)?;
        Ok((inode, stat))
    }

    pub(super) fn statvfs(&self) -> Result<StatVfs, Errno> {
        let mut found = fstatvfs(&*self.place(ROOT)?)?;
        if self.is_full() {
            (found.f_bfree, found.f_bavail) = (0, 0);
        }
        Ok(found)
    }

    fn is_full(&self) -> bool {
        self.switches.full.load(Ordering::Relaxed)
    }

    fn needs_room(&self) -> Result<(), Errno> {
        if self.is_full() { Err(Errno::NOSPC) } else { Ok(()) }
    }

    pub(super) fn readlink(&self, inode: u64) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(&*self.place(inode)?, "", Vec::new())?.into_bytes())
    }

    pub(super) fn change(&self, inode: u64, change: &Change) -> Result<(u64, Stat), Errno> {
        let _powered = self.powered();
        let place = self.place(inode)?;
        let (uid, gid) = change.owner;
        if uid.is_some() || gid.is_some() {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            chownat(&*place, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            chmod(opened(&place), Mode::from_raw_mode(mode))?;
        }
        if let Some(size) = change.size {
            let mut inner = self.inner();
            let file = reopen(&place, OFlags::RDWR)?;
            inner.unsynced(inode, &place)?.remember_cut(size)?;
            ftruncate(file, size)?;
        }
        if let Some(times) = &change.times {
            utimensat(CWD, opened(&place), times, AtFlags::empty())?;
        }
        self.stat(inode)
    }

    pub(super) fn make(
        &self,
        dir: u64,
        name: &OsStr,
        made: Made<'_>,
        maker: Maker,
    ) -> Result<(u64, Stat), Errno> {
        let _powered = self.powered();
        self.needs_room()?;
        let dir = self.place(dir)?;
        let mode = Mode::from_raw_mode(maker.mode);
        match made {
            Made::Directory => mkdirat(&*dir, name, mode)?,
            Made::Special(device) => {
                mknodat(&*dir, name, FileType::from_raw_mode(maker.mode), mode, device)?;
            }
            Made::Symlink(target) => symlinkat(target, &*dir, name)?,
        }
        give(&dir, name, maker)?;
        let (inode, stat) = self.meet(&dir, name)?;
        self.inner().names.add(inode, dir, name, matches!(made, Made::Directory));
        Ok((inode, stat))
    }

    pub(super) fn create(
        &self,
        dir: u64,
        name: &OsStr,
        maker: Maker,
        flags: i32,
    ) -> Result<(u64, Stat, u64), Errno> {
        {
            let _powered = self.powered();
            self.needs_room()?;
            let dir = self.place(dir)?;
            let wanted = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let file = openat(&*dir, name, wanted, Mode::from_raw_mode(maker.mode))?;
            give(&dir, name, maker)?;
            let inode = self.number(&fstat(&file)?);
            self.inner().names.add(inode, dir, name, false);
        }
        let (inode, stat) = self.lookup(dir, name)?;
        let handle = self.open_file(inode, flags)?;
        Ok((inode, stat, handle))
    }

    pub(super) fn remove(&self, dir: u64, name: &OsStr) -> Result<(), Errno> {
        let _powered = self.powered();
        let dir = self.place(dir)?;
        self.inner().names.remove(dir, name)
    }

    pub(super) fn rename(
        &self,
        (from, name): (u64, &OsStr),
        (to, new): (u64, &OsStr),
        replaces: bool,
    ) -> Result<(), Errno> {
        let _powered = self.powered();
        let (from, to) = (self.place(from)?, self.place(to)?);
        let mut inner = self.inner();
        if !replaces && statat(&*to, new, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Errno::EXIST);
        }
        inner.names.rename((from, name), (to, new))
    }

    pub(super) fn link(&self, inode: u64, dir: u64, name: &OsStr) -> Result<(u64, Stat), Errno> {
        let _powered = self.powered();
        let (place, dir) = (self.place(inode)?, self.place(dir)?);
        linkat(CWD, opened(&place), &*dir, name, AtFlags::SYMLINK_FOLLOW)?;
        self.inner().names.add(inode, Arc::clone(&dir), name, false);
        self.meet(&dir, name)
    }

    pub(super) fn open_file(&self, inode: u64, flags: i32) -> Result<u64, Errno> {
        let place = self.place(inode)?;
        let flags = OFlags::from_bits_retain(flags.cast_unsigned());
        let access =
            if (flags & OFlags::ACCMODE).is_empty() { OFlags::RDONLY } else { OFlags::RDWR };
        let file = reopen(&place, access)?;
        let sync = flags.intersects(OFlags::SYNC | OFlags::DSYNC);
        Ok(self.keep(Open { file, inode, sync, entries: Vec::new() }))
    }

    pub(super) fn open_dir(&self, inode: u64) -> Result<u64, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(&*self.place(inode)?, ".", flags, Mode::empty())?;
        let entries = Dir::read_from(&file)?.map(|entry| {
            let entry = entry?;
            let name =
                std::os::unix::ffi::OsStringExt::from_vec(entry.file_name().to_bytes().to_vec());
            Ok((entry.ino(), entry.file_type(), name))
        });
        let entries = entries.collect::<Result<_, Errno>>()?;
        Ok(self.keep(Open { file, inode, sync: false, entries }))
    }

    fn keep(&self, open: Open) -> u64 {
        let mut inner = self.inner();
        inner.next += 1;
        let handle = inner.next;
        inner.open.insert(handle, Arc::new(open));
        handle
    }

    pub(super) fn handle(&self, handle: u64) -> Result<Arc<Open>, Errno> {
        self.inner().open.get(&handle).map(Arc::clone).ok_or(Errno::BADF)
    }

    pub(super) fn close(&self, handle: u64) {
        self.inner().open.remove(&handle);
    }

    pub(super) fn read(&self, handle: u64, from: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let open = self.handle(handle)?;
        pieces::read(&open.file, from, usize::try_from(len).unwrap_or(0))
    }

    pub(super) fn write(&self, handle: u64, from: u64, data: &[u8]) -> Result<(), Errno> {
        let _powered = self.powered();
        let open = self.handle(handle)?;
        wait(&self.switches.write_ms);
        let end = from + data.len() as u64;
        {
            let mut inner = self.inner();
            if self.is_full() && end > pieces::size(&open.file)? {
                return Err(Errno::NOSPC);
            }
            let place = inner.nodes.get(&open.inode).map(|node| Arc::clone(&node.place));
            inner.unsynced(open.inode, &*place.ok_or(Errno::STALE)?)?.remember(from, end)?;
            pieces::write(&open.file, from, data)?;
        }
        if open.sync { self.synced(open.inode, false) } else { Ok(()) }
    }

    /// Puts a file, or all names, onto the disk.
    pub(super) fn sync(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let _powered = self.powered();
        let open = self.handle(handle)?;
        self.synced(open.inode, data_only)
    }

    fn synced(&self, inode: u64, data_only: bool) -> Result<(), Errno> {
        wait(&self.switches.sync_ms);
        if self.switches.lying.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut inner = self.inner();
        let file = inner.unsynced.remove(&inode);
        // A size is no data, and useless without a name.
        if !data_only || file.is_some_and(|file| file.is_resized()) || inner.names.made(inode) {
            for gone in inner.names.commit()? {
                inner.unsynced.remove(&gone);
            }
        }
        Ok(())
    }

    /// Waits until nothing is open any more.
    pub(super) fn let_go(&self) -> Result<(), String> {
        let began = Instant::now();
        while !self.inner().open.is_empty() {
            if began.elapsed() > LET_GO {
                return Err(format!("{} files are open", self.inner().open.len()));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Returns how often the power was cut.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// Loses what was not synced, as a power cut does. It must not be mounted.
    pub(super) fn lose(&self, loss: &Loss) -> Result<String, String> {
        let _dark = self.power.write().unwrap_or_else(PoisonError::into_inner);
        self.cuts.fetch_add(1, Ordering::AcqRel);
        let mut inner = self.inner();
        inner.nodes.retain(|inode, _| *inode == ROOT);
        let seed = if let Loss::Some(seed) = loss { *seed } else { 0 };
        let mut random = Random::new(seed, 0xD15C);
        let mut files: Vec<(u64, Unsynced)> = inner.unsynced.drain().collect();
        files.sort_by_key(|(inode, _)| *inode);
        let (count, bytes) = (files.len(), files.iter().map(|(_, f)| f.bytes()).sum::<u64>());
        for (inode, file) in files {
            let lost = file.lose(loss, &mut random);
            lost.map_err(|error| format!("cannot lose the end of inode {inode}: {error}"))?;
        }
        let steps = inner.names.len();
        let bound = if *loss == Loss::All { 0 } else { steps as u64 };
        let left = usize::try_from(random.between(0, bound)).unwrap_or(0);
        let undone = inner.names.lose(left).and_then(|()| inner.names.commit());
        undone.map_err(|error| format!("cannot undo what was done to directories: {error}"))?;
        Ok(format!(
            "{count} files had {bytes} bytes that were not synced; {} of {steps} names lost",
            steps - left
        ))
    }

    /// Says what is open and what is not on the disk.
    pub(super) fn state(&self) -> String {
        let inner = self.inner();
        let bytes: u64 = inner.unsynced.values().map(Unsynced::bytes).sum();
        format!(
            "{} open, {} files with {bytes} bytes and {} names not synced, {} known",
            inner.open.len(),
            inner.unsynced.len(),
            inner.names.len(),
            inner.nodes.len()
        )
    }
}

impl Inner {
    fn unsynced(&mut self, inode: u64, place: &OwnedFd) -> Result<&mut Unsynced, Errno> {
        use std::collections::hash_map::Entry;
        match self.unsynced.entry(inode) {
            Entry::Occupied(there) => Ok(there.into_mut()),
            Entry::Vacant(none) => Ok(none.insert(Unsynced::new(reopen(place, OFlags::RDWR)?)?)),
        }
    }
}

/// Returns a path to what is open.
fn opened(place: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", place.as_raw_fd())
}

fn reopen(place: &OwnedFd, access: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, opened(place), access | OFlags::CLOEXEC, Mode::empty())
}

/// Waits as long as the disk is slow.
fn wait(millis: &AtomicU64) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(millis.load(Ordering::Relaxed)) {
        std::thread::sleep(TICK);
    }
}

/// Gives what was made to whoever asked for it.
fn give(dir: &OwnedFd, name: &OsStr, maker: Maker) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(maker.uid), Gid::from_raw(maker.gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
