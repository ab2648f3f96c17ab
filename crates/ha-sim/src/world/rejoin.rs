//! Coming back as a standby, and fetching what a future primary lacks
//! (`ha_agent::jobs::{rejoin, catch_up}`).

use std::time::Duration;

use ha_core::ancestry::{self, Line, Relation as Ancestry, TimelineSwitch};
use ha_core::permit::{Order, Permit};
use ha_core::state::{Command, Promotion};
use ha_core::view::Relation;
use ha_core::{Epoch, Lsn, NodeId, TimelineId, WalPosition};

use super::control::Failed;
use super::event::{Reply, Request};
use super::handle::{detach, receiving, sync};
use super::jobs::{SUBMIT_LIMIT, applied, await_running, note_origin, status};
use super::kernel::Ctx;
use super::mutation::Mutation;
use super::pg::{Control, Half, Synchronous};
use super::wal::position;

/// How long a future primary tries before it leaves the lease to others.
const TRIES_MAX: u32 = 5;

/// What another server says of its history.
struct History {
    writable: bool,
    timeline: TimelineId,
    switches: Vec<TimelineSwitch>,
    flushed: Lsn,
    checkpoint: bool,
}

/// Returns whether `timeline`, as it is here, began under an epoch that the cluster does not know as its
/// origin, although it knows another one (rule 57).
pub(crate) fn is_unrecorded(ctx: &Ctx, timeline: TimelineId) -> bool {
    let noted = ctx.host().store.origin.written;
    let agent = ctx.agent();
    let recorded = agent.state.history.iter().rev().find(|p| p.begin.timeline == timeline);
    noted.is_some_and(|noted| {
        noted.timeline == timeline && recorded.is_some_and(|p| p.epoch != noted.epoch)
    })
}

/// Returns whether the history here and that of the primary of epoch `origin` may share a number where
/// they do not share a timeline.
pub(crate) fn is_ambiguous(
    ctx: &Ctx,
    ours: (TimelineId, &[TimelineSwitch]),
    theirs: (TimelineId, &[TimelineSwitch]),
    origin: Epoch,
) -> bool {
    if ctx.world().mutation == Some(Mutation::SharedNumberTrusted) {
        return false;
    }
    let line = |(timeline, switches), origin| Line { timeline, switches, origin };
    let noted = ctx.host().store.origin.written.and_then(|noted| noted.of(ours.0));
    let (ours, theirs) = (line(ours, noted), line(theirs, Some(origin)));
    ancestry::doubtful_from(ours, theirs, &ctx.agent().state.history).is_some()
}

/// Starts the stopped database in recovery, following `primary` or nobody.
pub(crate) async fn start_standby(
    ctx: &Ctx,
    primary: Option<NodeId>,
    epoch: Epoch,
) -> Result<(), Failed> {
    let held = receiving(ctx).await;
    if primary.is_some() {
        expect_unpledged(ctx, epoch)?;
    }
    sync(ctx).await;
    let after = status(ctx)?.run;
    let run = {
        let mut world = ctx.world();
        let from = primary.as_ref().map(|primary| world.index_of(primary));
        let data = &mut world.pg(ctx.host).data;
        data.standby_signal = true;
        data.upstream = from;
        data.admits = true;
        data.sync = Synchronous::Nobody;
        let run = world.agent(ctx.host).permit.run.max(after) + 1;
        world.write_permit(ctx.host, |old| Permit { run, order: Order::Standby, ..old });
        let now = world.now;
        let facts = &mut world.agent(ctx.host).facts;
        facts.writable_run = None;
        facts.following = Some((run, primary, now));
        run
    };
    drop(held);
    let started = await_running(ctx, run).await;
    if started.is_err() {
        let mut agent = ctx.agent();
        agent.facts.data_dir = None;
        agent.facts.compared = None;
    }
    started
}

/// What is received from the primary of a revoked epoch would be acknowledged to it (rule 104).
fn expect_unpledged(ctx: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    if epoch > ctx.agent().pledge { Ok(()) } else { Err("that epoch is over".to_owned()) }
}

/// Points the running standby at `primary`.
pub(crate) async fn follow(ctx: &Ctx, primary: NodeId, epoch: Epoch) -> Result<(), Failed> {
    let run = status(ctx)?.run;
    let _held = receiving(ctx).await;
    expect_unpledged(ctx, epoch)?;
    let mut world = ctx.world();
    let from = world.index_of(&primary);
    world.pg(ctx.host).data.upstream = Some(from);
    world.stop_receiving(ctx.host);
    let now = world.now;
    world.agent(ctx.host).facts.following = Some((run, Some(primary), now));
    Ok(())
}

