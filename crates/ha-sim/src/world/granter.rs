//! The Raft leader's duties, as the real agent does them (`ha_agent::granter`).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ha_core::candidate::{Report, elect, worth_waiting_for};
use ha_core::granter::RenewRefused;
use ha_core::state::{Command, State, VacateReason};
use ha_core::{Epoch, NodeId, NodeKind, WalPosition};

use super::astray;
use super::directed::Gate;
use super::event::{Proposed, Reply, Request};
use super::handle;
use super::kernel::{Ctx, MS, Time, join_all};
use super::mutation::Mutation;
use super::report::{self, Revoked};
use super::state::World;

/// How often the leader looks at the lease.
const TICK: Duration = Duration::from_millis(50);
/// How long a majority may take to confirm leadership for one renewal.
const CONFIRM_LIMIT: Duration = Duration::from_millis(1000);
/// How long a command of the leader may take.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long a node may take to report, and to pledge; and one that did not answer the last time.
const REPORT_LIMIT: Duration = Duration::from_millis(500);
const REVOKE_LIMIT: Duration = Duration::from_millis(1200);
const SILENT_LIMIT: Duration = Duration::from_millis(100);
/// How long an election without a winner waits before the next.
const ELECTION_PAUSE: u64 = 200 * MS;
/// How long an election waits for the last primary when that answers and its database is down.
const LAST_PRIMARY_PATIENCE: u64 = 4000 * MS;
const FIRST_START_PATIENCE: u64 = 30_000 * MS;
/// How long this node must lead beside the primary before it hands leadership over, and how long it
/// then waits before it tries again.
const TRANSFER_AFTER: u64 = 700 * MS;
const TRANSFER_PAUSE: u64 = 5000 * MS;

/// What the leader remembers between ticks; none of it is needed for safety.
#[derive(Debug, Default)]
pub(crate) struct Duty {
    term: u64,
    pause_until: Time,
    vacant_since: Option<Time>,
    beside_primary_since: Option<Time>,
    transfer_after: Time,
    told: String,
}

/// A renewal that arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    /// Who asks, and the number that it gave the question.
    pub(crate) from: usize,
    pub(crate) id: u64,
    pub(crate) epoch: Epoch,
    pub(crate) flushed: Option<WalPosition>,
}

/// Confirms one renewal: by a majority round that begins after it arrived.
pub(crate) async fn renew(ctx: &Ctx, renewal: Renewal) -> Result<(), ()> {
    let (noted, _) = observe(&mut ctx.world(), ctx.host).ok_or(())?;
    let early = ctx.world().mutation == Some(Mutation::CheckedBeforeTheRoundOnly);
    if early {
        check(&mut ctx.world(), ctx.host, renewal, (noted, noted), false)?;
    }
    let confirmed = ctx.confirm_leadership(CONFIRM_LIMIT).await.ok_or(())?;
    ctx.gate(Gate::Confirmed, renewal.from, renewal.id).await;
    // In one step: state and clock are read anew.
    let mut world = ctx.world();
    let leading = world.leading_as_seen(ctx.host);
    astray::deposed(&mut world, ctx.host, noted);
    see(&mut world, ctx.host, leading);
    let checked = check(&mut world, ctx.host, renewal, (noted, confirmed), true);
    if early { Ok(()) } else { checked }
}

/// The look at state and record that lets a renewal be confirmed, and notes it.
fn check(
    world: &mut World,
    at: usize,
    renewal: Renewal,
    (noted, confirmed): (u64, u64),
    note: bool,
) -> Result<(), ()> {
    let Renewal { from, epoch, flushed, .. } = renewal;
    let clock = world.clock(at);
    let holder = world.hosts[from].name.clone();
    let lax = world.mutation == Some(Mutation::RenewedWhileVacating);
    let agent = world.agent(at);
    let state = Rc::clone(&agent.state);
    let mut other = agent.granter.clone();
    let granter = if note { &mut agent.granter } else { &mut other };
    let result = if state.lease.holder() == Some(&holder) {
        granter.confirm(noted, confirmed, epoch, &state.lease, clock)
    } else {
        Err(RenewRefused::NotHeld)
    };
    match result {
        Err(RenewRefused::Vacating) if lax => {}
        Err(why) => {
            world.explain(at, &why.to_string());
            return Err(());
        }
        Ok(()) => {}
    }
    let agent = world.agent(at);
    if let Some(flushed) = flushed.filter(|_| note) {
        agent.last_known = Some((epoch, flushed));
    }
    Ok(())
}

/// Brings the granter up to date; returns the term this node leads and the state that was seen.
pub(crate) fn observe(world: &mut World, at: usize) -> Option<(u64, Rc<State>)> {
    let leading = world.agent(at).raft.leads();
    see(world, at, leading)
}

