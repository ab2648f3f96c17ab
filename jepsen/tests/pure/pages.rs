//! Pictures and pages: well formed, the same each time, and true to the history.

use std::path::Path;

use jepsen::checker::list_append::{Level, Options};
use jepsen::checker::recovery::EpochChange;
use jepsen::checker::{Class, Validity};
use jepsen::history::{F, History, Kind, Outcome};
use jepsen::report::{Lease, Run, analyze, check, index, leases, place, rates, timeline, write};

use crate::build::{add, fault, history, ok, read_set, txn};

fn sample() -> History {
    let mut failed = add(2, 300, 320, Kind::Fail, 2);
    failed.error = Some("<b>\"refused\" & 'gone'\u{0}</b>".to_owned());
    history(&[
        add(0, 0, 10, Kind::Ok, 1).at("n1", 1, 1),
        failed,
        add(3, 400, 2900, Kind::Info, 3),
        fault(F::Fault, 500, 510, "kill <primary>", Outcome::Installed),
        fault(F::Heal, 2000, 2010, "kill <primary>", Outcome::Installed),
        add(4, 2500, 2600, Kind::Ok, 4).at("n2", 2, 2),
        ok(5, 2700, 2750, "a1=1 r1=1"),
        read_set(5, 3000, 3100, &[1, 4]),
    ])
}

fn run() -> Run {
    Run {
        test: "set-kill".to_owned(),
        started: "2026-11-28T15:51:58Z".to_owned(),
        notes: vec![("seed".to_owned(), "7 & <8>".to_owned())],
        lists: Options { level: Level::Serializable, session: true, real_time: true },
        bank: None,
        recovery: None,
        epochs: vec![EpochChange { time_ns: 0, epoch: 1, node: "n1".to_owned() }],
        leases: vec![
            Lease { node: "n1".to_owned(), epoch: 1, from_ns: 0, to_ns: 900_000_000 },
            Lease { node: "n2".to_owned(), epoch: 2, from_ns: 2_000_000_000, to_ns: 3_100_000_000 },
        ],
        frozen_guards: false,
        announced: Some(vec!["lease expired".to_owned()]),
    }
}

/// Reads a document as XML and returns how many elements of that name it has.
fn elements(document: &str, name: &str) -> usize {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let read = roxmltree::Document::parse_with_options(document, options);
    let document = read.unwrap_or_else(|why| panic!("{why}: {document}"));
    document.descendants().filter(|node| node.tag_name().name() == name).count()
}

/// Compares with what is stored beside this file. `BLESS=1` stores it anew.
fn same(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pure/pages").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, stored, "{name} changed; look at it, then run this with BLESS=1");
}

#[test]
fn the_latency_picture_shows_each_operation_that_ended() {
    let picture = rates::latency(&sample());
    assert_eq!(elements(&picture, "circle"), 6);
    assert!(picture.contains("kill &lt;primary&gt;"), "{picture}");
    same("latency.svg", &picture);
}

#[test]
fn the_rate_picture_has_a_line_for_each_way_to_end() {
    let picture = rates::rate(&sample());
    assert_eq!(elements(&picture, "polyline"), 3);
    same("rate.svg", &picture);
}

#[test]
fn the_lease_picture_has_a_lane_for_each_node() {
    let picture = rates_of_leases();
    for node in [">n1<", ">n2<"] {
        assert!(picture.contains(node), "{picture}");
    }
    same("leases.svg", &picture);
}

fn rates_of_leases() -> String {
    let picture = leases::lanes(&sample(), &run().leases);
    // A bar for the fault, for each lease, and for each node's writes.
    assert_eq!(elements(&picture, "rect"), 5);
    picture
}

#[test]
fn the_timeline_has_a_box_for_each_operation_and_escapes_what_was_said() {
    let page = timeline::timeline(&sample());
    assert_eq!(page.matches("class=\"op\"").count(), 8);
    elements(&page, "div");
    assert!(
        page.contains("&lt;b&gt;&quot;refused&quot; &amp; &#39;gone&#39; &lt;/b&gt;"),
        "{page}"
    );
    assert!(!page.contains("<b>"));
    same("timeline.html", &page);
}

