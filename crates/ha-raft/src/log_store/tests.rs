//! The log store keeps its word: openraft's suite, and a model that is reopened after every step.

use std::fs;
use std::path::{Path, PathBuf};

use ha_core::state::Command;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::state_machine::StateMachine;
use crate::state_machine::snapshot::Snapshots;
use crate::types::{Entry, Payload, Proposal, VoterId, log_id};

const CLUSTER: &str = "orders";

fn node() -> NodeId {
    "n1".parse().unwrap()
}

async fn open_at(dir: &Path) -> Result<LogStore, StoreError> {
    let (_, store) = open(dir, CLUSTER, &node(), StoreOptions::default()).await?;
    Ok(store)
}

fn entry(term: u64, index: u64) -> Entry {
    let payload = Payload::Normal(Proposal(Command::EndBootstrap { attempt: term * 1000 + index }));
    Entry { log_id: log_id(term, index), payload }
}

fn vote(term: u64) -> Vote {
    Vote::new(term, VoterId(node()))
}

/// Appends, and waits until it is durable.
async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, durable) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    durable.await.unwrap_or_else(|_| Err(io::Error::other("no callback")))
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let guard = tempfile::tempdir().unwrap();
        let options = StoreOptions { start_anywhere: true, ..StoreOptions::default() };
        let (dir, store) = open(guard.path(), CLUSTER, &node(), options).await.unwrap();
        let snapshots = Snapshots::open(&dir.snapshots(), None).unwrap();
        Ok((guard, store, StateMachine::new(snapshots).0))
    }
}

#[tokio::test]
async fn openrafts_own_suite_finds_nothing() {
    Suite::test_all(Builder).await.unwrap();
}

/// One thing openraft may do.
#[derive(Debug, Clone)]
enum Step {
    Append {
        count: u64,
        term_up: bool,
    },
    Vote {
        terms: u64,
    },
    Committed,
    Truncate {
        back: u64,
    },
    Purge {
        of: u64,
    },
    /// As after a snapshot of another node: the purge reaches beyond the log.
    Leap {
        by: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..20u64, any::<bool>()).prop_map(|(count, term_up)| Step::Append { count, term_up }),
        1 => (0..3u64).prop_map(|terms| Step::Vote { terms }),
        1 => Just(Step::Committed),
        2 => (0..15u64).prop_map(|back| Step::Truncate { back }),
        2 => (0..30u64).prop_map(|of| Step::Purge { of }),
        1 => (1..5u64).prop_map(|by| Step::Leap { by }),
    ]
}

/// What the store should hold.
#[derive(Debug, Default, Clone)]
struct Model {
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    term: u64,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    async fn take(&mut self, step: &Step, store: &mut LogStore) {
        match *step {
            Step::Append { count, term_up } => {
                self.term += u64::from(term_up);
                let from = self.next();
                let new: Vec<_> = (from..from + count).map(|at| entry(self.term, at)).collect();
                self.entries.extend(new.clone());
                append(store, new).await.unwrap();
            }
            Step::Vote { terms } => {
                let term = self.vote.as_ref().map_or(0, |vote| vote.leader_id.term) + terms;
                self.vote = Some(vote(term));
                store.save_vote(&vote(term)).await.unwrap();
            }
            Step::Committed => {
                self.committed = self.last();
                store.save_committed(self.committed).await.unwrap();
            }
            Step::Truncate { back } => {
                // What is committed is never truncated.
                for _ in 0..back {
                    self.entries.pop_if(|last| Some(last.log_id) > self.committed);
                }
                store.truncate_after(self.last()).await.unwrap();
                self.term += 1;
            }
            Step::Purge { of } => {
                let count = usize::try_from(of).unwrap().min(self.entries.len());
                let Some(last) = count.checked_sub(1) else { return };
                self.purged = Some(self.entries[last].log_id);
                self.entries.drain(..count);
                store.purge(self.purged.unwrap()).await.unwrap();
            }
            Step::Leap { by } => {
                let upto = log_id(self.term, self.next() + by);
                self.entries.clear();
                self.purged = Some(upto);
                store.purge(upto).await.unwrap();
            }
        }
    }

    async fn compare(&self, store: &mut LogStore) {
        let state = store.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (self.purged, self.last()));
        assert_eq!(store.try_get_log_entries(..).await.unwrap(), self.entries);
        let from = self.next().saturating_sub(7);
        let some: Vec<_> =
            self.entries.iter().filter(|entry| entry.log_id.index >= from).cloned().collect();
        assert_eq!(store.try_get_log_entries(from..).await.unwrap(), some);
        assert_eq!(store.read_vote().await.unwrap(), self.vote);
    }
}

/// Copies a directory: what a process that dies now leaves behind.
fn copy_dir(from: &Path, to: &Path) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_reopened_after_any_step_holds_what_a_list_would(
        steps in prop::collection::vec((step(), any::<bool>()), 1..16)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let home = tempfile::tempdir().unwrap();
            let mut dir: PathBuf = home.path().join("0");
            let mut store = open_at(&dir).await.unwrap();
            let mut model = Model::default();
            for (number, (step, in_order)) in steps.iter().enumerate() {
                model.take(step, &mut store).await;
                model.compare(&mut store).await;
                if *in_order {
                    store.close().await;
                    let committed = store.read_committed().await.unwrap();
                    store = open_at(&dir).await.unwrap();
                    assert_eq!(store.read_committed().await.unwrap(), committed);
                } else {
                    // A purge is not waited for; a vote is, and comes after it.
                    let vote = model.vote.clone().unwrap_or_else(|| vote(0));
                    store.save_vote(&vote).await.unwrap();
                    model.vote = Some(vote);
                    let next = home.path().join((number + 1).to_string());
                    copy_dir(&dir.join("store"), &next.join("store"));
                    store.close().await;
                    dir = next;
                    store = open_at(&dir).await.unwrap();
                }
                model.compare(&mut store).await;
            }
            store.close().await;
        });
    }
}

