//! Observe, decide, act: a data node's loop, as the real agent runs it (`ha_agent::control_loop`,
//! `tend`, `act`).

use std::future::Future;
use std::time::Duration;

use ha_core::decide::decide;
use ha_core::permit::{Order, Permit, RunState, StopMode};
use ha_core::step::Step;
use ha_core::view::{Instance, Job, LeaseView};

use super::guard::Guard;
use super::kernel::{Ctx, MS};
use super::observe::{self, Found, Running};
use super::{jobs, lease, rejoin};

/// How often the loop runs when nothing wakes it.
const TICK: Duration = Duration::from_millis(100);
/// How long the holder of the lease may see nothing of its database.
const BLIND_MAX: u64 = 10_000 * MS;

/// Why a job led to nothing; it is tried again.
pub(crate) type Failed = String;

/// Runs the loop until the agent ends.
pub(crate) async fn run(ctx: Ctx) {
    loop {
        once(&ctx).await;
        ctx.sleep_unless(TICK, |agent| agent.woken).await;
    }
}

/// One round of the loop.
pub(crate) async fn once(ctx: &Ctx) {
    ctx.agent().woken = false;
    {
        let mut world = ctx.world();
        let clock = world.clock(ctx.host).boottime;
        world.agent(ctx.host).looped_at = clock;
        lease::follow_state(&mut world, ctx.host);
    }
    keep_guard(ctx).await;
    look_at_disk(ctx);
    note_times(ctx);
    decide_and_act(ctx);
}

/// Starts a guard if there is none. What an earlier one left is killed first.
async fn keep_guard(ctx: &Ctx) {
    let absent = observe::guard(&ctx.host()).is_none();
    if !absent {
        return;
    }
    let span = ctx.world().rng.range(20, 120);
    ctx.sleep(Duration::from_millis(span)).await;
    let mut world = ctx.world();
    if observe::guard(&world.hosts[ctx.host]).is_some() {
        return;
    }
    world.server_gone(ctx.host, "agent kills what a dead guard left");
    let pg = world.pg(ctx.host);
    pg.guard = Guard::after(pg.guard.run);
    world.tell(ctx.host, "guard starts");
    let facts = &mut world.agent(ctx.host).facts;
    facts.data_dir = None;
    facts.probe = None;
    facts.writable_run = None;
    let run = world.pg(ctx.host).guard.run;
    // A permit that knows less of runs than the guard orders that run down.
    world.write_permit(ctx.host, |old| if run > old.run { Permit { run, ..old } } else { old });
    world.guard_looks(ctx.host);
}

/// Has the data directory read once after each run, while nothing runs on it.
fn look_at_disk(ctx: &Ctx) {
    let Some(status) = observe::guard(&ctx.host()) else { return };
    {
        let mut agent = ctx.agent();
        let facts = &mut agent.facts;
        let known = facts.data_dir.is_some_and(|(run, _)| run == status.run);
        if !status.state.is_gone() || known || facts.inspecting || facts.job.is_some() {
            return;
        }
        facts.inspecting = true;
    }
    let own = ctx.clone();
    ctx.spawn(async move {
        let span = own.world().rng.range(1, 15);
        own.sleep(Duration::from_millis(span)).await;
        let found = look(&own);
        let mut world = own.world();
        let facts = &mut world.agent(own.host).facts;
        facts.inspecting = false;
        facts.data_dir = Some((status.run, found));
        world.wake_agent(own.host);
    });
}

/// What is on disk.
pub(crate) fn look(ctx: &Ctx) -> Found {
    let host = ctx.host();
    let data = &host.pg.as_ref().expect("a data node").data;
    Found { half: data.half, control: data.control, standby_signal: data.standby_signal }
}

fn note_times(ctx: &Ctx) {
    let mut world = ctx.world();
    let now = world.now;
    let status = observe::guard(&world.hosts[ctx.host]);
    let agent = world.agent(ctx.host);
    let vacant = agent.state.lease.grant().is_none();
    let facts = &mut agent.facts;
    facts.vacant_since = vacant.then(|| facts.vacant_since.unwrap_or(now));
    let gone = status.is_some_and(|status| status.state.is_gone());
    facts.stopped_since = gone.then(|| facts.stopped_since.unwrap_or(now));
    let runs = status.filter(|status| status.state == RunState::Running);
    if let Some(status) = runs
        && facts.starting_since.is_none_or(|(run, _)| run != status.run)
    {
        facts.starting_since = Some((status.run, now));
        super::agent::probe(&mut world, ctx.host);
    }
}

