//! What the guard does next, and why: a pure function of what it remembers and what it sees.
//!
//! Three rules carry the rest:
//!
//! 1. Nothing starts without a whole permit of this boot that names a run not yet used.
//! 2. A run that was ever permitted to be primary *may be writable*, for good: from then on it runs
//!    only until shortly before the deadline of its right.
//! 3. What is being stopped stays being stopped, what is being killed stays being killed.

use std::fmt;
use std::time::Duration;

use ha_core::permit::{Order, Permit, RunState, StopMode};
use ha_core::{BootId, BootNanos, Epoch};

/// What does not change while a guard runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// This boot; permits of any other are worthless.
    pub boot: BootId,
    /// How long before the deadline the killing starts.
    pub margin: Duration,
    /// How long a fast stop may take before it becomes an immediate one.
    pub fast_stop: Duration,
    /// How long an immediate stop may take before it becomes SIGKILL.
    pub immediate_stop: Duration,
}

/// Which processes of the current run are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// None at all: the kernel says that the guard has no child.
    None,
    /// The postmaster, and whatever it started.
    Postmaster,
    /// The postmaster ended, something it started is left.
    Leftovers,
}

/// What is seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The moment, on `CLOCK_BOOTTIME`.
    pub now: BootNanos,
    /// The permit, if there is one that can be believed.
    pub permit: Option<Permit>,
    /// Whether `standby.signal` is in the data directory; looked at only before a start.
    pub standby_signal: bool,
    /// Whether it is known what to start; looked at only before a start.
    pub launchable: bool,
    /// The processes of the run.
    pub processes: Processes,
    /// Whether the guard was asked to end.
    pub quit: bool,
}

/// A right to accept writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The grant it comes from.
    pub epoch: Epoch,
    /// When it ends.
    pub deadline: BootNanos,
}

/// Why processes are being killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The right to be primary ended.
    RightEnded,
    /// They outlived a stop, or their postmaster.
    Overdue,
}

/// Where the current run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was started by this guard.
    Idle,
    /// The postmaster is meant to be alive.
    Running,
    /// A shutdown was asked for.
    Stopping {
        /// How.
        mode: StopMode,
        /// Since when this way.
        since: BootNanos,
    },
    /// SIGKILL for everything, until nothing is left.
    Killing {
        /// Why.
        cause: Cause,
    },
    /// Nothing is left of the run.
    Over {
        /// What it was killed for, if it was.
        killed: Option<Cause>,
    },
    /// The run was not started.
    Refused,
}

/// The reason shown in the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing to explain.
    Nothing,
    /// A standby must have `standby.signal`.
    NoStandbySignal,
    /// The agent has not said, in a way that can be believed, what to start.
    NoLaunch,
    /// Starting as primary needs a previous run of this guard that was primary under that epoch.
    NotInPlace(Epoch),
    /// The epoch was given up by this node.
    Burnt(Epoch),
    /// A higher epoch than this was permitted before.
    OldEpoch(Epoch),
    /// The right's end, less the margin, has come.
    RightEnded(Epoch),
    /// The run may be writable and is no longer permitted to be primary.
    Withdrawn(Epoch),
    /// The permit says down.
    Ordered,
    /// The permit names a newer run.
    Replaced,
    /// The guard was asked to end.
    Quit,
    /// Nobody asked for it.
    EndedByItself,
    /// The process could not be started at all.
    NotStarted,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::NoStandbySignal => {
                f.write_str("refused to start a standby: the data directory has no standby.signal")
            }
            Self::NoLaunch => f.write_str("refused to start: the launch file cannot be used"),
            Self::NotInPlace(epoch) => write!(
                f,
                "refused to start as primary: the run before was not primary under epoch {epoch}"
            ),
            Self::Burnt(epoch) => write!(f, "epoch {epoch} was given up by this node"),
            Self::OldEpoch(epoch) => write!(f, "an epoch above {epoch} was permitted before"),
            Self::RightEnded(epoch) => write!(f, "the right of epoch {epoch} ended"),
            Self::Withdrawn(epoch) => write!(
                f,
                "stopped at once: it may be writable and is no longer primary under epoch {epoch}"
            ),
            Self::Ordered => f.write_str("stopped as ordered"),
            Self::Replaced => f.write_str("stopped for a newer run"),
            Self::Quit => f.write_str("stopped because the guard was told to end"),
            Self::EndedByItself => f.write_str("ended by itself"),
            Self::NotStarted => f.write_str("could not be started"),
        }
    }
}

