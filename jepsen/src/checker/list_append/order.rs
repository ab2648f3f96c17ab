//! Orders of versions, and what must come before what.

use std::collections::{BTreeMap, HashMap};

use super::{Fate, Known, Options};
use crate::checker::{Class, Verdict, seconds};
use crate::history::{Micro, Process};

/// Why one transaction must come before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Why {
    /// The second overwrote what the first wrote.
    Overwrote,
    /// The second read what the first wrote.
    Read,
    /// The first did not see what the second wrote: an anti-dependency.
    Missed,
    /// The same process did the first and then the second.
    Session,
    /// The first ended before the second began.
    Time,
}

/// `from` must come before `to`; both are places among the transactions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) why: Why,
    pub(super) key: u64,
    /// What `from` had in its hand: what it appended, or the last element that it read.
    pub(super) before: Option<u64>,
    /// What `to` appended, or, if it read, what it read.
    pub(super) value: u64,
}

impl Edge {
    /// Says in words why.
    pub(super) fn words(&self, known: &Known) -> String {
        let (from, to) = (&known.txns[self.from as usize], &known.txns[self.to as usize]);
        let (a, b, key, value) = (from.index, to.index, self.key, self.value);
        match self.why {
            Why::Overwrote => match self.before {
                Some(before) => {
                    format!("T{b} appended {value} to key {key} after the {before} of T{a}")
                }
                None => format!("T{b} appended {value} to key {key} after T{a}"),
            },
            Why::Read => format!("T{b} read key {key} with the {value} that T{a} appended"),
            Why::Missed => format!("T{a} read key {key} without the {value} that T{b} appended"),
            Why::Session => format!("process {} did T{a} before T{b}", from.process),
            Why::Time => format!(
                "T{a} ended at {}, before T{b} began at {}",
                seconds(from.end_ns),
                seconds(to.start_ns)
            ),
        }
    }
}

/// Finds reads that are no beginning of the longest one.
pub(super) fn incompatible(known: &Known, verdict: &mut Verdict) {
    for txn in known.txns.iter().filter(|txn| txn.read()) {
        for micro in txn.micros {
            let Micro::Read { key, list: Some(list) } = micro else { continue };
            let longest = known.longest.get(key).copied().unwrap_or_default();
            if longest.starts_with(list) {
                continue;
            }
            let at = list.iter().zip(longest).take_while(|(a, b)| a == b).count();
            let (has, other) = (list[at], longest[at]);
            let text = format!(
                "T{} read key {key} with {has} at place {at}, and another read has {other} there",
                txn.index
            );
            verdict.find(Class::IncompatibleOrder, vec![txn.index], text);
        }
    }
}

/// Finds lists that have one transaction's appends in another order than it did them.
pub(super) fn reversed(known: &Known, verdict: &mut Verdict) {
    for txn in known.txns.iter().filter(|txn| txn.happened()) {
        // Where in each list this transaction's latest append is.
        let mut latest: HashMap<u64, (usize, u64)> = HashMap::new();
        for micro in txn.micros {
            let &Micro::Append { key, value } = micro else { continue };
            let Some(&place) = known.places.get(&(key, value)) else { continue };
            if let Some((before, earlier)) = latest.insert(key, (place, value))
                && before > place
            {
                let text = format!(
                    "T{} appended {earlier} to key {key} and then {value}, and the list has them \
                     the other way round",
                    txn.index
                );
                verdict.find(Class::IncompatibleOrder, vec![txn.index], text);
            }
        }
    }
}

/// Finds appends that a later read shows to be gone: those of acknowledged transactions, and those of
/// transactions of which another append was read.
pub(super) fn lost(known: &Known, verdict: &mut Verdict) {
    // When the latest read of each list began, and who did it.
    let mut latest: HashMap<u64, (u64, u64)> = HashMap::new();
    // When each transaction of unknown outcome had certainly happened: somebody had read it.
    let mut surfaced: HashMap<u32, u64> = HashMap::new();
    for txn in known.txns.iter().filter(|txn| txn.read()) {
        for micro in txn.micros {
            let Micro::Read { key, list: Some(list) } = micro else { continue };
            let entry = latest.entry(*key).or_default();
            *entry = (*entry).max((txn.start_ns, txn.index));
            for written in list.iter().filter_map(|value| known.written.get(&(*key, *value))) {
                if known.txns[written.txn as usize].fate == Fate::Surfaced {
                    let end_ns = surfaced.entry(written.txn).or_insert(u64::MAX);
                    *end_ns = txn.end_ns.min(*end_ns);
                }
            }
        }
    }
    for (place, txn) in (0_u32..).zip(&known.txns).filter(|(_, txn)| txn.happened()) {
        let unknown = txn.fate == Fate::Surfaced;
        let end_ns = if unknown { surfaced.get(&place).copied() } else { Some(txn.end_ns) };
        let end_ns = end_ns.unwrap_or(u64::MAX);
        for micro in txn.micros {
            let &Micro::Append { key, value } = micro else { continue };
            if known.places.contains_key(&(key, value)) {
                continue;
            }
            match latest.get(&key) {
                Some(&(start_ns, reader)) if start_ns > end_ns => {
                    let known_by = if unknown {
                        "another append of it had been read"
                    } else {
                        "was acknowledged"
                    };
                    let text = format!(
                        "T{} appended {value} to key {key} and {known_by} at {}, and no read has \
                         it, not even that of T{reader}, which began at {}",
                        txn.index,
                        seconds(end_ns),
                        seconds(start_ns)
                    );
                    verdict.find(Class::LostAppend, vec![txn.index, reader], text);
                }
                _ if unknown => {}
                _ => verdict.count("acknowledged and never read", 1),
            }
        }
    }
}

