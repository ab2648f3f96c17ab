//! Moving a stopped data directory to where haclt has it, and back: a row of small steps, each of which
//! may be repeated, so that it can be cut off between any two and be finished or taken back.
//!
//! Entries are renamed, never copied: the data is on the same file system before and after. While it is
//! half done, nothing can start on either side: `global` goes first and comes back last, without which no
//! server starts; the old directory is never empty, so that no `initdb` takes it; and the mark keeps haclt
//! away from the new one.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::journal::{Journal, Origin};
use crate::instance::directory::{HALF_ADOPTED, Layout, remove_file, sync_parent};
use crate::instance::settings::{self, USER_FILE, USER_HBA_FILE};
use crate::instance::{RunAs, make_dir, write_file};

/// Says in the old directory where its content is.
const NOTE: &str = "MOVED-BY-HACLT";
const GLOBAL: &str = "global";
const CONF: &str = "postgresql.conf";
const AUTO_CONF: &str = "postgresql.auto.conf";
const SIGNAL: &str = "standby.signal";
/// Files of ours in the data directory.
const OURS: [&str; 4] = ["haclt.conf", "haclt_hba.conf", USER_FILE, USER_HBA_FILE];
/// Files that haclt changes, and of which a copy is kept.
const CHANGED: [&str; 3] = [CONF, AUTO_CONF, "pg_ident.conf"];
/// What stands for a copy of a file that was not there.
const ABSENT: &str = ".absent";
/// Left by the old server's start, and of no use to anybody.
const STALE: &str = "postmaster.opts";

/// One small change of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Keeps haclt away from the data directory.
    Mark,
    /// Lets haclt have it.
    Unmark,
    /// Makes the new directory.
    MakeTarget,
    /// Says in the old directory where its content is.
    Note,
    /// Renames one entry.
    Bring(String),
    /// Keeps a copy of a file that will change.
    Keep(&'static str),
    /// Writes a file.
    Write(usize),
    /// Gives all files to the account that the server has.
    Own,
    /// Removes what haclt has put into the data directory.
    RemoveOurs,
    /// Puts back a file that had changed.
    PutBack(&'static str),
    /// Removes a slot that the cluster made.
    RemoveSlot(String),
    /// Moves out of the way what haclt has in the old directory.
    ClearWay(String),
    /// Renames one entry back.
    Return(String),
    /// Gives all files back to the account that they had.
    OwnBack,
    /// Removes the note, and what haclt had beside the data directory.
    Tidy,
}

/// Returns the steps that adopt; `global` goes first.
pub(crate) fn forward(journal: &Journal) -> Vec<Step> {
    let mut steps = vec![Step::Mark];
    if !journal.in_place() {
        steps.extend([Step::MakeTarget, Step::Note]);
        steps.extend(journal.entries.iter().cloned().map(Step::Bring));
    }
    steps.extend(CHANGED.map(Step::Keep));
    steps.extend((0..journal.files.len()).map(Step::Write));
    steps.extend([Step::Own, Step::Unmark]);
    steps
}

/// Returns the names of what is in a directory that is to be moved, in the order in which they go.
pub(crate) fn entries(journal: &Journal) -> Result<Vec<String>, String> {
    let ours = beside(journal);
    let mut names = names_in(&journal.from)?;
    names.retain(|name| !ours.contains(name) && name != NOTE && name != "lost+found");
    names.sort_by_key(|name| (name != GLOBAL, name.clone()));
    Ok(names)
}

/// Returns the first steps that take it back: the database is as it was, where it is.
pub(crate) fn restoring(journal: &Journal, slots: &[String]) -> Vec<Step> {
    let mut steps = vec![Step::Mark];
    // All of it is here: not if bringing it was cut off, and not if returning it has begun, whose first
    // is this file.
    let whole = journal.to.join(GLOBAL).exists() && !journal.from.join("PG_VERSION").exists();
    if whole || journal.in_place() {
        steps.extend(CHANGED.map(Step::PutBack));
        steps.push(Step::RemoveOurs);
        steps.extend(slots.iter().cloned().map(Step::RemoveSlot));
    }
    steps
}

/// Returns the steps after those: it is where it was, `global` last. To be asked for only then.
pub(crate) fn returning(journal: &Journal) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    if !journal.in_place() {
        let mut names = if journal.to.exists() { names_in(&journal.to)? } else { Vec::new() };
        names.retain(|name| !OURS.contains(&name.as_str()));
        names.sort_by_key(|name| (name == GLOBAL, name.clone()));
        steps.extend(names.iter().cloned().map(Step::ClearWay));
        steps.extend(names.into_iter().map(Step::Return));
    }
    steps.extend([Step::OwnBack, Step::Tidy]);
    Ok(steps)
}

