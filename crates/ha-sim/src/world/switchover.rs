//! Handing the primary role to a standby in order (`ha_agent::{switchover, hand_over}`).

use std::time::Duration;

use ha_core::candidate::Report;
use ha_core::decide::Rule;
use ha_core::permit::{Order, Permit, RunState, StopMode};
use ha_core::state::Command;
use ha_core::view::Job;
use ha_core::{Epoch, Incarnation, WalPosition};

use super::control::look;
use super::event::{Proposed, Reply, Request};
use super::jobs::{POLL, restart_in_place, status};
use super::kernel::{Ctx, MS};
use super::lease::renew_now;
use super::mutation::Mutation;
use super::observe::Running;
use super::pg::Control;
use super::report::Reported;

/// How long telling the cluster may take, and one report.
const SUBMIT_LIMIT: Duration = Duration::from_secs(3);
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// How long a standby may take to receive the end of our WAL (rule 33).
const ARRIVAL_LIMIT: u64 = 5000 * MS;

/// Hands the lease of `epoch` over, from this node, if it still can.
pub(crate) async fn run(ctx: &Ctx, epoch: Epoch, to: usize) {
    let serves = {
        let agent = ctx.agent();
        agent.facts.decision.as_ref().is_some_and(|decision| decision.rule == Rule::Serving)
            && agent.state.lease.grant().is_some_and(|grant| grant.epoch == epoch)
    };
    if !serves || fit(ctx, to).await.is_none() {
        return;
    }
    {
        let mut world = ctx.world();
        let (since, task) = (world.now, world.current);
        let facts = &mut world.agent(ctx.host).facts;
        if facts.job.is_some() {
            return;
        }
        facts.job = Some(Running { job: Job::HandOver, step: "hand_over", since, task });
        let text = format!("hands over to {}", world.hosts[to].name.clone());
        world.tell(ctx.host, &text);
    }
    let kept = hand_over(ctx, epoch, to).await;
    if let Err(why) = kept {
        ctx.world().tell(ctx.host, &format!("switchover: {why}"));
    }
    let mut world = ctx.world();
    let facts = &mut world.agent(ctx.host).facts;
    if facts.job.is_some_and(|job| job.step == "hand_over") {
        facts.job = None;
    }
    facts.data_dir = None;
    world.wake_agent(ctx.host);
}

async fn ask(ctx: &Ctx, to: usize) -> Option<Reported> {
    match ctx.ask(to, Request::Report, ASK_LIMIT).await {
        Some(Reply::Reported(reported)) => Some(*reported),
        _ => None,
    }
}

/// The start of the target's agent, if it says just now that it is fit.
async fn fit(ctx: &Ctx, to: usize) -> Option<Incarnation> {
    let reported = ask(ctx, to).await?;
    let Report { incarnation, .. } = reported.report;
    reported.fit.then_some(incarnation)
}

async fn hand_over(ctx: &Ctx, epoch: Epoch, to: usize) -> Result<(), String> {
    await_fresh_right(ctx, epoch).await?;
    {
        let mut world = ctx.world();
        let order = world.agent(ctx.host).permit.order;
        if !matches!(order, Order::Primary { epoch: own, .. } if own == epoch) {
            return Err("there is no permit of that epoch".to_owned());
        }
        let order = Order::Down { stop: StopMode::Fast };
        world.write_permit(ctx.host, |old| Permit { order, ..old });
    }
    let hasty = ctx.world().mutation == Some(Mutation::ReleaseBeforeStop);
    let target = if hasty {
        fit(ctx, to).await.ok_or_else(|| "the standby is not fit".to_owned())
    } else {
        proven(ctx, to).await
    };
    match target {
        Ok(incarnation) => {
            if !hasty && !status(ctx)?.state.is_gone() {
                return Err("its database runs again".to_owned());
            }
            // From here on there is no way back.
            ctx.world().burn(ctx.host, epoch);
            transfer(ctx, epoch, to, incarnation).await
        }
        Err(why) => match restart_in_place(ctx, epoch, true).await {
            Ok(()) => Err(format!("{why}; it goes on")),
            Err(error) => Err(format!("{why}; and {error}")),
        },
    }
}