/// Returns all that is known of what comes before what.
pub(super) fn edges(known: &Known, options: Options) -> Vec<Edge> {
    let mut edges = Vec::new();
    let placed = writes(known, &mut edges);
    reads(known, &placed, &mut edges);
    if options.session {
        sessions(known, &mut edges);
    }
    if options.real_time {
        times(known, &mut edges);
    }
    edges
}

/// One list's order: who appended each element. Those of failed transactions have no place in it.
type Placed<'a> = HashMap<u64, (&'a [u64], Vec<Option<u32>>)>;

fn writes<'a>(known: &Known<'a>, edges: &mut Vec<Edge>) -> Placed<'a> {
    let mut placed = HashMap::with_capacity(known.longest.len());
    for (&key, &list) in &known.longest {
        let writers: Vec<Option<u32>> = list
            .iter()
            .map(|value| {
                let written = known.written.get(&(key, *value))?;
                known.txns[written.txn as usize].happened().then_some(written.txn)
            })
            .collect();
        let mut before: Option<(u32, u64)> = None;
        for (&value, to) in list.iter().zip(&writers) {
            let Some(to) = *to else { continue };
            if let Some((from, last)) = before
                && from != to
            {
                let before = Some(last);
                edges.push(Edge { from, to, why: Why::Overwrote, key, before, value });
            }
            before = Some((to, value));
        }
        placed.insert(key, (list, writers));
    }
    placed
}

fn reads(known: &Known, placed: &Placed, edges: &mut Vec<Edge>) {
    for (place, txn) in (0_u32..).zip(&known.txns).filter(|(_, txn)| txn.read()) {
        for micro in txn.micros {
            let Micro::Read { key, list: Some(list) } = micro else { continue };
            let key = *key;
            let Some((order, writers)) = placed.get(&key) else { continue };
            // A read that is no beginning of the order has no place in it: that is told elsewhere.
            if !order.starts_with(list) {
                continue;
            }
            let last = (0..list.len()).rev().find_map(|at| Some((list[at], writers[at]?)));
            if let Some((value, from)) = last
                && from != place
            {
                let before = None;
                edges.push(Edge { from, to: place, why: Why::Read, key, before, value });
            }
            let next = (list.len()..order.len()).find_map(|at| Some((order[at], writers[at]?)));
            if let Some((value, to)) = next
                && to != place
            {
                let before = list.last().copied();
                edges.push(Edge { from: place, to, why: Why::Missed, key, before, value });
            }
        }
    }
}

fn sessions(known: &Known, edges: &mut Vec<Edge>) {
    let mut last: BTreeMap<Process, u32> = BTreeMap::new();
    for (to, txn) in (0_u32..).zip(&known.txns).filter(|(_, txn)| txn.happened()) {
        if let Some(from) = last.insert(txn.process, to) {
            edges.push(Edge { from, to, why: Why::Session, key: 0, before: None, value: 0 });
        }
    }
}

/// Says who ended before who began, without what follows from the rest: as many edges per
/// transaction as there are processes at a time.
fn times(known: &Known, edges: &mut Vec<Edge>) {
    let happened = || (0_u32..).zip(&known.txns).filter(|(_, txn)| txn.happened());
    // A beginning sorts ahead of an end of the same instant: those two are concurrent.
    let mut moments: Vec<(u64, bool, u32)> = Vec::new();
    for (place, txn) in happened() {
        moments.push((txn.start_ns, false, place));
        if txn.end_ns != u64::MAX {
            moments.push((txn.end_ns, true, place));
        }
    }
    moments.sort_unstable();
    let mut ended: Vec<u32> = Vec::new();
    for (_, end, place) in moments {
        let txn = &known.txns[place as usize];
        if end {
            // What ended before this one began comes before all that this one comes before.
            ended.retain(|&other| known.txns[other as usize].end_ns >= txn.start_ns);
            ended.push(place);
        } else {
            edges.extend(ended.iter().map(|&from| Edge {
                from,
                to: place,
                why: Why::Time,
                key: 0,
                before: None,
                value: 0,
            }));
        }
    }
}
