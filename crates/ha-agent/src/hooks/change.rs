//! How this node's database stood before and stands now, and which hooks that calls for. Nothing else.

use ha_core::Epoch;
use ha_core::view::{Instance, Job, LeaseView};
use serde::{Deserialize, Serialize};

use crate::config::HookKind;

/// How a node's database stands, as far as hooks tell it apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// It does not run.
    #[default]
    Stopped,
    /// It was made unable to write.
    Fenced,
    /// It does not run, and is primary all the same: it is recovered in place, or gives the lease back.
    Crashed {
        /// Under which grant.
        epoch: Epoch,
    },
    /// It runs in recovery.
    Standby {
        /// The guard's number of the run.
        run: u64,
    },
    /// It accepts writes, and all nodes know.
    Primary {
        /// Under which grant.
        epoch: Epoch,
        /// The guard's number of the run.
        run: u64,
    },
}

/// What is seen of it now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// The database.
    pub(super) instance: Instance,
    /// What the lease means to this node.
    pub(super) lease: LeaseView,
    /// The epoch in force.
    pub(super) epoch: Epoch,
    /// Whether it is being fenced.
    pub(super) fencing: bool,
    /// Whether its guard killed the latest run, of a primary, because the right had ended.
    pub(super) killed: bool,
    /// Whether its promotion under that epoch is recorded.
    pub(super) recorded: bool,
    /// The guard's number of the latest run.
    pub(super) run: u64,
}

impl Standing {
    /// Returns how it stands now; `None` while that is not clear.
    pub(super) fn next(self, look: &Look) -> Option<Self> {
        use Instance as I;
        if look.fencing {
            return Some(Self::Fenced);
        }
        match look.instance {
            I::Unseen | I::Stopping | I::Starting(_) | I::Working(Job::Promote | Job::HandOver) => {
                None
            }
            I::Primary(_) => {
                let serves = look.lease == LeaseView::Ours && look.recorded;
                serves.then_some(Self::Primary { epoch: look.epoch, run: look.run })
            }
            I::Standby(_) => Some(Self::Standby { run: look.run }),
            I::Empty
            | I::HalfMade
            | I::Broken
            | I::Stopped(_)
            | I::Working(Job::Prepare | Job::Rewind | Job::Clone | Job::Initdb) => self.down(look),
        }
    }

    fn down(self, look: &Look) -> Option<Self> {
        let (Self::Primary { epoch, .. } | Self::Crashed { epoch }) = self else {
            return Some(if self == Self::Fenced { Self::Fenced } else { Self::Stopped });
        };
        if look.killed {
            return Some(Self::Fenced);
        }
        match look.lease {
            LeaseView::Unknown => None,
            LeaseView::Granted | LeaseView::Ours | LeaseView::Lapsed if epoch == look.epoch => {
                Some(Self::Crashed { epoch })
            }
            LeaseView::Granted
            | LeaseView::Ours
            | LeaseView::Lapsed
            | LeaseView::Vacant
            | LeaseView::Theirs
            | LeaseView::Forfeited => Some(Self::Stopped),
        }
    }

    /// Returns the role that hooks are told.
    pub(super) const fn role(self) -> &'static str {
        match self {
            Self::Primary { .. } => "primary",
            Self::Standby { .. } => "standby",
            Self::Stopped | Self::Fenced | Self::Crashed { .. } => "none",
        }
    }

    const fn runs(self) -> Option<u64> {
        match self {
            Self::Standby { run } | Self::Primary { run, .. } => Some(run),
            Self::Stopped | Self::Fenced | Self::Crashed { .. } => None,
        }
    }

    const fn primary_under(self) -> Option<Epoch> {
        match self {
            Self::Primary { epoch, .. } | Self::Crashed { epoch } => Some(epoch),
            Self::Stopped | Self::Fenced | Self::Standby { .. } => None,
        }
    }
}

/// Returns the hooks that a change calls for, in the order in which they are run.
pub(super) fn hooks(before: Standing, after: Standing) -> Vec<HookKind> {
    let mut hooks = Vec::new();
    let (was, is) = (before.primary_under(), after.primary_under());
    if after == Standing::Fenced && before != Standing::Fenced {
        hooks.push(HookKind::OnFence);
    } else if was.is_some() && is.is_none() {
        hooks.push(HookKind::OnDemote);
    }
    let (ran, runs) = (before.runs(), after.runs());
    if ran.is_some() && ran != runs && !promoted_in_place(before, after) {
        hooks.push(HookKind::OnStop);
    }
    if runs.is_some() && ran != runs && !promoted_in_place(before, after) {
        hooks.push(HookKind::OnStart);
    }
    if let Standing::Primary { epoch, .. } = after
        && was != Some(epoch)
    {
        hooks.push(HookKind::OnPromote);
    }
    hooks
}

/// A promotion does not end the run.
fn promoted_in_place(before: Standing, after: Standing) -> bool {
    before.runs().is_some() && before.runs() == after.runs()
}

#[cfg(test)]
mod tests {
    use HookKind::{OnDemote, OnFence, OnPromote, OnStart, OnStop};
    use Standing::{Crashed, Fenced, Primary, Standby, Stopped};
    use ha_core::view::{Crash, Grace, Health, Relation, Starting, Stopped as Down, Upstream};

