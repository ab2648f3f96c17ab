//! After a crash of the primary database, while its lease still holds.

use std::sync::Arc;
use std::time::Duration;

use ha_core::Epoch;
use ha_core::state::journal::{EventKind, Note};
use ha_core::view::Crash;
use ha_postgres::driver::{DataDir, PostgresDriver};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{JobError, await_answer, await_running, database, guard};
use crate::agent::{Agent, lock};
use crate::clock;
use crate::crash_point;
use crate::granter;
use crate::notes;
use crate::observe::was_primary;
use crate::parameters;
use crate::report;

/// How long reading the end of WAL may take.
const WAL_END_LIMIT: Duration = Duration::from_secs(5);
/// How long a standby may take to say what it has.
const REPORT_LIMIT: Duration = Duration::from_millis(400);
/// How often, and how long, a standby is asked whether the rest has arrived: WAL may still be on its
/// way when the primary dies.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const ARRIVAL_LIMIT: Duration = Duration::from_millis(50);
/// How long writing the configuration of a restart may take.
const PREPARE_LIMIT: Duration = Duration::from_secs(10);
/// How long the guard may take to start it.
const START_LIMIT: Duration = Duration::from_secs(5);
/// How long a server that an operator has restarted is watched: it may end right after its start.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Finds out what the crash calls for: the standby takes over if it has every byte; otherwise crash
/// recovery in place loses nothing, unless it was tried too often.
///
/// # Errors
/// [`JobError`] if the database is not down.
pub async fn assess_crash<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let status = guard(database)?;
    if !status.state.is_gone() {
        return Err(JobError::NotNow("the database is not down yet".to_owned()));
    }
    let now = Instant::now();
    let policy = agent.config.policy.crash;
    let crashes = {
        let mut facts = database.facts();
        facts.crashes.retain(|at| now.duration_since(*at) < policy.window);
        facts.crashes.push(now);
        facts.crashes.len()
    };
    let end = database.driver.end_of_wal(now + WAL_END_LIMIT).await;
    let note = Note::new(EventKind::Crashed, format!("number {crashes} within a while"));
    let note = end.iter().copied().fold(note.about(agent.node()), Note::at);
    notes::tell(&agent, note);
    let caught_up = match &end {
        Ok(end) => standby_has(&agent, *end).await,
        Err(error) => {
            warn!(%error, "could not read the end of WAL after the crash");
            false
        }
    };
    let looping = u32::try_from(crashes).unwrap_or(u32::MAX) > policy.restarts_max;
    let plan = if caught_up || looping { Crash::FailOver } else { Crash::RestartInPlace };
    info!(
        %epoch, crashes, caught_up, plan = ?plan,
        end = end.map(|end| end.to_string()).unwrap_or_default(), "database crashed"
    );
    database.facts().crash = Some((status.run, plan));
    Ok(())
}

/// Returns whether a fit standby has everything up to `end`.
async fn standby_has<D: PostgresDriver>(agent: &Agent<D>, end: ha_core::WalPosition) -> bool {
    let fit: Vec<_> = lock(&agent.sightings)
        .iter()
        .filter(|(_, seen)| seen.current().is_some_and(granter::fit))
        .map(|(node, _)| node.clone())
        .collect();
    let until = Instant::now() + ARRIVAL_LIMIT;
    while !fit.is_empty() {
        for node in &fit {
            let request = report::request(agent, true);
            let Ok(reply) = agent.peers.report(node, request, REPORT_LIMIT).await else { continue };
            let has = reply.postgres.as_ref().and_then(|postgres| postgres.flushed);
            let has = ha_core::WalPosition::from(has.unwrap_or_default());
            if has.timeline == end.timeline && has.lsn >= end.lsn {
                return true;
            }
        }
        if Instant::now() >= until {
            break;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    false
}

/// Runs crash recovery and goes on as primary under the same grant.
///
/// # Errors
/// [`JobError`] if the right has ended or the guard refuses.
pub async fn restart_in_place<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    epoch: Epoch,
) -> Result<(), JobError> {
    restart(&agent, epoch, Stopped::Crashed).await
}

/// Goes on as primary under the same grant after a stop that led to nothing: its deadline was renewed
/// meanwhile, and nobody else was granted anything.
///
/// # Errors
/// [`JobError`] if the right has ended or the guard refuses.
pub async fn restart_after_stop<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    epoch: Epoch,
) -> Result<(), JobError> {
    restart(agent, epoch, Stopped::Ordered).await
}

/// Why the server does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Crashed,
    Ordered,
}

async fn restart<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
    stopped: Stopped,
) -> Result<(), JobError> {
    let database = database(agent)?;
    let found = database.driver.inspect(Instant::now() + PREPARE_LIMIT).await;
    if !matches!(&found, DataDir::Present(control) if was_primary(control)) {
        database.facts().data_dir = None;
        return Err(JobError::NotNow("the data directory was not left by a primary".to_owned()));
    }
    // Commits that waited when it ended are visible again, though nobody acknowledged them: ordinary
    // clients stay outside until the quorum has them (rule 99). The quorum's keeper lets them in.
    let promised = agent.state().demands().next().is_some();
    match stopped {
        // What waits for a restart waits for one that somebody orders: a standby may not be ready for it.
        Stopped::Crashed => parameters::tell_as_it_ran(database),
        Stopped::Ordered => parameters::tell(agent, database),
    }
    let deadline = Instant::now() + PREPARE_LIMIT;
    let prepared = database.driver.prepare_restart_in_place(!promised, deadline).await;
    if let Err(error) = prepared {
        // Assessed anew, and counted: what cannot be restarted is failed over in the end.
        database.facts().crash = None;
        return Err(error.into());
    }
    crash_point::reached("restart: prepared");
    let after = guard(database)?.run;
    let deadline = lock(&agent.holder)
        .as_ref()
        .filter(|holder| holder.epoch() == epoch)
        .and_then(|holder| holder.deadline(clock::now()))
        .ok_or_else(|| JobError::NotNow(format!("the right of epoch {epoch} has ended")))?;
    let run = match stopped {
        Stopped::Crashed => database.permits.restart_in_place(epoch, deadline, after)?,
        Stopped::Ordered => database.permits.restart_after_stop(epoch, deadline, after)?,
    };
    crash_point::reached("restart: permitted");
    database.facts().closed_run = promised.then_some(run);
    await_running(database, run, START_LIMIT).await?;
    if stopped == Stopped::Crashed {
        return Ok(());
    }
    let started = await_answer(database, run, ANSWER_LIMIT).await;
    if matches!(started, Err(JobError::NotStarted(_))) {
        parameters::condemn(database);
    }
    started
}
