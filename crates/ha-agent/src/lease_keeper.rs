//! The holder's renewals, and who may renew at all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::holder::Holder;
use ha_core::{BootNanos, Epoch, NodeId, WalPosition};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{RenewRefused, RenewRequest, renew_refused, renew_reply};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::agent::{Agent, Database, lock};
use crate::clock;
use crate::granter::{self, Told};
use crate::observe::may_renew;

/// How many renewals may be unanswered at once: a slow answer must not delay the next try.
const IN_FLIGHT_MAX: usize = 4;
/// How long one renewal may take: its answer would be worth little after that.
const LIMIT: Duration = Duration::from_millis(1200);
/// How many nodes one renewal is tried at: the one believed to lead, and whom it points to.
const HOPS_MAX: usize = 3;

/// Renews the lease for as long as this node may, until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut tick = interval(agent.config.policy.renew_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = agent.renew_now.notified() => tick.reset(),
            _ = tick.tick() => {}
        }
        let Some(epoch) = lock(&agent.holder).as_ref().map(Holder::epoch) else { continue };
        // A lease is renewed for a node that looks after its database (rules 12 and 88). If its loop
        // hangs, the right ends, and the guard knows when.
        let looped = BootNanos(agent.looped_at.load(Ordering::Relaxed));
        if clock::now().boottime.since(looped) > agent.config.policy.ttl {
            warn!(%epoch, "the control loop hangs, the lease is not renewed");
            continue;
        }
        let Ok(slot) = Arc::clone(&permits).try_acquire_owned() else {
            debug!(%epoch, "renewals pile up");
            continue;
        };
        let agent = Arc::clone(&agent);
        tokio::spawn(async move {
            renew(&agent, epoch).await;
            drop(slot);
        });
    }
}

/// Begins or ends the holder's count as the replicated state says. Called at each tick of the loop.
pub fn follow_state<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) {
    let state = agent.state();
    let permit = database.permits.current();
    let grant = state
        .lease
        .grant()
        .filter(|grant| may_renew(grant, agent.node(), agent.incarnation, &permit));
    let mut holder = lock(&agent.holder);
    match (grant, holder.as_ref().map(Holder::epoch)) {
        (Some(grant), current) if current != Some(grant.epoch) => {
            *holder = Some(Holder::new(grant, agent.config.policy.drift));
            agent.renew_now.notify_one();
        }
        (None, Some(_)) => *holder = None,
        (Some(_), _) | (None, None) => {}
    }
}

/// Gives an epoch up for good on this node, before anybody is told.
///
/// # Errors
/// If the permit could not be written: then nobody may be told.
pub fn burn<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
) -> Result<(), ha_postgres::driver::ActionError> {
    if let Some(holder) = lock(&agent.holder).as_mut().filter(|holder| holder.epoch() <= epoch) {
        holder.burn();
    }
    database.permits.burn(epoch)
}

async fn renew<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) {
    let Some(database) = &agent.database else { return };
    let mut target = agent.raft.status().leader;
    for _ in 0..HOPS_MAX {
        let Some(node) = target.take() else {
            debug!(%epoch, "could not renew lease: no Raft leader is known");
            return;
        };
        let id = agent.next_request();
        // The clock is read before anything of the request leaves.
        let noted = lock(&agent.holder)
            .as_mut()
            .is_some_and(|holder| holder.epoch() == epoch && holder.sending(id, clock::now()));
        if !noted {
            return;
        }
        match ask(agent, database, &node, epoch, id).await {
            Ok(pause) => {
                agent.pause_seen.store(pause, Ordering::Relaxed);
                confirmed(agent, database, epoch, id);
                return;
            }
            Err(Refusal { hint, current, why }) => {
                debug!(%epoch, %node, error = why, "could not renew lease");
                if current > epoch {
                    superseded(agent, database, epoch, current);
                    return;
                }
                target = hint.filter(|hint| *hint != node);
            }
        }
    }
}

struct Refusal {
    hint: Option<NodeId>,
    current: Epoch,
    why: String,
}

async fn ask<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    node: &NodeId,
    epoch: Epoch,
    id: u64,
) -> Result<u64, Refusal> {
    let flushed = database
        .facts()
        .server
        .answer
        .as_ref()
        .map(|(probe, _)| WalPosition { timeline: probe.timeline, lsn: probe.flushed });
    let container = database.driver.container_id();
    if node == agent.node() {
        let told = Told { flushed, container };
        return granter::renew(agent, agent.node(), epoch, told).await.map_err(|why| Refusal {
            hint: agent.raft.status().leader,
            current: agent.state().last_epoch,
            why: why.to_string(),
        });
    }
    let request = RenewRequest {
        cluster: agent.config.cluster.clone(),
        node: agent.node().to_string(),
        epoch: epoch.0,
        request_id: id,
        flushed: flushed.map(Into::into),
        container: container.unwrap_or_default(),
    };
    let failed = |why: String| Refusal { hint: None, current: Epoch::NONE, why };
    let reply = agent
        .peers
        .renew(node, request, limit())
        .await
        .map_err(|error| failed(error.to_string()))?;
    match reply.answer {
        Some(renew_reply::Answer::Renewed(renewed)) if reply.request_id == id => Ok(renewed.pause),
        Some(renew_reply::Answer::Renewed(_)) => Err(failed("it answers another request".into())),
        Some(renew_reply::Answer::Refused(refused)) => Err(refusal(&refused)),
        None => Err(failed("it gave an empty answer".into())),
    }
}

/// How long an answer is waited for. Late ones do no harm as long as the count begins with the request;
/// whoever looks for the harm that they do without that has to let them come.
fn limit() -> Duration {
    #[cfg(feature = "sabotage")]
    if ha_raft::sabotage::is("deadline-from-answer") {
        return LIMIT * 3;
    }
    LIMIT
}

fn refusal(refused: &RenewRefused) -> Refusal {
    let why = renew_refused::Why::try_from(refused.why).unwrap_or_default();
    Refusal {
        hint: refused.leader.parse().ok(),
        current: Epoch(refused.current_epoch),
        why: why.as_str_name().to_owned(),
    }
}

/// A "yes" moves the permit's deadline, unless the epoch was given up meanwhile.
fn confirmed<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>, epoch: Epoch, id: u64) {
    let deadline = {
        let mut holder = lock(&agent.holder);
        let Some(holder) = holder.as_mut().filter(|holder| holder.epoch() == epoch) else { return };
        #[cfg(feature = "sabotage")]
        if ha_raft::sabotage::is("deadline-from-answer") {
            // As if the request had been sent when the answer came.
            let _noted = holder.sending(id, clock::now());
        }
        let first = !holder.is_proven();
        if !holder.confirmed(id) {
            return;
        }
        if first {
            agent.wake.notify_one();
        }
        holder.deadline(clock::now())
    };
    let Some(deadline) = deadline else { return };
    if let Err(error) = database.permits.extend(epoch, deadline) {
        warn!(%epoch, %error, "could not renew permit");
    }
}

/// A holder that was told a higher epoch stops at once.
fn superseded<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
    current: Epoch,
) {
    // A late answer to an earlier grant says nothing of the present one.
    if lock(&agent.holder).as_ref().map(Holder::epoch) != Some(epoch) {
        return;
    }
    warn!(%epoch, %current, "lease is lost: a later epoch was granted");
    if let Err(error) = burn(agent, database, epoch) {
        warn!(%epoch, %error, "could not withdraw permit, the guard will at its deadline");
    }
    agent.wake.notify_one();
}
