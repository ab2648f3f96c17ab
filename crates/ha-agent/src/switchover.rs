//! Handing the primary role to a standby because an operator wants it, in order.
//!
//! Everything is done by the primary's agent, under its lease: while clients are served, what can be done
//! before; then a fast stop, the proof that the standby has everything up to the shutdown checkpoint
//! (rules 33 and 95), the epoch given up on this node, and one log entry that ends this grant and makes the
//! next (`Transfer`). Whatever fails before the epoch is given up, the old primary goes on under the same
//! grant.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use ha_core::clock::millis;
use ha_core::decide::Rule;
use ha_core::state::journal::{EventKind, Note};
use ha_core::state::{Command, Outcome, Refused};
use ha_core::{Epoch, Incarnation, NodeId, WalPosition};
use ha_postgres::driver::PostgresDriver;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::agent::{Agent, Database};
use crate::crash_point;
use crate::events;
use crate::granter;
use crate::hand_over::{self, NotStopped};
use crate::hooks;
use crate::jobs;
use crate::lease_keeper;
use crate::notes;
use crate::oplog::OperationLog;
use crate::pgbouncer;

/// How long the checkpoint before the stop may take, while clients are served (rule 32).
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);
/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(3);
/// How long the new primary may take to be one.
const PROMOTION_LIMIT: Duration = Duration::from_secs(15);

/// One switchover, as it is told to whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The grant that is to end.
    pub epoch: Epoch,
    /// The future primary.
    pub to: NodeId,
    /// The order's number.
    pub number: u64,
    /// What was done so far.
    pub steps: Vec<Step>,
    /// How it ended; `None` while it is under way.
    pub end: Option<End>,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// More, for people.
    pub detail: String,
    /// When, since the beginning.
    pub at: Duration,
}

/// How a switchover ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The other node is primary.
    Done,
    /// This node is primary, under the grant that it had.
    Kept(String),
    /// It went another way: the election, or the operator, decides.
    Lost(String),
}

impl End {
    /// Says how it ended, for the record.
    fn told(&self, to: &NodeId) -> String {
        match self {
            Self::Done => format!("handed over to {to}"),
            Self::Kept(why) => format!("to {to}, broken off: {why}"),
            Self::Lost(why) => format!("to {to}, went another way: {why}"),
        }
    }
}

/// Why there is no switchover.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStarted {
    /// There is one, to another node.
    #[error("a switchover to node {0} is under way")]
    AnotherIsUnderWay(NodeId),
    /// Something is done to the database already.
    #[error("node {node} is busy: {step} is under way")]
    Busy {
        /// This node.
        node: NodeId,
        /// What.
        step: String,
    },
    /// The agents leave the databases alone.
    #[error("the cluster is paused: haclt resume ends that")]
    Paused,
    /// The lease is not held here under that epoch.
    #[error("node {node} does not hold the lease under epoch {epoch}")]
    NotPrimary {
        /// This node.
        node: NodeId,
        /// What was asked for.
        epoch: Epoch,
    },
}

/// Begins, unless it is under way or was done already. Returns where to see how it goes.
///
/// # Errors
/// [`NotStarted`]: nothing was changed.
pub fn start<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    epoch: Epoch,
    to: &NodeId,
    number: u64,
    by: &str,
) -> Result<watch::Receiver<Option<Operation>>, NotStarted> {
    let node = agent.node().clone();
    let mut begun = Ok(false);
    agent.switchover.send_if_modified(|slot| {
        begun = match slot {
            Some(known) if known.epoch == epoch && known.to == *to && known.answers(number) => {
                Ok(false)
            }
            Some(Operation { to, end: None, .. }) => Err(NotStarted::AnotherIsUnderWay(to.clone())),
            _ => startable(agent, epoch, &node).map(|()| true),
        };
        if begun == Ok(true) {
            *slot = Some(Operation { epoch, to: to.clone(), number, steps: Vec::new(), end: None });
        }
        begun == Ok(true)
    });
    if begun? {
        let agent = Arc::clone(agent);
        let (to, by) = (to.clone(), by.to_owned());
        tokio::spawn(async move { run(&agent, epoch, &to, &by).await });
    }
    Ok(agent.switchover.subscribe())
}

impl Operation {
    /// Whether it is what an order of that number asks for. One that led to nothing may be ordered anew.
    fn answers(&self, number: u64) -> bool {
        self.number == number || matches!(self.end, None | Some(End::Done))
    }
}

fn startable<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
    node: &NodeId,
) -> Result<(), NotStarted> {
    let not_primary = || NotStarted::NotPrimary { node: node.clone(), epoch };
    let database = agent.database.as_ref().ok_or_else(not_primary)?;
    let facts = database.facts();
    if let Some(job) = &facts.job {
        return Err(NotStarted::Busy { node: node.clone(), step: job.step.to_owned() });
    }
    let state = agent.state();
    let held = state.lease.grant().is_some_and(|g| g.holder == *node && g.epoch == epoch);
    let serving = facts.rule().is_some_and(|(rule, _)| rule == Rule::Serving);
    if state.is_paused() {
        return Err(NotStarted::Paused);
    }
    if held && serving && !agent.is_leaving() { Ok(()) } else { Err(not_primary()) }
}

