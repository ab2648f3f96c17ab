//! A full disk: nothing is acknowledged any more, and nothing that was is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::process;
use std::time::Duration;

use ha_core::Epoch;
use ha_core::state::{Command, VacateReason};
use ha_raft::{ConfirmError, Effect, MemberInfo, ProposeError, RaftHandle};

use crate::bit_flips::copy_dir;
use crate::journal::{self, Journal, Verdict};
use crate::size;

/// A small file system, unmounted when dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted = process::Command::new("mount")
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
        let mut mount = process::Command::new("mount");
        assert!(mount.args(["-o", "remount,size=64m"]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // A store that failed keeps its files open until its process ends.
        let unmounted = process::Command::new("umount").arg("--lazy").arg(self.0).status();
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
    // What the next process finds; this one has let go of our lock, but not of sled's.
    let copy = home.path().join("copy");
    copy_dir(&root.join("store"), &copy.join("store"));
    match journal.check(&copy).await {
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

#[tokio::test]
async fn a_store_that_fails_stops_the_node_and_says_why_at_the_front_door() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().join("small");
    let Some(_disk) = Small::mount(&at) else { return };
    let raft = RaftHandle::open(size::settings(&at.join("node"))).await.unwrap();
    let member = MemberInfo { grpc: "127.0.0.1:1".to_owned(), store_id: raft.store_id() };
    raft.initialize(BTreeMap::from([("n1".parse().unwrap(), member)])).await.unwrap();
    raft.confirm_leadership(Duration::from_secs(5)).await.ok();
    let limit = Duration::from_secs(5);
    std::fs::write(at.join("filler"), vec![1; 4 << 20]).unwrap_err();
    let mut changed = raft.changed();
    let why = "x".repeat(60_000);
    let error = loop {
        let reason = VacateReason::Released { why: why.clone() };
        let command = Command::Vacate { epoch: Epoch(1), reason, pauses: 0 };
        match raft.propose(command, None, limit).await {
            Ok(_) | Err(ProposeError::NotLeader { .. } | ProposeError::NotReady) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    let stopped = changed.wait_for(|now| now.failure.is_some()).await.unwrap().clone();
    assert!(stopped.failure.unwrap().contains("could not write"), "{error}");
    assert!(raft.status().failure.is_some());
    let e = raft.confirm_leadership(limit).await.unwrap_err();
    assert!(matches!(&e, ConfirmError::Stopped { why } if why.contains("could not write")), "{e}");
    raft.shutdown().await;
}