#[test]
fn a_long_history_does_not_make_an_endless_page() {
    let calls: Vec<_> = (0..4000).map(|e| add(0, 2 * e, 2 * e + 1, Kind::Ok, e)).collect();
    let page = timeline::timeline(&history(&calls));
    assert_eq!(page.matches("class=\"op\"").count(), timeline::OPERATIONS_MAX);
    assert!(page.contains("3000 of 4000 operations"));
}

#[test]
fn nothing_is_drawn_of_nothing_and_that_is_well_formed() {
    let empty = History::default();
    for picture in [rates::latency(&empty), rates::rate(&empty), leases::lanes(&empty, &[])] {
        assert_eq!(elements(&picture, "svg"), 1);
    }
    elements(&timeline::timeline(&empty), "html");
}

#[test]
fn a_stored_run_is_judged_again_as_it_was_and_its_logs_too() {
    let store = tempfile::tempdir().unwrap();
    let dir = place(store.path(), "set-kill", "2026-11-28T15:51:58Z");
    assert_eq!(dir, store.path().join("set-kill").join("2026-11-28T15-51-58Z"));
    let (run, history) = (run(), sample());
    let outcome = check(&run, &history, &[]);
    assert_eq!(outcome.valid, Validity::Valid, "{outcome:#?}");
    write(&dir, &run, &history, &outcome).unwrap();
    assert_eq!(analyze(&dir).unwrap(), outcome);
    // A log with a panic is held against it.
    std::fs::create_dir(dir.join("logs")).unwrap();
    std::fs::write(dir.join("logs/n1-agent.log"), "thread 'main' panicked at x.rs:1\n").unwrap();
    let again = analyze(&dir).unwrap();
    assert_eq!(again.valid, Validity::Invalid);
    assert!(again.verdicts.iter().any(|verdict| verdict.has(Class::Panic)));
    for name in ["index.html", "timeline.html", "latency.svg", "rate.svg", "leases.svg"] {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        elements(&text, "title");
    }
    let edn = std::fs::read_to_string(dir.join("results.edn")).unwrap();
    assert!(edn.starts_with("{:harness [], :valid \"valid\""), "{edn}");
    let stored = std::fs::read_to_string(dir.join("history.edn")).unwrap();
    assert_eq!(History::from_edn_lines(&stored).unwrap(), history);
}

#[test]
fn a_history_that_lost_something_is_rejected_when_it_is_read_again() {
    let store = tempfile::tempdir().unwrap();
    let dir = place(store.path(), "lists", "1");
    let calls = [ok(0, 0, 1, "a1=1"), ok(1, 2, 3, "r1="), txn(2, 4, 5, Kind::Info, "a1=2")];
    let history = history(&calls);
    let outcome = check(&run(), &history, &[]);
    write(&dir, &run(), &history, &outcome).unwrap();
    let again = analyze(&dir).unwrap();
    assert_eq!(again.valid, Validity::Invalid);
    assert!(again.verdicts[0].has(Class::LostAppend), "{again:#?}");
}

#[test]
fn the_index_lists_all_runs_and_those_without_results_as_unknown() {
    let store = tempfile::tempdir().unwrap();
    let (run, history) = (run(), sample());
    let outcome = check(&run, &history, &[]);
    write(&place(store.path(), "b", "2"), &run, &history, &outcome).unwrap();
    std::fs::create_dir_all(place(store.path(), "a", "../<1>")).unwrap();
    assert_eq!(index(store.path()).unwrap(), 2);
    let page = std::fs::read_to_string(store.path().join("index.html")).unwrap();
    assert_eq!(elements(&page, "tr"), 3);
    assert!(page.contains("no results") && page.contains("b/2/index.html"), "{page}");
}

#[test]
fn no_name_leads_out_of_the_store() {
    for name in ["..", ".", "", "/", "a/../../b"] {
        let dir = place(Path::new("store"), name, "1");
        assert_eq!(dir.components().count(), 3, "{}", dir.display());
        assert!(!dir.components().any(|part| part.as_os_str() == ".."), "{}", dir.display());
    }
}
