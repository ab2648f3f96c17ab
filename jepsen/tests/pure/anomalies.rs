//! For each anomaly of lists a history that has it, and a twin that does not.

use jepsen::checker::list_append::{Level, Options, check};
use jepsen::checker::{Class, Validity};
use jepsen::history::Kind;

use crate::build::{Call, history, ok, txn};

const RC: Options = Options { level: Level::ReadCommitted, session: false, real_time: false };
const SI: Options = Options { level: Level::SnapshotIsolation, ..RC };
const SER: Options = Options { level: Level::Serializable, ..RC };
const STRICT: Options = Options { real_time: true, ..SER };
const SESSION: Options = Options { session: true, ..SER };

/// Asserts that the bad history is rejected with that class and those words, and the good accepted.
fn twins(options: Options, class: Class, words: &str, bad: &[Call], good: &[Call]) {
    let verdict = check(&history(bad), options);
    let told = verdict.findings.iter().any(|f| f.class == class && f.text.contains(words));
    assert_eq!(verdict.valid, Validity::Invalid, "{class}: {verdict:#?}");
    assert!(told, "{class} with {words:?}: {verdict:#?}");
    let verdict = check(&history(good), options);
    assert_eq!(verdict.valid, Validity::Valid, "twin of {class}: {verdict:#?}");
}

#[test]
fn a_cycle_of_overwrites_is_g0() {
    let writes = [ok(0, 0, 9, "a1=1 a2=1"), ok(1, 1, 8, "a1=2 a2=2")];
    let with = |read: &str| [writes.to_vec(), vec![ok(2, 10, 11, read)]].concat();
    let words = "T1 appended 2 to key 1 after the 1 of T0; T0 appended 1 to key 2 after the 2 of T1; \
                 so T0 before T1 before T0";
    twins(RC, Class::G0, words, &with("r1=1,2 r2=2,1"), &with("r1=1,2 r2=1,2"));
}

#[test]
fn a_read_of_a_failed_append_is_g1a() {
    let write = |kind| txn(0, 0, 1, kind, "a1=5");
    let read = ok(1, 2, 3, "r1=5");
    let words = "T2 read key 1 with the 5 that T0 appended, and T0 failed";
    twins(
        RC,
        Class::G1a,
        words,
        &[write(Kind::Fail), read.clone()],
        // Nobody knew whether it happened; it did.
        &[write(Kind::Info), read],
    );
}

#[test]
fn a_read_of_half_a_transaction_is_g1b() {
    let rest = [ok(0, 0, 5, "a1=1 a1=2"), ok(2, 6, 7, "r1=1,2")];
    let with = |read: &str| [rest.to_vec(), vec![ok(1, 1, 4, read)]].concat();
    let words = "T1 read key 1 up to the 1 that T0 appended before it appended more";
    twins(RC, Class::G1b, words, &with("r1=1"), &with("r1="));
}

#[test]
fn a_cycle_of_reads_is_g1c() {
    let words =
        "T1 read key 1 with the 1 that T0 appended; T0 read key 2 with the 1 that T1 appended";
    twins(
        RC,
        Class::G1c,
        words,
        &[ok(0, 0, 9, "a1=1 r2=1"), ok(1, 1, 8, "a2=1 r1=1")],
        &[ok(0, 0, 9, "a1=1 r2="), ok(1, 1, 8, "a2=1 r1=1")],
    );
}

#[test]
fn a_read_of_half_of_what_another_did_is_g_single() {
    let write = ok(0, 0, 9, "a1=1 a2=1");
    let last = ok(2, 10, 11, "r1=1 r2=1");
    let with = |read: &str| vec![write.clone(), ok(1, 1, 8, read), last.clone()];
    let words = "T1 read key 1 without the 1 that T0 appended";
    twins(SI, Class::GSingle, words, &with("r1= r2=1"), &with("r1= r2="));
    let read_committed = check(&history(&with("r1= r2=1")), RC);
    assert_eq!(read_committed.valid, Validity::Valid, "it is allowed there: {read_committed:#?}");
}

#[test]
fn a_lost_update_is_g_single() {
    let with =
        |second: &str| vec![ok(0, 0, 5, "r1= a1=1"), ok(1, 1, 6, second), ok(2, 7, 8, "r1=1,2")];
    let words =
        "T1 read key 1 without the 1 that T0 appended; T1 appended 2 to key 1 after the 1 of T0";
    twins(SI, Class::GSingle, words, &with("r1= a1=2"), &with("r1=1 a1=2"));
}

