//! Running a plan to its end, finding seeds that fail, and making a failure small.

use super::clients::Client;
use super::event::{Event, Message};
use super::kernel::{MS, Sim};
use super::plan::Plan;
use super::raft::Role;
use super::state::World;
use super::{agent, faults};

/// How long a healed cluster may take until everything is well again, milliseconds.
const CONVERGES_MS: u64 = 60_000;
/// How often it is looked at then.
const LOOK_EVERY_MS: u64 = 250;
/// More events than any run needs.
const EVENTS_MAX: u64 = 3_000_000;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Everything held, and the cluster was well again.
    Well,
    /// Something happened that must not.
    Violated(String),
    /// The cluster was not well again in time.
    Stuck(String),
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// How much time passed in it, milliseconds.
    pub virtual_ms: u64,
    /// How long after the last fault everything was well again, milliseconds.
    pub converged_ms: u64,
    /// How many events there were.
    pub events: u64,
    /// Writes that succeeded, failed, and of which nobody knows.
    pub writes: [u64; 3],
    /// How often a server began to serve.
    pub promotions: u64,
    /// A digest of everything that was noted: equal runs have equal ones.
    pub digest: u64,
    /// One line per event in words, if they were asked for.
    pub trace: Vec<String>,
}

/// Runs a plan.
#[must_use]
pub fn run(plan: &Plan, tracing: bool) -> Outcome {
    let sim = begin(plan, tracing);
    let healed = plan.healed_ms();
    let ended = until_well(&sim, plan, healed);
    finish(&sim, ended, healed)
}

/// Takes the next event; returns whether there was one.
pub(crate) fn step(sim: &Sim, plan: &Plan) -> bool {
    let next = sim.world().queue.pop();
    let Some(next) = next else { return false };
    {
        let mut world = sim.world();
        world.now = next.at;
        world.events += 1;
    }
    dispatch(sim, plan, next.event);
    if !sim.world().orders_to.is_empty() {
        faults::carry_out(sim);
    }
    let dropped = std::mem::take(&mut sim.world().ended);
    drop(dropped);
    sim.world().check();
    true
}

/// Lets everything happen until the cluster is well, the last fault being over at `healed`.
pub(crate) fn until_well(sim: &Sim, plan: &Plan, healed: u64) -> Ended {
    let mut look_at = healed + LOOK_EVERY_MS;
    loop {
        if !step(sim, plan) {
            break Ended::Stuck("nothing happens any more".to_owned());
        }
        let world = sim.world();
        let over = world.events > EVENTS_MAX;
        if let Some(violation) = &world.oracle.violation {
            break Ended::Violated(violation.clone());
        }
        if over {
            break Ended::Stuck("too many events".to_owned());
        }
        if world.now >= look_at * MS {
            let trouble = trouble(&world, healed * MS);
            if trouble.is_none() {
                break Ended::Well;
            }
            if look_at > healed + CONVERGES_MS {
                break Ended::Stuck(trouble.unwrap_or_default());
            }
            look_at += LOOK_EVERY_MS;
        }
    }
}

/// The machines of a plan, on which nothing has begun.
pub(crate) fn machines(plan: &Plan, tracing: bool) -> Sim {
    let hosts = plan.hosts();
    let clients = (0..plan.clients).map(|index| Client::new(index % 2 == 0)).collect();
    let policy = ha_core::policy::Policy::default();
    Sim::new(World::new(plan.seed, hosts, clients, policy, plan.mutation, tracing))
}

fn begin(plan: &Plan, tracing: bool) -> Sim {
    let sim = machines(plan, tracing);
    let count = plan.kinds.len();
    {
        let mut world = sim.world();
        for host in 0..count {
            let span = world.rng.range(0, 300) * MS;
            world.after(span, Event::Start { host, agent_only: false });
        }
        for index in 0..plan.clients {
            let span = world.rng.range(1500, 2500) * MS;
            world.after(span, Event::Client { index, turn: 0 });
        }
        for (index, fault) in plan.faults.iter().enumerate() {
            world.at(fault.at_ms * MS, Event::Fault { index, ends: false });
        }
        world.at(0, Event::Tick);
        // So that something happens whenever the cluster is looked at.
    }
    sim
}

