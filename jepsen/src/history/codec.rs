//! Operations as JSON lines and as EDN, in the shape that Jepsen gives them.
//!
//! One line of JSON: `{"index":0,"time":123,"type":"invoke","process":0,"f":"txn",
//! "value":[["append",1,2],["r",3,null]]}`. The same in EDN: `{:index 0, :time 123, :type :invoke,
//! :process 0, :f :txn, :value [[:append 1 2] [:r 3 nil]]}`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::form::{Form, FormError};
use super::{
    F, Fault, History, Kind, Micro, Operation, Outcome, Probe, Process, Register, Server, Value,
};

/// Why a stored history cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the history cannot be read")]
pub struct ReadError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub source: FormError,
}

impl History {
    /// Reads a history of JSON lines. Empty lines do not count.
    ///
    /// # Errors
    /// If a line is no operation. A harness that was killed may have left half a last line.
    pub fn from_json_lines(text: &str) -> Result<Self, ReadError> {
        read(text, Operation::from_json)
    }

    /// Reads a history of one EDN map per line.
    ///
    /// # Errors
    /// If a line is no operation.
    pub fn from_edn_lines(text: &str) -> Result<Self, ReadError> {
        read(text, Operation::from_edn)
    }

    /// Writes it as JSON lines.
    pub fn to_json_lines(&self) -> String {
        written(&self.operations, Operation::to_json)
    }

    /// Writes it as lines of EDN, as Jepsen's `history.edn`.
    pub fn to_edn_lines(&self) -> String {
        written(&self.operations, Operation::to_edn)
    }
}

fn read(text: &str, one: fn(&str) -> Result<Operation, FormError>) -> Result<History, ReadError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let operations = lines
        .map(|(place, line)| one(line).map_err(|source| ReadError { line: place + 1, source }))
        .collect::<Result<_, _>>()?;
    Ok(History { operations })
}

fn written(operations: &[Operation], one: fn(&Operation) -> String) -> String {
    let mut text = String::new();
    for operation in operations {
        writeln!(text, "{}", one(operation)).expect("writing to a text");
    }
    text
}

impl Operation {
    /// Returns it as JSON without a line end.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.form().json().to_string()
    }

    /// Returns it as EDN without a line end.
    #[must_use]
    pub fn to_edn(&self) -> String {
        self.form().edn().to_string()
    }

    /// Reads one from JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_json(text: &str) -> Result<Self, FormError> {
        Self::from_form(&Form::from_json(text)?)
    }

    /// Reads one from EDN.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_edn(text: &str) -> Result<Self, FormError> {
        Self::from_form(&Form::from_edn(text)?)
    }

    fn form(&self) -> Form {
        let process = match self.process {
            Process::Client(number) => Form::int(number),
            Process::Nemesis => Form::word("nemesis"),
        };
        let mut entries = vec![
            entry("index", Form::int(self.index)),
            entry("time", Form::int(self.time_ns)),
            entry("type", Form::word(self.kind.word())),
            entry("process", process),
            entry("f", Form::word(self.f.word())),
            entry("value", value_form(&self.value)),
        ];
        if let Some(server) = &self.server {
            entries.push(entry("server", server_form(server)));
        }
        if let Some(error) = &self.error {
            entries.push(entry("error", Form::Text(error.clone())));
        }
        Form::Map(entries)
    }

    fn from_form(form: &Form) -> Result<Self, FormError> {
        let process = match form.get("process") {
            Form::Int(_) => Process::Client(form.get("process").number()?),
            other if other.as_text() == Some("nemesis") => Process::Nemesis,
            other => return Err(FormError(format!("not a process: {other:?}"))),
        };
        let f = one_of("f", form.get("f"), &F::ALL, super::F::word)?;
        let kinds = [Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info];
        Ok(Self {
            index: form.get("index").number()?,
            time_ns: form.get("time").number()?,
            process,
            kind: one_of("type", form.get("type"), &kinds, super::Kind::word)?,
            f,
            value: value_of(f, form.get("value"))?,
            server: form.get("server").optional(server_of)?,
            error: form.get("error").optional(|error| Ok(error.text()?.to_owned()))?,
        })
    }
}

fn entry(name: &str, value: Form) -> (Form, Form) {
    (Form::word(name), value)
}

fn one_of<T: Copy>(
    what: &str,
    form: &Form,
    all: &[T],
    word: fn(T) -> &'static str,
) -> Result<T, FormError> {
    let text = form.text()?;
    (all.iter().copied().find(|&one| word(one) == text))
        .ok_or_else(|| FormError(format!("unknown {what}: {text:?}")))
}

fn optional(number: Option<impl Into<i128>>) -> Form {
    number.map_or(Form::Nil, Form::int)
}

fn numbers(list: &[u64]) -> Form {
    Form::List(list.iter().map(|&number| Form::int(number)).collect())
}

fn numbers_of(form: &Form) -> Result<Vec<u64>, FormError> {
    form.list()?.iter().map(Form::number).collect()
}

