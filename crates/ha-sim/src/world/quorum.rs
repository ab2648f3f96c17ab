//! Keeps what the primary's server waits for, what is recorded, and what is wanted, in line
//! (`ha_agent::quorum_keeper`).

use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::policy::Durability;
use ha_core::state::Command;
use ha_core::view::{Instance, LeaseView};
use ha_core::wal_quorum::{Change, Live, Quorum, next};
use ha_core::{Epoch, NodeId};

use super::jobs::applied;
use super::kernel::{Ctx, MS, Time};
use super::mutation::Mutation;
use super::observe;
use super::pg::{Server, Synchronous};
use super::state::World;

/// How often the receivers are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long recording a quorum may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(3);
/// How long an acknowledger may be away before it counts as gone.
const PATIENCE: u64 = 2000 * MS;
/// How many records a receiver may be behind to be counted in.
const NEAR: usize = 64;

/// What is remembered of one run under one grant.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    of: (u64, Epoch),
    live: Live,
    /// A quorum that is proven live, and the position up to which others could acknowledge.
    grown: Option<(Quorum, usize)>,
    began_at: Option<usize>,
    /// The version of the recorded quorum that is known to be the current one.
    confirmed: Option<u64>,
    admitted: bool,
    /// When each receiver was last there, and whether it has been near the end.
    seen: BTreeMap<NodeId, (Time, bool)>,
}

/// What one look at the receivers shows: the end, and how far each is.
struct Receivers {
    flushed: usize,
    rows: BTreeMap<NodeId, usize>,
    waiting: bool,
}

/// Keeps the quorum, for as long as the agent runs.
pub(crate) async fn run(ctx: Ctx) {
    loop {
        turn(&ctx).await;
        ctx.sleep(TICK).await;
    }
}

/// One round of that.
pub(crate) async fn turn(ctx: &Ctx) {
    match serving(ctx) {
        None => ctx.agent().quorum = Memory::default(),
        Some(of) => {
            if ctx.agent().quorum.of != of {
                ctx.agent().quorum = Memory { of, ..Memory::default() };
            }
            once(ctx).await;
        }
    }
}

/// What a keeper remembers of its own doing, in words.
pub(crate) fn remembers(world: &World, at: usize) -> String {
    let memory = world.hosts[at].agent.as_ref().map(|agent| &agent.quorum);
    format!("{:?}", memory.map(|it| (&it.live, &it.grown, it.confirmed)))
}

/// Whether a node's server goes by that quorum, which is recorded, and known to be.
pub(crate) fn is_kept(world: &World, at: usize, quorum: &Quorum) -> bool {
    let Some(agent) = &world.hosts[at].agent else { return false };
    let (state, memory) = (&agent.state, &agent.quorum);
    state.recorded.as_ref().is_some_and(|recorded| recorded.quorum == *quorum)
        && memory.live.set.as_ref() == Some(quorum)
        && memory.confirmed == Some(state.quorum_version)
        && state.unsettled.is_empty()
}

/// The run and the epoch under which this node is primary now.
fn serving(ctx: &Ctx) -> Option<(u64, Epoch)> {
    let world = ctx.world();
    let status = observe::guard(&world.hosts[ctx.host])?;
    let view = observe::view(&world, ctx.host);
    let primary = matches!(view.instance, Instance::Primary(_));
    (view.lease == LeaseView::Ours && primary).then_some((status.run, view.epoch))
}

