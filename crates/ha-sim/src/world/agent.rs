//! One start of an agent: what it holds in memory, its permit, its part in Raft.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ha_core::candidate::Tip;
use ha_core::granter::Granter;
use ha_core::holder::Holder;
use ha_core::permit::{Order, Permit, StopMode};
use ha_core::state::{Command, State};
use ha_core::{BootNanos, Epoch, Incarnation, WalPosition};

use super::astray::Astray;
use super::event::{Body, Event, Message, Proposed, Reply, Request};
use super::granter::Duty;
use super::host::Host;
use super::kernel::{Ctx, MS, Sim, Slot, Time};
use super::mutation::Mutation;
use super::observe::{self, Facts, Probe};
use super::quorum::Memory;
use super::raft::{Hard, Outbox, Raft, RaftMessage, Role};
use super::report::Reported;
use super::state::World;
use super::{control, granter, handle, lease, quorum, witness};

/// How long a written file takes to reach a disk that nobody asks to sync.
const WRITE_BACK: u64 = 5000 * MS;

/// Somebody waits until a majority has confirmed that this node leads.
#[derive(Debug)]
pub(crate) struct Reading {
    round: u64,
    term: u64,
    index: usize,
    slot: Slot<Option<u64>>,
}

/// A lock that is held for as long as its guard lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lock(Rc<std::cell::Cell<bool>>);

/// Gives a lock back.
#[derive(Debug)]
pub(crate) struct Held(Lock);

impl Lock {
    pub(crate) fn try_take(&self) -> Option<Held> {
        (!self.0.replace(true)).then(|| Held(self.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.set(false);
    }
}

/// One start of an agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) life: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) raft: Raft,
    /// The state as applied here.
    pub(crate) state: Rc<State>,
    pub(crate) applied: usize,
    readings: Vec<Reading>,
    proposals: BTreeMap<usize, (u64, Slot<Proposed>)>,
    /// Until when what it wrote for Raft is not on disk.
    writing_until: Time,
    heard_at: Time,
    patience: u64,
    raft_task: u64,
    led: bool,
    pub(crate) loop_task: u64,
    pub(crate) woken: bool,
    pub(crate) lease_task: u64,
    pub(crate) renew_now: bool,
    pub(crate) renewing: usize,
    pub(crate) holder: Option<Holder>,
    pub(crate) granter: Granter,
    /// The term that its granter last saw it lead: what is watched may lag behind.
    pub(crate) noticed: Option<u64>,
    pub(crate) astray: Astray,
    pub(crate) duty: Duty,
    pub(crate) last_known: Option<(Epoch, WalPosition)>,
    /// As on disk.
    pub(crate) pledge: Epoch,
    pub(crate) permit: Permit,
    pub(crate) facts: Facts,
    /// What other data nodes last said; nothing if they did not answer.
    pub(crate) sightings: BTreeMap<usize, Option<Reported>>,
    pub(crate) vouched: Option<(Epoch, Tip)>,
    pub(crate) receiving: Lock,
    pub(crate) quorum: Memory,
    /// Under which epoch a witness's receiver may be alive.
    pub(crate) active: Option<Epoch>,
    asked: BTreeMap<u64, Slot<Reply>>,
    requests: u64,
    pub(crate) looped_at: BootNanos,
}

impl Agent {
    fn new(host: &Host, at: usize, nodes: usize, world: &World, incarnation: u64) -> Self {
        let boot = world.boot_of(at);
        let nothing = Permit {
            boot,
            run: 0,
            burnt: Epoch::NONE,
            order: Order::Down { stop: StopMode::Fast },
        };
        let mut raft = Raft::new(at, nodes, host.store.raft.written.clone());
        let restored = world.mutation == Some(Mutation::LeaderRestored);
        if restored && host.led == Some(raft.hard.term) {
            raft.lead_on();
        }
        Self {
            life: host.lives,
            incarnation: Incarnation(incarnation),
            raft,
            state: Rc::default(),
            applied: 0,
            readings: Vec::new(),
            proposals: BTreeMap::new(),
            writing_until: 0,
            heard_at: world.now,
            patience: 0,
            raft_task: 0,
            led: false,
            loop_task: 0,
            woken: false,
            lease_task: 0,
            renew_now: false,
            renewing: 0,
            holder: None,
            granter: Granter::new(world.policy.drift),
            noticed: None,
            astray: Astray::default(),
            duty: Duty::default(),
            last_known: None,
            pledge: host.store.pledge.written,
            permit: host.permit.filter(|permit| permit.boot == boot).unwrap_or(nothing),
            facts: Facts::default(),
            sightings: BTreeMap::new(),
            vouched: None,
            receiving: Lock::default(),
            quorum: Memory::default(),
            // An earlier start may have left a receiver.
            active: Some(Epoch::NONE),
            asked: BTreeMap::new(),
            requests: 0,
            looped_at: BootNanos(0),
        }
    }

