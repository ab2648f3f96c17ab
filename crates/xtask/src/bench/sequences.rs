//! Two faults in a row. Each has to be survived with every acknowledged insert (issue 3, "Bars").

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::bench::rig::Rig;
use crate::bench::stats::{self, Ack, Client, spread};
use crate::bench::stop;
use crate::bench::subject::Subject as _;
use crate::bench::world::Place;
use crate::bench::writer::{Journal, Writers};
use crate::failure::{Failure, Outcome};

/// How long writes may be gone, beyond a freeze.
const OUTAGE_MAX: Duration = Duration::from_mins(1);
/// How many inserts are acknowledged between two faults: about a second of them.
const BETWEEN: usize = 50;
/// Index of the witness.
const WITNESS: usize = 2;

/// A sequence of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sequence {
    /// Standby down, writes, primary dies for good, standby back
    StandbyBack,
    /// Witness down, writes, witness back, primary dies
    WitnessBack,
    /// Standby down, back, primary killed while it catches up
    CatchingUp,
    /// Primary frozen and thawed under load with open sessions
    Freeze,
}

impl Sequence {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::StandbyBack, Self::WitnessBack, Self::CatchingUp, Self::Freeze];

    /// Returns what it is, for the table.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::StandbyBack => "standby down, writes, primary dies for good, standby back",
            Self::WitnessBack => "witness down, writes, witness back, primary dies",
            Self::CatchingUp => "standby down, back, primary killed while it catches up",
            Self::Freeze => "primary frozen and thawed under load with open sessions",
        }
    }
}

/// What one run showed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) sequence: Sequence,
    pub(crate) number: u32,
    /// Inserts acknowledged to all clients.
    pub(crate) acked: usize,
    /// Of these not there while the old primary was gone, or afterwards.
    pub(crate) lost: usize,
    /// See [`stats::overlaps`].
    pub(crate) overlaps: usize,
    /// Longest time between two acknowledgements since the primary's end, milliseconds.
    pub(crate) gap_ms: f64,
    /// From the old primary's return to a cluster where everybody acknowledges, milliseconds.
    pub(crate) healthy_ms: f64,
}

impl Run {
    /// Returns the raw numbers.
    pub(crate) fn json(&self) -> Value {
        json!({
            "sequence": self.sequence.title(), "run": self.number, "acked": self.acked,
            "lost": self.lost, "overlaps": self.overlaps, "gap_ms": self.gap_ms,
            "healthy_ms": self.healthy_ms,
        })
    }
}

/// Returns the table.
pub(crate) fn table(runs: &[Run]) -> String {
    let mut out = String::from(
        "\nSequences of faults. Lost: acknowledged and not there, neither while the old primary was \
         gone nor when all was well again. Overlaps: inserts that the old primary acknowledged and \
         was sent after the new one had begun. Write gap: longest time between two acknowledgements \
         since the primary's end. Times min / median / max.\n\n\
         | sequence | runs | acknowledged | lost | overlaps | write gap ms | well again ms |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for sequence in Sequence::ALL {
        let of: Vec<&Run> = runs.iter().filter(|run| run.sequence == sequence).collect();
        if of.is_empty() {
            continue;
        }
        let sum = |part: fn(&Run) -> usize| of.iter().map(|run| part(run)).sum::<usize>();
        let shown = |part: fn(&Run) -> f64| {
            spread(of.iter().map(|run| part(run))).map_or_else(String::new, |s| s.shown())
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            sequence.title(),
            of.len(),
            sum(|run| run.acked),
            sum(|run| run.lost),
            sum(|run| run.overlaps),
            shown(|run| run.gap_ms),
            shown(|run| run.healthy_ms),
        );
    }
    out
}

/// Runs a sequence once on a healthy cluster; ends with a healthy cluster.
pub(crate) fn run(
    rig: &mut Rig,
    journal: &Arc<Journal>,
    sequence: Sequence,
    number: u32,
    freeze: Duration,
) -> Outcome<Run> {
    let old = rig.primary(&rig.wait_acknowledging()?)?;
    let new = 1 - old;
    journal.clear();
    let mut writers = Writers::none();
    let targets = rig.targets()?;
    writers.start_app(journal, rig.world.network(Place::Hub), &targets);
    writers.start_pinned(journal, rig.world.network(Place::Host(old)), &targets[old]);
    more(journal, BETWEEN)?;
    let ended = match sequence {
        Sequence::StandbyBack => standby_back(rig, journal, old)?,
        Sequence::WitnessBack => witness_back(rig, journal, old)?,
        Sequence::CatchingUp => catching_up(rig, journal, old)?,
        Sequence::Freeze => {
            let frozen = journal.now();
            rig.freeze(old)?;
            frozen
        }
    };
    stop::until("the other node acknowledged", OUTAGE_MAX, || {
        let acks = journal.acks();
        let by_new = acks.iter().filter(|ack| ack.node == new && ack.at > ended);
        Ok(by_new.count() >= BETWEEN)
    })?;
    // What was acknowledged so far has to be there without the old primary's help.
    let mut lost = missing(rig, new, &journal.acks())?;
    let back = come_back(rig, journal, sequence, old, ended + freeze)?;
    rig.wait_acknowledging()?;
    let healthy = back.elapsed();
    more(journal, BETWEEN)?;
    let ended_at = journal.now();
    writers.stop()?;
    let acks = journal.acks();
    lost = lost.max(missing(rig, new, &acks)?);
    let gap = stats::longest_gap(&acks, ended, ended_at).unwrap_or_default();
    Ok(Run {
        sequence,
        number,
        acked: acks.len(),
        lost,
        overlaps: stats::overlaps(&acks, old),
        gap_ms: gap.as_secs_f64() * 1000.0,
        healthy_ms: healthy.as_secs_f64() * 1000.0,
    })
}