#[tokio::test]
async fn a_hole_is_refused_and_so_is_an_entry_too_large_for_a_record() {
    let home = tempfile::tempdir().unwrap();
    let mut store = open_at(home.path()).await.unwrap();
    let e = append(&mut store, vec![entry(1, 1)]).await.unwrap_err();
    assert_eq!(e.to_string(), "cannot append entry 1: the next one is 0");
    let large = Command::Vacate {
        epoch: ha_core::Epoch(1),
        reason: ha_core::state::VacateReason::Released { why: "x".repeat(70_000) },
        pauses: 0,
    };
    let large = Entry { log_id: log_id(1, 0), payload: Payload::Normal(Proposal(large)) };
    let e = append(&mut store, vec![large]).await.unwrap_err();
    assert!(e.to_string().contains("at most 65536 are allowed"), "{e}");
    assert!(store.failure().borrow().is_none());
    store.close().await;
}

#[tokio::test]
async fn appending_returns_before_the_disk_and_its_callbacks_come_in_order() {
    let home = tempfile::tempdir().unwrap();
    let mut store = open_at(home.path()).await.unwrap();
    let (fired, mut order) = mpsc::channel(1000);
    for index in 0..500 {
        let (done, durable) = TypeConfig::oneshot();
        store.append([entry(1, index)], IOFlushed::signal(done)).await.unwrap();
        assert_eq!(store.try_get_log_entries(index..).await.unwrap(), [entry(1, index)]);
        let fired = fired.clone();
        let waiting = tokio::spawn(async move {
            durable.await.unwrap().unwrap();
            fired.send(index).await.unwrap();
        });
        drop(waiting);
    }
    drop(fired);
    let mut seen = Vec::new();
    while let Some(index) = order.recv().await {
        seen.push(index);
    }
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    let stats = store.stats();
    assert!(stats.syncs < 500, "appends that wait are written together: {stats:?}");
    store.close().await;
}

#[tokio::test]
async fn a_store_is_used_by_one_agent_and_only_by_its_own() {
    let home = tempfile::tempdir().unwrap();
    let store = open_at(home.path()).await.unwrap();
    let e = open_at(home.path()).await.unwrap_err();
    let pid = std::process::id();
    assert!(e.to_string().ends_with(&format!("it is in use by process {pid}")), "{e}");
    store.close().await;

    let other = "n2".parse().unwrap();
    let e = open(home.path(), CLUSTER, &other, StoreOptions::default()).await.unwrap_err();
    assert!(e.to_string().ends_with("it belongs to node n1, this agent is node n2"), "{e}");
    let e = open(home.path(), "bills", &node(), StoreOptions::default()).await.unwrap_err();
    assert!(
        e.to_string().ends_with(r#"it belongs to cluster "orders", this agent to "bills""#),
        "{e}"
    );
    open_at(home.path()).await.unwrap().close().await;
}

/// Every way to lose a whole file, or to bring back an old one.
#[tokio::test]
async fn a_store_that_lost_what_it_acknowledged_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let now = home.path().join("now");
    let mut store = open_at(&now).await.unwrap();
    append(&mut store, (0..10).map(|index| entry(1, index)).collect()).await.unwrap();
    store.save_vote(&vote(1)).await.unwrap();
    store.close().await;
    let old = home.path().join("old");
    copy_dir(&now, &old);
    let mut store = open_at(&now).await.unwrap();
    store.truncate_after(Some(log_id(1, 4))).await.unwrap();
    append(&mut store, (5..10).map(|index| entry(2, index)).collect()).await.unwrap();
    store.save_vote(&vote(2)).await.unwrap();
    store.close().await;

    let part = |name: &str| Path::new("store").join(name);
    let cases: [(&str, &[&str], bool, &str); 6] = [
        ("the log is older than the witness", &["log"], true, "has lost"),
        ("the log is gone", &["log"], false, "log/conf: it is missing"),
        ("sled's file is gone", &["log/db"], false, "log/db: it is missing"),
        ("the witness is gone", &["witness"], false, "witness: it is missing"),
        ("the identity is gone", &["identity"], false, "identity: it is missing"),
        ("the identity is another's", &["identity"], true, ""),
    ];
    for (number, (case, parts, from_old, expected)) in cases.into_iter().enumerate() {
        let dir = home.path().join(number.to_string());
        copy_dir(&now, &dir);
        for name in parts {
            let path = dir.join(part(name));
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
            let before = old.join(part(name));
            match (from_old, before.is_dir()) {
                (true, true) => copy_dir(&before, &path),
                (true, false) => drop(fs::copy(&before, &path).unwrap()),
                (false, _) => {}
            }
        }
        match open_at(&dir).await {
            Err(e) => {
                assert!(!expected.is_empty() && e.to_string().contains(expected), "{case}: {e}");
                assert!(e.hint().contains("new node"), "{case}: {}", e.hint());
            }
            Ok(store) => {
                assert!(expected.is_empty(), "{case}: it was opened");
                store.close().await;
            }
        }
    }
}
