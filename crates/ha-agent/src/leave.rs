//! SIGTERM: hand the primary role over if a fit standby exists, stop the database, go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::permit::{Order, StopMode};
use ha_core::state::{Command, VacateReason};
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::PostgresDriver;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::agent::{Agent, Database, lock};
use crate::events;
use crate::granter;
use crate::hand_over;
use crate::lease_keeper;

/// How long the checkpoint before the stop may take, while clients are served (rule 32).
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(60);
/// How long the cluster may take to have a new primary before the agent goes.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(5);
/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(3);
/// How long reading the end of WAL may take.
const WAL_END_LIMIT: Duration = Duration::from_secs(5);
/// How long ending the guard may take.
const STOP_SLACK: Duration = Duration::from_secs(15);

/// Does everything that has to be done before the agent ends.
pub async fn leave<D: PostgresDriver>(agent: &Arc<Agent<D>>) {
    if let Some(database) = &agent.database {
        // In a pause nothing is stopped.
        let keep = agent.config.postgres.as_ref().is_some_and(|p| p.leave_running)
            || agent.state().is_paused();
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

/// Stops the database of a node that belongs to a cluster which was given up, whatever its permit allows: in a pause
/// that has no deadline. What it would still write is lost in any case.
pub async fn give_up<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(database) = &agent.database else { return };
    hand_over::take_for_good(database);
    agent.leaving.store(true, Ordering::Relaxed);
    if let Some(holder) = lock(&agent.holder).as_mut() {
        holder.burn();
    }
    if let Err(error) = database.permits.down(StopMode::Immediate) {
        warn!(%error, "could not stop the database");
    }
    if hand_over::await_gone(agent, database).await {
        stop_guard(agent, database).await;
    } else {
        warn!("the database did not stop in time: its guard goes on with that");
    }
}

async fn stop_database<D: PostgresDriver>(agent: &Arc<Agent<D>>, database: &Database<D>) {
    let epoch = match database.permits.current().order {
        Order::Primary { epoch, .. } => Some(epoch),
        Order::Standby | Order::Down { .. } => None,
    };
    // From here on the loop leaves the database alone.
    hand_over::take_for_good(database);
    let successor = match epoch {
        Some(_) => hand_over::fit_standby(agent).await,
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
    if !hand_over::await_gone(agent, database).await {
        warn!("the database did not stop in time, the lease is left to expire");
        return;
    }
    if let Some(epoch) = epoch {
        release(agent, database, epoch, successor.as_ref()).await;
    }
    stop_guard(agent, database).await;
}

/// Gives the lease back once the standby has the end of our WAL, and waits for its promotion.
async fn release<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
    successor: Option<&NodeId>,
) {
    if let Some(to) = successor {
        match database.driver.end_of_wal(Instant::now() + WAL_END_LIMIT).await {
            Ok(end) if hand_over::await_arrival(agent, to, end).await => {}
            Ok(end) => warn!(%to, %end, "the standby has not received the end of WAL in time"),
            Err(error) => warn!(%error, "could not read the end of WAL"),
        }
    }
    if let Err(error) = lease_keeper::burn(agent, database, epoch) {
        warn!(%error, "could not give the epoch up, the lease is left to expire");
        return;
    }
    let reason = VacateReason::Released { why: "agent_stopping".to_owned() };
    match agent.submit(Command::Vacate { epoch, reason, pauses: 0 }, SUBMIT_LIMIT).await {
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

/// The guard of a stopped database has nothing left to guard.
async fn stop_guard<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) {
    if let Err(error) = database.driver.stop_guard(Instant::now() + STOP_SLACK).await {
        warn!(node = %agent.node(), %error, "could not stop the guard");
    }
}
