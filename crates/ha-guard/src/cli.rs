//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::spawn::Program;

/// What `--help` prints.
pub const HELP: &str = "\
Start, guard and kill one PostgreSQL by the permit alone

Usage: ha-guard run --permit-dir DIR --pgdata DIR --margin-ms N [OPTIONS] -- POSTGRES ARGS...

Options:
      --permit-dir DIR       Directory with the permit and the guard's status
      --pgdata DIR           Data directory of the PostgreSQL
      --margin-ms N          How long before the deadline of its right a primary is killed
      --fast-stop-ms N       How long a fast stop may take [default: 30000]
      --immediate-stop-ms N  How long an immediate stop may take [default: 5000]
      --uid N --gid N        User and group to run PostgreSQL as
      --log FILE             File to append PostgreSQL's output to
      --version              Print the version
      --help                 Print this help

Exit codes: 0 ended as told, 1 failed, 2 wrong usage, 3 another guard has the directory
";

const FAST_STOP_MS: u64 = 30_000;
const IMMEDIATE_STOP_MS: u64 = 5_000;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Guard.
    Run(Options),
    /// Become the program, as a child of the guard with this process id.
    Exec {
        /// The guard.
        guard: i32,
        /// The program and its arguments.
        command: Vec<OsString>,
    },
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// How to guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Directory with permit, status and lock.
    pub permit_dir: PathBuf,
    /// The data directory.
    pub pgdata: PathBuf,
    /// How long before the deadline the killing starts.
    pub margin: Duration,
    /// How long a fast stop may take.
    pub fast_stop: Duration,
    /// How long an immediate stop may take.
    pub immediate_stop: Duration,
    /// What to start.
    pub program: Program,
}

/// A command line that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Nothing was asked for.
    #[error("no command given: expected run, --version or --help")]
    NoCommand,
    /// A word that is no command or option.
    #[error("unknown argument {argument:?}")]
    Unknown {
        /// The word.
        argument: OsString,
    },
    /// An option was left out.
    #[error("option {option} is missing")]
    Missing {
        /// The option.
        option: &'static str,
    },
    /// An option stands at the end without its value.
    #[error("option {option} needs a value")]
    NoValue {
        /// The option.
        option: String,
    },
    /// A value that is no number, or too large a one.
    #[error("option {option} has the invalid value {value:?}: expected a whole number")]
    NotANumber {
        /// The option.
        option: &'static str,
        /// The value.
        value: OsString,
    },
    /// The program to guard was left out.
    #[error("no program given: expected -- POSTGRES ARGS... at the end")]
    NoProgram,
}

/// Reads the command line, without the program's own name.
///
/// # Errors
/// [`UsageError`] names the first thing that is wrong.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut arguments = arguments.into_iter();
    let Some(first) = arguments.next() else { return Err(UsageError::NoCommand) };
    match first.to_str() {
        Some("--version" | "-V") => Ok(Command::Version),
        Some("--help" | "-h") => Ok(Command::Help),
        Some("run") => parse_run(arguments),
        Some("exec") => {
            let guard = number("exec", arguments.next().ok_or(UsageError::NoCommand)?)?;
            match arguments.next() {
                Some(dashes) if dashes == "--" => {}
                _ => return Err(UsageError::NoProgram),
            }
            Ok(Command::Exec { guard, command: program(arguments)? })
        }
        _ => Err(UsageError::Unknown { argument: first }),
    }
}