/// What the guard remembers from one decision to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The latest run that was started or refused.
    pub run: u64,
    /// Where it stands.
    pub phase: Phase,
    /// The right it holds or held last; none if it only ever was permitted to be a standby.
    pub right: Option<Right>,
    /// The highest epoch under which the run may have accepted writes.
    pub primary_epoch: Epoch,
    /// The highest epoch ever accepted, over all runs.
    pub epoch_max: Epoch,
    /// The highest epoch ever said to be given up.
    pub burnt: Epoch,
    /// The reason to show.
    pub why: Why,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Stay,
    /// Start the postmaster.
    Start,
    /// Ask the postmaster to shut down.
    Stop(StopMode),
    /// Freeze the postmaster, SIGKILL everything.
    Kill,
    /// End the guard; nothing is left.
    Quit,
}

impl Memory {
    /// Returns the memory of a guard that has done nothing yet.
    ///
    /// `run` and `primary_epoch` are what an earlier guard of this boot reported, else zero: the
    /// runs up to that one are used up, and none of them may be restarted in place as primary.
    #[must_use]
    pub const fn after(run: u64, primary_epoch: Epoch) -> Self {
        Self {
            run,
            phase: Phase::Idle,
            right: None,
            primary_epoch,
            epoch_max: Epoch::NONE,
            burnt: Epoch::NONE,
            why: Why::Nothing,
        }
    }

