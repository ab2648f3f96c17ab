//! The checkers' word on a history.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ValueEnum as _;

use super::verdict::{Check, Word};
use super::watch::Interval;
use super::{Options, announced};
use crate::checker::list_append::{self, Level as Isolation};
use crate::checker::recovery::{Bounds, EpochChange};
use crate::checker::{self, Outcome, Validity, bank};
use crate::harness::{Harness, Trying as _};
use crate::history::History;
use crate::nemesis::{Fault, Plan};
use crate::report::{self, Lease, Run};
use crate::workload::Level;
use crate::workload::schema::{ACCOUNTS, BALANCE};

/// For so long a fault excuses a new epoch after its end: a node comes back, a machine is busy.
const EXCUSE_NS: u64 = 20_000_000_000;

/// Returns what a run has to be judged by.
pub fn asked(options: &Options, plan: &Plan, dir: &Path, seen: &[Interval]) -> Run {
    let nanos = ha_core::clock::nanos;
    let note = |name: &str, value: String| (name.to_owned(), value);
    let leases: Vec<Lease> = seen
        .iter()
        .map(|interval| Lease {
            node: interval.node.clone(),
            epoch: interval.epoch,
            from_ns: nanos(interval.from),
            to_ns: nanos(interval.to),
        })
        .collect();
    let epochs = leases.iter().map(|lease| EpochChange {
        time_ns: lease.from_ns,
        epoch: lease.epoch,
        node: lease.node.clone(),
    });
    let mut epochs: Vec<EpochChange> = epochs.collect();
    epochs.sort_by_key(|change| change.time_ns);
    Run {
        test: options.name(),
        started: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        notes: vec![
            note("environment", options.env.name().to_owned()),
            note("workload", options.workload.name().to_owned()),
            note("level", options.level.sql().to_owned()),
            note("seed", options.seed.to_string()),
            note("seconds", options.seconds.to_string()),
            note("rate", options.rate.to_string()),
            note("durability", options.durability.mode().name().to_owned()),
            note("script", plan.text()),
        ],
        lists: isolation(options.level),
        bank: Some(bank::Rules { total: ACCOUNTS * BALANCE, negative: false }),
        recovery: Some(bounds()),
        epochs,
        leases,
        frozen_guards: plan.any(Fault::allows_stale_reads),
        announced: Some(announced::by(plan)),
    }
}

/// Checks the history of a run, and writes what the checkers say in full, with pictures.
///
/// # Errors
/// If it cannot be written, or does not make sense: that is a fault of the suite.
pub fn history(run: &Run, history: &History, dir: &Path) -> Result<Vec<Check>, Harness> {
    let logs = report::store::read_logs(dir).trying(|| "read the logs".to_owned())?;
    let outcome = report::check(run, history, &logs);
    report::write(dir, run, history, &outcome).trying(|| "write the report".to_owned())?;
    checks(&outcome)
}

/// Checks the history of a run that is over.
///
/// # Errors
/// If it cannot be read, or does not make sense: that is a fault of the suite.
pub fn again(dir: &Path) -> Result<Vec<Check>, Harness> {
    checks(&report::analyze(dir).trying(|| format!("check {}", dir.display()))?)
}

fn checks(outcome: &Outcome) -> Result<Vec<Check>, Harness> {
    if let Some(first) = outcome.harness.first() {
        return Err(Harness::new(format!("the history says nothing of the cluster: {first}")));
    }
    Ok(outcome.verdicts.iter().map(check).collect())
}

fn check(verdict: &checker::Verdict) -> Check {
    let word = match verdict.valid {
        Validity::Told => Word::Info,
        Validity::Valid => Word::Valid,
        Validity::Unknown => Word::Unknown,
        Validity::Invalid => Word::Invalid,
    };
    Check::new(&verdict.checker, word, verdict.line())
}

/// What PostgreSQL promises at a level. Its serializable transactions may be put into an order in which one
/// comes before another that had ended before it began; snapshots are taken of the present.
fn isolation(level: Level) -> list_append::Options {
    let (level, current) = match level {
        Level::ReadCommitted => (Isolation::ReadCommitted, false),
        Level::RepeatableRead => (Isolation::SnapshotIsolation, true),
        Level::Serializable => (Isolation::Serializable, false),
    };
    list_append::Options { level, session: current, real_time: current }
}

fn bounds() -> Bounds {
    let nanos = ha_core::clock::nanos;
    let faults = Fault::value_variants().iter();
    let after_ns: BTreeMap<String, u64> =
        faults.clone().map(|fault| (fault.name(), nanos(fault.recovery()))).collect();
    let harmless = faults.filter(|fault| fault.is_harmless()).map(|fault| fault.name()).collect();
    let otherwise_ns = nanos(Fault::KillAgent.recovery());
    Bounds { after_ns, otherwise_ns, harmless, excuse_ns: EXCUSE_NS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_bound() {
        let bounds = bounds();
        assert_eq!(bounds.after_ns.len(), Fault::value_variants().len());
        assert!(bounds.after_ns.values().all(|ns| *ns > 0));
        assert!(bounds.harmless.contains(&"config-set".to_owned()));
    }

    #[test]
    fn only_snapshots_are_asked_to_be_of_the_present() {
        assert!(isolation(Level::RepeatableRead).real_time);
        assert!(!isolation(Level::Serializable).real_time);
    }
}
