//! Receives WAL from a primary with `pg_receivewal`, as the standby of this node's name.
//!
//! What it has flushed it acknowledges, and a commit may have waited for just that. So it must be
//! certain when none runs any more: only then may a pledge not to acknowledge be given.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_core::NodeId;
use tokio::time::{Instant, sleep};

use super::WalError;
use super::files::mend_partial;
use crate::attempt::{Attempt, one_line};
use crate::driver::{ActionError, Upstream};
use crate::instance::{Role, RunAs, connection, make_dir, pass_line, write_file};
use crate::process::{end_tools, tools_on};
use crate::tool::{Local, Programs, Tool, ToolError};

const PROGRAM: &str = "pg_receivewal";
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Until when an earlier receiver must be gone when another one begins.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// It is to run for as long as it can.
const YEARS: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How WAL is received.
#[derive(Debug, Clone)]
pub struct ReceiverConfig {
    /// This node: `application_name` and slot name on the upstream.
    pub node: NodeId,
    /// Where `pg_receivewal` is.
    pub bin_dir: PathBuf,
    /// Where the WAL goes; an absolute path. The pass file is beside it: `<dir>.pass`.
    pub dir: PathBuf,
    /// The user to connect as.
    pub replication: Role,
    /// Set when the agent runs as root: the directory is given to that user.
    pub run_as: Option<RunAs>,
}

/// Why receiving ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// The upstream did not let us connect; the password may be the reason, too.
    #[error("could not reach the upstream: {0}")]
    Unreachable(String),
    /// The upstream has no slot of this node's name.
    #[error("the upstream has no replication slot for this node")]
    SlotMissing,
    /// The upstream does not have the WAL any more that would come next, or the slot lost it.
    #[error("the upstream has removed the WAL needed next: {0}")]
    WalRemoved(String),
    /// What is in the directory is not part of the upstream's history, or is ahead of it.
    #[error("the WAL here is not in the upstream's history: {0}")]
    NotInHistory(String),
    /// Somebody else receives under this node's name.
    #[error("the replication slot is in use: {0}")]
    SlotInUse(String),
    /// The directory could not be written.
    #[error("could not write WAL: {0}")]
    Disk(String),
    /// The upstream's major version is newer than the program's.
    #[error("pg_receivewal is of another major version: {0}")]
    OtherMajor(String),
    /// Any other end, such as a lost connection.
    #[error("receiving ended: {0}")]
    Ended(String),
}

/// Runs `pg_receivewal`, at most one at a time on its directory.
#[derive(Debug, Clone)]
pub struct Receiver {
    config: ReceiverConfig,
}

