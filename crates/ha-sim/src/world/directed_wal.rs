//! Directing what WAL goes where, in a world that has settled by itself before.

use std::cell::RefCell;

use ha_core::wal_quorum::Quorum;

use super::directed::{Director, Stage, three_nodes};
use super::event::{Event, Streamed};
use super::kernel::MS;
use super::mutation::Mutation;
use super::quorum;
use super::state::World;

/// How long a world may take to settle.
const SETTLES: u64 = 30_000 * MS;
/// How long what is on its way takes to arrive.
const ARRIVES: u64 = 100 * MS;

impl Stage {
    /// Lets an ordinary world go on until node 0 is primary, has both others as receivers, and goes by that
    /// quorum; then everybody stops doing anything.
    ///
    /// # Panics
    /// If no such world is found.
    pub(crate) fn settled(first: &Quorum, mutation: Option<Mutation>) -> Self {
        let mut all = (1..20).filter_map(|seed| Self::settled_by(seed, first, mutation));
        all.next().expect("in some world node 0 becomes primary")
    }

    fn settled_by(seed: u64, first: &Quorum, mutation: Option<Mutation>) -> Option<Self> {
        let plan = three_nodes(seed, None);
        let sim = super::run::machines(&plan, true);
        {
            let mut world = sim.world();
            world.wish = Some(first.clone());
            for host in 0..3 {
                world.at(0, Event::Start { host, agent_only: false });
            }
            world.at(0, Event::Tick);
        }
        let stage = Self { sim, plan, kept: RefCell::default() };
        let is_settled = stage.until(SETTLES, |world| {
            let receives = |at| is_receiving(world, at, 0);
            receives(1) && receives(2) && quorum::is_kept(world, 0, first)
        });
        if !is_settled {
            stage.end(super::run::Ended::Well);
            return None;
        }
        let tasks = std::mem::take(&mut stage.sim.world().tasks);
        drop(tasks);
        {
            let mut world = stage.sim.world();
            for host in &mut world.hosts {
                let Some(agent) = &mut host.agent else { continue };
                agent.renewing = 0;
                agent.facts.job = None;
                agent.facts.inspecting = false;
            }
            world.director = Some(Director::default());
            world.mutation = mutation;
        }
        stage.pass(ARRIVES);
        Some(stage)
    }

    /// From now on WAL, and what receivers say of it, arrives only if that is said. With `late` settings the
    /// server of node 0 reads nothing anew.
    pub(crate) fn hold_streams(&self, late: bool) {
        if let Some(director) = &mut self.sim.world().director {
            director.streams = Some(Vec::new());
            director.late = late.then_some(0);
        }
    }

    /// Whether a node receives from another.
    pub(crate) fn receives(&self, node: usize, from: usize) -> bool {
        is_receiving(&self.sim.world(), node, from)
    }

    /// A client writes there; returns whether the server took it.
    pub(crate) fn write(&self, host: usize) -> bool {
        let before = self.len(host);
        {
            let mut world = self.sim.world();
            let nodes = world.hosts.len();
            let connection = world.connect(host, nodes);
            let write = world.next_id();
            let Some(server) = world.server(host) else { return false };
            server.sessions.insert(connection);
            world.commit(host, connection, write);
        }
        self.settle();
        self.len(host) > before
    }

    fn len(&self, host: usize) -> usize {
        self.sim.world().hosts[host].wal().map_or(0, super::wal::Wal::len)
    }

    /// What is held for a node arrives there.
    fn deliver(&self, to: usize, is: impl Fn(&Streamed) -> bool) {
        let mine = {
            let mut world = self.sim.world();
            let held = world.director.as_mut().and_then(|director| director.streams.take());
            let ends = |connection| world.connections.get(&connection).map(|known| known.ends);
            let (mut mine, others): (Vec<_>, Vec<_>) =
                held.unwrap_or_default().into_iter().partition(|(connection, side, _, body)| {
                    ends(*connection).is_some_and(|ends| ends[1 - side] == to) && is(body)
                });
            mine.sort_by_key(|(connection, _, number, _)| (*connection, *number));
            if let Some(director) = &mut world.director {
                director.streams = Some(others);
            }
            mine
        };
        for (connection, side, number, body) in mine {
            let mut world = self.sim.world();
            if let Some((from, to, body)) = world.arrives(connection, side, number, body) {
                world.streamed(connection, from, to, body);
            }
        }
        self.settle();
    }

    /// A node gets the WAL that is on its way to it, and flushes it; returns whether it has more then.
    pub(crate) fn receive(&self, node: usize) -> bool {
        let before = self.len(node);
        self.deliver(node, |body| matches!(body, Streamed::Wal { .. }));
        self.len(node) > before
    }

    /// A primary hears how far its receivers are; returns whether every commit is acknowledged then.
    pub(crate) fn acknowledges(&self, node: usize) -> bool {
        self.deliver(node, |body| matches!(body, Streamed::Flushed(_)));
        self.sim.world().server(node).is_some_and(|server| server.waiting.is_empty())
    }
}

fn is_receiving(world: &World, node: usize, from: usize) -> bool {
    let host = &world.hosts[node];
    let by_server = host.pg.as_ref().and_then(|pg| pg.server.as_ref()).and_then(|it| it.receiver);
    let by_witness = host.kept.as_ref().and_then(|kept| kept.receiver);
    by_server.or(by_witness).is_some_and(|(_, to)| to == from)
}
