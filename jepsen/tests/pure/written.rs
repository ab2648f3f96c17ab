//! Histories on disk and back, and whether they can be believed.

use std::collections::BTreeMap;

use jepsen::history::sound::Unsound;
use jepsen::history::{
    Completion, F, Fault, History, Kind, Micro, Operation, Outcome, Probe, Process, Recorder,
    Register, Server, Value,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::build::{add, history, ok, register};

fn micros() -> impl Strategy<Value = Micro> {
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(key, value)| Micro::Append { key, value }),
        (any::<u64>(), option::of(vec(any::<u64>(), 0..4)))
            .prop_map(|(key, list)| Micro::Read { key, list }),
    ]
}

/// Text with everything that a format may trip over.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("plain".to_owned()),
        Just("say \"no\" to \\ and :words,\nnew lines\r\t\u{1}, [nil] {1 2} é 🙂 ; <b>".to_owned()),
        vec(any::<char>(), 0..12).prop_map(|chars| chars.into_iter().collect()),
    ]
}

fn faults() -> impl Strategy<Value = Value> {
    let outcomes =
        prop_oneof![Just(Outcome::Installed), Just(Outcome::Skipped), Just(Outcome::Indeterminate)];
    (text(), vec(text(), 0..3), option::of(outcomes), text()).prop_map(
        |(name, targets, outcome, text)| Value::Fault(Fault { name, targets, outcome, text }),
    )
}

fn values() -> impl Strategy<Value = (F, Value)> {
    let register = |key, op| Value::Register { key, op };
    let number = any::<u64>;
    prop_oneof![
        vec(micros(), 0..5).prop_map(|micros| (F::Txn, Value::Txn(micros))),
        Just((F::Txn, Value::None)),
        (number(), option::of(number()))
            .prop_map(move |(key, read)| (F::Read, register(key, Register::Read(read)))),
        (number(), number())
            .prop_map(move |(key, value)| (F::Write, register(key, Register::Write(value)))),
        (number(), number(), number())
            .prop_map(move |(key, from, to)| (F::Cas, register(key, Register::Cas { from, to }))),
        number().prop_map(|element| (F::Add, Value::Add(element))),
        option::of(vec(number(), 0..4)).prop_map(|all| (F::ReadSet, Value::Set(all))),
        option::of(vec(number(), 0..4)).prop_map(|all| (F::ReadNewest, Value::Set(all))),
        (number(), number(), number())
            .prop_map(|(from, to, amount)| (F::Transfer, Value::Transfer { from, to, amount })),
        option::of(btree_map(number(), any::<i64>(), 0..4))
            .prop_map(|all: Option<BTreeMap<_, _>>| (F::ReadBank, Value::Balances(all))),
        (text(), option::of(any::<bool>()))
            .prop_map(|(node, ack)| (F::Probe, Value::Probe(Probe { node, ack }))),
        faults().prop_map(|value| (F::Fault, value)),
        faults().prop_map(|value| (F::Heal, value)),
    ]
}

fn servers() -> impl Strategy<Value = Server> {
    let number = || option::of(any::<u64>());
    (text(), number(), number(), option::of(any::<u32>()), any::<bool>()).prop_map(
        |(node, epoch, system, timeline, standby)| Server {
            node,
            epoch,
            system,
            timeline,
            standby,
        },
    )
}

