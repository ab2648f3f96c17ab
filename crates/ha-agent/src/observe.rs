//! From what was seen to one [`View`]: everything refined so that the decision needs no condition.

use ha_core::decide::Decision;
use ha_core::holder::Holder;
use ha_core::permit::{GuardStatus, Order, Permit, RunState};
use ha_core::policy::Policy;
use ha_core::state::State;
use ha_core::view::{
    CatchUp, Crash, Grace, Health, Instance, Job, LeaseView, Order as ViewOrder, Relation,
    Starting, Stopped, Upstream, View,
};
use ha_core::{BootNanos, ClockReading, Epoch, Incarnation, NodeId};
use ha_postgres::driver::{ControlFile, ControlState, DataDir, GuardSeen, HalfMade};
use tokio::time::Instant;

use crate::facts::{Facts, Remake};

/// How long a standby may be without a stream before its history is compared (again).
const STUCK_AFTER: std::time::Duration = std::time::Duration::from_secs(3);
/// How long the answer of a comparison is good for a standby that still does not stream.
const COMPARE_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);
/// After how many failed promotions under one grant the database is taken as unable to.
const PROMOTE_FAILURES_MAX: u32 = 3;

/// Everything that goes into a view.
#[derive(Debug)]
pub struct Seen<'a> {
    /// This node.
    pub node: &'a NodeId,
    /// The settings.
    pub policy: &'a Policy,
    /// The replicated state, as applied here.
    pub state: &'a State,
    /// The holder's count, if this node may renew the lease.
    pub holder: Option<&'a Holder>,
    /// Up to which epoch this node acknowledges nothing any more.
    pub pledged: Epoch,
    /// The permit as last written.
    pub permit: Permit,
    /// The guard.
    pub guard: &'a GuardSeen,
    /// The database.
    pub facts: &'a Facts,
    /// Whether another data node is fit to take over.
    pub replaceable: bool,
    /// The clocks, read after all of the above.
    pub now: ClockReading,
    /// The runtime's clock, for waits that no right depends on.
    pub at: Instant,
}

/// Returns whether this start of the agent may renew a grant: it was made to it, or a primary permit of
/// this boot was found for it; and the epoch was never given up here.
#[must_use]
pub fn may_renew(
    grant: &ha_core::lease::Grant,
    node: &NodeId,
    incarnation: Incarnation,
    permit: &Permit,
) -> bool {
    let own = grant.incarnation == incarnation;
    let found = matches!(permit.order, Order::Primary { epoch, .. } if epoch == grant.epoch);
    grant.holder == *node && permit.burnt < grant.epoch && (own || found)
}

/// Makes the view.
#[must_use]
pub fn observe(seen: &Seen<'_>) -> View {
    let bootstrap = seen.state.bootstrap.as_ref().filter(|b| b.node == *seen.node);
    let lease = lease_view(seen);
    View {
        lease,
        epoch: seen.state.lease.grant().map_or(seen.state.last_epoch, |grant| grant.epoch),
        holder: seen.state.lease.holder().cloned(),
        instance: instance(seen, lease),
        bootstrap: bootstrap.map(|b| b.attempt),
        catch_up: catch_up(seen),
        order: if seen.state.is_paused() {
            ViewOrder::Paused
        } else if seen.state.fenced.contains_key(seen.node) {
            ViewOrder::Fenced
        } else if seen.state.is_leaving(seen.node) {
            ViewOrder::Leave
        } else {
            ViewOrder::None
        },
    }
}

fn catch_up(seen: &Seen<'_>) -> CatchUp {
    let Some(grant) = seen.state.lease.grant() else { return CatchUp::Done };
    match (&grant.catch_up, seen.facts.caught_up) {
        (None, _) => CatchUp::Done,
        (Some(_), Some((epoch, true))) if epoch == grant.epoch => CatchUp::Done,
        (Some(_), Some((epoch, false))) if epoch == grant.epoch => CatchUp::Failed,
        (Some(_), _) => CatchUp::Needed,
    }
}

