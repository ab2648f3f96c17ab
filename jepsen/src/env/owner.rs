//! Who made what is left on this machine: the next run removes what a killed one left, and only that.

use std::fs;
use std::path::Path;

use ha_tests::processes;
use rustix::process::Signal;

use crate::disk::unmount_below;
use crate::harness::{Harness, Trying as _};

/// In the directory of each run.
const FILE: &str = "jepsen-owner";

/// A process, told from a later one of the same id by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    began: u64,
}

impl Owner {
    /// Returns this process.
    ///
    /// # Errors
    /// If the kernel does not say when it began.
    pub fn this() -> Result<Self, Harness> {
        let pid = std::process::id();
        let began = began(pid).ok_or_else(|| Harness::new("/proc does not show this process"))?;
        Ok(Self { pid, began })
    }

    /// Returns whether it is there still.
    pub fn lives(self) -> bool {
        began(self.pid) == Some(self.began)
    }

    /// Returns it as a part of a name.
    pub fn name(self) -> String {
        format!("{}-{}", self.pid, self.began)
    }

    /// Reads such a part of a name.
    pub fn parse(name: &str) -> Option<Self> {
        let (pid, began) = name.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, began: began.parse().ok()? })
    }
}

/// Returns when a process began, in ticks since boot.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may have spaces; 19 fields lie between it and the time.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Marks a directory as this process's.
///
/// # Errors
/// If it cannot be written.
pub fn mark(base: &Path) -> Result<(), Harness> {
    let owner = Owner::this()?.name();
    fs::write(base.join(FILE), owner).trying(|| format!("mark {}", base.display()))
}

/// Removes directories of runs that were killed, with every process of theirs.
///
/// # Errors
/// If something of theirs cannot be removed.
pub fn remove_stale_files(roots: &[&Path]) -> Result<(), Harness> {
    for root in roots {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let base = entry.path();
            let owner = fs::read_to_string(base.join(FILE)).ok();
            let owner = owner.and_then(|text| Owner::parse(text.trim()));
            if owner.is_some_and(|owner| !owner.lives()) {
                remove(&base)?;
            }
        }
    }
    Ok(())
}

fn remove(base: &Path) -> Result<(), Harness> {
    for _ in 0..200 {
        let left = processes::under(base);
        if left.is_empty() {
            break;
        }
        for process in left {
            processes::send(process.pid, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    unmount_below(base);
    let name = base.file_name().unwrap_or_default().to_string_lossy().replace("hat-", "hap-");
    let permits = Path::new("/dev/shm").join(name);
    if permits.is_dir() {
        fs::remove_dir_all(&permits).trying(|| format!("remove {}", permits.display()))?;
    }
    fs::remove_dir_all(base).trying(|| format!("remove {}", base.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_made_is_removed_and_what_a_living_one_made_is_not() {
        let root = tempfile::tempdir().unwrap();
        let [mine, dead, other] =
            ["hat-mine", "hat-dead", "hat-other"].map(|n| root.path().join(n));
        for dir in [&mine, &dead, &other] {
            fs::create_dir(dir).unwrap();
        }
        mark(&mine).unwrap();
        // The id of a living process, but of another time.
        fs::write(dead.join(FILE), format!("{}-1", std::process::id())).unwrap();
        remove_stale_files(&[root.path()]).unwrap();
        assert!(mine.is_dir() && other.is_dir() && !dead.exists());
    }

    #[test]
    fn an_owner_is_read_back_from_its_name() {
        let owner = Owner::this().unwrap();
        assert_eq!(Owner::parse(&owner.name()), Some(owner));
        assert!(owner.lives());
        assert_eq!(Owner::parse("1-x"), None);
    }
}
