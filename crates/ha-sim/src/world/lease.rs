//! The holder's renewals, as the real agent makes them (`ha_agent::lease_keeper`).

use std::time::Duration;

use ha_core::holder::Holder;
use ha_core::permit::{Order, Permit};
use ha_core::{Epoch, WalPosition};

use super::directed::Gate;
use super::event::{Reply, Request};
use super::granter;
use super::kernel::{Ctx, Time};
use super::mutation::Mutation;
use super::observe::may_renew;
use super::state::World;

/// How many renewals may be unanswered at once.
const IN_FLIGHT_MAX: usize = 4;
/// How long one renewal may take.
const LIMIT: Duration = Duration::from_millis(1200);
/// How many nodes one renewal is tried at.
const HOPS_MAX: usize = 3;

/// Renews the lease for as long as this node may.
pub(crate) async fn run(ctx: Ctx) {
    let policy = ctx.world().policy;
    loop {
        ctx.agent().renew_now = false;
        let epoch = {
            let mut world = ctx.world();
            let now = world.clock(ctx.host).boottime;
            let agent = world.agent(ctx.host);
            let hangs = now.since(agent.looped_at) > policy.ttl;
            let epoch = agent.holder.as_ref().map(Holder::epoch);
            epoch.filter(|_| !hangs && agent.renewing < IN_FLIGHT_MAX)
        };
        if let Some(epoch) = epoch {
            ctx.agent().renewing += 1;
            let own = ctx.clone();
            ctx.spawn(async move {
                renew(&own, epoch).await;
                own.agent().renewing -= 1;
            });
        }
        ctx.sleep_unless(policy.renew_interval, |agent| agent.renew_now).await;
    }
}

/// Begins or ends the holder's count as the replicated state says.
pub(crate) fn follow_state(world: &mut World, at: usize) {
    let drift = world.policy.drift;
    let name = world.hosts[at].name.clone();
    let forgets = world.mutation == Some(Mutation::RebootForgetsRelease);
    let clock = world.clock(at);
    let at_once = world.mutation == Some(Mutation::ActsOnTheGrant);
    let agent = world.agent(at);
    let (incarnation, permit) = (agent.incarnation, agent.permit);
    let state = agent.state.clone();
    let grant = state.lease.grant();
    let grant = grant.filter(|grant| {
        let takes = forgets && grant.holder == name && permit.burnt < grant.epoch;
        takes || may_renew(grant, &name, incarnation, &permit)
    });
    match (grant, agent.holder.as_ref().map(Holder::epoch)) {
        (Some(grant), current) if current != Some(grant.epoch) => {
            let mut holder = Holder::new(grant, drift);
            if at_once {
                let id = agent.next_request();
                let _counts = holder.sending(id, clock) && holder.confirmed(id);
            }
            agent.holder = Some(holder);
            renew_now(world, at);
        }
        (None, Some(_)) => agent.holder = None,
        (Some(_), _) | (None, None) => {}
    }
}

/// Has a renewal sent at once.
pub(crate) fn renew_now(world: &mut World, at: usize) {
    let agent = world.agent(at);
    agent.renew_now = true;
    let task = agent.lease_task;
    if task != 0 {
        world.after(0, super::event::Event::Wake(task));
    }
}

async fn renew(ctx: &Ctx, epoch: Epoch) {
    let mut target = ctx.agent().raft.leader;
    for _ in 0..HOPS_MAX {
        let Some(node) = target.take() else { return };
        target = renew_at(ctx, epoch, node).await;
    }
}

/// Sends one renewal to a node. Returns where to try next, if that is worth it.
pub(crate) async fn renew_at(ctx: &Ctx, epoch: Epoch, node: usize) -> Option<usize> {
    let (noted, id, sent) = {
        let mut world = ctx.world();
        let (now, clock) = (world.now, world.clock(ctx.host));
        let agent = world.agent(ctx.host);
        let id = agent.next_request();
        let holder = agent.holder.as_mut().filter(|holder| holder.epoch() == epoch);
        // The clock is read before anything of the request leaves.
        (holder.is_some_and(|holder| holder.sending(id, clock)), id, now)
    };
    if !noted {
        return None;
    }
    ctx.agent().astray.newest_renewal = id;
    ctx.gate(Gate::Sent, ctx.host, id).await;
    match ask(ctx, node, epoch, id).await {
        Ok(()) => {
            ctx.gate(Gate::Answered, ctx.host, id).await;
            let counts = confirmed(ctx, epoch, id, sent);
            ctx.world().note_answer(ctx.host, id, counts);
            None
        }
        Err((_, current)) if current > epoch => {
            superseded(ctx, epoch);
            None
        }
        Err((hint, _)) => hint.filter(|hint| *hint != node),
    }
}

async fn ask(ctx: &Ctx, node: usize, epoch: Epoch, id: u64) -> Result<(), (Option<usize>, Epoch)> {
    let flushed: Option<WalPosition> = ctx.agent().facts.probe.map(|probe| probe.flushed);
    if node == ctx.host {
        let renewal = granter::Renewal { from: node, id, epoch, flushed };
        return granter::renew(ctx, renewal).await.map_err(|()| {
            let agent = ctx.agent();
            (agent.raft.leader, agent.state.last_epoch)
        });
    }
    match ctx.ask(node, Request::Renew { epoch, id, flushed }, LIMIT).await {
        Some(Reply::Renewed { id: answered }) if answered == id => Ok(()),
        Some(Reply::NotRenewed { leader, current }) => Err((leader, current)),
        _ => Err((None, Epoch::NONE)),
    }
}

/// A "yes" moves the permit's deadline, unless the epoch was given up meanwhile. Returns whether it was
/// taken in.
fn confirmed(ctx: &Ctx, epoch: Epoch, id: u64, sent: Time) -> bool {
    let mut world = ctx.world();
    let clock = world.clock(ctx.host);
    let late = world.mutation == Some(Mutation::DeadlineFromAnswer);
    let other = world.mutation == Some(Mutation::AnswerOfAnotherRequest);
    let agent = world.agent(ctx.host);
    let answered = agent.next_request();
    let id = if other { agent.astray.newest_renewal } else { id };
    let Some(holder) = agent.holder.as_mut().filter(|holder| holder.epoch() == epoch) else {
        return false;
    };
    let first = !holder.is_proven();
    let extended = if late {
        holder.sending(answered, clock) && holder.confirmed(answered)
    } else {
        holder.confirmed(id)
    };
    if !extended {
        return false;
    }
    let deadline = holder.deadline(clock);
    if first {
        world.wake_agent(ctx.host);
    }
    if world.hosts[ctx.host].unproven.is_some_and(|since| sent >= since) {
        world.hosts[ctx.host].unproven = None;
    }
    let Some(deadline) = deadline else { return true };
    world.write_permit(ctx.host, |old| match old.order {
        Order::Primary { epoch: own, deadline: before }
            if own == epoch && old.burnt < epoch && deadline > before =>
        {
            Permit { order: Order::Primary { epoch, deadline }, ..old }
        }
        _ => old,
    });
    true
}

/// A holder that was told a higher epoch stops at once.
fn superseded(ctx: &Ctx, epoch: Epoch) {
    let mut world = ctx.world();
    if world.agent(ctx.host).holder.as_ref().map(Holder::epoch) != Some(epoch) {
        return;
    }
    world.tell(ctx.host, &format!("lost epoch {epoch}: a later one was granted"));
    world.burn(ctx.host, epoch);
    world.wake_agent(ctx.host);
}
