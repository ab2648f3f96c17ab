//! Histories written by hand, in few words.

use jepsen::history::{
    F, Fault, History, Kind, Micro, Operation, Outcome, Process, Register, Server, Value,
};

/// One operation with its times in milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) process: Process,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) kind: Kind,
    pub(crate) f: F,
    pub(crate) value: Value,
    pub(crate) server: Option<Server>,
    pub(crate) error: Option<String>,
}

impl Call {
    pub(crate) fn at(mut self, node: &str, epoch: u64, timeline: u32) -> Self {
        self.server = Some(Server {
            node: node.to_owned(),
            epoch: (epoch > 0).then_some(epoch),
            timeline: (timeline > 0).then_some(timeline),
            system: Some(7),
            standby: false,
        });
        self
    }

    pub(crate) fn by_standby(mut self, node: &str) -> Self {
        self.server = Some(Server { node: node.to_owned(), standby: true, ..Server::default() });
        self
    }
}

/// A client's operation.
pub(crate) fn call(who: u32, from: u64, to: u64, kind: Kind, f: F, value: Value) -> Call {
    let process = Process::Client(who);
    Call { process, from, to, kind, f, value, server: None, error: None }
}

/// A transaction: `a1=2` appends 2 to key 1, `r1=2,3` reads 2 and 3 there, `r1=` nothing.
pub(crate) fn txn(who: u32, from: u64, to: u64, kind: Kind, steps: &str) -> Call {
    call(who, from, to, kind, F::Txn, Value::Txn(steps.split(' ').map(micro).collect()))
}

/// An acknowledged transaction.
pub(crate) fn ok(who: u32, from: u64, to: u64, steps: &str) -> Call {
    txn(who, from, to, Kind::Ok, steps)
}

fn micro(step: &str) -> Micro {
    let (key, rest) = step[1..].split_once('=').unwrap();
    let key = key.parse().unwrap();
    if step.starts_with('a') {
        return Micro::Append { key, value: rest.parse().unwrap() };
    }
    let list = rest.split(',').filter(|v| !v.is_empty()).map(|v| v.parse().unwrap()).collect();
    Micro::Read { key, list: Some(list) }
}

pub(crate) fn register(who: u32, from: u64, to: u64, kind: Kind, op: Register) -> Call {
    let f = match op {
        Register::Read(_) => F::Read,
        Register::Write(_) => F::Write,
        Register::Cas { .. } => F::Cas,
    };
    call(who, from, to, kind, f, Value::Register { key: 1, op })
}

pub(crate) fn add(who: u32, from: u64, to: u64, kind: Kind, element: u64) -> Call {
    call(who, from, to, kind, F::Add, Value::Add(element))
}

pub(crate) fn read_set(who: u32, from: u64, to: u64, elements: &[u64]) -> Call {
    call(who, from, to, Kind::Ok, F::ReadSet, Value::Set(Some(elements.to_vec())))
}

pub(crate) fn fault(f: F, from: u64, to: u64, name: &str, outcome: Outcome) -> Call {
    let value = Value::Fault(Fault {
        name: name.to_owned(),
        targets: vec!["n1".to_owned()],
        outcome: Some(outcome),
        text: String::new(),
    });
    Call { process: Process::Nemesis, ..call(0, from, to, Kind::Ok, f, value) }
}

/// Returns what is known of an operation when it begins.
fn asked(value: &Value) -> Value {
    match value {
        Value::Txn(micros) => Value::Txn(
            micros
                .iter()
                .map(|micro| match micro {
                    Micro::Read { key, .. } => Micro::Read { key: *key, list: None },
                    append @ Micro::Append { .. } => append.clone(),
                })
                .collect(),
        ),
        Value::Register { key, op: Register::Read(_) } => {
            Value::Register { key: *key, op: Register::Read(None) }
        }
        Value::Set(_) => Value::Set(None),
        Value::Balances(_) => Value::Balances(None),
        Value::Fault(fault) => Value::Fault(Fault { outcome: None, ..fault.clone() }),
        other => other.clone(),
    }
}

/// Puts operations into the order of their times. What begins sorts ahead of what ends then.
pub(crate) fn history(calls: &[Call]) -> History {
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (place, call) in calls.iter().enumerate() {
        moments.push((call.from, false, place));
        moments.push((call.to, true, place));
    }
    moments.sort_unstable();
    let line = |(index, (at, end, place)): (usize, (u64, bool, usize))| {
        let call = &calls[place];
        let known = end && call.kind == Kind::Ok;
        Operation {
            index: index as u64,
            time_ns: at * 1_000_000,
            process: call.process,
            kind: if end { call.kind } else { Kind::Invoke },
            f: call.f,
            value: if known { call.value.clone() } else { asked(&call.value) },
            server: call.server.clone().filter(|_| known),
            error: call.error.clone().filter(|_| end),
        }
    };
    History { operations: moments.into_iter().enumerate().map(line).collect() }
}
