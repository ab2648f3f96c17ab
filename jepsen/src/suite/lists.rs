//! Which runs there are.

use std::path::Path;

use super::List;
use crate::env::Kind;
use crate::workload::{Level, Workload};

/// One run of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) env: Kind,
    pub(super) workload: Workload,
    pub(super) level: Level,
    pub(super) nemesis: &'static str,
    pub(super) seconds: u64,
    pub(super) rate: u64,
}

impl Entry {
    /// Returns a name that tells it from the others of its list.
    pub(super) fn name(&self) -> String {
        let level = match self.workload {
            Workload::Append | Workload::Bank => format!("/{}", value(&self.level)),
            _ => String::new(),
        };
        format!("{}/{}{level}/{}", value(&self.env), value(&self.workload), self.nemesis)
    }

    /// Returns what makes it.
    pub(super) fn arguments(&self, store: &Path, seed: u64) -> Vec<String> {
        let Self { env, workload, level, nemesis, seconds, rate } = self;
        let pairs = [
            ("--env", value(env)),
            ("--workload", value(workload)),
            ("--level", value(level)),
            ("--nemesis", (*nemesis).to_owned()),
            ("--seconds", seconds.to_string()),
            ("--rate", rate.to_string()),
            ("--seed", seed.to_string()),
            ("--store", store.display().to_string()),
        ];
        let flat = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        std::iter::once("run".to_owned()).chain(flat).collect()
    }
}

fn value(of: &impl clap::ValueEnum) -> String {
    of.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Returns the runs of a list.
pub(super) fn of(list: List) -> Vec<Entry> {
    match list {
        List::Quick => entries(&QUICK, 65, 60),
        List::Full => {
            let besides = [entries(&CONTAINERS, 120, 60), entries(&MEMBERS, 180, 80)].concat();
            [entries(&FULL, 300, 80), besides].concat()
        }
    }
}

type Kinds = (Kind, Workload, Level, &'static str);

fn entries(list: &[Kinds], seconds: u64, rate: u64) -> Vec<Entry> {
    let entry = |&(env, workload, level, nemesis): &Kinds| Entry {
        env,
        workload,
        level,
        nemesis,
        seconds,
        rate,
    };
    list.iter().map(entry).collect()
}

use Kind::{Compose, Netns, Process};
use Level::{ReadCommitted, RepeatableRead, Serializable};
use Workload::{Append, Bank, Probe, Register, Set};

const QUICK: [Kinds; 5] = [
    (Netns, Append, Serializable, "kill,partition"),
    (Netns, Set, ReadCommitted, "kill,pause,partition,cancel-waits"),
    (Process, Register, Serializable, "kill,pause-agent,pause-receiver,pause-postmaster,orders"),
    (Netns, Bank, RepeatableRead, "partition,orders,kill-node"),
    (
        Netns,
        Probe,
        ReadCommitted,
        "isolate-primary,isolate-all,freeze-node,pause-agent,pause-guard,one-way",
    ),
];

/// Thirty-two runs of five minutes.
const FULL: [Kinds; 32] = [
    (Netns, Append, Serializable, "kill"),
    (Netns, Append, Serializable, "partition"),
    (Netns, Append, Serializable, "pause"),
    (Netns, Append, Serializable, "kill,partition,orders"),
    (Netns, Append, RepeatableRead, "kill,partition"),
    (Netns, Append, RepeatableRead, "all-but-cancel"),
    (Netns, Append, ReadCommitted, "kill,partition,orders"),
    (Netns, Register, Serializable, "kill"),
    (Netns, Register, Serializable, "partition"),
    (Netns, Register, Serializable, "pause"),
    (Netns, Register, Serializable, "kill,partition,orders"),
    (Netns, Set, ReadCommitted, "kill"),
    (Netns, Set, ReadCommitted, "pause"),
    (Netns, Set, ReadCommitted, "partition"),
    (Netns, Set, ReadCommitted, "orders"),
    (Netns, Set, ReadCommitted, "all"),
    (Netns, Set, ReadCommitted, "cancel-waits,pause-receiver,postgres-only,kill-node"),
    (Netns, Set, ReadCommitted, "loss,flapping,kill-agent"),
    (Netns, Append, Serializable, "disk"),
    (Netns, Set, ReadCommitted, "disk"),
    (Netns, Set, ReadCommitted, "power-cut,kill,partition"),
    (Netns, Bank, Serializable, "kill,partition"),
    (Netns, Bank, RepeatableRead, "all-but-cancel"),
    (Netns, Bank, ReadCommitted, "partition,orders,kill-node"),
    (Netns, Probe, ReadCommitted, "isolate-primary,isolate-all,one-way,agents-only"),
    (Netns, Probe, ReadCommitted, "pause,partition"),
    (Netns, Probe, ReadCommitted, "all"),
    (Netns, Append, Serializable, "clock,kill-agent,isolate-primary"),
    (Netns, Set, ReadCommitted, "network,clock"),
    (Netns, Append, RepeatableRead, "network,kill,switchover"),
    (Process, Set, ReadCommitted, "kill,pause,orders,cancel-waits"),
    (Process, Register, Serializable, "kill,pause,orders"),
];

/// Four runs of two minutes: a cluster of containers takes half a minute to begin.
const CONTAINERS: [Kinds; 4] = [
    (Compose, Set, ReadCommitted, "kill,pause,container"),
    (Compose, Append, Serializable, "orders,kill"),
    (Compose, Probe, ReadCommitted, "isolate-primary,kill-node,pause-agent"),
    (Compose, Set, ReadCommitted, "engine,kill-agent"),
];

/// Runs in which nodes come and go, of three minutes; after the others, whose seeds stay what they were.
const MEMBERS: [Kinds; 2] = [
    (Netns, Set, ReadCommitted, "members,kill,isolate-primary"),
    (Netns, Append, Serializable, "members,pause,orders"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum as _;

    use super::*;
    use crate::nemesis::{Fault, fault};

    fn seconds(list: List) -> u64 {
        of(list).iter().map(|entry| entry.seconds).sum()
    }

    #[test]
    fn the_short_list_is_short_and_the_long_one_takes_two_hours() {
        // Each run needs some 35 s beside its faults.
        let quick = of(List::Quick);
        assert!(seconds(List::Quick) + 35 * quick.len() as u64 <= 600);
        assert!((4..=6).contains(&quick.len()));
        assert!(seconds(List::Full) >= 2 * 3600 && of(List::Full).len() >= 20);
    }

    #[test]
    fn every_run_of_a_list_is_different_and_can_be_made() {
        for list in [List::Quick, List::Full] {
            let entries = of(list);
            let names: BTreeSet<String> = entries.iter().map(Entry::name).collect();
            assert_eq!(names.len(), entries.len());
            for entry in &entries {
                let faults = fault::parse_list(entry.nemesis).unwrap();
                let cannot = faults.iter().find_map(|fault| entry.env.cannot(*fault));
                assert_eq!(cannot, None, "{}", entry.name());
                let shows = faults.iter().any(|fault| fault.shows_unacknowledged());
                assert!(!shows || matches!(entry.workload, Set | Probe), "{}", entry.name());
            }
        }
    }

    #[test]
    fn the_long_list_has_every_fault_and_every_workload() {
        let full = of(List::Full);
        let faults: BTreeSet<Fault> =
            full.iter().flat_map(|entry| fault::parse_list(entry.nemesis).unwrap()).collect();
        assert_eq!(faults.len(), Fault::value_variants().len());
        for workload in Workload::value_variants() {
            assert!(full.iter().any(|entry| entry.workload == *workload), "{workload:?}");
        }
    }
}
