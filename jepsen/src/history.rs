//! What clients and nemeses did, in the order in which it was recorded.
//!
//! The outcome discipline is Jepsen's: an operation is invoked and ends `ok` (it happened), `fail`
//! (it certainly did not) or `info` (nobody knows); whoever got an `info` goes on as another
//! process. A fault ends installed, skipped or indeterminate (the idea is from openraft's Jepsen
//! directory).

pub mod codec;
pub mod edn;
pub mod form;
pub mod recorder;
pub mod sound;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use recorder::{Completion, Recorder};

/// Who does an operation: one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// A client's logical process; never used again after an `info`.
    Client(u32),
    /// Whoever brings about faults. It may record several operations at a time.
    Nemesis,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(number) => write!(f, "{number}"),
            Self::Nemesis => f.write_str("nemesis"),
        }
    }
}

/// Which end of an operation, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It happened.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// Nobody knows whether it happened, or happens later.
    Info,
}

impl Kind {
    /// Returns the word that histories have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }
}

/// What is done. It says which kind of [`Value`] belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum F {
    /// A transaction of appends and reads of lists: [`Value::Txn`].
    Txn,
    /// Reads one register: [`Value::Register`].
    Read,
    /// Writes one register: [`Value::Register`].
    Write,
    /// Writes one register if it has an expected value: [`Value::Register`].
    Cas,
    /// Adds an element to the set: [`Value::Add`].
    Add,
    /// Reads the set: [`Value::Set`].
    ReadSet,
    /// Reads the newest elements of the set: [`Value::Set`].
    ReadNewest,
    /// Moves money between accounts: [`Value::Transfer`].
    Transfer,
    /// Reads all accounts: [`Value::Balances`].
    ReadBank,
    /// Tries a write on one named node: [`Value::Probe`].
    Probe,
    /// A fault begins: [`Value::Fault`].
    Fault,
    /// A fault ends: [`Value::Fault`] with the same name.
    Heal,
}

impl F {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Txn,
        Self::Read,
        Self::Write,
        Self::Cas,
        Self::Add,
        Self::ReadSet,
        Self::ReadNewest,
        Self::Transfer,
        Self::ReadBank,
        Self::Probe,
        Self::Fault,
        Self::Heal,
    ];

    /// Returns the word that histories have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Txn => "txn",
            Self::Read => "read",
            Self::Write => "write",
            Self::Cas => "cas",
            Self::Add => "add",
            Self::ReadSet => "read-set",
            Self::ReadNewest => "read-newest",
            Self::Transfer => "transfer",
            Self::ReadBank => "read-bank",
            Self::Probe => "probe",
            Self::Fault => "fault",
            Self::Heal => "heal",
        }
    }

    /// Returns whether an acknowledged operation of this kind and value wrote something.
    #[must_use]
    pub fn writes(self, value: &Value) -> bool {
        match value {
            Value::Txn(micros) => micros.iter().any(|micro| matches!(micro, Micro::Append { .. })),
            Value::Register { op, .. } => !matches!(op, Register::Read(_)),
            Value::Add(_) | Value::Transfer { .. } => true,
            Value::Probe(probe) => probe.ack == Some(true),
            Value::None | Value::Set(_) | Value::Balances(_) | Value::Fault(_) => false,
        }
    }
}

/// One step of a list-append transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Micro {
    /// Appends a value, which nobody else ever appends to this key.
    Append {
        /// Which list.
        key: u64,
        /// What is appended.
        value: u64,
    },
    /// Reads a list.
    Read {
        /// Which list.
        key: u64,
        /// What was read; `None` while that is not known.
        list: Option<Vec<u64>>,
    },
}

impl Micro {
    /// Returns the list that it is about.
    #[must_use]
    pub const fn key(&self) -> u64 {
        match *self {
            Self::Append { key, .. } | Self::Read { key, .. } => key,
        }
    }
}

/// An operation on one register. A register that was never written holds `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Register {
    /// Reads; the value that was read belongs to the `ok` alone.
    Read(Option<u64>),
    /// Writes.
    Write(u64),
    /// Writes `to` if the register holds `from`. An `ok` says that it did, a `fail` that it did not.
    Cas {
        /// The expected value.
        from: u64,
        /// The new value.
        to: u64,
    },
}

/// What a probe of one node asked and found. Who answered is in [`Operation::server`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Probe {
    /// The node that was asked.
    pub node: String,
    /// Whether it acknowledged a write; `None` in the invocation.
    pub ack: Option<bool>,
}

