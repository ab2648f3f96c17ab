//! Pauses and fences, as operators order them.

use ha_core::NodeId;
use ha_core::state::{Command, Refused};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{
    FenceRequest, OrderReply, PauseRequest, ReportReply, ResumeRequest, UnfenceRequest,
};
use tonic::Status;

use super::orders::{asker, data_node, record, settled};
use crate::agent::Agent;
use crate::hand_over;
use crate::report;

/// Has the agents leave the databases alone; in force once the holder's guard has no deadline.
///
/// # Errors
/// As [`record`].
pub(super) async fn pause<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &PauseRequest,
) -> Result<OrderReply, Status> {
    if agent.state().pause.is_some_and(|pause| pause.ending) {
        let why = "a pause is just ending: wait until haclt resume is done";
        return Err(Status::failed_precondition(why));
    }
    let command = Command::Pause { by: asker(&request.by), why: request.why.trim().to_owned() };
    let changed = record(agent, command, |why| *why == Refused::Paused).await?;
    let done = "paused: nothing is promoted, started, stopped or restarted";
    let reply = settled(request.wait_ms, changed, done, || async move {
        let state = agent.state();
        // Without a holder there is no permit that needs a word.
        let holder = state.lease.holder().filter(|_| state.is_paused())?;
        match ask(agent, holder).await {
            Some(report) if report.unbound || report.primary_epoch == 0 => None,
            Some(_) => Some(format!("paused; node {holder} has not told its guard yet")),
            None => Some(format!(
                "paused; node {holder} does not answer: its guard still has a deadline, at which it \
                 stops the database unless the agent comes back before"
            )),
        }
    });
    Ok(reply.await)
}

/// Ends a pause.
///
/// # Errors
/// As [`record`]; `InvalidArgument` if another node's word is to be done without than the holder's.
pub(super) async fn resume<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &ResumeRequest,
) -> Result<OrderReply, Status> {
    let state = agent.state();
    let holder = state.lease.holder().cloned();
    let forced = !request.without.is_empty();
    if forced && holder.as_ref().map(NodeId::as_str) != Some(request.without.as_str()) {
        let who = holder.map_or("nobody".to_owned(), |holder| format!("node {holder}"));
        return Err(Status::invalid_argument(format!(
            "node {} does not hold the lease: {who} does",
            request.without
        )));
    }
    let command = Command::EndPause { by: asker(&request.by), forced };
    let changed = record(agent, command, |why| *why == Refused::NotPaused).await?;
    let done = "resumed: the agents look after the databases again";
    let reply = settled(request.wait_ms, changed, done, || async move {
        let state = agent.state();
        state.pause.as_ref()?;
        let holder = state.lease.holder()?;
        let answers = ask(agent, holder).await.is_some();
        Some(if answers {
            format!("node {holder} is to say that its guard has a deadline again")
        } else {
            format!(
                "node {holder} does not answer, and its database may run without a deadline: start its \
                 agent; or make sure that its machine is off and say haclt resume --without {holder}"
            )
        })
    });
    Ok(reply.await)
}

/// Has a node's database stopped, and kept down.
///
/// # Errors
/// As [`record`]; `InvalidArgument` for a node that has no database.
pub(super) async fn fence<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &FenceRequest,
) -> Result<OrderReply, Status> {
    let node = data_node(agent, &request.node)?;
    if agent.state().lease.holder() == Some(&node) {
        return Err(Status::failed_precondition(format!(
            "node {node} holds the lease: switch over first"
        )));
    }
    let (by, why) = (asker(&request.by), request.why.trim().to_owned());
    let command = Command::Fence { node: node.clone(), by, why };
    let changed = record(agent, command, |why| matches!(why, Refused::Fenced(_))).await?;
    let node = &node;
    let done = format!("node {node} is fenced: its database is down, and stays down");
    let reply = settled(request.wait_ms, changed, done, || async move {
        match ask(agent, node).await {
            // Nothing runs, and nothing is done to it.
            Some(report) if report.rule == "fenced_by_order" && report.role == "none" => None,
            Some(report) => Some(format!("node {node} is {} ({})", report.state, report.rule)),
            None => Some(format!("node {node} does not answer: it is fenced when it comes back")),
        }
    });
    Ok(reply.await)
}

/// Ends that.
///
/// # Errors
/// As [`fence`].
pub(super) async fn unfence<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &UnfenceRequest,
) -> Result<OrderReply, Status> {
    let node = data_node(agent, &request.node)?;
    let command = Command::Unfence { node: node.clone(), by: asker(&request.by) };
    let changed = record(agent, command, |why| matches!(why, Refused::NotFenced(_))).await?;
    let node = &node;
    let done = format!("node {node} is not fenced by order: its database does its work");
    let reply = settled(request.wait_ms, changed, done, || async move {
        match ask(agent, node).await {
            Some(report) if matches!(report.state.as_str(), "streaming" | "running") => None,
            Some(report) => Some(format!("node {node} is {} ({})", report.state, report.rule)),
            None => Some(format!("node {node} does not answer")),
        }
    });
    Ok(reply.await)
}

async fn ask<D: PostgresDriver>(agent: &Agent<D>, node: &NodeId) -> Option<ReportReply> {
    if node == agent.node() {
        return Some(report::fresh(agent).await);
    }
    hand_over::ask(agent, node).await
}
