//! An instance in memory, for tests of the agent in one process: the same trait, the same contract.
//!
//! A [`FakeWorld`] holds all servers, so that they can stream from each other, and a thread that
//! plays every node's guard: it starts, stops and kills by the permits alone, on the real
//! `CLOCK_BOOTTIME`. What goes wrong is said by switches of the world, never by chance.

mod checkup;
mod control;
mod drill;
mod driver;
mod quorum;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use ha_core::ancestry::{Relation, TimelineSwitch, compare};
use ha_core::permit::{ExitHow, GuardStatus, Order, Permit, RunState};
use ha_core::{BootId, BootNanos, Epoch, Lsn, NodeId, TimelineId};

use crate::driver::{HalfMade, Synchronous};
use crate::guard_files::boot_now;

pub use driver::FakeDriver;

const GUARD_TICK: Duration = Duration::from_millis(2);
/// Where the WAL of a new cluster begins.
const FIRST_LSN: Lsn = Lsn(0x0100_0028);
/// How long a step of a tool takes.
const STEP: Duration = Duration::from_millis(5);
/// Bytes in a fake data directory.
const CLONE_BYTES: u64 = 30 << 20;

/// All servers of a test.
#[derive(Debug, Clone, Default)]
pub struct FakeWorld(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    servers: BTreeMap<NodeId, Server>,
    addresses: BTreeMap<(String, u16), NodeId>,
    /// Pairs that cannot reach each other's server.
    cut: BTreeSet<(NodeId, NodeId)>,
    clusters_made: u64,
}

/// One node's data directory, server and guard.
#[derive(Debug, Clone)]
struct Server {
    data: Data,
    set_up: Option<SetUp>,
    running: Option<Running>,
    guard: Option<GuardStatus>,
    right: Option<(Epoch, BootNanos)>,
    permit: Option<Permit>,
    margin: Duration,
    moved_aside: u32,
    slots: BTreeMap<NodeId, Lsn>,
    /// Who must acknowledge commits; every start closes it.
    synchronous: Synchronous,
    /// Whether ordinary clients may log in.
    admits: bool,
    switches: Switches,
}

/// What may be wrong with a node. All off at first.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a test")]
pub struct Switches {
    /// The postmaster is frozen: new connections hang.
    pub frozen: bool,
    /// The guard is frozen: it reports and does nothing.
    pub guard_frozen: bool,
    /// Nothing can be written.
    pub disk_full: bool,
    /// The data directory's mount is gone.
    pub mount_gone: bool,
    /// `pg_rewind` fails.
    pub rewind_fails: bool,
    /// How long it takes to read how far the WAL reaches.
    pub wal_scan: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Empty,
    HalfMade(HalfMade),
    Present,
}

#[derive(Debug, Clone)]
struct Data {
    presence: Presence,
    system_identifier: u64,
    timeline: TimelineId,
    history: Vec<TimelineSwitch>,
    flushed: Lsn,
    replayed: Lsn,
    /// Timeline of the latest checkpoint.
    checkpointed: TimelineId,
    clean: bool,
}

#[derive(Debug, Clone)]
struct SetUp {
    standby: bool,
    upstream: Option<(String, u16)>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    in_recovery: bool,
}

impl FakeWorld {
    /// Makes an empty world and starts its guards' thread, which ends with the last handle.
    #[must_use]
    pub fn new() -> Self {
        let world = Self::default();
        let weak: Weak<Mutex<World>> = Arc::downgrade(&world.0);
        let _detached = thread::spawn(move || {
            while let Some(world) = weak.upgrade() {
                locked(&world).tick();
                drop(world);
                thread::sleep(GUARD_TICK);
            }
        });
        world
    }

    /// Adds a node without data, reachable at the address, and returns a driver for it. Asked again
    /// for the same node, as by a restarted agent, it returns another driver of what is there.
    #[must_use]
    pub fn driver(&self, node: &NodeId, host: &str, port: u16, margin: Duration) -> FakeDriver {
        let mut world = self.lock();
        world.addresses.insert((host.to_owned(), port), node.clone());
        world.servers.entry(node.clone()).or_insert_with(|| Server::new(margin));
        FakeDriver::new(self.clone(), node.clone())
    }

