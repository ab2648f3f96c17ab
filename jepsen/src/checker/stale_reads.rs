//! What standbys answered: how often that was less than what had been acknowledged before the read
//! was sent. Asynchronous reads may be old, so this is told and never makes a run invalid.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, Verdict};
use crate::history::{F, History, Micro, Pair, Value};

/// Looks at each read of lists and of the set that a standby answered.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("stale-reads");
    let pairs = history.pairs();
    let standby = |pair: &&Pair| {
        let server = pair.ok().and_then(|ok| ok.server.as_ref());
        server.is_some_and(|server| server.standby)
    };
    let acks = Acks::new(&pairs);
    for pair in pairs.iter().filter(standby) {
        let Some(ok) = pair.ok() else { continue };
        match &ok.value {
            Value::Txn(micros) => {
                for micro in micros {
                    if let Micro::Read { key, list: Some(list) } = micro {
                        acks.judge(pair, *key, list, &mut verdict);
                    }
                }
            }
            Value::Set(Some(elements)) if ok.f == F::ReadSet => {
                acks.judge_set(pair, elements, &mut verdict);
            }
            _ => {}
        }
    }
    verdict
}

/// What was acknowledged when, and each list as the primary showed it last.
struct Acks<'a> {
    appends: BTreeMap<u64, Vec<(u64, u64)>>,
    adds: Vec<(u64, u64)>,
    longest: BTreeMap<u64, &'a [u64]>,
}

impl<'a> Acks<'a> {
    fn new(pairs: &[Pair<'a>]) -> Self {
        let mut acks =
            Self { appends: BTreeMap::new(), adds: Vec::new(), longest: BTreeMap::new() };
        for pair in pairs {
            let Some(ok) = pair.ok() else { continue };
            let primary = !ok.server.as_ref().is_some_and(|server| server.standby);
            match &ok.value {
                Value::Add(element) => acks.adds.push((ok.time_ns, *element)),
                Value::Txn(micros) if primary => {
                    for micro in micros {
                        acks.take(ok.time_ns, micro);
                    }
                }
                _ => {}
            }
        }
        acks
    }

    fn take(&mut self, time_ns: u64, micro: &'a Micro) {
        match micro {
            Micro::Append { key, value } => {
                self.appends.entry(*key).or_default().push((time_ns, *value));
            }
            Micro::Read { key, list: Some(list) } => {
                let longest = self.longest.entry(*key).or_default();
                if list.len() > longest.len() {
                    *longest = list;
                }
            }
            Micro::Read { list: None, .. } => {}
        }
    }

    fn judge(&self, pair: &Pair, key: u64, list: &[u64], verdict: &mut Verdict) {
        verdict.count("reads of lists", 1);
        let (index, node) = (pair.invoke.index, node(pair));
        let longest = self.longest.get(&key).copied().unwrap_or_default();
        if !longest.starts_with(list) && !list.starts_with(longest) {
            let text = format!(
                "{node} answered T{index} with {list:?} for key {key}, and the primary's list is \
                 {longest:?}"
            );
            verdict.note(Class::DivergedRead, vec![index], text);
            return;
        }
        let has: BTreeSet<u64> = list.iter().copied().collect();
        let acks = self.appends.get(&key).map(Vec::as_slice).unwrap_or_default();
        let missing = missing(acks, pair.invoke.time_ns, &has);
        if let Some(first) = missing.first() {
            let text = format!(
                "{node} answered T{index} without {} appends to key {key} that were acknowledged \
                 before, the first of them {first}",
                missing.len()
            );
            verdict.note(Class::StaleRead, vec![index], text);
        }
    }

    fn judge_set(&self, pair: &Pair, elements: &[u64], verdict: &mut Verdict) {
        verdict.count("reads of the set", 1);
        let has: BTreeSet<u64> = elements.iter().copied().collect();
        let missing = missing(&self.adds, pair.invoke.time_ns, &has);
        if let Some(first) = missing.first() {
            let (index, node) = (pair.invoke.index, node(pair));
            let text = format!(
                "{node} answered read {index} without {} elements that were acknowledged before, \
                 the first of them {first}",
                missing.len()
            );
            verdict.note(Class::StaleRead, vec![index], text);
        }
    }
}

fn missing(acks: &[(u64, u64)], before_ns: u64, has: &BTreeSet<u64>) -> Vec<u64> {
    let old = acks.iter().filter(|(time_ns, _)| *time_ns < before_ns);
    old.map(|(_, value)| *value).filter(|value| !has.contains(value)).collect()
}

fn node<'a>(pair: &Pair<'a>) -> &'a str {
    pair.ok().and_then(|ok| ok.server.as_ref()).map_or("a standby", |server| server.node.as_str())
}
