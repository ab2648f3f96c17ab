//! Failovers, as operators plan and order them.

use std::sync::Arc;
use std::time::Duration;

use ha_core::Epoch;
use ha_core::candidate::elect_by_order;
use ha_core::clock::millis;
use ha_core::decide::Rule;
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{FailoverPlanReply, FailoverPlanRequest, FailoverRequest, OrderReply};
use tonic::Status;

use super::orders::{asker, data_node, settled};
use super::picture::Picture;
use crate::agent::Agent;
use crate::failover::{self, NotDone, Order};
use crate::granter;
use crate::report;

/// What a promotion takes on top of the lease: an election and the end of recovery.
const PROMOTION: Duration = Duration::from_millis(300);
/// How long the leader may take beyond what it is asked to wait.
const FORWARD_SLACK: Duration = Duration::from_secs(10);

/// Says who would become primary, and what would be lost.
///
/// # Errors
/// `InvalidArgument` for a node that can never be primary.
pub(super) async fn plan<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &FailoverPlanRequest,
) -> Result<FailoverPlanReply, Status> {
    let to = match request.to.as_str() {
        "" => None,
        name => Some(data_node(agent, name)?),
    };
    let picture = Picture::take(agent).await;
    let state = &picture.state;
    let holder = state.lease.holder();
    let told = holder.and_then(|holder| picture.reports.get(holder)?.as_ref());
    let serving = told.is_some_and(|report| report.rule == Rule::Serving.name());
    // As if the holder were gone: while it may be primary, nobody else is.
    let reports = picture
        .reports
        .iter()
        .filter(|(node, _)| Some(*node) != holder)
        .filter_map(|(node, reply)| {
            Some((node.clone(), report::as_if_pledged(reply.as_ref()?, state.last_epoch)))
        })
        .collect();
    let known = picture
        .primary_report()
        .and_then(|report| report.postgres.as_ref()?.flushed)
        .map(Into::into)
        .or_else(|| granter::known_end(agent, state));
    let policy = &agent.config.policy;
    let elected = |accept| elect_by_order(state, &reports, known, policy, to.as_ref(), accept);
    let proven = elected(false).winner.is_some();
    let election = elected(request.accept_data_loss);
    let ttl = state.lease.grant().map_or(Duration::ZERO, |grant| grant.ttl);
    let refusals = election.refusals.iter().filter(|(node, _)| Some(*node) != holder);
    let refusals = refusals.map(|(node, why)| format!("{node}: {why}")).collect();
    let mut reply = FailoverPlanReply {
        holder: holder.map(ToString::to_string).unwrap_or_default(),
        serving,
        refusals,
        expected_ms: millis(policy.drift.lengthened(ttl) + PROMOTION),
        epoch: state.last_epoch.0,
        proven,
        ..FailoverPlanReply::default()
    };
    match election.winner {
        Some(winner) => {
            reply.winner = winner.node.to_string();
            reply.evidence = winner.evidence();
            reply.lost_bytes = winner.lost_bytes;
            reply.lost = match winner.lost_bytes {
                _ if !winner.proven_by.is_empty() => {
                    "nothing: every acknowledged commit is at hand".to_owned()
                }
                Some(bytes) => format!(
                    "at least {bytes} bytes of WAL that the last primary is known to have had, and \
                     whatever it wrote after it was last heard of"
                ),
                None => "unknown: how far the last primary got was never heard here".to_owned(),
            };
        }
        None => "nothing while nobody is promoted".clone_into(&mut reply.lost),
    }
    Ok(reply)
}

/// Gives the vacant lease to a node: the leader does.
///
/// # Errors
/// `FailedPrecondition` if it is refused, `Unavailable` without a leader.
pub(super) async fn order<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &FailoverRequest,
) -> Result<OrderReply, Status> {
    let to = match request.to.as_str() {
        "" => None,
        name => Some(data_node(agent, name)?),
    };
    let status = agent.raft.status();
    let leader = status.leader.ok_or_else(|| {
        Status::unavailable(
            "the agents have no leader: a failover needs a majority of them; without one haclt recover \
             is what is left",
        )
    })?;
    if leader != *agent.node() {
        let limit = Duration::from_millis(request.wait_ms) + FORWARD_SLACK;
        let request = request.clone();
        let call = |mut admin: ha_proto::v1::admin_client::AdminClient<_>| async move {
            admin.failover(request).await
        };
        return agent.peers.forward(&leader, limit, call).await;
    }
    let order = Order {
        to,
        accept_data_loss: request.accept_data_loss,
        epoch: Epoch(request.epoch),
        by: asker(&request.by),
    };
    // It goes on if whoever asked is gone.
    let granting = {
        let agent = Arc::clone(agent);
        tokio::spawn(async move { failover::grant(&agent, &order).await })
    };
    let winner = match granting.await {
        Ok(Ok(winner)) => winner,
        Ok(Err(NotDone::Submit(crate::agent::SubmitError::Unknown(why)))) => {
            return Err(Status::deadline_exceeded(why));
        }
        Ok(Err(why @ (NotDone::NotLeader | NotDone::Submit(_)))) => {
            return Err(Status::unavailable(why.to_string()));
        }
        Ok(Err(why)) => return Err(Status::failed_precondition(why.to_string())),
        Err(panic) => return Err(Status::internal(panic.to_string())),
    };
    let node = &winner.node;
    let epoch = Epoch(request.epoch).next();
    let done = format!("node {node} is primary under epoch {epoch}");
    let reply = settled(request.wait_ms, true, done, || async move {
        let state = agent.state();
        let promoted = state.history.iter().any(|promotion| promotion.epoch == epoch);
        (!promoted).then(|| format!("node {node} was given the lease and is ending recovery"))
    });
    Ok(reply.await)
}