async fn await_fresh_right(ctx: &Ctx, epoch: Epoch) -> Result<(), String> {
    let until = ctx.world().now + 2000 * MS;
    loop {
        {
            let mut world = ctx.world();
            let (now, clock, ttl) = (world.now, world.clock(ctx.host), world.policy.ttl);
            let holder = world.agent(ctx.host).holder.as_ref().filter(|h| h.epoch() == epoch);
            let left = holder.ok_or("the lease is not held any more")?.left(clock);
            if left >= ttl.mul_f64(0.75) {
                return Ok(());
            }
            if now >= until {
                return Err("no renewal was confirmed in time".to_owned());
            }
            renew_now(&mut world, ctx.host);
        }
        ctx.sleep(POLL).await;
    }
}

/// Waits for the end of the server, and until the standby has everything.
async fn proven(ctx: &Ctx, to: usize) -> Result<Incarnation, String> {
    let until = ctx.world().now + 15_000 * MS;
    let state = loop {
        let state = status(ctx)?.state;
        if state.is_gone() {
            break state;
        }
        if ctx.world().now >= until {
            return Err("the database did not stop in time".to_owned());
        }
        ctx.sleep(POLL).await;
    };
    let unproven = ctx.world().mutation == Some(Mutation::SwitchoverUnproven);
    if !unproven && (state == RunState::KilledAtDeadline || look(ctx).control != Control::ShutDown)
    {
        return Err("the database did not shut down in order".to_owned());
    }
    let end: WalPosition = {
        let mut host = ctx.host();
        let wal = &mut host.pg.as_mut().ok_or("no database")?.data.wal;
        wal.flushed = wal.len();
        wal.end()
    };
    let until = ctx.world().now + ARRIVAL_LIMIT;
    let mut silent = 0;
    loop {
        if unproven {
            break;
        }
        let reported = ask(ctx, to).await;
        silent = if reported.is_some() { 0 } else { silent + 1 };
        let has = reported.and_then(|reported| reported.flushed());
        if has.is_some_and(|has| has.timeline == end.timeline && has.lsn >= end.lsn) {
            break;
        }
        if ctx.world().now >= until || silent >= 3 {
            return Err("the standby has not received the end of WAL".to_owned());
        }
        ctx.sleep(POLL).await;
    }
    fit(ctx, to).await.ok_or_else(|| "the standby is not fit any more".to_owned())
}

/// Gives the lease to another node without asking it: what could write here is down first.
pub(crate) async fn give_to(ctx: &Ctx, epoch: Epoch, to: usize, incarnation: Incarnation) {
    let hasty = ctx.world().mutation == Some(Mutation::ReleaseBeforeStop);
    if !hasty {
        ctx.world().burn(ctx.host, epoch);
    }
    let runs = |ctx: &Ctx| ctx.host().pg.as_ref().is_some_and(super::pg::Pg::is_writable);
    while !hasty && runs(ctx) {
        ctx.sleep(POLL).await;
    }
    let result = transfer(ctx, epoch, to, incarnation).await;
    if let Err(why) = result {
        ctx.world().tell(ctx.host, &why);
    }
}

/// Ends this grant and makes the next.
async fn transfer(
    ctx: &Ctx,
    epoch: Epoch,
    to: usize,
    incarnation: Incarnation,
) -> Result<(), String> {
    let (to, ttl) = {
        let world = ctx.world();
        (world.hosts[to].name.clone(), world.policy.ttl)
    };
    let evidence = "it has everything".to_owned();
    let command = Command::Transfer { epoch, to, incarnation, ttl, evidence };
    match ctx.submit(command, SUBMIT_LIMIT).await {
        Proposed::Done(_) => Ok(()),
        Proposed::NotTaken | Proposed::Unknown => {
            Err("it is not known whether it moved".to_owned())
        }
    }
}
