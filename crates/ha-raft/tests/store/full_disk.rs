//! A full disk: nothing is acknowledged any more, and nothing that was is lost.

use std::path::Path;
use std::process::Command;

use crate::journal::{self, Journal, Verdict};

/// A small file system, unmounted when dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "ha-raft-test"])
            .arg(at)
            .output();
        match mounted {
            Ok(out) if out.status.success() => Some(Self(at)),
            failed => {
                eprintln!("SKIPPED: a full disk needs the right to mount one: {failed:?}");
                None
            }
        }
    }

    fn grow(&self) {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", "remount,size=64m"]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test]
async fn a_full_disk_ends_the_store_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().join("small");
    let Some(disk) = Small::mount(&at) else { return };
    let root = at.join("node");
    let mut journal = Journal::default();
    let mut store = journal::open(&root, false).await.unwrap();
    let mut next = 0;
    let error = loop {
        match journal::append(&mut store, 1, next..next + 20).await {
            Ok(()) => assert!(journal.take(&format!("@append 1 {next} {}", next + 19))),
            Err(e) => break e,
        }
        next += 20;
        assert!(next < 100_000, "it never filled up");
    };
    eprintln!("figure: full after {next} entries: {error}");
    let failure = store.failure().borrow().clone().unwrap();
    assert_eq!(error.to_string(), *failure);
    assert!(failure.contains("could not write"), "{failure}");
    // There is room again, but a store that failed stays failed: who knows what it lacks.
    disk.grow();
    let again = journal::append(&mut store, 1, next + 20..next + 21).await.unwrap_err();
    assert_eq!(again.to_string(), *failure);
    store.close().await;
    drop(store);
    match journal.check(&root).await {
        Verdict::Whole => {}
        lost => panic!("{lost:?}"),
    }
}

#[tokio::test]
async fn a_disk_that_is_full_from_the_start_makes_no_store() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().join("small");
    let Some(disk) = Small::mount(&at) else { return };
    let filler = vec![1; 4 << 20];
    std::fs::write(at.join("filler"), filler).unwrap_err();
    let e = journal::open(&at.join("node"), false).await.unwrap_err();
    eprintln!("figure: opening on a full disk: {e}");
    // It is not taken for a damaged store later.
    disk.grow();
    let store = journal::open(&at.join("node"), false).await.unwrap();
    store.close().await;
}