/// Asks another server for its history. That it does not answer yet is ordinary.
async fn history_of(ctx: &Ctx, primary: &NodeId) -> Result<History, Failed> {
    let span = ctx.world().rng.range(2, 10);
    ctx.sleep(Duration::from_millis(span)).await;
    let reaches = {
        let world = ctx.world();
        world.reaches(ctx.host, world.index_of(primary))
    };
    if !reaches {
        ctx.sleep(Duration::from_secs(1)).await;
        return Err(format!("{primary} does not answer"));
    }
    let world = ctx.world();
    let pg = world.hosts[world.index_of(primary)].pg.as_ref().ok_or("it has no database")?;
    let up = pg.server.as_ref().filter(|server| server.up && !server.stopping);
    let server = up.ok_or_else(|| format!("{primary} does not answer"))?;
    let wal = &pg.data.wal;
    let end = wal.end();
    Ok(History {
        writable: !server.recovery,
        timeline: end.timeline,
        switches: wal.history_at(wal.flushed),
        flushed: end.lsn,
        checkpoint: pg.data.checkpoint == end.timeline.0,
    })
}

/// The epoch under which the primary's timeline began, as the cluster recorded it.
fn promotion_of(ctx: &Ctx, epoch: Epoch, theirs: &History) -> Result<Epoch, Failed> {
    let agent = ctx.agent();
    let recorded = agent.state.history.iter().rev().find(|promotion| promotion.epoch == epoch);
    match recorded {
        Some(promotion) if promotion.begin.timeline == theirs.timeline => Ok(epoch),
        _ => Err(format!("the promotion under epoch {epoch} is not recorded yet")),
    }
}

/// Finds out how the local WAL relates to the holder's history.
pub(crate) async fn compare(ctx: &Ctx, primary: &NodeId, epoch: Epoch) -> Result<(), Failed> {
    if ctx.world().mutation == Some(Mutation::RejoinNotCompared) {
        let mut world = ctx.world();
        let now = world.now;
        world.agent(ctx.host).facts.compared = Some((epoch, Relation::Ancestor, now));
        return Ok(());
    }
    let theirs = history_of(ctx, primary).await?;
    if !theirs.writable {
        return Err(format!("{primary} does not accept writes yet"));
    }
    let origin = promotion_of(ctx, epoch, &theirs)?;
    let (end, ours) = {
        let mut host = ctx.host();
        let wal = &mut host.pg.as_mut().ok_or("no database")?.data.wal;
        // A stopped one recovers to everything on its disk.
        wal.flushed = wal.len();
        (wal.end(), wal.history_at(wal.flushed))
    };
    let mut ancestry =
        ancestry::compare(end, &ours, theirs.timeline, &theirs.switches, theirs.flushed);
    let ambiguous =
        is_ambiguous(ctx, (end.timeline, &ours), (theirs.timeline, &theirs.switches), origin);
    if is_unrecorded(ctx, end.timeline) || ambiguous {
        ancestry = Ancestry::Unrelated;
    }
    let relation = match ancestry {
        Ancestry::Ancestor => Relation::Ancestor,
        Ancestry::Diverged { .. } => Relation::Diverged,
        Ancestry::Unrelated => Relation::CloneOnly,
    };
    if ancestry == Ancestry::Ancestor {
        note_origin(ctx, origin, theirs.timeline, end.timeline).await;
    }
    let fork = fork_of(ctx, &ancestry, end);
    let mut world = ctx.world();
    world.tell(ctx.host, &format!("compared its end {} with {primary}: {relation:?}", end.lsn));
    let now = world.now;
    let facts = &mut world.agent(ctx.host).facts;
    facts.diverged = fork.map(|fork| (fork, end));
    facts.compared = Some((epoch, relation, now));
    Ok(())
}

/// Where the local WAL left the history; as far as anybody can tell if nothing is shared.
fn fork_of(ctx: &Ctx, ancestry: &Ancestry, end: WalPosition) -> Option<WalPosition> {
    match ancestry {
        Ancestry::Ancestor => None,
        Ancestry::Diverged { fork } => Some(*fork),
        Ancestry::Unrelated => {
            let agent = ctx.agent();
            let namesake = |promotion: &&Promotion| promotion.begin.timeline == end.timeline;
            let begin = agent.state.history.iter().rev().find(namesake).map(|it| it.begin);
            begin.or(Some(WalPosition { timeline: end.timeline, lsn: Lsn::ZERO }))
        }
    }
}

/// Records that this node's WAL left the history: before anything replaces it.
async fn keep_diverged(ctx: &Ctx) -> Result<(), Failed> {
    let Some((fork, end)) = ctx.agent().facts.diverged else { return Ok(()) };
    let node = ctx.host().name.clone();
    let record = Command::RecordDivergence { node, fork, end, at_unix_ms: 0 };
    if !applied(&ctx.submit(record, SUBMIT_LIMIT).await) {
        return Err("the diverged WAL is not recorded".to_owned());
    }
    ctx.agent().facts.diverged = None;
    Ok(())
}