fn lease_view(seen: &Seen<'_>) -> LeaseView {
    let permitted = match seen.permit.order {
        Order::Primary { epoch, .. } => epoch,
        Order::Down { .. } | Order::Standby => Epoch::NONE,
    };
    // A freshly started agent may have applied less than it knew before: its own permit proves it.
    if permitted.max(seen.permit.burnt) > seen.state.last_epoch {
        return LeaseView::Unknown;
    }
    let Some(grant) = seen.state.lease.grant() else { return LeaseView::Vacant };
    // Nor does it know that this grant has ended, if it helped to end it (rule 104).
    if grant.epoch <= seen.pledged {
        return LeaseView::Unknown;
    }
    if grant.holder != *seen.node {
        return LeaseView::Theirs;
    }
    let Some(holder) = seen.holder.filter(|holder| holder.epoch() == grant.epoch) else {
        return LeaseView::Forfeited;
    };
    // An earlier start of the agent wrote the permit from a right that it had proven.
    let by_permit = match seen.permit.order {
        Order::Primary { epoch, deadline } if epoch == grant.epoch => left(deadline, seen.now),
        Order::Primary { .. } | Order::Down { .. } | Order::Standby => std::time::Duration::ZERO,
    };
    let by_count = holder.left(seen.now);
    if by_count.max(by_permit) > seen.policy.margin {
        LeaseView::Ours
    } else if holder.is_proven() || permitted == grant.epoch {
        LeaseView::Lapsed
    } else {
        LeaseView::Granted
    }
}

fn left(deadline: BootNanos, now: ClockReading) -> std::time::Duration {
    deadline.since(now.boottime)
}

fn instance(seen: &Seen<'_>, lease: LeaseView) -> Instance {
    let GuardSeen::Alive(guard) = seen.guard else { return Instance::Unseen };
    let job = seen.facts.job.as_ref().map(|running| running.job);
    if job == Some(Job::HandOver) {
        return Instance::Working(Job::HandOver);
    }
    // The guard has not acted on the permit yet.
    let behind = guard.run < seen.permit.run;
    match guard.state {
        RunState::Stopping | RunState::Killing => Instance::Stopping,
        RunState::Running if !seen.permit.order.lets_run() => Instance::Stopping,
        RunState::Running => running(seen, guard, job, lease),
        RunState::Idle | RunState::Exited | RunState::KilledAtDeadline | RunState::Refused => {
            match job {
                Some(job) => Instance::Working(job),
                None if behind && seen.permit.order.lets_run() => Instance::Unseen,
                None => on_disk(seen, guard, lease),
            }
        }
    }
}

fn on_disk(seen: &Seen<'_>, guard: &GuardStatus, lease: LeaseView) -> Instance {
    let Some((run, found)) = &seen.facts.data_dir else { return Instance::Unseen };
    if *run != guard.run {
        return Instance::Unseen;
    }
    let relation = relation(seen);
    match found {
        DataDir::Missing | DataDir::Unreadable(_) => Instance::Broken,
        DataDir::Empty => Instance::Empty,
        // A rewind that was cut short is repeated, or replaced by a clone; nothing starts before that.
        DataDir::HalfMade(HalfMade::Rewind) => Instance::Stopped(Stopped {
            crash: Crash::None,
            relation: match relation {
                Relation::CloneOnly => Relation::CloneOnly,
                Relation::Manual => Relation::Manual,
                Relation::Uncompared | Relation::Ancestor | Relation::Diverged => {
                    Relation::Diverged
                }
            },
            grace: Grace::Waiting,
        }),
        DataDir::HalfMade(HalfMade::Initdb | HalfMade::Clone) => Instance::HalfMade,
        DataDir::Present(control)
            if seen.state.system_identifier.is_some_and(|id| id != control.system_identifier) =>
        {
            Instance::Broken
        }
        DataDir::Present(control) => Instance::Stopped(Stopped {
            crash: crash(seen, guard, lease, control),
            relation,
            grace: grace(seen),
        }),
    }
}

