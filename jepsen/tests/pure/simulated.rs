//! Histories of simulated databases of known isolation. Each must pass at its own level; a weaker one
//! must be caught at a stronger level often enough, else the checker or the simulation is blind.

use std::collections::BTreeMap;

use jepsen::checker::list_append::{Level, Options, check};
use jepsen::checker::{Class, Validity};
use jepsen::history::{F, History, Kind, Micro, Operation, Value};
use proptest::prelude::*;

use crate::build::{Call, call, history};

/// What a simulated database promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    /// One transaction at a time.
    Serial,
    /// Reads of a snapshot; whoever commits an overwrite first wins.
    Snapshot,
    /// Reads of whatever is committed; whoever appends holds the list until it ends.
    ReadCommitted,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) processes: usize,
    pub(crate) txns: usize,
    pub(crate) keys: u64,
    pub(crate) steps: u64,
    /// Of a hundred commits, how many are answered with "nobody knows".
    pub(crate) unknown: u64,
}

/// Numbers that look random and are the same each time (splitmix64, Steele et al. 2014).
#[derive(Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

type Lists = BTreeMap<u64, Vec<u64>>;

/// A transaction that runs.
#[derive(Debug)]
struct Running {
    from: u64,
    todo: Vec<Micro>,
    done: Vec<Micro>,
    /// How long each list was when it began: lists only ever grow.
    snapshot: Option<BTreeMap<u64, usize>>,
    appended: Vec<(u64, u64)>,
}

struct World {
    database: Database,
    committed: Lists,
    lengths: BTreeMap<u64, usize>,
    numbers: Numbers,
    next_value: u64,
    clock: u64,
}

impl World {
    fn begin(&mut self, load: Load) -> Running {
        self.clock += 1;
        let mut todo = Vec::new();
        for _ in 0..=self.numbers.below(load.steps) {
            let key = self.numbers.below(load.keys);
            if self.numbers.below(2) == 0 {
                self.next_value += 1;
                todo.push(Micro::Append { key, value: self.next_value });
            } else {
                todo.push(Micro::Read { key, list: None });
            }
        }
        todo.reverse();
        let (from, done, appended) = (self.clock, Vec::new(), Vec::new());
        Running { from, todo, done, snapshot: None, appended }
    }

    fn seen(&self, txn: &Running, key: u64) -> Vec<u64> {
        let mut list = self.committed.get(&key).cloned().unwrap_or_default();
        if let (Some(lengths), Database::Snapshot) = (&txn.snapshot, self.database) {
            list.truncate(lengths.get(&key).copied().unwrap_or(0));
        }
        list.extend(txn.appended.iter().filter(|(k, _)| *k == key).map(|(_, value)| *value));
        list
    }

    fn step(&mut self, txn: &mut Running) {
        txn.snapshot.get_or_insert_with(|| self.lengths.clone());
        match txn.todo.pop().expect("a transaction that is not done") {
            Micro::Append { key, value } => {
                txn.appended.push((key, value));
                txn.done.push(Micro::Append { key, value });
            }
            Micro::Read { key, .. } => {
                let list = Some(self.seen(txn, key));
                txn.done.push(Micro::Read { key, list });
            }
        }
    }

    /// Returns whether it is committed.
    fn commit(&mut self, txn: &Running) -> bool {
        let lengths = txn.snapshot.as_ref().expect("a transaction that began");
        let changed = |key: &u64| lengths.get(key) != self.lengths.get(key);
        if self.database == Database::Snapshot && txn.appended.iter().any(|(key, _)| changed(key)) {
            return false;
        }
        for (key, value) in &txn.appended {
            self.committed.entry(*key).or_default().push(*value);
            *self.lengths.entry(*key).or_default() += 1;
        }
        true
    }
}

/// Returns whether another transaction holds the list that is to be appended to next.
fn held(txn: &Running, others: &[Option<Running>]) -> bool {
    let Some(Micro::Append { key, .. }) = txn.todo.last() else { return false };
    let holds = |other: &Running| other.appended.iter().any(|(k, _)| k == key);
    others.iter().flatten().any(|other| other.from != txn.from && holds(other))
}

