//! Nodes that leave the cluster for good, and new ones that join it, while everything else goes on.
//!
//! Fewer than three nodes are not left: where there are three, another one joins first. Who leaves is stopped, and its
//! directories are emptied: what joins there later is a new node, under the same name or another one.

mod orders;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ha_tests::Node;
use tokio::task::JoinHandle;

use super::{Outcome, targets};
use crate::env::Env;
use crate::env::busy::Held;
use crate::env::place::Place;
use crate::harness::{Harness, Trying as _};
use crate::random::Random;

/// How often it is looked whether a step is done.
pub const EVERY: Duration = Duration::from_millis(50);
/// The fewest nodes.
const NODES_MIN: usize = 3;
/// How long it may take until somebody knows who is the primary.
const HOLDER_LIMIT: Duration = Duration::from_secs(10);
/// Once the fault is to end, further steps that can be left out begin no later.
const LATE: Duration = Duration::from_secs(45);
/// In so many of a hundred cases it is the witness that leaves.
const WITNESS_PERCENT: u64 = 25;
/// In so many the node that leaves is down.
const DOWN_PERCENT: u64 = 30;
/// In so many nobody waits until the node that came follows before another one leaves.
const HASTY_PERCENT: u64 = 30;
/// In so many a data node leaves again at the end, and not only if the next fault comes.
const SHRINK_PERCENT: u64 = 60;

/// Which kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Witness,
}

/// How a node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Down,
}

/// What is done, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A node joins, unless there are more than the fewest; it is waited for until it follows, or not.
    Join(Kind, bool),
    /// A node leaves.
    Leave(Kind, State),
    /// Nothing, until the fault is to end.
    Rest,
    /// A node leaves, if there are more than the fewest, and another one of its kind stays.
    Shrink(Kind),
}

#[derive(Debug)]
struct Doing {
    node: String,
    joins: bool,
    down: bool,
    order: JoinHandle<Result<Outcome, Harness>>,
}

/// A change of the members that goes on.
#[derive(Debug)]
pub struct Members {
    steps: VecDeque<Step>,
    doing: Option<Doing>,
    random: Random,
    /// Who joined last: it is not the one that leaves if another one can.
    newest: Option<String>,
    /// Since when nobody knows the primary.
    unknown_from: Option<Instant>,
    ending_from: Option<Instant>,
    said: Vec<String>,
    changed: bool,
    unsure: bool,
    _held: Held,
}

/// Draws what is done.
fn steps(random: &mut Random) -> VecDeque<Step> {
    let kind = if random.percent(WITNESS_PERCENT) { Kind::Witness } else { Kind::Data };
    let state = if random.percent(DOWN_PERCENT) { State::Down } else { State::Running };
    let waits = !random.percent(HASTY_PERCENT);
    let shrinks = random.percent(SHRINK_PERCENT) || kind == Kind::Witness;
    let steps =
        [Step::Join(kind, waits), Step::Leave(kind, state), Step::Rest, Step::Join(kind, true)];
    steps.into_iter().chain(shrinks.then_some(Step::Shrink(kind))).collect()
}

impl Members {
    /// Begins a change; nothing is done yet.
    ///
    /// # Errors
    /// Why there can be none now.
    pub fn begin(env: &Env, mut random: Random) -> Result<Self, String> {
        if !matches!(env.place, Place::Processes(_)) {
            return Err("nodes come and go only where they are processes".to_owned());
        }
        if env.disks.is_some() || env.clocks.is_some() {
            return Err("nodes that come have neither disks nor clocks of their own".to_owned());
        }
        let held = env.busy.take("members").ok_or("the members are being changed already")?;
        Ok(Self {
            steps: steps(&mut random),
            doing: None,
            random,
            newest: None,
            unknown_from: None,
            ending_from: None,
            said: Vec::new(),
            changed: false,
            unsure: false,
            _held: held,
        })
    }

    /// Says what is going to be done.
    pub fn intent(&self) -> String {
        let kind = |kind| if kind == Kind::Data { "standby" } else { "witness" };
        let told = self.steps.iter().find_map(|step| match step {
            Step::Leave(of, State::Running) => Some(format!("a {} leaves", kind(*of))),
            Step::Leave(of, State::Down) => Some(format!("a {} that is down leaves", kind(*of))),
            _ => None,
        });
        told.unwrap_or_default()
    }

