//! Restarts of a node's database, as operators plan and order them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ha_core::policy::Durability;
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{RestartPlanReply, RestartPlanRequest, RestartReply, RestartRequest};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::switchover::{Findings, surveyed};
use crate::agent::{Agent, Database};
use crate::parameters::Applied;
use crate::report;
use crate::restart::{self, NotRestarted, Role};

/// How long looking at the server may take.
const SURVEY_LIMIT: Duration = Duration::from_secs(3);
/// How long a standby may take to say what it waits for.
const REPORT_LIMIT: Duration = Duration::from_millis(800);
/// How long another agent may take to answer beyond what it is asked to wait.
const FORWARD_SLACK: Duration = Duration::from_secs(5);
/// How long one answer may be waited for.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Says what a restart would mean: the node's own agent does.
///
/// # Errors
/// `InvalidArgument` for a node that has no database, `Unavailable` if its agent does not answer,
/// `FailedPrecondition` if it cannot be restarted now.
pub(super) async fn plan<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &RestartPlanRequest,
) -> Result<RestartPlanReply, Status> {
    let node = data_node(agent, &request.node)?;
    let Some(database) = own(agent, &node) else {
        let limit = SURVEY_LIMIT + FORWARD_SLACK;
        return agent.peers.restart_plan(&node, request.clone(), limit).await;
    };
    let (role, run) = restart::restartable(agent, database).map_err(|why| refused(&why))?;
    let mut findings = Findings::default();
    let survey = database.driver.survey(Instant::now() + SURVEY_LIMIT).await;
    let survey = survey.map_err(|error| Status::failed_precondition(error.to_string()))?;
    let waits = database.facts().applied(run).map(Applied::report).unwrap_or_default();
    let role = match role {
        Role::Primary(_) => {
            surveyed(&survey, &mut findings);
            findings.warn("it is the primary: clients are cut off while it restarts");
            for why in unready(agent, &waits.grows).await {
                findings.refuse(why);
            }
            "primary"
        }
        Role::Standby => {
            if agent.state().durability == Durability::StrictStandby {
                findings.warn("durability.mode is strict-standby: commits wait until it is back");
            }
            "standby"
        }
    };
    let pending: BTreeSet<String> =
        survey.pending_restart.into_iter().chain(waits.pending).collect();
    Ok(RestartPlanReply {
        role: role.to_owned(),
        run,
        pending: pending.into_iter().collect(),
        findings: findings.into_list(),
        grows: waits.grows,
        shrinks: waits.shrinks,
    })
}

/// Says which standbys would stop replaying, because they have less of something than the primary would have
/// (rule 65).
async fn unready<D: PostgresDriver>(agent: &Agent<D>, grows: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    if grows.is_empty() {
        return findings;
    }
    let state = agent.state();
    let data = state.nodes.iter().filter(|(_, is)| is.kind == NodeKind::Data);
    for node in data.map(|(node, _)| node).filter(|node| *node != agent.node()) {
        let request = report::request(agent, false);
        let report = agent.peers.report(node, request, REPORT_LIMIT).await;
        // One that does not answer gets what it needs as it starts.
        let Ok(report) = report else { continue };
        let Some(waits) = report.parameters else {
            if report.postgres.is_some_and(|postgres| postgres.answering) {
                findings.push(format!("what node {node} has is not known yet: try it again"));
            }
            continue;
        };
        let less = |name: &&String| waits.grows.contains(name);
        let names: Vec<&str> = grows.iter().filter(less).map(String::as_str).collect();
        if !names.is_empty() {
            let names = names.join(", ");
            findings.push(format!(
                "{names} grows: restart node {node} first, a standby has to have as much as its primary"
            ));
        }
    }
    findings
}

/// Restarts a node's database, or waits for the restart that was ordered.
///
/// # Errors
/// As [`plan`].
pub(super) async fn order<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &RestartRequest,
) -> Result<RestartReply, Status> {
    let node = data_node(agent, &request.node)?;
    let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
    let Some(database) = own(agent, &node) else {
        return agent.peers.restart(&node, request.clone(), wait + FORWARD_SLACK).await;
    };
    let (run, by) = (request.run, request.by.clone());
    // It goes on if whoever asked is gone.
    let task = {
        let agent = Arc::clone(agent);
        tokio::spawn(async move {
            let Some(database) = &agent.database else { return Ok(()) };
            restart::restart(&agent, database, run, &by).await
        })
    };
    let reply = |outcome: &str, why: String| {
        let role = match restart::restartable(agent, database) {
            Ok((Role::Primary(_), _)) => "primary",
            Ok((Role::Standby, _)) => "standby",
            Err(_) => "none",
        };
        RestartReply { outcome: outcome.to_owned(), why, role: role.to_owned() }
    };
    match timeout(wait, task).await {
        Ok(Ok(Ok(()))) => Ok(reply("done", String::new())),
        Ok(Ok(Err(NotRestarted::Failed(why)))) => Ok(reply("failed", why)),
        Ok(Ok(Err(why))) => Err(refused(&why)),
        Ok(Err(panic)) => Err(Status::internal(panic.to_string())),
        Err(_) => Ok(reply("running", "it is not back yet".to_owned())),
    }
}

fn refused(why: &NotRestarted) -> Status {
    Status::failed_precondition(why.to_string())
}

fn own<'a, D>(agent: &'a Agent<D>, node: &NodeId) -> Option<&'a Database<D>> {
    agent.database.as_ref().filter(|_| node == agent.node())
}

fn data_node<D: PostgresDriver>(agent: &Agent<D>, name: &str) -> Result<NodeId, Status> {
    let state = agent.state();
    match state.nodes.iter().find(|(node, _)| node.as_str() == name) {
        Some((node, is)) if is.kind == NodeKind::Data => Ok(node.clone()),
        Some(_) => {
            Err(Status::invalid_argument(format!("node {name} is a witness, it has no database")))
        }
        None => {
            Err(Status::invalid_argument(format!("node {name:?} is not a node of this cluster")))
        }
    }
}