fn relation(seen: &Seen<'_>) -> Relation {
    let epoch = seen.state.lease.grant().map(|grant| grant.epoch);
    let found = match &seen.facts.compared {
        Some((compared, relation, _)) if Some(*compared) == epoch => *relation,
        _ => Relation::Uncompared,
    };
    match (seen.facts.ordered.as_ref().map(|ordered| &ordered.what), found) {
        (Some(Remake::Clone { .. }), _) => Relation::CloneOnly,
        (Some(Remake::Rewind), Relation::Manual) => Relation::Diverged,
        (Some(Remake::Rewind) | None, found) => found,
    }
}

/// It crashed under our lease if its run ended by itself while the permit said primary, and the control
/// file proves that it *was* one: a standby that died before its promotion must never be recovered in
/// place, since it would write on under the old timeline.
fn crash(seen: &Seen<'_>, guard: &GuardStatus, lease: LeaseView, control: &ControlFile) -> Crash {
    let permitted = match seen.permit.order {
        Order::Primary { epoch, .. } => epoch,
        Order::Down { .. } | Order::Standby => Epoch::NONE,
    };
    let ours = seen.state.lease.grant().map(|grant| grant.epoch);
    let ended = matches!(guard.state, RunState::Exited | RunState::Refused);
    if lease != LeaseView::Ours || !ended || !was_primary(control) || ours != Some(permitted) {
        return Crash::None;
    }
    match seen.facts.crash {
        Some((run, crash)) if run == guard.run => crash,
        _ => Crash::Unassessed,
    }
}

/// Returns whether a stopped data directory was last run as a primary.
#[must_use]
pub fn was_primary(control: &ControlFile) -> bool {
    let state = matches!(control.state, ControlState::InProduction | ControlState::ShutDown);
    state && !control.standby_signal
}

fn grace(seen: &Seen<'_>) -> Grace {
    let waited = |since: Option<Instant>| {
        since.is_some_and(|since| seen.at.duration_since(since) >= seen.policy.vacant_grace)
    };
    let registered = seen.state.system_identifier.is_some();
    if registered && waited(seen.facts.stopped_since) && waited(seen.facts.vacant_since) {
        Grace::Over
    } else {
        Grace::Waiting
    }
}

fn running(seen: &Seen<'_>, guard: &GuardStatus, job: Option<Job>, lease: LeaseView) -> Instance {
    let answer = seen.facts.answer(guard.run);
    let may_write = guard.primary_epoch != Epoch::NONE
        || matches!(seen.permit.order, Order::Primary { .. })
        || seen.facts.writable_run == Some(guard.run);
    if job == Some(Job::Promote) {
        return Instance::Working(Job::Promote);
    }
    match (answer, may_write) {
        (Some(probe), _) if !probe.in_recovery => Instance::Primary(health(seen)),
        (Some(_), true) if seen.facts.writable_run == Some(guard.run) => {
            Instance::Primary(health(seen))
        }
        // Permitted to write, and maybe promoted since it answered: without the lease that is a primary.
        (Some(_), true) if !matches!(lease, LeaseView::Ours | LeaseView::Unknown) => {
            Instance::Primary(health(seen))
        }
        (Some(_), _) => standby(seen, guard),
        (None, false) => Instance::Starting(Starting::Standby),
        (None, true) => {
            let since = seen.facts.starting_since.filter(|(run, _)| *run == guard.run);
            let long = since.is_some_and(|(_, since)| {
                seen.at.duration_since(since) >= seen.policy.crash.recovery_max
            });
            Instance::Starting(if long && seen.replaceable {
                Starting::InPlaceTooLong
            } else {
                Starting::InPlace
            })
        }
    }
}

fn health(seen: &Seen<'_>) -> Health {
    if seen.facts.server.misses < seen.policy.health.failures {
        Health::Fine
    } else if seen.replaceable {
        Health::SickReplaceable
    } else {
        Health::SickAlone
    }
}

