//! Disks under this node's directories: room, and how long it takes until a write is safe.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ha_postgres::driver::PostgresDriver;
use rustix::fs::{CWD, Mode, OFlags, fdatasync, openat, statfs, statvfs};

use super::finding::{Finding, ms, size};
use crate::agent::Agent;

/// How long one look at a disk may take. What hangs goes on, unheard, on a thread of its own.
const LIMIT: Duration = Duration::from_secs(3);
/// How often a block is written and made safe, and how large it is.
const WRITES: usize = 5;
const BLOCK: [u8; 8192] = [0; 8192];
/// From when on that is too long: commits wait for it, and Raft's log does.
const SYNC_WARNING: Duration = Duration::from_millis(100);
const SYNC_CRITICAL: Duration = Duration::from_secs(1);
/// A disk with more than this free is not short of room, however large it is.
const ROOM: u64 = 20 << 30;
/// # Sources
/// statfs(2), `TMPFS_MAGIC`.
const TMPFS: u64 = 0x0102_1994;

/// A directory that is looked at.
#[derive(Debug, Clone)]
struct Place {
    /// What it is to an operator.
    name: &'static str,
    path: PathBuf,
}

/// Room under a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    bytes: u64,
    free_bytes: u64,
    /// Zero if the file system has no fixed number.
    files: u64,
    free_files: u64,
}

/// Looks at every disk of this node.
pub(super) async fn examine<D: PostgresDriver>(agent: &Agent<D>) -> Vec<Finding> {
    let place = |name, path: &Path| Place { name, path: path.to_owned() };
    let own = place("data_dir", &agent.config.data_dir);
    let mut rooms = vec![own.clone()];
    let mut syncs = vec![(own.clone(), own.path)];
    let mut memory = None;
    if let (Some(settings), Some(database)) = (&agent.config.postgres, &agent.database) {
        let data = place("postgres.data_dir", &settings.data_dir);
        rooms.push(data.clone());
        rooms.push(place("pg_wal", &database.driver.wal_dir()));
        // Nothing of ours is ever put into the data directory.
        let beside = data.path.parent().unwrap_or(&data.path).to_owned();
        syncs.push((data, beside));
        memory = Some(settings.permit_dir.clone());
    }
    if let Some(witness) = agent.witness.as_ref().filter(|witness| witness.unable.is_none()) {
        rooms.push(place("witness.wal_dir", &witness.settings.wal_dir));
    }
    let least = agent.config.policy.health.free_bytes_min;
    let rooms = futures::future::join_all(rooms.into_iter().map(|place| async move {
        let path = place.path.clone();
        let room = away(move || room(&path)).await;
        judge_room(&place, room, least)
    }));
    let syncs = futures::future::join_all(syncs.into_iter().map(|(place, into)| async move {
        let path = place.path.clone();
        let times = away(move || sync_times(&path, &into)).await;
        judge_sync(&place, times)
    }));
    let permits = async {
        let dir = memory?;
        let path = dir.clone();
        Some(judge_permits(&dir, away(move || is_tmpfs(&path)).await))
    };
    let (rooms, syncs, permits) = tokio::join!(rooms, syncs, permits);
    let mut findings = rooms.concat();
    findings.extend(syncs);
    findings.extend(permits);
    findings
}

/// Does work that may wait for a disk, away from the threads that serve the lease.
pub(super) async fn away<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(work)).await {
        Err(_) => Err(format!("no answer within {}", ms(LIMIT))),
        Ok(Err(ended)) => Err(ended.to_string()),
        Ok(Ok(done)) => done.map_err(|error| error.to_string()),
    }
}

fn room(path: &Path) -> io::Result<Room> {
    let found = statvfs(path)?;
    Ok(Room {
        bytes: found.f_blocks.saturating_mul(found.f_frsize),
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        files: found.f_files,
        free_files: found.f_favail,
    })
}

fn judge_room(place: &Place, room: Result<Room, String>, least: u64) -> Vec<Finding> {
    let what = format!("{} {}", place.name, place.path.display());
    let room = match room {
        Ok(room) => room,
        Err(why) => return vec![Finding::unchecked("disk-low", format!("{what}: {why}"))],
    };
    let Room { bytes, free_bytes, files, free_files } = room;
    let few = free_bytes < bytes / 10 && free_bytes < ROOM;
    let mut findings = vec![Finding::graded(
        "disk-low",
        free_bytes < least,
        few,
        format!("{what}: {} of {} free", size(free_bytes), size(bytes)),
        "make room or enlarge it; slots, archiver and old directories kept aside are what fills it",
    )];
    if files > 0 {
        findings.push(Finding::graded(
            "inodes-low",
            false,
            free_files < files / 20,
            format!("{what}: {free_files} of {files} files free"),
            "remove small files, or make the file system anew with more inodes",
        ));
    }
    findings
}

