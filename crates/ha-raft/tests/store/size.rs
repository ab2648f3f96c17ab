//! How much disk and memory a long life takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ha_core::state::Command;
use ha_raft::{MemberInfo, RaftHandle, RaftSettings};
use tokio::task::JoinSet;

use crate::{child, journal, number};

pub(crate) fn settings(dir: &Path) -> RaftSettings {
    RaftSettings {
        cluster: "orders".to_owned(),
        node: "n1".parse().unwrap(),
        dir: dir.to_owned(),
        peers: BTreeMap::new(),
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
    }
}

/// Returns bytes resident: now, and at most.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let size = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() { on_disk(&entry.path()) } else { meta.len() }
    };
    entries.map(size).sum()
}

/// The child: many commands through a group of one.
pub(crate) async fn measure(dir: &Path) {
    let (bare, _) = resident();
    let store = journal::open(&dir.with_extension("store"), false).await.unwrap();
    let (stored, _) = resident();
    store.close().await;
    drop(store);
    let raft = RaftHandle::open(settings(dir)).await.unwrap();
    let (opened, _) = resident();
    let member = MemberInfo { grpc: "127.0.0.1:1".to_owned(), store_id: raft.store_id() };
    raft.initialize(BTreeMap::from([("n1".parse().unwrap(), member)])).await.unwrap();
    raft.changed().wait_for(|now| now.is_leader).await.unwrap();
    raft.confirm_leadership(Duration::from_secs(5)).await.unwrap();
    let (before, _) = resident();
    let (commands, begun) = (number("HA_RAFT_COMMANDS", 100_000), Instant::now());
    let (mut sent, mut waiting, mut largest) = (0, JoinSet::new(), 0);
    while sent < commands || !waiting.is_empty() {
        while sent < commands && waiting.len() < 256 {
            let (raft, attempt) = (raft.clone(), sent);
            waiting.spawn(async move {
                let command = Command::EndBootstrap { attempt };
                raft.propose(command, None, Duration::from_secs(20)).await.unwrap();
            });
            sent += 1;
        }
        waiting.join_next().await.unwrap().unwrap();
        if sent % 5000 == 0 {
            largest = largest.max(on_disk(dir));
        }
    }
    let took = begun.elapsed();
    let store = raft.status().store;
    let (after, most) = resident();
    raft.shutdown().await;
    let begun = Instant::now();
    let raft = RaftHandle::open(settings(dir)).await.unwrap();
    let reopened = begun.elapsed();
    assert!(raft.state().borrow().index + 2000 > commands, "the snapshot and the log were read");
    raft.shutdown().await;
    let disk = on_disk(dir);
    eprintln!(
        "figure: {commands} commands in {took:?}, {store:?}; on disk {} kB, at most {} kB; \
         resident {} kB bare, {} kB with a store, {} kB opened, {} kB before, {} kB after, {} kB at most; reopened in {reopened:?}",
        disk >> 10,
        largest >> 10,
        bare >> 10,
        stored >> 10,
        opened >> 10,
        before >> 10,
        after >> 10,
        most >> 10,
    );
    assert!(largest < 64 << 20, "it takes {largest} bytes on disk");
    assert!(most < 256 << 20, "it takes {most} bytes of memory");
    assert!(store.entries < 6000, "{store:?}");
    assert!(reopened < Duration::from_secs(3), "{reopened:?}");
}

#[test]
fn a_hundred_thousand_commands_take_a_bounded_amount_of_disk_and_memory() {
    let home = tempfile::tempdir().unwrap();
    let status = child::command(&[], "size", &home.path().join("node")).status().unwrap();
    assert!(status.success(), "{status}");
}