    /// Sets a node's switches.
    pub fn switch(&self, node: &NodeId, change: impl FnOnce(&mut Switches)) {
        if let Some(server) = self.lock().servers.get_mut(node) {
            change(&mut server.switches);
        }
    }

    /// Ends a node's server as `kill -9` would.
    pub fn crash(&self, node: &NodeId) {
        if let Some(server) = self.lock().servers.get_mut(node) {
            server.end(RunState::Exited, ExitHow::Signal(9), "ended by itself");
        }
    }

    /// Kills a node's guard, and its server with it.
    pub fn kill_guard(&self, node: &NodeId) {
        if let Some(server) = self.lock().servers.get_mut(node) {
            server.end(RunState::Exited, ExitHow::Signal(9), "");
            server.guard = None;
        }
    }

    /// Cuts or mends the connection between two nodes' servers.
    pub fn cut(&self, one: &NodeId, other: &NodeId, cut: bool) {
        let mut world = self.lock();
        for pair in [(one.clone(), other.clone()), (other.clone(), one.clone())] {
            if cut {
                world.cut.insert(pair)
            } else {
                world.cut.remove(&pair)
            };
        }
    }

    /// Writes like a client: returns the end of the written WAL, or none if the node's server does
    /// not accept writes. It does not wait for standbys.
    #[must_use]
    pub fn write(&self, node: &NodeId, bytes: u64) -> Option<Lsn> {
        let mut world = self.lock();
        world.tick();
        let server = world.servers.get_mut(node)?;
        let writable = server.running.is_some_and(|running| !running.in_recovery);
        if !writable || server.switches.frozen || server.switches.disk_full {
            return None;
        }
        server.data.flushed.0 += bytes;
        server.data.replayed = server.data.flushed;
        Some(server.data.flushed)
    }

    /// Returns the nodes whose server accepts writes now.
    #[must_use]
    pub fn primaries(&self) -> Vec<NodeId> {
        let mut world = self.lock();
        world.tick();
        let primary = |server: &Server| server.running.is_some_and(|running| !running.in_recovery);
        let found = world.servers.iter().filter(|(_, server)| primary(server));
        found.map(|(node, _)| node.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        locked(&self.0)
    }
}

fn locked(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Lets guards act and WAL flow.
    fn tick(&mut self) {
        let now = boot_now();
        self.servers.values_mut().for_each(|server| server.guard_tick(now));
        let nodes: Vec<NodeId> = self.servers.keys().cloned().collect();
        for node in nodes {
            self.stream(&node);
        }
    }

    /// Returns the node that `node` streams from now, if it can.
    fn source_of(&self, node: &NodeId) -> Option<NodeId> {
        let server = self.servers.get(node)?;
        if !server.running?.in_recovery {
            return None;
        }
        let source = self.addresses.get(server.set_up.as_ref()?.upstream.as_ref()?)?;
        let upstream = self.reachable(node, source)?;
        let relation = compare(
            server.data.end(),
            &server.data.history,
            upstream.data.timeline,
            &upstream.data.history,
            upstream.data.flushed,
        );
        let same = server.data.system_identifier == upstream.data.system_identifier;
        (same && relation == Relation::Ancestor).then(|| source.clone())
    }

    /// Returns the running server of `to` if `from` can talk to it.
    fn reachable(&self, from: &NodeId, to: &NodeId) -> Option<&Server> {
        let server = self.servers.get(to)?;
        let cut = self.cut.contains(&(from.clone(), to.clone()));
        (server.running.is_some() && !server.switches.frozen && !cut).then_some(server)
    }

    fn stream(&mut self, node: &NodeId) {
        let upstream = self.source_of(node).and_then(|source| self.servers.get(&source));
        let Some(upstream) = upstream.map(|server| server.data.clone()) else { return };
        let Some(server) = self.servers.get_mut(node) else { return };
        if !server.switches.frozen && upstream.flushed >= server.data.flushed {
            server.data.timeline = upstream.timeline;
            server.data.history = upstream.history;
            server.data.flushed = upstream.flushed;
            server.data.replayed = upstream.flushed;
        }
    }
}

impl Data {
    const fn end(&self) -> ha_core::WalPosition {
        ha_core::WalPosition { timeline: self.timeline, lsn: self.flushed }
    }
}

impl Server {
    fn new(margin: Duration) -> Self {
        let data = Data {
            presence: Presence::Empty,
            system_identifier: 0,
            timeline: TimelineId(1),
            history: Vec::new(),
            flushed: FIRST_LSN,
            replayed: FIRST_LSN,
            checkpointed: TimelineId(1),
            clean: true,
        };
        Self {
            data,
            set_up: None,
            running: None,
            guard: None,
            right: None,
            permit: None,
            margin,
            moved_aside: 0,
            slots: BTreeMap::new(),
            synchronous: Synchronous::Closed,
            admits: true,
            switches: Switches::default(),
        }
    }

