//! Restarting the local database because an operator wants it, in the role that it has.

use std::sync::Arc;
use std::time::Duration;

use ha_core::clock::millis;
use ha_core::decide::Rule;
use ha_core::permit::{RunState, StopMode};
use ha_core::state::journal::{EventKind, Note};
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::{GuardSeen, PostgresDriver};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::agent::{Agent, Database};
use crate::hand_over::{self, Held, NotStopped};
use crate::jobs;
use crate::notes;
use crate::oplog::OperationLog;

/// How long the checkpoint before the stop of a primary may take, while clients are served.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);
/// How long the server may take from its start until it does its work again.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long is waited until it is known what the restarted server has of the cluster's configuration.
const APPLY_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// What a running database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves, under that grant.
    Primary(Epoch),
    /// It follows, or waits for somebody to follow.
    Standby,
}

/// Why a database is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRestarted {
    /// It does not run as it should: what brings it back is under way, or an operator has to help.
    #[error("the database of node {node} is {state} ({rule}): only one that runs is restarted")]
    NotRunning {
        /// This node.
        node: NodeId,
        /// How it is.
        state: String,
        /// Why.
        rule: String,
    },
    /// The agents leave the databases alone.
    #[error("the cluster is paused: haclt resume ends that")]
    Paused,
    /// Something is done to it already.
    #[error("node {node} is busy: {step} is under way")]
    Busy {
        /// This node.
        node: NodeId,
        /// What.
        step: String,
    },
    /// It was begun and went wrong.
    #[error("{0}")]
    Failed(String),
}

/// Returns the role and the run of the local database, if it could be restarted now.
///
/// # Errors
/// [`NotRestarted`]: nothing was changed.
pub fn restartable<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
) -> Result<(Role, u64), NotRestarted> {
    let node = agent.node().clone();
    if agent.state().is_paused() {
        return Err(NotRestarted::Paused);
    }
    let facts = database.facts();
    if let Some(job) = &facts.job {
        return Err(NotRestarted::Busy { node, step: job.step.to_owned() });
    }
    let rule = facts.rule().map(|(rule, _)| rule);
    let run = match database.driver.guard() {
        GuardSeen::Alive(status) if status.state == RunState::Running => Some(status.run),
        GuardSeen::Alive(_) | GuardSeen::Absent | GuardSeen::Silent { .. } => None,
    };
    let epoch = agent.state().lease.grant().map(|grant| grant.epoch);
    match (rule, run, epoch) {
        (Some(Rule::Serving), Some(run), Some(epoch)) => Ok((Role::Primary(epoch), run)),
        (Some(Rule::Following | Rule::LeaseVacant | Rule::NotStreaming), Some(run), _) => {
            Ok((Role::Standby, run))
        }
        _ => Err(NotRestarted::NotRunning {
            node,
            state: if run.is_some() { "not at work" } else { "not running" }.to_owned(),
            rule: rule.map_or("unknown", Rule::name).to_owned(),
        }),
    }
}

/// Restarts the database whose run is `run`; one that was restarted since is only waited for.
///
/// # Errors
/// [`NotRestarted`].
pub async fn restart<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    run: u64,
    by: &str,
) -> Result<(), NotRestarted> {
    let began = Instant::now();
    let now = jobs::guard(database).map_err(failed)?.run;
    if now <= run {
        let (role, run) = restartable(agent, database)?;
        info!(?role, run, "restarting the database as ordered");
        let log = OperationLog::begin(
            &agent.config.data_dir,
            "restart",
            &format!("run {run} of node {} as {role:?}, ordered by {by}", agent.node()),
        );
        let done = match role {
            Role::Primary(epoch) => primary(agent, database, epoch, run, &log).await,
            Role::Standby => standby(agent, database, run).await,
        };
        let done = match done {
            Ok(()) => await_back(database, run).await,
            failed => failed,
        };
        let text = match &done {
            Ok(()) => "does its work again".to_owned(),
            Err(why) => why.to_string(),
        };
        log.line(&text);
        let note = Note::new(EventKind::Restarted, text).about(agent.node()).asked_by(by);
        notes::tell(agent, note.lasting(millis(began.elapsed())).logged_in(log.name()));
        return done;
    }
    await_back(database, run).await
}

