//! Becoming primary, giving the lease back, and crashes, as the real agent has them
//! (`ha_agent::jobs::{serve, crash}`).

use std::time::Duration;

use ha_core::origin::Origin;
use ha_core::permit::{Order, Permit, StopMode};
use ha_core::state::{Command, Outcome, VacateReason};
use ha_core::view::{Crash, Instance, LeaseView, View};
use ha_core::{Epoch, TimelineId, WalPosition};

use super::control::{Failed, look};
use super::event::{Proposed, Reply, Request};
use super::handle::{detach, sync};
use super::kernel::{Ctx, MS};
use super::lease::renew_now;
use super::mutation::Mutation;
use super::observe::{self, Status, was_primary};
use super::pg::Synchronous;
use super::wal::{lsn, position};

/// How often a wait looks again.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long ending recovery may take, and waiting for a renewal that was sent since its server runs.
const PROMOTE_LIMIT: u64 = 10_000 * MS;
const PROOF_LIMIT: u64 = 1000 * MS;
/// How long a release waits for the database to be down.
const DOWN_LIMIT: u64 = 2000 * MS;
/// How long telling the cluster may take.
pub(crate) const SUBMIT_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn status(ctx: &Ctx) -> Result<Status, Failed> {
    observe::guard(&ctx.host()).ok_or_else(|| "its guard does not answer".to_owned())
}

/// Ends recovery under our lease: permit first, then the server.
pub(crate) async fn promote(ctx: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    let run = status(ctx)?.run;
    await_proof(ctx, epoch, run).await?;
    let alone = await_commits(ctx, epoch, run).await?;
    let from = {
        let host = ctx.host();
        let wal = &host.pg.as_ref().ok_or("no database")?.data.wal;
        wal.timeline_at(wal.len())
    };
    note_origin(ctx, epoch, TimelineId(from.0 + 1), from).await;
    {
        let mut world = ctx.world();
        let clock = world.clock(ctx.host);
        let agent = world.agent(ctx.host);
        let holder = agent.holder.as_ref().filter(|holder| holder.epoch() == epoch);
        let deadline = holder.and_then(|holder| holder.deadline(clock));
        let deadline = deadline.ok_or("the right has ended")?;
        let permit = agent.permit;
        if epoch <= permit.burnt || permit.run != run || !permit.order.lets_run() {
            return Err("the permit is for something else by now".to_owned());
        }
        let order = Order::Primary { epoch, deadline };
        world.write_permit(ctx.host, |old| Permit { order, ..old });
        // The server is told only once the guard knows what it may become.
    }
    let until = ctx.world().now + PROMOTE_LIMIT;
    loop {
        let told = {
            let mut world = ctx.world();
            let known = world.pg(ctx.host).guard.right.is_some_and(|(own, _)| own == epoch);
            known && world.begin_promotion(ctx.host)
        };
        if ctx.host().pg.as_ref().is_some_and(super::pg::Pg::is_writable) {
            break;
        }
        let late = ctx.world().now >= until;
        let over = late || ctx.host().pg.as_ref().is_none_or(|pg| pg.server.is_none());
        if !told && over {
            let mut agent = ctx.agent();
            let (of, failures) = agent.facts.promote_failures;
            agent.facts.promote_failures = (epoch, if of == epoch { failures + 1 } else { 1 });
            return Err("the server did not end recovery".to_owned());
        }
        ctx.sleep(Duration::from_millis(5)).await;
    }
    let mut world = ctx.world();
    world.agent(ctx.host).facts.writable_run = Some(run);
    super::agent::probe(&mut world, ctx.host);
    if alone {
        world.set_synchronous(ctx.host, &Synchronous::Nobody);
    }
    Ok(())
}

/// Waits until a renewal is confirmed that was sent after this run was seen to run.
async fn await_proof(ctx: &Ctx, epoch: Epoch, run: u64) -> Result<(), Failed> {
    let until = ctx.world().now + PROOF_LIMIT;
    loop {
        {
            let mut world = ctx.world();
            let now = world.now;
            let agent = world.agent(ctx.host);
            let (of, since) = agent.facts.seen_run;
            if of != run {
                return Err("its server was not seen to run yet".to_owned());
            }
            let holder = agent.holder.as_ref().filter(|holder| holder.epoch() == epoch);
            if holder.is_some_and(|holder| holder.is_proven_since(since)) {
                return Ok(());
            }
            if now >= until {
                return Err("no renewal was confirmed since its server runs".to_owned());
            }
            renew_now(&mut world, ctx.host);
        }
        ctx.sleep(POLL).await;
    }
}

