//! The permit directory: the lock, and the thread that reads the permit and writes the status.
//!
//! A disk that hangs can hold up whoever opens, reads or renames a file on it, without limit. So a
//! thread of its own does that, and the thread that kills at the deadline talks to it through a
//! pair of datagram sockets that never block it: permits come in, statuses go out. If the files
//! thread hangs, the permit grows old, and the last deadline holds.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ha_core::BootId;
use ha_core::permit::{GuardStatus, LOCK_FILE, PERMIT_FILE, SIGNAL_FILE, STATUS_FILE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::signals::Signaller;

/// No permit is longer than that.
const PERMIT_BYTES_MAX: u64 = 4096;
/// No status is either: its reason is short.
pub const DATAGRAM_BYTES_MAX: usize = 8192;
/// The last datagram of the files thread: what was sent to it is written.
pub const FAREWELL: &[u8] = b"\0";
/// How long the files thread waits at most before it looks at the permit again.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// What the thread's own stack needs, locked in memory, is little.
const STACK_BYTES: usize = 64 * 1024;

/// How long the lock may be held by somebody who only looks at it, and how often it is tried.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A guard that cannot have its directory.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another guard has it.
    #[error("permit directory {directory:?} is guarded by another guard")]
    Taken {
        /// The directory.
        directory: PathBuf,
    },
    /// The lock file cannot be opened or locked.
    #[error("could not lock permit directory {directory:?}")]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Takes the exclusive lock on a permit directory; it lasts as long as the result.
///
/// # Errors
/// [`LockError`] if another guard holds it, or if the lock file cannot be used.
pub fn lock(directory: &Path) -> Result<OwnedFd, LockError> {
    let io = |source| LockError::Io { directory: directory.to_owned(), source };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(directory.join(LOCK_FILE), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| io(errno.into()))?;
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            // An agent that looks whether there is a guard holds it for an instant.
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(io(errno.into())),
        }
    }
    Err(LockError::Taken { directory: directory.to_owned() })
}

/// Returns the status that an earlier guard left, if it left one that can be believed.
#[must_use]
pub fn earlier_status(directory: &Path) -> Option<GuardStatus> {
    GuardStatus::decode(&read_small(&directory.join(STATUS_FILE), PERMIT_BYTES_MAX).ok()?).ok()
}

/// Reads the permit's text; an empty text stands for one that cannot be read.
fn read_permit(directory: &Path) -> String {
    read_small(&directory.join(PERMIT_FILE), PERMIT_BYTES_MAX).unwrap_or_default()
}

/// Reads a regular file of few bytes, without following a link or waiting for a pipe's writer.
pub(crate) fn read_small(path: &Path, bytes_max: u64) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    if file.take(bytes_max + 1).read_to_string(&mut text)? as u64 > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Writes a file under another name and renames it, so that no reader sees half of it.
pub(crate) fn replace(directory: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let scratch = directory.join(format!("{name}.tmp"));
    fs::write(&scratch, text).and_then(|()| fs::rename(&scratch, directory.join(name)))
}

/// Starts the files thread and returns the guard's end of the sockets.
///
/// Each datagram to the guard is the text of a permit, empty if there is none; it is sent when it
/// changes, and once at the start. Each datagram to the thread is the text of a status; an empty
/// one ends the thread, which answers [`FAREWELL`]. With `signals` it also sends signals to the
/// server, if the agent asks for that.
///
/// # Errors
/// If a socket or the thread cannot be made. Without inotify the thread looks every 250 ms.
pub fn spawn(directory: PathBuf, signals: bool, boot: BootId) -> io::Result<UnixDatagram> {
    let (ours, theirs) = UnixDatagram::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let watch = watch(&directory).ok();
    let thread = thread::Builder::new().name("files".to_owned()).stack_size(STACK_BYTES);
    let mut signaller = signals.then(|| Signaller::new(directory.clone(), boot));
    let _detached =
        thread.spawn(move || serve(&directory, watch.as_ref(), &theirs, signaller.as_mut()))?;
    Ok(ours)
}

fn watch(directory: &Path) -> io::Result<OwnedFd> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let changes = WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&inotify, directory, changes)?;
    Ok(inotify)
}

/// Empties the queue of changes; returns whether one of them may concern what is read here.
fn drain(watch: Option<&OwnedFd>) -> bool {
    let Some(watch) = watch else { return false };
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut concerned = false;
    // Bounded: a busy directory must not keep us from writing the status.
    for _ in 0..64 {
        let Ok(event) = events.next() else { return concerned };
        let read = [PERMIT_FILE, SIGNAL_FILE].map(str::as_bytes);
        let other = event.file_name().is_some_and(|name| !read.contains(&name.to_bytes()));
        concerned |= !other;
    }
    true
}

fn serve(
    directory: &Path,
    watch: Option<&OwnedFd>,
    guard: &UnixDatagram,
    mut signaller: Option<&mut Signaller>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut sent = None;
    loop {
        let permit = read_permit(directory);
        if sent.as_ref() != Some(&permit) && guard.send(permit.as_bytes()).is_ok() {
            sent = Some(permit);
        }
        while let Ok(length) = guard.recv(&mut buffer) {
            if length == 0 {
                let _nobody_waits = guard.send(FAREWELL);
                return;
            }
            // A status that cannot be written shows itself as an old heartbeat. Guarding goes on.
            let status = buffer.get(..length).unwrap_or_default();
            let _unwritten = replace(directory, STATUS_FILE, status);
            if let Some(signaller) = &mut signaller {
                signaller.hear(status);
            }
        }
        if let Some(signaller) = &mut signaller {
            signaller.serve();
        }
        if drain(watch) {
            continue;
        }
        let mut fds = vec![PollFd::from_borrowed_fd(guard.as_fd(), PollFlags::IN)];
        fds.extend(watch.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let _woken = poll(&mut fds, Some(&LOOK_EVERY));
    }
}
