//! The data directory on disk: what it is, marks for what is half made, and moving it aside.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_core::TimelineId;
use ha_core::ancestry::TimelineSwitch;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::settings::USER_HBA_FILE;
use super::{Instance, InstanceConfig, RunAs};
use crate::attempt::Attempt;
use crate::control_file::{self, ControlData, NativeError};
use crate::driver::{ActionError, DataDir, Effect, HalfMade};
use crate::history::{history_file_name, parse_history};

/// Where things are, all derived from the data directory's path.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// PGDATA.
    pub(crate) data_dir: PathBuf,
    /// Names the multi-step change that was begun and not finished.
    pub(crate) half_made: PathBuf,
    /// Where a clone is made before it becomes the data directory.
    pub(super) cloning: PathBuf,
    /// Pass file and sockets; belongs to the server's user.
    pub(crate) run_dir: PathBuf,
}

/// How often a control file that looks damaged is read again, and after what pause: its server writes
/// it in one go.
const CONTROL_TRIES: u32 = 5;
const CONTROL_PAUSE: Duration = Duration::from_millis(2);

/// Kinds of half-made directories, as written into the mark.
const HALF_MADE: [(HalfMade, &str); 3] =
    [(HalfMade::Initdb, "initdb"), (HalfMade::Clone, "clone"), (HalfMade::Rewind, "rewind")];

/// What the mark says while `haclt adopt` moves files: nothing is started, and nothing is made anew.
pub(crate) const HALF_ADOPTED: &str = "adopt";

impl Layout {
    pub(crate) fn of(data_dir: &Path) -> Result<Self, String> {
        let (Some(parent), Some(name)) = (data_dir.parent(), data_dir.file_name()) else {
            return Err(format!("{} cannot be a data directory", data_dir.display()));
        };
        // A link in the path would hide the directory from the search for processes that use it.
        let parent = parent
            .canonicalize()
            .map_err(|error| format!("cannot resolve {}: {error}", parent.display()))?;
        let data_dir = match parent.join(name).canonicalize() {
            Ok(resolved) => resolved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => parent.join(name),
            Err(error) => return Err(format!("cannot resolve {}: {error}", data_dir.display())),
        };
        let beside = |suffix: &str| {
            let mut path = OsString::from(&data_dir);
            path.push(suffix);
            PathBuf::from(path)
        };
        let (half_made, cloning) = (beside(".half-made"), beside(".cloning"));
        Ok(Self { half_made, cloning, run_dir: beside(".haclt"), data_dir })
    }

