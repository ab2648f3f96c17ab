//! From what was seen to one `View`, as the real agent makes it (`ha_agent::observe`).

use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::decide::Decision;
use ha_core::lease::Grant;
use ha_core::permit::{Order, Permit, RunState};
use ha_core::view::{
    CatchUp, Crash, Grace, Health, Instance, Job, LeaseView, Order as ViewOrder, Relation,
    Starting, Stopped, Upstream, View,
};
use ha_core::{BootNanos, Epoch, Incarnation, NodeId, WalPosition};

use super::host::Host;
use super::kernel::{MS, Time};
use super::pg::{Control, Half};
use super::state::World;

/// How long a standby may be without a stream before its history is compared (again).
const STUCK_AFTER: u64 = 3000 * MS;
/// How long the answer of a comparison is good for a standby that still does not stream.
const COMPARE_AGAIN: u64 = 10_000 * MS;
/// After how many failed promotions under one grant the database is taken as unable to.
const PROMOTE_FAILURES_MAX: u32 = 3;
/// The longest wait before a failed step is tried again.
const BACKOFF_MAX: u64 = 10_000 * MS;

/// What a guard says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) run: u64,
    pub(crate) state: RunState,
    pub(crate) primary_epoch: Epoch,
}

/// What was found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) half: Option<Half>,
    pub(crate) control: Control,
    pub(crate) standby_signal: bool,
}

/// A server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) run: u64,
    pub(crate) at: Time,
    pub(crate) recovery: bool,
    pub(crate) flushed: WalPosition,
    pub(crate) streaming: bool,
}

/// A job under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    pub(crate) job: Job,
    pub(crate) step: &'static str,
    pub(crate) since: Time,
    pub(crate) task: u64,
}

/// What was seen of the local database, kept between ticks (`ha_agent::facts`).
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) data_dir: Option<(u64, Found)>,
    pub(crate) inspecting: bool,
    pub(crate) probe: Option<Probe>,
    /// The run that was last seen to run, and when it first was.
    pub(crate) seen_run: (u64, BootNanos),
    pub(crate) streamed_at: Option<Time>,
    pub(crate) writable_run: Option<u64>,
    pub(crate) following: Option<(u64, Option<NodeId>, Time)>,
    pub(crate) compared: Option<(Epoch, Relation, Time)>,
    pub(crate) diverged: Option<(WalPosition, WalPosition)>,
    pub(crate) caught_up: Option<(Epoch, bool)>,
    pub(crate) fetches_failed: (Epoch, u32),
    pub(crate) crash: Option<(u64, Crash)>,
    pub(crate) crashes: Vec<Time>,
    pub(crate) stopped_since: Option<Time>,
    pub(crate) vacant_since: Option<Time>,
    pub(crate) starting_since: Option<(u64, Time)>,
    pub(crate) blind_since: Option<Time>,
    pub(crate) promote_failures: (Epoch, u32),
    pub(crate) job: Option<Running>,
    pub(crate) backoff: BTreeMap<&'static str, (Time, u32)>,
    pub(crate) decision: Option<Decision>,
    /// Under which epoch the promotion is being recorded.
    pub(crate) recording: Option<Epoch>,
}

impl Facts {
    pub(crate) fn answer(&self, run: u64) -> Option<&Probe> {
        self.probe.as_ref().filter(|probe| probe.run == run)
    }

    pub(crate) fn holds_back(&self, step: &'static str, now: Time) -> bool {
        self.backoff.get(step).is_some_and(|(until, _)| now < *until)
    }

    pub(crate) fn failed(&mut self, step: &'static str, now: Time) {
        let tries = self.backoff.get(step).map_or(0, |(_, tries)| *tries) + 1;
        let wait = (250 * MS).saturating_mul(1 << tries.min(6)).min(BACKOFF_MAX);
        self.backoff.insert(step, (now + wait, tries));
    }
}

/// Returns what the guard of a host says; nothing if there is none.
pub(crate) fn guard(host: &Host) -> Option<Status> {
    let guard = host.pg.as_ref().map(|pg| pg.guard).filter(|guard| guard.alive)?;
    Some(Status { run: guard.run, state: guard.state(), primary_epoch: guard.primary_epoch })
}

/// Returns whether this start of the agent may renew a grant.
pub(crate) fn may_renew(
    grant: &Grant,
    node: &NodeId,
    incarnation: Incarnation,
    permit: &Permit,
) -> bool {
    let own = grant.incarnation == incarnation;
    let found = matches!(permit.order, Order::Primary { epoch, .. } if epoch == grant.epoch);
    grant.holder == *node && permit.burnt < grant.epoch && (own || found)
}