fn parse_run(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, UsageError> {
    let [mut permit_dir, mut pgdata, mut log] = [const { None }; 3];
    let [mut margin, mut fast_stop, mut immediate_stop] = [None; 3];
    let [mut uid, mut gid] = [None; 2];
    loop {
        let Some(argument) = arguments.next() else { return Err(UsageError::NoProgram) };
        let Some(text) = argument.to_str() else { return Err(UsageError::Unknown { argument }) };
        let (option, inline) = match text.split_once('=') {
            Some((option, value)) => (option, Some(OsString::from(value))),
            None => (text, None),
        };
        let mut value = || {
            let next = inline.clone().or_else(|| arguments.next());
            next.ok_or_else(|| UsageError::NoValue { option: option.to_owned() })
        };
        match option {
            "--" if inline.is_none() => break,
            "--permit-dir" => permit_dir = Some(PathBuf::from(value()?)),
            "--pgdata" => pgdata = Some(PathBuf::from(value()?)),
            "--log" => log = Some(PathBuf::from(value()?)),
            "--margin-ms" => margin = Some(number("--margin-ms", value()?)?),
            "--fast-stop-ms" => fast_stop = Some(number("--fast-stop-ms", value()?)?),
            "--immediate-stop-ms" => {
                immediate_stop = Some(number("--immediate-stop-ms", value()?)?);
            }
            "--uid" => uid = Some(number("--uid", value()?)?),
            "--gid" => gid = Some(number("--gid", value()?)?),
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(UsageError::Unknown { argument }),
        }
    }
    let identity = match (uid, gid) {
        (Some(uid), Some(gid)) => Some((uid, gid)),
        (None, None) => None,
        (Some(_), None) => return Err(UsageError::Missing { option: "--gid" }),
        (None, Some(_)) => return Err(UsageError::Missing { option: "--uid" }),
    };
    let missing = |option| UsageError::Missing { option };
    Ok(Command::Run(Options {
        permit_dir: permit_dir.ok_or(missing("--permit-dir"))?,
        pgdata: pgdata.ok_or(missing("--pgdata"))?,
        margin: Duration::from_millis(margin.ok_or(missing("--margin-ms"))?),
        fast_stop: Duration::from_millis(fast_stop.unwrap_or(FAST_STOP_MS)),
        immediate_stop: Duration::from_millis(immediate_stop.unwrap_or(IMMEDIATE_STOP_MS)),
        program: Program { command: program(arguments)?, identity, log },
    }))
}

fn program(rest: impl Iterator<Item = OsString>) -> Result<Vec<OsString>, UsageError> {
    let command: Vec<OsString> = rest.collect();
    if command.first().is_none_or(|program| program.is_empty()) {
        return Err(UsageError::NoProgram);
    }
    Ok(command)
}

fn number<T: FromStr>(option: &'static str, value: OsString) -> Result<T, UsageError> {
    let parsed = OsStr::to_str(&value).and_then(|text| text.parse().ok());
    parsed.ok_or(UsageError::NotANumber { option, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_full_command_line_is_read() {
        let line = "run --permit-dir /p --pgdata=/d --margin-ms 500 --uid 1 --gid 2 --log /l \
                    --fast-stop-ms 7 -- postgres -D /d -- --uid";
        let Ok(Command::Run(options)) = read(line) else { panic!("{:?}", read(line)) };
        assert_eq!(options.permit_dir, PathBuf::from("/p"));
        assert_eq!(options.pgdata, PathBuf::from("/d"));
        assert_eq!(options.margin, Duration::from_millis(500));
        assert_eq!(options.fast_stop, Duration::from_millis(7));
        assert_eq!(options.immediate_stop, Duration::from_secs(5));
        assert_eq!(options.program.identity, Some((1, 2)));
        assert_eq!(options.program.log, Some(PathBuf::from("/l")));
        assert_eq!(options.program.command, ["postgres", "-D", "/d", "--", "--uid"]);
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        let run = "run --permit-dir /p --pgdata /d --margin-ms 5";
        #[rustfmt::skip]
        let table = [
            (String::new(), "no command given: expected run, --version or --help"),
            ("fly".to_owned(), "unknown argument \"fly\""),
            (run.to_owned(), "no program given: expected -- POSTGRES ARGS... at the end"),
            (format!("{run} --"), "no program given: expected -- POSTGRES ARGS... at the end"),
            (format!("{run} postgres"), "unknown argument \"postgres\""),
            (format!("{run} --log"), "option --log needs a value"),
            (format!("{run} --uid 5 -- x"), "option --gid is missing"),
            (format!("{run} --gid 5 -- x"), "option --uid is missing"),
            (format!("{run} --uid -1 -- x"), "option --uid has the invalid value \"-1\": expected a whole number"),
            ("run --pgdata /d --margin-ms 5 -- x".to_owned(), "option --permit-dir is missing"),
            ("run --permit-dir /p --margin-ms 5 -- x".to_owned(), "option --pgdata is missing"),
            ("run --permit-dir /p --pgdata /d -- x".to_owned(), "option --margin-ms is missing"),
            ("exec x -- y".to_owned(), "option exec has the invalid value \"x\": expected a whole number"),
            ("exec 5 y".to_owned(), "no program given: expected -- POSTGRES ARGS... at the end"),
        ];
        for (line, message) in table {
            assert_eq!(read(&line).map_err(|error| error.to_string()), Err(message.to_owned()));
        }
    }
}