fn see(world: &mut World, at: usize, leading: Option<u64>) -> Option<(u64, Rc<State>)> {
    astray::keep_record(world, at, leading);
    let clock = world.clock(at);
    let agent = world.agent(at);
    let state = Rc::clone(&agent.state);
    agent.noticed = leading;
    agent.granter.observe(leading, &state.lease, clock);
    agent.granter.observe_pause(state.pauses, state.is_paused(), clock);
    Some((agent.granter.arrived().ok()?, state))
}

/// Does the leader's duties, while this node leads.
pub(crate) async fn run(ctx: Ctx) {
    loop {
        once(&ctx).await;
        ctx.sleep(TICK).await;
    }
}

/// One look at the lease, and what follows from it.
pub(crate) async fn once(ctx: &Ctx) {
    astray::carry_decision(ctx).await;
    let observed = observe(&mut ctx.world(), ctx.host);
    let Some((term, state)) = observed else {
        let mut agent = ctx.agent();
        let transfer_after = agent.duty.transfer_after;
        agent.duty = Duty { transfer_after, ..Duty::default() };
        return;
    };
    expire(ctx, &state).await;
    stay_away_from_primary(ctx, &state);
    let now = ctx.world().now;
    if state.lease.grant().is_some() {
        let mut agent = ctx.agent();
        agent.duty.told.clear();
        agent.duty.vacant_since = None;
        return;
    }
    if ctx.agent().duty.pause_until > now || state.system_identifier.is_none() {
        return;
    }
    choose(ctx, &state, term).await;
}

async fn expire(ctx: &Ctx, state: &State) {
    let expiry = {
        let mut world = ctx.world();
        let clock = world.clock(ctx.host);
        let hasty = world.mutation == Some(Mutation::NewLeaderDoesNotWait);
        let agent = world.agent(ctx.host);
        let expiry = agent.granter.expire(&state.lease, clock);
        let led = agent.raft.leads().unwrap_or_default();
        let fresh = std::mem::replace(&mut agent.duty.term, led) != led;
        match state.lease.grant() {
            // It goes by what an earlier leader knew, which is nothing.
            Some(grant) if hasty && fresh => Some(ha_core::granter::Expiry {
                term: led,
                epoch: grant.epoch,
                pauses: state.pauses,
                killed: false,
            }),
            _ => expiry.or_else(|| astray::expired_by_old_record(&mut world, ctx.host)),
        }
    };
    let Some(expiry) = expiry else { return };
    let (epoch, pauses) = (expiry.epoch, expiry.pauses);
    let vacate = Command::Vacate { epoch, reason: VacateReason::Expired, pauses };
    astray::note_decision(&mut ctx.world(), ctx.host, &vacate);
    // Bound to the term in which it was decided: never forwarded, never tried in another one.
    ctx.propose(vacate, Some(expiry.term), PROPOSE_LIMIT).await;
}

async fn choose(ctx: &Ctx, state: &Rc<State>, term: u64) {
    let promised = state.demands().next().is_some();
    let reports = gather(ctx, promised.then_some(state.last_epoch)).await;
    choose_among(ctx, state, term, reports).await;
}

/// Elects with these reports, and has the lease granted to the winner.
pub(crate) async fn choose_among(
    ctx: &Ctx,
    state: &Rc<State>,
    term: u64,
    mut reports: BTreeMap<NodeId, Report>,
) {
    let promised = state.demands().next().is_some();
    if ctx.world().mutation == Some(Mutation::TooFewReports) && promised {
        invent(&mut ctx.world(), state.last_epoch, &mut reports);
    }
    let state = &astray::remembered(&ctx.world(), state);
    let (known, policy) = {
        let mut world = ctx.world();
        let wrote = state.latest_promotion().map_or(Epoch::NONE, |promotion| promotion.epoch);
        let known = world.agent(ctx.host).last_known.filter(|(epoch, _)| *epoch >= wrote);
        (known.map(|(_, position)| position), world.policy)
    };
    let election = elect(state, &reports, known, &policy);
    let hasty = promised && election.winner.is_some();
    let now = ctx.world().now;
    let waits = {
        let mut agent = ctx.agent();
        let since = *agent.duty.vacant_since.get_or_insert(now);
        let first = state.last_epoch == Epoch::NONE;
        let patience = if first { FIRST_START_PATIENCE } else { LAST_PRIMARY_PATIENCE };
        worth_waiting_for(state, &reports).is_some() && now - since < patience && !hasty
    };
    let Some(winner) = election.winner.filter(|_| !waits) else {
        let why: Vec<String> =
            election.refusals.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        let text = if waits { "waits for the last primary".to_owned() } else { why.join("; ") };
        let mut world = ctx.world();
        let duty = &mut world.agent(ctx.host).duty;
        duty.pause_until = now + ELECTION_PAUSE;
        if duty.told != text {
            duty.told.clone_from(&text);
            world.tell(ctx.host, &format!("nobody is elected: {text}"));
        }
        return;
    };
    let grant = Command::Grant {
        to: winner.node.clone(),
        incarnation: winner.incarnation,
        epoch: state.last_epoch.next(),
        ttl: policy.ttl,
        catch_up: winner.catch_up.clone(),
        evidence: winner.evidence(),
    };
    if !matches!(ctx.propose(grant, Some(term), PROPOSE_LIMIT).await, Proposed::Done(_)) {
        let mut world = ctx.world();
        let until = world.now + ELECTION_PAUSE;
        world.agent(ctx.host).duty.pause_until = until;
    }
}

