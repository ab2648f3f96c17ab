//! What an agent answers to others, and an election's question in particular (`ha_agent::revoke`).

use std::time::Duration;

use ha_core::permit::Order;
use ha_core::view::Job;
use ha_core::{Epoch, NodeId};

use super::event::{Proposed, Reply, Request};
use super::kernel::Ctx;
use super::mutation::Mutation;
use super::report::{self, Revoked, tip_of};
use super::state::World;
use super::wal::position;
use super::{granter, switchover};

/// How long a proposal of another node may take.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long stopping to receive, and reading what is there, may take.
const LIMIT: Duration = Duration::from_millis(700);

impl World {
    /// Returns which host a node is.
    pub(crate) fn index_of(&self, node: &NodeId) -> usize {
        self.hosts.iter().position(|host| host.name == *node).expect("a node of this cluster")
    }
}

/// Answers one request.
pub(crate) async fn answer(ctx: &Ctx, from: usize, request: Request) -> Reply {
    match request {
        Request::Renew { epoch, id, flushed } => {
            let renewal = granter::Renewal { from, id, epoch, flushed };
            if granter::renew(ctx, renewal).await.is_ok() {
                return Reply::Renewed { id };
            }
            let agent = ctx.agent();
            Reply::NotRenewed { leader: agent.raft.leader, current: agent.state.last_epoch }
        }
        Request::Report => Reply::Reported(Box::new(report::fresh(ctx).await)),
        Request::Revoke { epoch } => Reply::Revoked(Box::new(revoke(ctx, epoch).await)),
        Request::Propose(command) => {
            Reply::Proposed(ctx.propose(*command, None, PROPOSE_LIMIT).await)
        }
        Request::Fetch { from, to } => {
            let host = ctx.host();
            match host.wal().filter(|wal| wal.base() <= from && wal.end() >= to) {
                Some(wal) => Reply::Fetched {
                    before: from.checked_sub(1).and_then(|at| wal.get(at)),
                    records: wal.slice(from, position(to.lsn)),
                },
                None => Reply::Nothing,
            }
        }
        Request::Switchover { epoch, to } => {
            switchover::run(ctx, epoch, to).await;
            Reply::Proposed(Proposed::Unknown)
        }
    }
}

/// Pledges to acknowledge nothing more of an epoch, stops receiving, says what is there.
pub(crate) async fn revoke(ctx: &Ctx, epoch: Epoch) -> Revoked {
    let refusal = |ctx: &Ctx| {
        let mut world = ctx.world();
        let pledged = world.agent(ctx.host).pledge;
        Revoked { reported: report::local(&mut world, ctx.host), pledged, tip: None }
    };
    if ctx.agent().state.last_epoch != epoch {
        return refusal(ctx);
    }
    if !pledge(ctx, epoch).await {
        return refusal(ctx);
    }
    let found = ctx.timeout(LIMIT, read_tip(ctx, epoch)).await.flatten();
    let reported = report::fresh(ctx).await;
    let pledged = ctx.agent().pledge;
    Revoked { reported, pledged, tip: found }
}

/// Pledges to acknowledge nothing more of an epoch; returns whether it did.
pub(crate) async fn pledge(ctx: &Ctx, epoch: Epoch) -> bool {
    {
        let mut world = ctx.world();
        if let Order::Primary { epoch: permitted, .. } = world.agent(ctx.host).permit.order
            && permitted <= epoch
        {
            world.burn(ctx.host, permitted);
            world.wake_agent(ctx.host);
        }
        if world.agent(ctx.host).pledge >= epoch {
            return true;
        }
        if world.hosts[ctx.host].disk.full > 0 {
            return false;
        }
        if world.mutation != Some(Mutation::PledgeNotPersisted) {
            world.hosts[ctx.host].store.pledge.written = epoch;
        }
    }
    if ctx.world().mutation != Some(Mutation::PledgeNotSynced) {
        sync(ctx).await;
        let mut host = ctx.host();
        host.store.pledge.sync();
    }
    let mut world = ctx.world();
    let agent = world.agent(ctx.host);
    agent.pledge = agent.pledge.max(epoch);
    world.tell(ctx.host, &format!("pledges to acknowledge nothing more of epoch {epoch}"));
    world.wake_agent(ctx.host);
    true
}

/// Waits for the disk.
pub(crate) async fn sync(ctx: &Ctx) {
    let span = ctx.world().disk_takes(ctx.host);
    ctx.sleep(Duration::from_nanos(span)).await;
}

/// Takes the lock of whoever begins or ends to receive.
pub(crate) async fn receiving(ctx: &Ctx) -> super::agent::Held {
    loop {
        let taken = ctx.agent().receiving.try_take();
        match taken {
            Some(held) => return held,
            None => ctx.sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn read_tip(ctx: &Ctx, epoch: Epoch) -> Option<ha_core::candidate::Tip> {
    let leaves_on = ctx.world().mutation == Some(Mutation::ReceiversNotStopped);
    if ctx.host().pg.is_none() {
        if !ctx.host().keeps_wal {
            return None;
        }
        // Its receiver ends by itself once it sees the pledge.
        while !leaves_on && ctx.agent().active.is_some_and(|active| active <= epoch) {
            ctx.sleep(Duration::from_millis(5)).await;
        }
        let _receiving = receiving(ctx).await;
        sync(ctx).await;
        let mut host = ctx.host();
        let kept = host.kept.as_mut()?;
        if !leaves_on {
            kept.wal.flushed = kept.wal.len();
        }
        return (kept.wal.len() > 0).then(|| tip_of(&kept.wal));
    }
    let status = super::observe::guard(&ctx.host())?;
    let _receiving = receiving(ctx).await;
    if ctx.agent().state.last_epoch != epoch {
        return None;
    }
    if status.state.is_gone() {
        let job = ctx.agent().facts.job.map(|running| running.job);
        let readable = match job {
            Some(Job::HandOver) => true,
            Some(_) => false,
            None => ctx.agent().facts.data_dir.is_some_and(|(_, found)| found.half.is_none()),
        };
        if !readable {
            return None;
        }
    } else if !leaves_on {
        detach(ctx, status.run).await;
    }
    let known = ctx.agent().vouched.clone().filter(|(of, _)| *of == epoch);
    if let Some((_, tip)) = known.filter(|(_, tip)| tip.end >= current_end(ctx)) {
        return Some(tip).filter(|tip| !super::rejoin::is_unrecorded(ctx, tip.end.timeline));
    }
    sync(ctx).await;
    let tip = {
        let mut host = ctx.host();
        let wal = &mut host.pg.as_mut()?.data.wal;
        if !leaves_on {
            wal.flushed = wal.len();
        }
        tip_of(wal)
    };
    ctx.agent().vouched = Some((epoch, tip.clone()));
    if super::rejoin::is_unrecorded(ctx, tip.end.timeline) {
        return None;
    }
    Some(tip)
}

fn current_end(ctx: &Ctx) -> ha_core::WalPosition {
    ctx.host().pg.as_ref().map(|pg| pg.data.wal.end()).unwrap_or_default()
}

/// Has the running server follow nobody, and waits until it has replayed and flushed what it has.
pub(crate) async fn detach(ctx: &Ctx, run: u64) {
    {
        let mut world = ctx.world();
        let now = world.now;
        world.agent(ctx.host).facts.following = Some((run, None, now));
        world.pg(ctx.host).data.upstream = None;
        world.stop_receiving(ctx.host);
    }
    sync(ctx).await;
    let mut host = ctx.host();
    if let Some(pg) = &mut host.pg {
        pg.data.wal.flushed = pg.data.wal.len();
    }
}
