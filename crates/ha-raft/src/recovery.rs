//! A group that lost its majority for good is made anew from the store of one survivor.
//!
//! The new group has one voter, with a store of its own identity: what the lost members say to the old one is refused,
//! and the other way round. The old store is kept beside the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ha_core::NodeId;
use ha_core::state::State;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};
use openraft::{EntryPayload, Membership};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::log_store::{self, LogStore, StoreError, StoreOptions};
use crate::state_machine::snapshot::{Content, Snapshots};
use crate::store_dir::{lock, sync_dir};
use crate::types::{Member, StoredMembership, Vote, VoterId, log_id, term_of};

/// What is left of a group on one of its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// The state with every entry that is here, whether or not it was committed: entries that only the lost nodes
    /// knew to be committed count, and nobody is left to say otherwise.
    pub state: State,
    /// Index of the last entry; 0 if there is none.
    pub last_log: u64,
    /// The highest term that is known here.
    pub term: u64,
}

/// Reads what a store knows. The agent must not run: it holds the store's lock.
///
/// # Errors
/// [`StoreError`]: the store is in use, damaged, of another cluster or node, or has lost something.
pub async fn last_state(root: &Path, cluster: &str, node: &NodeId) -> Result<Survivor, StoreError> {
    let (dir, mut store) = log_store::open(root, cluster, node, StoreOptions::default()).await?;
    let survivor = read(&dir.snapshots(), &mut store).await;
    store.close().await;
    survivor
}

async fn read(dir: &Path, store: &mut LogStore) -> Result<Survivor, StoreError> {
    let unread = |error| StoreError::io(dir, "read the log beside", error);
    let snapshot = Snapshots::open(dir, store.purged())?.content();
    let (mut state, mut last_log, mut from, mut term) = (State::default(), 0, 0, 0);
    if let Some(content) = snapshot {
        if let Some(id) = content.last_log_id {
            (last_log, from, term) = (id.index, id.index + 1, term_of(&id));
        }
        state = content.state;
    }
    for entry in store.try_get_log_entries(from..).await.map_err(unread)? {
        (last_log, term) = (entry.log_id.index, term_of(&entry.log_id));
        if let EntryPayload::Normal(proposal) = entry.payload {
            drop(state.apply(&proposal.0));
        }
    }
    let voted = store.read_vote().await.map_err(unread)?.map_or(0, |vote| vote.leader_id.term);
    Ok(Survivor { state, last_log, term: term.max(voted) })
}

/// Why a store was not made anew.
#[derive(Debug, thiserror::Error)]
pub enum AnewError {
    /// The store is not what the plan was made of: an agent ran in between.
    #[error(
        "the store has changed since the plan was made: an agent ran in between; nothing was changed"
    )]
    Changed,
    /// The disk, or the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new store is in place; only the old one could not be put away.
    #[error("the new store is in place, the old one is left in {path}: {source}")]
    Done {
        /// Where.
        path: String,
        /// Why.
        source: StoreError,
    },
}

/// Puts a store in place of the one under `root` whose only voter is `node`, listening at `grpc`, and whose state is
/// `state`. Returns where the old one is kept. The agent must not run: the store's lock is held meanwhile.
///
/// Until it returns the old store is in place, or the new one, never neither; given again, it begins anew, and
/// nothing that was a store is deleted.
///
/// # Errors
/// [`AnewError`]: nothing is changed, but for [`AnewError::Done`].
pub async fn make_anew(
    root: &Path,
    cluster: &str,
    node: &NodeId,
    grpc: &str,
    survivor: &Survivor,
    state: State,
) -> Result<PathBuf, AnewError> {
    let now = last_state(root, cluster, node).await?;
    let _held = lock(&root.join("lock"))?;
    if now != *survivor {
        return Err(AnewError::Changed);
    }
    let beside = root.with_file_name("raft.anew");
    if beside.exists() {
        // Of a try that was cut short. It may be the old store already.
        put_away(&beside, root)?;
    }
    let (dir, mut store) = log_store::open(&beside, cluster, node, StoreOptions::default()).await?;
    let id = VoterId(node.clone());
    let member = Member { grpc: grpc.to_owned(), store_id: dir.identity().store_id };
    let last = log_id(survivor.term + 1, survivor.last_log + 1);
    let membership =
        Membership::new(vec![BTreeSet::from([id.clone()])], BTreeMap::from([(id, member)]));
    let membership = membership.map_err(|error| StoreError::damaged(&beside, error.to_string()))?;
    let membership = StoredMembership::new(Some(last), membership);
    let content = Content { last_log_id: Some(last), membership, state };
    let written = Snapshots::open(&dir.snapshots(), None).and_then(|kept| kept.save(content));
    // Nobody may lead an earlier term than the last entry is of.
    let vote = Vote::new(term_of(&last), VoterId(node.clone()));
    let logged = match store.save_vote(&vote).await {
        Ok(()) => store.purge(last).await,
        Err(error) => Err(error),
    };
    store.close().await;
    written?;
    logged.map_err(|error| StoreError::io(&beside, "write the log in", error))?;

    let (old, new) = (root.join("store"), beside.join("store"));
    renameat_with(CWD, &new, CWD, &old, RenameFlags::EXCHANGE)
        .map_err(|error| StoreError::io(&old, "exchange", error.into()))?;
    let path = beside.display().to_string();
    sync_dir(root)
        .and_then(|()| put_away(&beside, root))
        .map_err(|source| AnewError::Done { path, source })
}

/// Moves a directory to where it is in nobody's way. Returns where that is.
fn put_away(from: &Path, root: &Path) -> Result<PathBuf, StoreError> {
    let free = (1_u32..10_000).map(|n| root.join(format!("lost-{n}"))).find(|path| !path.exists());
    let to = free.unwrap_or_else(|| root.join("lost"));
    std::fs::rename(from, &to).map_err(|e| StoreError::io(&to, "keep the old store as", e))?;
    sync_dir(root)?;
    Ok(to)
}
