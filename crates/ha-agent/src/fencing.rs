//! A kill from outside: the granter ends a holder that it does not hear, through the engine of its host.
//!
//! None of it is needed for safety, which is the ttl's and the guard's: it makes a failover quicker where
//! the other host lives and its agent does not. `ARCHITECTURE.md`, "A kill from outside", says why the
//! ttl need not be waited for once a kill is confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::granter::Overdue;
use ha_postgres::PeerEngine;
use ha_postgres::driver::PostgresDriver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::agent::{Agent, lock};
use crate::clock;
use crate::events;
use crate::granter;

/// How often the leader looks whether the holder was heard of.
const TICK: Duration = Duration::from_millis(50);
/// The pause after a kill that was not confirmed.
const PAUSE: Duration = Duration::from_millis(500);

/// Watches the holder while this node leads, until the agent ends. Done at once if nothing is configured.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let engines: BTreeMap<&NodeId, PeerEngine> = agent
        .config
        .fencing
        .peers
        .iter()
        .map(|(node, peer)| (node, PeerEngine::new(&peer.container, peer.engine.clone())))
        .collect();
    if engines.is_empty() {
        return;
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some((holder, overdue)) = overdue(&agent) else { continue };
        let Some(engine) = engines.get(&holder) else { continue };
        if !kill(&agent, engine, &holder, &overdue).await {
            sleep(PAUSE).await;
        }
    }
}

/// Returns the holder that was not heard of for too long, if this node leads.
fn overdue<D: PostgresDriver>(agent: &Agent<D>) -> Option<(NodeId, Overdue)> {
    let (_, state) = granter::observe(agent).ok()?;
    let patience = agent.config.fencing.after;
    let overdue = lock(&agent.granter).overdue(&state.lease, clock::now(), patience)?;
    Some((state.lease.holder()?.clone(), overdue))
}

/// Kills the container that the holder's guard runs in. Returns whether its death is confirmed.
async fn kill<D: PostgresDriver>(
    agent: &Agent<D>,
    engine: &PeerEngine,
    holder: &NodeId,
    overdue: &Overdue,
) -> bool {
    let (began, patience) = (Instant::now(), agent.config.fencing.after);
    let Overdue { epoch, container, .. } = overdue;
    // From here on no renewal of that epoch is confirmed, whatever becomes of the order.
    let go = || {
        let leads = granter::observe(agent).is_ok();
        let refused = leads && lock(&agent.granter).refuse(overdue, clock::now(), patience);
        if refused {
            info!(%epoch, %holder, container, "holder is not heard of, killing its container");
        }
        refused
    };
    match engine.kill(container, go).await {
        Ok(()) => {
            let counts = lock(&agent.granter).killed(overdue);
            if counts {
                let took = began.elapsed();
                events::HolderKilled { epoch: *epoch, holder, container, took }.emit();
            }
            counts
        }
        Err(error) => {
            warn!(%epoch, %holder, %error, "could not kill the holder's container, its ttl counts");
            false
        }
    }
}
