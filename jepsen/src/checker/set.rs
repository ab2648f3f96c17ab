//! Unique elements that are added, and read at the end: is every acknowledged one there?

use std::collections::{BTreeMap, HashMap};

use super::{Class, Verdict, seconds};
use crate::history::{F, History, Kind, Pair, Value};

/// Checks a history of adds with reads of the whole set.
///
/// What counts is the last read that the primary answered and that began after an add ended.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::new("set");
    let pairs = history.pairs();
    let adds: Vec<(u64, &Pair)> = pairs
        .iter()
        .filter(|pair| pair.invoke.f == F::Add)
        .filter_map(|pair| match pair.invoke.value {
            Value::Add(element) => Some((element, pair)),
            _ => None,
        })
        .collect();
    let Some((read, elements)) = last_read(&pairs) else {
        if !adds.is_empty() {
            let text = format!("{} elements were added, and nobody read the set", adds.len());
            verdict.doubt(Class::NeverRead, Vec::new(), text);
        }
        return verdict;
    };
    let mut found: HashMap<u64, u64> = HashMap::with_capacity(elements.len());
    for element in elements {
        *found.entry(*element).or_default() += 1;
    }
    verdict.figure("elements", found.len() as u64);
    let mut added: BTreeMap<u64, u64> = BTreeMap::new();
    for (element, pair) in adds {
        if let Some(before) = added.insert(element, pair.invoke.index) {
            let operations = vec![before, pair.invoke.index];
            let text = format!("{element} is added twice, by operations {operations:?}");
            verdict.find(Class::Harness, operations, text);
        }
        judge(pair, element, read, found.contains_key(&element), &mut verdict);
    }
    let mut found: Vec<(u64, u64)> = found.into_iter().collect();
    found.sort_unstable();
    for (element, times) in found {
        if times > 1 {
            let operations = added.get(&element).copied().into_iter().collect();
            let text = format!("{element} is in the last read {times} times");
            verdict.find(Class::DuplicateElement, operations, text);
        }
        if !added.contains_key(&element) {
            let text = format!("{element} is in the last read, and nobody added it");
            verdict.find(Class::Unexpected, vec![read.invoke.index], text);
        }
    }
    verdict
}

fn last_read<'a, 'b>(pairs: &'b [Pair<'a>]) -> Option<(&'b Pair<'a>, &'a [u64])> {
    let reads = pairs.iter().filter(|pair| pair.invoke.f == F::ReadSet).filter_map(|pair| {
        let ok = pair.ok()?;
        let standby = ok.server.as_ref().is_some_and(|server| server.standby);
        match &ok.value {
            Value::Set(Some(elements)) if !standby => Some((pair, elements.as_slice())),
            _ => None,
        }
    });
    reads.max_by_key(|(pair, _)| pair.invoke.time_ns)
}

fn judge(pair: &Pair, element: u64, read: &Pair, there: bool, verdict: &mut Verdict) {
    let index = pair.invoke.index;
    match (pair.kind(), there) {
        (Kind::Ok, true) => verdict.count("acknowledged", 1),
        (Kind::Ok, false) if pair.end_ns() < read.invoke.time_ns => {
            verdict.count("acknowledged", 1);
            let at = pair.ok().and_then(|ok| ok.server.as_ref());
            let by = at.map_or(String::new(), |server| format!(" by {}", server.node));
            let text = format!(
                "{element} was acknowledged{by} at {} (operation {index}), and the read that began \
                 at {} does not have it",
                seconds(pair.end_ns()),
                seconds(read.invoke.time_ns)
            );
            verdict.find(Class::LostElement, vec![index, read.invoke.index], text);
        }
        (Kind::Ok, false) => verdict.count("acknowledged after the last read began", 1),
        (Kind::Fail, true) => {
            let why = pair.completion.and_then(|end| end.error.as_deref()).unwrap_or("no reason");
            let text = format!(
                "{element} is in the last read although its write failed for certain (operation \
                 {index}: {why})"
            );
            verdict.find(Class::Resurrected, vec![index, read.invoke.index], text);
        }
        (Kind::Fail, false) => verdict.count("failed", 1),
        // Told as an error, and committed all the same: nobody was promised otherwise.
        (Kind::Info | Kind::Invoke, true) => verdict.count("unknown and there", 1),
        (Kind::Info | Kind::Invoke, false) => verdict.count("unknown and not there", 1),
    }
}
