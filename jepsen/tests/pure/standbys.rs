//! What is said of reads from standbys.

use std::collections::BTreeMap;

use jepsen::checker::standby_reads::{NEWEST, check};
use jepsen::checker::{Class, Validity, Verdict, bank};
use jepsen::history::{F, Kind, Value};

use crate::build::{Call, add, call, history, ok, read_set, txn};

const RULES: bank::Rules = bank::Rules { total: 10, negative: false };

fn told(calls: &[Call]) -> Verdict {
    let verdict = check(&history(calls), Some(RULES)).expect("reads of standbys");
    assert_eq!(verdict.valid, Validity::Told, "whatever was read, it is not gated: {verdict:#?}");
    assert!(verdict.findings.is_empty(), "{verdict:#?}");
    verdict
}

fn newest(from: u64, to: u64, elements: Vec<u64>) -> Call {
    call(9, from, to, Kind::Ok, F::ReadNewest, Value::Set(Some(elements))).by_standby("n2")
}

#[test]
fn a_read_is_as_far_behind_as_the_oldest_write_that_it_lacks() {
    let calls = [
        add(0, 0, 10, Kind::Ok, 1),
        add(0, 20, 60, Kind::Ok, 2),
        add(0, 70, 90, Kind::Ok, 3),
        newest(300, 310, vec![1]),
        newest(300, 310, vec![3, 2, 1]),
        newest(320, 330, vec![1, 2]),
        newest(340, 350, vec![1, 2, 3]),
        read_set(0, 400, 410, &[1, 2, 3]),
    ];
    let verdict = told(&calls);
    assert_eq!((verdict.counts["reads"], verdict.counts["behind"]), (4, 2));
    assert_eq!(verdict.counts["behind ms at most"], 240);
    let words = "4 reads, 50 % behind, at most 240 ms; of what they showed 0 never acknowledged, 0 gone in the end";
    assert_eq!(verdict.line(), words);
    let words = "n2 answered operation 6 without 2, acknowledged 240 ms before";
    assert_eq!((verdict.notes[0].class, verdict.notes[0].text.as_str()), (Class::StaleRead, words));
}

#[test]
fn what_was_acknowledged_after_the_read_began_is_not_missing() {
    let calls = [add(0, 0, 10, Kind::Ok, 1), newest(9, 20, vec![])];
    assert_eq!(told(&calls).counts["behind"], 0);
    let calls = [add(0, 0, 10, Kind::Ok, 1), newest(11, 20, vec![])];
    assert_eq!(told(&calls).counts["behind"], 1);
}

#[test]
fn a_share_that_is_small_is_not_called_none() {
    let mut calls = vec![add(0, 0, 10, Kind::Ok, 1), newest(20, 21, vec![])];
    calls.extend((0..499).map(|_| newest(20, 21, vec![1])));
    assert!(told(&calls).line().starts_with("500 reads, 0.2 % behind, at most 10 ms"));
}

#[test]
fn elements_older_than_the_newest_say_nothing_of_the_age_of_a_read() {
    let last = NEWEST as u64 + 5;
    let all: Vec<Call> = (1..=last).map(|e| add(0, 10 * e, 10 * e + 1, Kind::Ok, e)).collect();
    let of = |shown: Vec<u64>| {
        let calls = [all.clone(), vec![newest(10 * last + 100, 10 * last + 101, shown)]].concat();
        told(&calls).counts["behind"]
    };
    assert_eq!(of((6..=last).collect()), 0);
    assert_eq!(of((5..last).collect()), 1, "the very newest is missing");
    assert_eq!(of((7..=last).collect()), 1, "fewer than it might show, and the sixth is missing");
}

#[test]
fn what_was_never_acknowledged_is_told_and_whether_it_is_gone() {
    let calls = [
        add(0, 0, 10, Kind::Ok, 1),
        add(1, 0, 10, Kind::Info, 2),
        add(2, 0, 10, Kind::Info, 3),
        add(3, 0, 10, Kind::Fail, 4),
        newest(20, 30, vec![1, 2, 3, 4]),
        newest(40, 50, vec![1, 2, 3, 4]),
        read_set(0, 60, 70, &[1, 2]),
    ];
    let verdict = told(&calls);
    assert_eq!((verdict.counts["never acknowledged"], verdict.counts["gone in the end"]), (3, 2));
    let of = |class| verdict.notes.iter().filter(|note| note.class == class).count();
    assert_eq!((of(Class::UnacknowledgedRead), of(Class::DivergedRead)), (3, 2));
    assert!(verdict.line().ends_with("3 never acknowledged, 2 gone in the end"));
}

#[test]
fn what_is_lost_in_the_end_is_no_reason_to_call_a_read_old() {
    let calls = [add(0, 0, 10, Kind::Ok, 1), newest(20, 30, vec![]), read_set(0, 60, 70, &[])];
    assert_eq!(told(&calls).counts["behind"], 0);
}

#[test]
fn lists_are_told_by_key_and_by_their_order() {
    let with = |read: &str| {
        let calls = [
            ok(0, 0, 1, "a1=1"),
            ok(0, 2, 3, "a1=2 a2=7"),
            ok(1, 14, 15, read).by_standby("n2"),
            ok(0, 20, 21, "r1=1,2 r2=7"),
        ];
        told(&calls)
    };
    let late = with("r1=1 r2=7");
    assert_eq!((late.counts["reads"], late.counts["behind ms at most"]), (1, 11));
    assert_eq!(
        late.notes[0].text,
        "n2 answered operation 4 without 2 of key 1, acknowledged 11 ms before"
    );
    assert!(with("r1=1,2 r2=7").notes.is_empty());
    let other = with("r1=2,1 r2=7");
    assert_eq!((other.notes.len(), other.notes[0].class), (1, Class::DivergedRead));
    let gone = with("r1=1,2,3 r2=7");
    assert_eq!((gone.counts["never acknowledged"], gone.counts["gone in the end"]), (1, 1));
}

#[test]
fn a_read_that_wrote_nothing_and_was_of_the_primary_is_not_looked_at() {
    assert_eq!(check(&history(&[txn(0, 0, 1, Kind::Ok, "r1=1")]), None), None);
    let failed = call(9, 2, 3, Kind::Fail, F::ReadNewest, Value::Set(None)).by_standby("n2");
    assert_eq!(check(&history(&[failed]), None), None);
}

#[test]
fn accounts_of_a_standby_have_the_right_total_or_that_is_told() {
    let read = |sums: &[(u64, i64)]| {
        let all = Value::Balances(Some(sums.iter().copied().collect::<BTreeMap<_, _>>()));
        call(9, 2, 3, Kind::Ok, F::ReadBank, all).by_standby("n2")
    };
    let verdict = told(&[read(&[(0, 4), (1, 6)]), read(&[(0, 4), (1, 5)])]);
    assert_eq!(verdict.line(), "2 reads of accounts, 1 with a wrong total");
    assert_eq!(verdict.notes[0].class, Class::WrongTotal);
}
