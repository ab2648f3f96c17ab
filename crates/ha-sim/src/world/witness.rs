//! A witness keeps WAL: it receives from the holder of the lease and acknowledges commits
//! (`ha_agent::witness`).

use std::time::Duration;

use ha_core::ancestry::{Relation, compare};
use ha_core::{Epoch, NodeId};

use super::handle::sync;
use super::jobs::note_origin;
use super::kernel::Ctx;
use super::mutation::Mutation;
use super::rejoin::{is_ambiguous, is_unrecorded};
use super::state::World;
use super::wal::{Wal, position};

/// How long it waits before it looks again.
const RETRY: Duration = Duration::from_millis(100);

/// Whom to receive from now: the holder of a lease that was not pledged away.
fn wanted(ctx: &Ctx) -> Option<(Epoch, NodeId)> {
    let agent = ctx.agent();
    let grant = agent.state.lease.grant()?;
    (grant.epoch > agent.pledge).then(|| (grant.epoch, grant.holder.clone()))
}

/// Receives WAL for as long as the agent runs.
pub(crate) async fn run(ctx: Ctx) {
    if !ctx.host().keeps_wal {
        ctx.agent().active = None;
        return;
    }
    // What an earlier start left goes on acknowledging: it is ended before anything is promised.
    end(&ctx).await;
    loop {
        if let Some((epoch, holder)) = wanted(&ctx) {
            // First said, then checked again, then begun.
            ctx.agent().active = Some(epoch);
            if wanted(&ctx) == Some((epoch, holder.clone())) && fit_store(&ctx, &holder).await {
                receive(&ctx, epoch, &holder).await;
            }
            end(&ctx).await;
        }
        ctx.sleep(RETRY).await;
    }
}

/// Ends the receiver, and says so once it is gone.
async fn end(ctx: &Ctx) {
    let leaves_on = ctx.world().mutation == Some(Mutation::ReceiversNotStopped);
    if leaves_on && wanted(ctx).is_none() {
        ctx.agent().active = None;
        return;
    }
    let span = ctx.world().rng.range(1, 20);
    ctx.sleep(Duration::from_millis(span)).await;
    let mut world = ctx.world();
    world.end_kept_receiver(ctx.host);
    world.agent(ctx.host).active = None;
}

async fn receive(ctx: &Ctx, epoch: Epoch, holder: &NodeId) {
    let from = ctx.world().index_of(holder);
    loop {
        let leaves_on = ctx.world().mutation == Some(Mutation::ReceiversNotStopped);
        if !leaves_on && wanted(ctx).is_none_or(|(now, _)| now != epoch) {
            return;
        }
        if leaves_on && wanted(ctx).is_some_and(|(now, _)| now != epoch) {
            return;
        }
        let connected = ctx.host().kept.as_ref().is_some_and(|kept| kept.receiver.is_some());
        if !connected && !ctx.world().begin_to_receive(ctx.host, from) {
            return;
        }
        ctx.sleep(Duration::from_millis(20)).await;
    }
}

/// Moves aside what the holder's history lacks: it was received, and lost, before an earlier election.
async fn fit_store(ctx: &Ctx, holder: &NodeId) -> bool {
    let span = ctx.world().rng.range(2, 10);
    ctx.sleep(Duration::from_millis(span)).await;
    let theirs = {
        let world = ctx.world();
        let at = world.index_of(holder);
        let pg = world.hosts[at].pg.as_ref().filter(|pg| pg.is_writable());
        let pg = pg.filter(|_| world.reaches(ctx.host, at));
        pg.map(|pg| (pg.data.wal.end(), pg.data.wal.history_at(pg.data.wal.flushed)))
    };
    let Some((end, switches)) = theirs else { return false };
    let state = ctx.agent().state.clone();
    let held = state.lease.grant().map(|grant| grant.epoch);
    let latest = state.latest_promotion();
    let Some(origin) =
        latest.filter(|it| Some(it.epoch) == held && it.begin.timeline == end.timeline)
    else {
        return false;
    };
    let tip = ctx.host().kept.as_ref().map(|kept| kept.wal.end()).unwrap_or_default();
    let ours = ctx.host().kept.as_ref().map(|kept| kept.wal.history_at(kept.wal.flushed));
    let ours = (tip.timeline, ours.as_deref().unwrap_or_default());
    let namesake = is_unrecorded(ctx, tip.timeline)
        || is_ambiguous(ctx, ours, (end.timeline, &switches), origin.epoch);
    sync(ctx).await;
    {
        let mut world = ctx.world();
        let kept = world.hosts[ctx.host].kept.as_mut().expect("a witness that keeps WAL");
        kept.wal.flushed = kept.wal.len();
        let ours = kept.wal.history_at(kept.wal.flushed);
        let relation = compare(kept.wal.end(), &ours, end.timeline, &switches, end.lsn);
        let before = kept.wal.len();
        match relation {
            Relation::Diverged { fork } if !namesake => kept.wal.truncate(position(fork.lsn)),
            Relation::Ancestor if !namesake => {}
            Relation::Diverged { .. } | Relation::Ancestor | Relation::Unrelated => {
                kept.wal = Wal::default();
            }
        }
        if kept.wal.len() < before {
            world.tell(ctx.host, &format!("sets aside what is past {}", fork_text(&relation)));
        }
    }
    let from = if namesake { end.timeline } else { tip.timeline };
    note_origin(ctx, origin.epoch, end.timeline, from).await;
    true
}

fn fork_text(relation: &Relation) -> String {
    match relation {
        Relation::Diverged { fork } => fork.lsn.to_string(),
        Relation::Ancestor | Relation::Unrelated => "the beginning".to_owned(),
    }
}

impl World {
    /// The receiving process of a witness ends.
    pub(crate) fn end_kept_receiver(&mut self, host: usize) {
        let kept = self.hosts[host].kept.as_mut().expect("a witness that keeps WAL");
        if let Some((connection, _)) = kept.receiver.take() {
            self.hang_up(connection, host);
        }
    }
}