    fn end(&mut self, state: RunState, exit: ExitHow, reason: &str) {
        let Some(running) = self.running.take() else { return };
        self.data.clean = matches!(exit, ExitHow::Code(0)) && !running.in_recovery;
        if let Some(guard) = &mut self.guard {
            (guard.state, guard.exit, guard.postmaster) = (state, Some(exit), None);
            reason.clone_into(&mut guard.reason);
        }
    }

    /// What a guard does in one turn, in the order in which a real one does.
    fn guard_tick(&mut self, now: BootNanos) {
        let Some(guard) = self.guard.as_mut().filter(|_| !self.switches.guard_frozen) else {
            return;
        };
        guard.heartbeat = now;
        let Some(permit) = self.permit.filter(|permit| permit.boot == guard.boot) else {
            return self.end_if_over(now, Epoch::NONE);
        };
        if self.running.is_some() && permit.run >= guard.run {
            if let Order::Primary { epoch, deadline } = permit.order {
                self.right = Some((epoch, deadline));
                guard.primary_epoch = guard.primary_epoch.max(epoch);
            }
            match (permit.order, self.right) {
                (Order::Down { .. }, _) => {
                    self.end(RunState::Exited, ExitHow::Code(0), "stopped as ordered");
                }
                (Order::Standby, Some(_)) => {
                    self.end(RunState::Exited, ExitHow::Signal(3), "stopped at once");
                }
                (Order::Standby, None) | (Order::Primary { .. }, _) => {}
            }
        }
        self.end_if_over(now, permit.burnt);
        if self.running.is_none() {
            self.start(permit, now);
        }
    }

    fn end_if_over(&mut self, now: BootNanos, burnt: Epoch) {
        let over = self
            .right
            .is_some_and(|(epoch, deadline)| epoch <= burnt || now >= deadline.before(self.margin));
        if over {
            self.end(RunState::KilledAtDeadline, ExitHow::Signal(9), "the right ended");
        }
    }

    fn start(&mut self, permit: Permit, now: BootNanos) {
        let Some(guard) = self.guard.as_mut().filter(|guard| permit.run > guard.run) else {
            return;
        };
        let standby = self.set_up.as_ref().is_some_and(|set_up| set_up.standby);
        let ready = self.data.presence == Presence::Present && self.set_up.is_some();
        let in_recovery = match permit.order {
            Order::Down { .. } => return,
            Order::Standby if ready && standby => true,
            Order::Primary { epoch, deadline }
                if ready
                    && !standby
                    && guard.primary_epoch == epoch
                    && epoch > permit.burnt
                    && now < deadline.before(self.margin) =>
            {
                false
            }
            Order::Standby | Order::Primary { .. } => {
                (guard.run, guard.state) = (permit.run, RunState::Refused);
                "refused to start".clone_into(&mut guard.reason);
                return;
            }
        };
        self.right = match permit.order {
            Order::Primary { epoch, deadline } => Some((epoch, deadline)),
            Order::Down { .. } | Order::Standby => None,
        };
        guard.primary_epoch = self.right.map_or(Epoch::NONE, |(epoch, _)| epoch);
        (guard.run, guard.state, guard.exit) = (permit.run, RunState::Running, None);
        guard.postmaster = Some(4711);
        guard.reason.clear();
        self.synchronous = Synchronous::Closed;
        self.running = Some(Running { in_recovery });
    }
}

/// The boot that a fake guard lives in: this machine's.
fn boot() -> BootId {
    crate::guard_files::boot_id().unwrap_or(BootId(0))
}

#[cfg(test)]
mod tests;
