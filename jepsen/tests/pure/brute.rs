//! The checkers against trying out every order, on small random histories.
//!
//! For lists, with a last read of everything, both directions are asserted: what the checker rejects
//! has no order, and what has no order the checker rejects. Without that read only the first is: an
//! append that nobody read has no place, and the checker may miss what depends on it.

use std::collections::BTreeMap;

use jepsen::checker::list_append::{Level, Options, check};
use jepsen::checker::{Class, Validity, linearizable};
use jepsen::history::{F, History, Kind, Micro, Pair, Process, Register, Value};
use proptest::prelude::*;

use crate::build::{Call, call, history, register};
use crate::simulated::Numbers;

/// Whether an operation has a place in an order of all.
trait Model: Clone {
    fn apply(&mut self, value: &Value) -> bool;
}

#[derive(Clone, Default)]
struct Lists(BTreeMap<u64, Vec<u64>>);

impl Model for Lists {
    fn apply(&mut self, value: &Value) -> bool {
        let Value::Txn(micros) = value else { return false };
        micros.iter().all(|micro| match micro {
            Micro::Append { key, value } => {
                self.0.entry(*key).or_default().push(*value);
                true
            }
            Micro::Read { list: None, .. } => true,
            Micro::Read { key, list: Some(list) } => {
                self.0.get(key).map_or(list.is_empty(), |held| held == list)
            }
        })
    }
}

#[derive(Clone, Default)]
struct Held(Option<u64>);