/// Does one step; a step that was done already changes nothing.
pub(crate) fn apply(step: &Step, journal: &Journal) -> Result<(), String> {
    let (from, to) = (&journal.from, &journal.to);
    match step {
        Step::Mark => write_file(&mark(to), HALF_ADOPTED, None).map(drop),
        Step::Unmark => remove_file(&mark(to)),
        Step::MakeTarget => {
            make_dir(to, Some(account(journal.new_owner)), 0o700)?;
            // One that was there may have another mode, and a server is particular about it.
            set_mode(to, journal.mode)
        }
        Step::Note => {
            let text = format!(
                "The database that was here is in {} now, where haclt runs it.\n\
                 `haclt adopt --undo` moves it back.\n",
                to.display()
            );
            write_file(&from.join(NOTE), text, None).map(drop)
        }
        Step::Bring(name) => rename(&from.join(name), &to.join(name)),
        Step::Keep(name) => keep(journal, name),
        Step::Write(at) => journal.files.get(*at).map_or(Ok(()), |file| {
            let owner = Some(account(journal.new_owner));
            write_file(&to.join(&file.name), &file.text, owner).map(drop)
        }),
        Step::Own => own_all(to, journal.new_owner),
        Step::RemoveOurs => remove_ours(journal),
        Step::PutBack(name) => put_back(journal, name),
        Step::RemoveSlot(name) => remove_slot(to, name),
        Step::ClearWay(name) => clear_way(journal, name),
        Step::Return(name) => rename(&to.join(name), &from.join(name)),
        Step::OwnBack => own_back(journal),
        Step::Tidy => tidy(journal),
    }
}

fn account((uid, gid): (u32, u32)) -> RunAs {
    RunAs { uid, gid }
}

fn mark(to: &Path) -> PathBuf {
    let mut path = to.as_os_str().to_owned();
    path.push(".half-made");
    path.into()
}

/// Names in the old directory that are the new one or lie beside it: never moved.
fn beside(journal: &Journal) -> Vec<String> {
    let name = journal.to.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(name), true) = (name, journal.to.parent() == Some(&journal.from)) else {
        return Vec::new();
    };
    let suffixes = ["", ".half-made", ".half-made.new", ".adopted", ".haclt", ".cloning"];
    suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect()
}

fn names_in(dir: &Path) -> Result<Vec<String>, String> {
    let fault = |error: io::Error| format!("cannot read {}: {error}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let name = name.into_string().map_err(|name| {
            format!("{} has an entry whose name is no text: {}", dir.display(), name.display())
        })?;
        names.push(name);
    }
    Ok(names)
}

/// Renames, unless that is done; what is on both sides is nobody's to choose between.
fn rename(from: &Path, to: &Path) -> Result<(), String> {
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    match (there(from), there(to)) {
        (false, true) => Ok(()),
        (false, false) => Err(format!("neither {} nor {} is there", from.display(), to.display())),
        (true, true) => Err(format!("both {} and {} are there", from.display(), to.display())),
        (true, false) => {
            fs::rename(from, to).map_err(|error| {
                format!("cannot move {} to {}: {error}", from.display(), to.display())
            })?;
            sync_parent(to)?;
            sync_parent(from)
        }
    }
}

/// Copies a file that will change to the journal, once: a copy that is there is the older one.
fn keep(journal: &Journal, name: &str) -> Result<(), String> {
    let (file, copy) = (journal.to.join(name), journal.dir().join(name));
    let absent = journal.dir().join(format!("{name}{ABSENT}"));
    if copy.exists() || absent.exists() {
        return Ok(());
    }
    match fs::read(&file) {
        Ok(bytes) => write_file(&copy, bytes, None).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_file(&absent, "", None).map(drop)
        }
        Err(error) => Err(format!("cannot read {}: {error}", file.display())),
    }
}

/// Puts a file back as it was. `ALTER SYSTEM` of the meantime stays, only what haclt had taken out of it
/// comes back, and on a standby what its data asks for (rule 65).
fn put_back(journal: &Journal, name: &str) -> Result<(), String> {
    let (file, copy) = (journal.to.join(name), journal.dir().join(name));
    let owner = Some(account(journal.new_owner));
    let old = match fs::read(&copy) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let absent = journal.dir().join(format!("{name}{ABSENT}"));
            return if absent.exists() { remove_file(&file) } else { Ok(()) };
        }
        Err(error) => return Err(format!("cannot read {}: {error}", copy.display())),
    };
    if name != AUTO_CONF {
        return write_file(&file, old, owner).map(drop);
    }
    let (Ok(old), Ok(now)) = (String::from_utf8(old), fs::read_to_string(&file)) else {
        return Ok(());
    };
    write_file(&file, with_raised(&with_managed_of(&now, &old), journal), owner).map(drop)
}

