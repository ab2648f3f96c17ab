//! Snapshots as files.
//!
//! ```text
//! haclt-snapshot 1 <CRC-32C of the rest, 8 hexadecimal digits> <length of the rest>
//! {"last_log_id":…,"membership":…,"state":…}
//! ```
//!
//! A snapshot is written under another name, synced, renamed to `snapshot-<term>-<index>`, and the
//! directory synced, before it counts. The log is purged only up to a snapshot that counts, so one
//! that cannot be read later cannot be replaced by anything this node has: the store is refused.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ha_core::state::{STATE_FORMAT, State};
use serde::{Deserialize, Serialize};

use super::Snapshot;
use crate::log_store::StoreError;
use crate::store_dir::sync_dir;
use crate::types::{LogId, SnapshotMeta, StoredMembership, term_of};

const MAGIC: &str = "haclt-snapshot";
const VERSION: u32 = 1;
const UNFINISHED: &str = "unfinished";

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The last entry that is in it.
    pub last_log_id: Option<LogId>,
    /// The membership as of then.
    pub membership: StoredMembership,
    /// The state as of then.
    pub state: State,
}

impl Content {
    pub(super) fn new(
        last_log_id: Option<LogId>,
        membership: StoredMembership,
        state: State,
    ) -> Self {
        Self { last_log_id, membership, state }
    }

    /// Returns how openraft describes it.
    #[must_use]
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_log_id, last_membership: self.membership.clone() }
    }
}

/// The directory of the snapshots, and the one that counts.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    current: Mutex<Option<(Content, String)>>,
}

impl Snapshots {
    /// Opens the directory: reads the newest snapshot, removes what is left of others. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] if the newest snapshot is damaged, or does not reach up to `purged`, where
    /// the log begins.
    pub fn open(dir: &Path, purged: Option<LogId>) -> Result<Self, StoreError> {
        let mut found = Vec::new();
        let entries = fs::read_dir(dir).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::damaged(dir, "it is missing"),
            _ => StoreError::io(dir, "read", e),
        })?;
        for entry in entries {
            let path = entry.map_err(|e| StoreError::io(dir, "read", e))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match position(name) {
                Some(position) => found.push((position, path)),
                None if name == UNFINISHED => remove(&path)?,
                // Somebody else's; a snapshot under a wrong name is missed below.
                None => {}
            }
        }
        found.sort();
        let newest = found.pop();
        for (_, path) in found {
            remove(&path)?;
        }
        let mut current = None;
        if let Some(((term, index), path)) = newest {
            let text = fs::read_to_string(&path).map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData => StoreError::damaged(&path, "it is not text"),
                _ => StoreError::io(&path, "read", e),
            })?;
            let content = decode(&text).map_err(|what| StoreError::damaged(&path, what))?;
            if content.last_log_id.map(|id| (term_of(&id), id.index)) != Some((term, index)) {
                return Err(StoreError::damaged(&path, "it holds another snapshot than it says"));
            }
            current = Some((content, text));
        }
        let reaches = current.as_ref().and_then(|(content, _)| content.last_log_id);
        if reaches < purged {
            let index = purged.map_or(0, |id| id.index);
            let what = format!("a snapshot of log entry {index} or later");
            return Err(StoreError::lost(dir, what));
        }
        Ok(Self { dir: dir.to_owned(), current: Mutex::new(current) })
    }

    /// Returns what the current snapshot holds.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        self.lock().as_ref().map(|(content, _)| content.clone())
    }

    /// Returns the current snapshot.
    #[must_use]
    pub fn current(&self) -> Option<Snapshot> {
        let current = self.lock();
        let (content, text) = current.as_ref()?;
        Some(Snapshot { meta: content.meta(), snapshot: text.clone() })
    }

    /// Makes this the current snapshot, unless a newer one is; on disk when it returns. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the snapshot before stays the current one.
    pub fn save(&self, content: Content) -> Result<(), StoreError> {
        let text = encode(&content);
        self.put(content, text)
    }

    /// As [`Snapshots::save`], with the content's text.
    pub(super) fn put(&self, content: Content, text: String) -> Result<(), StoreError> {
        // Held to the end: building one and receiving another must not mix.
        let mut current = self.lock();
        let before = current.as_ref().and_then(|(content, _)| content.last_log_id);
        let Some(id) = content.last_log_id.filter(|id| Some(*id) > before) else {
            return Ok(());
        };
        let unfinished = self.dir.join(UNFINISHED);
        let path = self.dir.join(name(&id));
        File::create(&unfinished)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(|e| StoreError::io(&unfinished, "write", e))?;
        fs::rename(&unfinished, &path).map_err(|e| StoreError::io(&path, "put in place", e))?;
        sync_dir(&self.dir)?;
        *current = Some((content, text));
        match before {
            Some(id) => remove(&self.dir.join(name(&id))),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Content, String)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a snapshot as text.
pub(crate) fn encode(content: &Content) -> String {
    sealed(&serde_json::to_string(content).expect("a snapshot is plain JSON"))
}

/// Puts the header before a snapshot's content.
pub(crate) fn sealed(body: &str) -> String {
    format!("{MAGIC} {VERSION} {:08x} {}\n{body}", crc32c::crc32c(body.as_bytes()), body.len())
}

/// Returns what a snapshot holds, or why that cannot be said.
pub(crate) fn decode(text: &str) -> Result<Content, String> {
    let (header, body) = text.split_once('\n').ok_or("it has no header")?;
    let [magic, version, crc, length] =
        <[&str; 4]>::try_from(header.split(' ').collect::<Vec<_>>())
            .map_err(|_| "its header has not four words")?;
    if magic != MAGIC {
        return Err("it is not a snapshot".to_owned());
    }
    if version != VERSION.to_string() {
        return Err(format!("it has the unknown format {version:?}"));
    }
    if length != body.len().to_string() {
        return Err(format!("it has {} bytes, not {length}", body.len()));
    }
    if crc != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return Err("its checksum is wrong".to_owned());
    }
    let content: Content =
        serde_json::from_str(body).map_err(|e| format!("its content is not a state: {e}"))?;
    if content.state.format > STATE_FORMAT {
        return Err(format!("its state has the unknown format {}", content.state.format));
    }
    Ok(content)
}

fn name(id: &LogId) -> String {
    // Digits enough for any u64, so that names sort like positions.
    format!("snapshot-{:020}-{:020}", term_of(id), id.index)
}

fn position(name: &str) -> Option<(u64, u64)> {
    let (term, index) = name.strip_prefix("snapshot-")?.split_once('-')?;
    Some((term.parse().ok()?, index.parse().ok()?))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path).map_err(|e| StoreError::io(path, "remove", e))
}
