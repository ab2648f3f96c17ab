//! What happened, as operators ask for it.

use std::time::Duration;

use ha_core::state::State;
use ha_core::state::journal::{Event as Happened, EventKind};
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{
    Event, EventShowReply, EventShowRequest, EventsReply, EventsRequest, HistoryReply,
    PromotionEntry,
};
use tokio::time::timeout;
use tonic::Status;

use crate::agent::Agent;
use crate::oplog;

/// How long one answer may be waited for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long another agent may take to read a log.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Returns what happened; waits for news if there are none and it is asked to.
pub(super) async fn events<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &EventsRequest,
) -> EventsReply {
    let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
    let mut state = agent.raft.state();
    let news = state.wait_for(|now| now.state.event_count > request.after);
    drop(timeout(wait, news).await);
    let state = agent.state();
    let known = state.events.iter().filter(|event| event.id > request.after);
    let known: Vec<&Happened> = known.collect();
    let limit = match usize::try_from(request.limit) {
        Ok(0) | Err(_) => known.len(),
        Ok(limit) => limit.min(known.len()),
    };
    let latest = known.iter().skip(known.len() - limit);
    EventsReply { events: latest.map(|event| wire(event)).collect(), last: state.event_count }
}

fn wire(event: &Happened) -> Event {
    let Happened { id, at_unix_ms, epoch, what } = event;
    Event {
        id: *id,
        at_unix_ms: *at_unix_ms,
        epoch: epoch.0,
        kind: what.kind.name().to_owned(),
        node: what.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        by: what.by.clone(),
        text: what.text.clone(),
        timeline: what.position.map(|position| position.timeline.0).unwrap_or_default(),
        lsn: what.position.map(|position| position.lsn.to_string()).unwrap_or_default(),
        took_ms: what.took_ms,
        logged: !what.log.is_empty(),
    }
}

/// Returns one event, with the log that its node keeps of it.
///
/// # Errors
/// `NotFound` if it is not remembered.
pub(super) async fn show<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &EventShowRequest,
) -> Result<EventShowReply, Status> {
    if !request.log.is_empty() {
        return Ok(read(agent, &request.log).await);
    }
    let state = agent.state();
    let found = state.events.iter().find(|event| event.id == request.id);
    let Some(event) = found else {
        let why = format!("no event has the number {}, or it is forgotten", request.id);
        return Err(Status::not_found(why));
    };
    let told = match (&event.what.node, event.what.log.as_str()) {
        (_, "") | (None, _) => EventShowReply::default(),
        (Some(node), log) if node == agent.node() => read(agent, log).await,
        (Some(node), log) => read_there(agent, node, log).await,
    };
    Ok(EventShowReply { event: Some(wire(event)), ..told })
}

async fn read_there<D: PostgresDriver>(
    agent: &Agent<D>,
    node: &NodeId,
    log: &str,
) -> EventShowReply {
    let (cluster, log) = (agent.config.cluster.clone(), log.to_owned());
    let request = EventShowRequest { cluster, id: 0, log };
    let asked = agent
        .peers
        .forward(node, READ_LIMIT, |mut admin| async move { admin.event_show(request).await });
    asked.await.unwrap_or_else(|status| EventShowReply {
        note: format!("its log is on node {node}: {}", status.message()),
        ..EventShowReply::default()
    })
}

async fn read<D: PostgresDriver>(agent: &Agent<D>, log: &str) -> EventShowReply {
    let (dir, name) = (agent.config.data_dir.clone(), log.to_owned());
    let read = tokio::task::spawn_blocking(move || oplog::read(&dir, &name)).await;
    let (lines, note) = match read {
        Ok(Ok(Some(lines))) => (lines, String::new()),
        Ok(Ok(None)) => (Vec::new(), format!("node {} keeps its log no more", agent.node())),
        Ok(Err(error)) => (Vec::new(), format!("node {} cannot read it: {error}", agent.node())),
        Err(panic) => (Vec::new(), panic.to_string()),
    };
    EventShowReply { event: None, lines, note }
}

/// Returns the promotions that are remembered.
pub(super) fn history<D: PostgresDriver>(agent: &Agent<D>) -> HistoryReply {
    let state = agent.state();
    let promotions = state.history.iter().map(|promotion| PromotionEntry {
        epoch: promotion.epoch.0,
        node: promotion.holder.to_string(),
        timeline: promotion.begin.timeline.0,
        lsn: promotion.begin.lsn.to_string(),
        at_unix_ms: promotion.at_unix_ms,
        why: told(&state, promotion.epoch, &[EventKind::Granted, EventKind::Transferred]),
        ended: match told(&state, promotion.epoch, &[EventKind::Vacated]) {
            ended if ended.is_empty() => {
                told(&state, promotion.epoch.next(), &[EventKind::Transferred])
            }
            ended => ended,
        },
    });
    HistoryReply { promotions: promotions.collect() }
}

/// What is remembered of an epoch's beginning or end.
fn told(state: &State, epoch: Epoch, kinds: &[EventKind]) -> String {
    let of = |event: &&Happened| event.epoch == epoch && kinds.contains(&event.what.kind);
    state.events.iter().rev().find(of).map(|event| event.what.text.clone()).unwrap_or_default()
}
