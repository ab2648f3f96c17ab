//! A failover that an operator orders: the vacant lease is given to a node although an election would not.
//!
//! Done by the Raft leader, bound to its term, like every grant. What would make two primaries is refused
//! whatever was accepted: the lease has to be vacant, and no node may say that its permit has not ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha_core::candidate::{Refusal, Winner, elect_by_order};
use ha_core::state::journal::{EventKind, Note};
use ha_core::state::{Command, Outcome};
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::PostgresDriver;
use tracing::info;

use crate::agent::{Agent, SubmitError, submit_error};
use crate::granter::{self, collect, known_end, prepare};
use crate::notes;

/// How long recording the grant may take.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The future primary; `None` for whoever has most.
    pub to: Option<NodeId>,
    /// Whether what cannot be proven to be at hand may be lost.
    pub accept_data_loss: bool,
    /// The latest epoch when the order was planned: one that comes too late is none.
    pub epoch: Epoch,
    /// Who asks.
    pub by: String,
}

/// Why nothing was granted.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// Only the leader can.
    #[error("this node does not lead the agents")]
    NotLeader,
    /// Somebody was given the lease meanwhile.
    #[error("it was planned at epoch {planned}, the latest is {latest} by now: look again")]
    Late {
        /// When it was planned.
        planned: Epoch,
        /// What is so now.
        latest: Epoch,
    },
    /// The lease is held: it has to end first.
    #[error("node {0} holds the lease: nobody else is given it before that ends")]
    Held(NodeId),
    /// The agents leave the databases alone.
    #[error("the cluster is paused: haclt resume ends that")]
    Paused,
    /// Nobody can be chosen.
    #[error("nobody can be chosen: {0}")]
    Nobody(String),
    /// The state machine said no.
    #[error("{0}")]
    Refused(String),
    /// It may have been done.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// Gives the vacant lease to whom the order names.
///
/// # Errors
/// [`NotDone`]: nothing was granted, unless it says that this is not known.
pub async fn grant<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    order: &Order,
) -> Result<Winner, NotDone> {
    let (term, state) = granter::observe(agent).map_err(|_| NotDone::NotLeader)?;
    if state.is_paused() {
        return Err(NotDone::Paused);
    }
    if state.last_epoch != order.epoch {
        return Err(NotDone::Late { planned: order.epoch, latest: state.last_epoch });
    }
    if let Some(holder) = state.lease.holder() {
        return Err(NotDone::Held(holder.clone()));
    }
    let promised = state.demands().next().is_some();
    let reports =
        if promised { prepare(agent, state.last_epoch).await } else { collect(agent).await };
    let election = elect_by_order(
        &state,
        &reports,
        known_end(agent, &state),
        &agent.config.policy,
        order.to.as_ref(),
        order.accept_data_loss,
    );
    let winner = election.winner.ok_or_else(|| NotDone::Nobody(listed(&election.refusals)))?;
    let (by, evidence) = (&order.by, winner.evidence());
    let proven = !winner.proven_by.is_empty();
    let loss = match winner.lost_bytes {
        _ if proven => "nothing is lost",
        Some(0) => "the last known WAL is all there, what came after it is not known",
        Some(_) | None if order.accept_data_loss => "a loss was accepted",
        Some(_) | None => "within the bound",
    };
    let evidence = format!("ordered by {by}: {evidence}; {loss}");
    info!(to = %winner.node, evidence, "failover by order");
    let grant = Command::Grant {
        to: winner.node.clone(),
        incarnation: winner.incarnation,
        epoch: state.last_epoch.next(),
        ttl: agent.config.policy.ttl,
        catch_up: winner.catch_up.clone(),
        evidence: evidence.clone(),
    };
    let outcome = agent.raft.propose(grant, Some(term), PROPOSE_LIMIT).await;
    match outcome.map_err(|error| submit_error(&error))? {
        Outcome::Applied => {
            let note = Note::new(EventKind::Failover, evidence).about(&winner.node);
            notes::tell(agent, note.at(winner.flushed).asked_by(by));
            Ok(winner)
        }
        Outcome::Refused(why) => Err(NotDone::Refused(why.to_string())),
    }
}

/// Each node that is not chosen, and why, in one line.
#[must_use]
pub fn listed(refusals: &BTreeMap<NodeId, Refusal>) -> String {
    let all: Vec<String> =
        refusals.iter().map(|(node, why)| format!("node {node}: {why}")).collect();
    all.join("; ")
}
