//! What is put right now and then, and nothing waits for.

use std::sync::Arc;
use std::time::Duration;

use ha_core::view::{Instance, Upstream};
use ha_core::{Lsn, NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::agent::{Agent, lock};
use crate::control_loop;
use crate::founding;

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
        keep_slots(&agent).await;
    }
}

fn mend_permit<D: PostgresDriver>(agent: &Agent<D>) {
    let Some(database) = &agent.database else { return };
    match database.permits.mend() {
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
        .filter(|(node, is)| is.kind == NodeKind::Data && *node != agent.node())
        .map(|(node, _)| node.clone())
        .collect();
    let positions: Vec<(NodeId, Lsn)> = {
        let sightings = lock(&agent.sightings);
        let flushed = |node: &NodeId| {
            let report = sightings.get(node)?.current()?;
            Some(Lsn(report.postgres.as_ref()?.flushed?.lsn))
        };
        peers.iter().filter_map(|node| Some((node.clone(), flushed(node)?))).collect()
    };
    let deadline = Instant::now() + SLOTS_LIMIT;
    if let Err(error) = database.driver.keep_slots(&peers, &positions, deadline).await {
        debug!(%error, "could not put the slots right");
    }
}
