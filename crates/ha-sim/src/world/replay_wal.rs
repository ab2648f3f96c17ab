//! A way that the model of the WAL quorum found, taken with the real code, as [`replay`](super::replay) does with
//! those of the lease.
//!
//! That model leaves Raft and time out, and a primary may go on under a lease that is over. Here that is the
//! promise about a machine that was paused: node 0 is, for as long as its lease takes to expire.

use ha_core::candidate::Report;
use ha_core::holder::Holder;
use ha_core::state::Command;
use ha_core::wal_quorum::Quorum;
use ha_core::{Epoch, NodeId};

use super::directed::{Gate, Stage};
use super::host::Freeze;
use super::kernel::{Ctx, MS};
use super::mutation::Mutation;
use super::replay::{Replayed, Step};
use super::run::Ended;
use super::{agent, control, granter, handle, lease, quorum, witness};
use crate::model::wal::{Action, Wish};

/// How long node 0 is paused until its lease has expired, by whatever clock.
const PAUSE: u64 = 3_100 * MS;
/// How long a look of the keeper takes, with a setting that is in force at once.
const LOOK: u64 = 60 * MS;
/// How long a node takes to answer an election, to promote, and to begin to receive.
const ANSWERS: u64 = 800 * MS;
const PROMOTES: u64 = 1_500 * MS;
const RECEIVES: u64 = 400 * MS;