pub(crate) fn finish(sim: &Sim, ended: Ended, healed: u64) -> Outcome {
    // Tasks know the world: without this it would live for ever.
    let tasks = std::mem::take(&mut sim.world().tasks);
    drop(tasks);
    let mut world = sim.world();
    let count = |of: fn(&Client) -> u64| world.clients.iter().map(of).sum();
    let writes = [count(|c| c.ok), count(|c| c.failed), count(|c| c.unknown)];
    let virtual_ms = world.now / MS;
    Outcome {
        ended,
        virtual_ms,
        converged_ms: virtual_ms.saturating_sub(healed),
        events: world.events,
        writes,
        promotions: world.oracle.promotions,
        digest: world.trace.digest,
        trace: std::mem::take(&mut world.trace.lines),
    }
}

fn dispatch(sim: &Sim, plan: &Plan, event: Event) {
    let Some(event) = stalls(&mut sim.world(), event) else { return };
    match event {
        Event::Wake(task) => sim.poll(task),
        Event::Message(message) => arrive(sim, *message),
        Event::Stream { connection, side, number, body } => {
            let mut world = sim.world();
            if world.holds(connection, side, number, &body) {
                return;
            }
            if let Some((from, to, body)) = world.arrives(connection, side, number, body) {
                world.streamed(connection, from, to, body);
            }
        }
        Event::Durable { host, life, image, out } => {
            let mut world = sim.world();
            if world.hosts[host].agent.as_ref().is_some_and(|agent| agent.life == life) {
                world.durable(host, image, out);
            }
        }
        Event::Guard { host, boots } => {
            let mut world = sim.world();
            if world.hosts[host].up && world.hosts[host].boots == boots {
                world.guard_looks(host);
            }
        }
        Event::Server { host, run, boots, what } => {
            let mut world = sim.world();
            let same = world.hosts[host].boots == boots;
            if same && world.server(host).is_some_and(|server| server.run == run) {
                world.server_event(host, what);
            }
        }
        Event::KeptFlushed { host, boots, to } => {
            let mut world = sim.world();
            if world.hosts[host].boots == boots {
                world.kept_flushed(host, to);
            }
        }
        Event::AgentEnds { host, life } => {
            let mut world = sim.world();
            if world.hosts[host].agent.as_ref().is_some_and(|agent| agent.life == life) {
                world.tell(host, "agent ends: its Raft disk takes nothing");
                world.kill_agent(host);
                world.after(1000 * MS, Event::Start { host, agent_only: true });
            }
        }
        Event::Tick => sim.world().tick(),
        Event::Start { host, agent_only } => faults::come_back(sim, host, agent_only),
        Event::Fault { index, ends } => {
            if let Some(fault) = plan.faults.get(index) {
                sim.world().fault(index, fault, ends);
            }
        }
        Event::Client { index, turn } => sim.world().client_turn(index, turn),
    }
}

/// Keeps an event back if what it is for stands still.
fn stalls(world: &mut World, event: Event) -> Option<Event> {
    let (host, of_agent) = match &event {
        Event::Wake(task) => (world.tasks.get(task).map(|task| task.host)?, true),
        Event::Message(message) => (message.to, true),
        Event::Durable { host, .. } | Event::AgentEnds { host, .. } => (*host, true),
        Event::Guard { host, .. }
        | Event::Server { host, .. }
        | Event::KeptFlushed { host, .. } => (*host, false),
        Event::Stream { connection, side, .. } => {
            let to = world.connections.get(connection).map(|known| known.ends[1 - side])?;
            (to, false)
        }
        Event::Tick | Event::Start { .. } | Event::Fault { .. } | Event::Client { .. } => {
            return Some(event);
        }
    };
    let Some(there) = world.hosts.get_mut(host) else { return Some(event) };
    let still = there.frozen.is_some() || (of_agent && there.agent_frozen > 0);
    if still && there.up {
        there.stalled.push(event);
        return None;
    }
    Some(event)
}

