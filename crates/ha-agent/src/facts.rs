//! What was seen of the local database, kept between ticks.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::ancestry::TimelineSwitch;
use ha_core::decide::{Decision, Rule};
use ha_core::view::{Crash, Job, Relation};
use ha_core::{BootNanos, Epoch, Lsn, NodeId, TimelineId, WalPosition};
use ha_postgres::driver::{DataDir, Probe, ProbeError};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::parameters::Applied;

/// The longest wait before a failed step is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Steps that need something of the primary.
const ASK_THE_PRIMARY: [&str; 4] = ["follow", "compare", "rewind", "clone"];

/// What was seen of the local database.
#[derive(Debug, Default)]
pub struct Facts {
    /// What is on disk, and after which run that was looked at.
    pub data_dir: Option<(u64, DataDir)>,
    /// Whether somebody is looking right now.
    pub inspecting: bool,
    /// What the running server tells.
    pub server: Server,
    /// The run in which the server was seen to accept writes.
    pub writable_run: Option<u64>,
    /// The run in which ordinary clients were kept out at first, after a crash.
    pub closed_run: Option<u64>,
    /// In which run, whom the server was last told to follow, and since when.
    pub following: Option<(u64, Option<NodeId>, Instant)>,
    /// How the local WAL relates to the holder of that epoch, and when that was found out.
    pub compared: Option<(Epoch, Relation, Instant)>,
    /// What the server has of the cluster's configuration, as far as that was looked at.
    pub parameters: Option<Applied>,
    /// What an operator wants to become of the data directory.
    pub ordered: Option<Ordered>,
    /// The number of the last such order that was taken back.
    pub taken_back: Option<u64>,
    /// The last such order that was carried out, and under which epoch.
    pub remade: Option<(u64, Epoch)>,
    /// What was found diverged: the last shared position and the local end, for the record.
    pub diverged: Option<(WalPosition, WalPosition)>,
    /// Where the fork lies, for a rewind that lacks WAL from before it.
    pub rewind_from: Option<WalPosition>,
    /// Under which epoch the primary was found to have removed WAL that this standby needs.
    pub starved: Option<Epoch>,
    /// Whether what the grant of that epoch demands was fetched and replayed, or could not be.
    pub caught_up: Option<(Epoch, bool)>,
    /// How often fetching that failed under this epoch.
    pub fetches_failed: (Epoch, u32),
    /// The history of the timeline that the server is on.
    pub history: Option<(TimelineId, Vec<TimelineSwitch>)>,
    /// Real end of WAL of the stopped database after that run; read only before there is a cluster.
    pub wal_end: Option<(u64, WalPosition)>,
    /// What the crash of that run calls for.
    pub crash: Option<(u64, Crash)>,
    /// When the primary crashed, lately.
    pub crashes: Vec<Instant>,
    /// Since when the guard reports that nothing runs.
    pub stopped_since: Option<Instant>,
    /// Since when nobody holds the lease.
    pub vacant_since: Option<Instant>,
    /// The run in which the internal user was made sure of.
    pub internal_user_kept: Option<u64>,
    /// Since when the holder of the lease has seen nothing of its database.
    pub blind_since: Option<Instant>,
    /// Since when a primary has been starting in place.
    pub starting_since: Option<(u64, Instant)>,
    /// Promotions that failed under this epoch.
    pub promote_failures: (Epoch, u32),
    /// The job under way.
    pub job: Option<RunningJob>,
    /// Steps that failed, and when they may be tried again.
    pub(crate) backoff: BTreeMap<&'static str, (Instant, u32)>,
    /// Under which epoch those failed.
    pub(crate) backoff_under: Epoch,
    /// The latest decision, and since when its rule holds.
    pub decision: Option<(Decision, Instant)>,
    /// What is not well, one line each, by what it is about.
    pub troubles: BTreeMap<&'static str, String>,
    /// Free space under the data directory, bytes.
    pub free_bytes: Option<u64>,
}

/// What an operator wants to become of the data directory, although the agent would not by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// The order's number.
    pub number: u64,
    /// What.
    pub what: Remake,
    /// Who asked for it.
    pub by: String,
}

/// How a data directory is to be made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remake {
    /// Cloned.
    Clone {
        /// From whom; `None` for the primary.
        from: Option<NodeId>,
        /// The highest rate, KiB a second; `None` for no bound.
        max_rate_kib: Option<u32>,
    },
    /// Rewound, although `rejoin` leaves that to the operator.
    Rewind,
}