impl Model for Held {
    fn apply(&mut self, value: &Value) -> bool {
        let Value::Register { op, .. } = value else { return false };
        match *op {
            Register::Read(read) => read == self.0,
            Register::Write(value) => {
                self.0 = Some(value);
                true
            }
            Register::Cas { from, to } => {
                let may = self.0 == Some(from);
                self.0 = if may { Some(to) } else { self.0 };
                may
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Rules {
    session: bool,
    real_time: bool,
}

/// Tries all orders of all that certainly happened, with any of what may have happened.
fn has_order<M: Model>(model: &M, left: &[Pair], rules: Rules) -> bool {
    if left.iter().all(|pair| pair.ok().is_none()) {
        return true;
    }
    (0..left.len()).any(|place| {
        let next = left[place];
        let early = left.iter().any(|other| {
            // Only what certainly happened must come first.
            let sure = other.ok().is_some();
            let before = other.end_ns() < next.invoke.time_ns;
            let same = other.invoke.process == next.invoke.process;
            sure && before && (rules.real_time || (rules.session && same))
        });
        let value = next.ok().map_or(&next.invoke.value, |ok| &ok.value);
        let mut model = model.clone();
        !early && model.apply(value) && {
            let rest: Vec<Pair> = [&left[..place], &left[place + 1..]].concat();
            has_order(&model, &rest, rules)
        }
    })
}

fn ordered<M: Model + Default>(history: &History, rules: Rules) -> bool {
    let pairs: Vec<Pair> =
        history.pairs().into_iter().filter(|pair| pair.kind() != Kind::Fail).collect();
    has_order(&M::default(), &pairs, rules)
}

/// Makes transactions whose reads show beginnings of one order per list: which, is left to chance.
fn transactions(seed: u64, last: bool) -> History {
    let mut numbers = Numbers(seed);
    let count = 2 + numbers.below(4);
    let mut plans: Vec<Vec<Micro>> = Vec::new();
    let mut orders: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut value = 0;
    for _ in 0..count {
        let mut plan = Vec::new();
        for _ in 0..=numbers.below(3) {
            let key = numbers.below(2);
            if numbers.below(5) < 2 {
                value += 1;
                let order = orders.entry(key).or_default();
                let place = numbers.below(order.len() as u64 + 1);
                // Mostly in the order in which they are made.
                let place = if numbers.below(3) > 0 {
                    order.len()
                } else {
                    usize::try_from(place).unwrap()
                };
                order.insert(place, value);
                plan.push(Micro::Append { key, value });
            } else {
                plan.push(Micro::Read { key, list: None });
            }
        }
        plans.push(plan);
    }
    for micro in plans.iter_mut().flatten() {
        if let Micro::Read { key, list } = micro {
            let order = orders.get(key).cloned().unwrap_or_default();
            let length = usize::try_from(numbers.below(order.len() as u64 + 1)).unwrap();
            *list = Some(order[..length].to_vec());
        }
    }
    let mut calls: Vec<Call> = Vec::new();
    let mut clock: BTreeMap<u32, u64> = BTreeMap::new();
    let mut end = 0;
    for (who, plan) in (100..).zip(plans) {
        let unknown = numbers.below(6) == 0;
        let process = if unknown { who } else { u32::try_from(numbers.below(3)).unwrap() };
        let from = clock.get(&process).copied().unwrap_or(0) + 1 + numbers.below(8);
        let to = from + 1 + numbers.below(8);
        clock.insert(process, to);
        end = end.max(to);
        let kind = if unknown { Kind::Info } else { Kind::Ok };
        calls.push(call(process, from, to, kind, F::Txn, Value::Txn(plan)));
    }
    if last {
        let read = |(key, list): (u64, Vec<u64>)| Micro::Read { key, list: Some(list) };
        let all = Value::Txn(orders.into_iter().map(read).collect());
        calls.push(call(999, end + 1, end + 2, Kind::Ok, F::Txn, all));
    }
    history(&calls)
}

fn registers(seed: u64) -> History {
    let mut numbers = Numbers(seed);
    let mut calls: Vec<Call> = Vec::new();
    let mut clock: BTreeMap<u32, u64> = BTreeMap::new();
    for who in 100..100 + 3 + u32::try_from(numbers.below(4)).unwrap() {
        let op = match numbers.below(5) {
            0 | 1 => Register::Write(numbers.below(3)),
            2 => Register::Cas { from: numbers.below(3), to: numbers.below(3) },
            _ => Register::Read(Some(numbers.below(4)).filter(|read| *read < 3)),
        };
        let kind = match numbers.below(6) {
            0 => Kind::Info,
            1 => Kind::Fail,
            _ => Kind::Ok,
        };
        let process =
            if kind == Kind::Info { who } else { u32::try_from(numbers.below(3)).unwrap() };
        let from = clock.get(&process).copied().unwrap_or(0) + 1 + numbers.below(6);
        let to = from + 1 + numbers.below(10);
        clock.insert(process, to);
        calls.push(register(process, from, to, kind, op));
    }
    history(&calls)
}

const SERIALIZABLE: Options =
    Options { level: Level::Serializable, session: false, real_time: false };

/// Returns how many of the histories had an order.
fn agree(last: bool, options: Options, seeds: std::ops::Range<u64>) -> u64 {
    let mut good = 0;
    for seed in seeds {
        let history = transactions(seed, last);
        assert_eq!(history.unsound(), []);
        let verdict = check(&history, options);
        // That an append is lost is a matter of time at every level.
        let lost = verdict.has(Class::LostAppend);
        assert!(!(last && lost), "the last read shows all: seed {seed}");
        let Options { session, real_time, .. } = options;
        let rules = Rules { session, real_time: real_time || lost };
        let ordered = ordered::<Lists>(&history, rules);
        let shown = || format!("seed {seed}\n{}{verdict:#?}", history.to_json_lines());
        if verdict.valid != Validity::Valid {
            assert!(!ordered, "rejected, and there is an order: {}", shown());
        } else if last {
            assert!(ordered, "accepted, and there is no order: {}", shown());
        }
        good += u64::from(ordered);
    }
    good
}

#[test]
fn lists_are_judged_as_by_trying_all_orders() {
    let good = agree(true, SERIALIZABLE, 0..6000);
    // Both words must have been right for a reason.
    assert!((300..5700).contains(&good), "{good} of 6000 had an order");
}

#[test]
fn lists_in_real_time_and_in_sessions_are_judged_as_by_trying_all_orders() {
    let strict = agree(true, Options { real_time: true, ..SERIALIZABLE }, 10_000..14_000);
    let session = agree(true, Options { session: true, ..SERIALIZABLE }, 10_000..14_000);
    assert!(strict < session && strict > 50, "{strict} strictly, {session} in sessions");
}

#[test]
fn lists_without_a_last_read_are_never_rejected_if_there_is_an_order() {
    let good = agree(false, SERIALIZABLE, 20_000..24_000);
    assert!((200..3900).contains(&good), "{good} of 4000 had an order");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn lists_of_any_seed_are_judged_as_by_trying_all_orders(seed in any::<u64>()) {
        agree(true, SERIALIZABLE, seed..seed.saturating_add(1));
    }
}

#[test]
fn registers_are_judged_as_by_trying_all_orders() {
    let rules = Rules { session: true, real_time: true };
    let mut good = 0;
    for seed in 0..20_000 {
        let history = registers(seed);
        let ordered = ordered::<Held>(&history, rules);
        let verdict = linearizable::check(&history, linearizable::STEPS_MAX);
        let agrees = (verdict.valid == Validity::Valid) == ordered;
        assert!(agrees, "seed {seed}, order {ordered}\n{}{verdict:#?}", history.to_json_lines());
        good += u64::from(ordered);
    }
    assert!((2000..18_000).contains(&good), "{good} of 20000 had an order");
}

#[test]
fn the_trial_of_all_orders_itself_knows_right_from_wrong() {
    let write = register(0, 0, 1, Kind::Ok, Register::Write(1));
    let read = |value| register(1, 2, 3, Kind::Ok, Register::Read(value));
    let rules = Rules { session: true, real_time: true };
    let free = Rules { session: false, real_time: false };
    let right = history(&[write.clone(), read(Some(1))]);
    let wrong = history(&[write, read(None)]);
    assert!(ordered::<Held>(&right, rules));
    assert!(!ordered::<Held>(&wrong, rules));
    assert!(ordered::<Held>(&wrong, free), "the read may be first if time does not count");
    assert_eq!(right.pairs()[0].invoke.process, Process::Client(0));
}