async fn primary<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    epoch: Epoch,
    run: u64,
    log: &OperationLog,
) -> Result<(), NotRestarted> {
    // So that the stop itself is short.
    database.driver.checkpoint(Instant::now() + CHECKPOINT_LIMIT).await.map_err(failed)?;
    let Some(held) = take(agent, database, run)? else { return Ok(()) };
    let say = |step: &'static str, detail: String| {
        info!(step, detail, "restart");
        log.line(&format!("{step}: {detail}"));
    };
    match hand_over::stop_primary(agent, database, epoch, &say).await {
        Ok(_) => {}
        Err(NotStopped::NotBegun(why)) => return Err(NotRestarted::Failed(why)),
        // It is down all the same, and is recovered as it starts.
        Err(NotStopped::Failed(why)) => warn!(why, "the stop was not in order"),
    }
    let restarted = jobs::restart_after_stop(agent, epoch).await;
    drop(held);
    agent.wake.notify_one();
    restarted.map_err(failed)
}

async fn standby<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    run: u64,
) -> Result<(), NotRestarted> {
    let Some(held) = take(agent, database, run)? else { return Ok(()) };
    database.permits.down(StopMode::Fast).map_err(failed)?;
    let gone = hand_over::await_gone(agent, database).await;
    // The control loop starts what is stopped.
    drop(held);
    agent.wake.notify_one();
    if gone { Ok(()) } else { Err(NotRestarted::Failed("it did not stop in time".to_owned())) }
}

/// Takes the database for that run's restart; `None` if the same order, given twice, has restarted it.
fn take<'a, D: PostgresDriver>(
    agent: &Agent<D>,
    database: &'a Database<D>,
    run: u64,
) -> Result<Option<Held<'a, D>>, NotRestarted> {
    let held = hand_over::take(database)
        .map_err(|step| NotRestarted::Busy { node: agent.node().clone(), step: step.to_owned() })?;
    let now = jobs::guard(database).map_err(failed)?.run;
    Ok((now == run).then_some(held))
}

async fn await_back<D: PostgresDriver>(
    database: &Database<D>,
    run: u64,
) -> Result<(), NotRestarted> {
    await_work(database, run).await?;
    await_applied(database, run).await;
    Ok(())
}

/// Waits until a later run than that does its work.
async fn await_work<D: PostgresDriver>(
    database: &Database<D>,
    run: u64,
) -> Result<(), NotRestarted> {
    let until = Instant::now() + START_LIMIT;
    loop {
        let rule = {
            let facts = database.facts();
            let rule = facts.rule().map(|(rule, _)| rule);
            let answers = facts.server.run > run && facts.server.answer.is_some();
            if answers && matches!(rule, Some(Rule::Serving | Rule::Following | Rule::LeaseVacant))
            {
                return Ok(());
            }
            rule.map_or("unknown", Rule::name)
        };
        if Instant::now() >= until {
            return Err(NotRestarted::Failed(format!("it is not back in time: {rule}")));
        }
        sleep(POLL).await;
    }
}

/// Waits until it was looked what a later run than that has of the cluster's configuration: whoever asks next
/// what waits for a restart is told of this one.
async fn await_applied<D: PostgresDriver>(database: &Database<D>, run: u64) {
    let until = Instant::now() + APPLY_LIMIT;
    let is_known = || database.facts().parameters.as_ref().is_some_and(|has| has.run > run);
    while !is_known() && Instant::now() < until {
        sleep(POLL).await;
    }
}

fn failed(error: impl std::fmt::Display) -> NotRestarted {
    NotRestarted::Failed(error.to_string())
}