#[test]
fn a_long_fork_is_g_nonadjacent() {
    let writes = [ok(0, 0, 5, "a1=1"), ok(1, 1, 6, "a2=1")];
    let with = |a: &str, b: &str| [writes.to_vec(), vec![ok(2, 2, 7, a), ok(3, 3, 8, b)]].concat();
    let words = "T3 read key 1 without the 1 that T0 appended";
    twins(
        SI,
        Class::GNonadjacent,
        "T2 read key 2 without the 1 that T1 appended",
        &with("r1=1 r2=", "r1= r2=1"),
        &with("r1=1 r2=", "r1=1 r2=1"),
    );
    twins(SI, Class::GNonadjacent, words, &with("r1=1 r2=", "r1= r2=1"), &with("r1= r2=", "r1="));
}

#[test]
fn a_write_skew_is_g2_item_and_allowed_under_snapshot_isolation() {
    let with =
        |second: &str| vec![ok(0, 0, 5, "r1= a2=1"), ok(1, 1, 6, second), ok(2, 7, 8, "r1=1 r2=1")];
    let words = "T0 read key 1 without the 1 that T1 appended; T1 read key 2 without the 1 that T0 \
                 appended; so T0 before T1 before T0";
    twins(SER, Class::G2Item, words, &with("r2= a1=1"), &with("r2=1 a1=1"));
    assert_eq!(check(&history(&with("r2= a1=1")), SI).valid, Validity::Valid);
}

#[test]
fn two_reads_of_which_neither_begins_the_other_are_incompatible() {
    let writes = [ok(0, 0, 5, "a1=1"), ok(1, 1, 6, "a1=2"), ok(2, 7, 8, "r1=1,2")];
    let with = |read: &str| [writes.to_vec(), vec![ok(3, 9, 10, read)]].concat();
    let words = "read key 1 with 2 at place 0, and another read has 1 there";
    twins(RC, Class::IncompatibleOrder, words, &with("r1=2"), &with("r1=1"));
}

#[test]
fn an_element_that_is_there_twice_is_found() {
    let with = |read: &str| vec![ok(0, 0, 1, "a1=4"), ok(1, 2, 3, read)];
    let words = "T2 read key 1 with the 4 in it twice";
    twins(RC, Class::DuplicateElement, words, &with("r1=4,4"), &with("r1=4"));
}

#[test]
fn an_element_that_nobody_appended_is_found() {
    let with = |read: &str| vec![ok(0, 0, 1, "a1=4"), ok(1, 2, 3, read)];
    let words = "T2 read key 1 with a 9 that nobody appended";
    twins(RC, Class::Garbage, words, &with("r1=4,9"), &with("r1=4"));
}

#[test]
fn a_transaction_that_does_not_see_what_it_did_is_internally_wrong() {
    let words = "T0 read key 1 as [] although it had itself appended [1]";
    twins(RC, Class::Internal, words, &[ok(0, 0, 1, "a1=1 r1=")], &[ok(0, 0, 1, "a1=1 r1=1")]);
}

#[test]
fn a_list_that_grows_between_two_reads_is_wrong_from_snapshot_isolation_on() {
    let with = |read: &str| vec![ok(0, 0, 5, read), ok(1, 1, 2, "a1=1")];
    let words = "T0 read key 1 as [1] after it had read [] and appended []";
    twins(SI, Class::Internal, words, &with("r1= r1=1"), &with("r1=1 r1=1"));
    assert_eq!(check(&history(&with("r1= r1=1")), RC).valid, Validity::Valid);
}

#[test]
fn a_committed_append_on_top_of_a_failed_one_is_a_dirty_update() {
    let with = |kind| vec![txn(0, 0, 1, kind, "a1=1"), ok(1, 2, 3, "a1=2"), ok(2, 4, 5, "r1=1,2")];
    let words = "T2 appended 2 to key 1 after the 1 of T0, and T0 failed";
    twins(RC, Class::DirtyUpdate, words, &with(Kind::Fail), &with(Kind::Info));
}

