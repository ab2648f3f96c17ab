//! Rehearsed faults, as operators plan and order them, and the steps that agents ask of each other.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use ha_core::clock::millis;
use ha_core::state::operator::Drill;
use ha_core::state::{Command, State};
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::{ActionError, Effect, PostgresDriver};
use ha_proto::v1::{
    DrillNews, DrillPlanReply, DrillPlanRequest, DrillRequest, DrillStepReply, DrillStepRequest,
    SwitchoverPlanReply, SwitchoverPlanRequest,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::orders::{asker, data_node, record};
use super::picture::Picture;
use super::switchover::{self, Findings};
use crate::agent::{Agent, Database};
use crate::clock;
use crate::drill::watch::Teller;
use crate::drill::{BEYOND_TTL, DRILL_LIMIT, FAULT_MAX, Kind, Order, client, conduct, freeze};
use crate::oplog::OperationLog;

/// What whoever ordered a drill is told, until its end.
pub(super) type News = Pin<Box<dyn Stream<Item = Result<DrillNews, Status>> + Send>>;

/// How many messages may wait for a reader that is slow; a drill makes a dozen a second.
const NEWS_MAX: usize = 4096;
/// How long a step waits until its order is applied here, and how long it may take.
const RECORDED_LIMIT: Duration = Duration::from_secs(2);
const STEP_LIMIT: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(20);

/// Says what a drill would do, and what speaks against it: the Raft leader does, who would conduct it.
///
/// # Errors
/// `InvalidArgument` for a drill or a node that is none; `FailedPrecondition` without a primary, or if its agent
/// does not answer.
pub(super) async fn plan<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &DrillPlanRequest,
) -> Result<DrillPlanReply, Status> {
    let kind: Kind = request.kind.parse().map_err(Status::invalid_argument)?;
    let fault = fault_of(agent, kind, request.seconds)?;
    if kind != Kind::Switchover && !request.to.is_empty() {
        return Err(Status::invalid_argument("only a switchover has a target"));
    }
    expect_quiet(agent).await?;
    let (cluster, to) = (request.cluster.clone(), request.to.clone());
    let planned = switchover::plan(agent, &SwitchoverPlanRequest { cluster, to }).await?;
    if !request.node.is_empty() {
        let node = data_node(agent, &request.node)?;
        if node.as_str() != planned.from {
            let why = format!(
                "node {node} is not primary, {} is: a drill is of the primary",
                planned.from
            );
            return Err(Status::failed_precondition(why));
        }
    }
    let state = agent.state();
    let mut findings = Findings::default();
    for why in refusals(agent, &state, kind, fault, request.accept_data_loss, &planned.from) {
        findings.refuse(why);
    }
    if kind.may_lose(state.durability) {
        findings.warn("durability.mode is async: acknowledged commits may be lost, for good");
    }
    if kind == Kind::Freeze && std::process::id() == 1 {
        findings
            .warn("an agent that is process 1 of its container stands still, and is not stopped");
    }
    let happens = happens(agent, kind, fault, &planned);
    let SwitchoverPlanReply { from, to, epoch, findings: more } = planned;
    Ok(DrillPlanReply {
        kind: kind.to_string(),
        node: from,
        to,
        epoch,
        fault_ms: millis(fault),
        durability: state.durability.to_string(),
        measured_by: agent.node().to_string(),
        address: state.nodes.get(agent.node()).map(|node| node.grpc.clone()).unwrap_or_default(),
        findings: findings.into_list().into_iter().chain(more).collect(),
        happens,
        nodes: agent.members().keys().map(ToString::to_string).collect(),
    })
}

fn fault_of<D>(agent: &Agent<D>, kind: Kind, seconds: u32) -> Result<Duration, Status> {
    let fault = Duration::from_secs(u64::from(seconds));
    match (kind.lasts(), seconds) {
        (true, 0) => Ok((agent.config.policy.ttl + BEYOND_TTL).min(FAULT_MAX)),
        (true, _) if fault <= FAULT_MAX => Ok(fault),
        (true, _) => {
            let max = FAULT_MAX.as_secs();
            Err(Status::invalid_argument(format!("a fault lasts {max} s at most")))
        }
        (false, 0) => Ok(Duration::ZERO),
        (false, _) => Err(Status::invalid_argument(format!("a {kind} has no duration"))),
    }
}

/// Refuses at once while something is the matter: the primary, which says the rest, may not answer then.
async fn expect_quiet<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> Result<(), Status> {
    let under_way = agent.state().drill_under_way(clock::wall_unix_ms()).cloned();
    if let Some(Drill { what, node, by, .. }) = under_way {
        let why = format!("a drill is under way: {what} on node {node}, ordered by {by}");
        return Err(Status::failed_precondition(why));
    }
    match unhealthy(agent).await {
        None => Ok(()),
        Some(why) => Err(Status::failed_precondition(format!("the cluster is {why}"))),
    }
}

