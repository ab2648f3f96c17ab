//! SIGTERM: hand the primary role over if a fit standby exists, stop the database, go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::permit::{Order, StopMode};
use ha_core::state::{Command, VacateReason};
use ha_core::view::Job;
use ha_core::{Epoch, NodeId, WalPosition};
use ha_postgres::driver::{GuardSeen, PostgresDriver};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::agent::{Agent, Database, lock};
use crate::events;
use crate::facts::RunningJob;
use crate::granter;
use crate::lease_keeper;
use crate::report;

/// How long the checkpoint before the stop may take, while clients are served (rule 32).
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(60);
/// How long a standby may take to receive the end of our WAL (rule 33).
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// How long a standby may take to report, and how often in a row it may not.
const ASK_LIMIT: Duration = Duration::from_millis(500);
const SILENT_MAX: u32 = 3;
/// How long the cluster may take to have a new primary before the agent goes.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(5);
/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(3);
/// How long reading the end of WAL may take.
const WAL_END_LIMIT: Duration = Duration::from_secs(5);
/// What the guard's escalation may add to the fast stop.
const STOP_SLACK: Duration = Duration::from_secs(15);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);

/// Does everything that has to be done before the agent ends.
pub async fn leave<D: PostgresDriver>(agent: &Arc<Agent<D>>) {
    if let Some(database) = &agent.database {
        let keep = agent.config.postgres.as_ref().is_some_and(|p| p.leave_running);
        if keep {
            info!("leaving the database running under its permit");
            agent.leaving.store(true, Ordering::Relaxed);
        } else {
            stop_database(agent, database).await;
        }
    }
    agent.leaving.store(true, Ordering::Relaxed);
    if agent.raft.status().is_leader
        && let Some(to) = granter::transfer_target(agent, &agent.state())
        && let Err(error) = agent.raft.transfer_leader(&to).await
    {
        // The others elect a leader by themselves, a second later.
        info!(%to, %error, "could not hand Raft leadership over");
    }
}

async fn stop_database<D: PostgresDriver>(agent: &Arc<Agent<D>>, database: &Database<D>) {
    let epoch = match database.permits.current().order {
        Order::Primary { epoch, .. } => Some(epoch),
        Order::Standby | Order::Down { .. } => None,
    };
    // From here on the loop leaves the database alone.
    let marker = tokio::spawn(std::future::pending::<()>());
    let before = database.facts().job.replace(RunningJob {
        job: Job::HandOver,
        step: "hand_over",
        since: Instant::now(),
        abort: marker.abort_handle(),
        progress: String::new(),
    });
    if let Some(job) = before {
        job.abort.abort();
    }
    let successor = match epoch {
        Some(_) => fit_standby(agent).await,
        None => None,
    };
    if let Some(to) = &successor {
        info!(%to, "handing the primary role over");
        // While clients are served, so that the stop itself is short.
        let deadline = Instant::now() + CHECKPOINT_LIMIT;
        if let Err(error) = database.driver.checkpoint(deadline).await {
            warn!(%error, "checkpoint before the stop failed");
        }
    }
    agent.leaving.store(true, Ordering::Relaxed);
    // From here on this node renews its lease no more; the guard holds the stop to the last deadline.
    if let Some(epoch) = epoch
        && let Some(holder) = lock(&agent.holder).as_mut().filter(|h| h.epoch() <= epoch)
    {
        holder.burn();
    }
    if let Err(error) = database.permits.down(StopMode::Fast) {
        warn!(%error, "could not stop the database");
    }
    if !await_gone(agent, database).await {
        warn!("the database did not stop in time, the lease is left to expire");
        return;
    }
    if let Some(epoch) = epoch {
        hand_over(agent, database, epoch, successor.as_ref()).await;
    }
    stop_guard(agent, database).await;
}

/// A standby that says just now that it is fit: it may be leaving too.
async fn fit_standby<D: PostgresDriver>(agent: &Agent<D>) -> Option<NodeId> {
    let seen: Vec<NodeId> = lock(&agent.sightings)
        .iter()
        .filter(|(_, seen)| seen.current().is_some_and(granter::fit))
        .map(|(node, _)| node.clone())
        .collect();
    for node in seen {
        let reply = agent.peers.report(&node, report::request(agent, true), ASK_LIMIT).await;
        if reply.is_ok_and(|report| granter::fit(&report)) {
            return Some(node);
        }
    }
    None
}

async fn await_gone<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) -> bool {
    let limit = agent.config.postgres.as_ref().map_or(STOP_SLACK, |p| p.fast_stop + STOP_SLACK);
    let until = Instant::now() + limit;
    while Instant::now() < until {
        match database.driver.guard() {
            GuardSeen::Alive(status) if status.state.is_gone() => return true,
            GuardSeen::Absent => {
                return database.driver.kill_orphans(until).await.is_ok();
            }
            GuardSeen::Alive(_) | GuardSeen::Silent { .. } => sleep(POLL).await,
        }
    }
    false
}

/// Gives the lease back once the standby has the end of our WAL, and waits for its promotion.
async fn hand_over<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
    successor: Option<&NodeId>,
) {
    if let Some(to) = successor {
        match database.driver.end_of_wal(Instant::now() + WAL_END_LIMIT).await {
            Ok(end) => await_arrival(agent, to, end).await,
            Err(error) => warn!(%error, "could not read the end of WAL"),
        }
    }
    if let Err(error) = lease_keeper::burn(agent, database, epoch) {
        warn!(%error, "could not give the epoch up, the lease is left to expire");
        return;
    }
    let reason = VacateReason::Released { why: "agent_stopping".to_owned() };
    match agent.submit(Command::Vacate { epoch, reason }, SUBMIT_LIMIT).await {
        Ok(_) => {
            events::LeaseReleased { node: agent.node(), epoch, why: "agent_stopping" }.emit();
        }
        Err(error) => warn!(%epoch, %error, "could not release the lease, it will expire"),
    }
    if successor.is_none() {
        return;
    }
    let mut state = agent.raft.state();
    let taken = state.wait_for(|now| {
        now.state.lease.grant().is_some_and(|g| g.epoch > epoch && g.holder != *agent.node())
    });
    if tokio::time::timeout(SUCCESSOR_LIMIT, taken).await.is_err() {
        warn!("no other node has taken over yet");
    }
}

async fn await_arrival<D: PostgresDriver>(agent: &Agent<D>, to: &NodeId, end: WalPosition) {
    let until = Instant::now() + ARRIVAL_LIMIT;
    let mut silent = 0;
    while Instant::now() < until {
        let request = report::request(agent, true);
        let reply = agent.peers.report(to, request, ASK_LIMIT).await;
        silent = if reply.is_ok() { 0 } else { silent + 1 };
        if silent >= SILENT_MAX {
            break;
        }
        let has = reply.ok().and_then(|r| r.postgres?.flushed).map(WalPosition::from);
        if has.is_some_and(|has| has.timeline == end.timeline && has.lsn >= end.lsn) {
            info!(%to, %end, "the standby has everything");
            return;
        }
        sleep(POLL).await;
    }
    warn!(%to, %end, "the standby has not received the end of WAL in time");
}

/// The guard of a stopped database has nothing left to guard.
async fn stop_guard<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) {
    if let Err(error) = database.driver.stop_guard(Instant::now() + STOP_SLACK).await {
        warn!(node = %agent.node(), %error, "could not stop the guard");
    }
}
