//! A world in which nothing is left to chance: who may go on, which message arrives and how much time passes is
//! said step by step.
//!
//! Agents go about no duty by themselves. What they tell each other by Raft, and ask each other to propose, is
//! held, and lost unless it is delivered. At a gate a task stands still as it would if its agent were frozen
//! there; what is asked beside that arrives at once. Once nobody directs any more, everything goes on as in any
//! other world.

use std::cell::RefCell;
use std::future::Future;

use ha_core::NodeKind;
use ha_core::policy::Durability;

use super::agent;
use super::event::{Body, Event, Message, Request, Streamed};
use super::kernel::{Ctx, MS, Sim, Slot};
use super::mutation::Mutation;
use super::plan::Plan;
use super::raft::RaftMessage;
use super::run::{Ended, step, until_well};
use super::state::World;

/// How long a sync, and the way of a datagram, takes there, nanoseconds: as good as nothing.
pub(crate) const DISK: u64 = 50_000;
pub(crate) const WAY: u64 = 1_000;
/// How long whatever follows at once from something takes at most.
const SETTLES: u64 = 2 * MS;

/// Where the task of a renewal stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// The holder has noted the time, and nothing has left yet.
    Sent,
    /// The leader has its majority, and has not looked again.
    Confirmed,
    /// The holder has its answer, and has not taken it in.
    Answered,
}

/// What is held.
#[derive(Debug, Default)]
pub(crate) struct Director {
    raft: Vec<(usize, usize, RaftMessage)>,
    /// Whoever is asked to propose something.
    proposals: Vec<Message>,
    gates: Vec<(Gate, usize, u64, Slot<()>)>,
    /// Renewals whose answer was taken in, and whether it counted.
    answers: Vec<(usize, u64, bool)>,
    /// WAL, and what receivers say of it, if that is held.
    pub(crate) streams: Option<Vec<(u64, usize, u64, Streamed)>>,
    /// Whose server does not read its settings anew.
    pub(crate) late: Option<usize>,
}

impl World {
    /// Holds what is held; returns what is to be sent.
    pub(crate) fn directed(&mut self, from: usize, to: usize, body: Body) -> Option<Body> {
        let Some(director) = &mut self.director else { return Some(body) };
        match body {
            Body::Raft(message) => director.raft.push((from, to, message)),
            Body::Ask { request: Request::Propose(_), .. } => {
                director.proposals.push(Message { from, to, body });
            }
            Body::Ask { .. } | Body::Answer { .. } => return Some(body),
        }
        None
    }

    /// Holds what arrives on a connection between nodes, if that is held.
    pub(crate) fn holds(
        &mut self,
        connection: u64,
        side: usize,
        number: u64,
        body: &Streamed,
    ) -> bool {
        let nodes = self.hosts.len();
        let ends = self.connections.get(&connection).map(|known| known.ends);
        let between = ends.is_some_and(|ends| ends.iter().all(|end| *end < nodes));
        let kind = matches!(body, Streamed::Wal { .. } | Streamed::Flushed(_));
        let held = self.director.as_mut().and_then(|director| director.streams.as_mut());
        match held.filter(|_| between && kind) {
            Some(held) => {
                held.push((connection, side, number, body.clone()));
                true
            }
            None => false,
        }
    }

    /// Whether a server goes on by the settings that it has read before.
    pub(crate) fn reads_late(&self, host: usize) -> bool {
        self.director.as_ref().is_some_and(|director| director.late == Some(host))
    }

    /// The term that a granter sees its node lead: what it watches may lag behind.
    pub(crate) fn leading_as_seen(&mut self, at: usize) -> Option<u64> {
        let directed = self.director.is_some();
        let agent = self.agent(at);
        if directed { agent.noticed } else { agent.raft.leads() }
    }

    /// Notes why something was not done, if somebody directs.
    pub(crate) fn explain(&mut self, at: usize, why: &str) {
        if self.director.is_some() {
            self.tell(at, why);
        }
    }