/// What speaks against a drill beyond what speaks against a switchover.
fn refusals<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    state: &State,
    kind: Kind,
    fault: Duration,
    accept_data_loss: bool,
    primary: &str,
) -> Vec<String> {
    let mut refusals = Vec::new();
    let now = clock::wall_unix_ms();
    if primary == agent.node().as_str() {
        refusals.push(format!(
            "the agents' leader is on the primary's node {primary}, and would be struck itself: it moves by \
             itself in a moment"
        ));
    }
    if kind.may_lose(state.durability) && !accept_data_loss {
        refusals.push(format!(
            "durability.mode is async: a {kind} may lose acknowledged commits. If that is accepted, say \
             --accept-data-loss"
        ));
    }
    refusals.extend(client::role(agent).err());
    let end = now.saturating_add(millis(fault + DRILL_LIMIT));
    if let Some(due) = state.scheduled.iter().find(|scheduled| scheduled.due_unix_ms <= end) {
        refusals.push(format!("switchover number {} is scheduled, and due meanwhile", due.id));
    }
    refusals
}

/// Returns what is awaited until the cluster is healthy; `None` if it is.
pub(crate) async fn unhealthy<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> Option<String> {
    let status = Picture::take(agent).await.status(agent);
    match (status.state.as_str(), status.reason) {
        ("healthy", _) => None,
        (state, reason) if reason.is_empty() => Some(state.to_owned()),
        (state, reason) => Some(format!("{state}: {reason}")),
    }
}

/// Says what will happen, a sentence each.
fn happens<D>(
    agent: &Agent<D>,
    kind: Kind,
    fault: Duration,
    planned: &SwitchoverPlanReply,
) -> Vec<String> {
    let (node, to) = (&planned.from, &planned.to);
    let (ttl, lasts) = (agent.config.policy.ttl, fault.as_secs_f64());
    let by = agent.node();
    let mut happens = vec![format!(
        "node {by} writes a row every {} ms to table haclt_drill.writes, made for the drill",
        millis(client::WRITE_EVERY)
    )];
    happens.push(match kind {
        Kind::Switchover => format!("the primary role is handed from {node} to {to}, in order"),
        Kind::Crash => format!("the postmaster of {node} is killed (SIGKILL)"),
        Kind::Freeze => format!(
            "the agent of {node} is stopped (SIGSTOP) for {lasts} s and continued by helpers started before"
        ),
        Kind::Partition => format!(
            "the agent of {node} neither hears nor answers the other agents for {lasts} s; replication \
             between the databases is left alone"
        ),
    });
    match kind {
        Kind::Switchover => {}
        Kind::Crash => happens.push(format!(
            "{to} takes over if it has every byte; otherwise {node} recovers in place"
        )),
        Kind::Freeze | Kind::Partition if fault > ttl => {
            happens.push(format!(
                "the guard of {node} ends its database before the lease (ttl {} s) does, and {to} takes over",
                ttl.as_secs_f64()
            ));
            happens.push(format!("{node} comes back by itself, as a standby"));
        }
        Kind::Freeze | Kind::Partition => happens.push(format!(
            "that is not longer than the lease's ttl of {} s: {node} may stay primary",
            ttl.as_secs_f64()
        )),
    }
    happens.push("clients of the primary are cut off; the fault ends by itself".to_owned());
    happens.push("the rows are read back and compared, and the table is dropped".to_owned());
    happens
}

/// Plans once more, records the drill, and begins it. It goes on if whoever asked is gone.
///
/// # Errors
/// As [`plan`]; `FailedPrecondition` if anything speaks against it.
pub(super) async fn order<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: DrillRequest,
) -> Result<News, Status> {
    let kind: Kind = request.kind.parse().map_err(Status::invalid_argument)?;
    let fault = Duration::from_millis(request.fault_ms).min(FAULT_MAX);
    let asked = DrillPlanRequest {
        cluster: request.cluster,
        kind: kind.to_string(),
        node: request.node,
        to: request.to,
        seconds: u32::try_from(fault.as_secs()).unwrap_or(u32::MAX),
        accept_data_loss: request.accept_data_loss,
    };
    let plan = plan(agent, &asked).await?;
    let refusals = plan.findings.iter().filter(|finding| finding.severity == "refusal");
    if let Some(refusal) = refusals.map(|finding| finding.text.clone()).next() {
        return Err(Status::failed_precondition(refusal));
    }
    let role = client::role(agent).map_err(Status::failed_precondition)?;
    let to = data_node(agent, &plan.to)?;
    let order = Order {
        number: request.number,
        kind,
        node: data_node(agent, &plan.node)?,
        to: Some(to).filter(|_| kind == Kind::Switchover),
        epoch: Epoch(request.epoch),
        fault,
        by: asker(&request.by),
    };
    let claim = agent.drills.conduct(order.number).ok_or_else(|| {
        Status::failed_precondition(format!("node {} still ends an earlier drill", agent.node()))
    })?;
    let drill = Drill {
        number: order.number,
        what: order.what(),
        node: order.node.clone(),
        epoch: order.epoch,
        conductor: agent.node().clone(),
        incarnation: agent.incarnation,
        by: order.by.clone(),
        until_unix_ms: clock::wall_unix_ms().saturating_add(millis(fault + DRILL_LIMIT)),
    };
    record(agent, Command::BeginDrill { drill }, |_| false).await?;
    let what = format!("{} of node {}, ordered by {}", order.what(), order.node, order.by);
    let log = Arc::new(OperationLog::begin(&agent.config.data_dir, "drill", &what));
    let (tell, told) = mpsc::channel(NEWS_MAX);
    let teller = Teller::new(tell, Arc::clone(&log));
    tokio::spawn(conduct::run(Arc::clone(agent), order, role, teller, log, claim));
    Ok(Box::pin(ReceiverStream::new(told)))
}