/// How a fault went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is there (or, for a heal, gone).
    Installed,
    /// It was not tried: this machine cannot, or there was nothing to do it to.
    Skipped,
    /// Nobody knows.
    Indeterminate,
}

impl Outcome {
    /// Returns the word that histories have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Skipped => "skipped",
            Self::Indeterminate => "indeterminate",
        }
    }
}

/// A fault, or its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Fault {
    /// What it is called, such as `partition-primary`; the heal has the same name.
    pub name: String,
    /// The nodes that it is done to.
    pub targets: Vec<String>,
    /// How it went; `None` in the invocation.
    pub outcome: Option<Outcome>,
    /// What else there is to say.
    pub text: String,
}

/// What an operation is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nothing.
    None,
    /// A list-append transaction.
    Txn(Vec<Micro>),
    /// An operation on the register of that key.
    Register {
        /// Which register.
        key: u64,
        /// What is done to it.
        op: Register,
    },
    /// An element that is added to the set; each is added once in a run.
    Add(u64),
    /// What is in the set; `None` in the invocation.
    Set(Option<Vec<u64>>),
    /// Money that moves.
    Transfer {
        /// The account that pays.
        from: u64,
        /// The account that receives.
        to: u64,
        /// How much.
        amount: u64,
    },
    /// All accounts; `None` in the invocation.
    Balances(Option<BTreeMap<u64, i64>>),
    /// A probe of one node.
    Probe(Probe),
    /// A fault or its end.
    Fault(Fault),
}

/// Who answered, as the server itself said in the same transaction or connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Server {
    /// The node's name.
    pub node: String,
    /// The epoch that the node believed to hold, if it said so.
    pub epoch: Option<u64>,
    /// `PostgreSQL`'s system identifier.
    pub system: Option<u64>,
    /// The timeline that it was on.
    pub timeline: Option<u32>,
    /// Whether it was in recovery: a standby.
    pub standby: bool,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its place in the history, from 0.
    pub index: u64,
    /// Nanoseconds since the recorder began, on its one monotonic clock.
    pub time_ns: u64,
    /// Who.
    pub process: Process,
    /// Begin or end.
    pub kind: Kind,
    /// What is done.
    pub f: F,
    /// To what, or what came of it.
    pub value: Value,
    /// Who answered, if that is known.
    pub server: Option<Server>,
    /// Why it failed or is not known.
    pub error: Option<String>,
}

impl Operation {
    /// Returns whether a standby answered.
    #[must_use]
    pub fn by_standby(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.standby)
    }
}

/// All that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// In the order of their indices.
    pub operations: Vec<Operation>,
}

/// An operation with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<'a> {
    /// How it began.
    pub invoke: &'a Operation,
    /// How it ended; `None` if the run ended first, which is as good as an `info`.
    pub completion: Option<&'a Operation>,
}

impl<'a> Pair<'a> {
    /// Returns how it ended.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.completion.map_or(Kind::Info, |completion| completion.kind)
    }

    /// Returns the completion if it is an `ok`.
    #[must_use]
    pub fn ok(&self) -> Option<&'a Operation> {
        self.completion.filter(|completion| completion.kind == Kind::Ok)
    }

    /// Returns when it ended; `u64::MAX` if it may still happen.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        match self.completion {
            Some(completion) if completion.kind != Kind::Info => completion.time_ns,
            _ => u64::MAX,
        }
    }
}

impl History {
    /// Returns each invocation with its completion, in the order of the invocations.
    ///
    /// A nemesis' completion belongs to its oldest open invocation of the same `f` and fault name.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let mut pairs: Vec<Pair<'_>> = Vec::with_capacity(self.operations.len() / 2 + 1);
        let mut open: BTreeMap<OpenKey<'_>, std::collections::VecDeque<usize>> = BTreeMap::new();
        for operation in &self.operations {
            let key = open_key(operation);
            if operation.kind == Kind::Invoke {
                open.entry(key).or_default().push_back(pairs.len());
                pairs.push(Pair { invoke: operation, completion: None });
            } else if let Some(place) =
                open.get_mut(&key).and_then(std::collections::VecDeque::pop_front)
            {
                pairs[place].completion = Some(operation);
            }
        }
        pairs
    }

    /// Returns the time of the last operation.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        self.operations.last().map_or(0, |last| last.time_ns)
    }
}

/// What a completion has in common with its invocation.
type OpenKey<'a> = (Process, F, &'a str);

fn open_key(operation: &Operation) -> OpenKey<'_> {
    let name = match &operation.value {
        Value::Fault(fault) => fault.name.as_str(),
        _ => "",
    };
    (operation.process, operation.f, name)
}