/// Takes a way of the model of the WAL quorum that begins with `first` recorded and gone by. With `late`
/// settings, the processes of a server do not read anew what they go by before the way has ended.
///
/// # Panics
/// If the world does not come to where the model begins.
#[must_use]
pub fn replay_wal(way: &[Action], first: Wish, late: bool, mutation: Option<Mutation>) -> Replayed {
    let stage = Stage::settled(&quorum_of(first, 0), mutation);
    begin(&stage, first);
    stage.hold_streams(late);
    let mut replay = Replay { stage, keeper: [None; 3], reports: Vec::new() };
    let mut steps = Vec::new();
    for action in way {
        let told = action.to_string();
        let before = replay.stage.noted(&format!("STEP: {told}"));
        replay.stage.lose();
        let taken = replay.take(*action);
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

/// What a node wants, as a quorum.
fn quorum_of(wish: Wish, primary: usize) -> Quorum {
    let name = |at: usize| format!("n{}", at + 1).parse::<NodeId>().expect("a valid name");
    let others = (0..3).filter(|at| *at != primary).map(name);
    match wish {
        Wish::Alone => Quorum::alone(),
        Wish::Standby => Quorum::new([name(1 - primary)], 1),
        Wish::OneOfTwo => Quorum::new(others, 1),
        Wish::Both => Quorum::new(others, 2),
    }
}

/// Node 1 leads, everybody knows everything; the witness goes on receiving; that quorum alone is in force.
fn begin(stage: &Stage, first: Wish) {
    let leads = |at: &usize| stage.sim.world().agent(*at).raft.leads().is_some();
    if let Some(leader) = (0..3).find(leads).filter(|leader| *leader != 1) {
        assert!(stage.replicate(leader, 1, true), "the standby has everything");
        assert!(stage.elect(1, 2), "the standby leads the agents");
    }
    granter::observe(&mut stage.sim.world(), 1);
    for _ in 0..2 {
        assert!(stage.replicate(1, 0, true) && stage.replicate(1, 2, true), "both follow");
    }
    stage.have(0, move |ctx| async move {
        let proven = quorum::settle(&ctx, quorum_of(first, 0)).await;
        assert!(proven.is_some(), "the quorum is in force");
    });
    stage.keep(2, witness::run);
    stage.pass(RECEIVES);
    assert!(stage.receives(1, 0) && stage.receives(2, 0), "both receive");
}

struct Replay {
    stage: Stage,
    /// The tasks of keepers that may wait for something.
    keeper: [Option<u64>; 3],
    /// What nodes reported in the election that is under way.
    reports: Vec<(NodeId, Report)>,
}

impl Replay {
    /// Lets a step be taken; returns whether it was.
    fn take(&mut self, action: Action) -> bool {
        let i = usize::from;
        let stage = &self.stage;
        match action {
            Action::Write { node } => stage.write(i(node)),
            Action::Receive { node } => stage.receive(i(node)),
            Action::Acknowledge { node } => stage.acknowledges(i(node)),
            Action::Follow { node, epoch } => self.follow(i(node), epoch),
            Action::Want { node, wish } => {
                stage.sim.world().wish = Some(quorum_of(wish, i(node)));
                true
            }
            Action::Keep { node, whole } => self.keep(i(node), whole),
            Action::CarryOut { heard } => {
                let carried = stage.propose(1) && stage.replicate(1, 2, true);
                if heard {
                    stage.settle();
                }
                carried
            }
            Action::GiveUpWaiting { node } => self.give_up_waiting(i(node)),
            Action::Learn { node, .. } => stage.replicate(1, i(node), true),
            Action::AgentCrash { node } => self.restart(i(node)),
            Action::Kill { node } => {
                stage.sim.world().server_gone(i(node), "server crashes");
                true
            }
            Action::Vacate => self.vacate(),
            Action::Pledge { node } => self.pledge(i(node)),
            Action::Report { node } => self.report(i(node)),
            Action::Elect => self.elect(),
            Action::Promote { node } => self.promote(i(node)),
        }
    }

    fn epoch(&self) -> Epoch {
        self.stage.sim.world().agent(1).state.last_epoch
    }

    /// The epoch that an election is about: the leader knows that it is over.
    fn asked(&self) -> Option<Epoch> {
        let mut world = self.stage.sim.world();
        let state = &world.agent(1).state;
        state.lease.grant().is_none().then_some(state.last_epoch)
    }

    /// The keeper looks once, and does what follows; returns whether anything did. One that still waits for an
    /// order waits no more.
    fn keep(&mut self, node: usize, whole: bool) -> bool {
        self.give_up_waiting(node);
        let before = quorum::remembers(&self.stage.sim.world(), node);
        let ctx = Ctx { sim: self.stage.sim.clone(), host: node };
        let own = ctx.clone();
        self.keeper[node] = Some(ctx.spawn(async move { quorum::turn(&own).await }));
        self.stage.pass(if whole { LOOK } else { 6 * MS });
        let after = quorum::remembers(&self.stage.sim.world(), node);
        after != before || self.stage.asked_to_propose()
    }

    fn give_up_waiting(&mut self, node: usize) -> bool {
        let Some(task) = self.keeper[node].take() else { return false };
        self.stage.sim.world().end_task(task);
        self.stage.settle();
        true
    }

    /// Its agent dies, and starts again; its receiver goes on. That of a witness is ended before anything else.
    fn restart(&mut self, node: usize) -> bool {
        self.keeper[node] = None;
        self.stage.sim.world().kill_agent(node);
        self.stage.settle();
        agent::start(&self.stage.sim, node);
        self.stage.settle();
        if node == 2 {
            self.stage.keep(2, witness::run);
        }
        true
    }

    /// Its lease expires while node 0 stands still with its clocks, and so does whoever else waits for it.
    fn vacate(&mut self) -> bool {
        let stage = &self.stage;
        let begins = stage.sim.world().agent(1).raft.hard.log.len();
        stage.sim.world().freeze(0, Freeze::Pause, false);
        stage.pass(PAUSE);
        stage.have(1, |ctx| async move { granter::once(&ctx).await });
        stage.settle();
        stage.sim.world().freeze(0, Freeze::Pause, true);
        stage.pass(25 * MS);
        let decided = {
            let mut world = stage.sim.world();
            let log = &world.agent(1).raft.hard.log;
            let last = log.last().and_then(|entry| entry.command.clone());
            log.len() > begins && matches!(last, Some(Command::Vacate { .. }))
        };
        decided && stage.replicate(1, 2, true)
    }

    fn pledge(&self, node: usize) -> bool {
        let Some(epoch) = self.asked() else { return false };
        self.stage.have(node, move |ctx| async move {
            handle::pledge(&ctx, epoch).await;
        });
        self.stage.until(ANSWERS, |world| world.agent(node).pledge >= epoch)
    }

    /// It answers the election: it has pledged before.
    fn report(&mut self, node: usize) -> bool {
        let Some(epoch) = self.asked() else { return false };
        let told = std::rc::Rc::new(std::cell::RefCell::new(None));
        let answer = std::rc::Rc::clone(&told);
        self.stage.have(node, move |ctx| async move {
            let report = granter::answered(handle::revoke(&ctx, epoch).await);
            *answer.borrow_mut() = Some(report);
        });
        self.stage.until(ANSWERS, |_| told.borrow().is_some());
        let Some(report) = told.borrow_mut().take() else { return false };
        let has = report.wal.is_some();
        let name = self.stage.sim.world().hosts[node].name.clone();
        self.reports.push((name, report));
        has
    }

    /// The leader elects with the reports that it has.
    fn elect(&mut self) -> bool {
        let reports = std::mem::take(&mut self.reports).into_iter().collect();
        let before = self.epoch();
        self.stage.have(1, move |ctx| async move {
            let (state, term) = {
                let agent = ctx.agent();
                (agent.state.clone(), agent.raft.leads().unwrap_or_default())
            };
            granter::choose_among(&ctx, &state, term, reports).await;
        });
        self.stage.settle();
        let granted = self.stage.replicate(1, 2, true) && self.epoch() > before;
        granter::observe(&mut self.stage.sim.world(), 1);
        granted
    }

    /// Begins to receive, if it decides so.
    fn follow(&self, node: usize, epoch: u8) -> bool {
        let from = {
            let world = self.stage.sim.world();
            let serves = |at: &usize| {
                let pg = world.hosts[*at].pg.as_ref();
                pg.is_some_and(|pg| pg.guard.primary_epoch == Epoch(epoch.into()))
            };
            (0..2).find(serves)
        };
        let Some(from) = from else { return false };
        for _ in 0..4 {
            if node != 2 {
                self.stage.have(node, |ctx| async move { control::once(&ctx).await });
            }
            self.stage.pass(RECEIVES / 4);
        }
        self.stage.receives(node, from)
    }

    /// It proves its right, fetches what it has to, and is promoted, if it decides so.
    fn promote(&self, node: usize) -> bool {
        let stage = &self.stage;
        if node != 1 {
            // It has to know first that it was granted.
            stage.replicate(1, node, true);
        }
        lease::follow_state(&mut stage.sim.world(), node);
        let epoch = stage.sim.world().agent(node).holder.as_ref().map(Holder::epoch);
        let Some(epoch) = epoch else { return false };
        stage.have(node, move |ctx| async move {
            lease::renew_at(&ctx, epoch, 1).await;
        });
        stage.settle();
        let Some(id) = stage.at_gate(Gate::Sent, node) else { return false };
        stage.open(Gate::Sent, (node, id));
        let round = stage.sim.world().agent(1).raft.latest_round();
        stage.acknowledge(1, 2, round);
        stage.open(Gate::Confirmed, (node, id));
        stage.open(Gate::Answered, (node, id));
        let writable = |world: &mut super::state::World| {
            world.hosts[node].pg.as_ref().is_some_and(super::pg::Pg::is_writable)
        };
        let end = stage.sim.world().now + PROMOTES;
        while stage.sim.world().now < end && stage.violation().is_none() {
            agent::probe(&mut stage.sim.world(), node);
            stage.have(node, |ctx| async move { control::once(&ctx).await });
            if stage.until(20 * MS, writable) {
                return true;
            }
        }
        // What is violated is that it began.
        stage.violation().is_some()
    }
}
