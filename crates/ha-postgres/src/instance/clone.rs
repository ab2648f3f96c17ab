//! A new copy of the upstream's data directory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tracing::info;

use super::directory::{self, Layout, make_dir, remove_tree, sync_parent, write_file};
use super::{Instance, RunAs, settings};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, HalfMade, Upstream};

impl Instance {
    /// Copies beside the data directory and puts the copy in its place at the end, so that what was
    /// there stays usable until then. A copy that was not finished is removed by the next one.
    pub(super) async fn make_clone(
        &self,
        upstream: &Upstream,
        max_rate_kib: Option<u32>,
        progress: &(dyn Fn(u64, Option<u64>) + Send + Sync),
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let changing = self.change(attempt).await?;
        self.ensure_slot_on(upstream, attempt).await?;
        let begun = self.file_work(&changing, attempt, |config, layout| {
            write_file(&layout.pass_file(), settings::pass_file(config), config.run_as)?;
            steps(&BEGIN, layout, config.run_as)
        });
        begun.await?;
        self.run_basebackup(upstream, max_rate_kib, progress, attempt).await?;
        let placed = self
            .file_work(&changing, attempt, |config, layout| steps(&PLACE, layout, config.run_as));
        placed.await?;
        self.configure(Some(upstream), true, &changing, attempt).await?;
        self.file_work(&changing, attempt, |_, layout| layout.clear_mark()).await
    }

    /// Deletes the older ones of the data directories that were moved aside.
    pub(super) fn delete_aside(
        &self,
        keep: usize,
        attempt: &Attempt,
    ) -> Result<Vec<PathBuf>, ActionError> {
        // One that is just being moved aside must not be seen half way.
        let _changing = self.changing.try_lock().map_err(|_| {
            attempt.refused(format!("{} is being changed", self.layout.data_dir.display()))
        })?;
        prune(&self.layout, keep).map_err(|why| attempt.refused(why))
    }

    async fn run_basebackup(
        &self,
        upstream: &Upstream,
        max_rate_kib: Option<u32>,
        progress: &(dyn Fn(u64, Option<u64>) + Send + Sync),
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let report = |line: &str| match parse_progress(line) {
            Some((done, total)) => {
                progress(done, total);
                true
            }
            None => false,
        };
        let args = [
            format!("--pgdata={}", self.layout.cloning.display()),
            format!("--dbname={}", settings::clone_conninfo(&self.config, &self.layout, upstream)),
            format!("--slot={}", self.config.node),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--label=haclt".to_owned(),
            "--no-password".to_owned(),
            "--progress".to_owned(),
        ];
        let max_rate = max_rate_kib.map(|kib| format!("--max-rate={kib}k"));
        let args = args.into_iter().chain(max_rate);
        let tool = self.tool("pg_basebackup").args(args).pass_file(&self.layout.pass_file());
        let done = tool.on_line(&report).run(attempt.deadline()).await;
        // The data directory was not touched yet.
        done.map(drop).map_err(|error| error.during(attempt, Effect::None))
    }
}

/// A step of a clone. After each one the process may be killed.
type Step = fn(&Layout, Option<RunAs>) -> Result<(), String>;

/// What is done before the copy is made.
const BEGIN: [Step; 4] = [take_back, reopen, clear, make];

/// What is done with the finished copy. The mark is set when nothing of the old data is in place any
/// more: whole data never counts as half made, and what a mark of a clone stands for is a copy of
/// which nothing would be lost.
const PLACE: [Step; 3] = [set_aside, mark, put_in_place];

fn steps(steps: &[Step], layout: &Layout, owner: Option<RunAs>) -> Result<(), String> {
    steps.iter().try_for_each(|step| step(layout, owner))
}

/// A copy that was put in place, but never configured or started, goes: it is neither usable nor worth
/// keeping beside the old data. Started ones have no backup label.
fn take_back(layout: &Layout, _owner: Option<RunAs>) -> Result<(), String> {
    let fault = |error: io::Error| format!("cannot remove {}: {error}", layout.data_dir.display());
    let marked = layout.mark().map_err(|error| format!("cannot read the mark: {error}"))?;
    if marked != Some(HalfMade::Clone) || !layout.in_data("backup_label").exists() {
        return Ok(());
    }
    remove_tree(&layout.cloning)?;
    fs::rename(&layout.data_dir, &layout.cloning).map_err(fault)?;
    sync_parent(&layout.data_dir)
}

/// While a clone is half made there is always a data directory: it must not look like a lost mount.
fn reopen(layout: &Layout, owner: Option<RunAs>) -> Result<(), String> {
    match layout.mark() {
        Ok(Some(HalfMade::Clone)) => make_dir(&layout.data_dir, owner, 0o700),
        _ => Ok(()),
    }
}

fn clear(layout: &Layout, _owner: Option<RunAs>) -> Result<(), String> {
    remove_tree(&layout.cloning)
}

fn make(layout: &Layout, owner: Option<RunAs>) -> Result<(), String> {
    make_dir(&layout.cloning, owner, 0o700)
}

