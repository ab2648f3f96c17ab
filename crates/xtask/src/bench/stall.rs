//! How long commits take while one of the two acknowledgers is lost.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bench::rig::Rig;
use crate::bench::stats::{self, spread};
use crate::bench::stop;
use crate::bench::subject::Subject as _;
use crate::bench::world::{self, Place};
use crate::bench::writer::{Journal, Writers};
use crate::failure::{Failure, Outcome};

/// How much longer than usual the slowest commit may take (issue 3, "Bars"), milliseconds.
const SLOWER_MS: f64 = 200.0;
/// How long to watch the cluster without a fault, and with one: longer than any timeout in it.
const USUAL: Duration = Duration::from_secs(5);
const HURT: Duration = Duration::from_secs(8);
/// How long a commit may take at all before measuring is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Index of the witness.
const WITNESS: usize = 2;

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Standby,
    Witness,
}

/// How it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// All of the node, by SIGKILL.
    Killed,
    /// All of the node, by SIGSTOP.
    Frozen,
    /// The node's network.
    Cut,
    /// The process that receives WAL, by SIGKILL.
    ReceiverKilled,
    /// The process that receives WAL, by SIGSTOP.
    ReceiverFrozen,
    /// The agent, by SIGKILL; its supervisor starts it again.
    AgentKilled,
}

const WHO: [Who; 2] = [Who::Standby, Who::Witness];
const HOW: [How; 6] = [
    How::Killed,
    How::Frozen,
    How::Cut,
    How::ReceiverKilled,
    How::ReceiverFrozen,
    How::AgentKilled,
];

/// What one run showed: the slowest commits, milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) who: Who,
    pub(crate) how: How,
    /// Without the fault.
    pub(crate) usual_ms: f64,
    /// With it.
    pub(crate) hurt_ms: f64,
    /// Acknowledged, and of these not there.
    pub(crate) acked: usize,
    pub(crate) lost: usize,
}

impl Run {
    /// Returns the raw numbers.
    pub(crate) fn json(&self) -> Value {
        json!({
            "who": self.who(), "how": self.how(), "usual_ms": self.usual_ms,
            "hurt_ms": self.hurt_ms, "acked": self.acked, "lost": self.lost,
        })
    }

    /// Returns the run in one line.
    pub(crate) fn line(&self) -> String {
        let Self { usual_ms, hurt_ms, acked, lost, .. } = self;
        let (who, how) = (self.who(), self.how());
        format!("{who} {how}: {hurt_ms:.0} ms, usually {usual_ms:.0} ms; {lost} of {acked} lost")
    }

    const fn who(&self) -> &'static str {
        match self.who {
            Who::Standby => "standby",
            Who::Witness => "witness",
        }
    }

    const fn how(&self) -> &'static str {
        match self.how {
            How::Killed => "killed",
            How::Frozen => "frozen",
            How::Cut => "cut off",
            How::ReceiverKilled => "receiver killed",
            How::ReceiverFrozen => "receiver frozen",
            How::AgentKilled => "agent killed, restarted",
        }
    }
}

/// Returns the table.
pub(crate) fn table(runs: &[Run]) -> String {
    let mut out = format!(
        "\nSlowest commit under load while one acknowledger is lost, over {} s, against {} s before \
         in the same run. Times min / median / max.\n\n\
         | lost | runs | acknowledged | lost rows | usual ms | during the fault ms | ≤ usual + 200 ms |\n\
         |---|---|---|---|---|---|---|\n",
        HURT.as_secs(),
        USUAL.as_secs()
    );
    for who in WHO {
        for how in HOW {
            let of: Vec<&Run> = runs.iter().filter(|r| r.who == who && r.how == how).collect();
            let Some(first) = of.first() else { continue };
            let shown = |part: fn(&Run) -> f64| {
                spread(of.iter().map(|run| part(run))).map_or_else(String::new, |s| s.shown())
            };
            let met = of.iter().filter(|run| run.hurt_ms <= run.usual_ms + SLOWER_MS).count();
            let _ = writeln!(
                out,
                "| {} {} | {} | {} | {} | {} | {} | {met} of {} |",
                first.who(),
                first.how(),
                of.len(),
                of.iter().map(|run| run.acked).sum::<usize>(),
                of.iter().map(|run| run.lost).sum::<usize>(),
                shown(|run| run.usual_ms),
                shown(|run| run.hurt_ms),
                of.len()
            );
        }
    }
    out
}

