//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::plan::{Launching, Plan, Who};

/// What `--help` prints.
pub const HELP: &str = "\
Start, guard and kill one PostgreSQL by the permit alone

Usage: ha-guard run --permit-dir DIR --pgdata DIR --margin-ms N [OPTIONS] -- POSTGRES ARGS...
       ha-guard run --permit-dir DIR --pgdata DIR --launch FILE [OPTIONS]

Options:
      --permit-dir DIR       Directory with the permit and the guard's status
      --pgdata DIR           Data directory of the PostgreSQL
      --margin-ms N          How long before the deadline of its right a primary is killed
      --fast-stop-ms N       How long a fast stop may take [default: 30000]
      --immediate-stop-ms N  How long an immediate stop may take [default: 5000]
      --launch FILE          File with those three, the program and its arguments, written by the
                             agent and read at each start: for a guard that is process 1 of a container
      --user NAME            User of /etc/passwd to run PostgreSQL as
      --uid N --gid N        The same by numbers
      --log FILE             File to append PostgreSQL's output to
      --version              Print the version
      --help                 Print this help

Exit codes: 0 ended as told, 1 failed, 2 wrong usage, 3 another guard has the directory
";

const FAST_STOP: Duration = Duration::from_secs(30);
const IMMEDIATE_STOP: Duration = Duration::from_secs(5);

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
    /// What to start, and within which bounds.
    pub plan: Plan,
    /// Whom to run it as; the guard's own user if absent.
    pub who: Option<Who>,
    /// File that its output is appended to; the guard's own output if absent.
    pub log: Option<PathBuf>,
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
    /// Two options of which only one may be given.
    #[error("option {option} does not go with {other}")]
    Contradiction {
        /// The one.
        option: &'static str,
        /// The other.
        other: &'static str,
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
    let [mut permit_dir, mut pgdata, mut log, mut launch] = [const { None }; 4];
    let [mut margin, mut fast_stop, mut immediate_stop] = [None; 3];
    let [mut uid, mut gid] = [None; 2];
    let (mut user, mut command) = (None, None);
    while let Some(argument) = arguments.next() {
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
            "--" if inline.is_none() => {
                command = Some(program(arguments)?);
                break;
            }
            "--permit-dir" => permit_dir = Some(PathBuf::from(value()?)),
            "--pgdata" => pgdata = Some(PathBuf::from(value()?)),
            "--log" => log = Some(PathBuf::from(value()?)),
            "--launch" => launch = Some(PathBuf::from(value()?)),
            "--margin-ms" => margin = Some(millis("--margin-ms", value()?)?),
            "--fast-stop-ms" => fast_stop = Some(millis("--fast-stop-ms", value()?)?),
            "--immediate-stop-ms" => {
                immediate_stop = Some(millis("--immediate-stop-ms", value()?)?);
            }
            "--user" => user = Some(value()?.to_string_lossy().into_owned()),
            "--uid" => uid = Some(number("--uid", value()?)?),
            "--gid" => gid = Some(number("--gid", value()?)?),
            "--help" | "-h" => return Ok(Command::Help),
            _ => return Err(UsageError::Unknown { argument }),
        }
    }
    let missing = |option| UsageError::Missing { option };
    let who = match (uid, gid, user) {
        (Some(uid), Some(gid), None) => Some(Who::Numbers { uid, gid }),
        (None, None, user) => user.map(Who::Named),
        (Some(_), None, None) => return Err(missing("--gid")),
        (None, Some(_), None) => return Err(missing("--uid")),
        (_, _, Some(_)) => {
            return Err(UsageError::Contradiction { option: "--user", other: "--uid or --gid" });
        }
    };
    let bounds = [margin, fast_stop, immediate_stop];
    let plan = match (launch, command) {
        (Some(file), None) if bounds.iter().all(Option::is_none) => Plan::File(file),
        (Some(_), _) => {
            let other = "a program or its bounds: the file names them";
            return Err(UsageError::Contradiction { option: "--launch", other });
        }
        (None, None) => return Err(UsageError::NoProgram),
        (None, Some(command)) => Plan::Fixed(Launching {
            margin: margin.ok_or(missing("--margin-ms"))?,
            fast_stop: fast_stop.unwrap_or(FAST_STOP),
            immediate_stop: immediate_stop.unwrap_or(IMMEDIATE_STOP),
            command,
        }),
    };
    Ok(Command::Run(Options {
        permit_dir: permit_dir.ok_or(missing("--permit-dir"))?,
        pgdata: pgdata.ok_or(missing("--pgdata"))?,
        plan,
        who,
        log,
    }))
}

fn millis(option: &'static str, value: OsString) -> Result<Duration, UsageError> {
    number(option, value).map(Duration::from_millis)
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
        let command = ["postgres", "-D", "/d", "--", "--uid"].map(OsString::from).to_vec();
        let plan = Plan::Fixed(Launching {
            margin: Duration::from_millis(500),
            fast_stop: Duration::from_millis(7),
            immediate_stop: Duration::from_secs(5),
            command,
        });
        assert_eq!(options.plan, plan);
        assert_eq!(options.who, Some(Who::Numbers { uid: 1, gid: 2 }));
        assert_eq!(options.log, Some(PathBuf::from("/l")));
    }

    #[test]
    fn in_a_container_a_file_says_what_to_start() {
        let line = "run --permit-dir /p --pgdata /d --user postgres --launch /p/launch";
        let Ok(Command::Run(options)) = read(line) else { panic!("{:?}", read(line)) };
        assert_eq!(options.plan, Plan::File("/p/launch".into()));
        assert_eq!(options.who, Some(Who::Named("postgres".to_owned())));
        assert_eq!(options.log, None);
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
            (format!("{run} --launch /l"), "option --launch does not go with a program or its bounds: the file names them"),
            ("run --permit-dir /p --pgdata /d --launch /l -- x".to_owned(), "option --launch does not go with a program or its bounds: the file names them"),
            (format!("{run} --user x --uid 5 -- x"), "option --user does not go with --uid or --gid"),
            ("exec x -- y".to_owned(), "option exec has the invalid value \"x\": expected a whole number"),
            ("exec 5 y".to_owned(), "no program given: expected -- POSTGRES ARGS... at the end"),
        ];
        for (line, message) in table {
            assert_eq!(read(&line).map_err(|error| error.to_string()), Err(message.to_owned()));
        }
    }
}
