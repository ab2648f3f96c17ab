//! The directory of one node's Raft store: identity, lock, names of its files.
//!
//! ```text
//! <dir>/lock              held by the running agent, with its pid
//! <dir>/store/identity    JSON: version, cluster, node, random identity of the store
//! <dir>/store/witness     two slots, see `log_store::witness`
//! <dir>/store/log/        sled
//! <dir>/store/snapshots/  see `state_machine::snapshot`
//! ```
//!
//! A store is made as `store.new` and renamed when everything in it is on disk. So `store` either
//! does not exist, or is complete; whatever is missing from it later was lost, and is reported,
//! never made anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ha_core::NodeId;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::log_store::StoreError;
use crate::types::hex_u128;

/// Version of the layout and of the identity file.
const VERSION: u32 = 1;

/// Whose store it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the layout.
    version: u32,
    /// The cluster it belongs to.
    pub cluster: String,
    /// The node it belongs to.
    pub node: NodeId,
    /// Random; a store made anew has another.
    #[serde(with = "hex_u128")]
    pub store_id: u128,
}

/// The directory of an open store: where its files are, and whose they are.
#[derive(Debug, Clone)]
pub struct StoreDir {
    root: PathBuf,
    identity: Identity,
}

/// The right to use a store directory, until dropped. The kernel drops it with the process, however
/// that ends.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl StoreDir {
    /// Opens the store under `root`, or makes it if there is none.
    ///
    /// `fill` is called with the path of a new store, to put its parts there and sync them; the
    /// store does not exist before that has succeeded. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`]: another agent has it, it belongs to another node or cluster, or it could not
    /// be read or made.
    pub fn open(
        root: &Path,
        cluster: &str,
        node: &NodeId,
        fill: impl FnOnce(&Path, &Identity) -> Result<(), StoreError>,
    ) -> Result<(Self, StoreLock), StoreError> {
        make_dir(root)?;
        let lock = lock(&root.join("lock"))?;
        let store = root.join("store");
        if !store.try_exists().map_err(|e| StoreError::io(&store, "look at", e))? {
            let identity = Identity {
                version: VERSION,
                cluster: cluster.to_owned(),
                node: node.clone(),
                store_id: random_id(),
            };
            create(root, &store, &identity, fill)?;
        }
        let identity = read_identity(&store.join("identity"))?;
        let path = store.join("identity");
        if identity.cluster != cluster {
            let expected = cluster.to_owned();
            return Err(StoreError::OtherCluster { path, found: identity.cluster, expected });
        }
        if identity.node != *node {
            let expected = node.clone();
            return Err(StoreError::OtherNode { path, found: identity.node, expected });
        }
        Ok((Self { root: root.to_owned(), identity }, lock))
    }

    /// Returns whose store it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns sled's directory.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        log_in(&self.root.join("store"))
    }

    /// Returns the witness file.
    #[must_use]
    pub fn witness(&self) -> PathBuf {
        witness_in(&self.root.join("store"))
    }

    /// Returns the directory of the snapshots.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("store").join("snapshots")
    }
}

/// Returns where sled lives in a store.
pub(crate) fn log_in(store: &Path) -> PathBuf {
    store.join("log")
}

/// Returns where the witness file lies in a store.
pub(crate) fn witness_in(store: &Path) -> PathBuf {
    store.join("witness")
}

fn create(
    root: &Path,
    store: &Path,
    identity: &Identity,
    fill: impl FnOnce(&Path, &Identity) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let new = root.join("store.new");
    // A leftover was never used: nothing is acknowledged before the rename.
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::io(&new, "remove the unfinished", e));
        }
        _ => {}
    }
    make_dir(&new)?;
    make_dir(&new.join("snapshots"))?;
    fill(&new, identity)?;
    let text = serde_json::to_vec_pretty(identity).expect("an identity is plain JSON");
    let path = new.join("identity");
    let mut file = File::create_new(&path).map_err(|e| StoreError::io(&path, "create", e))?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(|e| StoreError::io(&path, "write", e))?;
    sync_dir(&new)?;
    fs::rename(&new, store).map_err(|e| StoreError::io(store, "put in place", e))?;
    sync_dir(root)
}

fn read_identity(path: &Path) -> Result<Identity, StoreError> {
    let bytes = fs::read(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => StoreError::damaged(path, "it is missing"),
        _ => StoreError::io(path, "read", e),
    })?;
    let identity: Identity = serde_json::from_slice(&bytes)
        .map_err(|e| StoreError::damaged(path, format!("it is not an identity: {e}")))?;
    if identity.version != VERSION {
        let (path, found) = (path.to_owned(), identity.version);
        return Err(StoreError::UnknownVersion { path, found, known: VERSION });
    }
    Ok(identity)
}

/// Takes the lock, or says who has it.
pub(crate) fn lock(path: &Path) -> Result<StoreLock, StoreError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| StoreError::io(path, "open", e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::Locked { path: path.to_owned(), pid });
        }
        Err(e) => return Err(StoreError::io(path, "lock", e.into())),
    }
    // The pid is for people only, so nothing depends on it reaching the disk.
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|e| StoreError::io(path, "write", e))?;
    Ok(StoreLock { _file: file })
}

/// Makes a directory that is on disk when this returns; an existing one is as good.
fn make_dir(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|e| StoreError::io(path, "create", e))?;
    sync_dir(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| StoreError::io(path, "sync the directory", e))
}

fn random_id() -> u128 {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .expect("the kernel's random numbers are always there once it is up");
    }
    u128::from_ne_bytes(bytes)
}