    pub(crate) fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }
}

/// Starts an agent on a machine that has none.
pub(crate) fn start(sim: &Sim, at: usize) {
    let mut world = sim.world();
    if !world.hosts[at].up || world.hosts[at].agent.is_some() {
        return;
    }
    world.hosts[at].lives += 1;
    let incarnation = world.rng.next();
    let nodes = world.hosts.len();
    let agent = Agent::new(&world.hosts[at], at, nodes, &world, incarnation);
    world.hosts[at].agent = Some(agent);
    world.tell(at, "agent starts");
    world.apply(at);
    let directed = world.director.is_some();
    drop(world);
    if !directed {
        go(sim, at);
    }
}

/// Has an agent go about its duties.
pub(crate) fn go(sim: &Sim, at: usize) {
    let ctx = Ctx { sim: sim.clone(), host: at };
    let raft_task = ctx.spawn(keep_time(ctx.clone()));
    let lease_task = ctx.spawn(lease::run(ctx.clone()));
    ctx.spawn(granter::run(ctx.clone()));
    let is_data = ctx.host().pg.is_some();
    if is_data {
        let loop_task = ctx.spawn(control::run(ctx.clone()));
        ctx.agent().loop_task = loop_task;
        ctx.spawn(prober(ctx.clone()));
        ctx.spawn(quorum::run(ctx.clone()));
    } else {
        ctx.spawn(witness::run(ctx.clone()));
    }
    watch(&ctx);
    let mut agent = ctx.agent();
    agent.raft_task = raft_task;
    agent.lease_task = lease_task;
}

/// Reads what the server tells, every now and then.
async fn prober(ctx: Ctx) {
    loop {
        probe(&mut ctx.world(), ctx.host);
        ctx.sleep(Duration::from_millis(250)).await;
    }
}

/// Reads what the server tells now.
pub(crate) fn probe(world: &mut World, at: usize) {
    let (now, clock) = (world.now, world.clock(at).boottime);
    let Some(status) = observe::guard(&world.hosts[at]) else { return };
    let Some(pg) = &world.hosts[at].pg else { return };
    let answer =
        pg.server.as_ref().filter(|server| server.up && server.run == status.run).map(|server| {
            Probe {
                run: status.run,
                at: now,
                recovery: server.recovery,
                flushed: pg.data.wal.end(),
                streaming: server.receiver.is_some(),
            }
        });
    let facts = &mut world.agent(at).facts;
    if status.state == ha_core::permit::RunState::Running && facts.seen_run.0 != status.run {
        facts.seen_run = (status.run, clock);
        facts.streamed_at = None;
    }
    let Some(answer) = answer else { return };
    if answer.streaming {
        facts.streamed_at = Some(now);
    }
    let first = facts.answer(status.run).is_none();
    facts.probe = Some(answer);
    if first {
        world.wake_agent(at);
    }
}

