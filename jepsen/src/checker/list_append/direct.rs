//! Anomalies that show in one read, without any order.

use std::collections::{HashMap, HashSet};

use super::{Fate, Known, Level, Txn};
use crate::checker::{Class, Verdict};
use crate::history::Micro;

pub(super) fn find(known: &Known, level: Level, verdict: &mut Verdict) {
    for (place, txn) in (0_u32..).zip(&known.txns).filter(|(_, txn)| txn.read()) {
        for micro in txn.micros {
            if let Micro::Read { key, list: Some(list) } = micro {
                elements(known, (place, txn), *key, list, verdict);
            }
        }
        internal(txn, level, verdict);
    }
    dirty_updates(known, verdict);
}

/// Looks at each element of one read.
fn elements(
    known: &Known,
    (place, txn): (u32, &Txn),
    key: u64,
    list: &[u64],
    verdict: &mut Verdict,
) {
    let index = txn.index;
    let mut seen = HashSet::with_capacity(list.len());
    for value in list {
        if !seen.insert(value) {
            let text = format!("T{index} read key {key} with the {value} in it twice");
            verdict.find(Class::DuplicateElement, vec![index], text);
        }
        let Some(written) = known.written.get(&(key, *value)) else {
            let text = format!("T{index} read key {key} with a {value} that nobody appended");
            verdict.find(Class::Garbage, vec![index], text);
            continue;
        };
        let writer = &known.txns[written.txn as usize];
        if writer.fate == Fate::Failed {
            let text = format!(
                "T{index} read key {key} with the {value} that T{} appended, and T{} failed",
                writer.index, writer.index
            );
            verdict.find(Class::G1a, vec![writer.index, index], text);
        }
    }
    let last = list.last().and_then(|last| Some((last, known.written.get(&(key, *last))?)));
    if let Some((last, written)) = last
        && written.intermediate
        && written.txn != place
    {
        let writer = known.txns[written.txn as usize].index;
        let text = format!(
            "T{index} read key {key} up to the {last} that T{writer} appended before it appended \
             more: half of what T{writer} did"
        );
        verdict.find(Class::G1b, vec![writer, index], text);
    }
}

/// What a transaction must find in one list.
#[derive(Default)]
struct Expected {
    /// What the last read showed ahead of the transaction's own appends.
    base: Option<Vec<u64>>,
    /// What the transaction has appended.
    own: Vec<u64>,
    /// Whether the last read came after an own append: from then on the list is locked.
    locked: bool,
}

/// A transaction sees its own appends once it has done them, and from snapshot isolation on also what
/// it read before.
fn internal(txn: &Txn, level: Level, verdict: &mut Verdict) {
    let index = txn.index;
    let mut lists: HashMap<u64, Expected> = HashMap::new();
    for (at, micro) in txn.micros.iter().enumerate() {
        let (key, list) = match micro {
            Micro::Append { key, value } => {
                lists.entry(*key).or_default().own.push(*value);
                continue;
            }
            Micro::Read { list: None, .. } => continue,
            Micro::Read { key, list: Some(list) } => (*key, list),
        };
        let Expected { base, own, locked } = lists.entry(key).or_default();
        let rest = &list[..list.len().saturating_sub(own.len())];
        // Under read committed a list may grow between two reads, until an own append locks it.
        let pinned = level > Level::ReadCommitted || *locked;
        let later = txn.micros[at..].iter().find_map(|micro| match micro {
            Micro::Append { key: k, value } if *k == key && list.contains(value) => Some(value),
            _ => None,
        });
        let text = if !list.ends_with(own) {
            format!("T{index} read key {key} as {list:?} although it had itself appended {own:?}")
        } else if let Some(value) = later {
            format!("T{index} read key {key} with the {value} that it appended only afterwards")
        } else if let Some(base) = base.as_ref().filter(|base| pinned && *base != rest) {
            format!(
                "T{index} read key {key} as {list:?} after it had read {base:?} and appended {own:?}"
            )
        } else {
            String::new()
        };
        if !text.is_empty() {
            verdict.find(Class::Internal, vec![index], text);
        }
        *base = Some(rest.to_vec());
        *locked = !own.is_empty();
    }
}

/// A failed write that a committed one follows in the list.
fn dirty_updates(known: &Known, verdict: &mut Verdict) {
    let mut keys: Vec<_> = known.longest.iter().collect();
    keys.sort_unstable();
    for (key, list) in keys {
        let mut failed = None;
        for value in *list {
            let Some(written) = known.written.get(&(*key, *value)) else { continue };
            let writer = &known.txns[written.txn as usize];
            match (writer.fate, failed) {
                (Fate::Failed, _) => failed = Some((*value, writer.index)),
                (_, Some((dirty, aborted))) => {
                    let text = format!(
                        "T{} appended {value} to key {key} after the {dirty} of T{aborted}, and \
                         T{aborted} failed",
                        writer.index
                    );
                    verdict.find(Class::DirtyUpdate, vec![aborted, writer.index], text);
                    failed = None;
                }
                (_, None) => {}
            }
        }
    }
}
