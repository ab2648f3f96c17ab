//! The guard's program: reads the command line, guards, says how it ended.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use ha_guard::cli::{self, Command, HELP};
use ha_guard::files::LockError;
use ha_guard::run::{RunError, run};
use ha_guard::spawn::{ExecError, become_program};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const TAKEN: u8 = 3;
/// As shells have it: found but not runnable, and not found.
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

#[cfg(not(feature = "sabotage"))]
const VERSION: &str = concat!("ha-guard ", env!("CARGO_PKG_VERSION"), "\n");
#[cfg(feature = "sabotage")]
const VERSION: &str = concat!(
    "ha-guard ",
    env!("CARGO_PKG_VERSION"),
    " SABOTAGE BUILD: unsafe on purpose, for tests\n"
);

fn main() -> ExitCode {
    #[cfg(feature = "sabotage")]
    say_sabotage();
    match cli::parse(std::env::args_os().skip(1)) {
        Err(error) => fail(&error, USAGE),
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(VERSION),
        Ok(Command::Exec { guard, command }) => {
            let error = become_program(guard, &command);
            let code = match &error {
                ExecError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    NOT_FOUND
                }
                ExecError::Exec { .. } | ExecError::Unsafe { .. } | ExecError::Orphaned { .. } => {
                    NOT_RUNNABLE
                }
            };
            fail(&error, code)
        }
        Ok(Command::Run(options)) => match run(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ RunError::Lock(LockError::Taken { .. })) => fail(&error, TAKEN),
            Err(error) => fail(&error, FAILED),
        },
    }
}

#[cfg(feature = "sabotage")]
fn say_sabotage() {
    let missing = ha_guard::sabotage::named().unwrap_or("nothing");
    let line = format!("SABOTAGE BUILD of ha-guard, unsafe on purpose; missing: {missing}\n");
    let _nowhere_to_say_it = io::stderr().write_all(line.as_bytes());
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Writes the error and what is behind it as one line.
fn fail(error: &dyn Error, code: u8) -> ExitCode {
    let mut line = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line.push('\n');
    let _nowhere_to_say_it = io::stderr().write_all(line.as_bytes());
    ExitCode::from(code)
}