    /// Notes what became of an answer.
    pub(crate) fn note_answer(&mut self, at: usize, id: u64, counts: bool) {
        if let Some(director) = &mut self.director {
            director.answers.push((at, id, counts));
            let clock = self.clock(at);
            let left = self.agent(at).holder.as_ref().map_or(0, |it| it.left(clock).as_millis());
            let text = if counts { "is taken in" } else { "is ignored" };
            self.tell(at, &format!("the answer to renewal {id} {text}: {left} ms left"));
        }
    }
}

impl Ctx {
    /// Stands still, if somebody directs, until the gate of that renewal is opened.
    pub(crate) async fn gate(&self, gate: Gate, from: usize, id: u64) {
        let slot = {
            let mut world = self.world();
            let Some(director) = &mut world.director else { return };
            let slot = Slot::new();
            director.gates.push((gate, from, id, slot.clone()));
            slot
        };
        slot.wait(&self.sim).await;
    }
}

pub(crate) fn three_nodes(seed: u64, mutation: Option<Mutation>) -> Plan {
    let data = (NodeKind::Data, true);
    let kinds = vec![data, data, (NodeKind::Witness, true)];
    let (durability, faults) = (Durability::Quorum, Vec::new());
    Plan { seed, kinds, durability, faults, clients: 1, mutation }
}

/// A directed world.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) sim: Sim,
    pub(crate) plan: Plan,
    /// Duties that go on by themselves.
    pub(crate) kept: RefCell<Vec<u64>>,
}

impl Stage {
    /// Makes one of two data nodes and a witness, all of whose agents run and do nothing. The clocks run as
    /// much too fast or too slow as that, in millionths.
    pub(crate) fn new(ppm: [i64; 3], mutation: Option<Mutation>) -> Self {
        let plan = three_nodes(1, mutation);
        let sim = super::run::machines(&plan, true);
        {
            let mut world = sim.world();
            world.director = Some(Director::default());
            if mutation == Some(Mutation::NoDriftMargin) {
                world.policy.drift.per_mille = 0;
            }
            for (host, ppm) in world.hosts.iter_mut().zip(ppm) {
                (host.clock.boottime_ppm, host.clock.raw_ppm) = (ppm, ppm);
            }
            for host in 0..3 {
                world.at(0, Event::Start { host, agent_only: false });
            }
            world.at(0, Event::Tick);
        }
        let stage = Self { sim, plan, kept: RefCell::default() };
        stage.settle();
        stage
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.sim.world().oracle.violation.clone()
    }

    /// Notes something; returns how many lines there are.
    pub(crate) fn noted(&self, text: &str) -> usize {
        let mut world = self.sim.world();
        world.note(text);
        world.trace.lines.len()
    }

    /// Lets time pass until something is so, at most that long. Returns whether it is.
    pub(crate) fn until(&self, span: u64, is: impl Fn(&mut World) -> bool) -> bool {
        let end = self.sim.world().now + span;
        loop {
            {
                let mut world = self.sim.world();
                if world.oracle.violation.is_some() || is(&mut world) {
                    return is(&mut world);
                }
                if world.queue.peek().is_none_or(|next| next.at > end) {
                    world.now = end;
                    return is(&mut world);
                }
            }
            step(&self.sim, &self.plan);
        }
    }

    /// Lets that much time pass.
    pub(crate) fn pass(&self, span: u64) {
        self.until(span, |_| false);
    }

    /// Lets happen what follows at once.
    pub(crate) fn settle(&self) {
        self.pass(SETTLES);
    }