impl Receiver {
    /// Takes the configuration; nothing is done yet.
    #[must_use]
    pub fn new(config: ReceiverConfig) -> Self {
        Self { config }
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &ReceiverConfig {
        &self.config
    }

    /// Receives until that ends by itself. Each piece is flushed and acknowledged at once; changes of
    /// timeline are followed.
    ///
    /// A receiver that is left on the directory is killed first. Dropping the future kills the program
    /// and all it started; [`Self::ended`] tells when they are gone.
    ///
    /// # Errors
    /// Always: why it ended.
    pub async fn run(&self, upstream: &Upstream) -> Result<Infallible, ReceiveError> {
        let left = self.stop_leftovers(Instant::now() + LEFTOVERS).await;
        left.map_err(|error| ReceiveError::Ended(error.to_string()))?;
        let config = self.config.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&config)).await;
        prepared
            .unwrap_or_else(|ended| Err(ended.to_string()))
            .map_err(|why| ReceiveError::Disk(one_line(&why)))?;
        let ReceiverConfig { bin_dir, dir, run_as, .. } = &self.config;
        let local = Local { bin_dir, work_dir: dir, run_as: *run_as };
        let tool = Tool::new(PROGRAM, Programs::Local(local)).args(self.args(upstream));
        let tool = tool.pass_file(&pass_file(dir));
        Err(match tool.run(Instant::now() + YEARS).await {
            Ok(_) => ReceiveError::Ended("the program was told to end".to_owned()),
            Err(ToolError::Failed { errors, why, .. }) => classified(&errors, &why),
            Err(error) => ReceiveError::Ended(error.to_string()),
        })
    }

    /// Returns once no receiver is left on the directory; kills none.
    ///
    /// To be awaited after [`Self::run`] was dropped: from then on nothing more is acknowledged.
    ///
    /// # Errors
    /// [`ActionError::TimedOut`], for instance while the kernel holds the program in a disk write.
    pub async fn ended(&self, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new("see the end of receiving WAL", deadline);
        while !tools_on(&self.config.dir).is_empty() {
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
        Ok(())
    }

    /// Kills every receiver on the directory, whoever started it, and returns once they are gone.
    ///
    /// # Errors
    /// [`ActionError::TimedOut`].
    pub async fn stop_leftovers(&self, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new("stop receiving WAL", deadline);
        end_tools(&self.config.dir, None, &attempt).await
    }

    fn args(&self, upstream: &Upstream) -> Vec<OsString> {
        let ReceiverConfig { node, dir, replication, .. } = &self.config;
        let mut directory = OsString::from("--directory=");
        directory.push(dir);
        let slot = format!("--slot={node}");
        let fixed = ["--synchronous", "--no-loop", "--no-password", "--status-interval=1"];
        let conninfo = connection(&replication.name, &pass_file(dir), upstream, node.as_str());
        let mut args: Vec<OsString> = vec![directory, slot.into()];
        args.extend(fixed.map(OsString::from));
        args.extend(["--verbose", "-d"].map(OsString::from));
        args.push(conninfo.into());
        args
    }
}

fn pass_file(dir: &Path) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push(".pass");
    PathBuf::from(path)
}

fn prepare(config: &ReceiverConfig) -> Result<(), String> {
    let ReceiverConfig { dir, replication, run_as, .. } = config;
    make_dir(dir, *run_as, 0o700)?;
    write_file(
        &pass_file(dir),
        pass_line(replication, &replication.password.preferred()),
        *run_as,
    )?;
    mend_partial(dir).map_err(|error: WalError| error.to_string())
}

/// Says what the program's last words mean.
///
/// # Sources
/// PostgreSQL, `receivelog.c`, `streamutil.c`, `pg_receivewal.c`; `walsender.c: StartReplication`;
/// `slot.c: ReplicationSlotAcquire`.
fn classified(errors: &[String], why: &str) -> ReceiveError {
    const REMOVED: [&str; 4] = [
        "has already been removed",
        "can no longer access replication slot",
        "can no longer get changes from replication slot",
        "slot has been invalidated",
    ];
    const FOREIGN: [&str; 3] = [
        "is not in this server's history",
        "is not present in the server",
        "is ahead of the WAL flush position",
    ];
    const DISK: [&str; 14] = [
        "No space left on device",
        "Read-only file system",
        "Input/output error",
        "Disk quota exceeded",
        "Permission denied",
        "should be 0 or",
        "could not write",
        "could not fsync",
        "could not rename",
        "could not open existing write-ahead log file",
        "could not open write-ahead log file",
        "could not open directory",
        "could not create timeline history file",
        "could not close file",
    ];
    let said = |words: &[&str]| {
        errors.iter().rev().find(|line| words.iter().any(|word| line.contains(word)))
    };
    let text = || one_line(why);
    if said(&["incompatible server version"]).is_some() {
        ReceiveError::OtherMajor(text())
    } else if said(&REMOVED).is_some() {
        ReceiveError::WalRemoved(text())
    } else if errors
        .iter()
        .any(|line| line.contains("replication slot \"") && line.contains("\" does not exist"))
    {
        ReceiveError::SlotMissing
    } else if said(&["is active for PID"]).is_some() {
        ReceiveError::SlotInUse(text())
    } else if said(&FOREIGN).is_some() {
        ReceiveError::NotInHistory(text())
    } else if let Some(line) = said(&["connection to server", "could not connect to server"]) {
        let (_, reason) = line.split_once("error: ").unwrap_or(("", line));
        ReceiveError::Unreachable(one_line(reason))
    } else if said(&DISK).is_some() {
        ReceiveError::Disk(text())
    } else {
        ReceiveError::Ended(text())
    }
}