fn set_aside(layout: &Layout, owner: Option<RunAs>) -> Result<(), String> {
    match directory::is_empty(&layout.data_dir) {
        Ok(true) => Ok(()),
        Ok(false) => directory::move_aside(layout, owner, "reclone").map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot read the data directory: {error}")),
    }
}

fn mark(layout: &Layout, _owner: Option<RunAs>) -> Result<(), String> {
    layout.set_mark(HalfMade::Clone)
}

/// An empty directory may be renamed over.
fn put_in_place(layout: &Layout, _owner: Option<RunAs>) -> Result<(), String> {
    if let Err(error) = fs::rename(&layout.cloning, &layout.data_dir) {
        // Nothing is half made: the place is as empty as before.
        layout.clear_mark()?;
        return Err(match error.kind() {
            io::ErrorKind::ResourceBusy => format!(
                "{} is a mount point: mount the volume one level above it",
                layout.data_dir.display()
            ),
            _ => format!("cannot rename {}: {error}", layout.cloning.display()),
        });
    }
    sync_parent(&layout.data_dir)
}

/// What stands between the data directory's name and a number in the name of one moved aside.
const ASIDE: &str = ".aside-";
/// The same in the name of one that is being deleted.
const DELETING: &str = ".deleting-";

/// Deletes all but the newest `keep` directories that were moved aside; returns their names.
///
/// Which is newer is told by the time of the last change of the directory itself, which moving it
/// sets: numbers are used again. One that is to go is renamed first, since deleting it half way would
/// make it the newest.
fn prune(layout: &Layout, keep: usize) -> Result<Vec<PathBuf>, String> {
    let mut aside = beside(layout, ASIDE)?;
    aside.sort();
    let surplus = aside.len().saturating_sub(keep);
    let mut gone = Vec::new();
    for Aside { path, .. } in aside.into_iter().take(surplus) {
        if let Some(pid) = user_of(&path) {
            return Err(format!("process {pid} runs on {}", path.display()));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let doomed = path.with_file_name(name.replacen(ASIDE, DELETING, 1));
        remove_tree(&doomed)?;
        fs::rename(&path, &doomed)
            .map_err(|error| format!("cannot rename {}: {error}", path.display()))?;
        sync_parent(&doomed)?;
        info!(directory = %path.display(), "old data directory deleted");
        gone.push(path);
    }
    // Those too that an earlier process did not get to.
    beside(layout, DELETING)?.iter().try_for_each(|left| remove_tree(&left.path))?;
    Ok(gone)
}

/// A directory that was moved aside: when it was last changed, in seconds and nanoseconds, its number,
/// and where it is. In this order the oldest is the least.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Aside {
    changed: (i64, i64),
    number: u32,
    path: PathBuf,
}

/// Returns the directories beside the data directory that have such a name.
fn beside(layout: &Layout, word: &str) -> Result<Vec<Aside>, String> {
    let data_dir = &layout.data_dir;
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    let fault = |error: io::Error| format!("cannot read {}: {error}", parent.display());
    let own = data_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| number_in(name, &own, word));
        // Of a link only the link itself is looked at: it is no directory.
        let metadata = match fs::symlink_metadata(entry.path()) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fault(error)),
        };
        if let Some(number) = number.filter(|_| metadata.is_dir()) {
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            found.push(Aside { changed, number, path: entry.path() });
        }
    }
    Ok(found)
}

/// Reads the number in `data.aside-0001-reclone`.
fn number_in(name: &str, own: &str, word: &str) -> Option<u32> {
    let rest = name.strip_prefix(own)?.strip_prefix(word)?;
    let (number, why) = rest.split_once('-')?;
    let digits = number.len() >= 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let ours = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (digits && why.bytes().all(ours)).then(|| number.parse().ok())?
}

