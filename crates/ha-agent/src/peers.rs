//! Talking to the other agents: one channel each, every call with a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::clock::millis;
use ha_proto::v1::agent_client::AgentClient;
use ha_proto::v1::{
    DivergedReply, DivergedRequest, FetchWalRequest, HelloReply, HelloRequest, ListWalReply,
    ListWalRequest, ProposeReply, ProposeRequest, RenewReply, RenewRequest, ReportReply,
    ReportRequest, RevokeReply, RevokeRequest, WalChunk,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

/// The largest message an agent accepts from another: reports are a few hundred bytes.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Why a peer gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It is not in the configuration.
    #[error("node {0} is not among the peers")]
    Unknown(NodeId),
    /// Nothing came back in time.
    #[error("no answer from node {node} within {waited_ms} ms")]
    Silent {
        /// Who was asked.
        node: NodeId,
        /// How long, milliseconds.
        waited_ms: u64,
    },
    /// It could not be reached, or said no.
    #[error("node {node}: {why}")]
    Failed {
        /// Who was asked.
        node: NodeId,
        /// In one line.
        why: String,
    },
}

/// The other agents.
#[derive(Debug, Clone)]
pub struct Peers {
    channels: BTreeMap<NodeId, Channel>,
}

impl Peers {
    /// Prepares a channel to each address; connects when first used, and again after failures.
    ///
    /// # Errors
    /// The address that is none, with the node's name.
    pub fn new(addresses: &BTreeMap<NodeId, String>) -> Result<Self, String> {
        let mut channels = BTreeMap::new();
        for (node, address) in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|error| format!("address {address} of node {node}: {error}"))?
                .connect_timeout(Duration::from_millis(300))
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_millis(250))
                .keep_alive_timeout(Duration::from_millis(500))
                .keep_alive_while_idle(true);
            channels.insert(node.clone(), endpoint.connect_lazy());
        }
        Ok(Self { channels })
    }

    /// Asks who answers at a peer's address.
    ///
    /// # Errors
    /// [`PeerError`]; nothing was changed.
    pub async fn hello(
        &self,
        node: &NodeId,
        request: HelloRequest,
        limit: Duration,
    ) -> Result<HelloReply, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.hello(request)).await
    }

    /// Renews the lease at a peer.
    ///
    /// # Errors
    /// [`PeerError`]; whether the renewal was noted is unknown, and does not matter to the holder.
    pub async fn renew(
        &self,
        node: &NodeId,
        request: RenewRequest,
        limit: Duration,
    ) -> Result<RenewReply, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.renew(request)).await
    }

    /// Asks a peer for its report.
    ///
    /// # Errors
    /// [`PeerError`]; nothing was changed.
    pub async fn report(
        &self,
        node: &NodeId,
        request: ReportRequest,
        limit: Duration,
    ) -> Result<ReportReply, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.report(request)).await
    }

    /// Hands a command to a peer that may be the Raft leader.
    ///
    /// # Errors
    /// [`PeerError`]; the command may have been carried out all the same.
    pub async fn propose(
        &self,
        node: &NodeId,
        request: ProposeRequest,
        limit: Duration,
    ) -> Result<ProposeReply, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.propose(request)).await
    }

    /// Asks a peer to acknowledge nothing more of an epoch, and for what it has.
    ///
    /// # Errors
    /// [`PeerError`]; it may have pledged all the same.
    pub async fn revoke(
        &self,
        node: &NodeId,
        request: RevokeRequest,
        limit: Duration,
    ) -> Result<RevokeReply, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.revoke(request)).await
    }

    /// Asks a peer which files lead from one position to another.
    ///
    /// # Errors
    /// [`PeerError`]; nothing was changed.
    pub async fn list_wal(
        &self,
        node: &NodeId,
        request: ListWalRequest,
        limit: Duration,
    ) -> Result<ListWalReply, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.list_wal(request)).await
    }

    /// Begins to read a file of a peer's WAL; `limit` is for the beginning.
    ///
    /// # Errors
    /// [`PeerError`]; nothing was changed.
    pub async fn fetch_wal(
        &self,
        node: &NodeId,
        request: FetchWalRequest,
        limit: Duration,
    ) -> Result<Streaming<WalChunk>, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.fetch_wal(request)).await
    }

    /// Asks a peer about diverged WAL that it keeps, or to drop it.
    ///
    /// # Errors
    /// [`PeerError`]; it may have been dropped all the same.
    pub async fn diverged(
        &self,
        node: &NodeId,
        request: DivergedRequest,
        limit: Duration,
    ) -> Result<DivergedReply, PeerError> {
        let mut client = self.client(node)?;
        bounded(node, limit, client.diverged(request)).await
    }

    fn client(&self, node: &NodeId) -> Result<AgentClient<Channel>, PeerError> {
        let channel = self.channels.get(node).ok_or_else(|| PeerError::Unknown(node.clone()))?;
        Ok(AgentClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
}

async fn bounded<T>(
    node: &NodeId,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, PeerError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(PeerError::Failed { node: node.clone(), why: one_line(&status) }),
        Err(_) => Err(PeerError::Silent { node: node.clone(), waited_ms: millis(limit) }),
    }
}

/// Returns a status with its deepest cause, on one line.
fn one_line(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text.replace('\n', " ")
}
