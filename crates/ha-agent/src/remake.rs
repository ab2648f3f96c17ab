//! Making the local data directory anew because an operator wants it.
//!
//! The order only changes what is found out about the directory; the control loop does the rest, under the
//! same rules as always: only beside a primary that serves, only while nothing runs on the directory, and what
//! is there stays until the copy is whole.

use ha_core::decide::Rule;
use ha_core::view::Job;
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::PostgresDriver;
use tracing::info;

use crate::agent::{Agent, Database};
use crate::facts::{Ordered, Remake};
use crate::hand_over;

/// Why nothing is made anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    /// The role of a primary is handed over first.
    #[error("node {0} holds the lease: switch over first")]
    HoldsLease(NodeId),
    /// There is nothing to copy: this may be the last good copy.
    #[error("no primary serves ({0}): what node {1} has may be the last good copy")]
    NoPrimary(String, NodeId),
    /// Another one is under way.
    #[error("node {node} is busy: {what} is under way")]
    Busy {
        /// This node.
        node: NodeId,
        /// What.
        what: String,
    },
    /// Whoever asks again is told.
    #[error("the order was taken back")]
    TakenBack,
    /// The agents leave the databases alone.
    #[error("the cluster is paused: haclt resume ends that")]
    Paused,
    /// An operator has fenced it.
    #[error("node {0} is fenced by order: haclt unfence {0} ends that")]
    Fenced(NodeId),
    /// It is being taken out.
    #[error("node {0} is being taken out of the cluster: haclt node add {0} keeps it")]
    Leaving(NodeId),
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Under way; how far, in words.
    Running(String),
    /// The node follows the primary again.
    Done,
    /// The order is not known: done, cancelled, or forgotten by an agent that started anew.
    Unknown(String),
}

/// Takes the order in, unless it is under way already.
///
/// # Errors
/// [`NotBegun`]: nothing was changed.
pub async fn begin<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    order: Ordered,
) -> Result<(), NotBegun> {
    let node = agent.node().clone();
    let state = agent.state();
    if state.is_paused() {
        return Err(NotBegun::Paused);
    }
    if state.fenced.contains_key(&node) {
        return Err(NotBegun::Fenced(node));
    }
    if state.is_leaving(&node) {
        return Err(NotBegun::Leaving(node));
    }
    let Some(holder) = state.lease.holder().cloned() else {
        return Err(NotBegun::NoPrimary("nobody holds the lease".to_owned(), node));
    };
    if holder == node {
        return Err(NotBegun::HoldsLease(node));
    }
    match hand_over::ask(agent, &holder).await {
        Some(report) if report.rule == Rule::Serving.name() => {}
        Some(report) => {
            let why = format!("node {holder} is {} ({})", report.state, report.rule);
            return Err(NotBegun::NoPrimary(why, node));
        }
        None => return Err(NotBegun::NoPrimary(format!("node {holder} does not answer"), node)),
    }
    let mut facts = database.facts();
    match &facts.ordered {
        Some(known) if known.number == order.number => return Ok(()),
        Some(known) => {
            let what = known.what.name().to_owned();
            return Err(NotBegun::Busy { node, what });
        }
        None if facts.taken_back == Some(order.number) => return Err(NotBegun::TakenBack),
        None => {}
    }
    if let Some(job) = &facts.job {
        return Err(NotBegun::Busy { node, what: job.step.to_owned() });
    }
    info!(?order, "the data directory is made anew as ordered");
    facts.ordered = Some(order);
    drop(facts);
    agent.wake.notify_one();
    Ok(())
}

/// Returns how far the order of that number is.
pub fn progress<D: PostgresDriver>(database: &Database<D>, number: u64, epoch: Epoch) -> Progress {
    let facts = database.facts();
    let rule = facts.rule().map_or("unknown", |(rule, _)| rule.name());
    if facts.ordered.as_ref().is_some_and(|ordered| ordered.number == number) {
        let said = match &facts.job {
            Some(job) if job.progress.is_empty() => job.step.to_owned(),
            Some(job) => format!("{}: {}", job.step, job.progress),
            None => rule.to_owned(),
        };
        return Progress::Running(said);
    }
    let follows = facts.rule().is_some_and(|(rule, _)| rule == Rule::Following);
    if follows && facts.remade == Some((number, epoch)) {
        Progress::Done
    } else if facts.remade.is_some_and(|(of, _)| of == number) {
        Progress::Running(rule.to_owned())
    } else {
        Progress::Unknown(rule.to_owned())
    }
}

/// Takes the order back. A clone under way ends; what was there is in place still, unless the copy was just
/// being put there. Returns whether there was one.
pub fn cancel<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) -> bool {
    let mut facts = database.facts();
    let Some(order) = facts.ordered.take() else { return false };
    facts.taken_back = Some(order.number);
    if let Some(job) = facts.job.take_if(|job| job.job == Job::Clone) {
        job.abort.abort();
    }
    facts.data_dir = None;
    facts.compared = None;
    drop(facts);
    info!(?order, "the order is taken back");
    agent.wake.notify_one();
    true
}

impl Remake {
    /// Returns what it is called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Clone { .. } => "clone",
            Self::Rewind => "rewind",
        }
    }
}
