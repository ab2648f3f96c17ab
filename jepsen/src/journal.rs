//! What clients and faults do, put into the history's words.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::env::Database;
use crate::harness::{Harness, Trying as _};
use crate::history::{
    Completion, F, Fault, History, Kind, Micro, Outcome as Made, Probe, Process, Recorder,
    Register, Server, Value,
};
use crate::nemesis::Outcome;
use crate::run::watch::Guards;
use crate::workload::call::{Answer, Call, Identity, Reading, Step, node_of};
use crate::workload::client::Ending;

/// Name of the history in a run's directory.
pub const HISTORY: &str = "history.jsonl";

/// Writes the history.
#[derive(Debug)]
pub struct Journal {
    recorder: Recorder,
    known: OnceLock<(Vec<Database>, Guards)>,
}

/// A call that was invoked.
#[derive(Debug)]
pub struct Open {
    index: u64,
    /// A probe is an element that is added and a word on who added it: two operations at once.
    probe: Option<u64>,
    epoch: Option<u64>,
}

impl Journal {
    /// Begins a history in a directory.
    ///
    /// # Errors
    /// If there is one already, or the directory cannot be written.
    pub fn create(dir: &Path) -> Result<Self, Harness> {
        let recorder = Recorder::create(&dir.join(HISTORY));
        let recorder = recorder.trying(|| format!("begin a history in {}", dir.display()))?;
        Ok(Self { recorder, known: OnceLock::new() })
    }

    /// Tells it who is who; until then it knows no epochs.
    pub fn know(&self, databases: Vec<Database>, guards: Guards) {
        // Said once: a second time changes nothing.
        drop(self.known.set((databases, guards)));
    }

    /// Returns the time that an operation would get now.
    pub fn now(&self) -> Duration {
        self.recorder.started().elapsed()
    }

    /// Returns a process that did nothing yet.
    pub fn process(&self) -> Process {
        self.recorder.process()
    }

    /// A client is about to call.
    pub fn invoke(&self, process: Process, call: &Call, node: &str) -> Open {
        let (f, value) = invocation(call);
        let probes = matches!(call, Call::Probe(_) | Call::ProbeSlowly(..));
        let probe = probes.then(|| {
            let asked = Probe { node: node.to_owned(), ack: None };
            self.recorder.invoke(self.recorder.process(), F::Probe, Value::Probe(asked))
        });
        let index = self.recorder.invoke(process, f, value);
        Open { index, probe, epoch: self.epoch(node) }
    }

    /// A call has ended.
    pub fn complete(&self, open: &Open, call: &Call, node: &str, ending: &Ending<Answer>) {
        let completion = match ending {
            Ending::Ok(answer) => {
                let standby = matches!(call, Call::OnStandby(_));
                let server = Server { standby, ..self.server(open, node, answer) };
                Completion::ok(result(call, answer)).at(server)
            }
            Ending::Fail(why) => Completion::fail(why.as_str()),
            Ending::Info(why) => Completion::info(why.as_str()),
        };
        if let Some(probe) = open.probe {
            let acked = completion.kind == Kind::Ok;
            let value = Value::Probe(Probe { node: node.to_owned(), ack: Some(acked) });
            // That nothing was written is what a probe found.
            let told = match completion.kind {
                Kind::Info => Completion { kind: Kind::Info, ..completion.clone() },
                _ => Completion { kind: Kind::Ok, ..completion.clone() },
            };
            self.recorder.complete(probe, Completion { value: Some(value), ..told });
        }
        self.recorder.complete(open.index, completion);
    }

    /// A fault begins or ends: `done` is what it takes to do that.
    ///
    /// # Errors
    /// What `done` fails with; then the history has no end of it.
    pub async fn fault<T>(
        &self,
        (f, name): (F, &str),
        done: impl AsyncFnOnce() -> Result<(Outcome, Option<String>, T), Harness>,
    ) -> Result<T, Harness> {
        let named = |targets: Vec<String>, outcome: Option<Made>, text: &str| {
            let (name, text) = (name.to_owned(), text.to_owned());
            Value::Fault(Fault { name, targets, outcome, text })
        };
        let index = self.recorder.invoke(Process::Nemesis, f, named(Vec::new(), None, ""));
        let (outcome, node, value) = done().await?;
        let made = match &outcome {
            Outcome::Installed(_) => Made::Installed,
            Outcome::Skipped(_) => Made::Skipped,
            Outcome::Indeterminate(_) => Made::Indeterminate,
        };
        let told = named(node.into_iter().collect(), Some(made), outcome.detail());
        self.recorder.complete(index, Completion::ok(told));
        Ok(value)
    }

    /// Returns when each acknowledged write was acknowledged, in that order.
    pub fn acks(&self) -> Vec<Duration> {
        let history = self.recorder.history();
        let acked = |o: &&crate::history::Operation| o.kind == Kind::Ok && o.f.writes(&o.value);
        history.operations.iter().filter(acked).map(|o| Duration::from_nanos(o.time_ns)).collect()
    }

