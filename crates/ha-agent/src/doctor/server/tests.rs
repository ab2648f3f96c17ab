use std::time::Duration;

use super::super::finding::Severity::{self, Critical, Note, Ok as Fine, Warning};
use super::*;

fn n(name: &str) -> NodeId {
    name.parse().expect("a name")
}

fn found(findings: &[Finding]) -> Vec<(&'static str, Severity)> {
    findings.iter().map(|finding| (finding.id, finding.severity)).collect()
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn expected() -> Expected {
    Expected { primary: true, receivers: vec![n("n2"), n("n3")], lag_bytes_max: 16 << 20 }
}

#[test]
fn settings_that_a_crash_or_a_rewind_depends_on() {
    let ids = ["fsync-off", "full-page-writes-off", "rewind-impossible", "checksums-off"];
    #[rustfmt::skip]
    let table = [
        // fsync  full pages  hints  checksums  found
        ("on",    "on",       "on",  "on",      [Fine,     Fine,     Fine,    Fine]),
        ("off",   "on",       "on",  "on",      [Critical, Fine,     Fine,    Fine]),
        ("on",    "off",      "off", "on",      [Fine,     Critical, Fine,    Fine]),
        ("on",    "on",       "on",  "off",     [Fine,     Fine,     Fine,    Note]),
        ("on",    "on",       "off", "off",     [Fine,     Fine,     Warning, Note]),
    ];
    for (fsync, pages, hints, sums, expected) in table {
        let all = settings(&[
            ("fsync", fsync),
            ("full_page_writes", pages),
            ("wal_log_hints", hints),
            ("data_checksums", sums),
        ]);
        let expected: Vec<_> = ids.into_iter().zip(expected).collect();
        assert_eq!(found(&durable(&all)), expected);
    }
}

#[test]
fn slots_that_are_lost_idle_or_far_behind() {
    let slot = |active, status: &str, kept: u64, left| Slot {
        name: "n2".to_owned(),
        active,
        status: status.to_owned(),
        kept_bytes: Some(kept),
        left_bytes: left,
    };
    let (lost, idle, behind) = ("slot-lost", "slot-inactive", "slot-behind");
    #[rustfmt::skip]
    let table = [
        (slot(true, "reserved", 100, Some(900)),    true,  vec![]),
        (slot(false, "reserved", 100, Some(900)),   false, vec![]),
        (slot(false, "reserved", 100, Some(900)),   true,  vec![idle]),
        (slot(true, "extended", 600, Some(400)),    false, vec![behind]),
        (slot(false, "unreserved", 900, Some(0)),   true,  vec![idle, behind]),
        (slot(true, "reserved", 9 << 30, None),     true,  vec![behind]),
        (slot(true, "reserved", 1 << 30, None),     true,  vec![]),
        (slot(false, "lost", 0, None),              true,  vec![lost]),
    ];
    for (slot, serves, expected) in table {
        let judged = slots(std::slice::from_ref(&slot), serves, &[n("n2")]);
        let bad = judged.iter().filter(|finding| finding.severity == Warning);
        assert_eq!(bad.map(|finding| finding.id).collect::<Vec<_>>(), expected, "{slot:?}");
        let ids: std::collections::BTreeSet<_> = judged.iter().map(|f| f.id).collect();
        assert_eq!(ids.len(), 4, "each check says something: {judged:?}");
    }
}

#[test]
fn a_nodes_slot_is_never_to_be_dropped_and_has_to_be_there() {
    let slot = |name: &str| Slot {
        name: name.to_owned(),
        active: false,
        status: "reserved".to_owned(),
        kept_bytes: Some(1),
        left_bytes: None,
    };
    let judged = slots(&[slot("n2"), slot("other")], true, &[n("n2"), n("n3")]);
    let mends: Vec<&str> = judged.iter().map(|finding| finding.mend.as_str()).collect();
    assert_eq!(mends[0], "start what receives by it: node n2");
    assert!(mends[1].ends_with("select pg_drop_replication_slot('other')"), "{}", mends[1]);
    assert_eq!((judged[2].id, judged[2].severity), ("slot-missing", Warning));
    let standby = slots(&[], false, &[n("n2")]);
    assert!(standby.iter().all(|finding| finding.severity == Fine), "{standby:?}");
}

#[test]
fn standbys_that_are_missing_or_late() {
    let standby = |name: &str, state: &str, lag_bytes, replay_lag_ms| Standby {
        name: name.to_owned(),
        state: state.to_owned(),
        lag_bytes,
        replay_lag_ms,
    };
    let other = || standby("n3", "streaming", 0, None);
    let (missing, lag) = ("standby-missing", "standby-lag");
    #[rustfmt::skip]
    let table = [
        (vec![standby("n2", "streaming", 0, Some(3)), other()],         vec![(lag, Fine), (lag, Fine), (missing, Fine)]),
        (vec![standby("n2", "catchup", 0, None), other()],              vec![(lag, Warning), (lag, Fine), (missing, Fine)]),
        (vec![standby("n2", "streaming", 17 << 20, None), other()],     vec![(lag, Warning), (lag, Fine), (missing, Fine)]),
        (vec![standby("n2", "streaming", 0, Some(10_001)), other()],    vec![(lag, Warning), (lag, Fine), (missing, Fine)]),
        (vec![other()],                                                 vec![(missing, Warning), (lag, Fine)]),
        (vec![],                                                        vec![(missing, Warning), (missing, Warning)]),
    ];
    for (all, expected_findings) in table {
        assert_eq!(found(&standbys(&all, &expected())), expected_findings, "{all:?}");
    }
}

#[test]
fn who_acknowledges_is_what_was_recorded() {
    let any = "ANY 1 (\"n2\", \"n3\")";
    #[rustfmt::skip]
    let table = [
        (any,                       Some(any), false, Fine),
        ("",                        Some(any), false, Critical),
        ("",                        Some(""),  false, Fine),
        ("FIRST 1 (haclt_nobody)",  None,      true,  Fine),
        ("FIRST 1 (haclt_nobody)",  Some(any), true,  Fine),
    ];
    for (setting, recorded, in_recovery, expected) in table {
        let judged = synchronous(setting, recorded, in_recovery);
        assert_eq!(judged.severity, expected, "{setting:?} {recorded:?} {in_recovery}");
    }
}

#[test]
fn wal_archiver_and_transactions() {
    let wal = |bytes| size_of(Wal { bytes, expected_bytes: 1 << 30 }).severity;
    assert_eq!([wal(1 << 30), wal(3 << 30), wal((3 << 30) + 1)], [Fine, Fine, Warning]);
    let failing = |file: Option<&str>| {
        let failing = file.map(str::to_owned);
        archiver(Some(&Archiver { failing, failed_s: 9, failures: 2 })).severity
    };
    assert_eq!([failing(None), failing(Some("01"))], [Fine, Warning]);
    assert_eq!(archiver(None).severity, Fine);
    let (prepared, age) = ("prepared-old", "transaction-age");
    #[rustfmt::skip]
    let table = [
        // prepared  oldest  age            found
        (0,          0,      100,           [Fine, Fine]),
        (1,          3600,   1_500_000_000, [Fine, Fine]),
        (1,          3601,   1_500_000_001, [Warning, Warning]),
        (0,          0,      1_900_000_001, [Fine, Critical]),
    ];
    for (count, prepared_s, oldest_age, expected) in table {
        let oldest_database = "orders".to_owned();
        let all = Transactions { prepared: count, prepared_s, oldest_database, oldest_age };
        let expected: Vec<_> = [prepared, age].into_iter().zip(expected).collect();
        assert_eq!(found(&transactions(&all)), expected, "{all:?}");
    }
}

#[test]
fn what_a_stop_would_run_into_is_of_interest_before() {
    let judged = |survey: &Survey| found(&judge_survey(survey, &n("n1")));
    let ids = ["pending-restart", "transaction-long", "archive-backlog"];
    let all = |severities: [Severity; 3]| ids.into_iter().zip(severities).collect::<Vec<_>>();
    assert_eq!(judged(&Survey::default()), all([Fine, Fine, Fine]));
    let survey = Survey {
        oldest_s: 3601,
        archive_backlog: 65,
        pending_restart: vec!["shared_buffers".to_owned()],
        ..Survey::default()
    };
    assert_eq!(judged(&survey), all([Warning, Note, Warning]));
    assert_eq!(judge_survey(&survey, &n("n1"))[0].mend, "`haclt restart n1 --if-pending`");
}

#[test]
fn what_could_not_be_measured_is_a_note_and_hides_nothing_else() {
    let no = || "permission denied".to_owned();
    let checkup = Checkup {
        login: Duration::ZERO,
        in_recovery: false,
        synchronous: String::new(),
        settings: Err(no()),
        slots: Err(no()),
        standbys: Err(no()),
        wal: Err(no()),
        archiver: Err(no()),
        transactions: Err(no()),
    };
    let judged = judge(&checkup, &expected());
    assert_eq!(judged.len(), 6);
    for finding in judged {
        assert_eq!(finding.severity, Note);
        assert_eq!(finding.evidence, "could not check: permission denied");
    }
    let standby = Checkup { in_recovery: true, ..checkup };
    assert_eq!(judge(&standby, &expected()).len(), 4, "a standby serves nobody, archives nothing");
}