    /// Has an agent do something. Returns its task.
    pub(crate) fn have<F: Future<Output = ()> + 'static>(
        &self,
        host: usize,
        work: impl FnOnce(Ctx) -> F,
    ) -> Option<u64> {
        let ctx = Ctx { sim: self.sim.clone(), host };
        let there = ctx.host().agent.is_some();
        there.then(|| ctx.spawn(work(ctx.clone())))
    }

    /// Has an agent go about one of its duties.
    pub(crate) fn keep<F: Future<Output = ()> + 'static>(
        &self,
        host: usize,
        work: impl FnOnce(Ctx) -> F,
    ) {
        let task = self.have(host, work);
        self.kept.borrow_mut().extend(task);
    }

    pub(crate) fn has_agent(&self, host: usize) -> bool {
        self.sim.world().hosts[host].agent.is_some()
    }

    /// What was not delivered is lost.
    pub(crate) fn lose(&self) {
        if let Some(director) = &mut self.sim.world().director {
            director.raft.clear();
        }
    }

    fn held(&self, from: usize, to: usize) -> Option<RaftMessage> {
        let mut world = self.sim.world();
        let held = &mut world.director.as_mut()?.raft;
        let at = held.iter().rposition(|(a, b, _)| (*a, *b) == (from, to))?;
        Some(held.remove(at).2)
    }

    /// One node gets a message of Raft from another; returns what it answers.
    fn tell(&self, from: usize, to: usize, message: RaftMessage) -> Option<RaftMessage> {
        self.lose();
        if !self.has_agent(to) {
            return None;
        }
        self.sim.world().raft_message(to, from, message);
        self.settle();
        self.held(to, from)
    }

    /// A node campaigns, one other hears it. Returns whether it leads.
    pub(crate) fn elect(&self, candidate: usize, voter: usize) -> bool {
        // It may have to learn first which term there is.
        for _ in 0..3 {
            self.lose();
            {
                let mut world = self.sim.world();
                let out = world.agent(candidate).raft.campaign(true);
                world.raft_stepped(candidate, out);
            }
            self.settle();
            let Some(question) = self.held(candidate, voter) else { return false };
            let Some(answer) = self.tell(candidate, voter, question) else { return false };
            self.tell(voter, candidate, answer);
            if self.sim.world().agent(candidate).raft.leads().is_some() {
                // Its granter sees that it leads.
                super::granter::observe(&mut self.sim.world(), candidate);
                return true;
            }
        }
        false
    }

    /// A follower gets everything that a leader has. Returns whether it took it; the leader hears of that if
    /// `acked`. It was sent before any round that is under way.
    pub(crate) fn replicate(&self, from: usize, to: usize, acked: bool) -> bool {
        for _ in 0..10 {
            if !self.has_agent(from) || self.sim.world().agent(from).raft.leads().is_none() {
                return false;
            }
            let mut message = self.sim.world().agent(from).raft.append_to(to);
            if let RaftMessage::Append { round, .. } = &mut message {
                *round = 0;
            }
            let Some(answer) = self.tell(from, to, message) else { return false };
            let RaftMessage::Appended { ok, .. } = answer else { return false };
            if ok && !acked {
                return true;
            }
            self.tell(to, from, answer);
            if ok {
                return true;
            }
        }
        false
    }

    /// A follower answers to a round, and gets nothing but the question. Returns whether it counts.
    pub(crate) fn acknowledge(&self, leader: usize, by: usize, of: u64) -> bool {
        if !self.has_agent(leader) || self.sim.world().agent(leader).raft.leads().is_none() {
            return false;
        }
        let mut message = self.sim.world().agent(leader).raft.append_to(by);
        if let RaftMessage::Append { round, entries, commit, .. } = &mut message {
            (*round, *entries, *commit) = (of, [].into(), 0);
        }
        let Some(answer) = self.tell(leader, by, message) else { return false };
        self.tell(by, leader, answer);
        self.has_agent(leader) && self.sim.world().agent(leader).raft.is_confirmed(of)
    }

    /// A node hears from a leader how much of what it has is committed, up to there.
    pub(crate) fn recall(&self, leader: usize, to: usize, known: usize) -> bool {
        let mut message = self.sim.world().agent(leader).raft.append_to(to);
        if let RaftMessage::Append { round, entries, commit, .. } = &mut message {
            (*round, *entries, *commit) = (0, [].into(), known);
        }
        self.tell(leader, to, message);
        self.sim.world().agent(to).raft.commit >= known
    }

    /// Returns whether anybody asked another to propose something.
    pub(crate) fn asked_to_propose(&self) -> bool {
        let world = self.sim.world();
        world.director.as_ref().is_some_and(|director| !director.proposals.is_empty())
    }

    /// The renewal of a node that came to a gate last.
    pub(crate) fn at_gate(&self, gate: Gate, from: usize) -> Option<u64> {
        let world = self.sim.world();
        let gates = &world.director.as_ref()?.gates;
        gates.iter().rfind(|(at, by, ..)| (*at, *by) == (gate, from)).map(|(_, _, id, _)| *id)
    }

    /// Returns whether a renewal stands at a gate.
    pub(crate) fn stands_at(&self, gate: Gate, of: (usize, u64)) -> bool {
        let world = self.sim.world();
        let Some(director) = &world.director else { return false };
        director.gates.iter().any(|(at, from, id, _)| *at == gate && (*from, *id) == of)
    }

    /// Opens a gate for a renewal that stands there; returns whether one did.
    pub(crate) fn open(&self, gate: Gate, of: (usize, u64)) -> bool {
        let slot = {
            let mut world = self.sim.world();
            let Some(director) = &mut world.director else { return false };
            let found = director
                .gates
                .iter()
                .position(|(at, from, id, _)| *at == gate && (*from, *id) == of);
            let Some(at) = found else { return false };
            director.gates.remove(at).3
        };
        slot.fill(&mut self.sim.world(), ());
        self.settle();
        true
    }

    /// What became of the answer to a renewal; nothing if it was not taken in.
    pub(crate) fn answer_counted(&self, of: (usize, u64)) -> Option<bool> {
        let world = self.sim.world();
        let answers = &world.director.as_ref()?.answers;
        answers.iter().find(|(from, id, _)| (*from, *id) == of).map(|(.., counts)| *counts)
    }

    /// A node gets what others asked it to propose; returns whether there was anything.
    pub(crate) fn propose(&self, to: usize) -> bool {
        let mine: Vec<Message> = {
            let mut world = self.sim.world();
            let Some(director) = &mut world.director else { return false };
            let all = std::mem::take(&mut director.proposals);
            let (mine, others) = all.into_iter().partition(|message| message.to == to);
            director.proposals = others;
            mine
        };
        let any = !mine.is_empty() && self.has_agent(to);
        for message in mine.into_iter().filter(|_| any) {
            agent::message(&self.sim, message);
        }
        self.settle();
        any
    }

    /// Nobody directs any more: what stands at a gate goes on, what was held is lost, everybody goes about its
    /// duties. Returns how it ends.
    pub(crate) fn release(&self) -> Ended {
        let director = self.sim.world().director.take().unwrap_or_default();
        self.sim.world().wish = None;
        for (.., slot) in director.gates {
            slot.fill(&mut self.sim.world(), ());
        }
        for task in self.kept.take() {
            self.sim.world().end_task(task);
        }
        for (connection, side, number, body) in director.streams.unwrap_or_default() {
            self.sim.world().after(0, Event::Stream { connection, side, number, body });
        }
        if let Some(host) = director.late {
            let mut world = self.sim.world();
            let sync = world.pg(host).data.sync.clone();
            world.set_synchronous(host, &sync);
        }
        for host in 0..3 {
            if self.has_agent(host) {
                agent::go(&self.sim, host);
            } else {
                self.sim.world().after(0, Event::Start { host, agent_only: false });
            }
        }
        let now = self.sim.world().now;
        self.sim.world().after(0, Event::Client { index: 0, turn: 0 });
        until_well(&self.sim, &self.plan, now / MS)
    }

    /// Ends it, and returns what was noted.
    pub(crate) fn end(self, ended: Ended) -> super::run::Outcome {
        super::run::finish(&self.sim, ended, 0)
    }
}
