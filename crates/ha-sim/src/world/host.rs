//! One machine: its clocks, its disk, what lies on it, and the processes that run there.

use std::time::Duration;

use ha_core::origin::Origin;
use ha_core::permit::Permit;
use ha_core::{BootNanos, ClockReading, Epoch, NodeId, NodeKind};

use super::agent::Agent;
use super::event::Event;
use super::kernel::{MS, Time};
use super::pg::Pg;
use super::raft::Hard;
use super::rng::Rng;
use super::wal::Wal;

/// How a machine stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freeze {
    /// Suspended: `CLOCK_BOOTTIME` goes on, `CLOCK_MONOTONIC_RAW` does not.
    Suspend,
    /// A paused virtual machine: both clocks stand still.
    Pause,
}

/// The clocks of one machine, as they run beside true time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Millionths by which each runs too fast or too slow.
    pub(crate) boottime_ppm: i64,
    pub(crate) raw_ppm: i64,
    pub(crate) since: Time,
    /// True time that each did not count.
    pub(crate) boottime_lost: u64,
    pub(crate) raw_lost: u64,
}

fn run(span: u64, ppm: i64) -> u64 {
    let rate = u128::from(1_000_000_u64.saturating_add_signed(ppm));
    u64::try_from(u128::from(span) * rate / 1_000_000).expect("a world ends before 584 years")
}

impl Clock {
    pub(crate) fn read(&self, now: Time) -> ClockReading {
        let span = now.saturating_sub(self.since);
        ClockReading {
            boottime: BootNanos(run(span.saturating_sub(self.boottime_lost), self.boottime_ppm)),
            monotonic_raw: run(span.saturating_sub(self.raw_lost), self.raw_ppm),
        }
    }

    /// Returns how long a wait for that span takes in true time.
    pub(crate) fn true_span(&self, span: Duration) -> u64 {
        let nanos = span.as_nanos() * 1_000_000;
        let rate = u128::from(1_000_000_u64.saturating_add_signed(self.raw_ppm));
        u64::try_from(nanos.div_ceil(rate)).unwrap_or(u64::MAX / 4)
    }

    /// Returns how long it takes in true time until `CLOCK_BOOTTIME` shows that moment.
    pub(crate) fn until(&self, now: Time, moment: BootNanos) -> u64 {
        let left = u128::from(moment.0.saturating_sub(self.read(now).boottime.0)) * 1_000_000;
        let rate = u128::from(1_000_000_u64.saturating_add_signed(self.boottime_ppm));
        u64::try_from(left.div_ceil(rate)).unwrap_or(u64::MAX / 4)
    }

    /// It stood still for that long.
    pub(crate) fn stood_still(&mut self, how: Freeze, span: u64) {
        self.raw_lost += span;
        if how == Freeze::Pause {
            self.boottime_lost += span;
        }
    }
}

/// A disk: how long it takes, and whether it takes anything at all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Disk {
    /// How many faults make it slow, or full, at the moment.
    pub(crate) slow: u32,
    pub(crate) full: u32,
    /// When it is done with what it was told so far.
    pub(crate) busy_until: Time,
}

impl Disk {
    /// Returns how long one sync takes from now on.
    pub(crate) fn latency(&self, rng: &mut Rng) -> u64 {
        if self.slow > 0 { rng.range(100, 1500) * MS } else { rng.range(200, 2500) * 1000 }
    }
}

/// What an agent keeps in a small file: as the kernel has it, and as the disk has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct File<T> {
    pub(crate) written: T,
    pub(crate) synced: T,
}

impl<T: Clone> File<T> {
    pub(crate) fn sync(&mut self) {
        self.synced = self.written.clone();
    }

    fn lose_power(&mut self) {
        self.written = self.synced.clone();
    }
}

/// The data directory of an agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) raft: File<Hard>,
    pub(crate) pledge: File<Epoch>,
    /// From which promotion the timeline here came.
    pub(crate) origin: File<Option<Origin>>,
}

/// WAL that a witness keeps, and the process that receives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    pub(crate) wal: Wal,
    /// The connection, and to whom.
    pub(crate) receiver: Option<(u64, usize)>,
    /// Whether a flush is under way.
    pub(crate) flushing: bool,
}

/// One machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: NodeId,
    pub(crate) kind: NodeKind,
    pub(crate) keeps_wal: bool,
    pub(crate) up: bool,
    pub(crate) frozen: Option<(Freeze, Time)>,
    /// Counts its starts: what was meant for an earlier one is lost.
    pub(crate) boots: u64,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) store: Store,
    /// On tmpfs.
    pub(crate) permit: Option<Permit>,
    pub(crate) agent: Option<Agent>,
    /// Counts the starts of its agent.
    pub(crate) lives: u64,
    /// The term that its agent led when it ended.
    pub(crate) led: Option<u64>,
    pub(crate) agent_frozen: u32,
    pub(crate) pg: Option<Pg>,
    pub(crate) kept: Option<Kept>,
    /// What arrives while something stands still.
    pub(crate) stalled: Vec<Event>,
    /// It stood still, and its guard has not looked at the clock since.
    pub(crate) tainted: bool,
    /// Its clocks stood still until then, and it has proven no right anew: it may believe an old one.
    pub(crate) unproven: Option<Time>,
}

impl Host {
    /// The machine loses power: what was not synced is gone.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng) {
        self.store.raft.lose_power();
        self.store.pledge.lose_power();
        self.store.origin.lose_power();
        let mut tear = |wal: &mut Wal| {
            let unsure = wal.len() - wal.flushed;
            let kept = rng.index(unsure + 1);
            wal.truncate(wal.flushed + kept);
        };
        if let Some(pg) = &mut self.pg {
            tear(&mut pg.data.wal);
        }
        if let Some(kept) = &mut self.kept {
            tear(&mut kept.wal);
            *kept = Kept { wal: std::mem::take(&mut kept.wal), ..Kept::default() };
        }
        self.disk.busy_until = 0;
        self.permit = None;
        self.stalled.clear();
    }

    /// Returns whether its own count of time is not to be believed: it stood still a moment ago.
    pub(crate) const fn stood_still(&self) -> bool {
        self.tainted || self.unproven.is_some()
    }

    pub(crate) fn wal(&self) -> Option<&Wal> {
        let of_database = self.pg.as_ref().map(|pg| &pg.data.wal);
        of_database.or_else(|| self.kept.as_ref().map(|kept| &kept.wal))
    }
}