    /// Returns the node that is down because it leaves: its agent is not to be started.
    pub fn down(&self) -> Option<&str> {
        self.doing.as_ref().filter(|doing| doing.down).map(|doing| doing.node.as_str())
    }

    /// Tells it to come to an end; returns whether it has.
    pub fn ends(&mut self) -> bool {
        self.ending_from.get_or_insert_with(Instant::now);
        self.doing.is_none() && self.steps.is_empty()
    }

    /// Returns what became of it.
    pub fn outcome(self) -> Outcome {
        let text = self.said.join("; ");
        match (self.unsure, self.changed) {
            (true, _) => Outcome::Indeterminate(text),
            (false, true) => Outcome::Installed(text),
            (false, false) => Outcome::Skipped(text),
        }
    }

    /// Takes the next step if the last one is done.
    ///
    /// # Errors
    /// If an order cannot be given.
    pub async fn go_on(&mut self, env: &mut Env) -> Result<(), Harness> {
        if let Some(doing) = self.doing.take_if(|doing| doing.order.is_finished()) {
            let Doing { node, joins, down, order } = doing;
            let outcome = order.await.trying(|| format!("change the place of {node}"))??;
            self.note(env, (&node, joins, down), &outcome);
        }
        if self.doing.is_some() {
            return Ok(());
        }
        let Some(step) = self.steps.front().copied() else { return Ok(()) };
        let many = env.place.names().len() > NODES_MIN;
        let late = self.ending_from.is_some_and(|from| from.elapsed() > LATE);
        match step {
            Step::Rest if self.ending_from.is_none() => return Ok(()),
            Step::Join(kind, waits) if !many => self.join(env, kind, waits),
            Step::Leave(kind, state) => return self.leave(env, kind, state).await,
            Step::Shrink(kind)
                if many && !late && nodes_of(&env.place, kind).len() > least(kind) =>
            {
                return self.leave(env, kind, State::Running).await;
            }
            Step::Rest | Step::Join(..) | Step::Shrink(_) => {}
        }
        self.steps.pop_front();
        Ok(())
    }

    fn join(&mut self, env: &mut Env, kind: Kind, waits: bool) {
        let fitting = |node: &&Node| is(node, kind);
        let names: Vec<String> =
            env.spares.iter().filter(fitting).map(|node| node.name.clone()).collect();
        let Some(name) = self.random.pick(&names).cloned() else {
            self.said.push("there is no place for another node".to_owned());
            return;
        };
        let at = env.spares.iter().position(|node| node.name == name);
        let Some(mut node) = at.map(|at| env.spares.remove(at)) else { return };
        let grpc = node.grpc();
        if let Some(cluster) = env.cluster() {
            cluster.introduce(&mut node);
            node.start();
            cluster.remember(node);
        }
        let endpoints = super::orders::endpoints(&env.place);
        let order = tokio::spawn(orders::take_in(endpoints, (name.clone(), grpc), waits));
        self.doing = Some(Doing { node: name, joins: true, down: false, order });
    }

    /// Begins to take a node out, once it is known who may not leave.
    async fn leave(&mut self, env: &mut Env, kind: Kind, state: State) -> Result<(), Harness> {
        let Some(holder) = targets::holder(&env.place).await else {
            let from = *self.unknown_from.get_or_insert_with(Instant::now);
            if from.elapsed() > HOLDER_LIMIT {
                self.said.push("nobody knows who is the primary".to_owned());
                self.steps.pop_front();
            }
            return Ok(());
        };
        self.unknown_from = None;
        self.steps.pop_front();
        let mut names = nodes_of(&env.place, kind);
        names.retain(|name| *name != holder);
        let old: Vec<String> =
            names.iter().filter(|name| Some(*name) != self.newest.as_ref()).cloned().collect();
        let from = if old.is_empty() { &names } else { &old };
        let Some(name) = self.random.pick(from).cloned() else {
            self.said.push(format!("nobody can leave: {holder} is the primary"));
            return Ok(());
        };
        let down = state == State::Down;
        let mut others = Vec::new();
        if let Some(cluster) = env.cluster() {
            if down {
                cluster.node_mut(&name).kill_everything();
            }
            others.extend(cluster.nodes().iter().filter(|node| node.name != name).map(Node::grpc));
        }
        env.leaving.insert(name.clone());
        let endpoints = others.join(",");
        let order = tokio::spawn(orders::take_out(endpoints, name.clone()));
        self.doing = Some(Doing { node: name, joins: false, down, order });
        Ok(())
    }