/// Whoever has to acknowledge commits is in the settings before the first one can be made. Returns
/// whether the server is to be told after its promotion that it acknowledges alone.
async fn await_commits(ctx: &Ctx, epoch: Epoch, run: u64) -> Result<bool, Failed> {
    let state = ctx.agent().state.clone();
    let recorded = state.recorded.as_ref().filter(|recorded| recorded.epoch == epoch);
    let recorded = recorded.ok_or("its quorum is not known here yet")?;
    let grant = state.lease.grant().filter(|grant| grant.epoch == epoch);
    let grant = grant.ok_or("it is not granted any more")?;
    let skips = ctx.world().mutation == Some(Mutation::CatchUpSkipped);
    if let Some(catch_up) = grant.catch_up.as_ref().filter(|_| !skips) {
        detach(ctx, run).await;
        let has = ctx.host().pg.as_ref().map(|pg| pg.data.wal.flushed).unwrap_or_default();
        if has < position(catch_up.to.lsn) {
            ctx.agent().facts.caught_up = None;
            return Err("it has not replayed what it has to".to_owned());
        }
    }
    let mut world = ctx.world();
    let to = world.synchronous(&recorded.quorum);
    let after = to == Synchronous::Nobody;
    world.set_synchronous(ctx.host, if after { &Synchronous::Closed } else { &to });
    Ok(after)
}

/// Notes from which promotion the timeline here came (rule 57).
pub(crate) async fn note_origin(ctx: &Ctx, epoch: Epoch, to: TimelineId, from: TimelineId) {
    {
        let mut host = ctx.host();
        let file = &mut host.store.origin;
        file.written = Some(Origin::after(file.written, epoch, to, from));
    }
    sync(ctx).await;
    ctx.host().store.origin.sync();
}

/// Has a promotion recorded, again and again until it is.
pub(crate) fn keep_recorded(ctx: &Ctx, view: &View) {
    let primary = matches!(view.instance, Instance::Primary(_)) && view.lease == LeaseView::Ours;
    let epoch = view.epoch;
    {
        let mut agent = ctx.agent();
        let known = agent.state.history.iter().any(|promotion| promotion.epoch == epoch);
        if !primary || known || agent.facts.recording == Some(epoch) {
            return;
        }
        agent.facts.recording = Some(epoch);
    }
    let own = ctx.clone();
    ctx.spawn(async move {
        let begin = {
            let mut host = own.host();
            let pg = host.pg.as_mut().expect("a data node");
            let timeline = pg.data.wal.timeline_at(pg.data.wal.len());
            let last = pg.data.wal.history_at(pg.data.wal.len()).last().copied();
            WalPosition { timeline, lsn: last.map_or(lsn(0), |switch| switch.end) }
        };
        let follows = own.host().store.origin.written.and_then(|noted| noted.followed(epoch));
        let command = Command::RecordPromotion { epoch, begin, follows, at_unix_ms: 0 };
        let became = own.submit(command, SUBMIT_LIMIT).await;
        if matches!(became, Proposed::NotTaken | Proposed::Unknown) {
            own.sleep(Duration::from_millis(500)).await;
            own.agent().facts.recording = None;
        }
        // pg_rewind against this node is safe only after it (rule 59).
        sync(&own).await;
        let mut host = own.host();
        if let Some(pg) = host.pg.as_mut().filter(|pg| pg.is_writable()) {
            pg.data.checkpoint = pg.data.wal.timeline_at(pg.data.wal.len()).0;
        }
    });
}

/// Gives the lease back. What could write is down; the epoch is given up here before anybody is told.
pub(crate) async fn release(ctx: &Ctx, epoch: Epoch, why: &'static str) -> Result<(), Failed> {
    ctx.world().burn(ctx.host, epoch);
    let until = ctx.world().now + DOWN_LIMIT;
    loop {
        let status = status(ctx)?;
        if status.state.is_gone() || status.primary_epoch == Epoch::NONE {
            break;
        }
        if ctx.world().now >= until {
            return Err("the database is not down yet".to_owned());
        }
        ctx.sleep(POLL).await;
    }
    let reason = VacateReason::Released { why: why.to_owned() };
    match ctx.submit(Command::Vacate { epoch, reason, pauses: 0 }, SUBMIT_LIMIT).await {
        Proposed::Done(_) => {}
        Proposed::NotTaken | Proposed::Unknown => return Err("nobody took it".to_owned()),
    }
    // Until this node knows it too, it would only be decided again.
    let until = ctx.world().now + 5000 * MS;
    loop {
        let held = ctx.agent().state.lease.grant().is_some_and(|grant| grant.epoch == epoch);
        if !held || ctx.world().now >= until {
            return Ok(());
        }
        ctx.sleep(POLL).await;
    }
}

