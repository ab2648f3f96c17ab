//! What this agent answers to other agents.

use std::sync::Arc;
use std::time::Duration;

use ha_core::granter::RenewRefused;
use ha_core::state::Command;
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::agent_server::Agent as AgentRpc;
use ha_proto::v1::{
    CredentialsReply, CredentialsRequest, DivergedReply, DivergedRequest, FetchWalRequest,
    HelloReply, HelloRequest, ListWalReply, ListWalRequest, ProposeReply, ProposeRequest,
    RenewRefused as RenewRefusedReply, RenewReply, RenewRequest, Renewed, ReportReply,
    ReportRequest, RevokeReply, RevokeRequest, propose_reply, renew_refused, renew_reply,
};
use ha_raft::{ConfirmError, ProposeError};
use tonic::{Request, Response, Status};

use crate::agent::Agent;
use crate::credentials;
use crate::diverged;
use crate::founding;
use crate::granter::{self, RenewError, Told};
use crate::report;
use crate::revoke;
use crate::wal_transfer;

/// How long a forwarded command may take.
const PROPOSE_LIMIT: Duration = Duration::from_secs(5);

/// `ha.v1.Agent`.
#[derive(Debug)]
pub struct AgentService<D>(pub Arc<Agent<D>>);

/// Refuses a caller of another cluster, in one line that names both.
///
/// # Errors
/// `FailedPrecondition`.
pub fn check_cluster<D>(agent: &Agent<D>, cluster: &str) -> Result<(), Status> {
    let ours = &agent.config.cluster;
    if cluster == ours {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "node {} serves cluster {ours:?}, not {cluster:?}",
        agent.node()
    )))
}

fn known_node<D>(agent: &Agent<D>, name: &str) -> Result<NodeId, Status> {
    let node: NodeId = name
        .parse()
        .map_err(|error| Status::invalid_argument(format!("malformed request: {error}")))?;
    if agent.members().contains_key(&node) {
        Ok(node)
    } else {
        Err(Status::failed_precondition(format!(
            "{node} is not a node of cluster {:?}",
            agent.config.cluster
        )))
    }
}

#[tonic::async_trait]
impl<D: PostgresDriver> AgentRpc for AgentService<D> {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        // Strangers are answered too: a node of a lost group has to hear that it is none of this one.
        let from: NodeId = request
            .from
            .parse()
            .map_err(|error| Status::invalid_argument(format!("malformed request: {error}")))?;
        if request.to != agent.node().as_str() {
            return Err(Status::failed_precondition(format!(
                "this is node {}, not {:?}",
                agent.node(),
                request.to
            )));
        }
        if request.protocol != ha_proto::PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "node {} speaks agent protocol {}, node {from} speaks {}",
                agent.node(),
                ha_proto::PROTOCOL,
                request.protocol
            )));
        }
        let state = agent.state();
        let own = founding::own(agent);
        let members = agent.raft.status().members;
        Ok(Response::new(HelloReply {
            cluster: agent.config.cluster.clone(),
            node: agent.node().to_string(),
            kind: agent.config.kind.to_string(),
            incarnation: agent.incarnation.0,
            protocol: ha_proto::PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            store: founding::store_text(agent.raft.store_id()),
            initialized: agent.raft.is_initialized(),
            postgres_major: agent.postgres_major.unwrap_or(0),
            expected_store: members
                .get(&from)
                .map(|member| founding::store_text(member.store_id))
                .unwrap_or_default(),
            grpc_address: own.grpc,
            postgres_address: own.postgres,
            keeps_wal: own.keeps_wal,
            asynchronous: !own.sync,
            cluster_id: founding::cluster_text(&state),
            generation: state.generation,
            has_database: founding::has_database(agent),
            tags: founding::tags(agent),
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        let node = known_node(agent, &request.node)?;
        let told = Told {
            flushed: request.flushed.map(Into::into),
            container: (!request.container.is_empty()).then_some(request.container),
        };
        let result = granter::renew(agent, &node, Epoch(request.epoch), told).await;
        let answer = match result {
            Ok(pause) => renew_reply::Answer::Renewed(Renewed { pause }),
            Err(error) => {
                let status = agent.raft.status();
                renew_reply::Answer::Refused(RenewRefusedReply {
                    why: refused(&error).into(),
                    leader: status.leader.map(String::from).unwrap_or_default(),
                    current_epoch: agent.state().last_epoch.0,
                })
            }
        };
        Ok(Response::new(RenewReply { request_id: request.request_id, answer: Some(answer) }))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        // An election needs a position read after the lease ended, not the latest one known.
        let reply = if request.fresh { report::fresh(agent).await } else { report::local(agent) };
        Ok(Response::new(reply))
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        known_node(agent, &request.from)?;
        Ok(Response::new(revoke::answer(agent, Epoch(request.epoch)).await))
    }

    async fn list_wal(
        &self,
        request: Request<ListWalRequest>,
    ) -> Result<Response<ListWalReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        known_node(agent, &request.from_node)?;
        let from = request.from.unwrap_or_default().into();
        let to = request.to.unwrap_or_default().into();
        let pieces = wal_transfer::list(agent, from, to).await?;
        let pieces = pieces.iter().map(wal_transfer::to_wire).collect();
        Ok(Response::new(ListWalReply { pieces }))
    }

    type FetchWalStream = wal_transfer::Chunks;

    async fn fetch_wal(
        &self,
        request: Request<FetchWalRequest>,
    ) -> Result<Response<Self::FetchWalStream>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        known_node(agent, &request.from_node)?;
        Ok(Response::new(wal_transfer::send(agent, &request)?))
    }

    async fn diverged(
        &self,
        request: Request<DivergedRequest>,
    ) -> Result<Response<DivergedReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        diverged::answer(agent, request.id, request.drop).await.map(Response::new)
    }

    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        known_node(agent, &request.from)?;
        credentials::answer(agent, &request).await.map(Response::new)
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        let (agent, request) = (&self.0, request.into_inner());
        check_cluster(agent, &request.cluster)?;
        known_node(agent, &request.from)?;
        let command: Command = serde_json::from_slice(&request.command)
            .map_err(|error| Status::invalid_argument(format!("malformed command: {error}")))?;
        let answer = match agent.raft.propose(command, None, PROPOSE_LIMIT).await {
            Ok(outcome) => match serde_json::to_vec(&outcome) {
                Ok(json) => propose_reply::Answer::Outcome(json),
                Err(error) => propose_reply::Answer::Unknown(error.to_string()),
            },
            Err(ProposeError::NotLeader { leader }) => {
                propose_reply::Answer::NotLeader(leader.map(String::from).unwrap_or_default())
            }
            Err(error) => match error.effect() {
                ha_raft::Effect::None => propose_reply::Answer::Failed(error.to_string()),
                ha_raft::Effect::Unknown => propose_reply::Answer::Unknown(error.to_string()),
            },
        };
        Ok(Response::new(ProposeReply { answer: Some(answer) }))
    }
}

fn refused(error: &RenewError) -> renew_refused::Why {
    match error {
        RenewError::Refused(RenewRefused::TermChanged)
        | RenewError::Unconfirmed(ConfirmError::TermChanged { .. }) => {
            renew_refused::Why::TermChanged
        }
        RenewError::Refused(RenewRefused::NotHeld) => renew_refused::Why::NotHeld,
        RenewError::Refused(RenewRefused::Vacating) => renew_refused::Why::Vacating,
        RenewError::Unconfirmed(ConfirmError::NotLeader { .. }) => renew_refused::Why::NotLeader,
        RenewError::Unconfirmed(_) => renew_refused::Why::NoQuorum,
    }
}