/// Takes one step of the drill that is on record, on this node.
///
/// # Errors
/// `FailedPrecondition` if it is not on record or not this node's to take, or could not be done: then nothing
/// was done, or the message says what may have been.
pub(crate) async fn step<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &DrillStepRequest,
) -> Result<DrillStepReply, Status> {
    let refused = |why: String| Status::failed_precondition(why);
    if request.node != agent.node().as_str() {
        let why = format!("this is node {}, not {:?}", agent.node(), request.node);
        return Err(Status::invalid_argument(why));
    }
    let drill = recorded(agent, request.number).await?;
    let database = primary(agent).map_err(refused)?;
    let deadline = Instant::now() + STEP_LIMIT;
    let done = match request.step.as_str() {
        "prepare" => database.driver.make_drill_table(deadline).await,
        "clean" => database.driver.drop_drill_table(deadline).await,
        _ => return strike(agent, database, &drill, request).await.map_err(refused),
    };
    done.map(|()| DrillStepReply::default()).map_err(|error| match error {
        ActionError::Cannot { .. } | ActionError::Failed { effect: Effect::None, .. } => {
            refused(error.to_string())
        }
        // What may have been begun is cleared away.
        ActionError::TimedOut { .. } | ActionError::Failed { .. } => {
            Status::unavailable(error.to_string())
        }
    })
}

/// Makes the fault, once for each drill.
async fn strike<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    drill: &Drill,
    request: &DrillStepRequest,
) -> Result<DrillStepReply, String> {
    let kind: Kind = request.step.parse()?;
    let state = agent.state();
    let epoch = state.lease.grant().map(|grant| grant.epoch);
    if drill.node != *agent.node() || epoch != Some(drill.epoch) {
        return Err(format!("node {} is not who the drill is of", agent.node()));
    }
    if state.is_paused() || agent.is_leaving() {
        return Err(format!("the agent of node {} is paused, or leaves", agent.node()));
    }
    if !agent.drills.strike(drill.number) {
        return Err("the fault of that drill was made already".to_owned());
    }
    let fault = Duration::from_millis(request.fault_ms).min(FAULT_MAX);
    tracing::warn!(what = drill.what, by = drill.by, "a fault is made, for a drill");
    let begins_in = match kind {
        Kind::Switchover => return Err("a switchover is ordered as one".to_owned()),
        Kind::Crash => {
            let deadline = Instant::now() + STEP_LIMIT;
            database.driver.crash_server(deadline).await.map_err(|error| error.to_string())?;
            Duration::ZERO
        }
        Kind::Freeze => {
            freeze::freeze(fault).await?;
            freeze::LEAD
        }
        Kind::Partition => {
            agent.raft.cut().begin(fault);
            Duration::ZERO
        }
    };
    Ok(DrillStepReply { begins_in_ms: millis(begins_in), detail: drill.what.clone() })
}

/// Waits a moment until the drill is on record here, too.
async fn recorded<D>(agent: &Agent<D>, number: u64) -> Result<Drill, Status> {
    let until = Instant::now() + RECORDED_LIMIT;
    loop {
        if let Some(drill) = agent.state().drill.filter(|drill| drill.number == number) {
            return Ok(drill);
        }
        if Instant::now() >= until {
            return Err(Status::failed_precondition("no drill of that number is under way"));
        }
        sleep(POLL).await;
    }
}

fn primary<D: PostgresDriver>(agent: &Agent<D>) -> Result<&Database<D>, String> {
    let holds = agent.state().lease.holder() == Some(agent.node());
    let database = agent.database.as_ref().filter(|_| holds);
    database.ok_or_else(|| format!("node {} is not primary", agent.node()))
}

/// Refuses to be the way by which a drill of this very node is ordered: what is told would stop with it.
pub(super) fn expect_outside<D: PostgresDriver>(
    agent: &Agent<D>,
    conductor: &NodeId,
) -> Result<(), Status> {
    let state = agent.state();
    if state.lease.holder() != Some(agent.node()) {
        return Ok(());
    }
    let address = state.nodes.get(conductor).map(|node| node.grpc.clone()).unwrap_or_default();
    Err(Status::unavailable(format!(
        "node {} is the one that the drill is of: ask another agent, such as {conductor} at {address}",
        agent.node()
    )))
}
