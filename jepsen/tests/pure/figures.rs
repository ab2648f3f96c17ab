//! How long the checkers take. Ignored in ordinary runs; for the figures:
//! `cargo test --release -p jepsen --test pure -- --ignored --nocapture figures`.

#![allow(clippy::print_stderr, reason = "the figures are what it is for")]

use std::time::Instant;

use jepsen::checker::list_append::{Level, Options, check};
use jepsen::checker::{Validity, linearizable};
use jepsen::history::{History, Kind, Register};

use crate::build::{Call, history, register};
use crate::simulated::{Database, Load, Numbers, run};

#[test]
#[ignore = "takes seconds, and shows how many"]
fn fifty_thousand_transactions_take_seconds() {
    let load = Load { processes: 16, txns: 50_000, keys: 1000, steps: 5, unknown: 1 };
    for (database, level) in [
        (Database::Serial, Level::Serializable),
        (Database::Snapshot, Level::SnapshotIsolation),
        (Database::Snapshot, Level::Serializable),
    ] {
        let history = run(database, 1, load);
        let began = Instant::now();
        let verdict = check(&history, Options { level, session: true, real_time: true });
        let took = began.elapsed();
        eprintln!("list-append, {database:?} at {level:?}: {took:?}, {}", verdict.line());
        let fits = database == Database::Serial || level == Level::SnapshotIsolation;
        assert_eq!(verdict.valid == Validity::Valid, fits);
    }
}

/// Makes operations on one register by processes that work at the same time; each takes effect at a
/// moment between its ends. One read is wrong if that is asked for.
fn busy_register(count: u64, processes: u32, wrong: bool) -> History {
    let mut numbers = Numbers(3);
    let mut held = None;
    let mut calls: Vec<Call> = Vec::new();
    let mut free = vec![0_u64; processes as usize];
    let mut names: Vec<u32> = (0..processes).collect();
    let mut next_name = processes;
    for effect in (1..=count).map(|at| at * 20) {
        let process = usize::try_from(numbers.below(u64::from(processes))).unwrap();
        let from = effect.saturating_sub(numbers.below(80)).max(free[process] + 1).min(effect);
        let to = effect + 1 + numbers.below(80);
        let unknown = numbers.below(100) == 0;
        let op = match numbers.below(3) {
            0 => Register::Write(numbers.below(5)),
            1 if held.is_some() => Register::Cas { from: held.unwrap_or(0), to: numbers.below(5) },
            _ => Register::Read(held),
        };
        if free[process] >= effect {
            continue;
        }
        let lie = wrong && effect > count * 10 && matches!(op, Register::Read(Some(_)));
        let shown =
            if lie && calls.len().is_multiple_of(50) { Register::Read(Some(9)) } else { op };
        match op {
            Register::Write(value) | Register::Cas { to: value, .. } => held = Some(value),
            Register::Read(_) => {}
        }
        let kind = if unknown { Kind::Info } else { Kind::Ok };
        calls.push(register(names[process], from, to, kind, shown));
        free[process] = to;
        if unknown {
            names[process] = next_name;
            next_name += 1;
        }
    }
    history(&calls)
}

#[test]
#[ignore = "takes seconds, and shows how many"]
fn a_thousand_operations_on_one_register_take_less_than_a_second() {
    for (processes, wrong) in [(5, false), (10, false), (5, true), (10, true)] {
        let history = busy_register(1500, processes, wrong);
        let began = Instant::now();
        let verdict = linearizable::check(&history, linearizable::STEPS_MAX);
        let took = began.elapsed();
        eprintln!(
            "linearizable, {processes} processes, wrong {wrong}: {took:?}, {} {}",
            verdict.valid.word(),
            verdict.line()
        );
        if !wrong {
            assert_ne!(verdict.valid, Validity::Invalid);
        }
    }
}