    use super::*;

    const E1: Epoch = Epoch(1);
    const E2: Epoch = Epoch(2);

    #[test]
    fn each_change_calls_for_its_hooks_in_order() {
        #[rustfmt::skip]
        let table: [(Standing, Standing, &[HookKind]); 23] = [
            // before                      after                         hooks
            (Stopped,                      Stopped,                      &[]),
            (Stopped,                      Standby { run: 1 },           &[OnStart]),
            (Stopped,                      Primary { epoch: E1, run: 1 }, &[OnStart, OnPromote]),
            (Standby { run: 1 },           Primary { epoch: E1, run: 1 }, &[OnPromote]),
            (Standby { run: 1 },           Standby { run: 1 },           &[]),
            (Standby { run: 1 },           Standby { run: 2 },           &[OnStop, OnStart]),
            (Standby { run: 1 },           Stopped,                      &[OnStop]),
            (Standby { run: 1 },           Fenced,                       &[OnFence, OnStop]),
            (Primary { epoch: E1, run: 1 }, Primary { epoch: E1, run: 1 }, &[]),
            (Primary { epoch: E1, run: 1 }, Primary { epoch: E1, run: 2 }, &[OnStop, OnStart]),
            (Primary { epoch: E1, run: 1 }, Primary { epoch: E2, run: 2 }, &[OnStop, OnStart, OnPromote]),
            (Primary { epoch: E1, run: 1 }, Stopped,                     &[OnDemote, OnStop]),
            (Primary { epoch: E1, run: 1 }, Standby { run: 2 },          &[OnDemote, OnStop, OnStart]),
            (Primary { epoch: E1, run: 1 }, Fenced,                      &[OnFence, OnStop]),
            (Primary { epoch: E1, run: 1 }, Crashed { epoch: E1 },       &[OnStop]),
            (Crashed { epoch: E1 },        Primary { epoch: E1, run: 2 }, &[OnStart]),
            (Crashed { epoch: E1 },        Primary { epoch: E2, run: 2 }, &[OnStart, OnPromote]),
            (Crashed { epoch: E1 },        Stopped,                      &[OnDemote]),
            (Crashed { epoch: E1 },        Standby { run: 2 },           &[OnDemote, OnStart]),
            (Crashed { epoch: E1 },        Fenced,                       &[OnFence]),
            (Fenced,                       Fenced,                       &[]),
            (Fenced,                       Standby { run: 2 },           &[OnStart]),
            (Fenced,                       Primary { epoch: E2, run: 2 }, &[OnStart, OnPromote]),
        ];
        for (before, after, expected) in table {
            assert_eq!(hooks(before, after), expected, "{before:?} -> {after:?}");
        }
    }

    const DOWN: Instance = Instance::Stopped(Down {
        crash: Crash::None,
        relation: Relation::Uncompared,
        grace: Grace::Waiting,
    });

    fn look(instance: Instance, lease: LeaseView) -> Look {
        let (fencing, killed, recorded) = (false, false, true);
        Look { instance, lease, epoch: E1, fencing, killed, recorded, run: 7 }
    }

    #[test]
    fn how_it_stands_is_said_only_when_that_is_clear() {
        use LeaseView::{Granted, Ours, Theirs, Unknown, Vacant};
        let (primary, old) = (Primary { epoch: E1, run: 7 }, Primary { epoch: Epoch(0), run: 6 });
        let fine = Instance::Primary(Health::Fine);
        let standby = Instance::Standby(Upstream::Right);
        #[rustfmt::skip]
        let table = [
            // before  look                                     now
            (Stopped,  look(fine, Ours),                        Some(primary)),
            (Stopped,  Look { recorded: false, ..look(fine, Ours) }, None),
            (Stopped,  look(fine, Unknown),                     None),
            (primary,  Look { fencing: true, ..look(fine, Theirs) }, Some(Fenced)),
            (Stopped,  look(standby, Granted),                  Some(Standby { run: 7 })),
            (primary,  look(Instance::Working(Job::HandOver), Ours), None),
            (Stopped,  look(Instance::Working(Job::Promote), Ours), None),
            (primary,  look(Instance::Starting(Starting::InPlace), Ours), None),
            (primary,  look(Instance::Stopping, Ours),          None),
            (primary,  look(DOWN, Ours),                        Some(Crashed { epoch: E1 })),
            (primary,  look(Instance::Working(Job::Prepare), Ours), Some(Crashed { epoch: E1 })),
            (primary,  look(DOWN, Theirs),                      Some(Stopped)),
            (primary,  look(DOWN, Vacant),                      Some(Stopped)),
            (primary,  look(DOWN, Unknown),                     None),
            (old,      look(DOWN, Granted),                     Some(Stopped)),
            (primary,  Look { killed: true, ..look(DOWN, Vacant) }, Some(Fenced)),
            (Stopped,  Look { killed: true, ..look(DOWN, Vacant) }, Some(Stopped)),
            (Fenced,   look(DOWN, Theirs),                      Some(Fenced)),
            (Fenced,   look(standby, Theirs),                   Some(Standby { run: 7 })),
        ];
        for (before, look, expected) in table {
            assert_eq!(before.next(&look), expected, "{before:?}, {look:?}");
        }
    }
}
