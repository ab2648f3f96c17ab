//! Receiving Raft's messages.

use std::fmt::Display;

use ha_core::NodeId;
use ha_proto::v1::raft_server::Raft as RaftRpc;
use ha_proto::v1::{RaftReply, RaftRequest};
use openraft::Raft;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::{FORMAT, InstallSnapshot};
use crate::state_machine::{Snapshot, StateMachine, snapshot};
use crate::store_dir::Identity;
use crate::types::{ENTRY_BYTES_MAX, TypeConfig, Vote, store_id_text};

/// The Raft service of one node.
#[derive(Debug, Clone)]
pub struct RaftService {
    raft: Raft<TypeConfig, StateMachine>,
    me: Identity,
}

impl RaftService {
    pub(crate) fn new(raft: Raft<TypeConfig, StateMachine>, me: Identity) -> Self {
        Self { raft, me }
    }

    /// Returns the message, if it is for this node and from one of its cluster.
    fn accept<Message: DeserializeOwned>(
        &self,
        request: Request<RaftRequest>,
    ) -> Result<(NodeId, Message), Status> {
        let request = request.into_inner();
        let from: NodeId = request.from.parse().map_err(|e| invalid("sender", &e))?;
        if request.format != FORMAT {
            let what = format!(
                "cannot take a message of format {} from {from}: this node knows format {FORMAT}",
                request.format
            );
            return Err(Status::failed_precondition(what));
        }
        if request.cluster != self.me.cluster {
            return Err(refused(&from, "cluster", &request.cluster, &self.me.cluster));
        }
        if request.to != self.me.node.as_str() {
            return Err(refused(&from, "node", &request.to, self.me.node.as_str()));
        }
        let store = store_id_text(self.me.store_id);
        if request.to_store != store {
            return Err(refused(&from, "store", &request.to_store, &store));
        }
        self.expect_another(&from)?;
        let message =
            serde_json::from_slice(&request.payload).map_err(|e| invalid("payload", &e))?;
        Ok((from, message))
    }

    /// Refuses a message that names this node as its sender.
    ///
    /// Whoever else knows this store's identity is, or was, of the group. Whether it still is cannot be asked of what
    /// this node knows: it may have been away while the voters changed, and the leader that could tell it would be
    /// refused. Raft itself is safe against those that were: their logs lack the entry that took them out, so nobody
    /// who has it votes for them.
    fn expect_another(&self, from: &NodeId) -> Result<(), Status> {
        if *from == self.me.node {
            let what = format!("cannot take a message from {from}: that is this node");
            return Err(Status::failed_precondition(what));
        }
        Ok(())
    }
}

fn refused(from: &NodeId, kind: &str, named: &str, own: &str) -> Status {
    let what = format!(
        "cannot take a message from {from}: it is for {kind} {named:?}, this is {kind} {own:?}"
    );
    Status::failed_precondition(what)
}

fn invalid(part: &str, why: &dyn Display) -> Status {
    Status::invalid_argument(format!("cannot take a message with an invalid {part}: {why}"))
}

/// Refuses what openraft or the log store would take for a broken invariant: it would end this
/// node, not the sender.
pub(super) fn check_entries(message: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
    let mut next = message.prev_log_id.map_or(Some(0), |id| id.index.checked_add(1));
    for entry in &message.entries {
        let index = entry.log_id.index;
        if next != Some(index) {
            return Err(invalid("payload", &format!("log entry {index} does not follow")));
        }
        next = index.checked_add(1);
        let length = serde_json::to_vec(&entry.payload).map_or(usize::MAX, |bytes| bytes.len());
        if length > ENTRY_BYTES_MAX {
            let why = format!("log entry {index} is {length} bytes long");
            return Err(invalid("payload", &why));
        }
    }
    Ok(())
}

/// Refuses a vote that is not the sender's, or not of the kind the message needs.
pub(super) fn check_vote(from: &NodeId, vote: &Vote, committed: bool) -> Result<(), Status> {
    if vote.leader_id.voted_for.0 != *from || vote.committed != committed {
        return Err(invalid("payload", &format!("the vote {vote} is not {from}'s to send")));
    }
    Ok(())
}

fn reply(answer: &impl Serialize) -> Response<RaftReply> {
    let payload = serde_json::to_vec(answer).expect("openraft's answers are plain JSON");
    Response::new(RaftReply { format: FORMAT, payload })
}

/// The node has stopped, or is about to: for the sender it is as good as unreachable.
fn stopped(e: RaftError<TypeConfig>) -> Status {
    gone(&e.unwrap_fatal())
}

fn gone(e: &Fatal<TypeConfig>) -> Status {
    Status::unavailable(format!("this node has stopped: {e}"))
}

type Answer = Result<Response<RaftReply>, Status>;

#[tonic::async_trait]
impl RaftRpc for RaftService {
    async fn append(&self, request: Request<RaftRequest>) -> Answer {
        let (from, message): (_, AppendEntriesRequest<TypeConfig>) = self.accept(request)?;
        check_vote(&from, &message.vote, true)?;
        check_entries(&message)?;
        Ok(reply(&self.raft.append_entries(message).await.map_err(stopped)?))
    }

    async fn vote(&self, request: Request<RaftRequest>) -> Answer {
        let (from, message): (_, VoteRequest<TypeConfig>) = self.accept(request)?;
        check_vote(&from, &message.vote, false)?;
        Ok(reply(&self.raft.vote(message).await.map_err(stopped)?))
    }

    async fn pre_vote(&self, request: Request<RaftRequest>) -> Answer {
        let (from, message): (_, VoteRequest<TypeConfig>) = self.accept(request)?;
        check_vote(&from, &message.vote, false)?;
        Ok(reply(&self.raft.pre_vote(message).await.map_err(stopped)?))
    }

    async fn transfer_leader(&self, request: Request<RaftRequest>) -> Answer {
        let (from, message): (_, TransferLeaderRequest<TypeConfig>) = self.accept(request)?;
        check_vote(&from, message.from_leader(), true)?;
        // openraft sends it to every voter; only the one it names campaigns.
        Ok(reply(&self.raft.handle_transfer_leader(message).await.map_err(|e| gone(&e))?))
    }

    async fn install_snapshot(&self, request: Request<RaftRequest>) -> Answer {
        let (from, InstallSnapshot { vote, meta, text }) = self.accept(request)?;
        check_vote(&from, &vote, true)?;
        // openraft stops for good if a snapshot cannot be installed, so a bad one ends here.
        let content = snapshot::decode(&text).map_err(|e| invalid("snapshot", &e))?;
        if content.meta() != meta {
            return Err(invalid("snapshot", &"it is not the one its sender describes"));
        }
        let snapshot = Snapshot { meta, snapshot: text };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await;
        Ok(reply(&answer.map_err(|e| gone(&e))?))
    }
}
