//! Changes of the durability mode: recorded, and waited for.

use std::sync::Arc;
use std::time::Duration;

use ha_core::policy::Durability;
use ha_core::state::{Command, Outcome, State};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{ConfigSetReply, ConfigSetRequest};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{DURABILITY, founded};
use crate::agent::{Agent, SubmitError};
use crate::quorum_keeper::shown;

/// How long recording a change may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(5);
/// How long a call may wait for a change to be in force.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Changes the mode, and waits until the change is in force if it is asked to.
///
/// # Errors
/// `InvalidArgument` for a value that is none, `FailedPrecondition` if a rule refuses,
/// `Aborted` if somebody else changed the configuration at the same moment, `Unavailable` if it could
/// not be recorded.
pub(super) async fn set<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &ConfigSetRequest,
) -> Result<ConfigSetReply, Status> {
    let wanted: Durability = request
        .value
        .parse()
        .map_err(|error| Status::invalid_argument(format!("{DURABILITY}: {error}")))?;
    let before = founded(agent)?;
    let unchanged = before.durability == wanted;
    if !unchanged {
        record(agent, &before, wanted, &request.by).await?;
    }
    let limit = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
    let until = Instant::now() + if request.wait { limit } else { Duration::ZERO };
    let done = await_in_force(agent, wanted, until).await;
    let state = agent.state();
    let outcome = match (done, unchanged) {
        (true, true) => "unchanged",
        (true, false) => "done",
        (false, _) => "accepted",
    };
    Ok(ConfigSetReply {
        outcome: outcome.to_owned(),
        detail: detail(&state, wanted, done),
        before: before.durability.to_string(),
        version: state.config_version,
    })
}

async fn record<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    before: &State,
    durability: Durability,
    by: &str,
) -> Result<(), Status> {
    let (version, by) = (before.config_version, by.to_owned());
    let command = Command::SetDurability { version, durability, by };
    match agent.submit(command, SUBMIT_LIMIT).await {
        Ok(Outcome::Applied) => {}
        // The first answer was lost, and it was sent again.
        Ok(Outcome::Refused(_)) if agent.state().durability == durability => {}
        Ok(Outcome::Refused(why @ ha_core::state::Refused::StaleVersion { .. })) => {
            return Err(Status::aborted(format!("somebody else changed the configuration: {why}")));
        }
        Ok(Outcome::Refused(why)) => return Err(Status::failed_precondition(why.to_string())),
        Err(SubmitError::NotTaken(why)) => return Err(Status::unavailable(why)),
        Err(SubmitError::Unknown(why)) => return Err(Status::deadline_exceeded(why)),
    }
    // This node shall know it before it answers.
    let mut state = agent.raft.state();
    let applied = state.wait_for(|now| now.state.config_version > before.config_version);
    drop(timeout_at(Instant::now() + SUBMIT_LIMIT, applied).await);
    Ok(())
}

/// Waits until elections and the primary's server go by a quorum of that mode. Returns whether they do.
async fn await_in_force<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    wanted: Durability,
    until: Instant,
) -> bool {
    let mut state = agent.raft.state();
    let in_force = state.wait_for(|now| is_in_force(&now.state, wanted));
    matches!(timeout_at(until, in_force).await, Ok(Ok(_)))
}

fn is_in_force(state: &State, wanted: Durability) -> bool {
    let Some(recorded) = &state.recorded else { return false };
    let wide = wanted != Durability::StrictStandby
        || recorded.quorum == state.quorum_for(&recorded.primary, |_| true);
    recorded.mode == wanted && state.durability == wanted && wide
}

fn detail(state: &State, wanted: Durability, done: bool) -> String {
    let Some(recorded) = &state.recorded else {
        return format!("{wanted} will be in force with the first primary");
    };
    let now = format!("in force is {}: {}", recorded.mode, shown(&recorded.quorum));
    if done {
        return now;
    }
    match state.lease.holder() {
        None => format!("{now}; the change waits for a primary"),
        Some(holder) => format!("{now}; node {holder} changes it once enough nodes have caught up"),
    }
}