/// Brings the old primary back; returns when that was.
fn come_back(
    rig: &mut Rig,
    journal: &Arc<Journal>,
    sequence: Sequence,
    old: usize,
    thaw_at: Duration,
) -> Outcome<Instant> {
    match sequence {
        Sequence::StandbyBack | Sequence::WitnessBack | Sequence::CatchingUp => {
            rig.start_agent(old);
        }
        Sequence::Freeze => {
            stop::pause(thaw_at.saturating_sub(journal.now()))?;
            rig.thaw(old);
        }
    }
    Ok(Instant::now())
}

/// Ends the primary after the standby; returns when the primary ended. The standby is back.
fn standby_back(rig: &mut Rig, journal: &Arc<Journal>, old: usize) -> Outcome<Duration> {
    rig.kill_node(1 - old)?;
    more(journal, BETWEEN)?;
    let ended = journal.now();
    rig.kill_node(old)?;
    rig.start_agent(1 - old);
    Ok(ended)
}

/// Ends the witness, brings it back, then ends the primary.
fn witness_back(rig: &mut Rig, journal: &Arc<Journal>, old: usize) -> Outcome<Duration> {
    rig.kill_node(WITNESS)?;
    more(journal, BETWEEN)?;
    rig.start_agent(WITNESS);
    // As soon as it has a vote again, and not only when it acknowledges again.
    let name = rig.cluster.nodes[WITNESS].name.clone();
    stop::until("the witness came back", OUTAGE_MAX, || {
        let reachable = |node: &&crate::cluster::status::NodeStatus| {
            node.name == name && node.state != "unreachable"
        };
        Ok(rig.status().is_ok_and(|status| status.nodes.iter().any(|node| reachable(&node))))
    })?;
    let ended = journal.now();
    rig.kill_node(old)?;
    Ok(ended)
}

/// Ends the standby, brings it back, and ends the primary as soon as the standby's server is up.
fn catching_up(rig: &mut Rig, journal: &Arc<Journal>, old: usize) -> Outcome<Duration> {
    rig.kill_node(1 - old)?;
    // Enough that catching up takes a moment.
    let bulk = "select count(pg_logical_emit_message(false, 'bulk', repeat('x', 1000000))) \
                from generate_series(1, 32)";
    rig.sql(old, bulk)?;
    more(journal, BETWEEN)?;
    rig.start_agent(1 - old);
    stop::until("the standby's server was up", OUTAGE_MAX, || {
        Ok(rig.sql(1 - old, "select 1").is_ok())
    })?;
    let ended = journal.now();
    rig.kill_node(old)?;
    Ok(ended)
}

/// Waits for further acknowledgements to the application.
fn more(journal: &Journal, count: usize) -> Outcome<()> {
    let enough = stats::count(&journal.acks(), Client::App) + count;
    stop::until("writes were acknowledged", OUTAGE_MAX, || {
        Ok(stats::count(&journal.acks(), Client::App) >= enough)
    })
}

/// Returns how many acknowledged inserts a node does not have.
fn missing(rig: &Rig, node: usize, acks: &[Ack]) -> Outcome<usize> {
    let bounds = (acks.iter().map(|a| a.value).min(), acks.iter().map(|a| a.value).max());
    let (Some(low), Some(high)) = bounds else {
        return Err(Failure::new("no write was acknowledged"));
    };
    let present = rig.present(node, low, high)?;
    let lost = |client| stats::lost(acks, &present, client);
    Ok(lost(Client::App) + lost(Client::Pinned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up_what_was_lost_in_all_runs_of_a_sequence() {
        let run = |number, lost| Run {
            sequence: Sequence::Freeze,
            number,
            acked: 100,
            lost,
            overlaps: 0,
            gap_ms: 3000.0,
            healthy_ms: 900.0,
        };
        let text = table(&[run(1, 0), run(2, 3)]);
        let line = text.lines().last().unwrap();
        assert!(line.ends_with("| 2 | 200 | 3 | 0 | 3000 / 3000 / 3000 | 900 / 900 / 900 |"));
    }
}
