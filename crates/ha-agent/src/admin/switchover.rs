//! Switchovers, as operators plan and order them.

use std::sync::Arc;
use std::time::Duration;

use ha_core::clock::millis;
use ha_core::decide::Rule;
use ha_core::state::State;
use ha_core::{Epoch, Lsn, NodeId, NodeKind};
use ha_postgres::driver::{PostgresDriver, Survey};
use ha_proto::v1::{
    Finding, ReportReply, SwitchoverPlanReply, SwitchoverPlanRequest, SwitchoverReply,
    SwitchoverRequest, SwitchoverStep,
};
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::agent::{Agent, lock};
use crate::granter;
use crate::hand_over;
use crate::peers::is_silence;
use crate::switchover::{self, End, NotStarted, Operation};

/// How long looking at the server may take.
const SURVEY_LIMIT: Duration = Duration::from_secs(3);
/// How long the primary's agent may take to answer beyond what it is asked to wait.
const FORWARD_SLACK: Duration = Duration::from_secs(5);
/// How long one answer may be waited for.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A standby that lacks more than this lets clients wait for it.
const LAG_MAX: u64 = 16 << 20;
/// More segments than that are not archived within a lease.
const ARCHIVE_MAX: u32 = 3;

/// Says what would come of a switchover: the primary's agent does.
///
/// # Errors
/// `FailedPrecondition` without a primary, or if its agent does not answer; `InvalidArgument` for a target that
/// can never be one.
pub(super) async fn plan<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &SwitchoverPlanRequest,
) -> Result<SwitchoverPlanReply, Status> {
    let state = agent.state();
    let target = target(&state, &request.to)?;
    let (holder, epoch) = holder(&state)?;
    if holder != *agent.node() {
        let limit = SURVEY_LIMIT + FORWARD_SLACK;
        return agent.peers.switchover_plan(&holder, request.clone(), limit).await;
    }
    let mut findings = Findings::default();
    if state.is_paused() {
        findings.refuse("the cluster is paused: haclt resume ends that");
    }
    serving(agent, &mut findings);
    let to = match target {
        Some(to) if to == holder => {
            findings.refuse(format!("node {to} is the primary already"));
            Some(to)
        }
        Some(to) => {
            let report = hand_over::ask(agent, &to).await;
            standby(agent, &to, report.as_ref(), &mut findings);
            Some(to)
        }
        None => {
            let to = hand_over::fit_standby(agent).await;
            if let Some(to) = &to {
                let report = hand_over::ask(agent, to).await;
                standby(agent, to, report.as_ref(), &mut findings);
            } else {
                findings.refuse("no standby is fit to take over");
                for (node, report) in hand_over::standbys(agent).await {
                    standby(agent, &node, report.as_ref(), &mut findings);
                }
            }
            to
        }
    };
    if let Some(database) = &agent.database {
        match database.driver.survey(Instant::now() + SURVEY_LIMIT).await {
            Ok(survey) => surveyed(&survey, &mut findings),
            Err(error) => findings.refuse(error.to_string()),
        }
    }
    Ok(SwitchoverPlanReply {
        from: holder.to_string(),
        to: to.map(String::from).unwrap_or_default(),
        epoch: epoch.0,
        findings: findings.0,
    })
}

/// Hands the primary role over, or says how far that is.
///
/// # Errors
/// As [`plan`]; `FailedPrecondition` as well if it is refused, `Aborted` if another one is under way.
pub(super) async fn order<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &SwitchoverRequest,
) -> Result<SwitchoverReply, Status> {
    let state = agent.state();
    let named = |name: &str| {
        target(&state, name)?.ok_or_else(|| Status::invalid_argument("the order names no node"))
    };
    let (from, to, epoch) = (named(&request.from)?, named(&request.to)?, Epoch(request.epoch));
    let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
    if from == *agent.node() {
        return own(agent, request, epoch, &to, wait).await;
    }
    match agent.peers.switchover(&from, request.clone(), wait + FORWARD_SLACK).await {
        // Its agent is gone: what became of it is in the replicated state, once that has moved on.
        Err(status) if is_silence(&status) => {
            let state = agent.state();
            let moved = state.last_epoch > epoch || state.lease.grant().is_none();
            if moved { Ok(by_state(&state, epoch, &to)) } else { Err(status) }
        }
        answer => answer,
    }
}