/// What the running server tells.
#[derive(Debug, Default)]
pub struct Server {
    /// The run that the rest is about.
    pub run: u64,
    /// When this run was first seen to run.
    pub since: BootNanos,
    /// The latest answer in that run, and when it came.
    pub answer: Option<(Probe, Instant)>,
    /// The furthest end of its primary's WAL that a standby heard of, and on which timeline.
    pub upstream_end: Option<WalPosition>,
    /// When a standby was last seen streaming.
    pub streamed_at: Option<Instant>,
    /// How many tries in a row failed since, of those that count.
    pub misses: u32,
    /// Why the latest try failed.
    pub error: Option<ProbeError>,
}

/// A job under way.
#[derive(Debug)]
pub struct RunningJob {
    /// What it is to the decision.
    pub job: Job,
    /// The step's name.
    pub step: &'static str,
    /// Since when.
    pub since: Instant,
    /// Ends it; its tools are killed with it.
    pub abort: AbortHandle,
    /// Progress for people.
    pub progress: String,
}

impl Server {
    /// Returns what is known of a run that was not seen to run before.
    #[must_use]
    pub fn of_run(run: u64, since: BootNanos) -> Self {
        Self { run, since, ..Self::default() }
    }

    /// Takes in the primary's end of WAL as a standby hears it. It is forgotten by PostgreSQL the moment
    /// the stream ends, which is when an election wants it.
    pub fn hear(&mut self, probe: &Probe) {
        let heard = WalPosition { timeline: probe.timeline, lsn: probe.upstream_end };
        if probe.in_recovery && heard.lsn != Lsn::ZERO {
            self.upstream_end = self.upstream_end.max(Some(heard));
        }
    }
}

impl Facts {
    /// Returns whether a step that failed must still wait.
    #[must_use]
    pub fn holds_back(&self, step: &'static str, now: Instant) -> bool {
        self.backoff.get(step).is_some_and(|(until, _)| now < *until)
    }

    /// Notes that a step failed; the next try waits twice as long as this one did. Returns that wait,
    /// and how often the step failed in a row.
    pub fn failed(&mut self, step: &'static str, now: Instant) -> (Duration, u32) {
        let tries = self.backoff.get(step).map_or(0, |(_, tries)| *tries) + 1;
        let wait = Duration::from_millis(250).saturating_mul(1 << tries.min(6)).min(BACKOFF_MAX);
        self.backoff.insert(step, (now + wait, tries));
        (wait, tries)
    }

    /// Notes the epoch. Under another one there is another primary, or the same one anew: what it could not give before
    /// is asked for again without a wait.
    pub fn under(&mut self, epoch: Epoch) {
        if self.backoff_under != epoch {
            self.backoff_under = epoch;
            self.backoff.retain(|step, _| !ASK_THE_PRIMARY.contains(step));
        }
    }

    /// Notes that a step succeeded.
    pub fn succeeded(&mut self, step: &'static str) {
        self.backoff.remove(step);
    }

    /// Returns the rule in force and for how long.
    #[must_use]
    pub fn rule(&self) -> Option<(Rule, Duration)> {
        self.decision.as_ref().map(|(decision, since)| (decision.rule, since.elapsed()))
    }

    /// Returns the latest answer of the server of that run, if any.
    #[must_use]
    pub fn answer(&self, run: u64) -> Option<&Probe> {
        (self.server.run == run).then_some(())?;
        self.server.answer.as_ref().map(|(probe, _)| probe)
    }

    /// Returns what the server of that run has of the cluster's configuration, if that was looked at.
    #[must_use]
    pub fn applied(&self, run: u64) -> Option<&Applied> {
        self.parameters.as_ref().filter(|applied| applied.run == run)
    }

    /// Sets or clears a line about what is not well.
    pub fn trouble(&mut self, about: &'static str, line: Option<String>) {
        match line {
            Some(line) => self.troubles.insert(about, line),
            None => self.troubles.remove(about),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_with_one_primary_is_tried_at_once_with_the_next_and_nothing_else_is() {
        let mut facts = Facts::default();
        let now = Instant::now();
        facts.under(Epoch(4));
        for _ in 0..6 {
            facts.failed("clone", now);
            facts.failed("promote", now);
        }
        facts.under(Epoch(4));
        assert!(facts.holds_back("clone", now), "nothing has changed");
        facts.under(Epoch(5));
        assert!(!facts.holds_back("clone", now));
        assert!(facts.holds_back("promote", now), "that was its own failure");
        let (wait, tries) = facts.failed("clone", now);
        assert_eq!((wait, tries), (Duration::from_millis(500), 1), "it begins anew");
    }

    #[test]
    fn the_steps_that_ask_the_primary_are_steps() {
        use ha_core::step::Step;
        let node: NodeId = "n1".parse().expect("a valid name");
        let steps = [
            Step::Follow { primary: node.clone() },
            Step::Compare { primary: node.clone() },
            Step::Rewind { primary: node.clone() },
            Step::Clone { primary: node },
        ];
        assert_eq!(steps.map(|step| step.name()), ASK_THE_PRIMARY);
    }
}
