//! Runs PostgreSQL's own programs: bounded, killed as a whole, watched line by line.

mod local;

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use crate::attempt::{Attempt, one_line};
use crate::docker::Shared;
use crate::driver::{ActionError, Effect};

pub(crate) use local::{DATA_DIR_MARK, Local, STARTED_BY_MARK, started_by};

/// The shell, for several runs of a tool at once: in a container each costs half a second.
pub(crate) const SHELL: &str = "sh";

/// Where a longer line of a program is cut.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;
const LINES_KEPT_MAX: usize = 4096;

/// Where programs run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Programs<'a> {
    /// As processes of this machine.
    Local(Local<'a>),
    /// In containers.
    Docker(&'a Arc<Shared>),
}

/// One run of a program.
pub(crate) struct Tool<'a> {
    name: &'static str,
    programs: Programs<'a>,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    stdin: Vec<u8>,
    on_line: Option<&'a (dyn Fn(&str) -> bool + Send + Sync)>,
    on_answer: Option<&'a (dyn Fn(&str) + Send + Sync)>,
}

/// What a program that succeeded wrote.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Lines of standard output.
    pub(crate) lines: Vec<String>,
    /// Lines of standard error.
    pub(crate) errors: Vec<String>,
}

/// Why a program did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// It could not be started at all.
    #[error("could not start {program}: {error}")]
    Start { program: String, error: String },
    /// It was killed at the deadline.
    #[error("no end by the deadline")]
    TimedOut,
    /// It ended with an error.
    #[error("{tool}: {why}")]
    Failed { tool: &'static str, why: String, errors: Vec<String> },
}

impl ToolError {
    /// Names the attempt. `effect` is what a failed run means; a run that never began has none.
    pub(crate) fn during(&self, attempt: &Attempt, effect: Effect) -> ActionError {
        match self {
            Self::Start { .. } => attempt.cannot(self),
            Self::TimedOut => attempt.timed_out(),
            Self::Failed { .. } => attempt.failed(self, effect),
        }
    }
}

impl<'a> Tool<'a> {
    pub(crate) fn new(name: &'static str, programs: Programs<'a>) -> Self {
        let (args, env, stdin) = (Vec::new(), Vec::new(), Vec::new());
        let (on_line, on_answer) = (None, None);
        Self { name, programs, args, env, stdin, on_line, on_answer }
    }

    pub(crate) fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn pass_file(self, file: &Path) -> Self {
        self.env("PGPASSFILE", file)
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Shows each line of standard error to `on_line`; what it returns true for is not logged.
    pub(crate) fn on_line(mut self, on_line: &'a (dyn Fn(&str) -> bool + Send + Sync)) -> Self {
        self.on_line = Some(on_line);
        self
    }

    /// Gives each line of standard output to `on_answer` and keeps none: there may be gigabytes.
    pub(crate) fn on_answer(mut self, on_answer: &'a (dyn Fn(&str) + Send + Sync)) -> Self {
        self.on_answer = Some(on_answer);
        self
    }

    /// Runs the program to its end. Dropping the future, and the deadline, kill it with all that it
    /// started: `pg_basebackup` has a child that receives WAL (rule 63).
    pub(crate) async fn run(self, deadline: Instant) -> Result<Output, ToolError> {
        match self.programs {
            Programs::Local(local) => local.run(&self, deadline).await,
            Programs::Docker(shared) => shared.run_tool(&self, deadline).await,
        }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn arguments(&self) -> &[OsString] {
        &self.args
    }

    pub(crate) fn environment(&self) -> &[(&'static str, OsString)] {
        &self.env
    }

    pub(crate) fn standard_input(&self) -> &[u8] {
        &self.stdin
    }

    /// Takes in a line of standard output.
    pub(crate) fn answered(&self, line: &str, lines: &mut Vec<String>) {
        if let Some(on_answer) = self.on_answer {
            return on_answer(line);
        }
        if lines.len() < LINES_KEPT_MAX {
            lines.push(line.to_owned());
        }
    }

    /// Takes in a line of standard error.
    pub(crate) fn complained(&self, line: &str, errors: &mut Vec<String>) {
        if self.on_line.is_some_and(|on_line| on_line(line)) {
            return;
        }
        debug!(tool = self.name, line, "tool said");
        if errors.len() == LINES_KEPT_MAX {
            errors.remove(0);
        }
        errors.push(line.to_owned());
    }

    pub(crate) fn failed(&self, how: impl fmt::Display, errors: Vec<String>) -> ToolError {
        let why = last_error(&errors).unwrap_or_else(|| how.to_string());
        ToolError::Failed { tool: self.name, why, errors }
    }
}

/// Puts lines together from what a program wrote; a line longer than the limit is cut.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    pub(crate) fn take(&mut self, chunk: &[u8], mut sink: impl FnMut(&str)) {
        for byte in chunk {
            match byte {
                b'\n' | b'\r' => self.end(&mut sink),
                _ if self.0.len() < LINE_BYTES_MAX => self.0.push(*byte),
                _ => {}
            }
        }
    }

    pub(crate) fn end(&mut self, mut sink: impl FnMut(&str)) {
        if !self.0.is_empty() {
            sink(&String::from_utf8_lossy(&self.0));
            self.0.clear();
        }
    }
}

/// Returns the line that says best why the program failed.
fn last_error(errors: &[String]) -> Option<String> {
    let telling = ["error: ", "fatal: ", "FATAL:  ", "PANIC:  ", "ERROR:  "];
    let said = errors.iter().rev().find_map(|line| {
        let at = telling.iter().find_map(|word| line.find(word).map(|at| at + word.len()))?;
        line.get(at..)
    });
    said.or(errors.last().map(String::as_str)).map(one_line)
}
