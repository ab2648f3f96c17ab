//! Records as they lie in the store, for the fuzz targets. Not part of the interface.

use super::record::{self, CRC_END};
use super::witness;
use crate::state_machine::snapshot;
use crate::types::{LogId, Vote};

/// Puts the right checksum into an entry's, a vote's or a mark's record, so that what is behind it is reached.
pub fn seal_record(bytes: &mut [u8]) {
    if bytes.len() >= CRC_END {
        record::seal(bytes);
    }
}

/// Reads an entry's record, and returns it as it would be written again.
///
/// # Errors
/// What is wrong with it.
pub fn entry(index: u64, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let read = record::decode(index, bytes).map_err(|error| error.to_string())?;
    let written = record::encode(&read.entry, read.prev_crc);
    written.map(|(bytes, _)| bytes).map_err(|error| error.to_string())
}

/// Reads the record of a vote, and returns it as it would be written again.
///
/// # Errors
/// What is wrong with it.
pub fn vote(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let read: Vote = record::decode_meta(bytes).map_err(|error| error.to_string())?;
    Ok(record::encode_meta(&read))
}

/// Reads the record of a position in the log, and returns it as it would be written again.
///
/// # Errors
/// What is wrong with it.
pub fn mark(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let read: LogId = record::decode_meta(bytes).map_err(|error| error.to_string())?;
    Ok(record::encode_meta(&read))
}

/// Reads a slot of the witness file, of which the rest is taken as zeros, and returns it as it would be written
/// again. Its checksum is put right first if that is asked for.
#[must_use]
pub fn witness_slot(bytes: &[u8], seal: bool) -> Option<Vec<u8>> {
    witness::again(bytes, seal)
}

/// Reads a snapshot's text, and returns it as it would be written again.
///
/// # Errors
/// What is wrong with it.
pub fn snapshot(text: &str) -> Result<String, String> {
    snapshot::decode(text).map(|content| snapshot::encode(&content))
}

/// Puts a header before a snapshot's content.
#[must_use]
pub fn seal_snapshot(body: &str) -> String {
    snapshot::sealed(body)
}
