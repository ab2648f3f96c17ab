//! The second opinion on what this node has promised.
//!
//! Two slots of 512 bytes, written in turn, each with a generation number and a checksum: the vote,
//! the last log entry that was acknowledged, the last one purged. It is written after the log and
//! before the acknowledgement. If the log, however it came to that, holds less than this file says,
//! the store is refused: silent loss becomes an error before the node's first vote.
//!
//! A slot is never larger than a disk's sector, and the slot written last is never the one that
//! counts until the write has succeeded: a torn write leaves the older slot, which promises less.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ha_core::NodeId;

use super::StoreError;
use crate::store_dir::Identity;
use crate::types::{LogId, Vote, VoterId, log_id, store_id_text, term_of};

const SLOT: usize = 512;
const MAGIC: &[u8; 8] = b"HA-WITN1";
const CRC_AT: usize = SLOT - 4;
/// A node's name is at most 40 bytes.
const NAME: usize = 40;

/// A log entry whose loss would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its term and index.
    pub(super) id: LogId,
    /// The checksum of its record; 0 if it is no record of ours, but the end of a snapshot.
    pub(super) crc: u32,
}

/// What this node has promised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Promise {
    /// The highest vote given, or leadership accepted.
    pub(super) vote: Option<Vote>,
    /// The last entry acknowledged and not truncated since.
    pub(super) last: Option<Mark>,
    /// The last entry purged.
    pub(super) purged: Option<LogId>,
}

/// The open witness file.
#[derive(Debug)]
pub(super) struct Witness {
    path: PathBuf,
    file: File,
    store_id: u128,
    generation: u64,
    promise: Promise,
}

impl Witness {
    /// Makes the file of a new store: nothing promised. On disk when this returns.
    pub(super) fn create(path: &Path, identity: &Identity) -> Result<(), StoreError> {
        let slots = [
            encode(identity.store_id, 0, &Promise::default()),
            encode(identity.store_id, 1, &Promise::default()),
        ];
        File::create_new(path)
            .and_then(|file| {
                file.write_all_at(&slots.concat(), 0)?;
                file.sync_all()
            })
            .map_err(|e| StoreError::io(path, "create", e))
    }

    /// Opens the file of an existing store.
    pub(super) fn open(path: &Path, identity: &Identity) -> Result<Self, StoreError> {
        let file =
            File::options().read(true).write(true).open(path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => StoreError::damaged(path, "it is missing"),
                _ => StoreError::io(path, "open", e),
            })?;
        let length = file.metadata().map_err(|e| StoreError::io(path, "look at", e))?.len();
        if length != 2 * SLOT as u64 {
            return Err(StoreError::damaged(path, format!("it is {length} bytes long")));
        }
        let mut bytes = [0; 2 * SLOT];
        file.read_exact_at(&mut bytes, 0).map_err(|e| StoreError::io(path, "read", e))?;
        let newest = bytes
            .chunks_exact(SLOT)
            .filter_map(decode)
            .max_by_key(|slot| slot.generation)
            .ok_or_else(|| StoreError::damaged(path, "neither of its two slots is intact"))?;
        if newest.store_id != identity.store_id {
            let what = format!("it belongs to store {}", store_id_text(newest.store_id));
            return Err(StoreError::damaged(path, what));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            store_id: newest.store_id,
            generation: newest.generation,
            promise: newest.promise,
        })
    }

    /// Returns what is promised.
    pub(super) fn promise(&self) -> &Promise {
        &self.promise
    }

    /// Returns where the file lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a promise; on disk when this returns. Writes nothing if it is the one already made.
    pub(super) fn set(&mut self, promise: Promise) -> Result<(), StoreError> {
        if promise == self.promise {
            return Ok(());
        }
        let generation = self.generation + 1;
        let slot = encode(self.store_id, generation, &promise);
        let at = (generation % 2) * SLOT as u64;
        self.file
            .write_all_at(&slot, at)
            .and_then(|()| Ok(rustix::fs::fdatasync(&self.file)?))
            .map_err(|e| StoreError::io(&self.path, "write", e))?;
        self.generation = generation;
        self.promise = promise;
        Ok(())
    }
}