/// Asks the other nodes how they are, every now and then.
fn watch(ctx: &Ctx) {
    let nodes = ctx.world().hosts.len();
    for node in (0..nodes).filter(|node| *node != ctx.host) {
        let own = ctx.clone();
        ctx.spawn(async move {
            loop {
                let reply = own.ask(node, Request::Report, Duration::from_millis(500)).await;
                let seen = match reply {
                    Some(Reply::Reported(reported)) => Some(*reported),
                    _ => None,
                };
                own.agent().sightings.insert(node, seen);
                own.sleep(Duration::from_millis(500)).await;
            }
        });
    }
}

/// Raft's clock: heartbeats of a leader, the patience of the others.
async fn keep_time(ctx: Ctx) {
    loop {
        let policy = ctx.world().policy;
        let wait = {
            let mut world = ctx.world();
            let now = world.now;
            let spread = world.rng.range(
                ha_core::clock::nanos(policy.election_min),
                ha_core::clock::nanos(policy.election_max),
            );
            let agent = world.agent(ctx.host);
            if agent.patience == 0 {
                agent.patience = ha_core::clock::nanos(policy.election_max) + spread;
            }
            let waited = now.saturating_sub(agent.heard_at);
            if agent.raft.role == Role::Leader {
                let (_, out) = agent.raft.begin_round();
                world.raft_stepped(ctx.host, out);
                policy.heartbeat
            } else if waited >= agent.patience {
                agent.heard_at = now;
                agent.patience = 0;
                let out = agent.raft.campaign(false);
                world.raft_stepped(ctx.host, out);
                Duration::from_millis(1)
            } else {
                Duration::from_nanos(agent.patience - waited)
            }
        };
        let led = ctx.agent().raft.role == Role::Leader;
        ctx.sleep_unless(wait, |agent| !led && agent.raft.role == Role::Leader).await;
    }
}

impl World {
    /// Takes a Raft message in.
    pub(crate) fn raft_message(&mut self, at: usize, from: usize, message: RaftMessage) {
        let id = self.next_id();
        let (now, trust) = (self.now, ha_core::clock::nanos(self.policy.election_max));
        let agent = self.agent(at);
        let lately = agent.raft.leader.is_some() && now.saturating_sub(agent.heard_at) < trust;
        let trusting = agent.raft.role == Role::Leader || lately;
        let out = agent.raft.receive(from, message, trusting, id);
        if std::mem::take(&mut agent.raft.heard) {
            agent.heard_at = now;
            agent.patience = 0;
        }
        self.raft_stepped(at, out);
    }

    /// What has to be on disk is written; what is to be sent leaves after that.
    pub(crate) fn raft_stepped(&mut self, at: usize, out: Outbox) {
        let unsynced = self.mutation == Some(Mutation::RaftNotSynced);
        let agent = self.agent(at);
        let (task, leads) = (agent.raft_task, agent.raft.role == Role::Leader);
        if leads && !std::mem::replace(&mut agent.led, leads) {
            self.after(0, Event::Wake(task));
        }
        self.agent(at).led = leads;
        if self.agent(at).raft.dirty {
            if self.hosts[at].disk.full > 0 {
                // Not at once: whoever asked for this is one of its tasks.
                let life = self.agent(at).life;
                self.after(0, Event::AgentEnds { host: at, life });
                return;
            }
            let agent = self.agent(at);
            agent.raft.dirty = false;
            let image = agent.raft.hard.clone();
            let life = agent.life;
            self.hosts[at].store.raft.written = image.clone();
            let latency = self.latency(at);
            let now = self.now;
            let agent = self.agent(at);
            agent.writing_until = agent.writing_until.max(now) + latency;
            let done = agent.writing_until;
            let (term, last) = (image.term, image.log.len());
            let image = Some(Box::new(image));
            if unsynced {
                let later = Event::Durable { host: at, life, image, out: Outbox::new() };
                self.after(WRITE_BACK, later);
                self.leave(at, out);
                let id = self.next_id();
                let more = self.agent(at).raft.is_durable(term, last, id);
                self.raft_stepped(at, more);
            } else {
                self.at(done, Event::Durable { host: at, life, image, out });
            }
        } else if self.agent(at).writing_until > self.now {
            // An answer queues behind what was accepted before it.
            let (life, done) = (self.agent(at).life, self.agent(at).writing_until);
            if !out.is_empty() {
                self.at(done, Event::Durable { host: at, life, image: None, out });
            }
        } else {
            self.leave(at, out);
        }
        self.apply(at);
    }

