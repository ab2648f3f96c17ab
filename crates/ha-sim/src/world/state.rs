//! Everything there is in a world, and how time passes in it.

use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use ha_core::BootId;
use ha_core::policy::Policy;
use ha_core::wal_quorum::Quorum;

use super::agent::Agent;
use super::clients::Client;
use super::directed::Director;
use super::event::Event;
use super::host::Host;
use super::kernel::{MS, Queued, Task, Time, Work};
use super::mutation::Mutation;
use super::net::{Connection, Net};
use super::oracle::Oracle;
use super::rng::Rng;
use super::trace::Trace;

/// A world: some machines, what is between them, and what is known to be true of them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    orders: u64,
    pub(crate) queue: BinaryHeap<Queued>,
    pub(crate) tasks: BTreeMap<u64, Task>,
    task_count: u64,
    /// The task that is polled.
    pub(crate) current: u64,
    /// Tasks that were ended, to be dropped while nobody looks at the world.
    pub(crate) ended: Vec<Task>,
    pub(crate) rng: Rng,
    pub(crate) policy: Policy,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) net: Net,
    pub(crate) connections: BTreeMap<u64, Connection>,
    ids: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    /// Agents that an operator has told something, to be started by whoever can start tasks.
    pub(crate) orders_to: Vec<(usize, super::faults::Operator)>,
    pub(crate) events: u64,
    /// The quorum that every primary wants, if that is said.
    pub(crate) wish: Option<Quorum>,
    /// If somebody else than chance says what happens next.
    pub(crate) director: Option<Director>,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        hosts: Vec<Host>,
        clients: Vec<Client>,
        policy: Policy,
        mutation: Option<Mutation>,
        tracing: bool,
    ) -> Self {
        let net = Net::new(hosts.len());
        Self {
            now: 0,
            orders: 0,
            queue: BinaryHeap::new(),
            tasks: BTreeMap::new(),
            task_count: 0,
            current: 0,
            ended: Vec::new(),
            rng: Rng::new(seed, 1),
            policy,
            mutation,
            hosts,
            net,
            connections: BTreeMap::new(),
            ids: 0,
            clients,
            oracle: Oracle::default(),
            trace: Trace::new(tracing),
            orders_to: Vec::new(),
            events: 0,
            wish: None,
            director: None,
        }
    }

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.orders += 1;
        self.queue.push(Queued { at: at.max(self.now), order: self.orders, event });
    }

    pub(crate) fn after(&mut self, span: u64, event: Event) {
        self.at(self.now + span, event);
    }

    pub(crate) fn spawn(&mut self, host: usize, work: Work) -> u64 {
        self.task_count += 1;
        let id = self.task_count;
        self.tasks.insert(id, Task { work: Some(work), host });
        self.after(0, Event::Wake(id));
        id
    }

    /// Ends a task wherever it stands.
    pub(crate) fn end_task(&mut self, id: u64) {
        self.ended.extend(self.tasks.remove(&id));
    }

    pub(crate) fn agent(&mut self, host: usize) -> &mut Agent {
        self.hosts[host].agent.as_mut().expect("its tasks end with it")
    }

    /// Ends an agent wherever it stands.
    pub(crate) fn kill_agent(&mut self, host: usize) {
        let Some(agent) = self.hosts[host].agent.take() else { return };
        self.hosts[host].led = agent.raft.leads();
        // It may hold what looks at the world when it is dropped.
        drop(agent);
        self.hosts[host].agent_frozen = 0;
        let ids: Vec<u64> =
            self.tasks.iter().filter(|(_, task)| task.host == host).map(|(id, _)| *id).collect();
        for id in ids {
            self.end_task(id);
        }
        self.tell(host, "agent is gone");
    }

    /// The control loop of that host goes round at once.
    pub(crate) fn wake_agent(&mut self, host: usize) {
        if let Some(agent) = &mut self.hosts[host].agent {
            let task = agent.loop_task;
            agent.woken = true;
            if task != 0 {
                self.after(0, Event::Wake(task));
            }
        }
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// A moment until somebody who polls has noticed.
    pub(crate) fn polled(&mut self) -> u64 {
        self.rng.range(1, 10) * MS
    }

    /// Returns how long one more sync takes there, behind those before it.
    pub(crate) fn disk_takes(&mut self, host: usize) -> u64 {
        let latency = self.latency(host);
        let disk = &mut self.hosts[host].disk;
        disk.busy_until = disk.busy_until.max(self.now) + latency;
        disk.busy_until - self.now
    }

    /// Returns how long one sync takes there.
    pub(crate) fn latency(&mut self, host: usize) -> u64 {
        match self.director {
            Some(_) => super::directed::DISK,
            None => self.hosts[host].disk.latency(&mut self.rng),
        }
    }

    pub(crate) fn boot_of(&self, host: usize) -> BootId {
        BootId(u128::from(host as u64 * 1000 + self.hosts[host].boots))
    }

    pub(crate) fn clock(&self, host: usize) -> ha_core::ClockReading {
        self.hosts[host].clock.read(self.now)
    }

    /// Returns how long ago something was by the clock for waits of that host.
    pub(crate) fn since(&self, at: Time) -> Duration {
        Duration::from_nanos(self.now.saturating_sub(at))
    }

    /// Notes something that happened on a host, in words.
    pub(crate) fn tell(&mut self, host: usize, text: &str) {
        let name = self.hosts.get(host).map_or("clients", |host| host.name.as_str()).to_owned();
        self.note(&format!("{name}: {text}"));
    }

    /// Notes something that happened, in words.
    pub(crate) fn note(&mut self, text: &str) {
        let mut trace = std::mem::take(&mut self.trace);
        trace.line(self, text);
        self.trace = trace;
    }

    /// Something happened that must not.
    pub(crate) fn violated(&mut self, text: String) {
        if self.oracle.violation.is_none() {
            self.note(&format!("VIOLATION: {text}"));
            self.oracle.violation = Some(text);
        }
    }
}
