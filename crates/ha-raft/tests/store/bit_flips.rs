//! A flipped bit, in any file: an error, or the right data. Never the wrong data, never a panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_raft::RaftHandle;
use ha_raft::log_store::{self, StoreOptions};
use ha_raft::state_machine::snapshot::{Content, Snapshots};
use ha_raft::types::{StoredMembership, log_id};
use openraft::storage::RaftLogStorage;

use crate::journal::{self, Journal, Verdict};
use crate::{Dice, number, size};

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Makes a store with some of everything; returns what it holds.
async fn make(root: &Path) -> Journal {
    let mut journal = Journal::default();
    let mut store = journal::open(root, false).await.unwrap();
    for (term, from) in [(1, 0), (1, 40), (2, 70)] {
        journal::append(&mut store, term, from..from + 40).await.unwrap();
        journal.take(&format!("@append {term} {from} {}", from + 39));
        store.save_vote(&journal::vote(term + 2)).await.unwrap();
        journal.take(&format!("@vote {}", term + 2));
        if from == 40 {
            journal.take("@truncate 70");
            store.truncate_after(Some(log_id(1, 69))).await.unwrap();
        }
    }
    let snapshots = Snapshots::open(&root.join("store/snapshots"), None).unwrap();
    let content = Content {
        last_log_id: Some(log_id(1, 30)),
        membership: StoredMembership::default(),
        state: ha_core::state::State { cluster: "orders".to_owned(), ..Default::default() },
    };
    snapshots.save(content).unwrap();
    journal.take("@purge 20");
    store.purge(log_id(1, 20)).await.unwrap();
    store.close().await;
    // Opened once more, so that sled has written what it writes when it is opened.
    let store = journal::open(root, false).await.unwrap();
    store.close().await;
    journal
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_or_does_no_harm() {
    let shm = Path::new("/dev/shm");
    let home = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let whole = home.path().join("whole");
    let journal = make(&whole).await;
    let mut all = Vec::new();
    files(&whole.join("store"), &mut all);
    all.sort();
    let mut dice = Dice::new(0xb17);
    let per_file = number("HA_RAFT_FLIPS", 60);
    let mut counts = BTreeMap::<String, (u64, u64)>::new();
    for file in &all {
        let name = file.strip_prefix(&whole).unwrap();
        let bytes = fs::read(file).unwrap();
        let used: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let count = counts.entry(name.to_string_lossy().into_owned()).or_default();
        for flip in 0..per_file {
            // Mostly where something is written.
            let at = match flip % 4 {
                0 => dice.index(bytes.len()),
                _ => used[dice.index(used.len())],
            };
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << dice.below(8);
            let root = home.path().join("flipped");
            copy_dir(&whole, &root);
            fs::write(root.join(name), flipped).unwrap();
            let check = look(&journal, &root);
            let verdict = tokio::time::timeout(Duration::from_secs(20), check).await;
            match verdict.unwrap_or_else(|_| panic!("{} hangs, byte {at}", name.display())) {
                Verdict::Whole => count.0 += 1,
                Verdict::Refused(e) => {
                    count.1 += 1;
                    assert!(e.to_string().contains("flipped"), "it names no file: {e}");
                }
                Verdict::Silent(what) => panic!("{}, byte {at}: {what}", name.display()),
            }
            fs::remove_dir_all(&root).unwrap();
        }
    }
    eprintln!("figure: flipped bits, harmless and refused: {counts:?}");
    assert!(counts.len() >= 5, "{counts:?}");
}

/// Opens store and snapshot, as an agent does.
async fn look(journal: &Journal, root: &Path) -> Verdict {
    match journal.check(root).await {
        Verdict::Whole => {}
        other => return other,
    }
    match Snapshots::open(&root.join("store/snapshots"), Some(log_id(1, 20))) {
        Ok(snapshots) => match snapshots.content() {
            Some(content) if content.state.cluster == "orders" => Verdict::Whole,
            other => Verdict::Silent(format!("the snapshot is {other:?}")),
        },
        Err(e) => Verdict::Refused(e),
    }
}

#[tokio::test]
async fn an_agent_refuses_a_store_whose_snapshot_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("node");
    make(&root).await;
    fs::remove_dir_all(root.join("store/snapshots")).unwrap();
    fs::create_dir(root.join("store/snapshots")).unwrap();
    let e = RaftHandle::open(size::settings(&root)).await.unwrap_err();
    let source = std::error::Error::source(&e).unwrap().to_string();
    assert!(source.ends_with("a snapshot of log entry 20 or later"), "{source}");
    assert!(e.hint().unwrap().contains("join the cluster again as a new node"));
    // It has let go of the store.
    let node = "n1".parse().unwrap();
    let (_, store) =
        log_store::open(&root, "orders", &node, StoreOptions::default()).await.unwrap();
    store.close().await;
}