/// Returns the process of a server that somebody started by hand on an old data directory.
fn user_of(directory: &Path) -> Option<i32> {
    let text = fs::read_to_string(directory.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let place = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let works_in = place(Path::new(&format!("/proc/{pid}/cwd")))?;
    (Some(works_in) == place(directory)).then_some(pid)
}

/// Reads a line such as ` 23456/34567 kB (67%), 0/1 tablespace`: bytes done and in total.
fn parse_progress(line: &str) -> Option<(u64, Option<u64>)> {
    let (numbers, _) = line.trim_start().split_once(" kB (")?;
    let (done, total) = numbers.split_once('/')?;
    let bytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1024);
    Some((bytes(done)?, bytes(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory with old data, or what a clone has made of it.
    struct Place {
        layout: Layout,
        parent: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let parent = tempfile::tempdir().unwrap();
            let layout = Layout::of(&parent.path().join("data")).unwrap();
            fs::create_dir(&layout.data_dir).unwrap();
            fs::write(layout.in_data("PG_VERSION"), "old").unwrap();
            Self { layout, parent }
        }

        /// What `pg_basebackup` does.
        fn copy(&self, name: &str) {
            fs::write(self.layout.cloning.join("PG_VERSION"), name).unwrap();
            fs::write(self.layout.cloning.join("backup_label"), "").unwrap();
        }

        fn holds(&self) -> Option<String> {
            fs::read_to_string(self.layout.in_data("PG_VERSION")).ok()
        }

        /// What is in the directories that were moved aside.
        fn aside(&self) -> Vec<String> {
            let aside = beside(&self.layout, ASIDE).unwrap();
            aside
                .iter()
                .map(|old| fs::read_to_string(old.path.join("PG_VERSION")).unwrap_or_default())
                .collect()
        }

        fn clone(&self, name: &str) {
            steps(&BEGIN, &self.layout, None).unwrap();
            self.copy(name);
            steps(&PLACE, &self.layout, None).unwrap();
            // A file system's clock stands still for a few milliseconds.
            let now = || {
                let file = self.parent.path().join("now");
                fs::write(&file, "").unwrap();
                let file = fs::metadata(file).unwrap();
                (file.ctime(), file.ctime_nsec())
            };
            let placed = now();
            while now() == placed {}
        }
    }

    #[test]
    fn killed_after_any_step_a_clone_leaves_old_data_whole_and_nothing_half_made_startable() {
        for killed_after in 0..=BEGIN.len() + PLACE.len() {
            let place = Place::new();
            steps(BEGIN.get(..killed_after.min(4)).unwrap(), &place.layout, None).unwrap();
            if killed_after >= BEGIN.len() {
                place.copy("first");
                steps(PLACE.get(..killed_after - 4).unwrap(), &place.layout, None).unwrap();
            }
            let marked = place.layout.mark().unwrap();
            match place.holds().as_deref() {
                // Usable as before.
                Some("old") => assert_eq!(marked, None, "{killed_after}"),
                Some(_) => assert_eq!(marked, Some(HalfMade::Clone), "{killed_after}"),
                None => assert_eq!(place.aside(), ["old"], "{killed_after}"),
            }
            // And the next one succeeds, whatever it is killed after in turn, first.
            steps(BEGIN.get(..killed_after.min(4)).unwrap(), &place.layout, None).unwrap();
            assert!(marked.is_none() || place.layout.mark().unwrap().is_some(), "{killed_after}");
            place.clone("second");
            assert_eq!(place.holds().as_deref(), Some("second"), "{killed_after}");
            assert_eq!(place.aside(), ["old"], "{killed_after}: no half-made copy is kept");
            assert!(!place.layout.cloning.exists());
        }
    }

    #[test]
    fn a_clone_that_was_started_is_never_taken_back() {
        let place = Place::new();
        place.clone("first");
        fs::remove_file(place.layout.in_data("backup_label")).unwrap();
        // Even if the mark is still there, for whatever reason.
        place.clone("second");
        let mut aside = place.aside();
        aside.sort();
        assert_eq!(aside, ["first", "old"]);
    }

    #[test]
    fn only_the_oldest_directories_that_were_moved_aside_are_deleted() {
        let place = Place::new();
        for name in ["first", "second", "third"] {
            place.clone(name);
            place.layout.clear_mark().unwrap();
        }
        let parent = place.parent.path();
        let others = [
            "data.aside-0001",
            "data.aside-1-x",
            "data.aside-0001-X",
            "data.half",
            "other.aside-0001-x",
            "data.aside-0009-file",
            "data.aside-0008-link",
        ];
        for other in others.iter().take(5) {
            fs::create_dir(parent.join(other)).unwrap();
        }
        fs::write(parent.join("data.aside-0009-file"), "").unwrap();
        std::os::unix::fs::symlink("/", parent.join("data.aside-0008-link")).unwrap();
        assert_eq!(prune(&place.layout, 3), Ok(Vec::new()));
        let gone = prune(&place.layout, 2).unwrap();
        assert_eq!(gone, [place.layout.data_dir.with_file_name("data.aside-0001-reclone")]);
        // The number is used again: it is the newest all the same.
        place.clone("fourth");
        place.layout.clear_mark().unwrap();
        prune(&place.layout, 1).unwrap();
        assert_eq!(place.aside(), ["third"]);
        // One that was cut off is deleted to its end.
        fs::create_dir(parent.join("data.deleting-0007-reclone")).unwrap();
        assert_eq!(prune(&place.layout, 0).unwrap().len(), 1);
        assert!(!parent.join("data.deleting-0007-reclone").exists());
        assert!(others.iter().all(|other| fs::symlink_metadata(parent.join(other)).is_ok()));
        assert_eq!(place.holds().as_deref(), Some("fourth"));
    }

    #[test]
    fn progress_is_read_in_bytes() {
        let line = " 23456/34567 kB (67%), 0/1 tablespace (/x/base/1  )";
        assert_eq!(parse_progress(line), Some((23456 * 1024, Some(34567 * 1024))));
        assert_eq!(parse_progress("pg_basebackup: error: could not connect"), None);
    }
}
