//! How a log entry lies in sled.
//!
//! ```text
//! key    'e' index:u64 big-endian
//! value  version:u8 crc:u32 prev_crc:u32 term:u64 index:u64 length:u32 payload     little-endian
//! ```
//!
//! `crc` is the CRC-32C of everything else in the value; the payload is JSON. `prev_crc` is the
//! `crc` of the entry before: a storage engine that brings back an old page, with entries that were
//! once valid and have since been replaced, breaks this chain. Votes and marks lie under keys of
//! their own, as `version crc length JSON`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::{ENTRY_BYTES_MAX, Entry, Payload, log_id, term_of};

/// Version of both kinds of records.
const VERSION: u8 = 1;
pub(super) const CRC_END: usize = 5;
const HEADER: usize = CRC_END + 4 + 8 + 8 + 4;

/// Key of the vote.
pub(super) const VOTE: &[u8] = b"m/vote";
/// Key of the last purged log id.
pub(super) const PURGED: &[u8] = b"m/purged";
/// Key of the last committed log id.
pub(super) const COMMITTED: &[u8] = b"m/committed";

/// Bytes that are not the record they should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// It ends too early, or goes on after its end.
    #[error("it is {0} bytes long")]
    Length(usize),
    /// Another version of this program wrote it.
    #[error("it has the unknown format {0}")]
    Version(u8),
    /// A bit is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// The checksum is right, the content is not: a bug, or an unknown kind of entry.
    #[error("its content is not what it should be: {0}")]
    Content(serde_json::Error),
    /// It lies under the key of another one.
    #[error("it is entry {0}")]
    Misplaced(u64),
}

/// An entry too large for one record.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} is {bytes} bytes long, at most {ENTRY_BYTES_MAX} are allowed")]
pub(super) struct TooLarge {
    index: u64,
    bytes: usize,
}

/// An entry read back.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) entry: Entry,
    pub(super) crc: u32,
    pub(super) prev_crc: u32,
    pub(super) bytes: usize,
}

/// Returns the key of an entry.
pub(super) fn key(index: u64) -> [u8; 9] {
    let mut key = [b'e'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Returns the index an entry's key stands for.
pub(super) fn index_of(key: &[u8]) -> Option<u64> {
    let (kind, index) = key.split_first()?;
    let index = index.try_into().ok()?;
    (*kind == b'e').then(|| u64::from_be_bytes(index))
}

/// Returns the record of an entry, and its checksum.
pub(super) fn encode(entry: &Entry, prev_crc: u32) -> Result<(Vec<u8>, u32), TooLarge> {
    let payload = serde_json::to_vec(&entry.payload).expect("an entry's payload is plain JSON");
    let index = entry.log_id.index;
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= ENTRY_BYTES_MAX => length,
        _ => return Err(TooLarge { index, bytes: payload.len() }),
    };
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.push(VERSION);
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&prev_crc.to_le_bytes());
    record.extend_from_slice(&term_of(&entry.log_id).to_le_bytes());
    record.extend_from_slice(&index.to_le_bytes());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&payload);
    let crc = seal(&mut record);
    Ok((record, crc))
}

/// Returns the entry of a record.
pub(super) fn decode(index: u64, record: &[u8]) -> Result<Decoded, RecordError> {
    let crc = check(record)?;
    if record.len() < HEADER {
        return Err(RecordError::Length(record.len()));
    }
    let prev_crc = u32::from_le_bytes(field(record, CRC_END));
    let term = u64::from_le_bytes(field(record, CRC_END + 4));
    let found = u64::from_le_bytes(field(record, CRC_END + 12));
    let length = u32::from_le_bytes(field(record, CRC_END + 20));
    let payload = &record[HEADER..];
    if usize::try_from(length).ok() != Some(payload.len()) {
        return Err(RecordError::Length(record.len()));
    }
    if found != index {
        return Err(RecordError::Misplaced(found));
    }
    let payload: Payload = serde_json::from_slice(payload).map_err(RecordError::Content)?;
    let entry = Entry { log_id: log_id(term, index), payload };
    Ok(Decoded { entry, crc, prev_crc, bytes: record.len() })
}

/// Returns the record of a vote or mark.
pub(super) fn encode_meta(value: &impl Serialize) -> Vec<u8> {
    let content = serde_json::to_vec(value).expect("votes and log ids are plain JSON");
    let mut record = Vec::with_capacity(CRC_END + content.len());
    record.push(VERSION);
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&content);
    seal(&mut record);
    record
}

/// Returns the vote or mark of a record.
pub(super) fn decode_meta<T: DeserializeOwned>(record: &[u8]) -> Result<T, RecordError> {
    check(record)?;
    serde_json::from_slice(&record[CRC_END..]).map_err(RecordError::Content)
}

/// Puts the checksum into a record, and returns it.
pub(super) fn seal(record: &mut [u8]) -> u32 {
    let crc = checksum(record);
    record[1..CRC_END].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn check(record: &[u8]) -> Result<u32, RecordError> {
    if record.len() < CRC_END {
        return Err(RecordError::Length(record.len()));
    }
    // The checksum covers the version, so a flipped version is a wrong checksum.
    let crc = u32::from_le_bytes(field(record, 1));
    if crc != checksum(record) {
        return Err(RecordError::Checksum);
    }
    if record[0] == VERSION { Ok(crc) } else { Err(RecordError::Version(record[0])) }
}

fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..1]), &record[CRC_END..])
}

fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    record[at..at + N].try_into().expect("the length was checked")
}
