//! Switchovers that are to come, as operators see and change them.

use ha_core::state::{Command, Refused};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{
    OrderReply, ScheduleAddRequest, ScheduleCancelRequest, ScheduleEntry, ScheduleListReply,
};
use tonic::Status;

use super::orders::{asker, data_node, record};
use crate::agent::Agent;
use crate::clock;

/// Returns them.
pub(super) fn list<D: PostgresDriver>(agent: &Agent<D>) -> ScheduleListReply {
    let state = agent.state();
    let entries = state.scheduled.iter().map(|scheduled| ScheduleEntry {
        id: scheduled.id,
        due_unix_ms: scheduled.due_unix_ms,
        to: scheduled.to.as_ref().map(ToString::to_string).unwrap_or_default(),
        by: scheduled.by.clone(),
    });
    ScheduleListReply { entries: entries.collect() }
}

/// Adds one.
///
/// # Errors
/// `InvalidArgument` for a node that can never be primary or a time that is past.
pub(super) async fn add<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &ScheduleAddRequest,
) -> Result<OrderReply, Status> {
    let to = match request.to.as_str() {
        "" => None,
        name => Some(data_node(agent, name)?),
    };
    let now = clock::wall_unix_ms();
    if request.due_unix_ms <= now {
        let late_s = (now - request.due_unix_ms) / 1000;
        return Err(Status::invalid_argument(format!("that time is past, by {late_s} s")));
    }
    let (due_unix_ms, by) = (request.due_unix_ms, asker(&request.by));
    let command = Command::Schedule { due_unix_ms, to, by };
    let changed = record(agent, command, |why| matches!(why, Refused::AlreadyScheduled(_))).await?;
    let state = agent.state();
    let id = state.scheduled.iter().rev().find(|known| known.due_unix_ms == due_unix_ms);
    let id = id.map_or(state.schedules, |known| known.id);
    let outcome = if changed { "done" } else { "unchanged" };
    Ok(OrderReply { outcome: outcome.to_owned(), detail: format!("scheduled as number {id}") })
}

/// Cancels one.
///
/// # Errors
/// `NotFound` if there is none of that number.
pub(super) async fn cancel<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &ScheduleCancelRequest,
) -> Result<OrderReply, Status> {
    let id = request.id;
    if !agent.state().scheduled.iter().any(|known| known.id == id) {
        return Err(Status::not_found(format!("no scheduled switchover has the number {id}")));
    }
    let (by, why) = (asker(&request.by), "cancelled".to_owned());
    let command = Command::Unschedule { id, by, why };
    record(agent, command, |why| matches!(why, Refused::NoSuchSchedule(_))).await?;
    Ok(OrderReply { outcome: "done".to_owned(), detail: format!("number {id} is cancelled") })
}
