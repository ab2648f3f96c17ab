//! Raft's messages as they come in, for the fuzz targets. Not part of the interface.

use ha_core::NodeId;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use super::InstallSnapshot;
use super::server::{check_entries, check_vote};
use crate::state_machine::snapshot;
use crate::types::TypeConfig;

/// Reads entries, as far as it goes without a Raft group; returns how many there are.
///
/// # Errors
/// Why they are refused.
pub fn append(from: &NodeId, payload: &[u8]) -> Result<usize, String> {
    let message: AppendEntriesRequest<TypeConfig> =
        serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    check_vote(from, &message.vote, true).map_err(|status| status.message().to_owned())?;
    check_entries(&message).map_err(|status| status.message().to_owned())?;
    Ok(message.entries.len())
}

/// Reads a request for a vote.
///
/// # Errors
/// Why it is refused.
pub fn vote(from: &NodeId, payload: &[u8]) -> Result<(), String> {
    let message: VoteRequest<TypeConfig> =
        serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    check_vote(from, &message.vote, false).map_err(|status| status.message().to_owned())
}

/// Reads a snapshot that was sent.
///
/// # Errors
/// Why it is refused.
pub fn install(from: &NodeId, payload: &[u8]) -> Result<(), String> {
    let InstallSnapshot { vote, meta, text } =
        serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    check_vote(from, &vote, true).map_err(|status| status.message().to_owned())?;
    let content = snapshot::decode(&text)?;
    if content.meta() == meta { Ok(()) } else { Err("another one".to_owned()) }
}