    /// Returns the whole history, once it is on disk.
    ///
    /// # Errors
    /// If it cannot be written, or does not make sense: that is a fault of the suite.
    pub fn finish(&self) -> Result<History, Harness> {
        self.recorder.finish().trying(|| "keep the history".to_owned())
    }

    fn epoch(&self, node: &str) -> Option<u64> {
        self.known.get().and_then(|(_, guards)| guards.epoch(node))
    }

    /// Who answered. The epoch is the one that the node's guard named both before the call and after it.
    fn server(&self, open: &Open, node: &str, answer: &Answer) -> Server {
        let epoch = open.epoch.filter(|epoch| self.epoch(node) == Some(*epoch));
        let plain = Server { node: node.to_owned(), epoch, ..Server::default() };
        let Answer::By(Identity { server, timeline, system }) = answer else { return plain };
        let databases = self.known.get().map(|(databases, _)| databases.as_slice());
        let named = node_of(databases.unwrap_or_default(), server);
        Server {
            // A server that is not where the client went to is somebody else.
            node: named.unwrap_or(server).to_owned(),
            timeline: Some(*timeline),
            system: system.parse().ok(),
            ..plain
        }
    }
}

fn natural(number: i64) -> u64 {
    number.unsigned_abs()
}

fn register(key: i64, op: Register) -> Value {
    Value::Register { key: natural(key), op }
}

/// Returns what a call is in a history, before it is known what came of it.
fn invocation(call: &Call) -> (F, Value) {
    match call {
        Call::Lists(steps) => {
            (F::Txn, Value::Txn(steps.iter().map(|step| micro(step, None)).collect()))
        }
        Call::Read(key) => (F::Read, register(*key, Register::Read(None))),
        Call::Write(key, value) => (F::Write, register(*key, Register::Write(natural(*value)))),
        Call::Cas(key, from, to) => {
            let op = Register::Cas { from: natural(*from), to: natural(*to) };
            (F::Cas, register(*key, op))
        }
        Call::Add(value)
        | Call::AddSlowly(value, _)
        | Call::Probe(value)
        | Call::ProbeSlowly(value, _) => (F::Add, Value::Add(natural(*value))),
        Call::Transfer(from, to, amount) => {
            let (from, to, amount) = (natural(*from), natural(*to), natural(*amount));
            (F::Transfer, Value::Transfer { from, to, amount })
        }
        Call::Balances => (F::ReadBank, Value::Balances(None)),
        Call::ReadAll => (F::ReadSet, Value::Set(None)),
        Call::OnStandby(Reading::Lists(keys)) => {
            let read = |key: &i64| micro(&Step::Read(*key), None);
            (F::Txn, Value::Txn(keys.iter().map(read).collect()))
        }
        Call::OnStandby(Reading::Newest) => (F::ReadNewest, Value::Set(None)),
        Call::OnStandby(Reading::Balances) => (F::ReadBank, Value::Balances(None)),
    }
}

fn micro(step: &Step, found: Option<Vec<u64>>) -> Micro {
    match *step {
        Step::Append(key, value) => Micro::Append { key: natural(key), value: natural(value) },
        Step::Read(key) => Micro::Read { key: natural(key), list: found },
    }
}

/// Returns what a call is in a history, with what was answered.
fn result(call: &Call, answer: &Answer) -> Value {
    match (call, answer) {
        (Call::Lists(steps), Answer::Lists(found)) => {
            let mut found = found.iter();
            let list = |step: &Step| match step {
                Step::Append(..) => None,
                // A list that does not exist was read all the same: it is empty.
                Step::Read(_) => {
                    let list = found.next().cloned().flatten().unwrap_or_default();
                    Some(list.into_iter().map(natural).collect())
                }
            };
            let lists: Vec<Option<Vec<u64>>> = steps.iter().map(list).collect();
            Value::Txn(steps.iter().zip(lists).map(|(step, list)| micro(step, list)).collect())
        }
        (Call::OnStandby(Reading::Lists(keys)), Answer::Lists(found)) => {
            let found = found.iter().map(|list| list.iter().flatten().map(|v| natural(*v)));
            let read = |(key, list): (&i64, _)| micro(&Step::Read(*key), Some(list));
            Value::Txn(keys.iter().zip(found.map(Iterator::collect)).map(read).collect())
        }
        (Call::Read(key), Answer::Register(value)) => {
            register(*key, Register::Read(value.map(natural)))
        }
        (_, Answer::Balances(all)) => {
            Value::Balances(Some(all.iter().map(|(id, amount)| (natural(*id), *amount)).collect()))
        }
        (_, Answer::Values(all)) => Value::Set(Some(all.iter().map(|v| natural(*v)).collect())),
        _ => invocation(call).1,
    }
}
