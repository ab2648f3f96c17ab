//! The guard's judgement, as `ha-guard` has it: what it remembers and what it sees give one action.

use std::time::Duration;

use ha_core::permit::{Order, Permit, RunState, StopMode};
use ha_core::{BootNanos, Epoch};

use super::kernel::Time;

/// How long a fast stop may take before it becomes an immediate one.
const FAST_STOP: u64 = 2_000_000_000;

/// Where the current run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    Running,
    Stopping { mode: StopMode, since: Time },
    Killing { at_deadline: bool },
    Over { at_deadline: bool },
    Refused,
}

/// What a guard remembers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    pub(crate) alive: bool,
    pub(crate) run: u64,
    pub(crate) phase: Phase,
    /// The right it holds or held last.
    pub(crate) right: Option<(Epoch, BootNanos)>,
    pub(crate) primary_epoch: Epoch,
    epoch_max: Epoch,
    burnt: Epoch,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Stay,
    Start,
    Stop(StopMode),
    Kill,
}

impl Guard {
    /// A guard that has done nothing yet; runs up to that one are used up.
    pub(crate) const fn after(run: u64) -> Self {
        Self {
            alive: true,
            run,
            phase: Phase::Idle,
            right: None,
            primary_epoch: Epoch::NONE,
            epoch_max: Epoch::NONE,
            burnt: Epoch::NONE,
        }
    }

    pub(crate) const fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping { .. } | Phase::Killing { .. })
    }

    pub(crate) const fn state(&self) -> RunState {
        match self.phase {
            Phase::Idle => RunState::Idle,
            Phase::Running => RunState::Running,
            Phase::Stopping { .. } => RunState::Stopping,
            Phase::Killing { .. } => RunState::Killing,
            Phase::Over { at_deadline: true } => RunState::KilledAtDeadline,
            Phase::Over { at_deadline: false } => RunState::Exited,
            Phase::Refused => RunState::Refused,
        }
    }

    fn is_fault(&self, epoch: Epoch) -> bool {
        epoch <= self.burnt || epoch < self.epoch_max
    }

    fn inform(&mut self, permit: Option<Permit>) {
        let Some(permit) = permit else { return };
        self.burnt = self.burnt.max(permit.burnt);
        let Order::Primary { epoch, deadline } = permit.order else { return };
        let in_place = self.right.is_some_and(|(own, _)| own == epoch);
        if !self.is_busy() || permit.run < self.run || (permit.run > self.run && !in_place) {
            return;
        }
        let given_up = self.right.is_some_and(|(own, _)| own <= self.burnt);
        if !self.is_fault(epoch) && !given_up {
            self.right = Some((epoch, deadline));
            self.epoch_max = epoch;
        } else if self.right.is_none() {
            self.right = Some((epoch, BootNanos(0)));
        }
        self.primary_epoch = self.primary_epoch.max(epoch);
    }

    /// Returns whether the run must not be writable from now on.
    pub(crate) fn has_ended(&self, now: BootNanos, margin: Duration) -> bool {
        self.right
            .is_some_and(|(epoch, deadline)| epoch <= self.burnt || now >= deadline.before(margin))
    }

    /// Decides. `gone` says that no process of the run is left, `signal` that `standby.signal` is there.
    pub(crate) fn decide(
        &mut self,
        permit: Option<Permit>,
        (gone, signal): (bool, bool),
        (now, at): (BootNanos, Time),
        margin: Duration,
    ) -> Action {
        self.inform(permit);
        if !self.is_busy() {
            return self.at_rest(permit, signal, now, margin);
        }
        if gone {
            let at_deadline = self.phase == Phase::Killing { at_deadline: true };
            self.phase = Phase::Over { at_deadline };
            return Action::Stay;
        }
        if let Phase::Killing { .. } = self.phase {
            return Action::Stay;
        }
        if self.has_ended(now, margin) {
            self.phase = Phase::Killing { at_deadline: true };
            return Action::Kill;
        }
        let wanted = self.wanted_stop(permit);
        match (self.phase, wanted) {
            (Phase::Stopping { mode: StopMode::Fast, since }, wanted)
                if wanted == Some(StopMode::Immediate) || at >= since + FAST_STOP =>
            {
                self.stopping(StopMode::Immediate, at)
            }
            (Phase::Stopping { .. }, _) | (_, None) => Action::Stay,
            (_, Some(mode)) => self.stopping(mode, at),
        }
    }

    fn stopping(&mut self, mode: StopMode, since: Time) -> Action {
        self.phase = Phase::Stopping { mode, since };
        Action::Stop(mode)
    }

    fn at_rest(
        &mut self,
        permit: Option<Permit>,
        signal: bool,
        now: BootNanos,
        margin: Duration,
    ) -> Action {
        let Some(permit) = permit.filter(|permit| permit.run > self.run) else {
            return Action::Stay;
        };
        let right = match permit.order {
            Order::Down { .. } => return Action::Stay,
            Order::Standby if signal => Some(None),
            Order::Standby => None,
            Order::Primary { epoch, deadline } => {
                let in_place = self.right.is_some_and(|(own, _)| own == epoch);
                let over = now >= deadline.before(margin);
                (!self.is_fault(epoch) && in_place && !over).then_some(Some((epoch, deadline)))
            }
        };
        self.run = permit.run;
        let Some(right) = right else {
            self.phase = Phase::Refused;
            self.right = None;
            self.primary_epoch = Epoch::NONE;
            return Action::Stay;
        };
        self.right = right;
        self.primary_epoch = right.map_or(Epoch::NONE, |(epoch, _)| epoch);
        self.epoch_max = self.epoch_max.max(self.primary_epoch);
        self.phase = Phase::Running;
        Action::Start
    }

    fn wanted_stop(&self, permit: Option<Permit>) -> Option<StopMode> {
        let permit = permit?;
        match (permit.order, self.right) {
            (Order::Down { stop }, _) => Some(stop),
            _ if permit.run < self.run => None,
            (Order::Standby, Some(_)) => Some(StopMode::Immediate),
            (Order::Primary { epoch, .. }, Some((own, _))) if permit.run > self.run => {
                Some(if epoch == own { StopMode::Fast } else { StopMode::Immediate })
            }
            (Order::Standby | Order::Primary { .. }, None) if permit.run > self.run => {
                Some(StopMode::Fast)
            }
            (Order::Standby | Order::Primary { .. }, _) => None,
        }
    }
}
