//! A way that the model of the lease found, taken with the real code: each step of the model is one thing that
//! is done in a directed world.
//!
//! A step of the model says that somebody does something. Here somebody is only *let* do it: whether it is done
//! is decided by the code. A step that the code refuses is noted, and the next ones are tried all the same, so
//! that the whole way is taken as far as it goes. `docs/model.md` says what stands for what.

use ha_core::decide::decide;
use ha_core::holder::Holder;
use ha_core::state::Command;
use ha_core::step::Step as Order;

use super::directed::{Gate, Stage};
use super::kernel::MS;
use super::mutation::Mutation;
use super::run::Ended;
use super::{agent, control, granter, jobs, lease, observe, switchover};
use crate::model::lease::Action;

/// A tick of the model: half a ttl, and so much that two of them are longer than both counts of the ttl if the
/// clocks run as differently as they may.
const TICK: u64 = 1_500_200_000;
/// The holder's clock is as slow, the others' as fast as allowed, nearly.
const PPM: [i64; 3] = [-9_900, 9_900, 9_900];
/// How long an election with its questions, and a promotion, take at most.
const ELECTION: u64 = 700 * MS;
const PROMOTION: u64 = 300 * MS;

/// One step of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the model says.
    pub told: String,
    /// Whether the code did it.
    pub taken: bool,
    /// What happened meanwhile, one line per event.
    pub trace: Vec<String>,
}

/// What became of a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Its steps, up to the one in which something was violated.
    pub steps: Vec<Step>,
    /// How it ended: after the last step everything goes on until the cluster is well.
    pub ended: Ended,
    /// One line per event of all of it.
    pub trace: Vec<String>,
}

impl Replayed {
    /// Returns the first step that the code refused.
    #[must_use]
    pub fn refused(&self) -> Option<&Step> {
        self.steps.iter().find(|step| !step.taken)
    }
}

/// Takes a way of the model of the lease.
///
/// # Panics
/// If the world does not come to where the model begins.
#[must_use]
pub fn replay_lease(way: &[Action], mutation: Option<Mutation>) -> Replayed {
    let stage = Stage::new(PPM, mutation);
    begin(&stage);
    let granted = stage.sim.world().agent(0).raft.commit;
    let mut replay = Replay { stage, way, renewals: [None; 2], decided: None, granted, spent: 0 };
    let mut steps = Vec::new();
    for (at, action) in way.iter().enumerate() {
        let told = action.to_string();
        let before = replay.stage.noted(&format!("STEP: {told}"));
        replay.stage.lose();
        let taken = replay.take(at);
        let after = replay.stage.noted(if taken { "taken" } else { "not taken" });
        let trace = replay.stage.sim.world().trace.lines[before..after].to_vec();
        steps.push(Step { told, taken, trace });
        if replay.stage.violation().is_some() {
            break;
        }
    }
    let stage = replay.stage;
    let ended = stage.violation().map_or_else(|| stage.release(), Ended::Violated);
    let outcome = stage.end(ended);
    Replayed { steps, ended: outcome.ended, trace: outcome.trace }
}

/// Node 0 has been given epoch 1, node 2 leads, both servers are up and neither is primary.
fn begin(stage: &Stage) {
    run_servers(stage, &[0, 1]);
    assert!(stage.elect(2, 0), "the witness is elected");
    let all = |times: u8| {
        for _ in 0..times {
            assert!(stage.replicate(2, 0, true) && stage.replicate(2, 1, true), "both follow");
        }
    };
    all(2);
    stage.have(2, |ctx| async move { granter::once(&ctx).await });
    stage.until(ELECTION, |world| has(world, 2, |it| matches!(it, Command::Grant { .. })));
    all(2);
    granter::observe(&mut stage.sim.world(), 2);
    let world = stage.sim.world();
    let granted = (0..3).all(|at| {
        let agent = world.hosts[at].agent.as_ref();
        agent.is_some_and(|it| it.state.lease.holder() == Some(&world.hosts[0].name))
    });
    assert!(granted, "the lease is given to node 0, and everybody knows");
}

/// Has control loops start servers as standbys.
fn run_servers(stage: &Stage, hosts: &[usize]) {
    let up = |world: &mut super::state::World| {
        hosts.iter().all(|at| {
            let server = world.hosts[*at].pg.as_ref().and_then(|pg| pg.server.as_ref());
            server.is_some_and(|server| server.up && server.recovery)
        })
    };
    for _ in 0..60 {
        if up(&mut stage.sim.world()) {
            break;
        }
        for at in hosts {
            agent::probe(&mut stage.sim.world(), *at);
            stage.have(*at, |ctx| async move { control::once(&ctx).await });
        }
        stage.pass(125 * MS);
    }
    assert!(up(&mut stage.sim.world()), "servers run as standbys");
    // So that it is seen since when they run.
    for at in hosts {
        agent::probe(&mut stage.sim.world(), *at);
        stage.have(*at, |ctx| async move { control::once(&ctx).await });
    }
    stage.pass(10 * MS);
}