/// Asks every node, in parallel: to pledge for an epoch, or only for its report.
pub(crate) async fn gather(ctx: &Ctx, pledge: Option<Epoch>) -> BTreeMap<NodeId, Report> {
    let nodes = ctx.world().hosts.len();
    let believes = ctx.world().mutation == Some(Mutation::RevokeSkipped);
    let asked = (0..nodes).map(|node| {
        let own = ctx.clone();
        let work: Pin<Box<dyn Future<Output = Option<Report>>>> = match pledge {
            Some(epoch) if believes => Box::pin(async move { believed(&own, node, epoch).await }),
            Some(epoch) => Box::pin(async move { revoked(&own, node, epoch).await }),
            None => Box::pin(async move { reported(&own, node).await }),
        };
        work
    });
    let answers = join_all(asked.collect()).await;
    let world = ctx.world();
    let mut reports = BTreeMap::new();
    for (node, answer) in answers.into_iter().enumerate() {
        if let Some(report) = answer {
            reports.insert(world.hosts[node].name.clone(), report);
        }
    }
    reports
}

fn limit(ctx: &Ctx, node: usize, otherwise: Duration) -> Duration {
    let silent = ctx.agent().sightings.get(&node).is_some_and(Option::is_none);
    if silent { SILENT_LIMIT } else { otherwise }
}

async fn reported(ctx: &Ctx, node: usize) -> Option<Report> {
    if node == ctx.host {
        return Some(report::fresh(ctx).await.report);
    }
    match ctx.ask(node, Request::Report, limit(ctx, node, REPORT_LIMIT)).await {
        Some(Reply::Reported(reported)) => Some(reported.report),
        _ => None,
    }
}

async fn revoked(ctx: &Ctx, node: usize, epoch: Epoch) -> Option<Report> {
    let revoked = if node == ctx.host {
        handle::revoke(ctx, epoch).await
    } else {
        match ctx.ask(node, Request::Revoke { epoch }, limit(ctx, node, REVOKE_LIMIT)).await {
            Some(Reply::Revoked(revoked)) => *revoked,
            _ => return None,
        }
    };
    Some(answered(revoked))
}

/// What an answer to an election's question says.
pub(crate) fn answered(revoked: Revoked) -> Report {
    let mut report = revoked.reported.report;
    report.pledged = revoked.pledged;
    report.wal = revoked.tip;
    report
}

/// What it would be if the node had pledged.
async fn believed(ctx: &Ctx, node: usize, epoch: Epoch) -> Option<Report> {
    let mut report = reported(ctx, node).await?;
    report.pledged = epoch;
    let world = ctx.world();
    let wal = world.hosts[node].wal().filter(|_| world.hosts[node].keeps_wal)?;
    report.wal = Some(report::tip_of(wal));
    Some(report)
}

/// Members that are silent surely have what the others have.
fn invent(world: &mut World, epoch: Epoch, reports: &mut BTreeMap<NodeId, Report>) {
    let Some(known) = reports.values().find(|report| report.wal.is_some()).cloned() else { return };
    for host in &world.hosts {
        let heard = reports.get(&host.name).is_some_and(|report| report.wal.is_some());
        if !heard {
            let report = Report { pledged: epoch, database: None, ..known.clone() };
            reports.insert(host.name.clone(), report);
        }
    }
}

/// Losing the primary's host must not cost a Raft election on top of the ttl.
fn stay_away_from_primary(ctx: &Ctx, state: &State) {
    let mut world = ctx.world();
    let now = world.now;
    let name = world.hosts[ctx.host].name.clone();
    let kinds: Vec<NodeKind> = world.hosts.iter().map(|host| host.kind).collect();
    let agent = world.agent(ctx.host);
    if state.lease.holder() != Some(&name) {
        agent.duty.beside_primary_since = None;
        return;
    }
    let since = *agent.duty.beside_primary_since.get_or_insert(now);
    if now < agent.duty.transfer_after || now - since < TRANSFER_AFTER {
        return;
    }
    let takes_part = |node: &usize| {
        agent.sightings.get(node).is_some_and(|seen| seen.as_ref().is_some_and(|r| r.knows_leader))
    };
    let mut others: Vec<usize> = (0..kinds.len()).filter(takes_part).collect();
    others.sort_by_key(|node| (kinds[*node] != NodeKind::Witness, *node));
    let Some(to) = others.first().copied() else { return };
    agent.duty.transfer_after = now + TRANSFER_PAUSE;
    let out = agent.raft.hand_over(to);
    world.raft_stepped(ctx.host, out);
}
