//! Registers: is there one order of all operations, each between its beginning and its end, that
//! explains what was read?
//!
//! Each key is searched by itself. An operation that ended `info` may take effect at any time after
//! it began, or never; one that ended `fail` never did (a `cas` that failed says nothing of the
//! register: it may have been refused for another reason).
//!
//! # Sources
//! J. Wing, C. Gong, "Testing and verifying concurrent objects", 1993: the search. G. Lowe, "Testing
//! for linearizability", 2017: to remember which sets of operations with which value were tried.
//! A. Horn, D. Kroening, "Faster linearizability checking via P-compositionality", 2015: key by key.

use std::collections::{BTreeMap, HashSet};

use super::{Class, Verdict, seconds};
use crate::history::{History, Kind, Pair, Process, Register, Value};

/// How many steps the search of one key takes at most, if nobody says otherwise.
pub const STEPS_MAX: u64 = 20_000_000;

/// An operation on one register.
#[derive(Debug, Clone, Copy)]
struct Done {
    index: u64,
    process: Process,
    op: Register,
    start_ns: u64,
    end_ns: u64,
    /// Whether it was acknowledged: it has to have a place in the order.
    sure: bool,
}

/// Checks all registers of a history; each key's search takes at most that many steps.
#[must_use]
pub fn check(history: &History, steps_max: u64) -> Verdict {
    let mut verdict = Verdict::new("linearizable");
    let mut keys: BTreeMap<u64, Vec<Done>> = BTreeMap::new();
    for pair in history.pairs() {
        let Some((key, done)) = done(&pair) else { continue };
        keys.entry(key).or_default().push(done);
    }
    verdict.figure("keys", keys.len() as u64);
    for (key, mut all) in keys {
        let before = all.len();
        drop_unseen(&mut all);
        verdict.count("operations", all.len() as u64);
        verdict.count("unknown and never seen", (before - all.len()) as u64);
        let mut search = Search::new(&all, steps_max);
        let answer = search.run();
        verdict.count("steps", search.steps);
        match answer {
            Answer::Order => {}
            Answer::GaveUp => {
                let text = format!(
                    "key {key}: gave up after {steps_max} steps with {} of {} acknowledged \
                     operations in order",
                    search.best, search.sure
                );
                verdict.doubt(Class::GivenUp, Vec::new(), text);
            }
            Answer::None => {
                let (operations, text) = search.words(key);
                verdict.find(Class::NotLinearizable, operations, text);
            }
        }
    }
    verdict
}

fn done(pair: &Pair) -> Option<(u64, Done)> {
    let told = pair.ok().unwrap_or(pair.invoke);
    let Value::Register { key, op } = told.value else { return None };
    let sure = pair.ok().is_some();
    // Nothing follows from a read that nobody got, and nothing from what did not happen. What a
    // standby said is not the register.
    let standby = told.server.as_ref().is_some_and(|server| server.standby);
    if pair.kind() == Kind::Fail || standby || (!sure && matches!(op, Register::Read(_))) {
        return None;
    }
    let invoke = pair.invoke;
    let (start_ns, end_ns) = (invoke.time_ns, pair.end_ns());
    Some((key, Done { index: invoke.index, process: invoke.process, op, start_ns, end_ns, sure }))
}

/// Drops unknown writes of values that nobody read or expected. If an order has one of them, the
/// order without it explains all the same: whoever looked at the register next had written it.
fn drop_unseen(all: &mut Vec<Done>) {
    let seen: HashSet<u64> = all
        .iter()
        .filter_map(|done| match done.op {
            Register::Read(value) => value,
            Register::Cas { from, .. } => Some(from),
            Register::Write(_) => None,
        })
        .collect();
    all.retain(|done| match done.op {
        Register::Write(value) | Register::Cas { to: value, .. } => {
            done.sure || seen.contains(&value)
        }
        Register::Read(_) => true,
    });
}

/// Returns whether an operation can be there, and what the register then holds.
fn apply(op: Register, held: Option<u64>) -> (bool, Option<u64>) {
    match op {
        Register::Read(value) => (value == held, held),
        Register::Write(value) => (true, Some(value)),
        Register::Cas { from, to } => (held == Some(from), Some(to)),
    }
}

enum Answer {
    Order,
    None,
    GaveUp,
}

/// A beginning or an end in the list of all that is not yet in the order.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Place of the operation.
    done: usize,
    begins: bool,
    before: usize,
    after: usize,
}

/// A set of operations: how many words of 64 are full, and the words from there to the last.
type Placed = (usize, Box<[u64]>);

/// The list's two ends.
const HEAD: usize = 0;
const TAIL: usize = 1;

struct Search<'a> {
    all: &'a [Done],
    entries: Vec<Entry>,
    /// Entry of the end of each operation that has one.
    ends: Vec<Option<usize>>,
    /// Which operations are in the order.
    placed: Vec<u64>,
    held: Option<u64>,
    tried: HashSet<(Placed, Option<u64>)>,
    sure: usize,
    /// How many acknowledged operations are in the order.
    count: usize,
    steps: u64,
    steps_max: u64,
    /// The longest order so far: how many acknowledged operations, what the register then held, and
    /// the operation that had no place.
    best: usize,
    stuck: Option<(usize, Option<u64>)>,
}