/// Measures each loss once on a healthy cluster; ends with a healthy cluster.
pub(crate) fn measure(
    rig: &mut Rig,
    journal: &Arc<Journal>,
    mut found: impl FnMut(Run),
) -> Outcome<()> {
    for who in WHO {
        for how in HOW {
            found(once(rig, journal, who, how)?);
        }
    }
    Ok(())
}

fn once(rig: &mut Rig, journal: &Arc<Journal>, who: Who, how: How) -> Outcome<Run> {
    let primary = rig.primary(&rig.wait_acknowledging()?)?;
    let victim = match who {
        Who::Standby => 1 - primary,
        Who::Witness => WITNESS,
    };
    journal.clear();
    let mut writers = Writers::none();
    let (network, targets) = (rig.world.network(Place::Hub), rig.targets()?);
    writers.start_patient(journal, network, &targets, PATIENCE);
    more(journal, primary)?;
    let from = journal.now();
    stop::pause(USUAL)?;
    let fault_at = journal.now();
    let receiver = rig.receiver(victim)?;
    match how {
        How::Killed => rig.kill_node(victim)?,
        How::Frozen => rig.freeze(victim)?,
        How::Cut => rig.world.cut(victim)?,
        How::ReceiverKilled => world::kill(&receiver),
        How::ReceiverFrozen => receiver.signal(Signal::STOP),
        How::AgentKilled => world::kill(&rig.agent(victim)?),
    }
    stop::pause(HURT)?;
    let to = journal.now();
    // What is under way now counts as well, however long it takes.
    more(journal, primary)?;
    match how {
        How::Killed => rig.start_agent(victim),
        How::Frozen => rig.thaw(victim),
        How::Cut => rig.world.heal(victim)?,
        How::ReceiverFrozen => receiver.signal(Signal::CONT),
        How::ReceiverKilled | How::AgentKilled => {}
    }
    let after = rig.primary(&rig.wait_acknowledging()?)?;
    writers.stop()?;
    let (acks, unanswered) = (journal.acks(), journal.unanswered());
    let low = acks.iter().map(|ack| ack.value).min().unwrap_or(0);
    let high = acks.iter().map(|ack| ack.value).max().unwrap_or(0);
    let present = rig.present(after, low, high)?;
    if after != primary {
        return Err(Failure::new("the primary moved although only an acknowledger was lost"));
    }
    let slowest = |from, to| {
        let slowest = stats::slowest(&acks, &unanswered, primary, from, to);
        slowest.unwrap_or_default().as_secs_f64() * 1000.0
    };
    Ok(Run {
        who,
        how,
        usual_ms: slowest(from, fault_at),
        hurt_ms: slowest(fault_at, to),
        acked: acks.len(),
        lost: acks.iter().filter(|ack| !present.contains(&ack.value)).count(),
    })
}

/// Waits for a few more acknowledgements of a node.
fn more(journal: &Journal, node: usize) -> Outcome<()> {
    let count = || journal.acks().iter().filter(|ack| ack.node == node).count();
    let enough = count() + 5;
    stop::until("commits went on", PATIENCE, || Ok(count() >= enough))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_commit_is_counted_against_its_own_run() {
        let run = |usual_ms, hurt_ms| Run {
            who: Who::Witness,
            how: How::Cut,
            usual_ms,
            hurt_ms,
            acked: 10,
            lost: 0,
        };
        let text = table(&[run(20.0, 219.0), run(20.0, 221.0)]);
        let line = text.lines().last().unwrap();
        assert!(line.starts_with("| witness cut off | 2 | 20 | 0 |"), "{line}");
        assert!(line.ends_with("| 1 of 2 |"), "{line}");
    }
}
