//! The steps that take time, each as one job. A job ends by itself: every wait in it has a bound.

mod catch_up;
mod crash;
mod rejoin;
mod serve;

pub use catch_up::{fast_forward, refill};
pub use crash::{assess_crash, restart_after_stop, restart_in_place};
pub use rejoin::{bootstrap, clone, compare, follow, rewind, start_standby};
pub use serve::{promote, record_promotion, release};

use std::time::Duration;

use ha_core::NodeId;
use ha_core::permit::{GuardStatus, RunState};
use ha_postgres::driver::{ActionError, GuardSeen, PostgresDriver, Upstream};
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, Database, SubmitError};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(10);

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The driver says no.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// The cluster could not be told.
    #[error("could not {what}: {source}")]
    Submit {
        /// What was to be told.
        what: &'static str,
        /// Why not.
        source: SubmitError,
    },
    /// The cluster said no.
    #[error("could not {what}: {why}")]
    Refused {
        /// What was to be told.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The server was to start and did not.
    #[error("could not start PostgreSQL: {0}")]
    NotStarted(String),
    /// What the step needs is not there any more, or not yet.
    #[error("{0}")]
    NotNow(String),
}

/// Returns the database of a data node: steps are only decided on one.
fn database<D>(agent: &Agent<D>) -> Result<&Database<D>, JobError> {
    agent.database.as_ref().ok_or_else(|| JobError::NotNow("a witness has no database".to_owned()))
}

fn upstream<D>(agent: &Agent<D>, node: &NodeId) -> Result<Upstream, JobError> {
    agent
        .upstream(node)
        .ok_or_else(|| JobError::NotNow(format!("the address of node {node} is not known yet")))
}

/// Returns the guard's status, if it reports.
pub(crate) fn guard<D: PostgresDriver>(database: &Database<D>) -> Result<GuardStatus, JobError> {
    match database.driver.guard() {
        GuardSeen::Alive(status) => Ok(status),
        GuardSeen::Absent | GuardSeen::Silent { .. } => {
            Err(JobError::NotNow("the guard does not answer".to_owned()))
        }
    }
}

/// Waits until the server of `run` answers, ends, or has been starting for `limit`.
async fn await_answer<D: PostgresDriver>(
    database: &Database<D>,
    run: u64,
    limit: Duration,
) -> Result<(), JobError> {
    let until = Instant::now() + limit;
    while database.facts().answer(run).is_none() && Instant::now() < until {
        if guard(database)?.state.is_gone() {
            let why = "it ended right after its start, see its log".to_owned();
            return Err(JobError::NotStarted(why));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits until the guard reports that `run` is under way.
async fn await_running<D: PostgresDriver>(
    database: &Database<D>,
    run: u64,
    limit: Duration,
) -> Result<(), JobError> {
    let until = Instant::now() + limit;
    loop {
        let status = guard(database)?;
        match status.state {
            RunState::Running if status.run >= run => return Ok(()),
            RunState::Refused if status.run >= run => {
                return Err(JobError::NotStarted(format!("the guard refused: {}", status.reason)));
            }
            RunState::Exited | RunState::KilledAtDeadline if status.run >= run => {
                let why = "it ended right after its start, see its log".to_owned();
                return Err(JobError::NotStarted(why));
            }
            _ => {}
        }
        if Instant::now() >= until {
            return Err(JobError::NotStarted(format!("the guard did not start run {run} in time")));
        }
        sleep(POLL).await;
    }
}
