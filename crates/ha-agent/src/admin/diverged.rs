//! Diverged WAL, as operators see it.

use std::time::Duration;

use ha_core::state::{Command, Divergence, Outcome, Refused};
use ha_postgres::diverged::Diverged;
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{
    DivergedDropReply, DivergedEntry, DivergedListReply, DivergedReply, DivergedRequest,
    DivergedShowReply, DivergedTransaction,
};
use tonic::Status;

use crate::agent::{Agent, SubmitError};
use crate::diverged;

/// How long the node that keeps it may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(5);

/// Returns all that is known.
pub(super) fn list<D: PostgresDriver>(agent: &Agent<D>) -> DivergedListReply {
    DivergedListReply { entries: agent.state().diverged.iter().map(entry).collect() }
}

fn entry(kept: &Divergence) -> DivergedEntry {
    DivergedEntry {
        id: kept.id,
        node: kept.node.to_string(),
        epoch: kept.epoch.0,
        fork_timeline: kept.fork.timeline.0,
        fork_lsn: kept.fork.lsn.to_string(),
        end_timeline: kept.end.timeline.0,
        end_lsn: kept.end.lsn.to_string(),
        bytes: kept.end.lsn.bytes_after(kept.fork.lsn),
        at_unix_ms: kept.at_unix_ms,
    }
}

fn find<D: PostgresDriver>(agent: &Agent<D>, id: u64) -> Result<Divergence, Status> {
    let state = agent.state();
    let found = state.diverged.iter().find(|kept| kept.id == id).cloned();
    found.ok_or_else(|| Status::not_found(format!("no diverged WAL has the number {id}")))
}

async fn ask<D: PostgresDriver>(
    agent: &Agent<D>,
    kept: &Divergence,
    drop: bool,
) -> Result<DivergedReply, Status> {
    if kept.node == *agent.node() {
        return diverged::answer(agent, kept.id, drop).await;
    }
    let cluster = agent.config.cluster.clone();
    let request = DivergedRequest { cluster, id: kept.id, drop };
    let asked = agent.peers.diverged(&kept.node, request, ASK_LIMIT).await;
    asked.map_err(|error| Status::failed_precondition(error.to_string()))
}

/// Returns what is in one.
///
/// # Errors
/// `NotFound` for an unknown number.
pub(super) async fn show<D: PostgresDriver>(
    agent: &Agent<D>,
    id: u64,
) -> Result<DivergedShowReply, Status> {
    let kept = find(agent, id)?;
    let mut reply = DivergedShowReply { entry: Some(entry(&kept)), ..DivergedShowReply::default() };
    let told = match ask(agent, &kept, false).await {
        Ok(told) => told,
        Err(status) => {
            status.message().clone_into(&mut reply.note);
            return Ok(reply);
        }
    };
    (reply.reachable, reply.kept, reply.directory) = (true, told.kept, told.directory);
    let read: Result<Diverged, _> = serde_json::from_str(&told.summary);
    match read {
        Ok(found) => {
            reply.transactions_total = found.transactions_total;
            reply.truncated = found.truncated;
            reply.note = found.note.unwrap_or_default();
            reply.transactions = found
                .transactions
                .into_iter()
                .map(|one| DivergedTransaction {
                    xid: one.xid,
                    commit_lsn: one.commit_lsn.to_string(),
                    committed_at: one.committed_at,
                    relations: one.relations,
                    records: one.records,
                })
                .collect();
        }
        Err(_) if told.summary.is_empty() && told.kept => {
            "the copy is not complete yet".clone_into(&mut reply.note);
        }
        Err(_) if told.summary.is_empty() => {
            "it was not kept by itself: see the data directories moved aside on that node"
                .clone_into(&mut reply.note);
        }
        Err(error) => reply.note = format!("its summary cannot be read: {error}"),
    }
    Ok(reply)
}

/// Removes the copy, then the record.
///
/// # Errors
/// `NotFound` for an unknown number, `FailedPrecondition` if its node does not answer: then both stay.
pub(super) async fn remove<D: PostgresDriver>(
    agent: &Agent<D>,
    id: u64,
) -> Result<DivergedDropReply, Status> {
    let kept = find(agent, id)?;
    let told = ask(agent, &kept, true).await?;
    match agent.submit(Command::DropDivergence { id }, SUBMIT_LIMIT).await {
        Ok(Outcome::Applied | Outcome::Refused(Refused::NoSuchDivergence(_))) => {}
        Ok(Outcome::Refused(why)) => return Err(Status::failed_precondition(why.to_string())),
        Err(SubmitError::NotTaken(why)) => return Err(Status::unavailable(why)),
        Err(SubmitError::Unknown(why)) => return Err(Status::deadline_exceeded(why)),
    }
    Ok(DivergedDropReply { directory: told.directory })
}