/// Returns `text` with what a standby must have at least, since its primary had that under haclt.
fn with_raised(text: &str, journal: &Journal) -> String {
    let others =
        text.lines().filter(|line| !journal.raised.contains_key(&settings::setting_name(line)));
    let raised = journal.raised.iter().map(|(name, lowest)| format!("{name} = '{lowest}'"));
    others.map(str::to_owned).chain(raised).map(|line| line + "\n").collect()
}

/// Returns `now` with the lines of `old` that haclt had taken out.
fn with_managed_of(now: &str, old: &str) -> String {
    let missing = |line: &&str| {
        let name = settings::setting_name(line);
        settings::is_managed(&name) && !now.lines().any(|l| settings::setting_name(l) == name)
    };
    let mut text = now.to_owned();
    for line in old.lines().filter(missing) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn remove_ours(journal: &Journal) -> Result<(), String> {
    for name in OURS {
        remove_file(&journal.to.join(name))?;
    }
    match journal.origin {
        Origin::Primary => remove_file(&journal.to.join(SIGNAL)),
        // Not yet moved when this was cut off.
        Origin::Standby if !journal.in_place() && journal.from.join(SIGNAL).exists() => Ok(()),
        Origin::Standby => {
            let owner = Some(account(journal.new_owner));
            write_file(&journal.to.join(SIGNAL), "", owner).map(drop)
        }
    }
}

/// A slot of a node that is gone would keep WAL for ever.
fn remove_slot(to: &Path, name: &str) -> Result<(), String> {
    let slots = to.join("pg_replslot");
    match fs::remove_dir_all(slots.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot remove slot {name}: {error}")),
        Ok(()) => sync_parent(&slots.join(name)),
    }
}

/// The agent may log where the old server had a directory of the same name.
fn clear_way(journal: &Journal, name: &str) -> Result<(), String> {
    let (here, back) = (journal.to.join(name), journal.from.join(name));
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    if !there(&here) || !there(&back) {
        return Ok(());
    }
    let spare = (1..1000)
        .map(|number| journal.from.join(format!("haclt-{name}-{number}")))
        .find(|path| !there(path))
        .ok_or_else(|| format!("too many old copies beside {}", back.display()))?;
    fs::rename(&back, &spare).map_err(|error| format!("cannot move {}: {error}", back.display()))
}

fn own_all(dir: &Path, owner: (u32, u32)) -> Result<(), String> {
    let fault = |path: &Path, error: io::Error| {
        format!("cannot give {} to the server's account: {error}", path.display())
    };
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let found = fs::symlink_metadata(&path).map_err(|error| fault(&path, error))?;
        if (found.uid(), found.gid()) != owner {
            let (uid, gid) = owner;
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid))
                .map_err(|error| fault(&path, error))?;
        }
        if found.is_dir() {
            for entry in fs::read_dir(&path).map_err(|error| fault(&path, error))? {
                todo.push(entry.map_err(|error| fault(&path, error))?.path());
            }
        }
    }
    Ok(())
}

fn own_back(journal: &Journal) -> Result<(), String> {
    own_all(&journal.from, journal.owner)?;
    set_mode(&journal.from, journal.mode)
}

fn set_mode(dir: &Path, mode: u32) -> Result<(), String> {
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
        .map_err(|error| format!("cannot set the mode of {}: {error}", dir.display()))
}

/// Forgets an adoption that has moved nothing yet.
pub(crate) fn forget(journal: &Journal) -> Result<(), String> {
    remove_file(&mark(&journal.to))?;
    match fs::remove_dir_all(journal.dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", journal.dir().display()))
        }
        _ => sync_parent(&journal.dir()),
    }
}

/// The journal goes last: until then this can be repeated.
fn tidy(journal: &Journal) -> Result<(), String> {
    let layout = Layout::of(&journal.to)?;
    remove_file(&journal.from.join(STALE))?;
    let gone = |path: &Path, done: io::Result<()>| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    };
    if !journal.in_place() {
        remove_file(&journal.from.join(NOTE))?;
        for name in OURS {
            remove_file(&journal.to.join(name))?;
        }
        gone(&journal.to, fs::remove_dir(&journal.to))?;
    }
    gone(&layout.run_dir, fs::remove_dir_all(&layout.run_dir))?;
    forget(journal)
}

#[cfg(test)]
mod tests;