#[derive(Debug)]
struct Slot {
    store_id: u128,
    generation: u64,
    promise: Promise,
}

fn encode(store_id: u128, generation: u64, promise: &Promise) -> [u8; SLOT] {
    let mut to = Writer { slot: [0; SLOT], at: 0 };
    to.put(MAGIC);
    to.put(&generation.to_le_bytes());
    to.put(&store_id.to_le_bytes());
    to.put(&[u8::from(promise.vote.is_some())]);
    if let Some(vote) = &promise.vote {
        let name = vote.leader_id.voted_for.0.as_str().as_bytes();
        let mut padded = [0; NAME];
        padded[..name.len()].copy_from_slice(name);
        to.put(&[u8::from(vote.committed)]);
        to.put(&vote.leader_id.term.to_le_bytes());
        to.put(&[u8::try_from(name.len()).expect("a name is at most 40 bytes")]);
        to.put(&padded);
    }
    to.put(&[u8::from(promise.last.is_some())]);
    if let Some(Mark { id, crc }) = &promise.last {
        to.put(&term_of(id).to_le_bytes());
        to.put(&id.index.to_le_bytes());
        to.put(&crc.to_le_bytes());
    }
    to.put(&[u8::from(promise.purged.is_some())]);
    if let Some(id) = &promise.purged {
        to.put(&term_of(id).to_le_bytes());
        to.put(&id.index.to_le_bytes());
    }
    let crc = crc32c::crc32c(&to.slot[..CRC_AT]);
    to.slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    to.slot
}

/// For the fuzz targets: reads a slot and writes it again.
pub(super) fn again(bytes: &[u8], seal: bool) -> Option<Vec<u8>> {
    let mut slot = bytes.to_vec();
    slot.resize(SLOT, 0);
    if seal {
        let crc = crc32c::crc32c(slot.get(..CRC_AT)?);
        slot.get_mut(CRC_AT..)?.copy_from_slice(&crc.to_le_bytes());
    }
    let Slot { store_id, generation, promise } = decode(&slot)?;
    Some(encode(store_id, generation, &promise).to_vec())
}

/// Returns the content of an intact slot.
fn decode(slot: &[u8]) -> Option<Slot> {
    let crc = u32::from_le_bytes(slot[CRC_AT..].try_into().ok()?);
    if crc != crc32c::crc32c(&slot[..CRC_AT]) {
        return None;
    }
    let mut from = Reader { slot, at: 0 };
    if from.take::<8>() != *MAGIC {
        return None;
    }
    let generation = u64::from_le_bytes(from.take());
    let store_id = u128::from_le_bytes(from.take());
    let mut promise = Promise::default();
    if from.flag() {
        let committed = from.flag();
        let term = u64::from_le_bytes(from.take());
        let [length] = from.take::<1>();
        let padded = from.take::<NAME>();
        let name = std::str::from_utf8(padded.get(..usize::from(length))?).ok()?;
        let voter = VoterId(name.parse::<NodeId>().ok()?);
        let mut vote = Vote::new(term, voter);
        vote.committed = committed;
        promise.vote = Some(vote);
    }
    if from.flag() {
        let id = from.log_id();
        promise.last = Some(Mark { id, crc: u32::from_le_bytes(from.take()) });
    }
    if from.flag() {
        promise.purged = Some(from.log_id());
    }
    Some(Slot { store_id, generation, promise })
}

struct Writer {
    slot: [u8; SLOT],
    at: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        self.slot[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

struct Reader<'a> {
    slot: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.slot[self.at..self.at + N].try_into().expect("N bytes were cut out");
        self.at += N;
        bytes
    }

    fn flag(&mut self) -> bool {
        self.take::<1>() == [1]
    }

    fn log_id(&mut self) -> LogId {
        let term = u64::from_le_bytes(self.take());
        log_id(term, u64::from_le_bytes(self.take()))
    }
}