fn value_form(value: &Value) -> Form {
    match value {
        Value::None => Form::Nil,
        Value::Txn(micros) => Form::List(micros.iter().map(micro_form).collect()),
        Value::Register { key, op } => {
            let op = match *op {
                Register::Read(value) => optional(value),
                Register::Write(value) => Form::int(value),
                Register::Cas { from, to } => numbers(&[from, to]),
            };
            Form::List(vec![Form::int(*key), op])
        }
        Value::Add(element) => Form::int(*element),
        Value::Set(elements) => elements.as_deref().map_or(Form::Nil, numbers),
        Value::Transfer { from, to, amount } => Form::Map(vec![
            entry("from", Form::int(*from)),
            entry("to", Form::int(*to)),
            entry("amount", Form::int(*amount)),
        ]),
        Value::Balances(balances) => balances.as_ref().map_or(Form::Nil, |balances| {
            let entries = balances.iter();
            Form::Map(entries.map(|(&id, &sum)| (Form::int(id), Form::int(sum))).collect())
        }),
        Value::Probe(Probe { node, ack }) => Form::Map(vec![
            entry("node", Form::Text(node.clone())),
            entry("ack", ack.map_or(Form::Nil, Form::Bool)),
        ]),
        Value::Fault(Fault { name, targets, outcome, text }) => Form::Map(vec![
            entry("name", Form::Text(name.clone())),
            entry("targets", Form::List(targets.iter().cloned().map(Form::Text).collect())),
            entry("outcome", outcome.map_or(Form::Nil, |outcome| Form::word(outcome.word()))),
            entry("text", Form::Text(text.clone())),
        ]),
    }
}

fn value_of(f: F, form: &Form) -> Result<Value, FormError> {
    // Something that has no value at all: only a set, a bank and a probe have nil of their own.
    if matches!(form, Form::Nil) && !matches!(f, F::ReadSet | F::ReadNewest | F::ReadBank) {
        return Ok(Value::None);
    }
    Ok(match f {
        F::Txn => Value::Txn(form.list()?.iter().map(micro_of).collect::<Result<_, _>>()?),
        F::Read | F::Write | F::Cas => register_of(f, form)?,
        F::Add => Value::Add(form.number()?),
        F::ReadSet | F::ReadNewest => Value::Set(form.optional(numbers_of)?),
        F::Transfer => Value::Transfer {
            from: form.get("from").number()?,
            to: form.get("to").number()?,
            amount: form.get("amount").number()?,
        },
        F::ReadBank => Value::Balances(form.optional(balances_of)?),
        F::Probe => Value::Probe(Probe {
            node: form.get("node").text()?.to_owned(),
            ack: form.get("ack").optional(|ack| match ack {
                Form::Bool(ack) => Ok(*ack),
                other => Err(FormError(format!("not true or false: {other:?}"))),
            })?,
        }),
        F::Fault | F::Heal => Value::Fault(fault_of(form)?),
    })
}

fn register_of(f: F, form: &Form) -> Result<Value, FormError> {
    let [key, value] = form.list()? else {
        return Err(FormError(format!("not a key and a value: {form:?}")));
    };
    let op = match f {
        F::Cas => match numbers_of(value)?[..] {
            [from, to] => Register::Cas { from, to },
            _ => return Err(FormError(format!("not an old and a new value: {value:?}"))),
        },
        F::Write => Register::Write(value.number()?),
        _ => Register::Read(value.optional(Form::number)?),
    };
    Ok(Value::Register { key: key.number()?, op })
}

fn balances_of(form: &Form) -> Result<BTreeMap<u64, i64>, FormError> {
    let Form::Map(entries) = form else {
        return Err(FormError(format!("not a map of balances: {form:?}")));
    };
    let account = |key: &Form| match key {
        // In JSON every name is a text.
        Form::Text(text) => text.parse().map_err(|_| FormError(format!("not an account: {text}"))),
        key => key.number(),
    };
    entries.iter().map(|(key, sum)| Ok((account(key)?, sum.number()?))).collect()
}

fn fault_of(form: &Form) -> Result<Fault, FormError> {
    let outcomes = [Outcome::Installed, Outcome::Skipped, Outcome::Indeterminate];
    let targets = form.get("targets").list()?.iter();
    Ok(Fault {
        name: form.get("name").text()?.to_owned(),
        targets: targets.map(|one| Ok(one.text()?.to_owned())).collect::<Result<_, _>>()?,
        outcome: form
            .get("outcome")
            .optional(|form| one_of("outcome", form, &outcomes, super::Outcome::word))?,
        text: form.get("text").text()?.to_owned(),
    })
}

fn micro_form(micro: &Micro) -> Form {
    match micro {
        Micro::Append { key, value } => {
            Form::List(vec![Form::word("append"), Form::int(*key), Form::int(*value)])
        }
        Micro::Read { key, list } => {
            let list = list.as_deref().map_or(Form::Nil, numbers);
            Form::List(vec![Form::word("r"), Form::int(*key), list])
        }
    }
}

fn micro_of(form: &Form) -> Result<Micro, FormError> {
    match form.list()? {
        [f, key, value] if f.as_text() == Some("append") => {
            Ok(Micro::Append { key: key.number()?, value: value.number()? })
        }
        [f, key, list] if f.as_text() == Some("r") => {
            Ok(Micro::Read { key: key.number()?, list: list.optional(numbers_of)? })
        }
        _ => Err(FormError(format!("not a step of a transaction: {form:?}"))),
    }
}

fn server_form(server: &Server) -> Form {
    Form::Map(vec![
        entry("node", Form::Text(server.node.clone())),
        entry("epoch", optional(server.epoch)),
        entry("system", optional(server.system)),
        entry("timeline", optional(server.timeline)),
        entry("standby", Form::Bool(server.standby)),
    ])
}

fn server_of(form: &Form) -> Result<Server, FormError> {
    Ok(Server {
        node: form.get("node").text()?.to_owned(),
        epoch: form.get("epoch").optional(Form::number)?,
        system: form.get("system").optional(Form::number)?,
        timeline: form.get("timeline").optional(Form::number)?,
        standby: matches!(form.get("standby"), Form::Bool(true)),
    })
}
