//! For each checker but that of lists: a history that it rejects, and a twin that it accepts.

use std::collections::BTreeMap;

use jepsen::checker::logs::Log;
use jepsen::checker::recovery::{Bounds, EpochChange};
use jepsen::checker::{
    Class, Outcome as All, Validity, Verdict, bank, linearizable, logs, overlap, recovery, set,
};
use jepsen::history::{F, History, Kind, Outcome, Probe, Register, Value};

use crate::build::{Call, add, call, fault, history, read_set, register, txn};

fn rejected(verdict: &Verdict, class: Class, words: &str) {
    let told = verdict.findings.iter().any(|f| f.class == class && f.text.contains(words));
    assert!(told && verdict.valid == Validity::Invalid, "{class} with {words:?}: {verdict:#?}");
}

fn accepted(verdict: &Verdict) {
    assert_eq!(verdict.valid, Validity::Valid, "{verdict:#?}");
}

fn registers(calls: &[Call]) -> Verdict {
    linearizable::check(&history(calls), linearizable::STEPS_MAX)
}

#[test]
fn a_register_that_forgets_is_not_linearizable() {
    use Register::{Read, Write};
    let with = |read| {
        let write = register(0, 0, 1, Kind::Ok, Write(5));
        registers(&[write, register(1, 2, 3, Kind::Ok, Read(read))])
    };
    let words = "key 1: process 1 read nothing from 0.002 s to 0.003 s (operation 2), and no order \
                 explains that; the longest has 1 of 2 acknowledged operations, and then the \
                 register holds 5";
    rejected(&with(None), Class::NotLinearizable, words);
    accepted(&with(Some(5)));
}

#[test]
fn a_register_that_goes_back_is_not_linearizable() {
    use Register::{Read, Write};
    let with = |second| {
        registers(&[
            register(0, 0, 9, Kind::Ok, Write(5)),
            register(1, 1, 2, Kind::Ok, Read(Some(5))),
            register(1, 3, 4, Kind::Ok, Read(second)),
        ])
    };
    rejected(&with(None), Class::NotLinearizable, "process 1 read nothing");
    accepted(&with(Some(5)));
}

