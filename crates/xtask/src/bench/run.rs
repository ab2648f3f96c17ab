//! One fault, once: what the clients saw, and how the cluster got well again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::faults::Fault;
use crate::bench::stats::{self, Ack, Client};
use crate::bench::stop;
use crate::bench::subject::Subject;
use crate::bench::writer::{Journal, Writers};
use crate::failure::{Failure, Outcome};

/// How long writes may be gone.
const OUTAGE_MAX: Duration = Duration::from_mins(1);
/// How long a node may take to stream again.
const REJOIN_MAX: Duration = Duration::from_secs(90);

/// What one run showed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) fault: Fault,
    pub(crate) number: u32,
    /// The old primary's name, and who is primary afterwards.
    pub(crate) old: String,
    pub(crate) new: String,
    pub(crate) epochs: (u64, u64),
    /// Longest time between two acknowledgements before the fault, milliseconds.
    pub(crate) usual_ms: f64,
    /// Longest time between two acknowledgements around the fault, milliseconds.
    pub(crate) gap_ms: f64,
    /// See [`stats::margin_ms`].
    pub(crate) margin_ms: Option<f64>,
    /// Acknowledged to application and pinned clients.
    pub(crate) acked: (usize, usize),
    /// Of these not there afterwards.
    pub(crate) lost: (usize, usize),
    /// From reachable again to streaming again, milliseconds.
    pub(crate) rejoin_ms: f64,
    /// From reachable again to a healthy cluster, milliseconds.
    pub(crate) healthy_ms: f64,
    /// How often the agent was started again (by its supervisor).
    pub(crate) restarts: u32,
}

impl Run {
    /// Returns whether two nodes acknowledged at the same time.
    pub(crate) fn overlaps(&self) -> bool {
        self.margin_ms.is_some_and(|margin| margin <= 0.0)
    }

    /// Returns the raw numbers.
    pub(crate) fn json(&self) -> Value {
        json!({
            "fault": self.fault.name(), "run": self.number, "old": self.old, "new": self.new,
            "epoch_before": self.epochs.0, "epoch_after": self.epochs.1,
            "usual_gap_ms": self.usual_ms, "gap_ms": self.gap_ms,
            "last_old_to_first_new_ms": self.margin_ms, "overlap": self.overlaps(),
            "acked_app": self.acked.0, "acked_pinned": self.acked.1,
            "lost_app": self.lost.0, "lost_pinned": self.lost.1,
            "rejoin_ms": self.rejoin_ms, "healthy_ms": self.healthy_ms,
            "agent_restarts": self.restarts,
        })
    }
}

/// Runs a fault once on a healthy cluster; ends with a healthy cluster.
pub(crate) fn run(
    subject: &mut impl Subject,
    journal: &Arc<Journal>,
    fault: Fault,
    number: u32,
    ttl: Duration,
) -> Outcome<Run> {
    let before = subject.wait_healthy()?;
    let old = subject.primary(&before)?;
    let starts = subject.starts(old);
    journal.clear();
    let mut writers = Writers::none();
    let (network, targets) = subject.application()?;
    writers.start_app(journal, network, &targets);
    let (network, target) = subject.pinned(old)?;
    writers.start_pinned(journal, network, &target);
    warm_up(journal)?;

    let fault_at = journal.now();
    let injected = Instant::now();
    subject.inject(fault, old)?;
    let (reachable, rejoin) = if fault.moves_primary() {
        wait_for_writes(journal, fault, old, fault_at, ttl)?;
        let healed = Instant::now();
        subject.end(fault, old)?;
        (healed, wait_for_stream(subject, old, healed)?)
    } else {
        // A node that was never out of reach may come back from the moment it was hurt.
        (injected, wait_for_stream(subject, old, injected)?)
    };
    subject.wait_healthy()?;
    let healthy = reachable.elapsed();
    if !fault.moves_primary() {
        wait_for_writes(journal, fault, old, fault_at, ttl)?;
    }
    // Writing goes on while the node comes back: that is when it might acknowledge by mistake.
    stop::pause(Duration::from_secs(1))?;
    let ended_at = journal.now();
    writers.stop()?;
    let after = subject.wait_healthy()?;

    let acks = journal.acks();
    let new = subject.primary(&after)?;
    let bounds = (acks.iter().map(|a| a.value).min(), acks.iter().map(|a| a.value).max());
    let (Some(low), Some(high)) = bounds else {
        return Err(Failure::new("no write was acknowledged"));
    };
    let present = subject.present(new, low, high)?;
    let name = |index: usize| subject.names()[index].to_owned();
    let gap = |from, to| stats::longest_gap(&acks, from, to).map_or(0.0, milliseconds);
    Ok(Run {
        fault,
        number,
        old: name(old),
        new: name(new),
        epochs: (before.epoch, after.epoch),
        usual_ms: gap(Duration::ZERO, fault_at.saturating_sub(Duration::from_millis(200))),
        gap_ms: gap(fault_at, ended_at),
        margin_ms: stats::margin_ms(&acks, old),
        acked: (stats::count(&acks, Client::App), stats::count(&acks, Client::Pinned)),
        lost: (
            stats::lost(&acks, &present, Client::App),
            stats::lost(&acks, &present, Client::Pinned),
        ),
        rejoin_ms: milliseconds(rejoin),
        healthy_ms: milliseconds(healthy),
        restarts: subject.starts(old).saturating_sub(starts),
    })
}

/// Waits until both clients write steadily.
fn warm_up(journal: &Journal) -> Outcome<()> {
    stop::until("both clients write", Duration::from_secs(20), || {
        let acks = journal.acks();
        Ok([Client::App, Client::Pinned].iter().all(|c| stats::count(&acks, *c) >= 75))
    })
}

/// Waits until the application writes steadily again, on the other node if it has to be that.
fn wait_for_writes(
    journal: &Journal,
    fault: Fault,
    old: usize,
    fault_at: Duration,
    ttl: Duration,
) -> Outcome<()> {
    // What was under way when the fault struck may still be acknowledged.
    let settled = fault_at + Duration::from_millis(100);
    let counts = |ack: &Ack| {
        ack.client == Client::App && ack.at > settled && !(fault.moves_primary() && ack.node == old)
    };
    stop::until("writes went on", OUTAGE_MAX, || {
        Ok(journal.acks().iter().filter(|ack| counts(ack)).count() >= 10)
    })?;
    let watched = journal.now().saturating_sub(fault_at);
    stop::pause(fault.watch(ttl).saturating_sub(watched).max(Duration::from_millis(500)))
}

/// Waits until whoever is not the primary streams from it; returns the time since `reachable`.
fn wait_for_stream(subject: &impl Subject, old: usize, reachable: Instant) -> Outcome<Duration> {
    let mut took = Duration::ZERO;
    stop::until("the old node streams again", REJOIN_MAX, || {
        // The primary is whoever has a standby; ask the other node first, it is the likelier one.
        let streams = [1 - old, old].into_iter().any(|primary| {
            let standby = subject.names()[1 - primary];
            let query = format!(
                "select 1 from pg_stat_replication where state = 'streaming' and \
                 application_name = '{standby}' and not pg_is_in_recovery()"
            );
            subject.sql(primary, &query).is_ok_and(|lines| lines == ["1"])
        });
        took = reachable.elapsed();
        Ok(streams)
    })?;
    Ok(took)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
