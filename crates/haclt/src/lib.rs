//! The command line of haclt: asks any agent over gRPC, and shows the answer.
//!
//! Every command is one request and one rendering. Data goes to standard output, all else to
//! standard error, and the exit code says how it ended ([`ExitCode`]).

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser as _;

mod asker;
pub mod bundle;
pub mod cli;
pub mod client;
pub mod commands;
pub mod confirm;
pub mod duration;
pub mod endpoint;
mod error;
pub mod exit;
#[doc(hidden)]
pub mod fuzz_door;
pub mod moment;
pub mod render;
pub mod reply;

pub use crate::cli::Cli;
pub use crate::error::CliError;
pub use crate::exit::ExitCode;

/// Where a command writes.
#[derive(Debug)]
pub struct Streams<O, N> {
    /// Takes the data that was asked for.
    pub out: O,
    /// Takes everything else: errors, hints, which agents did not answer.
    pub notes: N,
    /// Whether `out` is a terminal, which can be cleared.
    pub terminal: bool,
    /// Reads a line that the user types; none if nobody sits there who could be asked.
    pub ask: Option<fn() -> io::Result<String>>,
}

impl<O: Write, N: Write> Streams<O, N> {
    /// Writes data, at once and completely.
    ///
    /// # Errors
    /// [`CliError::Output`] if it could not be written.
    pub fn emit(&mut self, data: &str) -> Result<(), CliError> {
        let written = self.out.write_all(data.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(CliError::Output)
    }

    /// Writes a line for people; there is nobody left to tell if that fails.
    pub fn note(&mut self, line: &str) {
        writeln!(self.notes, "{line}").ok();
    }

    /// Writes what the user is to answer, on the same line.
    pub fn prompt(&mut self, text: &str) {
        write!(self.notes, "{text}").and_then(|()| self.notes.flush()).ok();
    }
}

/// Runs the command line `args`, whose first item is the program's name.
///
/// An error is reported here, once, with its causes and its hint.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    streams: &mut Streams<impl Write, impl Write>,
) -> ExitCode {
    let outcome = match Cli::try_parse_from(args) {
        Ok(cli) => cli.run(streams),
        Err(stopped) => answer_without_command(&stopped, streams),
    };
    outcome.unwrap_or_else(|error| {
        // Whoever read our output has seen enough: `haclt status --watch | head`.
        if error.reader_left() {
            return ExitCode::Done;
        }
        streams.note(&error::report(&error));
        error.exit_code()
    })
}

/// Prints the help or the version that was asked for, or says what is wrong with the arguments.
fn answer_without_command(
    stopped: &clap::Error,
    streams: &mut Streams<impl Write, impl Write>,
) -> Result<ExitCode, CliError> {
    let text = stopped.render().to_string();
    if stopped.use_stderr() {
        streams.note(text.trim_end());
        return Ok(ExitCode::Usage);
    }
    streams.emit(&text)?;
    Ok(ExitCode::Done)
}