    pub(crate) fn in_data(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    pub(super) fn wal_dir(&self) -> PathBuf {
        self.in_data("pg_wal")
    }

    /// The pass file of the replication user, for the WAL receiver and the tools.
    pub(super) fn pass_file(&self) -> PathBuf {
        self.run_dir.join("pgpass")
    }

    /// WAL that another node gave, to be restored from.
    pub(super) fn spool(&self) -> PathBuf {
        self.run_dir.join("spool")
    }

    /// The superuser's password, while `initdb` runs.
    pub(super) fn password_file(&self) -> PathBuf {
        self.run_dir.join("initdb.pw")
    }

    /// Returns the mark, if there is one.
    pub(super) fn mark(&self) -> io::Result<Option<HalfMade>> {
        match fs::read_to_string(&self.half_made) {
            Ok(text) => {
                let kind = HALF_MADE.iter().find(|(_, name)| *name == text.trim());
                match kind {
                    Some((kind, _)) => Ok(Some(*kind)),
                    None if text.trim() == HALF_ADOPTED => Err(io::Error::other(
                        "an adoption is half done: repeat `haclt adopt`, or undo it",
                    )),
                    None => Err(io::Error::other("it says nothing known")),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks the data directory as half made; on disk when it returns.
    pub(super) fn set_mark(&self, kind: HalfMade) -> Result<(), String> {
        let name = HALF_MADE.iter().find(|(known, _)| *known == kind).map_or("", |(_, name)| name);
        write_file(&self.half_made, name, None).map(drop)
    }

    /// Removes the mark: the change is complete.
    pub(super) fn clear_mark(&self) -> Result<(), String> {
        match fs::remove_file(&self.half_made) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", self.half_made.display()))
            }
            _ => sync_parent(&self.half_made),
        }
    }
}

/// Makes the directories that belong to the driver.
pub(super) fn make_own_directories(config: &InstanceConfig, layout: &Layout) -> Result<(), String> {
    make_dir(&config.permit_dir, None, 0o755)?;
    make_dir(&config.log_dir, None, 0o755)?;
    make_dir(&server_log_dir(config), config.run_as, 0o700)?;
    // Whoever may use the socket must be able to reach it; the pass file in it has mode 0600.
    make_dir(&layout.run_dir, config.run_as, 0o755)?;
    make_dir(&layout.spool(), config.run_as, 0o700)
}

pub(super) fn server_log_dir(config: &InstanceConfig) -> PathBuf {
    config.log_dir.join("postgresql")
}

/// Makes a directory unless it is there, and gives it to the user.
pub(crate) fn make_dir(path: &Path, owner: Option<RunAs>, mode: u32) -> Result<(), String> {
    let fault = |error: io::Error| format!("cannot make {}: {error}", path.display());
    if !path.is_dir() {
        DirBuilder::new().recursive(true).mode(mode).create(path).map_err(fault)?;
    }
    give(path, owner).map_err(fault)
}

fn give(path: &Path, owner: Option<RunAs>) -> io::Result<()> {
    let Some(RunAs { uid, gid }) = owner else { return Ok(()) };
    let now = fs::symlink_metadata(path)?;
    if (now.uid(), now.gid()) == (uid, gid) {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
}

/// Writes a file of mode 0600 by atomic rename, unless it holds just that already. On disk when
/// it returns. Returns whether anything changed.
pub(crate) fn write_file(
    path: &Path,
    content: impl AsRef<[u8]>,
    owner: Option<RunAs>,
) -> Result<bool, String> {
    let content = content.as_ref();
    let fault = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let same = fs::read(path).is_ok_and(|old| old == content);
    let private = fs::metadata(path).is_ok_and(|now| now.mode().trailing_zeros() >= 6);
    if same && private {
        return give(path, owner).map_err(fault).map(|()| false);
    }
    let mut scratch = path.as_os_str().to_owned();
    scratch.push(".new");
    let scratch = PathBuf::from(scratch);
    // A left-over of a crash may have another mode: begin anew.
    let _was_there = fs::remove_file(&scratch);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&scratch)
        .map_err(fault)?;
    file.write_all(content).map_err(fault)?;
    file.sync_all().map_err(fault)?;
    give(&scratch, owner).map_err(fault)?;
    fs::rename(&scratch, path).map_err(fault)?;
    sync_parent(path).map(|()| true)
}

/// Returns the rules who may log in that an adopted database had; none if it was not adopted. Of a file
/// that cannot be read nothing is known, so that it lets nobody in.
pub(super) fn adopted_rules(layout: &Layout) -> Option<String> {
    match fs::read(layout.in_data(USER_HBA_FILE)) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!(%error, file = USER_HBA_FILE, "could not read the rules of an adopted database");
            Some(String::new())
        }
    }
}

/// Removes a file; that it is not there is no error.
pub(crate) fn remove_file(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot remove {}: {error}", path.display())),
    }
}

/// Removes the sockets that a server left that did not end by itself, and their locks. Only while nothing
/// runs on the data directory.
///
/// In the lock is the process id of that server, and a server that starts takes any living process of its
/// own user for it: in a container ids begin anew, and it is a child of its own (rule 48).
///
/// # Sources
/// PostgreSQL, `miscinit.c: CreateLockFile`; the logging collector is started before the sockets are made.
pub(super) fn remove_stale_sockets(layout: &Layout) -> Result<(), String> {
    let fault = |error: io::Error| format!("cannot read {}: {error}", layout.run_dir.display());
    for entry in fs::read_dir(&layout.run_dir).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if entry.file_name().as_bytes().starts_with(b".s.PGSQL.") {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory that a tool of ours left half made.
pub(super) fn remove_tree(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

pub(crate) fn sync_parent(path: &Path) -> Result<(), String> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| format!("cannot flush {}: {error}", parent.display()))
}

/// Returns whether the directory is there and holds nothing.
pub(crate) fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().transpose()?.is_none())
}