    /// Returns whether processes of the run may be there.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        match self.phase {
            Phase::Running | Phase::Stopping { .. } | Phase::Killing { .. } => true,
            Phase::Idle | Phase::Over { .. } | Phase::Refused => false,
        }
    }

    /// Returns the state to report.
    #[must_use]
    pub const fn state(&self) -> RunState {
        match self.phase {
            Phase::Idle => RunState::Idle,
            Phase::Running => RunState::Running,
            Phase::Stopping { .. } => RunState::Stopping,
            Phase::Killing { .. } => RunState::Killing,
            Phase::Over { killed: Some(Cause::RightEnded) } => RunState::KilledAtDeadline,
            Phase::Over { killed: Some(Cause::Overdue) | None } => RunState::Exited,
            Phase::Refused => RunState::Refused,
        }
    }

    /// Returns the memory after a start that did not come about.
    #[must_use]
    pub const fn not_started(self) -> Self {
        self.refused(self.run, Why::NotStarted)
    }

    /// Returns when the right of this run ends, if it has one.
    #[must_use]
    pub fn deadline(&self) -> Option<BootNanos> {
        self.right.map(|right| right.deadline)
    }

    /// Returns when to look again at the latest, if not for a change.
    #[must_use]
    pub fn next_check(&self, settings: &Settings) -> Option<BootNanos> {
        let stage_end = match self.phase {
            Phase::Stopping { mode, since } => Some(since.after(settings.patience(mode))),
            Phase::Running => None,
            Phase::Idle | Phase::Killing { .. } | Phase::Over { .. } | Phase::Refused => {
                return None;
            }
        };
        let right_end = self.right.map(|right| right.last_moment(settings));
        [stage_end, right_end].into_iter().flatten().min()
    }

    const fn refused(self, run: u64, why: Why) -> Self {
        Self { run, phase: Phase::Refused, right: None, primary_epoch: Epoch::NONE, why, ..self }
    }

    fn started(self, run: u64, right: Option<Right>) -> Self {
        let epoch = right.map_or(Epoch::NONE, |right| right.epoch);
        let epoch_max = self.epoch_max.max(epoch);
        let why = Why::Nothing;
        Self { run, phase: Phase::Running, right, primary_epoch: epoch, epoch_max, why, ..self }
    }

    /// Returns why `epoch` gives no right, if it does not.
    fn fault(&self, epoch: Epoch) -> Option<Why> {
        if epoch <= self.burnt {
            Some(Why::Burnt(epoch))
        } else if epoch < self.epoch_max {
            Some(Why::OldEpoch(epoch))
        } else {
            None
        }
    }

    /// Takes in what a permit says about a run that is there: its right, and the epochs given up.
    ///
    /// A primary order that gives no right still means that the agent may have promoted: the run
    /// counts as writable, and its right, if it had none before, as ended.
    fn informed(mut self, permit: Option<Permit>) -> Self {
        let Some(permit) = permit else { return self };
        self.burnt = self.burnt.max(permit.burnt);
        let Order::Primary { epoch, deadline } = permit.order else { return self };
        let in_place = self.right.is_some_and(|right| right.epoch == epoch);
        if !self.is_busy() || permit.run < self.run || (permit.run > self.run && !in_place) {
            return self;
        }
        let given_up = self.right.is_some_and(|right| right.epoch <= self.burnt);
        if self.fault(epoch).is_none() && !given_up {
            self.right = Some(Right { epoch, deadline });
            self.epoch_max = epoch;
        } else if self.right.is_none() {
            self.right = Some(Right { epoch, deadline: BootNanos(0) });
        }
        self.primary_epoch = self.primary_epoch.max(epoch);
        self
    }

    /// Returns why the run must not be writable from now on, if it may be writable.
    fn ended(&self, now: BootNanos, settings: &Settings) -> Option<Why> {
        let right = self.right?;
        if right.epoch <= self.burnt {
            Some(Why::Burnt(right.epoch))
        } else if right.is_over(now, settings) {
            Some(self.fault(right.epoch).unwrap_or(Why::RightEnded(right.epoch)))
        } else {
            None
        }
    }
}

impl Right {
    fn is_over(self, now: BootNanos, settings: &Settings) -> bool {
        now >= self.last_moment(settings)
    }

    /// When the killing starts.
    fn last_moment(self, settings: &Settings) -> BootNanos {
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("guard-off") {
            return BootNanos(u64::MAX);
        }
        self.deadline.before(settings.margin)
    }
}

impl Settings {
    const fn patience(&self, mode: StopMode) -> Duration {
        match mode {
            StopMode::Fast => self.fast_stop,
            StopMode::Immediate => self.immediate_stop,
        }
    }
}

/// Returns what to remember and what to do, given what is seen.
///
/// To be called after every wake-up with a clock read anew, and again after every action.
#[must_use]
pub fn decide(memory: Memory, facts: &Facts, settings: &Settings) -> (Memory, Action) {
    let permit = facts.permit.filter(|permit| permit.boot == settings.boot);
    let memory = memory.informed(permit);
    if memory.is_busy() {
        busy(memory, permit, facts, settings)
    } else {
        at_rest(memory, permit, facts, settings)
    }
}

fn at_rest(
    memory: Memory,
    permit: Option<Permit>,
    facts: &Facts,
    settings: &Settings,
) -> (Memory, Action) {
    if facts.quit {
        return (memory, Action::Quit);
    }
    let Some(permit) = permit.filter(|permit| permit.run > memory.run) else {
        return (memory, Action::Stay);
    };
    let answer = match permit.order {
        Order::Down { .. } => return (memory, Action::Stay),
        Order::Standby | Order::Primary { .. } if !facts.launchable => Err(Why::NoLaunch),
        Order::Standby if facts.standby_signal => Ok(None),
        Order::Standby => Err(Why::NoStandbySignal),
        Order::Primary { epoch, deadline } => {
            let right = Right { epoch, deadline };
            if let Some(why) = memory.fault(epoch) {
                Err(why)
            } else if memory.right.is_none_or(|before| before.epoch != epoch) {
                Err(Why::NotInPlace(epoch))
            } else if right.is_over(facts.now, settings) {
                Err(Why::RightEnded(epoch))
            } else {
                Ok(Some(right))
            }
        }
    };
    match answer {
        Ok(right) => (memory.started(permit.run, right), Action::Start),
        Err(why) => (memory.refused(permit.run, why), Action::Stay),
    }
}

