//! What standbys answered: how far behind that was, and whether anything of it was never acknowledged, or is gone in the
//! end. A standby may be behind, and shows commits that still wait for their quorum, so this is told and never makes a
//! run invalid.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, Validity, Verdict, bank};
use crate::history::{F, History, Micro, Operation, Pair, Value};

/// How many elements a read of the newest ones shows at most. Older ones say nothing of its age.
pub const NEWEST: usize = 200;

/// A list by its key, or the set.
type Place = Option<u64>;

/// Looks at each read of lists, of the set and of the accounts that a standby answered; nothing if there is none.
#[must_use]
pub fn check(history: &History, accounts: Option<bank::Rules>) -> Option<Verdict> {
    let pairs = history.pairs();
    let written = Written::new(&pairs);
    let mut told = Told::default();
    let mut verdict = Verdict { valid: Validity::Told, ..Verdict::new("standby-reads") };
    for pair in &pairs {
        let Some(ok) = pair.ok().filter(|ok| ok.by_standby()) else { continue };
        let mut oldest: Option<u64> = None;
        let mut look = |place: Place, shown: &[u64], from: u64| {
            let missing = written.missing(place, shown, from, pair.invoke.time_ns);
            oldest = oldest.into_iter().chain(missing.map(|(acked_ns, _)| acked_ns)).min();
            if let Some((acked_ns, value)) = missing {
                let late_ms = (pair.invoke.time_ns - acked_ns) / 1_000_000;
                let text = format!(
                    "{} answered operation {} without {value}{}, acknowledged {late_ms} ms before",
                    node(ok),
                    pair.invoke.index,
                    of(place)
                );
                verdict.note(Class::StaleRead, vec![pair.invoke.index], text);
            }
            written.strange((pair, ok), place, shown, &mut told, &mut verdict);
        };
        match &ok.value {
            Value::Txn(micros) => {
                for micro in micros {
                    if let Micro::Read { key, list: Some(list) } = micro {
                        look(Some(*key), list, 0);
                    }
                }
            }
            Value::Set(Some(elements)) => {
                let all = ok.f == F::ReadSet || elements.len() < NEWEST;
                let from = if all { None } else { elements.iter().min().copied() };
                look(None, elements, from.unwrap_or_default());
            }
            Value::Balances(Some(balances)) => {
                told.accounts += 1;
                let total: i128 = balances.values().map(|sum| i128::from(*sum)).sum();
                if accounts.is_some_and(|rules| total != i128::from(rules.total)) {
                    let text = format!("{} showed {total} in all accounts", node(ok));
                    verdict.note(Class::WrongTotal, vec![pair.invoke.index], text);
                }
                continue;
            }
            _ => continue,
        }
        told.reads += 1;
        if let Some(acked_ns) = oldest {
            told.behind += 1;
            told.worst_ns = told.worst_ns.max(pair.invoke.time_ns - acked_ns);
        }
    }
    (told.reads + told.accounts > 0).then(|| told.into(verdict))
}

/// What was seen in all reads.
#[derive(Default)]
struct Told {
    reads: u64,
    behind: u64,
    worst_ns: u64,
    accounts: u64,
    unacknowledged: BTreeSet<(Place, u64)>,
    gone: BTreeSet<(Place, u64)>,
}

impl Told {
    fn into(self, mut verdict: Verdict) -> Verdict {
        let Self { reads, behind, worst_ns, accounts, unacknowledged, gone } = self;
        verdict.figure("reads", reads + accounts);
        let mut told = Vec::new();
        if reads > 0 {
            let (worst_ms, gone) = (worst_ns / 1_000_000, gone.len() as u64);
            let unacknowledged = unacknowledged.len() as u64;
            verdict.figure("behind", behind);
            verdict.figure("behind ms at most", worst_ms);
            verdict.figure("never acknowledged", unacknowledged);
            verdict.figure("gone in the end", gone);
            let share = share(behind, reads);
            told.push(format!(
                "{reads} reads, {share} % behind, at most {worst_ms} ms; of what they showed \
                 {unacknowledged} never acknowledged, {gone} gone in the end"
            ));
        }
        if accounts > 0 {
            let wrong = verdict.counts.get(Class::WrongTotal.word()).copied().unwrap_or(0);
            told.push(format!("{accounts} reads of accounts, {wrong} with a wrong total"));
        }
        Verdict { told: Some(told.join("; ")), ..verdict }
    }
}

/// Returns a share in percent, with one decimal where it is small: some are not none.
fn share(part: u64, of: u64) -> String {
    let thousandths = (part * 1000).div_ceil(of);
    if thousandths == 0 || thousandths >= 100 {
        return (part * 100 / of).to_string();
    }
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

/// What was written, and what the primary showed last.
struct Written<'a> {
    /// Each value with the time at which it was acknowledged, if it was.
    writes: BTreeMap<Place, BTreeMap<u64, Option<u64>>>,
    last: BTreeMap<Place, Last<'a>>,
}