    fn leave(&mut self, at: usize, out: Outbox) {
        for (to, message) in out {
            self.send(at, to, Body::Raft(message));
        }
    }

    /// What was written is on disk.
    pub(crate) fn durable(&mut self, at: usize, image: Option<Box<Hard>>, out: Outbox) {
        self.leave(at, out);
        let Some(image) = image else { return };
        let (term, last) = (image.term, image.log.len());
        self.hosts[at].store.raft.synced = *image;
        let id = self.next_id();
        let more = self.agent(at).raft.is_durable(term, last, id);
        self.raft_stepped(at, more);
    }

    /// Applies what is committed, and answers whoever waits for it.
    fn apply(&mut self, at: usize) {
        let mut changed = false;
        loop {
            let agent = self.agent(at);
            if agent.applied >= agent.raft.commit {
                break;
            }
            let index = agent.applied + 1;
            let entry = Rc::clone(&agent.raft.hard.log[index - 1]);
            let (state, outcome) = self.committed(at, index, &entry);
            let agent = self.agent(at);
            agent.state = state;
            agent.applied = index;
            changed = true;
            if let Some((term, slot)) = agent.proposals.remove(&index) {
                let became =
                    if term == entry.term { Proposed::Done(outcome) } else { Proposed::Unknown };
                slot.fill(self, became);
            }
        }
        if changed {
            self.wake_agent(at);
        }
        let agent = self.agent(at);
        if agent.readings.is_empty() {
            return;
        }
        let all = std::mem::take(&mut agent.readings);
        for reading in all {
            let agent = self.agent(at);
            let leads = agent.raft.leads() == Some(reading.term);
            let confirmed = leads && agent.raft.is_confirmed(reading.round);
            if confirmed && agent.applied >= reading.index {
                reading.slot.fill(self, Some(reading.term));
            } else if leads {
                agent.readings.push(reading);
            } else {
                reading.slot.fill(self, None);
            }
        }
    }

    /// Writes the permit; the guard sees it a moment later.
    pub(crate) fn write_permit(&mut self, at: usize, change: impl FnOnce(Permit) -> Permit) {
        let agent = self.agent(at);
        let permit = change(agent.permit);
        if permit == agent.permit {
            return;
        }
        agent.permit = permit;
        self.hosts[at].permit = Some(permit);
        let boots = self.hosts[at].boots;
        let span = self.polled();
        self.after(span, Event::Guard { host: at, boots });
    }

    /// Gives an epoch up for good on this node, before anybody is told.
    pub(crate) fn burn(&mut self, at: usize, epoch: Epoch) {
        if self.mutation == Some(Mutation::EpochUsedAgain) {
            return;
        }
        let agent = self.agent(at);
        if let Some(holder) = agent.holder.as_mut().filter(|holder| holder.epoch() <= epoch) {
            holder.burn();
        }
        self.write_permit(at, |old| {
            let order = match old.order {
                Order::Primary { epoch: own, .. } if own <= epoch => {
                    Order::Down { stop: StopMode::Immediate }
                }
                other => other,
            };
            Permit { burnt: old.burnt.max(epoch), order, ..old }
        });
    }
}

impl Ctx {
    /// Waits for that long, or until something is so. Whoever makes it so wakes the task.
    pub(crate) async fn sleep_unless(&self, span: Duration, is: impl Fn(&Agent) -> bool) {
        let mut sleep = self.sleep(span);
        std::future::poll_fn(|context| {
            if is(&self.agent()) {
                return std::task::Poll::Ready(());
            }
            std::pin::Pin::new(&mut sleep).poll(context)
        })
        .await;
    }