async fn run<D: PostgresDriver>(agent: &Arc<Agent<D>>, epoch: Epoch, to: &NodeId, by: &str) {
    let began = Instant::now();
    let Some(database) = &agent.database else { return };
    let what = format!("from {} to {to}, epoch {epoch}, ordered by {by}", agent.node());
    let log = OperationLog::begin(&agent.config.data_dir, "switchover", &what);
    let teller = Teller { agent, began, log };
    info!(%epoch, %to, "switchover begins");
    let work = async {
        match until_stop(database, &teller, epoch, to).await {
            Ok(()) => beside_clients_that_wait(agent, database, &teller, epoch, to).await,
            Err(why) => End::Kept(why),
        }
    };
    // Whoever waits for it is told how it ended, whatever happens.
    let end = AssertUnwindSafe(work).catch_unwind().await;
    let end = end.unwrap_or_else(|_| End::Lost("it panicked, see the agent's log".to_owned()));
    match hooks::after_switchover(agent, to, &end).await {
        Ok(true) => teller.say("hook", "after_switchover"),
        Ok(false) => {}
        // Told, and nothing else: the switchover is over.
        Err(why) => teller.say("hook", why),
    }
    match &end {
        End::Done => {
            events::SwitchedOver { from: agent.node(), to, epoch, took: began.elapsed() }.emit();
        }
        End::Kept(why) => warn!(%epoch, %to, why, "switchover broken off, this node stays primary"),
        End::Lost(why) => warn!(%epoch, %to, why, "switchover failed, an election decides"),
    }
    let text = end.told(to);
    teller.log.line(&text);
    let note = Note::new(EventKind::Switchover, text).about(agent.node()).asked_by(by);
    notes::tell(agent, note.lasting(millis(began.elapsed())).logged_in(teller.log.name()));
    agent.switchover.send_modify(|slot| {
        if let Some(operation) = slot.as_mut().filter(|operation| operation.epoch == epoch) {
            operation.end = Some(end);
        }
    });
    agent.wake.notify_one();
}

/// Says what was done.
struct Teller<'a, D> {
    agent: &'a Arc<Agent<D>>,
    began: Instant,
    log: OperationLog,
}

impl<D> Teller<'_, D> {
    fn say(&self, name: &'static str, detail: impl Into<String>) {
        let step = Step { name, detail: detail.into(), at: self.began.elapsed() };
        info!(step = name, detail = step.detail, at_ms = millis(step.at), "switchover");
        self.log.line(&format!("{name}: {}", step.detail));
        self.agent.switchover.send_modify(|slot| {
            if let Some(operation) = slot {
                operation.steps.push(step);
            }
        });
    }
}

/// What can be done while clients are served.
async fn until_stop<D: PostgresDriver>(
    database: &Database<D>,
    teller: &Teller<'_, D>,
    epoch: Epoch,
    to: &NodeId,
) -> Result<(), String> {
    let agent = teller.agent;
    if hooks::before_switchover(agent, to).await? {
        teller.say("hook", "before_switchover");
    }
    teller.say("checkpoint", "while clients are served");
    let deadline = Instant::now() + CHECKPOINT_LIMIT;
    database.driver.checkpoint(deadline).await.map_err(|error| error.to_string())?;
    crash_point::reached("switchover: checkpoint");
    fit(agent, to).await?;
    // The checkpoint may have taken minutes.
    startable(agent, epoch, agent.node()).map_err(|why| why.to_string())
}

/// The start of the target's agent that the lease is handed to, if it says just now that it is fit.
async fn fit<D: PostgresDriver>(agent: &Agent<D>, to: &NodeId) -> Result<Incarnation, String> {
    let report = hand_over::ask(agent, to).await.ok_or_else(|| format!("node {to} is silent"))?;
    if granter::fit(&report) {
        Ok(Incarnation(report.incarnation))
    } else {
        Err(format!("node {to} is not fit to take over any more: it is {}", report.state))
    }
}

/// What PgBouncers let their clients wait for.
async fn beside_clients_that_wait<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    teller: &Teller<'_, D>,
    epoch: Epoch,
    to: &NodeId,
) -> End {
    let (paused, count) = match pgbouncer::pause(agent, epoch).await {
        Ok(paused) => paused,
        Err(why) => return End::Kept(why),
    };
    if count > 0 {
        teller.say("paused", format!("{count} PgBouncer(s)"));
    }
    crash_point::reached("switchover: paused");
    let end = under_hand_over(agent, database, teller, epoch, to).await;
    match (count, paused.end().await) {
        (0, _) => {}
        (_, 0) => teller.say("resumed", format!("{count} PgBouncer(s)")),
        (_, left) => teller.say("resumed", format!("{left} PgBouncer(s) not yet")),
    }
    end
}

