//! Talking to the other agents: one channel each, every call with a deadline.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_core::NodeId;
use ha_core::clock::millis;
use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::agent_client::AgentClient;
use ha_proto::v1::{
    CredentialsReply, CredentialsRequest, DivergedReply, DivergedRequest, DoctorReply,
    DoctorRequest, FetchWalRequest, HelloReply, HelloRequest, ListWalReply, ListWalRequest,
    ProposeReply, ProposeRequest, RenewReply, RenewRequest, ReportReply, ReportRequest,
    RestartPlanReply, RestartPlanRequest, RestartReply, RestartRequest, RevokeReply, RevokeRequest,
    SwitchoverPlanReply, SwitchoverPlanRequest, SwitchoverReply, SwitchoverRequest, WalChunk,
};
use ha_raft::Cut;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use crate::agent::lock;

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
    /// By node: where it listens, and the channel there.
    channels: Arc<Mutex<BTreeMap<NodeId, (String, Channel)>>>,
    cut: Cut,
}

impl Peers {
    /// Prepares a channel to each address; connects when first used, and again after failures. While `cut` says
    /// so, nobody is asked, and nobody's answer is heard.
    ///
    /// # Errors
    /// The address that is none, with the node's name.
    pub fn new(addresses: &BTreeMap<NodeId, String>, cut: Cut) -> Result<Self, String> {
        let peers = Self { channels: Arc::default(), cut };
        for (node, address) in addresses {
            peers.know(node, address)?;
        }
        Ok(peers)
    }

    /// Calls a node at that address from now on. It is not forgotten: whom to call is for others to say.
    ///
    /// # Errors
    /// The address that is none, with the node's name.
    pub fn know(&self, node: &NodeId, address: &str) -> Result<(), String> {
        let mut channels = lock(&self.channels);
        if channels.get(node).is_some_and(|(known, _)| known == address) {
            return Ok(());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("address {address} of node {node}: {error}"))?
            .connect_timeout(Duration::from_millis(300))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_millis(250))
            .keep_alive_timeout(Duration::from_millis(500))
            .keep_alive_while_idle(true);
        channels.insert(node.clone(), (address.to_owned(), endpoint.connect_lazy()));
        Ok(())
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
        self.bounded(node, limit, client.hello(request)).await
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
        self.bounded(node, limit, client.renew(request)).await
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
        self.bounded(node, limit, client.report(request)).await
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
        self.bounded(node, limit, client.propose(request)).await
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
        self.bounded(node, limit, client.revoke(request)).await
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
        self.bounded(node, limit, client.list_wal(request)).await
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
        self.bounded(node, limit, client.fetch_wal(request)).await
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
        self.bounded(node, limit, client.diverged(request)).await
    }

    /// Asks a peer about its passwords of internal users, or for a step of changing one.
    ///
    /// # Errors
    /// What the peer said; `Unavailable` if it gave no answer: it may have taken the step.
    pub async fn credentials(
        &self,
        node: &NodeId,
        request: CredentialsRequest,
        limit: Duration,
    ) -> Result<CredentialsReply, Status> {
        let channel = self.channel(node).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = AgentClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        self.forwarded(node, limit, client.credentials(request)).await
    }

    /// Asks a primary's agent what would come of a switchover.
    ///
    /// # Errors
    /// As [`Self::switchover`]; nothing was changed.
    pub async fn switchover_plan(
        &self,
        node: &NodeId,
        request: SwitchoverPlanRequest,
        limit: Duration,
    ) -> Result<SwitchoverPlanReply, Status> {
        let mut admin = self.admin(node)?;
        self.forwarded(node, limit, admin.switchover_plan(request)).await
    }

    /// Hands an operator's order to a primary's agent, or asks how far that is.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub async fn switchover(
        &self,
        node: &NodeId,
        request: SwitchoverRequest,
        limit: Duration,
    ) -> Result<SwitchoverReply, Status> {
        let mut admin = self.admin(node)?;
        self.handed_on(node, limit, Code::DeadlineExceeded, admin.switchover(request)).await
    }

    /// Asks a node's agent what a restart of its database would mean.
    ///
    /// # Errors
    /// As [`Self::switchover`]; nothing was changed.
    pub async fn restart_plan(
        &self,
        node: &NodeId,
        request: RestartPlanRequest,
        limit: Duration,
    ) -> Result<RestartPlanReply, Status> {
        let mut admin = self.admin(node)?;
        self.forwarded(node, limit, admin.restart_plan(request)).await
    }

    /// Hands an operator's order to a node's agent.
    ///
    /// # Errors
    /// As [`Self::switchover`].
    pub async fn restart(
        &self,
        node: &NodeId,
        request: RestartRequest,
        limit: Duration,
    ) -> Result<RestartReply, Status> {
        let mut admin = self.admin(node)?;
        self.handed_on(node, limit, Code::DeadlineExceeded, admin.restart(request)).await
    }

    /// Hands an operator's question or order to a node's agent.
    ///
    /// # Errors
    /// What that agent says; without an answer `Unavailable` if it was certainly not asked, else `DeadlineExceeded`: it
    /// may have done what it was asked for.
    pub async fn forward<T, F>(
        &self,
        node: &NodeId,
        limit: Duration,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let admin = self.admin(node)?;
        self.handed_on(node, limit, Code::DeadlineExceeded, call(admin)).await
    }

    /// Asks a node's agent for its clocks, or to examine itself.
    ///
    /// # Errors
    /// As [`Self::switchover`]; nothing was changed.
    pub async fn doctor(
        &self,
        node: &NodeId,
        request: DoctorRequest,
        limit: Duration,
    ) -> Result<DoctorReply, Status> {
        let mut admin = self.admin(node)?;
        self.forwarded(node, limit, admin.doctor(request)).await
    }

    fn admin(&self, node: &NodeId) -> Result<AdminClient<Channel>, Status> {
        let channel = self.channel(node).map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(AdminClient::new(channel))
    }

    fn channel(&self, node: &NodeId) -> Result<Channel, PeerError> {
        let known = lock(&self.channels).get(node).map(|(_, channel)| channel.clone());
        known.ok_or_else(|| PeerError::Unknown(node.clone()))
    }

    fn client(&self, node: &NodeId) -> Result<AgentClient<Channel>, PeerError> {
        let channel = self.channel(node)?;
        Ok(AgentClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn forwarded<T>(
        &self,
        node: &NodeId,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        self.handed_on(node, limit, Code::Unavailable, call).await
    }

    /// Hands a call on: what the other agent says is said to whoever asked. `silence` is said if it may have been asked
    /// and did not answer.
    async fn handed_on<T>(
        &self,
        node: &NodeId,
        limit: Duration,
        silence: Code,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        let silent = |why: String| Status::new(silence, format!("node {node}: {why}"));
        if self.cut.swallowed(limit).await {
            return Err(silent("no answer".to_owned()));
        }
        match tokio::time::timeout(limit, call).await {
            _ if self.cut.left().is_some() => Err(silent("no answer".to_owned())),
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) if was_refused(&status) => {
                Err(Status::unavailable(format!("node {node}: {}", one_line(&status))))
            }
            // Made on this side, of a connection that broke.
            Ok(Err(status)) if status.source().is_some() => Err(silent(one_line(&status))),
            Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
            Err(_) => Err(silent("no answer".to_owned())),
        }
    }

    async fn bounded<T>(
        &self,
        node: &NodeId,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, PeerError> {
        let silent = || PeerError::Silent { node: node.clone(), waited_ms: millis(limit) };
        if self.cut.swallowed(limit).await {
            return Err(silent());
        }
        match tokio::time::timeout(limit, call).await {
            _ if self.cut.left().is_some() => Err(silent()),
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                Err(PeerError::Failed { node: node.clone(), why: one_line(&status) })
            }
            Err(_) => Err(silent()),
        }
    }
}