/// Removes what is in a directory, but not the directory: it may be a mount point.
pub(super) fn empty_dir(path: &Path) -> Result<(), String> {
    let fault = |error: io::Error| format!("cannot empty {}: {error}", path.display());
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
    };
    for entry in entries {
        let path = entry.map_err(fault)?.path();
        if path.is_dir() && !path.is_symlink() {
            remove_tree(&path)?;
        } else {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Moves the data directory to a new name beside it and leaves an empty one, in one step.
pub(super) fn move_aside(
    layout: &Layout,
    owner: Option<RunAs>,
    why: &str,
) -> Result<PathBuf, String> {
    let word: String =
        why.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let from = &layout.data_dir;
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let place = (1..10_000).find_map(|number| {
        let mut name = OsString::from(from);
        name.push(format!(".aside-{number:04}-{}", word.to_lowercase()));
        let taken = |path: &Path| fs::symlink_metadata(path).is_ok();
        let place = PathBuf::from(name);
        if taken(&place) { None } else { Some(place) }
    });
    let place = place.ok_or_else(|| format!("too many old copies beside {}", from.display()))?;
    let fault = |error: io::Error| match error.kind() {
        io::ErrorKind::ResourceBusy => {
            format!("{} is a mount point: mount the volume one level above it", from.display())
        }
        _ => format!("cannot move {} aside: {error}", from.display()),
    };
    builder.create(&place).map_err(fault)?;
    give(&place, owner).map_err(fault)?;
    // Exchanged with an empty one, so that at no moment the data directory is missing.
    match renameat_with(CWD, from, CWD, &place, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::remove_dir(&place).and_then(|()| fs::rename(from, &place)).map_err(fault)?;
            make_dir(from, owner, 0o700)?;
        }
        Err(errno) => {
            let _was_there = fs::remove_dir(&place);
            return Err(fault(errno.into()));
        }
    }
    sync_parent(from)?;
    info!(from = %from.display(), to = %place.display(), why, "data directory moved aside");
    Ok(place)
}

pub(super) fn free_bytes(layout: &Layout) -> Result<u64, String> {
    let exists = layout.data_dir.ancestors().find(|path| path.exists());
    let path = exists.ok_or("the file system is unreadable")?;
    let space = rustix::fs::statvfs(path)
        .map_err(|errno| format!("cannot read the space under {}: {errno}", path.display()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Returns the names of the files in `pg_wal`.
pub(super) fn wal_files(layout: &Layout) -> Result<Vec<String>, String> {
    let directory = layout.wal_dir();
    let fault = |error: io::Error| format!("cannot read {}: {error}", directory.display());
    let entries = fs::read_dir(&directory).map_err(fault)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(fault)
}

/// Returns the history of the timeline that this directory has WAL of.
///
/// Not of the newest history file: a standby fetches those of timelines that it cannot follow.
pub(super) fn local_history(layout: &Layout) -> Result<Vec<TimelineSwitch>, String> {
    history_of(layout, newest_timeline(layout)?)
}

/// Returns the newest timeline that there is a segment of.
pub(super) fn newest_timeline(layout: &Layout) -> Result<TimelineId, String> {
    let of_segments = wal_files(layout)?;
    let timeline = of_segments
        .iter()
        .filter(|name| name.strip_suffix(".partial").unwrap_or(name).len() == 24)
        .filter_map(|name| u32::from_str_radix(name.get(..8)?, 16).ok())
        .max();
    Ok(TimelineId(timeline.ok_or("pg_wal holds no WAL")?))
}

/// Reads the history file of a timeline; the first one has none.
pub(super) fn history_of(
    layout: &Layout,
    timeline: TimelineId,
) -> Result<Vec<TimelineSwitch>, String> {
    if timeline <= TimelineId(1) {
        return Ok(Vec::new());
    }
    let path = layout.wal_dir().join(history_file_name(timeline));
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse_history(&text)
}

/// Returns whether the server's user owns a file and its directory, and may open them.
fn opens_for(path: &Path, owner: Option<RunAs>) -> bool {
    let Some(RunAs { uid, .. }) = owner else { return true };
    let allows = |path: Option<&Path>, bits: u32| {
        let found = path.and_then(|path| fs::metadata(path).ok());
        found.is_some_and(|found| found.uid() == uid && found.mode() & bits == bits)
    };
    allows(path.parent(), 0o500) && allows(Some(path), 0o400)
}

/// Reads the control file again while it looks damaged: a server may be just writing it.
pub(crate) fn read_whole(path: &Path) -> Result<ControlData, NativeError> {
    let mut tries = 0;
    loop {
        match control_file::read(path) {
            Err(NativeError::Checksum) if tries < CONTROL_TRIES => {
                tries += 1;
                std::thread::sleep(CONTROL_PAUSE);
            }
            other => return other,
        }
    }
}

/// What is at the path of the data directory, before asking `pg_controldata`.
enum Glance {
    Is(DataDir),
    Cluster { major: u32, standby_signal: bool },
}

fn glance(layout: &Layout) -> Glance {
    let unreadable = |what: &Path, error: &dyn std::fmt::Display| {
        Glance::Is(DataDir::Unreadable(format!("cannot read {}: {error}", what.display())))
    };
    match layout.mark() {
        Ok(None) => {}
        Ok(Some(kind)) => return Glance::Is(DataDir::HalfMade(kind)),
        Err(error) => return unreadable(&layout.half_made, &error),
    }
    match is_empty(&layout.data_dir) {
        Ok(true) => return Glance::Is(DataDir::Empty),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Glance::Is(DataDir::Missing);
        }
        Err(error) => return unreadable(&layout.data_dir, &error),
    }
    let version = layout.in_data("PG_VERSION");
    match fs::read_to_string(&version).map(|text| text.trim().parse()) {
        Ok(Ok(major)) => {
            Glance::Cluster { major, standby_signal: layout.in_data("standby.signal").exists() }
        }
        Ok(Err(error)) => unreadable(&version, &error),
        Err(error) => unreadable(&version, &error),
    }
}

impl Instance {
    /// Looks at the data directory.
    pub(super) async fn look(&self, deadline: Instant) -> DataDir {
        let (major, standby_signal) = match glance(&self.layout) {
            Glance::Is(found) => return found,
            Glance::Cluster { major, standby_signal } => (major, standby_signal),
        };
        match self.read_control(&Attempt::new("read the control file", deadline)).await {
            Ok(data) => DataDir::Present(data.describe(major, standby_signal)),
            Err(error) => DataDir::Unreadable(error.to_string()),
        }
    }

    /// Reads the control file. What we cannot read is left to `pg_controldata`, which knows its own
    /// version and has the last word on damage.
    pub(super) async fn read_control(&self, attempt: &Attempt) -> Result<ControlData, ActionError> {
        let (path, run_as) = (self.layout.in_data("global/pg_control"), self.config.run_as);
        let read = self.reading(attempt, move || {
            // What we may read as root the server may not: then the tool says so, under its user.
            if opens_for(&path, run_as) { read_whole(&path).map(Some) } else { Ok(None) }
        });
        match read.await? {
            Ok(Some(data)) => return Ok(data),
            Ok(None) => {}
            Err(error @ NativeError::Read { .. }) => return Err(attempt.cannot(error)),
            Err(error) => debug!(%error, "the control file is left to pg_controldata"),
        }
        let tool = self.tool("pg_controldata").args([&self.layout.data_dir]);
        let output = tool
            .run(attempt.deadline())
            .await
            .map_err(|error| error.during(attempt, Effect::None))?;
        ControlData::parse(&output.lines).map_err(|why| attempt.cannot(why))
    }

    /// Returns the major version of the data directory.
    pub(super) fn data_major(&self, attempt: &Attempt) -> Result<u32, ActionError> {
        let version = self.layout.in_data("PG_VERSION");
        let text = fs::read_to_string(&version).map_err(|error| {
            attempt.cannot(format!("cannot read {}: {error}", version.display()))
        })?;
        text.trim().parse().map_err(|_| attempt.cannot("PG_VERSION is unreadable"))
    }
}
