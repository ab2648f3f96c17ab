//! What a writer has been told is safe, and whether a store still holds it.
//!
//! The writer says it line by line on its standard output; a line is written after the
//! acknowledgement, or before what may undo one.

use std::collections::BTreeMap;
use std::path::Path;

use ha_core::Epoch;
use ha_core::state::{Command, VacateReason};
use ha_raft::StoreError;
use ha_raft::log_store::{self, LogStore, StoreOptions};
use ha_raft::types::{Entry, Payload, Proposal, TypeConfig, Vote, VoterId, log_id, term_of};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

/// What the writer has said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    /// Whether the store exists.
    pub(crate) opened: bool,
    /// The term of every entry that is acknowledged and not to be truncated.
    entries: BTreeMap<u64, u64>,
    vote: u64,
    purge: Option<u64>,
}

/// What became of a store.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It holds everything.
    Whole,
    /// It says that it does not, or cannot be read.
    Refused(StoreError),
    /// It has lost something and does not say so.
    Silent(String),
}

impl Journal {
    /// Takes a line of the writer; returns whether it is one.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.trim_end().split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "@open" => self.opened = true,
            "@append" => {
                let term = number(1);
                self.entries.extend((number(2)..=number(3)).map(|index| (index, term)));
            }
            "@vote" => self.vote = number(1),
            // What is truncated may be there or not until it is appended again.
            "@truncate" => drop(self.entries.split_off(&number(1))),
            "@purge" => self.purge = Some(number(1)),
            _ => return false,
        }
        true
    }

    /// Returns how many entries the store must hold, purged or not.
    pub(crate) fn acknowledged(&self) -> usize {
        self.entries.len()
    }

    /// Opens the store and looks for everything.
    pub(crate) async fn check(&self, root: &Path) -> Verdict {
        let mut store = match open(root, false).await {
            Ok(store) => store,
            Err(e) => return Verdict::Refused(e),
        };
        let verdict = match self.compare(&mut store).await {
            Ok(()) => Verdict::Whole,
            Err(what) => Verdict::Silent(what),
        };
        store.close().await;
        verdict
    }

    async fn compare(&self, store: &mut LogStore) -> Result<(), String> {
        let state = store.get_log_state().await.unwrap();
        let purged = state.last_purged_log_id.map(|id| id.index);
        if purged > self.purge {
            return Err(format!("purged up to {purged:?}, asked for {:?}", self.purge));
        }
        let begin = purged.map_or(0, |index| index + 1);
        let found = store.try_get_log_entries(..).await.unwrap();
        for (entry, index) in found.iter().zip(begin..) {
            let (id, term) = (entry.log_id, term_of(&entry.log_id));
            if id.index != index {
                return Err(format!("entry {} where {index} should be", id.index));
            }
            if self.entries.get(&index).is_some_and(|expected| *expected != term) {
                return Err(format!("entry {index} is of term {term}"));
            }
            if *entry != sample(term, index) {
                return Err(format!("entry {index} is not what was written"));
            }
        }
        let end = begin + u64::try_from(found.len()).unwrap();
        if let Some((last, _)) = self.entries.last_key_value().filter(|(last, _)| **last >= end) {
            return Err(format!("it ends at {end}, {last} was acknowledged"));
        }
        let vote = store.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
        if vote < self.vote {
            return Err(format!("it voted in term {vote}, {} was acknowledged", self.vote));
        }
        Ok(())
    }
}

/// Opens the store of the tests.
pub(crate) async fn open(root: &Path, trust_sled: bool) -> Result<LogStore, StoreError> {
    let node = "n1".parse().unwrap();
    let options = StoreOptions { trust_sled, ..StoreOptions::default() };
    let (_, store) = log_store::open(root, "orders", &node, options).await?;
    Ok(store)
}

/// Returns an entry whose content says where it belongs.
pub(crate) fn sample(term: u64, index: u64) -> Entry {
    let length = usize::try_from(index * 37 % 600).unwrap();
    let why = format!("{term}.{index} {}", "x".repeat(length));
    let reason = VacateReason::Released { why };
    let command = Command::Vacate { epoch: Epoch(index), reason, pauses: 0 };
    Entry { log_id: log_id(term, index), payload: Payload::Normal(Proposal(command)) }
}

pub(crate) fn vote(term: u64) -> Vote {
    Vote::new(term, VoterId("n1".parse().unwrap()))
}

/// Appends entries of one term, and waits until they are durable.
pub(crate) async fn append(
    store: &mut LogStore,
    term: u64,
    indices: std::ops::Range<u64>,
) -> std::io::Result<()> {
    let (done, durable) = TypeConfig::oneshot();
    let entries: Vec<_> = indices.map(|index| sample(term, index)).collect();
    store.append(entries, IOFlushed::signal(done)).await?;
    durable.await.unwrap_or_else(|_| Err(std::io::Error::other("no callback")))
}