/// Plans and orders a switchover that was scheduled, and leaves it to itself.
///
/// # Errors
/// Why it is refused, in one line.
pub(crate) async fn by_schedule<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    to: Option<&NodeId>,
    by: &str,
) -> Result<(), String> {
    let cluster = agent.config.cluster.clone();
    let to = to.map(ToString::to_string).unwrap_or_default();
    let said = |status: Status| status.message().to_owned();
    let planned = plan(agent, &SwitchoverPlanRequest { cluster: cluster.clone(), to }).await;
    let planned = planned.map_err(said)?;
    let refusals: Vec<&str> = planned
        .findings
        .iter()
        .filter(|finding| finding.severity == "refusal")
        .map(|finding| finding.text.as_str())
        .collect();
    if !refusals.is_empty() {
        return Err(refusals.join("; "));
    }
    let request = SwitchoverRequest {
        cluster,
        from: planned.from,
        to: planned.to,
        epoch: planned.epoch,
        wait_ms: 0,
        known_steps: 0,
        number: crate::clock::random(),
        by: by.to_owned(),
    };
    order(agent, &request).await.map(drop).map_err(said)
}

async fn own<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &SwitchoverRequest,
    epoch: Epoch,
    to: &NodeId,
    wait: Duration,
) -> Result<SwitchoverReply, Status> {
    let mut operation = match switchover::start(agent, epoch, to, request.number, &request.by) {
        Ok(operation) => operation,
        Err(NotStarted::NotPrimary { .. }) if agent.state().last_epoch > epoch => {
            return Ok(by_state(&agent.state(), epoch, to));
        }
        Err(why @ NotStarted::AnotherIsUnderWay(_)) => {
            return Err(Status::aborted(why.to_string()));
        }
        Err(why) => return Err(Status::failed_precondition(why.to_string())),
    };
    let known = usize::try_from(request.known_steps).unwrap_or(usize::MAX);
    let news = operation.wait_for(|now| {
        now.as_ref().is_none_or(|now| now.end.is_some() || now.steps.len() > known)
    });
    // Without news the answer says the same again.
    drop(timeout(wait, news).await);
    let state = agent.state();
    let told = agent.switchover.borrow().clone();
    match told.filter(|told| told.epoch == epoch) {
        Some(operation) => Ok(shown(&state, &operation)),
        None => Ok(by_state(&state, epoch, to)),
    }
}

fn shown(state: &State, operation: &Operation) -> SwitchoverReply {
    let (outcome, why) = match &operation.end {
        None => ("running", ""),
        Some(End::Done) => ("done", ""),
        Some(End::Kept(why)) => ("not_done", why.as_str()),
        Some(End::Lost(why)) => ("elsewhere", why.as_str()),
    };
    let steps = operation.steps.iter().map(|step| SwitchoverStep {
        name: step.name.to_owned(),
        detail: step.detail.clone(),
        at_ms: millis(step.at),
    });
    SwitchoverReply { steps: steps.collect(), ..reply(state, outcome, why) }
}

/// What the replicated state tells of a switchover whose agent started anew, or is gone.
fn by_state(state: &State, epoch: Epoch, to: &NodeId) -> SwitchoverReply {
    let promoted = state.history.iter().find(|promotion| promotion.epoch > epoch);
    match (promoted, state.lease.holder()) {
        (Some(promotion), _) if promotion.epoch == epoch.next() && promotion.holder == *to => {
            reply(state, "done", "")
        }
        (Some(promotion), _) => {
            let why = format!("node {} was elected instead", promotion.holder);
            reply(state, "elsewhere", &why)
        }
        (None, Some(holder)) if state.last_epoch > epoch => {
            reply(state, "running", &format!("node {holder} is becoming primary"))
        }
        (None, _) => reply(state, "running", "the nodes elect a primary"),
    }
}

fn reply(state: &State, outcome: &str, why: &str) -> SwitchoverReply {
    SwitchoverReply {
        outcome: outcome.to_owned(),
        why: why.to_owned(),
        primary: state.lease.holder().map(ToString::to_string).unwrap_or_default(),
        epoch: state.last_epoch.0,
        steps: Vec::new(),
    }
}

/// Returns the data node of that name; `None` for an empty one.
fn target(state: &State, name: &str) -> Result<Option<NodeId>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let known = state.nodes.iter().find(|(node, _)| node.as_str() == name);
    match known {
        Some((node, is)) if is.kind == NodeKind::Data => Ok(Some(node.clone())),
        Some(_) => {
            Err(Status::invalid_argument(format!("node {name} is a witness, it has no database")))
        }
        None => Err(Status::invalid_argument(format!("node {name} is not a node of this cluster"))),
    }
}

fn holder(state: &State) -> Result<(NodeId, Epoch), Status> {
    let grant = state.lease.grant();
    let grant = grant.ok_or_else(|| Status::failed_precondition("there is no primary now"))?;
    Ok((grant.holder.clone(), grant.epoch))
}

