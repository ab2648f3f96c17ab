//! Whether a history can be believed at all. One that cannot is a failure of the harness.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Kind, Operation, Process, open_key};

/// What is wrong with a history, whatever the cluster did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// An index is not its place.
    #[error("operation {index} is at place {place}")]
    Index {
        /// What it says.
        index: u64,
        /// Where it is.
        place: u64,
    },
    /// Time ran backwards.
    #[error("operation {index} is at {time_ns} ns, before the one ahead of it at {before_ns} ns")]
    Time {
        /// Which.
        index: u64,
        /// Its time.
        time_ns: u64,
        /// The time of the one ahead of it.
        before_ns: u64,
    },
    /// A process does two things at a time.
    #[error("process {process} invokes operation {index} while operation {open} is open")]
    Busy {
        /// Who.
        process: Process,
        /// Which.
        index: u64,
        /// What is still open.
        open: u64,
    },
    /// A process goes on although nobody knows what its last operation did.
    #[error("process {process} invokes operation {index} after its operation ended info")]
    NotRetired {
        /// Who.
        process: Process,
        /// Which.
        index: u64,
    },
    /// An end without a beginning, or a second end.
    #[error("operation {index} of process {process} completes nothing that is open")]
    NothingOpen {
        /// Who.
        process: Process,
        /// Which.
        index: u64,
    },
}

impl History {
    /// Returns all that is wrong with it. An invocation that is still open at the end is not wrong:
    /// the run ended first.
    #[must_use]
    pub fn unsound(&self) -> Vec<Unsound> {
        let mut found = Vec::new();
        let mut open: BTreeMap<Process, &Operation> = BTreeMap::new();
        let mut faults: BTreeMap<_, u32> = BTreeMap::new();
        let mut retired = BTreeSet::new();
        let mut before_ns = 0;
        for (place, operation) in (0..).zip(&self.operations) {
            let &Operation { index, time_ns, process, kind, .. } = operation;
            if index != place {
                found.push(Unsound::Index { index, place });
            }
            if time_ns < before_ns {
                found.push(Unsound::Time { index, time_ns, before_ns });
            }
            before_ns = before_ns.max(time_ns);
            match (process, kind) {
                (Process::Nemesis, Kind::Invoke) => {
                    *faults.entry(open_key(operation)).or_default() += 1;
                }
                (Process::Nemesis, _) => match faults.get_mut(&open_key(operation)) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ => found.push(Unsound::NothingOpen { process, index }),
                },
                (Process::Client(_), Kind::Invoke) => {
                    if retired.contains(&process) {
                        found.push(Unsound::NotRetired { process, index });
                    }
                    if let Some(open) = open.insert(process, operation) {
                        found.push(Unsound::Busy { process, index, open: open.index });
                    }
                }
                (Process::Client(_), _) => {
                    if kind == Kind::Info {
                        retired.insert(process);
                    }
                    if open.remove(&process).is_none_or(|open| open.f != operation.f) {
                        found.push(Unsound::NothingOpen { process, index });
                    }
                }
            }
        }
        found
    }
}