/// Runs transactions, and reads all lists at the end.
pub(crate) fn run(database: Database, seed: u64, load: Load) -> History {
    let numbers = Numbers(seed);
    let mut world = World {
        database,
        committed: Lists::new(),
        lengths: BTreeMap::new(),
        numbers,
        next_value: 0,
        clock: 0,
    };
    let mut names: Vec<u32> = (0..u32::try_from(load.processes).unwrap()).collect();
    let mut next_name = u32::try_from(load.processes).unwrap();
    let mut running: Vec<Option<Running>> = (0..load.processes).map(|_| None).collect();
    let mut calls: Vec<Call> = Vec::new();
    let mut left = load.txns;
    while left > 0 || running.iter().any(Option::is_some) {
        let process = usize::try_from(world.numbers.below(load.processes as u64)).unwrap();
        let Some(mut txn) = running[process].take() else {
            if left > 0 {
                left -= 1;
                running[process] = Some(world.begin(load));
            }
            continue;
        };
        let locks = database == Database::ReadCommitted;
        let aborted = locks && held(&txn, &running) && world.numbers.below(3) == 0;
        if !aborted {
            if locks && held(&txn, &running) {
                running[process] = Some(txn);
                continue;
            }
            world.step(&mut txn);
            while database == Database::Serial && !txn.todo.is_empty() {
                world.step(&mut txn);
            }
            if !txn.todo.is_empty() {
                running[process] = Some(txn);
                continue;
            }
        }
        let committed = !aborted && world.commit(&txn);
        world.clock += 1;
        let kind = match (world.numbers.below(100) < load.unknown, committed) {
            (true, _) => Kind::Info,
            (false, true) => Kind::Ok,
            (false, false) => Kind::Fail,
        };
        let all = txn.done.into_iter().chain(txn.todo.into_iter().rev()).collect();
        calls.push(call(names[process], txn.from, world.clock, kind, F::Txn, Value::Txn(all)));
        if kind == Kind::Info {
            names[process] = next_name;
            next_name += 1;
        }
    }
    let read = |key| Micro::Read {
        key,
        list: Some(world.committed.get(&key).cloned().unwrap_or_default()),
    };
    let all = Value::Txn((0..load.keys).map(read).collect());
    let end = world.clock + 1;
    calls.push(call(next_name, end, end + 1, Kind::Ok, F::Txn, all));
    history(&calls)
}

const LOAD: Load = Load { processes: 5, txns: 60, keys: 4, steps: 5, unknown: 8 };
const STRONG: Options = Options { level: Level::Serializable, session: true, real_time: true };

fn at(level: Level) -> Options {
    Options { level, ..STRONG }
}

fn valid(database: Database, seed: u64, options: Options) -> bool {
    let history = run(database, seed, LOAD);
    assert_eq!(history.unsound(), []);
    check(&history, options).valid == Validity::Valid
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_serial_database_is_strictly_serializable(seed in any::<u64>()) {
        let verdict = check(&run(Database::Serial, seed, LOAD), STRONG);
        prop_assert_eq!(verdict.valid, Validity::Valid, "{:#?}", verdict);
    }

    #[test]
    fn a_snapshot_database_has_strong_snapshot_isolation(seed in any::<u64>()) {
        let verdict = check(&run(Database::Snapshot, seed, LOAD), at(Level::SnapshotIsolation));
        prop_assert_eq!(verdict.valid, Validity::Valid, "{:#?}", verdict);
    }

    #[test]
    fn a_read_committed_database_is_read_committed(seed in any::<u64>()) {
        let verdict = check(&run(Database::ReadCommitted, seed, LOAD), at(Level::ReadCommitted));
        prop_assert_eq!(verdict.valid, Validity::Valid, "{:#?}", verdict);
    }

    #[test]
    fn a_history_that_was_tampered_with_is_caught(seed in any::<u64>(), which in any::<u64>()) {
        let mut history = run(Database::Serial, seed, Load { unknown: 0, ..LOAD });
        let classes = tamper(&mut history, which);
        let verdict = check(&history, STRONG);
        let found = classes.iter().any(|class| verdict.counts.contains_key(class.word()));
        prop_assert!(found || classes.is_empty(), "{:?} {:#?}", classes, verdict);
    }
}