#[test]
fn an_acknowledged_append_that_no_later_read_has_is_lost() {
    let with = |read: &str| vec![ok(0, 0, 1, "a1=1"), ok(1, 2, 3, read)];
    let words = "T0 appended 1 to key 1 and was acknowledged at 0.001 s, and no read has it, not \
                 even that of T2, which began at 0.002 s";
    twins(RC, Class::LostAppend, words, &with("r1="), &with("r1=1"));
    let concurrent = vec![ok(0, 0, 5, "a1=1"), ok(1, 2, 3, "r1=")];
    assert_eq!(check(&history(&concurrent), RC).valid, Validity::Valid);
    let unknown = vec![txn(0, 0, 1, Kind::Info, "a1=1"), ok(1, 2, 3, "r1=")];
    assert_eq!(check(&history(&unknown), RC).valid, Validity::Valid);
}

#[test]
fn a_transaction_of_unknown_outcome_happened_as_a_whole_or_not_at_all() {
    let with = |read: &str| {
        vec![txn(0, 0, 1, Kind::Info, "a1=1 a2=1"), ok(1, 2, 3, "r1=1"), ok(2, 4, 5, read)]
    };
    let words = "T0 appended 1 to key 2 and another append of it had been read at 0.003 s, and no \
                 read has it";
    twins(RC, Class::LostAppend, words, &with("r2="), &with("r2=1"));
}

#[test]
fn the_appends_of_one_transaction_are_in_its_own_order() {
    let with = |read: &str| vec![ok(0, 0, 1, "a1=1 a1=2"), ok(1, 2, 3, read)];
    let words = "T0 appended 1 to key 1 and then 2, and the list has them the other way round";
    twins(RC, Class::IncompatibleOrder, words, &with("r1=2,1"), &with("r1=1,2"));
}

#[test]
fn nobody_reads_what_he_appends_only_afterwards() {
    let words = "T0 read key 1 with the 1 that it appended only afterwards";
    twins(RC, Class::Internal, words, &[ok(0, 0, 1, "r1=1 a1=1")], &[ok(0, 0, 1, "r1= a1=1")]);
}

#[test]
fn a_read_of_the_past_is_found_only_if_real_time_counts() {
    let with = |read: &str| vec![ok(0, 0, 1, "a1=1"), ok(1, 2, 3, read), ok(2, 4, 5, "r1=1")];
    let words = "T0 ended at 0.001 s, before T2 began at 0.002 s";
    twins(STRICT, Class::GSingle, words, &with("r1="), &with("r1=1"));
    assert_eq!(check(&history(&with("r1=")), SER).valid, Validity::Valid);
    assert_eq!(check(&history(&with("r1=")), SESSION).valid, Validity::Valid);
}

#[test]
fn a_process_that_does_not_see_what_it_did_before_is_found_if_sessions_count() {
    let with = |read: &str| vec![ok(0, 0, 1, "a1=1"), ok(0, 2, 3, read), ok(2, 4, 5, "r1=1")];
    let words = "process 0 did T0 before T2";
    twins(SESSION, Class::GSingle, words, &with("r1="), &with("r1=1"));
    assert_eq!(check(&history(&with("r1=")), SER).valid, Validity::Valid);
}

#[test]
fn a_transaction_of_unknown_outcome_that_was_read_is_part_of_a_cycle() {
    let with = |read: &str| {
        vec![txn(0, 0, 1, Kind::Info, "a1=1 a2=1"), ok(1, 2, 3, read), ok(2, 4, 5, "r1=1 r2=1")]
    };
    let words = "T2 read key 2 without the 1 that T0 appended";
    twins(SI, Class::GSingle, words, &with("r1=1 r2="), &with("r1=1 r2=1"));
}

#[test]
fn what_a_standby_answers_is_no_anomaly() {
    let late = ok(1, 2, 3, "r1=").by_standby("n2");
    let calls = [ok(0, 0, 1, "a1=1"), late, ok(2, 4, 5, "r1=1")];
    let verdict = check(&history(&calls), STRICT);
    assert_eq!((verdict.valid, verdict.counts["by standbys"]), (Validity::Valid, 1));
}

#[test]
fn two_appends_of_one_value_are_the_harness_fault() {
    let calls = [ok(0, 0, 1, "a1=1"), ok(1, 2, 3, "a1=1")];
    assert!(check(&history(&calls), RC).has(Class::Harness));
}
