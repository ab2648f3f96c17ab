//! Brings the local server in line with the cluster's configuration, and looks whether it stays so.

use std::sync::Arc;
use std::time::Duration;

use ha_core::view::{Health, Instance};
use ha_postgres::driver::{ActionError, ClusterApplied, GuardSeen, PostgresDriver};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::{Applied, conf};
use crate::agent::{Agent, Database};
use crate::control_loop;

/// How often it is looked whether anything changed; that costs nothing.
const TICK: Duration = Duration::from_millis(250);
/// How often the server is asked whether somebody else changed it, and what waits for a restart.
const LOOK: Duration = Duration::from_secs(5);
/// How long one attempt may take.
const LIMIT: Duration = Duration::from_secs(5);
/// After how many failures in a row that is a trouble.
const FAILURES_MAX: u32 = 5;
/// What its troubles are about.
const ABOUT: &str = "parameters";

/// Which server was brought in line, with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    run: u64,
    version: u64,
    standby: bool,
}

/// Tells the driver what every later start, clone and rewind is to write.
pub fn tell<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) {
    let state = agent.state();
    // An agent that was started a moment ago may know nothing yet.
    if state.is_founded() {
        database.driver.want(Some(conf(&state.settings)));
    }
}

/// Tells it that the next start is to change nothing: nobody ordered it.
pub fn tell_as_it_ran<D: PostgresDriver>(database: &Database<D>) {
    database.driver.want(None);
}

/// To be called when the server ended right after its start.
pub fn condemn<D: PostgresDriver>(database: &Database<D>) {
    match database.driver.condemn_cluster() {
        Ok(true) => warn!("the next start is with the parameters of before"),
        Ok(false) => {}
        Err(error) => warn!(%error, "could not note that the server did not start"),
    }
}

/// Keeps the server in line, until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let Some(database) = &agent.database else { return };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut done: Option<(Target, Instant)> = None;
    let mut failures = 0_u32;
    loop {
        tick.tick().await;
        let Some(target) = target(&agent, database) else { continue };
        let fresh = done.is_some_and(|(of, at)| of == target && at.elapsed() < LOOK);
        let idle = done.is_some_and(|(of, _)| of == target) && !is_watched(&agent, database);
        if fresh || idle {
            continue;
        }
        tell(&agent, database);
        let applied = database.driver.apply_cluster(target.standby, Instant::now() + LIMIT).await;
        failures = if applied.is_ok() { 0 } else { failures.saturating_add(1) };
        if applied.is_ok() {
            done = Some((target, Instant::now()));
        }
        note(database, target, applied, failures);
    }
}

/// The running server that may be changed now.
fn target<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) -> Option<Target> {
    let state = agent.state();
    if !state.is_founded() || state.is_paused() || state.system_identifier.is_none() {
        return None;
    }
    let guard = database.driver.guard();
    let GuardSeen::Alive(status) = &guard else { return None };
    let run = status.run;
    let instance = control_loop::view(agent, database, &guard).instance;
    if !matches!(instance, Instance::Primary(Health::Fine) | Instance::Standby(_)) {
        return None;
    }
    let facts = database.facts();
    // A job changes the same files, and may be a promotion, which waits for nothing.
    if facts.job.is_some() {
        return None;
    }
    let standby = facts.answer(run)?.in_recovery;
    Some(Target { run, version: state.config_version, standby })
}

/// Whether the server has to be asked again though nothing was ordered.
fn is_watched<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) -> bool {
    let ours = agent.state().settings.keys().any(|key| key.starts_with(super::PREFIX));
    let facts = database.facts();
    let flagged = facts.server.answer.as_ref().is_some_and(|(probe, _)| probe.pending_restart);
    let noted = facts.parameters.as_ref().is_some_and(|applied| !applied.pending.is_empty());
    ours || flagged != noted || noted
}

fn note<D: PostgresDriver>(
    database: &Database<D>,
    target: Target,
    applied: Result<ClusterApplied, ActionError>,
    failures: u32,
) {
    let mut facts = database.facts();
    match applied {
        Ok(ClusterApplied { pending, own, fallen_back, .. }) => {
            let Target { run, version, .. } = target;
            let applied = Applied { run, version, pending, own, fallen_back: fallen_back.clone() };
            facts.parameters = Some(applied);
            let line = fallen_back.map(|why| {
                format!(
                    "its server runs with the parameters of before: {why}; change the \
                     configuration, or try it again by haclt reload"
                )
            });
            facts.trouble(ABOUT, line);
        }
        Err(error) => {
            debug!(%error, failures, "could not apply the cluster's configuration");
            if failures >= FAILURES_MAX {
                let line = format!("could not apply the cluster's configuration: {error}");
                facts.trouble(ABOUT, Some(line));
            }
        }
    }
}