/// Rewinds the stopped database to the history of `primary`, or clones it.
pub(crate) async fn remake(
    ctx: &Ctx,
    primary: &NodeId,
    epoch: Epoch,
    how: Half,
) -> Result<(), Failed> {
    let theirs = history_of(ctx, primary).await?;
    if !theirs.writable || (how == Half::Rewind && !theirs.checkpoint) {
        return Err(format!("{primary} has not completed the checkpoint after its promotion"));
    }
    keep_diverged(ctx).await?;
    ctx.agent().vouched = None;
    ctx.host().pg.as_mut().ok_or("no database")?.data.half = Some(how);
    let span = ctx.world().rng.range(200, 1200);
    ctx.sleep(Duration::from_millis(span)).await;
    let after = history_of(ctx, primary).await;
    let fails = how == Half::Rewind && ctx.world().rng.chance(50);
    {
        let mut world = ctx.world();
        let now = world.now;
        let facts = &mut world.agent(ctx.host).facts;
        facts.data_dir = None;
        if !after.is_ok_and(|after| after.writable) {
            return Err(format!("{primary} vanished"));
        }
        if fails {
            facts.compared = Some((epoch, Relation::CloneOnly, now));
            return Err("the rewind failed".to_owned());
        }
        let from = world.index_of(primary);
        let mut wal = world.hosts[from].wal().cloned().ok_or("it has no database")?;
        let flushed = wal.flushed;
        wal.truncate(flushed);
        let data = &mut world.pg(ctx.host).data;
        data.wal = wal;
        data.control = Control::InRecovery;
        data.standby_signal = true;
        data.half = None;
        world.tell(ctx.host, &format!("is a copy of {primary} now, by {how:?}"));
    }
    if let Ok(origin) = promotion_of(ctx, epoch, &theirs) {
        note_origin(ctx, origin, theirs.timeline, theirs.timeline).await;
    }
    let mut world = ctx.world();
    let now = world.now;
    let facts = &mut world.agent(ctx.host).facts;
    facts.data_dir = None;
    facts.compared = Some((epoch, Relation::Ancestor, now));
    Ok(())
}

/// Replays everything that the grant demands, fetched from the node that has it (rule 96).
pub(crate) async fn fast_forward(ctx: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    let state = ctx.agent().state.clone();
    let demanded = state.lease.grant().filter(|grant| grant.epoch == epoch);
    let skips = ctx.world().mutation == Some(Mutation::CatchUpSkipped);
    let Some(catch_up) = demanded.and_then(|grant| grant.catch_up.clone()).filter(|_| !skips)
    else {
        ctx.agent().facts.caught_up = Some((epoch, true));
        return Ok(());
    };
    if let Err(why) = pull(ctx, &catch_up.from, catch_up.to).await {
        let mut agent = ctx.agent();
        let (of, before) = agent.facts.fetches_failed;
        let tries = if of == epoch { before + 1 } else { 1 };
        agent.facts.fetches_failed = (epoch, tries);
        if tries >= TRIES_MAX {
            agent.facts.caught_up = Some((epoch, false));
        }
        return Err(why);
    }
    ctx.agent().facts.caught_up = Some((epoch, true));
    Ok(())
}

async fn pull(ctx: &Ctx, source: &NodeId, to: WalPosition) -> Result<(), Failed> {
    let run = status(ctx)?.run;
    detach(ctx, run).await;
    let had = ctx.host().pg.as_ref().map(|pg| pg.data.wal.len()).ok_or("no database")?;
    if had >= position(to.lsn) {
        return Ok(());
    }
    let from = ctx.world().index_of(source);
    let reply = ctx.ask(from, Request::Fetch { from: had, to }, Duration::from_secs(2)).await;
    let Some(Reply::Fetched { before, records }) = reply else {
        return Err(format!("{source} does not hand it over"));
    };
    {
        let mut host = ctx.host();
        let wal = &mut host.pg.as_mut().ok_or("no database")?.data.wal;
        if wal.len() != had {
            return Err("something arrived meanwhile".to_owned());
        }
        let ours = had.checked_sub(1).and_then(|at| wal.get(at));
        if before.is_some() && before != ours {
            return Err("what was fetched is of another history".to_owned());
        }
        for record in records.iter() {
            wal.push(*record);
        }
    }
    sync(ctx).await;
    let mut world = ctx.world();
    let wal = &mut world.pg(ctx.host).data.wal;
    wal.flushed = wal.len();
    world.tell(ctx.host, &format!("fetched up to {} from {source}", to.lsn));
    Ok(())
}
