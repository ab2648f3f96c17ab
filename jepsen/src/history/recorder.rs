//! Writes a history while it happens.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{F, History, Kind, Operation, Process, Server, Value};

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// `ok`, `fail` or `info`.
    pub kind: Kind,
    /// What came of it; the invocation's value if absent.
    pub value: Option<Value>,
    /// Who answered, if that is known.
    pub server: Option<Server>,
    /// Why it failed or is not known.
    pub error: Option<String>,
}

impl Completion {
    /// It happened, and this came of it.
    #[must_use]
    pub const fn ok(value: Value) -> Self {
        Self { kind: Kind::Ok, value: Some(value), server: None, error: None }
    }

    /// It happened, and there is nothing to add to the invocation.
    #[must_use]
    pub const fn done() -> Self {
        Self { kind: Kind::Ok, value: None, server: None, error: None }
    }

    /// It certainly did not happen.
    pub fn fail(error: impl Into<String>) -> Self {
        Self { kind: Kind::Fail, value: None, server: None, error: Some(error.into()) }
    }

    /// Nobody knows whether it happened.
    pub fn info(error: impl Into<String>) -> Self {
        Self { kind: Kind::Info, value: None, server: None, error: Some(error.into()) }
    }

    /// Says who answered.
    #[must_use]
    pub fn at(mut self, server: Server) -> Self {
        self.server = Some(server);
        self
    }
}

/// Why a history could not be kept: a failure of the harness, not of what it tests.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file.
    #[error("could not write the history")]
    Write(#[source] io::Error),
    /// An end without a beginning.
    #[error("operation {0} was completed, but it is not open")]
    NotOpen(u64),
}

/// Takes down what everybody does, on one monotonic clock. Clones write into the same history.
///
/// Record an invocation *before* the request leaves and a completion *after* the answer came:
/// then the interval holds the instant at which the operation took effect.
#[derive(Debug, Clone)]
pub struct Recorder {
    started: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    operations: Vec<Operation>,
    /// Index of each open invocation, to its place in `operations`.
    open: BTreeMap<u64, usize>,
    next_process: u32,
    /// Each line is one write to it, so that a crash of the harness keeps all earlier lines.
    file: Option<File>,
    /// The first thing that went wrong.
    broken: Option<RecordError>,
}

impl Recorder {
    /// Returns a recorder that keeps all in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with(None)
    }

    /// Returns a recorder that also writes each operation to a new file, as one line of JSON.
    ///
    /// # Errors
    /// If the file exists already or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::with(Some(File::create_new(path)?)))
    }

    fn with(file: Option<File>) -> Self {
        let state = State {
            operations: Vec::new(),
            open: BTreeMap::new(),
            next_process: 0,
            file,
            broken: None,
        };
        Self { started: Instant::now(), state: Arc::new(Mutex::new(state)) }
    }

    /// Returns when it began: the history's time 0.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Returns the time that an operation would get now, in nanoseconds.
    ///
    /// # Panics
    /// If the run takes more than 584 years.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("a run takes less than 584 years")
    }

    /// Returns a process number that was never used: for a new client, and after each `info`.
    #[must_use]
    pub fn process(&self) -> Process {
        let mut state = self.lock();
        let number = state.next_process;
        state.next_process += 1;
        Process::Client(number)
    }

    /// Records that an operation begins. Returns its index, which [`Self::complete`] asks for.
    #[must_use]
    pub fn invoke(&self, process: Process, f: F, value: Value) -> u64 {
        let mut state = self.lock();
        // The clock is read under the lock: times are in the order of the indices.
        let time_ns = self.now_ns();
        let index = state.operations.len() as u64;
        let place = state.operations.len();
        state.open.insert(index, place);
        let kind = Kind::Invoke;
        state.push(Operation {
            index,
            time_ns,
            process,
            kind,
            f,
            value,
            server: None,
            error: None,
        });
        index
    }

    /// Records how the operation with that index ended.
    ///
    /// Completing one that is not open breaks the history: [`Self::finish`] says so.
    pub fn complete(&self, invocation: u64, completion: Completion) {
        let mut state = self.lock();
        let time_ns = self.now_ns();
        let Some(place) = state.open.remove(&invocation) else {
            state.broken.get_or_insert(RecordError::NotOpen(invocation));
            return;
        };
        let index = state.operations.len() as u64;
        let Operation { process, f, ref value, .. } = state.operations[place];
        let Completion { kind, value: came, server, error } = completion;
        let value = came.unwrap_or_else(|| value.clone());
        state.push(Operation { index, time_ns, process, kind, f, value, server, error });
    }

    /// Returns what was recorded so far.
    #[must_use]
    pub fn history(&self) -> History {
        History { operations: self.lock().operations.clone() }
    }

    /// Returns what was recorded, once all of it is on disk.
    ///
    /// # Errors
    /// If a line could not be written, or an operation was completed that was not open.
    pub fn finish(&self) -> Result<History, RecordError> {
        let mut state = self.lock();
        if let Some(broken) = state.broken.take() {
            return Err(broken);
        }
        if let Some(file) = &state.file {
            file.sync_all().map_err(RecordError::Write)?;
        }
        Ok(History { operations: state.operations.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked did so between whole operations: what is recorded is still true.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, operation: Operation) {
        if let Some(file) = &mut self.file {
            let mut line = operation.to_json();
            line.push('\n');
            if let Err(error) = file.write_all(line.as_bytes()) {
                self.broken.get_or_insert(RecordError::Write(error));
            }
        }
        self.operations.push(operation);
    }
}
