//! How long writes stood still after each fault, and failovers that nobody needed.

use std::collections::BTreeMap;

use super::{Class, Verdict, seconds};
use crate::history::{F, History, Kind, Outcome, Value};

/// A fault as it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Its name.
    pub name: String,
    /// To whom.
    pub targets: Vec<String>,
    /// When it was begun, nanoseconds.
    pub from_ns: u64,
    /// When it had been ended, nanoseconds; for a fault without an end, when it had been done.
    pub to_ns: u64,
    /// Whether it was ended by a heal, and not only by itself or by the end of the run.
    pub healed: bool,
    /// Whether it is certain that it was there.
    pub sure: bool,
    /// Index of its beginning.
    pub index: u64,
}

/// An epoch that began.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EpochChange {
    /// When, nanoseconds.
    pub time_ns: u64,
    /// Which.
    pub epoch: u64,
    /// To whom it was granted.
    pub node: String,
}

/// What is asked of a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bounds {
    /// Within how many nanoseconds a write must be acknowledged after a fault, by the fault's name.
    pub after_ns: BTreeMap<String, u64>,
    /// The same for all other faults.
    pub otherwise_ns: u64,
    /// Names of faults that can cost nobody the lease: a new epoch is not excused by them.
    pub harmless: Vec<String>,
    /// For how many nanoseconds after its end a fault excuses a new epoch.
    pub excuse_ns: u64,
}

impl Bounds {
    fn of(&self, name: &str) -> u64 {
        self.after_ns.get(name).copied().unwrap_or(self.otherwise_ns)
    }
}

/// Returns the faults of a history that were there, or may have been, in the order of their begin.
#[must_use]
pub fn windows(history: &History) -> Vec<Window> {
    let end_ns = history.end_ns();
    let mut windows: Vec<Window> = Vec::new();
    for pair in history.pairs() {
        let Value::Fault(asked) = &pair.invoke.value else { continue };
        let told = pair.completion.and_then(|end| match &end.value {
            Value::Fault(fault) => Some((fault, end)),
            _ => None,
        });
        let outcome = match told {
            // A fault whose end was recorded without a word on it may be there.
            Some((fault, end)) if end.kind == Kind::Ok => fault.outcome,
            Some((_, end)) if end.kind == Kind::Fail => Some(Outcome::Skipped),
            _ => None,
        };
        if outcome == Some(Outcome::Skipped) {
            continue;
        }
        if pair.invoke.f == F::Heal {
            let open =
                windows.iter_mut().rev().find(|open| open.name == asked.name && !open.healed);
            if let Some(open) = open {
                open.to_ns = told.map_or(end_ns, |(_, end)| end.time_ns);
                open.healed = true;
            }
            continue;
        }
        windows.push(Window {
            name: asked.name.clone(),
            targets: told.map_or(&asked.targets, |(fault, _)| &fault.targets).clone(),
            from_ns: pair.invoke.time_ns,
            to_ns: pair.completion.map_or(end_ns, |end| end.time_ns),
            healed: false,
            sure: outcome == Some(Outcome::Installed),
            index: pair.invoke.index,
        });
    }
    windows
}

/// Checks how soon after each fault a write was acknowledged, and whether each new epoch had a
/// reason. The first of the epochs needs none.
///
/// After a fault means: sent after it had been begun. A fault that is over before its bound is judged
/// from its begin on, a longer one from its end on, since a quorum may be gone until then; a fault
/// that another one overlaps or follows within the bound is only measured, not judged.
#[must_use]
pub fn check(history: &History, bounds: &Bounds, epochs: &[EpochChange]) -> Verdict {
    let mut verdict = Verdict::new("recovery");
    let windows = windows(history);
    let mut acks: Vec<(u64, u64)> = history
        .pairs()
        .iter()
        .filter_map(|pair| {
            let ok = pair.ok().filter(|ok| ok.f.writes(&ok.value))?;
            Some((pair.invoke.time_ns, ok.time_ns))
        })
        .collect();
    acks.sort_unstable_by_key(|&(_, end_ns)| end_ns);
    verdict.figure("faults", windows.len() as u64);
    verdict.figure("longest gap ms", longest_gap(&acks) / 1_000_000);
    for (place, window) in windows.iter().enumerate() {
        judge(history, bounds, &windows, place, &acks, &mut verdict);
        if !window.sure {
            verdict.count("indeterminate faults", 1);
        }
    }
    needless(bounds, &windows, epochs, &mut verdict);
    verdict
}

fn longest_gap(acks: &[(u64, u64)]) -> u64 {
    acks.windows(2).map(|two| two[1].1 - two[0].1).max().unwrap_or(0)
}

fn judge(
    history: &History,
    bounds: &Bounds,
    windows: &[Window],
    place: usize,
    acks: &[(u64, u64)],
    verdict: &mut Verdict,
) {
    let window = &windows[place];
    let bound_ns = bounds.of(&window.name);
    let first = |since_ns: u64| {
        acks.iter().filter(|(start_ns, _)| *start_ns >= since_ns).map(|(_, end_ns)| *end_ns).min()
    };
    let since_ns =
        if window.to_ns - window.from_ns < bound_ns { window.from_ns } else { window.to_ns };
    let until_ns = since_ns.saturating_add(bound_ns);
    let answered = first(since_ns);
    if let Some(answered_ns) = answered {
        let name = format!("slowest ms after {}", window.name);
        let took_ms = (answered_ns - since_ns) / 1_000_000;
        let slowest = verdict.counts.get(&name).copied().unwrap_or(0).max(took_ms);
        verdict.figure(&name, slowest);
    }
    let crowded = windows.iter().enumerate().any(|(other, with)| {
        other != place
            && with.from_ns < until_ns
            && with.to_ns.saturating_add(bounds.of(&with.name)) > window.from_ns
    });
    // The run may have ended too early to say.
    let too_early = answered.is_none() && history.end_ns() < until_ns;
    if crowded || too_early {
        verdict.count("not judged", 1);
        return;
    }
    verdict.count("judged", 1);
    if answered.is_none_or(|answered_ns| answered_ns > until_ns) {
        let when = answered.map_or("never".to_owned(), |at| format!("only at {}", seconds(at)));
        let text = format!(
            "{} of {:?} from {} to {}: a write sent after {} was acknowledged {when}, not within {}",
            window.name,
            window.targets,
            seconds(window.from_ns),
            seconds(window.to_ns),
            seconds(since_ns),
            seconds(bound_ns)
        );
        verdict.find(Class::SlowRecovery, vec![window.index], text);
    }
}

fn needless(bounds: &Bounds, windows: &[Window], epochs: &[EpochChange], verdict: &mut Verdict) {
    let mut epochs: Vec<&EpochChange> = epochs.iter().collect();
    epochs.sort_by_key(|change| change.epoch);
    for change in epochs.into_iter().skip(1) {
        verdict.count("failovers", 1);
        let excused = windows.iter().any(|window| {
            !bounds.harmless.contains(&window.name)
                && window.from_ns <= change.time_ns
                && change.time_ns <= window.to_ns.saturating_add(bounds.excuse_ns)
        });
        if !excused {
            let text = format!(
                "epoch {} began on {} at {}, and no fault was there that asked for it",
                change.epoch,
                change.node,
                seconds(change.time_ns)
            );
            verdict.find(Class::NeedlessFailover, Vec::new(), text);
        }
    }
}