async fn once(ctx: &Ctx) {
    let span = ctx.world().rng.range(1, 5);
    ctx.sleep(Duration::from_millis(span)).await;
    let Some(look) = look(ctx) else { return };
    let Look { change, recorded, settled, differs, confirmed, receivers } = look;
    let unrecorded = ctx.world().mutation == Some(Mutation::QuorumNotRecorded);
    let confirmed = confirmed || ctx.world().mutation == Some(Mutation::QuorumUnconfirmed);
    ctx.world().explain(ctx.host, &format!("keeper: confirmed {confirmed}, {change:?}"));
    if !confirmed && (change != Change::Nothing || !ctx.agent().quorum.admitted) {
        let mode = ctx.agent().state.recorded.as_ref().map(|recorded| recorded.mode);
        let Some(mode) = mode else { return };
        return submit(ctx, mode, recorded, false).await;
    }
    match change {
        Change::Nothing if differs => record(ctx, recorded, settled).await,
        Change::Nothing => {}
        Change::Set(quorum) => set(ctx, quorum),
        Change::Settle(_) | Change::Record(_) | Change::Grow(_) if unrecorded => {
            let wanted = wanted(&mut ctx.world(), ctx.host);
            set(ctx, wanted);
        }
        Change::Settle(quorum) => {
            settle(ctx, quorum).await;
        }
        Change::Record(quorum) => record(ctx, quorum, false).await,
        Change::Grow(quorum) => grow(ctx, quorum, &receivers).await,
    }
}

fn wanted(world: &mut World, at: usize) -> Quorum {
    if let Some(wish) = &world.wish {
        return wish.clone();
    }
    let name = world.hosts[at].name.clone();
    let agent = world.agent(at);
    let seen = &agent.quorum.seen;
    agent.state.quorum_for(&name, |node| seen.get(node).is_some_and(|(_, near)| *near))
}

/// What one look shows.
struct Look {
    change: Change,
    recorded: Quorum,
    settled: bool,
    differs: bool,
    confirmed: bool,
    receivers: Receivers,
}

fn look(ctx: &Ctx) -> Option<Look> {
    let mut world = ctx.world();
    let now = world.now;
    let receivers = receivers(&mut world, ctx.host)?;
    let agent = world.agent(ctx.host);
    let state = agent.state.clone();
    let memory = &mut agent.quorum;
    let recorded = state.recorded.as_ref().filter(|recorded| recorded.epoch == memory.of.1)?;
    let began_at = *memory.began_at.get_or_insert(receivers.flushed);
    for (node, flushed) in &receivers.rows {
        let near = receivers.flushed.saturating_sub(*flushed) <= NEAR;
        let known = memory.seen.entry(node.clone()).or_insert((now, near));
        if !receivers.waiting || near {
            known.0 = now;
        }
        known.1 |= near;
    }
    memory.seen.retain(|_, (at, _)| now - *at < PATIENCE);
    let confirmed = memory.confirmed == Some(state.quorum_version);
    let admit = confirmed && !memory.admitted && has_passed(&recorded.quorum, &receivers, began_at);
    memory.admitted |= admit;
    if admit {
        world.pg(ctx.host).data.admits = true;
        if let Some(server) = world.server(ctx.host) {
            server.admits = true;
        }
    }
    let wanted = wanted(&mut world, ctx.host);
    let hasty = world.mutation == Some(Mutation::ShrunkBeforeRecorded);
    let memory = &world.agent(ctx.host).quorum;
    let shrinks = wanted != recorded.quorum && wanted.covered_by(&recorded.quorum);
    let change = match (hasty && shrinks, memory.live.set.as_ref() == Some(&wanted)) {
        (true, true) => Change::Record(wanted.clone()),
        (true, false) => Change::Set(wanted.clone()),
        (false, _) => next(&recorded.quorum, &memory.live, &wanted),
    };
    let settled = has_passed(&recorded.quorum, &receivers, began_at);
    let open = !state.unsettled.is_empty() && settled;
    let differs = recorded.mode != state.durability || open;
    let recorded = recorded.quorum.clone();
    Some(Look { change, recorded, settled, differs, confirmed, receivers })
}

fn receivers(world: &mut World, at: usize) -> Option<Receivers> {
    let names: Vec<NodeId> = world.hosts.iter().map(|host| host.name.clone()).collect();
    let pg = world.pg(at);
    let server: &Server = pg.server.as_ref().filter(|server| server.up && !server.recovery)?;
    let rows = server.senders.iter().map(|(node, s)| (names[*node].clone(), s.flushed));
    let waiting = server.waiting.front().is_some();
    Some(Receivers { flushed: pg.data.wal.flushed, rows: rows.collect(), waiting })
}