/// Whether the last entry of a node's log is such a command.
fn has(world: &mut super::state::World, at: usize, is: impl Fn(&Command) -> bool) -> bool {
    let Some(agent) = &world.hosts[at].agent else { return false };
    agent.raft.hard.log.last().and_then(|entry| entry.command.as_ref()).is_some_and(is)
}

struct Replay<'a> {
    stage: Stage,
    way: &'a [Action],
    /// The renewals under way: who sent it, under which number, and at which leader's round it is.
    renewals: [Option<Renewal>; 2],
    /// Who decided last that the lease has expired.
    decided: Option<usize>,
    /// How many entries are committed where the model begins.
    granted: usize,
    /// How long promotions took since the last tick.
    spent: u64,
}

#[derive(Clone, Copy)]
struct Renewal {
    of: (usize, u64),
    round: Option<(usize, u64)>,
}

impl Replay<'_> {
    /// Lets the step at `at` be taken; returns whether it was.
    fn take(&mut self, at: usize) -> bool {
        let i = usize::from;
        let action = self.way[at];
        let stage = &self.stage;
        match action {
            Action::Tick => {
                // The model's promotions take no time.
                stage.pass(TICK.saturating_sub(std::mem::take(&mut self.spent)));
                true
            }
            Action::Elect { candidate, voter } => stage.elect(i(candidate), i(voter)),
            Action::Replicate { from, to, acked } => {
                let taken = stage.replicate(i(from), i(to), acked);
                self.learns(i(to));
                taken
            }
            Action::Expire { leader } => {
                self.decided = Some(i(leader));
                self.looks(i(leader), |it| matches!(it, Command::Vacate { .. }))
            }
            Action::VacateLate { leader } => {
                if let Some(by) = self.decided {
                    stage.have(by, |ctx| async move { granter::once(&ctx).await });
                    stage.settle();
                }
                let before = self.entries(i(leader));
                stage.propose(i(leader));
                self.entries(i(leader)) > before
            }
            Action::Grant { leader, to } => {
                let to = stage.sim.world().hosts[i(to)].name.clone();
                self.looks(
                    i(leader),
                    move |it| matches!(it, Command::Grant { to: it, .. } if *it == to),
                )
            }
            Action::TakeRelease { leader, .. } => {
                let before = self.entries(i(leader));
                stage.propose(i(leader));
                self.entries(i(leader)) > before
            }
            Action::Send { slot, from } => self.send(at, i(slot), i(from)),
            Action::Receive { slot, leader } => self.receive(i(slot), i(leader)),
            Action::Acknowledge { slot, by } => {
                let round = self.renewals[i(slot)].and_then(|renewal| renewal.round);
                round.is_some_and(|(leader, round)| stage.acknowledge(leader, i(by), round))
            }
            Action::Confirm { slot } => self.confirm(i(slot)),
            Action::Answer { slot } => self.renewals[i(slot)].take().is_some_and(|renewal| {
                let Renewal { of, .. } = renewal;
                stage.open(Gate::Answered, of) && stage.answer_counted(of) == Some(true)
            }),
            Action::Lose { slot } => self.renewals[i(slot)].take().is_some(),
            Action::Promote { node } => self.promote(i(node)),
            Action::GiveUp { node } => self.give_up(at, i(node)),
            Action::Stop { node } => stage.until(500 * MS, |world| {
                world.hosts[i(node)].pg.as_ref().is_some_and(|pg| !pg.is_writable())
            }),
            Action::DatabaseCrash { node } => {
                stage.sim.world().server_gone(i(node), "server crashes");
                true
            }
            Action::AgentCrash { node, forgets } => {
                let mut world = stage.sim.world();
                world.kill_agent(i(node));
                let known = &mut world.hosts[i(node)].store.raft.written.committed;
                *known = if forgets { self.granted } else { *known };
                true
            }
            Action::AgentStart { node } => {
                agent::start(&stage.sim, i(node));
                stage.settle();
                true
            }
            Action::Reboot { node } => self.reboot(i(node)),
        }
    }

    /// An agent takes in what is committed.
    fn learns(&self, host: usize) {
        if self.stage.has_agent(host) {
            lease::follow_state(&mut self.stage.sim.world(), host);
        }
    }

    fn entries(&self, at: usize) -> usize {
        let world = self.stage.sim.world();
        world.hosts[at].agent.as_ref().map_or(0, |agent| agent.raft.hard.log.len())
    }

    /// A leader looks at the lease; returns whether it appends what is expected.
    fn looks(&self, leader: usize, is: impl Fn(&Command) -> bool) -> bool {
        let before = self.entries(leader);
        self.stage.have(leader, |ctx| async move { granter::once(&ctx).await });
        self.stage.until(ELECTION, |world| {
            let more = world.hosts[leader]
                .agent
                .as_ref()
                .is_some_and(|agent| agent.raft.hard.log.len() > before);
            more && has(world, leader, &is)
        })
    }

    /// It goes to whoever the model says will get it.
    fn send(&mut self, at: usize, slot: usize, from: usize) -> bool {
        let gets = self.way[at + 1..].iter().find_map(|action| match *action {
            Action::Receive { slot: it, leader } if usize::from(it) == slot => Some(leader),
            _ => None,
        });
        if !self.stage.has_agent(from) {
            return false;
        }
        self.learns(from);
        let holder = self.stage.sim.world().agent(from).holder.as_ref().map(Holder::epoch);
        let Some(epoch) = holder else { return false };
        let leader = self.stage.sim.world().agent(from).raft.leader;
        let Some(to) = gets.map(usize::from).or(leader) else { return false };
        let before = self.stage.at_gate(Gate::Sent, from);
        self.stage.have(from, |ctx| async move {
            lease::renew_at(&ctx, epoch, to).await;
        });
        self.stage.settle();
        let id = self.stage.at_gate(Gate::Sent, from).filter(|id| Some(*id) != before);
        self.renewals[slot] = id.map(|id| Renewal { of: (from, id), round: None });
        id.is_some()
    }

    fn receive(&mut self, slot: usize, leader: usize) -> bool {
        let Some(renewal) = &mut self.renewals[slot] else { return false };
        let stage = &self.stage;
        let latest = || {
            let world = stage.sim.world();
            world.hosts[leader].agent.as_ref().map_or(0, |agent| agent.raft.latest_round())
        };
        let before = latest();
        stage.open(Gate::Sent, renewal.of);
        let asks = latest() > before;
        renewal.round = asks.then(|| (leader, latest()));
        asks || stage.stands_at(Gate::Confirmed, renewal.of)
    }

    fn confirm(&self, slot: usize) -> bool {
        let Some(Renewal { of, round }) = self.renewals[slot] else { return false };
        let stage = &self.stage;
        if stage.open(Gate::Confirmed, of) {
            return stage.stands_at(Gate::Answered, of);
        }
        if let Some((leader, round)) = round.filter(|(leader, _)| stage.has_agent(*leader)) {
            let mut world = stage.sim.world();
            let has = world.agent(leader).raft.is_confirmed(round);
            let why = if has { "its first entry is not applied" } else { "no majority answered" };
            world.tell(leader, why);
        }
        false
    }

    /// It is promoted if that is what it decides.
    fn promote(&mut self, node: usize) -> bool {
        if !self.stage.has_agent(node) {
            return false;
        }
        self.learns(node);
        agent::probe(&mut self.stage.sim.world(), node);
        let decision = decide(&observe::view(&self.stage.sim.world(), node));
        let text = format!("decides {}: {}", decision.rule, decision.step.name());
        self.stage.sim.world().tell(node, &text);
        if !matches!(decision.step, Order::Promote { .. }) {
            return false;
        }
        let began = self.stage.sim.world().now;
        self.stage.have(node, |ctx| async move { control::once(&ctx).await });
        let begins = self.stage.until(PROMOTION, |world| {
            world.hosts[node].pg.as_ref().is_some_and(super::pg::Pg::is_writable)
        });
        self.spent += self.stage.sim.world().now - began;
        begins
    }

    /// It stops, gives its epoch up, and tells the leader: of a transfer, if that is what comes of it.
    fn give_up(&self, at: usize, node: usize) -> bool {
        let transfer = self.way[at + 1..].iter().any(|action| {
            matches!(*action, Action::TakeRelease { of, transfer: true, .. } if usize::from(of) == node)
        });
        let (epoch, other) = {
            let mut world = self.stage.sim.world();
            if world.hosts[node].agent.is_none() {
                return false;
            }
            let epoch = world.agent(node).state.last_epoch;
            let other = world.hosts[1 - node].agent.as_ref().map(|agent| agent.incarnation);
            (epoch, other.filter(|_| transfer).map(|start| (1 - node, start)))
        };
        self.stage.have(node, move |ctx| async move {
            match other {
                Some((to, start)) => switchover::give_to(&ctx, epoch, to, start).await,
                None => {
                    // What it waits for afterwards does not matter.
                    let _outcome = jobs::release(&ctx, epoch, "as the model says").await;
                }
            }
        });
        self.stage.pass(100 * MS);
        self.stage.asked_to_propose()
    }

    /// The machine loses its power and comes back. Up to where entries are committed may be forgotten with it,
    /// and is told to it again once its server runs.
    fn reboot(&self, node: usize) -> bool {
        let stage = &self.stage;
        let (known, leader) = {
            let mut world = stage.sim.world();
            if world.hosts[node].agent.is_none() {
                return false;
            }
            let agent = world.agent(node);
            let (known, leader) = (agent.raft.commit, agent.raft.leader);
            world.crash(node);
            let store = &mut world.hosts[node].store.raft;
            for hard in [&mut store.written, &mut store.synced] {
                hard.committed = hard.committed.min(FOUNDED);
            }
            (known, leader)
        };
        super::faults::come_back(&stage.sim, node, false);
        stage.settle();
        run_servers(stage, &[node]);
        leader.is_some_and(|leader| stage.recall(leader, node, known))
    }
}

/// How many entries say that the cluster was founded.
const FOUNDED: usize = 3;