#[test]
fn two_that_changed_the_same_value_are_not_linearizable() {
    use Register::{Cas, Write};
    let with = |second| {
        registers(&[
            register(0, 0, 1, Kind::Ok, Write(1)),
            register(1, 2, 5, Kind::Ok, Cas { from: 1, to: 2 }),
            register(2, 2, 5, Kind::Ok, second),
        ])
    };
    rejected(&with(Cas { from: 1, to: 3 }), Class::NotLinearizable, "changed 1 to");
    accepted(&with(Cas { from: 2, to: 3 }));
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never_and_a_failed_one_not_at_all() {
    use Register::{Read, Write};
    let with = |kind, late| {
        registers(&[
            register(0, 0, 1, kind, Write(7)),
            register(1, 2, 3, Kind::Ok, Read(None)),
            register(1, 4, 5, Kind::Ok, Read(late)),
        ])
    };
    accepted(&with(Kind::Info, Some(7)));
    accepted(&with(Kind::Info, None));
    accepted(&with(Kind::Fail, None));
    rejected(&with(Kind::Fail, Some(7)), Class::NotLinearizable, "process 1 read 7");
}

#[test]
fn a_search_that_was_given_up_is_unknown_and_not_valid() {
    let calls = [register(0, 0, 1, Kind::Ok, Register::Write(1))];
    let verdict = linearizable::check(&history(&calls), 0);
    assert_eq!(verdict.valid, Validity::Unknown);
    assert!(verdict.has(Class::GivenUp));
    assert!(verdict.findings[0].text.contains("gave up after 0 steps"), "{verdict:#?}");
}

#[test]
fn an_acknowledged_element_that_is_gone_is_lost() {
    let with = |read: &[u64]| {
        let write = add(0, 0, 1, Kind::Ok, 4).at("n1", 2, 1);
        set::check(&history(&[write, read_set(1, 2, 3, read)]))
    };
    let words = "4 was acknowledged by n1 at 0.001 s (operation 0), and the read that began at \
                 0.002 s does not have it";
    rejected(&with(&[]), Class::LostElement, words);
    accepted(&with(&[4]));
}

#[test]
fn an_element_whose_write_failed_for_certain_does_not_come_back() {
    let with = |kind| {
        let mut write = add(0, 0, 1, kind, 4);
        write.error = Some("read-only".to_owned());
        set::check(&history(&[write, read_set(1, 2, 3, &[4])]))
    };
    let words = "although its write failed for certain (operation 0: read-only)";
    rejected(&with(Kind::Fail), Class::Resurrected, words);
    let unknown = with(Kind::Info);
    accepted(&unknown);
    assert_eq!(unknown.counts["unknown and there"], 1);
}

#[test]
fn an_element_is_in_the_set_once_and_by_somebody() {
    let with =
        |read: &[u64]| set::check(&history(&[add(0, 0, 1, Kind::Ok, 4), read_set(1, 2, 3, read)]));
    rejected(&with(&[4, 4]), Class::DuplicateElement, "4 is in the last read 2 times");
    rejected(&with(&[4, 5]), Class::Unexpected, "5 is in the last read, and nobody added it");
}

#[test]
fn only_the_primary_s_last_read_counts_and_without_one_nothing_is_known() {
    let write = add(0, 0, 1, Kind::Ok, 4);
    let late = read_set(1, 6, 7, &[]).by_standby("n2");
    accepted(&set::check(&history(&[write.clone(), read_set(1, 2, 3, &[4]), late.clone()])));
    let verdict = set::check(&history(&[write, late]));
    assert_eq!((verdict.valid, verdict.has(Class::NeverRead)), (Validity::Unknown, true));
}

fn balances(sums: &[(u64, i64)]) -> History {
    let all = Value::Balances(Some(sums.iter().copied().collect::<BTreeMap<_, _>>()));
    let empty = call(0, 0, 1, Kind::Ok, F::Transfer, Value::Transfer { from: 0, to: 1, amount: 3 });
    history(&[empty, call(1, 2, 3, Kind::Ok, F::ReadBank, all)])
}

#[test]
fn money_is_neither_made_nor_lost() {
    let rules = bank::Rules { total: 10, negative: false };
    let words = "read 2 shows 9 in all accounts, not 10";
    rejected(&bank::check(&balances(&[(0, 4), (1, 5)]), rules), Class::WrongTotal, words);
    accepted(&bank::check(&balances(&[(0, 4), (1, 6)]), rules));
    let words = "read 2 shows -1 in account 0";
    rejected(&bank::check(&balances(&[(0, -1), (1, 11)]), rules), Class::Negative, words);
    let rules = bank::Rules { negative: true, ..rules };
    accepted(&bank::check(&balances(&[(0, -1), (1, 11)]), rules));
}

fn acks(rows: &[(&str, u64, u32, u64, u64)]) -> Verdict {
    let one =
        |(element, &(node, epoch, timeline, from, to)): (u64, &(&str, u64, u32, u64, u64))| {
            let who = u32::try_from(element).unwrap();
            add(who, from, to, Kind::Ok, element).at(node, epoch, timeline)
        };
    overlap::check(&history(&(0..).zip(rows).map(one).collect::<Vec<_>>()))
}

#[test]
fn two_nodes_that_acknowledge_in_turns_overlap() {
    let verdict = acks(&[("n1", 1, 1, 0, 1), ("n2", 2, 2, 2, 3), ("n1", 1, 1, 4, 5)]);
    let words = "n1 acknowledged writes of epoch 1 from 0.000 s to 0.005 s, and n2 acknowledged \
                 writes of epoch 2 from 0.002 s to 0.003 s";
    rejected(&verdict, Class::Overlap, words);
    // The same without a word on epochs: the timelines show it.
    let verdict = acks(&[("n1", 0, 1, 0, 1), ("n2", 0, 2, 2, 3), ("n1", 0, 1, 4, 5)]);
    rejected(&verdict, Class::Overlap, "n1 acknowledged writes of timeline 1");
    // There and back again is no overlap.
    accepted(&acks(&[("n1", 1, 1, 0, 1), ("n2", 2, 2, 2, 3), ("n1", 3, 3, 4, 5)]));
    // Both answers are late, and the moments may have been one after the other.
    accepted(&acks(&[("n1", 1, 1, 0, 9), ("n2", 2, 2, 3, 8)]));
}

#[test]
fn an_older_epoch_after_a_newer_one_is_found() {
    let verdict = acks(&[("n2", 2, 0, 0, 1), ("n1", 1, 0, 2, 3)]);
    let words = "n1 acknowledged operation 2 of epoch 1, sent at 0.002 s, after n2 had acknowledged \
                 operation 0 of epoch 2 at 0.001 s";
    rejected(&verdict, Class::EpochBackwards, words);
    accepted(&acks(&[("n2", 2, 0, 0, 4), ("n1", 1, 0, 2, 3)]));
    let verdict = acks(&[("n2", 0, 2, 0, 1), ("n1", 0, 1, 2, 3)]);
    rejected(&verdict, Class::EpochBackwards, "of timeline 1, sent at");
}

#[test]
fn an_epoch_belongs_to_one_node_and_all_nodes_to_one_database() {
    let verdict = acks(&[("n1", 1, 0, 0, 1), ("n2", 1, 0, 2, 3)]);
    rejected(&verdict, Class::SharedEpoch, "n2 acknowledged writes of epoch 1");
    let mut calls =
        [add(0, 0, 1, Kind::Ok, 1).at("n1", 1, 1), add(1, 2, 3, Kind::Ok, 2).at("n2", 2, 2)];
    accepted(&overlap::check(&history(&calls)));
    calls[1].server.as_mut().unwrap().system = Some(8);
    let words = "n2 is database 8, and n1 is database 7";
    rejected(&overlap::check(&history(&calls)), Class::ForeignDatabase, words);
}

#[test]
fn an_epoch_that_was_given_twice_is_found_by_its_timelines() {
    let verdict = acks(&[("n1", 1, 2, 0, 1), ("n1", 1, 3, 2, 3)]);
    let words =
        "under epoch 1 n1 acknowledged operation 0 on timeline 2, and n1 operation 2 on timeline 3";
    rejected(&verdict, Class::EpochTwice, words);
    accepted(&acks(&[("n1", 1, 2, 0, 1), ("n1", 1, 2, 2, 3), ("n1", 2, 3, 4, 5)]));
    // What was not told is not held against it.
    accepted(&acks(&[("n1", 0, 2, 0, 1), ("n1", 0, 3, 2, 3)]));
}

#[test]
fn a_probe_counts_only_if_it_was_acknowledged() {
    let probe = |who, from, to, node: &str, epoch, ack| {
        let value = Value::Probe(Probe { node: node.to_owned(), ack: Some(ack) });
        call(who, from, to, Kind::Ok, F::Probe, value).at(node, epoch, 0)
    };
    let with = |ack| {
        overlap::check(&history(&[
            probe(0, 0, 1, "n1", 1, true),
            probe(1, 2, 3, "n2", 2, ack),
            probe(2, 4, 5, "n1", 1, true),
        ]))
    };
    rejected(&with(true), Class::Overlap, "n2");
    accepted(&with(false));
}

fn bounds() -> Bounds {
    Bounds {
        after_ns: BTreeMap::from([("kill".to_owned(), 100_000_000)]),
        otherwise_ns: 50_000_000,
        harmless: vec!["slow".to_owned()],
        excuse_ns: 20_000_000,
    }
}

fn recovered(next: u64, name: &str, epochs: &[(u64, u64)]) -> Verdict {
    let calls = [
        add(0, 0, 1, Kind::Ok, 1),
        fault(F::Fault, 10, 11, name, Outcome::Installed),
        add(0, next, next + 1, Kind::Ok, 2),
        add(0, 900, 901, Kind::Ok, 3),
    ];
    let change = |&(at, epoch): &(u64, u64)| EpochChange {
        time_ns: at * 1_000_000,
        epoch,
        node: "n2".to_owned(),
    };
    let epochs: Vec<EpochChange> = epochs.iter().map(change).collect();
    recovery::check(&history(&calls), &bounds(), &epochs)
}

#[test]
fn a_write_is_acknowledged_in_time_after_each_fault() {
    let words = "a write sent after 0.010 s was acknowledged only at 0.131 s, not within 0.100 s";
    rejected(&recovered(130, "kill", &[]), Class::SlowRecovery, words);
    let good = recovered(90, "kill", &[]);
    accepted(&good);
    assert_eq!(good.counts["slowest ms after kill"], 81);
    assert_eq!(good.counts["longest gap ms"], 810);
    assert_eq!(good.counts["judged"], 1);
    // The bound is the fault's own.
    rejected(&recovered(90, "cut", &[]), Class::SlowRecovery, "not within 0.050 s");
}

#[test]
fn a_fault_that_was_skipped_is_none_and_one_that_lasts_is_judged_from_its_end() {
    let with = |outcome| {
        let calls = [
            fault(F::Fault, 10, 11, "kill", outcome),
            fault(F::Heal, 300, 301, "kill", Outcome::Installed),
            add(0, 380, 390, Kind::Ok, 1),
            add(0, 900, 901, Kind::Ok, 3),
        ];
        recovery::check(&history(&calls), &bounds(), &[])
    };
    assert_eq!(with(Outcome::Skipped).counts["faults"], 0);
    assert_eq!(with(Outcome::Indeterminate).counts["indeterminate faults"], 1);
    let judged = with(Outcome::Installed);
    accepted(&judged);
    assert_eq!(judged.counts["slowest ms after kill"], 89);
}

#[test]
fn a_failover_without_a_fault_that_asks_for_it_is_found() {
    let words = "epoch 2 began on n2 at 0.200 s, and no fault was there that asked for it";
    let class = Class::NeedlessFailover;
    rejected(&recovered(40, "kill", &[(1, 1), (200, 2)]), class, words);
    rejected(&recovered(40, "slow", &[(1, 1), (20, 2)]), class, "epoch 2 began on n2 at 0.020 s");
    accepted(&recovered(40, "kill", &[(1, 1), (20, 2)]));
}

#[test]
fn a_line_that_nobody_announced_is_found_and_a_panic_always() {
    let line = |level: &str, text: &str| {
        format!("2026-11-28T15:51:58.687964Z {level} ha::event: {text}\n")
    };
    let with = |text: String, announced: &[&str]| {
        let announced: Vec<String> = announced.iter().map(|&a| a.to_owned()).collect();
        logs::check(&[Log { name: "n1.log".to_owned(), text }], &announced)
    };
    let warning = line(" WARN", "lease expired epoch=1");
    rejected(&with(warning.clone(), &[]), Class::UnannouncedLine, "n1.log: 2026");
    accepted(&with(warning, &["lease expired"]));
    accepted(&with(line(" INFO", "an ERROR or WARN in its text"), &[]));
    rejected(&with(line("ERROR", "broken"), &["lease"]), Class::UnannouncedLine, "broken");
    let panic = "thread 'x' panicked at lease expired\n".to_owned();
    rejected(&with(panic, &["lease expired"]), Class::Panic, "panicked");
    rejected(&with("error: cannot start\n".to_owned(), &[]), Class::UnannouncedLine, "start");
}

#[test]
fn what_a_standby_answers_of_the_bank_is_not_gated() {
    let rules = bank::Rules { total: 10, negative: false };
    let all = Value::Balances(Some(BTreeMap::from([(0, 4), (1, 5)])));
    let good = Value::Balances(Some(BTreeMap::from([(0, 4), (1, 6)])));
    let calls = [
        call(0, 0, 1, Kind::Ok, F::ReadBank, good),
        call(1, 2, 3, Kind::Ok, F::ReadBank, all).by_standby("n2"),
    ];
    accepted(&bank::check(&history(&calls), rules));
}

#[test]
fn the_worst_word_counts_and_a_broken_harness_is_no_word_on_the_cluster() {
    let sound = history(&[add(0, 0, 1, Kind::Ok, 4), read_set(1, 2, 3, &[])]);
    let lost = All::new(&sound, vec![set::check(&sound), overlap::check(&sound)]);
    assert_eq!((lost.valid, lost.harness.len()), (Validity::Invalid, 0));
    assert_eq!(All::new(&sound, Vec::new()).valid, Validity::Unknown);
    let mut broken = sound;
    broken.operations[3].index = 7;
    let unsound = All::new(&broken, vec![set::check(&broken)]);
    assert_eq!(unsound.valid, Validity::Unknown);
    assert_eq!(unsound.harness, ["operation 7 is at place 3"]);
    let only_told = Verdict { valid: Validity::Told, ..Verdict::new("told") };
    assert_eq!(All::new(&History::default(), vec![only_told]).valid, Validity::Unknown);
    let twice =
        history(&[add(0, 0, 1, Kind::Ok, 4), add(1, 0, 1, Kind::Ok, 4), read_set(1, 2, 3, &[4])]);
    let outcome = All::new(&twice, vec![set::check(&twice)]);
    assert_eq!((outcome.valid, outcome.harness.len()), (Validity::Unknown, 1));
}

#[test]
fn many_findings_of_one_class_are_counted_and_a_few_told() {
    let calls: Vec<Call> = (0..50).map(|e| add(e, 0, 1, Kind::Ok, u64::from(e))).collect();
    let calls = [calls, vec![read_set(60, 2, 3, &[]), txn(61, 2, 3, Kind::Ok, "r1=")]].concat();
    let verdict = set::check(&history(&calls));
    assert_eq!(verdict.counts["lost-element"], 50);
    assert_eq!(verdict.findings.len(), jepsen::checker::TOLD_MAX);
}