/// Changes one list of the last read, which shows all lists. Returns the classes of which one must be
/// found then; nothing if no list is long enough.
fn tamper(history: &mut History, which: u64) -> Vec<Class> {
    let mut earlier: BTreeMap<u64, usize> = BTreeMap::new();
    let count = history.operations.len() - 1;
    for operation in history.operations[..count].iter().filter(|o| o.kind == Kind::Ok) {
        let Value::Txn(micros) = &operation.value else { continue };
        for micro in micros {
            if let Micro::Read { key, list: Some(list) } = micro {
                let longest = earlier.entry(*key).or_default();
                *longest = list.len().max(*longest);
            }
        }
    }
    let Some(Operation { value: Value::Txn(micros), .. }) = history.operations.last_mut() else {
        return Vec::new();
    };
    // What another read shows too can be told apart from what was changed.
    let shown = |micro: &&mut Micro| earlier.get(&micro.key()).is_some_and(|&longest| longest > 0);
    let mut lists = micros.iter_mut().filter(shown).filter_map(|micro| match micro {
        Micro::Read { list: Some(list), .. } if list.len() > 3 => Some(list),
        _ => None,
    });
    let Some(list) = lists.next() else { return Vec::new() };
    match which % 4 {
        0 => {
            list.push(list[0]);
            vec![Class::DuplicateElement]
        }
        1 => {
            list.push(u64::MAX);
            vec![Class::Garbage]
        }
        2 => {
            list.swap(0, 1);
            vec![Class::IncompatibleOrder]
        }
        _ => {
            list.truncate(1);
            // In a large component not every cycle is looked for, and a shorter way round may be another's.
            vec![Class::LostAppend, Class::GSingle, Class::GNonadjacent, Class::G2Item]
        }
    }
}

#[test]
fn what_is_too_weak_is_caught_at_a_stronger_level() {
    let caught =
        |database, level| (0..60).filter(|&seed| !valid(database, seed, at(level))).count();
    let skew = caught(Database::Snapshot, Level::Serializable);
    assert!(skew > 50, "snapshot isolation passed for serializable: {skew} of 60 caught");
    let lost = caught(Database::ReadCommitted, Level::SnapshotIsolation);
    assert!(lost > 50, "read committed passed for snapshot isolation: {lost} of 60 caught");
}

#[test]
fn a_database_that_forgets_the_last_commit_is_caught() {
    // The acknowledged end of each list is cut off wherever it was read: a failover that lost it.
    let mut caught = 0;
    for seed in 0..20 {
        let mut history = run(Database::Serial, seed, Load { unknown: 0, ..LOAD });
        let Some(Operation { value: Value::Txn(micros), .. }) = history.operations.last() else {
            panic!("the last operation reads all lists");
        };
        let ends: Vec<(u64, u64)> = micros
            .iter()
            .filter_map(|micro| match micro {
                Micro::Read { key, list: Some(list) } => Some((*key, *list.last()?)),
                _ => None,
            })
            .collect();
        for operation in &mut history.operations {
            let Value::Txn(micros) = &mut operation.value else { continue };
            for micro in micros {
                if let Micro::Read { key, list: Some(list) } = micro {
                    list.retain(|value| !ends.contains(&(*key, *value)));
                }
            }
        }
        let verdict = check(&history, at(Level::ReadCommitted));
        caught += usize::from(verdict.counts.contains_key(Class::LostAppend.word()));
    }
    assert_eq!(caught, 20);
}