fn busy(
    memory: Memory,
    permit: Option<Permit>,
    facts: &Facts,
    settings: &Settings,
) -> (Memory, Action) {
    let Facts { now, processes, .. } = *facts;
    let killing =
        |cause, why| (Memory { phase: Phase::Killing { cause }, why, ..memory }, Action::Kill);
    let stopping = |mode, why| {
        let phase = Phase::Stopping { mode, since: now };
        (Memory { phase, why, ..memory }, Action::Stop(mode))
    };
    if processes == Processes::None {
        let (killed, why) = match memory.phase {
            Phase::Killing { cause } => (Some(cause), memory.why),
            Phase::Running => (None, Why::EndedByItself),
            Phase::Stopping { .. } | Phase::Idle | Phase::Over { .. } | Phase::Refused => {
                (None, memory.why)
            }
        };
        return (Memory { phase: Phase::Over { killed }, why, ..memory }, Action::Stay);
    }
    if let Phase::Killing { .. } = memory.phase {
        return (memory, Action::Kill);
    }
    if let Some(why) = memory.ended(now, settings) {
        return killing(Cause::RightEnded, why);
    }
    if processes == Processes::Leftovers {
        let by_itself = memory.phase == Phase::Running;
        return killing(Cause::Overdue, if by_itself { Why::EndedByItself } else { memory.why });
    }
    let wanted = wanted_stop(&memory, permit, facts.quit);
    match (memory.phase, wanted) {
        (Phase::Stopping { mode: StopMode::Immediate, since }, _) => {
            if now >= since.after(settings.immediate_stop) {
                return killing(Cause::Overdue, memory.why);
            }
            (memory, Action::Stay)
        }
        (Phase::Stopping { mode: StopMode::Fast, .. }, Some((StopMode::Immediate, why))) => {
            stopping(StopMode::Immediate, why)
        }
        (Phase::Stopping { mode: StopMode::Fast, since }, _) => {
            if now >= since.after(settings.fast_stop) {
                return stopping(StopMode::Immediate, memory.why);
            }
            (memory, Action::Stay)
        }
        (_, Some((mode, why))) => stopping(mode, why),
        (_, None) => (memory, Action::Stay),
    }
}

/// Returns how a run that is there should be stopped, if at all.
fn wanted_stop(memory: &Memory, permit: Option<Permit>, quit: bool) -> Option<(StopMode, Why)> {
    let asked = permit.and_then(|permit| match (permit.order, memory.right) {
        (Order::Down { stop }, _) => Some((stop, Why::Ordered)),
        // An order for a run that is over says nothing about this one.
        _ if permit.run < memory.run => None,
        (Order::Standby, Some(right)) => Some((StopMode::Immediate, Why::Withdrawn(right.epoch))),
        (Order::Primary { epoch, .. }, Some(right)) if permit.run > memory.run => {
            if epoch == right.epoch {
                Some((StopMode::Fast, Why::Replaced))
            } else {
                Some((StopMode::Immediate, Why::Withdrawn(right.epoch)))
            }
        }
        (Order::Standby | Order::Primary { .. }, None) if permit.run > memory.run => {
            Some((StopMode::Fast, Why::Replaced))
        }
        (Order::Standby | Order::Primary { .. }, _) => None,
    });
    match asked {
        Some((StopMode::Immediate, why)) => Some((StopMode::Immediate, why)),
        _ if quit => Some((StopMode::Fast, Why::Quit)),
        other => other,
    }
}

#[cfg(test)]
mod tests;