fn standby(seen: &Seen<'_>, guard: &GuardStatus) -> Instance {
    // Stopped first, as one whose history is another.
    if matches!(relation(seen), Relation::CloneOnly | Relation::Diverged)
        && seen.facts.ordered.is_some()
    {
        return Instance::Standby(Upstream::Diverged);
    }
    let (failed_epoch, failures) = seen.facts.promote_failures;
    let epoch = seen.state.lease.grant().map(|grant| grant.epoch);
    if Some(failed_epoch) == epoch && failures >= PROMOTE_FAILURES_MAX {
        return Instance::Broken;
    }
    let followed = match &seen.facts.following {
        Some((run, upstream, since)) if *run == guard.run => Some((upstream.as_ref(), *since)),
        _ => None,
    };
    let holder = seen.state.lease.holder();
    let Some((_, since)) = followed.filter(|(upstream, _)| *upstream == holder) else {
        // Another upstream is followed only after the histories were compared (rule 58).
        return Instance::Standby(match relation(seen) {
            Relation::Ancestor => Upstream::Wrong,
            Relation::Uncompared => Upstream::Stuck,
            Relation::Diverged | Relation::CloneOnly => Upstream::Diverged,
            Relation::Manual => Upstream::Right,
        });
    };
    let streamed = seen.facts.server.streamed_at.filter(|_| seen.facts.server.run == guard.run);
    let alone_since = streamed.map_or(since, |streamed| streamed.max(since));
    if seen.at.duration_since(alone_since) < STUCK_AFTER {
        return Instance::Standby(Upstream::Right);
    }
    let compared = match &seen.facts.compared {
        Some((of, relation, at)) if Some(*of) == epoch => {
            Some((*relation, seen.at.duration_since(*at)))
        }
        _ => None,
    };
    Instance::Standby(match compared {
        Some((Relation::Ancestor, _)) if seen.facts.starved == epoch => Upstream::Starved,
        Some((Relation::Diverged | Relation::CloneOnly, _)) => Upstream::Diverged,
        Some((Relation::Manual, _)) => Upstream::Right,
        Some((Relation::Ancestor, age)) if age < COMPARE_AGAIN => Upstream::Right,
        Some((Relation::Ancestor | Relation::Uncompared, _)) | None => Upstream::Stuck,
    })
}

/// Returns the node's role and state as `haclt status` shows them.
#[must_use]
pub fn shown(instance: Instance, decision: Option<&Decision>) -> (&'static str, &'static str) {
    let manual = decision.is_some_and(|d| d.rule == ha_core::decide::Rule::DivergedManual);
    match instance {
        Instance::Primary(_) => ("primary", "running"),
        Instance::Standby(Upstream::Right) => ("standby", "streaming"),
        Instance::Standby(Upstream::Wrong | Upstream::Stuck | Upstream::Starved) => {
            ("standby", "catching_up")
        }
        Instance::Standby(Upstream::Diverged) => ("standby", "diverged"),
        Instance::Starting(Starting::Standby) => ("standby", "starting"),
        Instance::Starting(Starting::InPlace | Starting::InPlaceTooLong) => ("primary", "starting"),
        Instance::Working(Job::Rewind) => ("none", "rewinding"),
        Instance::Working(Job::Clone | Job::Initdb) => ("none", "recloning"),
        Instance::Working(Job::Promote) => ("standby", "starting"),
        Instance::Working(Job::Prepare) => ("none", "fenced"),
        Instance::Working(Job::HandOver) => ("primary", "running"),
        Instance::Stopping => ("none", "stopped"),
        Instance::Stopped(Stopped { relation: Relation::Diverged | Relation::Manual, .. }) => {
            ("none", "diverged")
        }
        Instance::Stopped(_) if manual => ("none", "diverged"),
        Instance::Stopped(_) => ("none", "fenced"),
        Instance::Unseen | Instance::Empty | Instance::HalfMade | Instance::Broken => {
            ("none", "stopped")
        }
    }
}

#[cfg(test)]
mod tests;