    /// Asks another node; nothing if no answer comes in time.
    pub(crate) async fn ask(&self, to: usize, request: Request, limit: Duration) -> Option<Reply> {
        let (id, slot) = {
            let mut world = self.world();
            let agent = world.agent(self.host);
            let id = agent.next_request();
            let slot = Slot::new();
            agent.asked.insert(id, slot.clone());
            let life = agent.life;
            world.send(self.host, to, Body::Ask { id, life, request });
            (id, slot)
        };
        let reply = self.timeout(limit, slot.wait(&self.sim)).await;
        self.agent().asked.remove(&id);
        reply
    }

    /// Has a majority confirm that this node leads, from now on, and everything applied that it may
    /// have missed. Returns the term.
    pub(crate) async fn confirm_leadership(&self, limit: Duration) -> Option<u64> {
        let slot = {
            let mut world = self.world();
            let cached = world.mutation == Some(Mutation::CachedConfirmation);
            let hasty = world.mutation == Some(Mutation::AnsweredBeforeFirstEntry);
            let agent = world.agent(self.host);
            let term = agent.raft.leads()?;
            if cached {
                return Some(term);
            }
            let applied = agent.raft.first_own.max(agent.raft.commit);
            let index = if hasty { 0 } else { applied };
            let (round, out) = agent.raft.begin_round();
            let slot = Slot::new();
            agent.readings.push(Reading { round, term, index, slot: slot.clone() });
            world.raft_stepped(self.host, out);
            slot
        };
        self.timeout(limit, slot.wait(&self.sim)).await.flatten()
    }

    /// Proposes a command as leader, of that term if one is given. Never forwarded.
    pub(crate) async fn propose(
        &self,
        command: Command,
        bound: Option<u64>,
        limit: Duration,
    ) -> Proposed {
        let slot = {
            let mut world = self.world();
            let id = world.next_id();
            let agent = world.agent(self.host);
            let Some(term) = agent.raft.leads().filter(|t| bound.is_none_or(|b| b == *t)) else {
                return Proposed::NotTaken;
            };
            let out = agent.raft.append(Some(command), id);
            let slot = Slot::new();
            let index = agent.raft.hard.log.len();
            agent.proposals.insert(index, (term, slot.clone()));
            world.raft_stepped(self.host, out);
            slot
        };
        self.timeout(limit, slot.wait(&self.sim)).await.unwrap_or(Proposed::Unknown)
    }

    /// Has a command proposed by whoever leads.
    pub(crate) async fn submit(&self, command: Command, limit: Duration) -> Proposed {
        let leader = self.agent().raft.leader;
        match leader {
            None => Proposed::NotTaken,
            Some(leader) if leader == self.host => self.propose(command, None, limit).await,
            Some(leader) => {
                match self.ask(leader, Request::Propose(Box::new(command)), limit).await {
                    Some(Reply::Proposed(proposed)) => proposed,
                    _ => Proposed::Unknown,
                }
            }
        }
    }
}

/// A datagram arrives at a machine whose agent runs.
pub(crate) fn message(sim: &Sim, message: Message) {
    let Message { from, to, body } = message;
    match body {
        Body::Raft(message) => sim.world().raft_message(to, from, message),
        Body::Ask { id, life, request } => {
            let ctx = Ctx { sim: sim.clone(), host: to };
            let own = ctx.clone();
            ctx.spawn(async move {
                let reply = handle::answer(&own, from, request).await;
                let body = Body::Answer { id, life, reply };
                own.world().send(own.host, from, body);
            });
        }
        Body::Answer { id, life, reply } => {
            let mut world = sim.world();
            let agent = world.agent(to);
            if agent.life == life
                && let Some(slot) = agent.asked.remove(&id)
            {
                slot.fill(&mut world, reply);
            }
        }
    }
}
