//! The drill's client: one connection, one row after the other, to whichever data node takes it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ha_core::{NodeId, NodeKind};
use ha_postgres::Role;
use ha_postgres::drill::{Writer, Written};
use ha_postgres::driver::PostgresDriver;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::tally::Tally;
use crate::agent::{Agent, lock};

/// How often it writes.
pub const WRITE_EVERY: Duration = Duration::from_millis(20);
/// How long a login may take, and a write; then the connection is given up.
const LOGIN_LIMIT: Duration = Duration::from_millis(500);
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// What the client shares with whoever conducts the drill.
#[derive(Debug, Default)]
pub struct Shared {
    /// What became of its writes.
    pub tally: Mutex<Tally>,
    /// Set to have it end after the write that is under way.
    pub stop: AtomicBool,
}

/// Returns the user that writes from this node.
///
/// # Errors
/// Why there is none, in one line.
pub fn role<D: PostgresDriver>(agent: &Agent<D>) -> Result<Role, String> {
    let of_witness = || agent.witness.as_ref().and_then(|witness| witness.role().cloned());
    let of_database = || agent.database.as_ref().and_then(|database| database.driver.drill_role());
    of_database().or_else(of_witness).ok_or_else(|| {
        format!(
            "node {} conducts the drill, and has no user to log in to the databases with (on a witness: \
             witness.replication_password_file, and the client programs)",
            agent.node()
        )
    })
}

/// Writes until it is told to stop. A connection is kept for as long as it works; then the data nodes are tried
/// in turn, as a client does that knows their names.
pub async fn run<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    role: Role,
    first: NodeId,
    began: Instant,
    shared: Arc<Shared>,
) {
    let state = agent.state();
    let data = state.nodes.iter().filter(|(_, is)| is.kind == NodeKind::Data);
    let nodes: Vec<NodeId> = data.map(|(node, _)| node.clone()).collect();
    let mut turn = nodes.iter().position(|node| *node == first).unwrap_or_default();
    let mut tick = interval(WRITE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut writer: Option<Writer> = None;
    let mut number = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let Some(open) = &mut writer else {
            let Some(at) = nodes.get(turn % nodes.len().max(1)) else { return };
            let opened = match agent.upstream(at) {
                Some(upstream) => {
                    Writer::open(&role, &upstream, Instant::now() + LOGIN_LIMIT).await.ok()
                }
                None => None,
            };
            if opened.is_none() {
                lock(&shared.tally).fail();
                turn += 1;
            }
            writer = opened;
            continue;
        };
        number += 1;
        let written = open.write(number, Instant::now() + WRITE_LIMIT).await;
        lock(&shared.tally).note(number, began.elapsed(), &written, open.node());
        if written != Written::Acknowledged {
            writer = None;
            turn += 1;
        }
    }
}