    /// A step has ended.
    fn note(&mut self, env: &mut Env, (node, joins, down): (&str, bool, bool), outcome: &Outcome) {
        let what = match (joins, down) {
            (true, _) => "joins",
            (false, false) => "leaves",
            (false, true) => "leaves, down",
        };
        self.said.push(format!("{node} {what}: {}", outcome.detail()));
        match outcome {
            Outcome::Installed(_) => {
                self.changed = true;
                if joins {
                    self.newest = Some(node.to_owned());
                } else {
                    put_aside(env, node);
                }
            }
            Outcome::Skipped(_) if joins => {
                put_aside(env, node);
                self.steps.clear();
            }
            Outcome::Skipped(_) => {
                env.leaving.remove(node);
                if !self.changed {
                    self.steps.clear();
                }
            }
            // It is brought to its end once everything is put right.
            Outcome::Indeterminate(_) => {
                self.unsure = true;
                self.steps.clear();
            }
        }
        // One that stays after all.
        if down
            && let Some(node) = env.cluster().and_then(|cluster| cluster.find_mut(node))
            && !node.agent_runs()
        {
            node.kill_agent();
            node.start();
        }
    }
}

/// Ends a node that is no part of the cluster and empties its directories.
fn put_aside(env: &mut Env, name: &str) {
    env.leaving.remove(name);
    if let Some(node) = env.cluster().map(|cluster| cluster.forget(name)) {
        node.empty();
        env.spares.push(node);
    }
}

fn is(node: &Node, kind: Kind) -> bool {
    node.is_data == (kind == Kind::Data)
}

fn nodes_of(place: &Place, kind: Kind) -> Vec<String> {
    let mut names = place.names();
    names.retain(|name| place.has_database(name) == (kind == Kind::Data));
    names
}

/// How many of a kind there are in the beginning.
const fn least(kind: Kind) -> usize {
    match kind {
        Kind::Data => 2,
        Kind::Witness => 1,
    }
}

/// Gives orders that did not come to an end again. Returns what is still to be done, if anything is.
///
/// # Errors
/// If an order cannot be given.
pub async fn settle(env: &mut Env) -> Result<Result<(), String>, Harness> {
    let endpoints = super::orders::endpoints(&env.place);
    let Some(listed) = orders::list(&endpoints).await? else {
        return Ok(Err("no agent says who the members are".to_owned()));
    };
    let Some(cluster) = env.cluster() else { return Ok(Ok(())) };
    let nodes: Vec<(String, String)> =
        cluster.nodes().iter().map(|node| (node.name.clone(), node.grpc())).collect();
    for (name, grpc) in nodes {
        let raft = listed.iter().find(|(listed, _)| *listed == name).map(|(_, raft)| raft.as_str());
        let outcome = match (raft, env.leaving.contains(&name)) {
            (Some("voter"), false) => continue,
            (None, true) => Outcome::Installed(String::new()),
            (Some(_), true) => orders::take_out(endpoints.clone(), name.clone()).await?,
            (_, false) => {
                let place = (name.clone(), grpc);
                orders::take_in(endpoints.clone(), place, false).await?
            }
        };
        match (outcome, env.leaving.contains(&name)) {
            (Outcome::Installed(_), true) => put_aside(env, &name),
            (Outcome::Installed(_), false) => {}
            // It stays.
            (Outcome::Skipped(_), true) if raft == Some("voter") => {
                env.leaving.remove(&name);
            }
            (other, _) => return Ok(Err(format!("{name}: {}", other.detail()))),
        }
    }
    let strange = listed.iter().find(|(name, _)| !env.knows(name));
    Ok(strange.map_or(Ok(()), |(name, _)| {
        Err(format!("{name} is a member, though haclt had said otherwise"))
    }))
}