/// Finds out what a crash calls for.
pub(crate) async fn assess_crash(ctx: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    let status = status(ctx)?;
    if !status.state.is_gone() {
        return Err("the database is not down yet".to_owned());
    }
    let (crashes, end, policy) = {
        let mut world = ctx.world();
        let (now, policy) = (world.now, world.policy.crash);
        let window = ha_core::clock::nanos(policy.window);
        let wal = &mut world.pg(ctx.host).data.wal;
        // What crash recovery would replay.
        wal.flushed = wal.len();
        let end = wal.end();
        let facts = &mut world.agent(ctx.host).facts;
        facts.crashes.retain(|at| now - *at < window);
        facts.crashes.push(now);
        (facts.crashes.len(), end, policy)
    };
    let caught_up = standby_has(ctx, end).await;
    let looping = u32::try_from(crashes).unwrap_or(u32::MAX) > policy.restarts_max;
    let plan = if caught_up || looping { Crash::FailOver } else { Crash::RestartInPlace };
    ctx.world().tell(ctx.host, &format!("crashed under epoch {epoch}: {plan:?}"));
    ctx.agent().facts.crash = Some((status.run, plan));
    Ok(())
}

/// Returns whether a fit standby has everything up to `end`.
async fn standby_has(ctx: &Ctx, end: WalPosition) -> bool {
    let fit: Vec<usize> = {
        let agent = ctx.agent();
        let fit = agent.sightings.iter().filter(|(_, seen)| seen.as_ref().is_some_and(|r| r.fit));
        fit.map(|(node, _)| *node).collect()
    };
    for node in fit {
        let reply = ctx.ask(node, Request::Report, Duration::from_millis(400)).await;
        if let Some(Reply::Reported(reported)) = reply {
            let has = reported.flushed().unwrap_or_default();
            if has.timeline == end.timeline && has.lsn >= end.lsn {
                return true;
            }
        }
    }
    false
}

/// Goes on as primary under the same grant: after a crash, or after a stop that led to nothing.
pub(crate) async fn restart_in_place(ctx: &Ctx, epoch: Epoch, ordered: bool) -> Result<(), Failed> {
    if !was_primary(look(ctx)) {
        ctx.agent().facts.data_dir = None;
        return Err("the data directory was not left by a primary".to_owned());
    }
    sync(ctx).await;
    let after = status(ctx)?.run;
    let run = {
        let mut world = ctx.world();
        let clock = world.clock(ctx.host);
        let agent = world.agent(ctx.host);
        let promised = agent.state.demands().next().is_some();
        let holder = agent.holder.as_ref().filter(|holder| holder.epoch() == epoch);
        let deadline = holder.and_then(|holder| holder.deadline(clock));
        let deadline = deadline.ok_or("the right has ended")?;
        let permit = agent.permit;
        let left = match permit.order {
            Order::Primary { epoch: own, .. } => !ordered && own == epoch,
            Order::Down { stop } => ordered && stop == StopMode::Fast,
            Order::Standby => false,
        };
        if epoch <= permit.burnt || !left {
            return Err("there is no permit of that epoch left".to_owned());
        }
        // Commits that waited are visible again: ordinary clients stay outside at first (rule 99).
        world.pg(ctx.host).data.admits = !promised;
        let run = permit.run.max(after) + 1;
        let order = Order::Primary { epoch, deadline };
        world.write_permit(ctx.host, |old| Permit { run, order, ..old });
        run
    };
    await_running(ctx, run).await
}

/// Waits until the guard has started a run, or refused it.
pub(crate) async fn await_running(ctx: &Ctx, run: u64) -> Result<(), Failed> {
    for _ in 0..100 {
        let status = status(ctx)?;
        if status.run >= run {
            return if status.state.is_gone() {
                Err("the guard did not start it".to_owned())
            } else {
                Ok(())
            };
        }
        ctx.sleep(POLL).await;
    }
    Err("the guard did not start it in time".to_owned())
}

/// Whether a command was carried out.
pub(crate) fn applied(proposed: &Proposed) -> bool {
    matches!(proposed, Proposed::Done(Outcome::Applied))
}