impl<'a> Search<'a> {
    fn new(all: &'a [Done], steps_max: u64) -> Self {
        // An end sorts behind a beginning of the same instant: those two are concurrent.
        let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * all.len());
        for (place, done) in all.iter().enumerate() {
            moments.push((done.start_ns, false, place));
            if done.sure {
                moments.push((done.end_ns, true, place));
            }
        }
        moments.sort_unstable();
        let mut entries = vec![
            Entry { done: usize::MAX, begins: false, before: HEAD, after: TAIL },
            Entry { done: usize::MAX, begins: false, before: HEAD, after: TAIL },
        ];
        let mut ends = vec![None; all.len()];
        for (_, end, done) in moments {
            let (here, before) = (entries.len(), entries[TAIL].before);
            entries.push(Entry { done, begins: !end, before, after: TAIL });
            entries[before].after = here;
            entries[TAIL].before = here;
            if end {
                ends[done] = Some(here);
            }
        }
        Self {
            all,
            entries,
            ends,
            placed: vec![0; all.len().div_ceil(64)],
            held: None,
            tried: HashSet::new(),
            sure: all.iter().filter(|done| done.sure).count(),
            count: 0,
            steps: 0,
            steps_max,
            best: 0,
            stuck: None,
        }
    }

    fn run(&mut self) -> Answer {
        let mut orders: Vec<(usize, Option<u64>)> = Vec::new();
        let mut at = self.entries[HEAD].after;
        while self.count < self.sure {
            self.steps += 1;
            if self.steps > self.steps_max {
                return Answer::GaveUp;
            }
            let entry = self.entries[at];
            if at != TAIL && entry.begins {
                if self.place(entry.done) {
                    orders.push((at, self.held));
                    self.lift(at);
                    self.held = apply(self.all[entry.done].op, self.held).1;
                    at = self.entries[HEAD].after;
                } else {
                    at = entry.after;
                }
                continue;
            }
            // An operation ended that is not in the order: what was chosen before must change.
            if at != TAIL && (self.stuck.is_none() || self.count > self.best) {
                self.best = self.count;
                self.stuck = Some((entry.done, self.held));
            }
            let Some((last, held)) = orders.pop() else { return Answer::None };
            self.unlift(last);
            self.held = held;
            self.take_out(self.entries[last].done);
            at = self.entries[last].after;
        }
        Answer::Order
    }

    /// Puts an operation next in the order if it can be there and that was not tried before.
    fn place(&mut self, done: usize) -> bool {
        let (fits, held) = apply(self.all[done].op, self.held);
        if !fits {
            return false;
        }
        self.placed[done / 64] |= 1 << (done % 64);
        if self.tried.insert((self.set(), held)) {
            self.count += usize::from(self.all[done].sure);
            true
        } else {
            self.placed[done / 64] &= !(1 << (done % 64));
            false
        }
    }

    /// Returns which operations are in the order, without what is the same for most: all of the first
    /// ones are, and none of the last.
    fn set(&self) -> Placed {
        let full = self.placed.iter().take_while(|&&word| word == u64::MAX).count();
        let end = self.placed.iter().rposition(|&word| word != 0).map_or(full, |last| last + 1);
        (full, Box::from(&self.placed[full..end.max(full)]))
    }

    fn take_out(&mut self, done: usize) {
        self.placed[done / 64] &= !(1 << (done % 64));
        self.count -= usize::from(self.all[done].sure);
    }

    /// Takes an operation's beginning and end out of the list.
    fn lift(&mut self, begin: usize) {
        self.unlink(begin);
        if let Some(end) = self.ends[self.entries[begin].done] {
            self.unlink(end);
        }
    }

    /// Puts them back, in the opposite order: each still knows its neighbours.
    fn unlift(&mut self, begin: usize) {
        if let Some(end) = self.ends[self.entries[begin].done] {
            self.relink(end);
        }
        self.relink(begin);
    }

    fn unlink(&mut self, at: usize) {
        let Entry { before, after, .. } = self.entries[at];
        self.entries[before].after = after;
        self.entries[after].before = before;
    }

    fn relink(&mut self, at: usize) {
        let Entry { before, after, .. } = self.entries[at];
        self.entries[before].after = at;
        self.entries[after].before = at;
    }

    /// Says where the longest order ended.
    fn words(&self, key: u64) -> (Vec<u64>, String) {
        let Some((stuck, held)) = self.stuck else {
            return (Vec::new(), format!("key {key}: no order explains what was read"));
        };
        let done = &self.all[stuck];
        let did = match done.op {
            Register::Read(None) => "read nothing".to_owned(),
            Register::Read(Some(value)) => format!("read {value}"),
            Register::Write(value) => format!("wrote {value}"),
            Register::Cas { from, to } => format!("changed {from} to {to}"),
        };
        let held = held.map_or("nothing".to_owned(), |held| held.to_string());
        let text = format!(
            "key {key}: process {} {did} from {} to {} (operation {}), and no order explains that; \
             the longest has {} of {} acknowledged operations, and then the register holds {held}",
            done.process,
            seconds(done.start_ns),
            seconds(done.end_ns),
            done.index,
            self.best,
            self.sure
        );
        (vec![done.index], text)
    }
}