/// Returns the major version of the `pg_receivewal` in a directory.
///
/// # Errors
/// A text that names what is missing, and how to get it.
pub fn tools(bin_dir: &Path) -> Result<u32, String> {
    let program = bin_dir.join(PROGRAM);
    let hint = "install the PostgreSQL client programs of the same major, such as Debian's \
                postgresql-client-15";
    let answer = std::process::Command::new(&program)
        .arg("--version")
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .output()
        .map_err(|error| format!("cannot run {}: {error}; {hint}", program.display()))?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    major_in(&text).ok_or_else(|| {
        let said = one_line(&text);
        format!("{} does not tell its version: {said:?}; {hint}", program.display())
    })
}

/// Reads `pg_receivewal (PostgreSQL) 15.14 (Debian 15.14-1)`, or `18beta1`.
fn major_in(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Made = fn(String) -> ReceiveError;

    #[test]
    fn the_last_words_of_pg_receivewal_are_understood() {
        let said = |line: &str| {
            let errors = ["pg_receivewal: starting log streaming at 0/3000000 (timeline 1)", line];
            let errors = errors.map(str::to_owned);
            let why = line.split_once("error: ").map_or(line, |(_, why)| why);
            (classified(&errors, why), why.to_owned())
        };
        #[rustfmt::skip]
        let table: [(&str, Made); 14] = [
            ("pg_receivewal: error: connection to server at \"127.0.0.1\", port 1 failed: Connection refused", ReceiveError::Unreachable),
            ("pg_receivewal: error: connection to server at \"h\", port 1 failed: FATAL:  the database system is starting up", ReceiveError::Unreachable),
            ("pg_receivewal: error: replication slot \"n3\" does not exist", |_| ReceiveError::SlotMissing),
            ("pg_receivewal: error: could not send replication command \"START_REPLICATION\": ERROR:  replication slot \"n3\" does not exist", |_| ReceiveError::SlotMissing),
            ("pg_receivewal: error: unexpected termination of replication stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed", ReceiveError::WalRemoved),
            ("pg_receivewal: error: could not send replication command \"START_REPLICATION\": ERROR:  can no longer access replication slot \"n3\"", ReceiveError::WalRemoved),
            ("pg_receivewal: error: could not send replication command \"START_REPLICATION\": ERROR:  requested starting point 0/5000000 on timeline 1 is not in this server's history", ReceiveError::NotInHistory),
            ("pg_receivewal: error: starting timeline 3 is not present in the server", ReceiveError::NotInHistory),
            ("pg_receivewal: error: could not send replication command \"START_REPLICATION\": ERROR:  requested starting point 0/9000000 is ahead of the WAL flush position of this server 0/5000000", ReceiveError::NotInHistory),
            ("pg_receivewal: error: could not send replication command \"START_REPLICATION\": ERROR:  replication slot \"n3\" is active for PID 4711", ReceiveError::SlotInUse),
            ("pg_receivewal: error: could not write 8192 bytes to WAL file \"x\": No space left on device", ReceiveError::Disk),
            ("pg_receivewal: error: write-ahead log file \"x\" has 100 bytes, should be 0 or 16777216", ReceiveError::Disk),
            ("pg_receivewal: error: incompatible server version 18.1; client does not support streaming from server versions newer than 15.14", ReceiveError::OtherMajor),
            ("pg_receivewal: error: could not receive data from WAL stream: server closed the connection unexpectedly", ReceiveError::Ended),
        ];
        for (line, expected) in table {
            let (got, why) = said(line);
            assert_eq!(got, expected(one_line(&why)), "{line}");
        }
    }

    #[test]
    fn a_version_is_read() {
        assert_eq!(major_in("pg_receivewal (PostgreSQL) 15.14 (Debian 15.14-1)\n"), Some(15));
        assert_eq!(major_in("pg_receivewal (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_in("sh: not found"), None);
        let missing = tools(Path::new("/nowhere")).unwrap_err();
        assert!(missing.contains("/nowhere/pg_receivewal") && missing.contains("client-15"));
    }
}