/// Returns whether an error is that an agent gave no answer, by [`Peers::forward`] or any other of the calls here: it may
/// have done what it was asked for.
#[must_use]
pub fn is_silence(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Returns whether there was no connection that the call could have gone over.
fn was_refused(status: &Status) -> bool {
    let cause = causes(status).last().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|error| {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
    })
}

/// Returns a status with its deepest cause, on one line.
fn one_line(status: &Status) -> String {
    let deepest = causes(status).last().map(ToString::to_string);
    deepest.unwrap_or_else(|| status.message().to_owned()).replace('\n', " ")
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = status.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

#[cfg(test)]
mod tests {
    use ha_proto::v1::PauseRequest;
    use tokio::net::TcpListener;

    use super::*;

    async fn code_of(address: String) -> Code {
        let node: NodeId = "n2".parse().expect("a valid name");
        let peers = Peers::new(&BTreeMap::from([(node.clone(), address)]), Cut::default());
        let peers = peers.expect("an address");
        let call = |mut admin: AdminClient<Channel>| async move {
            admin.pause(PauseRequest::default()).await
        };
        let answer = peers.forward(&node, Duration::from_millis(300), call).await;
        answer.expect_err("nobody answers").code()
    }

    #[tokio::test]
    async fn an_order_that_nobody_can_have_got_is_not_done_and_one_without_an_answer_may_be() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        assert_eq!(code_of(address.clone()).await, Code::DeadlineExceeded, "it listens");
        drop(listener);
        assert_eq!(code_of(address).await, Code::Unavailable, "nobody is there");
    }

    #[tokio::test]
    async fn a_connection_that_ends_tells_nothing_of_the_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let ends = async { drop(listener.accept().await.expect("a caller")) };
        let (code, ()) = tokio::join!(code_of(address), ends);
        assert_eq!(code, Code::DeadlineExceeded);
    }
}
