//! What is put right now and then, and nothing waits for.

use std::sync::Arc;
use std::time::Duration;

use ha_core::view::{Health, Instance, LeaseView, Upstream};
use ha_core::{Lsn, NodeId, NodeKind, WalPosition};
use ha_postgres::driver::{GuardSeen, PostgresDriver};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::agent::{Agent, lock};
use crate::control_loop;
use crate::credentials;
use crate::diverged;
use crate::founding;
use crate::jobs;

/// How often.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long putting the slots right may take.
const SLOTS_LIMIT: Duration = Duration::from_secs(5);

/// Keeps slots and addresses right, until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        founding::describe(&agent).await;
        mend_permit(&agent);
        record_promotion(&agent).await;
        keep_internal_user(&agent).await;
        credentials::mend_pass_file(&agent).await;
        // Rule 81.
        if !agent.state().is_paused() {
            keep_slots(&agent).await;
        }
        tidy(&agent).await;
    }
}

/// Peers can stream, clone and rewind from this node only as the internal user: made sure of once in each
/// run as a primary, and again after a failure.
async fn keep_internal_user<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(database) = &agent.database else { return };
    let GuardSeen::Alive(status) = database.driver.guard() else { return };
    let run = status.run;
    let instance = control_loop::view(agent, database, &GuardSeen::Alive(status)).instance;
    let done = database.facts().internal_user_kept == Some(run);
    if done || !matches!(instance, Instance::Primary(Health::Fine)) {
        return;
    }
    match database.driver.keep_internal_user(Instant::now() + SLOTS_LIMIT).await {
        Ok(changed) => {
            database.facts().internal_user_kept = Some(run);
            if changed {
                info!("made the internal user for replication, or set its password");
            }
        }
        Err(error) => debug!(%error, "could not make sure of the internal user"),
    }
}

/// A promotion that was not recorded, or not followed by its checkpoint, because the job that saw it was
/// cut short: done again here.
async fn record_promotion<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(database) = &agent.database else { return };
    let GuardSeen::Alive(status) = database.driver.guard() else { return };
    let view = control_loop::view(agent, database, &GuardSeen::Alive(status.clone()));
    let serving = matches!(view.instance, Instance::Primary(Health::Fine));
    if view.lease != LeaseView::Ours || !serving {
        return;
    }
    let state = agent.state();
    let recorded = state.history.iter().any(|promotion| promotion.epoch == view.epoch);
    let Some((timeline, checked)) = database
        .facts()
        .answer(status.run)
        .filter(|probe| !probe.in_recovery)
        .map(|probe| (probe.timeline, probe.checkpoint_on_timeline))
    else {
        return;
    };
    let promoted_here = state.latest_promotion().is_none_or(|last| timeline > last.begin.timeline);
    // The job does it first; this comes in only where it could not.
    let job_had_time =
        database.facts().rule().is_some_and(|(_, lasts)| lasts > Duration::from_secs(1));
    if !job_had_time || (recorded || !promoted_here) && checked {
        return;
    }
    let driver = Arc::clone(&database.driver);
    let history = tokio::task::spawn_blocking(move || driver.local_history()).await;
    let Ok(Ok(history)) = history else { return };
    let Some(end) = history.iter().filter(|s| s.timeline < timeline).map(|s| s.end).max() else {
        return;
    };
    jobs::record_promotion(agent, view.epoch, WalPosition { timeline, lsn: end }).await;
}

fn mend_permit<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(database) = &agent.database else { return };
    let guard_run = match database.driver.guard() {
        GuardSeen::Alive(status) => status.run,
        GuardSeen::Absent | GuardSeen::Silent { .. } => 0,
    };
    match database.permits.mend(guard_run) {
        Ok(false) => {}
        Ok(true) => warn!("the permit was damaged or gone, it was written again"),
        Err(error) => warn!(%error, "could not write the permit"),
    }
}

/// Each data node keeps a physical slot for every other one; a standby advances its copies to what the
/// others have, so that either can follow the other after a failover (rules 78 to 82).
async fn keep_slots<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(database) = &agent.database else { return };
    let instance = control_loop::view(agent, database, &database.driver.guard()).instance;
    if !matches!(instance, Instance::Primary(_) | Instance::Standby(Upstream::Right)) {
        return;
    }
    let state = agent.state();
    let peers: Vec<NodeId> = state
        .nodes
        .iter()
        .filter(|(node, is)| (is.kind == NodeKind::Data || is.keeps_wal) && *node != agent.node())
        .map(|(node, _)| node.clone())
        .collect();
    let positions: Vec<(NodeId, Lsn)> = {
        let sightings = lock(&agent.sightings);
        let flushed = |node: &NodeId| {
            let report = sightings.get(node)?.current()?;
            let kept = report.witness.as_ref().and_then(|witness| witness.tip.as_ref()?.end);
            let end = kept.or(report.postgres.as_ref().and_then(|postgres| postgres.flushed))?;
            Some(Lsn(end.lsn))
        };
        peers.iter().filter_map(|node| Some((node.clone(), flushed(node)?))).collect()
    };
    let deadline = Instant::now() + SLOTS_LIMIT;
    match database.driver.keep_slots(&peers, &positions, &state.gone, deadline).await {
        Ok(lost) if lost.is_empty() => {}
        Ok(lost) => {
            let lost: Vec<&str> = lost.iter().map(NodeId::as_str).collect();
            info!(slots = lost.join(", "), "slots had lost their WAL and were made anew");
        }
        Err(error) => debug!(%error, "could not put the slots right"),
    }
}

/// What was kept aside does not grow without a bound.
async fn tidy<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(database) = &agent.database else { return };
    if database.facts().job.is_some() {
        return;
    }
    diverged::tidy(agent).await;
    let (driver, keep) = (Arc::clone(&database.driver), agent.config.diverged.keep_max);
    let pruned = tokio::task::spawn_blocking(move || driver.prune_aside(keep)).await;
    match pruned {
        Ok(Ok(gone)) => {
            for dir in gone {
                info!(dir = %dir.display(), "a data directory that was kept aside was removed");
            }
        }
        Ok(Err(error)) => debug!(%error, "could not look after the directories kept aside"),
        Err(error) => debug!(%error, "could not look after the directories kept aside"),
    }
}
