//! Sending Raft's messages.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ha_proto::v1::{RaftReply, RaftRequest};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Code, Status};

use super::peer::{Lane, Peer, Peers};
use super::{FORMAT, InstallSnapshot};
use crate::error_chain::chain;
use crate::state_machine::Snapshot;
use crate::types::{Member, TypeConfig, Vote, VoterId, store_id_text};

type Failed = RPCError<TypeConfig>;

/// Makes the clients openraft asks for.
#[derive(Debug, Clone)]
pub struct Network {
    peers: Arc<Peers>,
}

impl Network {
    /// Returns the network of a node.
    #[must_use]
    pub fn new(peers: Arc<Peers>) -> Self {
        Self { peers }
    }

    fn client(&self, target: VoterId, member: &Member, lane: Lane) -> Client {
        Client {
            peer: self.peers.get(&target, member),
            peers: Arc::clone(&self.peers),
            to_store: store_id_text(member.store_id),
            target,
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: VoterId, node: &Member) -> Client {
        self.client(target, node, Lane::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: VoterId, node: &Member) -> Client {
        self.client(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: VoterId, node: &Member) -> Client {
        self.client(target, node, Lane::Snapshot)
    }
}

/// Sends messages to one node.
#[derive(Debug)]
pub struct Client {
    peers: Arc<Peers>,
    peer: Arc<Peer>,
    target: VoterId,
    to_store: String,
    /// Where entries and heartbeats go; everything else has its lane.
    lane: Lane,
}

/// Which message, and how long its answer may take.
struct Call {
    action: RPCTypes,
    lane: Lane,
    limit: Duration,
}

impl Client {
    /// Sends a message and waits for the answer, at most for the time openraft gives it.
    async fn call<Answer: DeserializeOwned>(
        &self,
        call: Call,
        message: &impl Serialize,
        rpc: Rpc,
    ) -> Result<Answer, Failed> {
        let Call { action, lane, limit } = call;
        let payload = serde_json::to_vec(message).expect("openraft's messages are plain JSON");
        let request = RaftRequest {
            format: FORMAT,
            cluster: self.peers.cluster().to_owned(),
            from: self.peers.me().to_string(),
            to: self.target.to_string(),
            to_store: self.to_store.clone(),
            payload,
        };
        if self.peers.cut().swallowed(limit).await {
            return Err(self.silent(action, limit));
        }
        let (client, generation) =
            self.peer.client(lane).map_err(|e| self.unreachable(&chain(&e)))?;
        let answer = tokio::time::timeout(limit, send(rpc, client, request)).await;
        if self.peers.cut().left().is_some() {
            // It came through while the line was being cut.
            return Err(self.silent(action, limit));
        }
        let reply = match answer {
            Ok(Ok(reply)) => {
                self.peer.answered(lane, generation);
                reply
            }
            Ok(Err(status)) => {
                // These two are answers of the peer; anything else may be the connection's fault.
                match status.code() {
                    Code::InvalidArgument | Code::FailedPrecondition => {
                        self.peer.answered(lane, generation);
                    }
                    _ => self.peer.failed(lane, generation),
                }
                return Err(self.unreachable(&chain(&status)));
            }
            Err(_) => {
                self.peer.silent(lane, generation);
                return Err(self.silent(action, limit));
            }
        };
        if reply.format != FORMAT {
            return Err(self.unreachable(&format!("its answer has format {}", reply.format)));
        }
        serde_json::from_slice(&reply.payload)
            .map_err(|e| self.unreachable(&format!("its answer is not understood: {e}")))
    }

    fn silent(&self, action: RPCTypes, limit: Duration) -> Failed {
        let (id, target) = (VoterId(self.peers.me().clone()), self.target.clone());
        RPCError::Timeout(Timeout { action, id, target, timeout: limit })
    }

    fn unreachable(&self, why: &str) -> Failed {
        let line = format!("node {} at {}: {why}", self.target, self.peer.address());
        RPCError::Unreachable(Unreachable::from_string(line))
    }
}

/// The messages of the service.
#[derive(Debug, Clone, Copy)]
enum Rpc {
    Append,
    Vote,
    PreVote,
    TransferLeader,
    InstallSnapshot,
}

async fn send(
    rpc: Rpc,
    mut client: ha_proto::v1::raft_client::RaftClient<tonic::transport::Channel>,
    request: RaftRequest,
) -> Result<RaftReply, Status> {
    let reply = match rpc {
        Rpc::Append => client.append(request).await,
        Rpc::Vote => client.vote(request).await,
        Rpc::PreVote => client.pre_vote(request).await,
        Rpc::TransferLeader => client.transfer_leader(request).await,
        Rpc::InstallSnapshot => client.install_snapshot(request).await,
    };
    reply.map(tonic::Response::into_inner)
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = String;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Failed> {
        let (action, lane, limit) = (RPCTypes::AppendEntries, self.lane, option.soft_ttl());
        self.call(Call { action, lane, limit }, &rpc, Rpc::Append).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failed> {
        let (action, lane, limit) = (RPCTypes::Vote, Lane::Control, option.soft_ttl());
        self.call(Call { action, lane, limit }, &rpc, Rpc::Vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failed> {
        let (action, lane, limit) = (RPCTypes::Vote, Lane::Control, option.soft_ttl());
        self.call(Call { action, lane, limit }, &rpc, Rpc::PreVote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (action, lane, limit) = (RPCTypes::InstallSnapshot, Lane::Snapshot, option.soft_ttl());
        let message = InstallSnapshot { vote, meta: snapshot.meta, text: snapshot.snapshot };
        let call = Call { action, lane, limit };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.call(call, &message, Rpc::InstallSnapshot) => Ok(answer?),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Failed> {
        let (action, lane, limit) = (RPCTypes::TransferLeader, Lane::Control, option.soft_ttl());
        self.call(Call { action, lane, limit }, &req, Rpc::TransferLeader).await
    }
}