/// From the stop to the new primary; the control loop leaves the database alone meanwhile.
async fn under_hand_over<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    teller: &Teller<'_, D>,
    epoch: Epoch,
    to: &NodeId,
) -> End {
    let held = match hand_over::take(database) {
        Ok(held) => held,
        Err(step) => return End::Kept(format!("{step} is under way")),
    };
    let say = |name, detail: String| teller.say(name, detail);
    let stopped = hand_over::stop_primary(agent, database, epoch, &say).await;
    let proven = match stopped {
        Ok(end) => prove(agent, teller, to, end).await,
        Err(NotStopped::NotBegun(why)) => return End::Kept(why),
        Err(NotStopped::Failed(why)) => Err(why),
    };
    let given_up = proven.and_then(|target| give_up(agent, database, epoch).map(|()| target));
    let why = match given_up {
        Ok(incarnation) => {
            if let Err(why) = transfer(agent, epoch, to, incarnation).await {
                return End::Lost(why);
            }
            teller.say("lease", format!("handed over to {to}"));
            // From here on this node follows.
            drop(held);
            return await_successor(agent, teller, epoch, to).await;
        }
        Err(why) => why,
    };
    teller.say("back", why.clone());
    match jobs::restart_after_stop(agent, epoch).await {
        Ok(()) => {
            teller.say("restarted", "this node is primary again, under the same grant");
            End::Kept(why)
        }
        Err(error) => End::Lost(format!("{why}; and {error}")),
    }
}

/// Proves that the standby has everything, and is still fit.
async fn prove<D: PostgresDriver>(
    agent: &Agent<D>,
    teller: &Teller<'_, D>,
    to: &NodeId,
    end: WalPosition,
) -> Result<Incarnation, String> {
    if !hand_over::await_arrival(agent, to, end).await {
        return Err(format!("node {to} has not received the end of WAL, {}", end.lsn));
    }
    let incarnation = fit(agent, to).await?;
    teller.say("proof", format!("{to} has everything up to {}", end.lsn));
    crash_point::reached("switchover: proven");
    Ok(incarnation)
}

/// Gives the epoch up on this node, before anybody is told: from here on there is no way back.
fn give_up<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
) -> Result<(), String> {
    let guard = jobs::guard(database).map_err(|error| error.to_string())?;
    if !guard.state.is_gone() {
        return Err("its database runs again".to_owned());
    }
    lease_keeper::burn(agent, database, epoch).map_err(|error| error.to_string())?;
    crash_point::reached("switchover: given up");
    Ok(())
}

/// Ends this grant and makes the next.
///
/// An error says nothing about whether it did; the epoch is given up here in any case, so the lease moves,
/// or it is vacated and an election decides.
async fn transfer<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
    to: &NodeId,
    incarnation: Incarnation,
) -> Result<(), String> {
    let command = Command::Transfer {
        epoch,
        to: to.clone(),
        incarnation,
        ttl: agent.config.policy.ttl,
        evidence: format!("switchover from {}: it has everything", agent.node()),
    };
    let outcome = agent.submit(command, SUBMIT_LIMIT).await;
    crash_point::reached("switchover: transferred");
    match outcome {
        Ok(Outcome::Applied) => Ok(()),
        // An answer was lost, and it was sent again.
        Ok(Outcome::Refused(Refused::StaleEpoch { .. })) if is_with(agent, epoch, to) => Ok(()),
        Ok(Outcome::Refused(why)) => Err(why.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn is_with<D>(agent: &Agent<D>, epoch: Epoch, to: &NodeId) -> bool {
    agent.state().lease.grant().is_some_and(|g| g.epoch == epoch.next() && g.holder == *to)
}

async fn await_successor<D: PostgresDriver>(
    agent: &Agent<D>,
    teller: &Teller<'_, D>,
    epoch: Epoch,
    to: &NodeId,
) -> End {
    let mut state = agent.raft.state();
    let promoted = state.wait_for(|now| {
        let ours = now.state.latest_promotion().filter(|promotion| promotion.epoch > epoch);
        ours.is_some() || now.state.last_epoch > epoch.next()
    });
    let seen = timeout(PROMOTION_LIMIT, promoted).await;
    let Ok(Ok(seen)) = seen else {
        return End::Lost(format!("node {to} holds the lease and is not primary yet"));
    };
    match seen.state.latest_promotion() {
        Some(promotion) if promotion.epoch == epoch.next() && promotion.holder == *to => {
            let timeline = promotion.begin.timeline;
            drop(seen);
            teller.say("primary", format!("{to}, timeline {timeline}"));
            End::Done
        }
        _ => End::Lost(format!("node {to} could not become primary")),
    }
}