fn arrive(sim: &Sim, message: Message) {
    let gets_there = {
        let world = sim.world();
        let host = &world.hosts[message.to];
        host.up && host.agent.is_some() && !world.net.is_cut(message.from, message.to)
    };
    if gets_there {
        agent::message(sim, message);
    }
}

/// What keeps a healed cluster from being well; nothing if it is.
fn trouble(world: &World, healed: u64) -> Option<String> {
    let state = world.oracle.state()?;
    let Some(grant) = state.lease.grant() else { return Some("nobody holds the lease".to_owned()) };
    let holder = world.index_of(&grant.holder);
    let Some(primary) = world.hosts[holder].pg.as_ref().filter(|pg| pg.is_writable()) else {
        return Some(format!("{} is not primary", grant.holder));
    };
    if !world.clients.iter().any(|client| client.last_ok > healed) {
        return Some("nobody could write since".to_owned());
    }
    if !state.unsettled.is_empty() {
        return Some("quorums of earlier epochs still have a say".to_owned());
    }
    for host in &world.hosts {
        let Some(agent) = &host.agent else { return Some(format!("{} has no agent", host.name)) };
        if agent.raft.leader.is_none() && agent.raft.role != Role::Leader {
            return Some(format!("{} knows no leader", host.name));
        }
        if host.name == grant.holder {
            continue;
        }
        let receives = match (&host.pg, &host.kept) {
            (Some(pg), _) => pg.server.as_ref().is_some_and(|server| server.receiver.is_some()),
            (None, Some(kept)) => kept.receiver.is_some() || !host.keeps_wal,
            (None, None) => true,
        };
        if !receives {
            let rule = agent.facts.decision.as_ref().map_or("-", |decision| decision.rule.name());
            return Some(format!("{} receives nothing: {rule}", host.name));
        }
        if let Some(wal) = host.wal()
            && host.keeps_wal
            && !wal.agrees_with(&primary.data.wal)
        {
            return Some(format!("{} has other WAL than the primary", host.name));
        }
    }
    None
}

/// Runs the seeds `from..from + count` on that many threads, until the first fails. Tells `done` how many
/// there are with each outcome of a run that went well; returns the smallest seed that did not.
#[must_use]
pub fn search(
    from: u64,
    count: u64,
    threads: usize,
    plan: impl Fn(u64) -> Plan + Sync,
    done: impl Fn(u64, &Outcome) + Sync,
) -> Option<(u64, Outcome)> {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};
    let next = AtomicU64::new(from);
    let failed: Mutex<Option<(u64, Outcome)>> = Mutex::new(None);
    let end = from + count;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let found = failed.lock().is_ok_and(|failed| failed.is_some());
                    if seed >= end || found {
                        return;
                    }
                    let outcome = run(&plan(seed), false);
                    if outcome.ended == Ended::Well {
                        done(seed, &outcome);
                    } else if let Ok(mut failed) = failed.lock()
                        && failed.as_ref().is_none_or(|(known, _)| *known > seed)
                    {
                        *failed = Some((seed, outcome));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_default()
}

/// Leaves out faults, and shortens them, for as long as the run still fails in some way.
#[must_use]
pub fn shrink(plan: &Plan) -> Plan {
    let fails = |plan: &Plan| run(plan, false).ended != Ended::Well;
    let mut smallest = plan.clone();
    loop {
        let mut smaller = None;
        for at in 0..smallest.faults.len() {
            let mut without = smallest.clone();
            without.faults.remove(at);
            if fails(&without) {
                smaller = Some(without);
                break;
            }
        }
        if smaller.is_none() && smallest.clients > 1 {
            let fewer = Plan { clients: smallest.clients - 1, ..smallest.clone() };
            smaller = fails(&fewer).then_some(fewer);
        }
        match smaller {
            Some(found) => smallest = found,
            None => return smallest,
        }
    }
}