struct Seen<'a> {
    world: &'a World,
    host: &'a Host,
    facts: &'a Facts,
    permit: Permit,
    grant: Option<&'a Grant>,
    replaceable: bool,
}

/// Makes the view of a data node.
pub(crate) fn view(world: &World, at: usize) -> View {
    let host = &world.hosts[at];
    let agent = host.agent.as_ref().expect("its loop runs");
    let state = &agent.state;
    let grant = state.lease.grant();
    let replaceable = agent.sightings.values().any(|seen| seen.as_ref().is_some_and(|r| r.fit));
    let seen = Seen { world, host, facts: &agent.facts, permit: agent.permit, grant, replaceable };
    let lease = seen.lease();
    View {
        lease,
        epoch: grant.map_or(state.last_epoch, |grant| grant.epoch),
        holder: state.lease.holder().cloned(),
        instance: seen.instance(lease),
        bootstrap: None,
        catch_up: seen.catch_up(),
        order: ViewOrder::None,
    }
}

impl Seen<'_> {
    fn catch_up(&self) -> CatchUp {
        let Some(grant) = self.grant else { return CatchUp::Done };
        match (&grant.catch_up, self.facts.caught_up) {
            (None, _) => CatchUp::Done,
            (Some(_), Some((epoch, true))) if epoch == grant.epoch => CatchUp::Done,
            (Some(_), Some((epoch, false))) if epoch == grant.epoch => CatchUp::Failed,
            (Some(_), _) => CatchUp::Needed,
        }
    }

    fn permitted(&self) -> Epoch {
        match self.permit.order {
            Order::Primary { epoch, .. } => epoch,
            Order::Down { .. } | Order::Standby => Epoch::NONE,
        }
    }

    fn lease(&self) -> LeaseView {
        let agent = self.host.agent.as_ref().expect("its loop runs");
        if self.permitted().max(self.permit.burnt) > agent.state.last_epoch {
            return LeaseView::Unknown;
        }
        let Some(grant) = self.grant else { return LeaseView::Vacant };
        if grant.epoch <= agent.pledge {
            return LeaseView::Unknown;
        }
        if grant.holder != self.host.name {
            return LeaseView::Theirs;
        }
        let Some(holder) = agent.holder.as_ref().filter(|h| h.epoch() == grant.epoch) else {
            return LeaseView::Forfeited;
        };
        let now = self.host.clock.read(self.world.now);
        let by_permit = match self.permit.order {
            Order::Primary { epoch, deadline } if epoch == grant.epoch => {
                deadline.since(now.boottime)
            }
            Order::Primary { .. } | Order::Down { .. } | Order::Standby => Duration::ZERO,
        };
        if holder.left(now).max(by_permit) > self.world.policy.margin {
            LeaseView::Ours
        } else if holder.is_proven() || self.permitted() == grant.epoch {
            LeaseView::Lapsed
        } else {
            LeaseView::Granted
        }
    }

    fn instance(&self, lease: LeaseView) -> Instance {
        let Some(guard) = guard(self.host) else { return Instance::Unseen };
        let job = self.facts.job.as_ref().map(|running| running.job);
        if job == Some(Job::HandOver) {
            return Instance::Working(Job::HandOver);
        }
        let behind = guard.run < self.permit.run;
        match guard.state {
            RunState::Stopping | RunState::Killing => Instance::Stopping,
            RunState::Running if !self.permit.order.lets_run() => Instance::Stopping,
            RunState::Running => self.running(guard, job, lease),
            RunState::Idle | RunState::Exited | RunState::KilledAtDeadline | RunState::Refused => {
                match job {
                    Some(job) => Instance::Working(job),
                    None if behind && self.permit.order.lets_run() => Instance::Unseen,
                    None => self.on_disk(guard, lease),
                }
            }
        }
    }

    fn on_disk(&self, guard: Status, lease: LeaseView) -> Instance {
        let Some((run, found)) = &self.facts.data_dir else { return Instance::Unseen };
        if *run != guard.run {
            return Instance::Unseen;
        }
        let relation = self.relation();
        match found.half {
            Some(Half::Rewind) => Instance::Stopped(Stopped {
                crash: Crash::None,
                relation: match relation {
                    Relation::CloneOnly | Relation::Manual => relation,
                    Relation::Uncompared | Relation::Ancestor | Relation::Diverged => {
                        Relation::Diverged
                    }
                },
                grace: Grace::Waiting,
            }),
            Some(Half::Clone) => Instance::HalfMade,
            None => Instance::Stopped(Stopped {
                crash: self.crash(guard, lease, *found),
                relation,
                grace: self.grace(),
            }),
        }
    }

    fn relation(&self) -> Relation {
        match self.facts.compared {
            Some((compared, relation, _)) if Some(compared) == self.grant.map(|g| g.epoch) => {
                relation
            }
            _ => Relation::Uncompared,
        }
    }

    fn crash(&self, guard: Status, lease: LeaseView, found: Found) -> Crash {
        let ended = matches!(guard.state, RunState::Exited | RunState::Refused);
        let ours = self.grant.map(|grant| grant.epoch) == Some(self.permitted());
        if lease != LeaseView::Ours || !ended || !was_primary(found) || !ours {
            return Crash::None;
        }
        match self.facts.crash {
            Some((run, crash)) if run == guard.run => crash,
            _ => Crash::Unassessed,
        }
    }

    fn grace(&self) -> Grace {
        let wait = self.world.policy.vacant_grace;
        let waited = |since: Option<Time>| since.is_some_and(|at| self.world.since(at) >= wait);
        if waited(self.facts.stopped_since) && waited(self.facts.vacant_since) {
            Grace::Over
        } else {
            Grace::Waiting
        }
    }

    fn running(&self, guard: Status, job: Option<Job>, lease: LeaseView) -> Instance {
        let may_write = guard.primary_epoch != Epoch::NONE
            || matches!(self.permit.order, Order::Primary { .. })
            || self.facts.writable_run == Some(guard.run);
        if job == Some(Job::Promote) {
            return Instance::Working(Job::Promote);
        }
        match (self.facts.answer(guard.run), may_write) {
            (Some(probe), _) if !probe.recovery => Instance::Primary(Health::Fine),
            (Some(_), true) if self.facts.writable_run == Some(guard.run) => {
                Instance::Primary(Health::Fine)
            }
            (Some(_), true) if !matches!(lease, LeaseView::Ours | LeaseView::Unknown) => {
                Instance::Primary(Health::Fine)
            }
            (Some(_), _) => self.standby(guard),
            (None, false) => Instance::Starting(Starting::Standby),
            (None, true) => {
                let since = self.facts.starting_since.filter(|(run, _)| *run == guard.run);
                let long = since.is_some_and(|(_, since)| {
                    self.world.since(since) >= self.world.policy.crash.recovery_max
                });
                Instance::Starting(if long && self.replaceable {
                    Starting::InPlaceTooLong
                } else {
                    Starting::InPlace
                })
            }
        }
    }

    fn standby(&self, guard: Status) -> Instance {
        let (failed_epoch, failures) = self.facts.promote_failures;
        let epoch = self.grant.map(|grant| grant.epoch);
        if Some(failed_epoch) == epoch && failures >= PROMOTE_FAILURES_MAX {
            return Instance::Broken;
        }
        let followed = match &self.facts.following {
            Some((run, upstream, since)) if *run == guard.run => Some((upstream.as_ref(), *since)),
            _ => None,
        };
        let holder = self.grant.map(|grant| &grant.holder);
        let Some((_, since)) = followed.filter(|(upstream, _)| *upstream == holder) else {
            return Instance::Standby(match self.relation() {
                Relation::Ancestor => Upstream::Wrong,
                Relation::Uncompared => Upstream::Stuck,
                Relation::Diverged | Relation::CloneOnly => Upstream::Diverged,
                Relation::Manual => Upstream::Right,
            });
        };
        let alone_since = self.facts.streamed_at.map_or(since, |streamed| streamed.max(since));
        let now = self.world.now;
        if now.saturating_sub(alone_since) < STUCK_AFTER {
            return Instance::Standby(Upstream::Right);
        }
        let compared = match self.facts.compared {
            Some((of, relation, at)) if Some(of) == epoch => {
                Some((relation, now.saturating_sub(at)))
            }
            _ => None,
        };
        Instance::Standby(match compared {
            Some((Relation::Diverged | Relation::CloneOnly, _)) => Upstream::Diverged,
            Some((Relation::Manual, _)) => Upstream::Right,
            Some((Relation::Ancestor, age)) if age < COMPARE_AGAIN => Upstream::Right,
            Some((Relation::Ancestor | Relation::Uncompared, _)) | None => Upstream::Stuck,
        })
    }
}

/// Returns whether a stopped data directory was last run as a primary.
pub(crate) fn was_primary(found: Found) -> bool {
    matches!(found.control, Control::InProduction | Control::ShutDown) && !found.standby_signal
}
