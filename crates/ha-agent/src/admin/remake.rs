//! Clones, rewinds and reloads that operators order.

use std::time::Duration;

use ha_core::state::journal::{EventKind, Note};
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::{OrderReply, RecloneRequest, ReloadRequest};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::Status;

use super::orders::{asker, data_node, settled};
use crate::agent::{Agent, Database};
use crate::facts::{Ordered, Remake};
use crate::notes;
use crate::remake::{self, NotBegun, Progress};

/// How long a reload may take.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);
/// How long another agent may take beyond what it is asked to wait.
const FORWARD_SLACK: Duration = Duration::from_secs(5);
/// PostgreSQL's own bounds of `pg_basebackup --max-rate`, KiB a second.
const RATES: std::ops::RangeInclusive<u32> = 32..=1_048_576;

/// Has a node's data directory made anew, says how far that is, or takes the order back.
///
/// # Errors
/// `InvalidArgument` for a node that has no database or a rate that is none, `FailedPrecondition` if it is
/// refused, `Unavailable` if the node's agent does not answer.
pub(super) async fn reclone<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &RecloneRequest,
) -> Result<OrderReply, Status> {
    let node = data_node(agent, &request.node)?;
    let from = match request.from.as_str() {
        "" => None,
        name if name == request.node => {
            return Err(Status::invalid_argument("a node is not cloned from itself"));
        }
        name => Some(data_node(agent, name)?),
    };
    let max_rate_kib = match request.max_rate_kib {
        0 => None,
        kib if RATES.contains(&kib) => Some(kib),
        kib => {
            return Err(Status::invalid_argument(format!(
                "{kib} KiB/s is no rate: {} to {} are allowed",
                RATES.start(),
                RATES.end()
            )));
        }
    };
    let Some(database) = own(agent, &node) else {
        let limit = Duration::from_millis(request.wait_ms) + FORWARD_SLACK;
        let request = request.clone();
        let call = |mut admin: AdminClient<_>| async move { admin.reclone(request).await };
        return agent.peers.forward(&node, limit, call).await;
    };
    let what = match request.what.as_str() {
        "clone" => Remake::Clone { from, max_rate_kib },
        "rejoin" => Remake::Rewind,
        "cancel" => {
            let known = remake::cancel(agent, database);
            let outcome = if known { "done" } else { "unchanged" };
            let detail = format!("nothing is made anew on node {node} by order");
            return Ok(OrderReply { outcome: outcome.to_owned(), detail });
        }
        other => return Err(Status::invalid_argument(format!("{other:?} is no such order"))),
    };
    let (number, by) = (request.number, asker(&request.by));
    let epoch = agent.state().last_epoch;
    let done = format!("node {node} follows the primary");
    match remake::progress(database, number, epoch) {
        Progress::Unknown(_) => {
            let order = Ordered { number, what, by };
            remake::begin(agent, database, order).await.map_err(|why| refused(&why))?;
        }
        Progress::Running(_) | Progress::Done => {}
    }
    let reply =
        settled(request.wait_ms, true, done, || async move { look(database, number, epoch) });
    Ok(reply.await)
}

/// What is awaited, if the order is not carried out yet.
fn look<D: PostgresDriver>(database: &Database<D>, number: u64, epoch: Epoch) -> Option<String> {
    match remake::progress(database, number, epoch) {
        Progress::Done => None,
        Progress::Running(how_far) => Some(how_far),
        // It was taken back, or it turned out that there is nothing to do.
        Progress::Unknown(rule) => Some(format!("the order was taken back; it is {rule}")),
    }
}

fn refused(why: &NotBegun) -> Status {
    Status::failed_precondition(why.to_string())
}

fn own<'a, D>(agent: &'a Agent<D>, node: &NodeId) -> Option<&'a Database<D>> {
    agent.database.as_ref().filter(|_| node == agent.node())
}

/// Has a node's configuration files read again.
///
/// # Errors
/// As [`reclone`]; `FailedPrecondition` as well if something is wrong with the files.
pub(super) async fn reload<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &ReloadRequest,
) -> Result<OrderReply, Status> {
    let node = data_node(agent, &request.node)?;
    let Some(database) = own(agent, &node) else {
        let request = request.clone();
        let call = |mut admin: AdminClient<_>| async move { admin.reload(request).await };
        return agent.peers.forward(&node, RELOAD_LIMIT + FORWARD_SLACK, call).await;
    };
    let reloaded = database.driver.reload(Instant::now() + RELOAD_LIMIT).await;
    let reloaded = reloaded.map_err(|error| Status::failed_precondition(error.to_string()))?;
    if !reloaded.faults.is_empty() {
        let why = format!("node {node}: not reloaded: {}", reloaded.faults.join("; "));
        return Err(Status::failed_precondition(why));
    }
    let detail = if reloaded.pending_restart.is_empty() {
        format!("node {node}: reloaded, no parameter waits for a restart")
    } else {
        let waiting = reloaded.pending_restart.join(", ");
        format!("node {node}: reloaded; waiting for a restart: {waiting}")
    };
    let note = Note::new(EventKind::Reloaded, detail.clone()).about(&node);
    notes::tell(agent, note.asked_by(&asker(&request.by)));
    Ok(OrderReply { outcome: "done".to_owned(), detail })
}