/// Returns how long each write took, the shortest first. The file has no name at any time, so that
/// nothing is left of it whatever happens.
fn sync_times(of: &Path, into: &Path) -> io::Result<Vec<Duration>> {
    // Beside a mount point is another disk.
    if std::fs::metadata(of)?.dev() != std::fs::metadata(into)?.dev() {
        return Err(io::Error::other("it is a mount point, and nothing is written into it"));
    }
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = std::fs::File::from(openat(CWD, into, flags, Mode::RUSR | Mode::WUSR)?);
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let began = Instant::now();
        io::Write::write_all(&mut &file, &BLOCK)?;
        fdatasync(&file)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn judge_sync(place: &Place, times: Result<Vec<Duration>, String>) -> Finding {
    let id = "fsync-slow";
    let what = format!("{} {}", place.name, place.path.display());
    let times = match times {
        Ok(times) => times,
        Err(why) => return Finding::unchecked(id, format!("{what}: {why}")),
    };
    let (Some(worst), Some(median)) = (times.last(), times.get(times.len() / 2)) else {
        return Finding::unchecked(id, format!("{what}: nothing was measured"));
    };
    Finding::graded(
        id,
        *median >= SYNC_CRITICAL,
        *median >= SYNC_WARNING || *worst >= SYNC_CRITICAL,
        format!("{what}: 8 KiB are safe after {} (median), {} (worst)", ms(*median), ms(*worst)),
        "`iostat -x 1` says who keeps the disk busy; commits and Raft's log wait for it",
    )
}

fn is_tmpfs(path: &Path) -> io::Result<bool> {
    Ok(u64::try_from(statfs(path)?.f_type).is_ok_and(|kind| kind == TMPFS))
}

fn judge_permits(dir: &Path, tmpfs: Result<bool, String>) -> Finding {
    let id = "permit-dir-not-tmpfs";
    let what = format!("postgres.permit_dir {}", dir.display());
    match tmpfs {
        Err(why) => Finding::unchecked(id, format!("{what}: {why}")),
        Ok(true) => Finding::ok(id, format!("{what} is on tmpfs")),
        Ok(false) => Finding::warning(
            id,
            format!("{what} is on a disk: a permit waits for it when the disk is slow"),
            "stop the agent, set postgres.permit_dir to a directory below /run or /dev/shm, start it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{Critical, Note, Ok as Fine, Warning};
    use super::*;

    fn place() -> Place {
        Place { name: "data_dir", path: "/p".into() }
    }

    #[test]
    fn a_disk_is_short_of_room_by_its_size_and_full_below_the_bound() {
        let gib = 1_u64 << 30;
        #[rustfmt::skip]
        let table = [
            // total      free        found
            (100 * gib,   50 * gib,   Fine),
            (100 * gib,   9 * gib,    Warning),
            (1000 * gib,  30 * gib,   Fine),
            (100 * gib,   63 << 20,   Critical),
            (1 << 27,     1 << 26,    Fine),
        ];
        for (bytes, free_bytes, expected) in table {
            let room = Room { bytes, free_bytes, files: 0, free_files: 0 };
            let found = judge_room(&place(), Ok(room), 64 << 20);
            assert_eq!(found.len(), 1, "no inodes, no finding of them");
            assert_eq!(found[0].severity, expected, "{bytes} {free_bytes}");
        }
        let room = Room { bytes: gib, free_bytes: gib, files: 1000, free_files: 49 };
        assert_eq!(judge_room(&place(), Ok(room), 0)[1].severity, Warning);
        let unknown = judge_room(&place(), Err("gone".to_owned()), 0);
        assert_eq!(unknown[0].severity, Note);
        assert_eq!(unknown[0].evidence, "could not check: data_dir /p: gone");
    }

    #[test]
    fn a_disk_is_slow_by_its_median_and_by_a_stall() {
        let ms = Duration::from_millis;
        #[rustfmt::skip]
        let table = [
            (vec![ms(1), ms(2), ms(900)],        Fine),
            (vec![ms(1), ms(2), ms(1000)],       Warning),
            (vec![ms(1), ms(100), ms(200)],      Warning),
            (vec![ms(1), ms(1000), ms(1000)],    Critical),
            (vec![],                             Note),
        ];
        for (times, expected) in table {
            assert_eq!(judge_sync(&place(), Ok(times.clone())).severity, expected, "{times:?}");
        }
        assert_eq!(judge_sync(&place(), Err("denied".to_owned())).severity, Note);
    }

    #[test]
    fn permits_belong_into_memory() {
        let dir = Path::new("/p");
        assert_eq!(judge_permits(dir, Ok(true)).severity, Fine);
        assert_eq!(judge_permits(dir, Ok(false)).severity, Warning);
        assert_eq!(judge_permits(dir, Err("gone".to_owned())).severity, Note);
    }

    #[test]
    fn what_was_measured_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        if let Ok(times) = sync_times(dir.path(), dir.path()) {
            assert_eq!(times.len(), WRITES);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
        assert!(room(dir.path()).expect("a file system").bytes > 0);
        assert!(!is_tmpfs(Path::new("/proc")).expect("a file system"));
    }
}