struct Last<'a> {
    from_ns: u64,
    shown: &'a [u64],
    has: BTreeSet<u64>,
}

impl<'a> Written<'a> {
    fn new(pairs: &[Pair<'a>]) -> Self {
        let mut writes: BTreeMap<Place, BTreeMap<u64, Option<u64>>> = BTreeMap::new();
        let mut last: BTreeMap<Place, (u64, &'a [u64])> = BTreeMap::new();
        for pair in pairs {
            let acked_ns = pair.ok().map(|ok| ok.time_ns);
            for (place, value) in values(&pair.invoke.value) {
                writes.entry(place).or_default().insert(value, acked_ns);
            }
            let Some(ok) = pair.ok().filter(|ok| !ok.by_standby()) else { continue };
            for (place, shown) in reads(ok) {
                let latest = last.entry(place).or_insert((0, shown));
                if latest.0 <= pair.invoke.time_ns {
                    *latest = (pair.invoke.time_ns, shown);
                }
            }
        }
        let known = |(from_ns, shown): (u64, &'a [u64])| Last {
            from_ns,
            shown,
            has: shown.iter().copied().collect(),
        };
        Self { writes, last: last.into_iter().map(|(place, read)| (place, known(read))).collect() }
    }

    /// Returns when the oldest write was acknowledged that a read at `at_ns` should have shown, had it been of the
    /// primary, and that write's value. What is lost in the end is missing for another reason.
    fn missing(&self, place: Place, shown: &[u64], from: u64, at_ns: u64) -> Option<(u64, u64)> {
        let has: BTreeSet<u64> = shown.iter().copied().collect();
        let last = self.last.get(&place);
        let lost = |value: u64, acked_ns: u64| {
            last.is_some_and(|last| last.from_ns > acked_ns && !last.has.contains(&value))
        };
        let acked = self.writes.get(&place)?.range(from..);
        let acked = acked.filter_map(|(value, acked_ns)| Some(((*acked_ns)?, *value)));
        acked
            .filter(|(acked_ns, value)| {
                *acked_ns < at_ns && !has.contains(value) && !lost(*value, *acked_ns)
            })
            .min()
    }

    /// Notes what was shown and never acknowledged, or is not there in the end.
    fn strange(
        &self,
        (pair, ok): (&Pair, &Operation),
        place: Place,
        shown: &[u64],
        told: &mut Told,
        verdict: &mut Verdict,
    ) {
        let (index, node, of) = (pair.invoke.index, node(ok), of(place));
        let writes = self.writes.get(&place);
        let last = self.last.get(&place).filter(|last| last.from_ns > ok.time_ns);
        let mut gone_before = false;
        for value in shown {
            let gone = last.is_some_and(|last| !last.has.contains(value));
            gone_before |= gone;
            let acknowledged = writes.and_then(|writes| writes.get(value)).copied().flatten();
            let end = if gone { "gone" } else { "there" };
            if acknowledged.is_none() && told.unacknowledged.insert((place, *value)) {
                let text = format!(
                    "{node} showed {value}{of} in operation {index}, which nobody was told of: in the \
                     end it is {end}"
                );
                verdict.note(Class::UnacknowledgedRead, vec![index], text);
            }
            if gone && told.gone.insert((place, *value)) {
                let text =
                    format!("{node} showed {value}{of} in operation {index}, and it is gone");
                verdict.note(Class::DivergedRead, vec![index], text);
            }
        }
        let list = last.filter(|_| place.is_some() && !gone_before);
        if let Some(last) = list.filter(|last| !last.shown.starts_with(shown)) {
            let text = format!(
                "{node} answered operation {index} with {shown:?}{of}, and the primary's list is {:?}",
                last.shown
            );
            verdict.note(Class::DivergedRead, vec![index], text);
        }
    }
}

/// Returns what an operation writes.
fn values(value: &Value) -> Vec<(Place, u64)> {
    match value {
        Value::Add(element) => vec![(None, *element)],
        Value::Txn(micros) => {
            let appends = micros.iter().filter_map(|micro| match micro {
                Micro::Append { key, value } => Some((Some(*key), *value)),
                Micro::Read { .. } => None,
            });
            appends.collect()
        }
        _ => Vec::new(),
    }
}

/// Returns what an operation read in full.
fn reads(ok: &Operation) -> Vec<(Place, &[u64])> {
    match &ok.value {
        Value::Set(Some(elements)) if ok.f == F::ReadSet => vec![(None, elements)],
        Value::Txn(micros) => {
            let lists = micros.iter().filter_map(|micro| match micro {
                Micro::Read { key, list: Some(list) } => Some((Some(*key), list.as_slice())),
                _ => None,
            });
            lists.collect()
        }
        _ => Vec::new(),
    }
}

fn of(place: Place) -> String {
    place.map_or(String::new(), |key| format!(" of key {key}"))
}

fn node(ok: &Operation) -> &str {
    ok.server.as_ref().map_or("a standby", |server| server.node.as_str())
}