fn decide_and_act(ctx: &Ctx) {
    let (view, decision) = {
        let mut world = ctx.world();
        let view = observe::view(&world, ctx.host);
        give_up_if_blind(&mut world, ctx.host, &view);
        let decision = decide(&view);
        let facts = &mut world.agent(ctx.host).facts;
        if facts.decision.as_ref() != Some(&decision) {
            facts.decision = Some(decision.clone());
            if decision.step != Step::Stay {
                world.tell(ctx.host, &format!("{}: {}", decision.rule, decision.step.name()));
            }
        }
        (view, decision)
    };
    let epoch = view.epoch;
    let name = decision.step.name();
    let own = ctx.clone();
    match decision.step {
        Step::Stay => jobs::keep_recorded(ctx, &view),
        Step::Fence => fence(ctx),
        Step::StopStandby => ctx.world().write_permit(ctx.host, |old| Permit {
            order: Order::Down { stop: StopMode::Fast },
            ..old
        }),
        Step::Release { epoch } => {
            let why = decision.rule.name();
            start(ctx, Job::Prepare, name, async move { jobs::release(&own, epoch, why).await });
        }
        Step::Promote { epoch } => {
            start(ctx, Job::Promote, name, async move { jobs::promote(&own, epoch).await });
        }
        Step::FastForward { epoch } => {
            start(ctx, Job::Prepare, name, async move { rejoin::fast_forward(&own, epoch).await });
        }
        Step::StartStandby { primary } => {
            start(ctx, Job::Prepare, name, async move {
                rejoin::start_standby(&own, primary, epoch).await
            });
        }
        Step::Follow { primary } => {
            start(
                ctx,
                Job::Prepare,
                name,
                async move { rejoin::follow(&own, primary, epoch).await },
            );
        }
        Step::Compare { primary } => {
            start(
                ctx,
                Job::Prepare,
                name,
                async move { rejoin::compare(&own, &primary, epoch).await },
            );
        }
        Step::Rewind { primary } => {
            start(ctx, Job::Rewind, name, async move {
                rejoin::remake(&own, &primary, epoch, super::pg::Half::Rewind).await
            });
        }
        Step::Clone { primary } => {
            start(ctx, Job::Clone, name, async move {
                rejoin::remake(&own, &primary, epoch, super::pg::Half::Clone).await
            });
        }
        Step::AssessCrash { epoch } => {
            start(ctx, Job::Prepare, name, async move { jobs::assess_crash(&own, epoch).await });
        }
        Step::RestartInPlace { epoch } => {
            start(ctx, Job::Prepare, name, async move {
                jobs::restart_in_place(&own, epoch, false).await
            });
        }
        Step::Bootstrap { .. } | Step::Refill { .. } => {
            ctx.world().violated(format!("a step that this world does not have: {name}"));
        }
    }
}

fn give_up_if_blind(world: &mut super::state::World, at: usize, view: &ha_core::view::View) {
    let now = world.now;
    let blind = view.lease == LeaseView::Ours
        && matches!(view.instance, Instance::Unseen | Instance::Stopping);
    let facts = &mut world.agent(at).facts;
    facts.blind_since = blind.then(|| facts.blind_since.unwrap_or(now));
    if facts.blind_since.is_some_and(|since| now - since >= BLIND_MAX) {
        world.tell(at, "nothing is seen of the database, the lease is given up");
        world.burn(at, view.epoch);
    }
}

/// Makes writes impossible at once. A job under way is cancelled.
fn fence(ctx: &Ctx) {
    let mut world = ctx.world();
    if let Some(running) = world.agent(ctx.host).facts.job.take() {
        world.end_task(running.task);
    }
    let permit = world.agent(ctx.host).permit;
    let own = match permit.order {
        Order::Down { .. } => return,
        Order::Primary { epoch, .. } => epoch,
        Order::Standby => ha_core::Epoch::NONE,
    };
    if let Some(holder) = world.agent(ctx.host).holder.as_mut().filter(|h| h.epoch() <= own) {
        holder.burn();
    }
    world.write_permit(ctx.host, |old| Permit {
        burnt: old.burnt.max(own),
        order: Order::Down { stop: StopMode::Immediate },
        ..old
    });
}

/// Starts a job, unless one is under way or the step failed a moment ago.
fn start(
    ctx: &Ctx,
    job: Job,
    step: &'static str,
    work: impl Future<Output = Result<(), Failed>> + 'static,
) {
    let since = {
        let mut world = ctx.world();
        let now = world.now;
        let facts = &mut world.agent(ctx.host).facts;
        if facts.job.is_some() || facts.holds_back(step, now) {
            return;
        }
        now
    };
    let own = ctx.clone();
    let task = ctx.spawn(async move {
        let result = work.await;
        finish(&own, step, since, result);
    });
    ctx.agent().facts.job = Some(Running { job, step, since, task });
}

fn finish(ctx: &Ctx, step: &'static str, since: u64, result: Result<(), Failed>) {
    let mut world = ctx.world();
    let now = world.now;
    let facts = &mut world.agent(ctx.host).facts;
    if facts.job.is_none_or(|job| job.step != step || job.since != since) {
        return;
    }
    facts.job = None;
    match result {
        Ok(()) => {
            facts.backoff.remove(step);
        }
        Err(why) => {
            facts.failed(step, now);
            world.tell(ctx.host, &format!("could not {step}: {why}"));
        }
    }
    world.wake_agent(ctx.host);
}