fn operations() -> impl Strategy<Value = Operation> {
    let kinds = prop_oneof![Just(Kind::Invoke), Just(Kind::Ok), Just(Kind::Fail), Just(Kind::Info)];
    let processes = prop_oneof![any::<u32>().prop_map(Process::Client), Just(Process::Nemesis)];
    let who = (any::<u64>(), any::<u64>(), processes, kinds);
    (who, values(), option::of(servers()), option::of(text())).prop_map(
        |((index, time_ns, process, kind), (f, value), server, error)| Operation {
            index,
            time_ns,
            process,
            kind,
            f,
            value,
            server,
            error,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_as_json_lines_is_read_back(operations in vec(operations(), 0..6)) {
        let history = History { operations };
        let text = history.to_json_lines();
        prop_assert_eq!(text.lines().count(), history.operations.len());
        prop_assert_eq!(History::from_json_lines(&text).unwrap(), history);
    }

    #[test]
    fn what_is_written_as_edn_is_read_back(operations in vec(operations(), 0..6)) {
        let history = History { operations };
        let text = history.to_edn_lines();
        prop_assert_eq!(History::from_edn_lines(&text).unwrap(), history);
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in text()) {
        drop(History::from_edn_lines(&text));
        drop(History::from_json_lines(&text));
    }
}

#[test]
fn both_formats_are_those_of_jepsen() {
    let lines = history(&[ok(0, 0, 1, "a1=2 r3=4,5")]);
    let edn = lines.to_edn_lines();
    let first = edn.lines().next().unwrap();
    let expected = "{:index 0, :time 0, :type :invoke, :process 0, :f :txn, \
                    :value [[:append 1 2] [:r 3 nil]]}";
    assert_eq!(first, expected);
    let json = lines.to_json_lines();
    let expected = "{'index':1,'time':1000000,'type':'ok','process':0,'f':'txn',\
                    'value':[['append',1,2],['r',3,[4,5]]]}"
        .replace('\'', "\"");
    assert_eq!(json.lines().nth(1).unwrap(), expected);
}

#[test]
fn half_a_line_is_not_a_history() {
    let whole = history(&[ok(0, 0, 1, "a1=2")]).to_json_lines();
    let error = History::from_json_lines(&whole[..whole.len() - 9]).unwrap_err();
    assert_eq!(error.to_string(), "line 2 of the history cannot be read");
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    assert!(History::from_edn_lines(&"[".repeat(100_000)).is_err());
}

#[test]
fn a_sound_history_has_nothing_wrong() {
    let calls =
        [add(0, 0, 1, Kind::Ok, 1), add(1, 0, 2, Kind::Info, 2), add(0, 3, 4, Kind::Fail, 3)];
    assert_eq!(history(&calls).unsound(), []);
    // The run ended first.
    let mut open = history(&calls);
    open.operations.pop();
    assert_eq!(open.unsound(), []);
}

#[test]
fn each_way_of_being_unsound_is_found() {
    let sound = history(&[add(0, 0, 1, Kind::Ok, 1), add(0, 2, 3, Kind::Ok, 2)]);
    let broken = |change: fn(&mut Vec<Operation>)| {
        let mut history = sound.clone();
        change(&mut history.operations);
        history.unsound()
    };
    let process = Process::Client(0);
    assert_eq!(broken(|o| o[3].index = 9), [Unsound::Index { index: 9, place: 3 }]);
    let time = Unsound::Time { index: 2, time_ns: 0, before_ns: 1_000_000 };
    assert_eq!(broken(|o| o[2].time_ns = 0), [time]);
    assert_eq!(broken(|o| o[1].kind = Kind::Info), [Unsound::NotRetired { process, index: 2 }]);
    let twice = broken(|o| {
        o[1].kind = Kind::Invoke;
        o.truncate(3);
    });
    assert!(twice.contains(&Unsound::Busy { process, index: 1, open: 0 }), "{twice:?}");
    assert_eq!(broken(|o| o[2].kind = Kind::Ok).len(), 2);
    let other = broken(|o| {
        o[1].f = F::ReadSet;
        o.truncate(2);
    });
    assert_eq!(other, [Unsound::NothingOpen { process, index: 1 }]);
}

#[test]
fn what_a_recorder_takes_down_is_on_disk_line_by_line_and_sound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let recorder = recorder.clone();
            scope.spawn(move || {
                let mut process = recorder.process();
                for element in 0..50 {
                    let index = recorder.invoke(process, F::Add, Value::Add(element));
                    match element % 3 {
                        0 => recorder.complete(index, Completion::done()),
                        1 => recorder.complete(index, Completion::fail("refused")),
                        _ => {
                            recorder.complete(index, Completion::info("connection closed"));
                            process = recorder.process();
                        }
                    }
                }
            });
        }
    });
    // Not finished yet: a crash now would lose nothing.
    let text = std::fs::read_to_string(&path).unwrap();
    let stored = History::from_json_lines(&text).unwrap();
    assert_eq!(stored.operations.len(), 400);
    assert_eq!(stored.unsound(), []);
    assert_eq!(recorder.finish().unwrap(), stored);
    assert!(Recorder::create(&path).is_err(), "no run writes over another");
}

#[test]
fn an_end_that_was_recorded_twice_is_the_harness_fault() {
    let recorder = Recorder::in_memory();
    let index = recorder.invoke(recorder.process(), F::Add, Value::Add(1));
    recorder.complete(index, Completion::done());
    recorder.complete(index, Completion::done());
    assert!(recorder.finish().is_err());
}

#[test]
fn an_invocation_without_an_end_may_still_happen() {
    let mut open = history(&[register(0, 0, 1, Kind::Ok, Register::Write(3))]);
    open.operations.pop();
    let pairs = open.pairs();
    assert_eq!((pairs[0].kind(), pairs[0].end_ns()), (Kind::Info, u64::MAX));
}
