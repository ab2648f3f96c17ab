//! Transactions that append to lists and read them: which isolation did they have?
//!
//! Every append is of a value that nobody else appends to that list, so a read shows all that was
//! written before it and in which order. From the orders follow which transaction must come before
//! which; what must come before itself is an anomaly.
//!
//! What this can miss: an append that nobody read has no place in an order, and neither have its
//! writer's other orders with respect to it. If a last read shows every list, every committed append
//! has its place, and no cycle is missed.
//!
//! Reads that a standby answered are left out: they are older by design (see
//! [`standby_reads`](super::standby_reads)).
//!
//! # Sources
//! A. Adya, "Weak Consistency: A Generalized Theory and Optimistic Implementations for Distributed
//! Transactions", 1999: the anomalies. K. Kingsbury, P. Alvaro, "Elle: Inferring Isolation Anomalies
//! from Experimental Observations", VLDB 2020: lists as the way to see the order of versions.
//! A. Cerone, A. Gotsman, "Analysing Snapshot Isolation", JACM 2018: under snapshot isolation each
//! cycle has two anti-dependencies that follow each other.

mod cycles;
mod direct;
mod order;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Class, Verdict};
use crate::history::{F, History, Kind, Micro, Process, Value};

/// The isolation that transactions asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// No G0, G1a, G1b, G1c.
    ReadCommitted,
    /// `PostgreSQL`'s repeatable read: also no cycle in which no two anti-dependencies follow each
    /// other, so no G-single. Write skew (G2-item) is allowed.
    SnapshotIsolation,
    /// No cycle at all.
    Serializable,
}

/// What is asked of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The isolation.
    pub level: Level,
    /// Whether each process must see what it did before ("strong session").
    pub session: bool,
    /// Whether everybody must see what ended before they began ("strict", "strong").
    pub real_time: bool,
}

/// How a transaction ended, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It was acknowledged.
    Committed,
    /// Nobody was told, but somebody read what it wrote.
    Surfaced,
    /// Nobody knows, and nothing of it was seen.
    Unknown,
    /// It certainly did not happen.
    Failed,
}

#[derive(Debug)]
struct Txn<'a> {
    /// Index of the invocation: its name.
    index: u64,
    process: Process,
    fate: Fate,
    start_ns: u64,
    end_ns: u64,
    /// With what was read if it was acknowledged.
    micros: &'a [Micro],
}

impl Txn<'_> {
    /// Returns whether its reads count.
    fn read(&self) -> bool {
        self.fate == Fate::Committed
    }

    /// Returns whether it happened.
    fn happened(&self) -> bool {
        matches!(self.fate, Fate::Committed | Fate::Surfaced)
    }
}

/// Who appended what.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Place among the transactions.
    txn: u32,
    /// Whether the same transaction appended to the same list afterwards.
    intermediate: bool,
}

/// What is known of a history's transactions.
#[derive(Debug)]
struct Known<'a> {
    txns: Vec<Txn<'a>>,
    written: HashMap<(u64, u64), Written>,
    /// Each list's longest read: all others are beginnings of it.
    longest: HashMap<u64, &'a [u64]>,
    /// Where in its list's longest read each element is first.
    places: HashMap<(u64, u64), usize>,
}

/// Checks a history of list-append transactions.
#[must_use]
pub fn check(history: &History, options: Options) -> Verdict {
    let mut verdict = Verdict::new("list-append");
    let mut known = known(history, &mut verdict);
    surface(&mut known);
    direct::find(&known, options.level, &mut verdict);
    order::incompatible(&known, &mut verdict);
    order::reversed(&known, &mut verdict);
    order::lost(&known, &mut verdict);
    let edges = order::edges(&known, options);
    verdict.figure("edges", edges.len() as u64);
    cycles::find(&known, &edges, options.level, &mut verdict);
    verdict
}

fn known<'a>(history: &'a History, verdict: &mut Verdict) -> Known<'a> {
    let mut txns = Vec::new();
    let mut written: HashMap<(u64, u64), Written> = HashMap::new();
    for pair in history.pairs().iter().filter(|pair| pair.invoke.f == F::Txn) {
        let fate = match pair.kind() {
            Kind::Ok => Fate::Committed,
            Kind::Fail => Fate::Failed,
            Kind::Info | Kind::Invoke => Fate::Unknown,
        };
        let counted = match fate {
            Fate::Committed => "committed",
            Fate::Failed => "failed",
            Fate::Surfaced | Fate::Unknown => "unknown",
        };
        let told = pair.ok().unwrap_or(pair.invoke);
        if told.server.as_ref().is_some_and(|server| server.standby) {
            verdict.count("by standbys", 1);
            continue;
        }
        verdict.count(counted, 1);
        let Value::Txn(micros) = &told.value else {
            let text = format!("T{} is a transaction without steps", pair.invoke.index);
            verdict.find(Class::Harness, vec![pair.invoke.index], text);
            continue;
        };
        let place = u32::try_from(txns.len()).expect("a history has fewer than 2^32 operations");
        let index = pair.invoke.index;
        let mut last: HashMap<u64, u64> = HashMap::new();
        for micro in micros {
            let &Micro::Append { key, value } = micro else { continue };
            let new = Written { txn: place, intermediate: false };
            if written.insert((key, value), new).is_some() {
                let text = format!("T{index} appends {value} to key {key}, as another append did");
                verdict.find(Class::Harness, vec![index], text);
            }
            if let Some(before) = last.insert(key, value)
                && let Some(before) = written.get_mut(&(key, before))
            {
                before.intermediate = true;
            }
        }
        txns.push(Txn {
            index,
            process: pair.invoke.process,
            fate,
            start_ns: pair.invoke.time_ns,
            end_ns: pair.end_ns(),
            micros,
        });
    }
    Known { txns, written, longest: HashMap::new(), places: HashMap::new() }
}

/// Finds the longest read of each list, and which unknown transactions happened after all.
fn surface(known: &mut Known) {
    let mut seen: Vec<Written> = Vec::new();
    for txn in known.txns.iter().filter(|txn| txn.read()) {
        for micro in txn.micros {
            let Micro::Read { key, list: Some(list) } = micro else { continue };
            let longest = known.longest.entry(*key).or_default();
            if list.len() > longest.len() {
                *longest = list;
            }
        }
    }
    for (key, list) in &known.longest {
        for (place, value) in list.iter().enumerate() {
            known.places.entry((*key, *value)).or_insert(place);
        }
        seen.extend(list.iter().filter_map(|value| known.written.get(&(*key, *value)).copied()));
    }
    for written in seen {
        let txn = &mut known.txns[written.txn as usize];
        if txn.fate == Fate::Unknown {
            txn.fate = Fate::Surfaced;
        }
    }
}