fn has_passed(quorum: &Quorum, receivers: &Receivers, at: usize) -> bool {
    let passed = |member: &&NodeId| receivers.rows.get(*member).is_some_and(|has| *has >= at);
    let count = quorum.members.iter().filter(passed).count();
    u32::try_from(count).unwrap_or(u32::MAX) >= quorum.required
}

fn set(ctx: &Ctx, quorum: Quorum) {
    let mut world = ctx.world();
    let sync = world.synchronous(&quorum);
    let memory = &mut world.agent(ctx.host).quorum;
    memory.grown = None;
    if memory.live.proven.as_ref() != Some(&quorum) {
        memory.live.proven = None;
    }
    memory.live.set = Some(quorum);
    world.set_synchronous(ctx.host, &sync);
}

/// Proves that this, and nothing older, is in force in every process (rule 100). Returns the end of WAL
/// of that moment.
pub(crate) async fn settle(ctx: &Ctx, quorum: Quorum) -> Option<usize> {
    let sync = {
        let mut world = ctx.world();
        let memory = &mut world.agent(ctx.host).quorum;
        memory.live = Live::default();
        memory.grown = None;
        let sync = world.synchronous(&quorum);
        world.set_synchronous(ctx.host, &sync);
        if world.mutation == Some(Mutation::GrownUnproven) {
            let memory = &mut world.agent(ctx.host).quorum;
            memory.live = Live { set: Some(quorum.clone()), proven: Some(quorum) };
            return Some(world.pg(ctx.host).data.wal.len());
        }
        sync
    };
    for _ in 0..50 {
        ctx.sleep(Duration::from_millis(20)).await;
        let mut world = ctx.world();
        let pg = world.pg(ctx.host);
        let end = pg.data.wal.len();
        let server = pg.server.as_ref().filter(|server| !server.recovery)?;
        let told = |own: &Synchronous| *own == sync;
        if told(&server.sync) && server.senders.values().all(|sender| told(&sender.sync)) {
            let memory = &mut world.agent(ctx.host).quorum;
            memory.live = Live { set: Some(quorum.clone()), proven: Some(quorum) };
            return Some(end);
        }
    }
    None
}

async fn grow(ctx: &Ctx, quorum: Quorum, receivers: &Receivers) {
    let known = {
        let agent = ctx.agent();
        let proven = agent.quorum.live.proven.as_ref() == Some(&quorum);
        agent.quorum.grown.clone().filter(|(grown, _)| proven && *grown == quorum)
    };
    let Some((_, until)) = known else {
        if let Some(until) = settle(ctx, quorum.clone()).await {
            ctx.agent().quorum.grown = Some((quorum, until));
        }
        return;
    };
    let until = until.max(ctx.agent().quorum.began_at.unwrap_or(until));
    let early = ctx.world().mutation == Some(Mutation::GrownTooEarly);
    if early || has_passed(&quorum, receivers, until) {
        record(ctx, quorum, true).await;
    }
}

async fn record(ctx: &Ctx, quorum: Quorum, settled: bool) {
    let mode = {
        let mut world = ctx.world();
        let wanted = wanted(&mut world, ctx.host);
        let agent = world.agent(ctx.host);
        let state = &agent.state;
        let before = state.recorded.as_ref().map_or(state.durability, |recorded| recorded.mode);
        let there = quorum == wanted && agent.quorum.live.set.as_ref() == Some(&quorum);
        if there { state.durability } else { before }
    };
    submit(ctx, mode, quorum, settled).await;
}

async fn submit(ctx: &Ctx, mode: Durability, quorum: Quorum, settled: bool) {
    let (set, version) = {
        let mut agent = ctx.agent();
        agent.quorum.confirmed = None;
        let (epoch, version) = (agent.quorum.of.1, agent.state.quorum_version);
        (Command::SetQuorum { epoch, version, mode, quorum, settled }, version)
    };
    if !applied(&ctx.submit(set, SUBMIT_LIMIT).await) {
        return;
    }
    // Until this node knows it too, it would only be decided again.
    for _ in 0..150 {
        let known = ctx.agent().state.quorum_version;
        if known > version {
            ctx.agent().quorum.confirmed = Some(version + 1).filter(|own| *own == known);
            return;
        }
        ctx.sleep(Duration::from_millis(20)).await;
    }
}