/// What speaks against a switchover, or is to be known before.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn into_list(self) -> Vec<Finding> {
        self.0
    }

    fn add(&mut self, severity: &str, text: impl Into<String>) {
        self.0.push(Finding { severity: severity.to_owned(), text: text.into() });
    }

    pub(super) fn refuse(&mut self, text: impl Into<String>) {
        self.add("refusal", text);
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.add("warning", text);
    }
}

fn serving<D: PostgresDriver>(agent: &Agent<D>, findings: &mut Findings) {
    let Some(database) = &agent.database else { return };
    let facts = database.facts();
    if let Some((rule, _)) = facts.rule().filter(|(rule, _)| *rule != Rule::Serving) {
        findings.refuse(format!("node {} does not serve: {rule}", agent.node()));
    }
    if let Some(job) = &facts.job {
        findings.refuse(format!("node {} is busy: {} is under way", agent.node(), job.step));
    }
}

fn standby<D: PostgresDriver>(
    agent: &Agent<D>,
    to: &NodeId,
    report: Option<&ReportReply>,
    findings: &mut Findings,
) {
    let Some(report) = report else {
        findings.refuse(format!("node {to} does not answer"));
        return;
    };
    let Some(postgres) = &report.postgres else {
        findings.refuse(format!("node {to} has no database"));
        return;
    };
    if !granter::fit(report) {
        let why = if !postgres.unfit.is_empty() {
            postgres.unfit.clone()
        } else if postgres.promotable {
            format!("it is {} ({})", report.state, report.rule)
        } else {
            "postgres.promotable is off there".to_owned()
        };
        findings.refuse(format!("node {to} is not fit to take over: {why}"));
    }
    if postgres.major != 0 && agent.postgres_major.is_some_and(|ours| ours != postgres.major) {
        findings.refuse(format!("node {to} runs PostgreSQL {}", postgres.major));
    }
    for trouble in &report.troubles {
        findings.warn(format!("node {to}: {trouble}"));
    }
    let here = agent.database.as_ref().and_then(|database| {
        database.facts().server.answer.as_ref().map(|(probe, _)| probe.flushed)
    });
    let there = postgres.flushed.map(|flushed| Lsn(flushed.lsn));
    if let (Some(here), Some(there)) = (here, there) {
        let lag = here.bytes_after(there);
        if lag > LAG_MAX {
            findings.refuse(format!("node {to} lacks {lag} bytes of WAL, {LAG_MAX} at most"));
        }
        let to_replay = there.bytes_after(Lsn(postgres.replayed));
        if to_replay > LAG_MAX {
            findings.warn(format!(
                "node {to} has {to_replay} bytes of WAL to replay: clients wait for that"
            ));
        }
    }
    let silent = lock(&agent.sightings)
        .iter()
        .filter(|(node, seen)| *node != to && seen.current().is_none())
        .map(|(node, _)| node.to_string())
        .collect::<Vec<_>>();
    if !silent.is_empty() {
        findings.warn(format!("{} does not answer: there is no spare node", silent.join(", ")));
    }
}

pub(super) fn surveyed(survey: &Survey, findings: &mut Findings) {
    let Survey { long_transactions, oldest_s, prepared, logical_slots, archive_backlog, .. } =
        survey;
    if *long_transactions > 0 {
        findings.warn(format!(
            "{long_transactions} transactions have been open for more than 30 s, the oldest for \
             {oldest_s} s: they are cut off"
        ));
    }
    if *prepared > 0 {
        findings.add("note", format!("{prepared} prepared transactions move to the new primary"));
    }
    if !logical_slots.is_empty() {
        let slots = logical_slots.join(", ");
        findings.warn(format!("logical slots stay behind: {slots}"));
    }
    if *archive_backlog > ARCHIVE_MAX {
        findings.refuse(format!(
            "{archive_backlog} WAL segments wait to be archived: the server would not stop within \
             its lease"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stop_would_run_into_is_said_by_its_number() {
        let survey = Survey {
            long_transactions: 2,
            oldest_s: 312,
            prepared: 1,
            logical_slots: vec!["cdc".to_owned()],
            archive_backlog: 4,
            pending_restart: Vec::new(),
        };
        let mut findings = Findings::default();
        surveyed(&survey, &mut findings);
        let severities: Vec<&str> = findings.0.iter().map(|f| f.severity.as_str()).collect();
        assert_eq!(severities, ["warning", "note", "warning", "refusal"]);
        assert!(
            findings.0[0].text.contains("2 transactions") && findings.0[0].text.contains("312")
        );
        let mut findings = Findings::default();
        surveyed(&Survey { archive_backlog: ARCHIVE_MAX, ..Survey::default() }, &mut findings);
        assert!(findings.0.is_empty(), "{findings:?}");
    }
}
