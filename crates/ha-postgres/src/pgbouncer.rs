//! The admin console of a PgBouncer, and its list of databases.
//!
//! # Sources
//! PgBouncer manual, "Usage", "Process controlling commands" and "Show commands"; "Config", "Section
//! \[databases\]". The messages that are taken for "nothing to do" were read off version 1.18.

pub mod list;

use std::fmt;
use std::path::Path;

use tokio::time::Instant;

use crate::Secret;
use crate::wire::{Connection, Login, WireError};

/// The console's database.
const CONSOLE: &str = "pgbouncer";
/// How long one of its commands that waits for nothing may take.
const COMMAND_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Where a console listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// A name, an address, or the directory of a socket, which begins with a slash.
    host: String,
    port: u16,
}

impl Address {
    /// Returns a console on a TCP port.
    #[must_use]
    pub fn tcp(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    /// Returns a console on a socket; `None` unless that is an absolute path that ends in
    /// `.s.PGSQL.` and a port, as PgBouncer names its sockets.
    #[must_use]
    pub fn socket(path: &str) -> Option<Self> {
        let path = Path::new(path);
        let port = path.file_name()?.to_str()?.strip_prefix(".s.PGSQL.")?.parse().ok()?;
        let host = path.parent()?.to_str()?.to_owned();
        path.is_absolute().then_some(Self { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.starts_with('/') {
            write!(f, "{host}/.s.PGSQL.{port}")
        } else if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    /// Nothing listens there: no client can come in through it either.
    #[error("nothing listens there")]
    Absent,
    /// It could not be asked, did not answer in time, or said no.
    #[error("{0}")]
    Failed(String),
}

impl From<WireError> for ConsoleError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Refused => Self::Absent,
            WireError::TimedOut(during) => Self::Failed(format!("no answer while {during}")),
            WireError::Server { message, .. } => Self::Failed(message),
            error @ (WireError::Lost(_) | WireError::Protocol(_)) => {
                Self::Failed(error.to_string())
            }
        }
    }
}

/// Where a PgBouncer sends the sessions of one of its databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The database's name at the PgBouncer.
    pub database: String,
    /// Host; empty for a socket.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// An open console.
#[derive(Debug)]
pub struct Console(Connection);

impl Console {
    /// Logs in to the console.
    ///
    /// # Errors
    /// [`ConsoleError`]: nothing was changed.
    pub async fn open(
        address: &Address,
        user: &str,
        password: &Secret,
    ) -> Result<Self, ConsoleError> {
        let Address { host, port } = address;
        if host.starts_with('/') && !Path::new(&address.to_string()).exists() {
            return Err(ConsoleError::Absent);
        }
        let login = Login {
            host,
            port: *port,
            user,
            password,
            database: CONSOLE,
            md5: true,
            parameters: Vec::new(),
        };
        Ok(Self(Connection::open(&login, Instant::now() + COMMAND_LIMIT).await?))
    }

    /// Lets transactions under way end, begins no further ones, and closes all connections to the
    /// server; clients wait meanwhile. With `databases` only for those. Paused already is no error.
    ///
    /// # Errors
    /// [`ConsoleError`] if that could not be reached by `deadline`; a part may be paused all the same.
    pub async fn pause(
        &mut self,
        databases: &[String],
        deadline: Instant,
    ) -> Result<(), ConsoleError> {
        for command in commands("PAUSE", databases) {
            let paused = self.0.query(&command, "transactions end", deadline).await;
            settled(paused, "already suspended/paused")?;
        }
        Ok(())
    }

    /// Lets clients go on. Not paused is no error.
    ///
    /// # Errors
    /// [`ConsoleError`]: clients may wait on.
    pub async fn resume(&mut self, databases: &[String]) -> Result<(), ConsoleError> {
        for command in commands("RESUME", databases) {
            let deadline = Instant::now() + COMMAND_LIMIT;
            let resumed = self.0.query(&command, "resuming", deadline).await;
            settled(resumed, "not paused")?;
        }
        Ok(())
    }

    /// Has it read its configuration again.
    ///
    /// # Errors
    /// [`ConsoleError`]: it may have done so.
    pub async fn reload(&mut self) -> Result<(), ConsoleError> {
        let deadline = Instant::now() + COMMAND_LIMIT;
        self.0.query("RELOAD", "reading its configuration", deadline).await?;
        Ok(())
    }

    /// Returns where it sends the sessions of each of its databases, its own console left out.
    ///
    /// # Errors
    /// [`ConsoleError`].
    pub async fn targets(&mut self) -> Result<Vec<Target>, ConsoleError> {
        let deadline = Instant::now() + COMMAND_LIMIT;
        let rows = self.0.query("SHOW DATABASES", "listing its databases", deadline).await?;
        let mut targets = Vec::new();
        for row in rows {
            let database: String = row.value(0)?;
            if database != CONSOLE {
                let host = row.optional(1)?.unwrap_or_default();
                targets.push(Target { database, host, port: row.value(2)? });
            }
        }
        Ok(targets)
    }
}

/// One command for all databases, or one for each that is named.
fn commands(verb: &str, databases: &[String]) -> Vec<String> {
    if databases.is_empty() {
        return vec![verb.to_owned()];
    }
    let quoted = |name: &String| format!("{verb} \"{}\"", name.replace('"', "\"\""));
    databases.iter().map(quoted).collect()
}

/// An answer that contains `done` says that there was nothing to do.
fn settled<T>(answer: Result<T, WireError>, done: &str) -> Result<(), ConsoleError> {
    match answer {
        Ok(_) => Ok(()),
        Err(WireError::Server { message, .. }) if message.contains(done) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_as_pgbouncer_names_it() {
        let address = Address::socket("/run/pgbouncer/.s.PGSQL.6432").expect("a socket");
        assert_eq!(address, Address { host: "/run/pgbouncer".to_owned(), port: 6432 });
        assert_eq!(address.to_string(), "/run/pgbouncer/.s.PGSQL.6432");
        for path in ["", "/run/pgbouncer", "run/.s.PGSQL.6432", "/run/.s.PGSQL.x", "/"] {
            assert_eq!(Address::socket(path), None, "{path}");
        }
        assert_eq!(Address::tcp("::1", 6432).to_string(), "[::1]:6432");
    }

    #[test]
    fn names_are_quoted_in_commands() {
        assert_eq!(commands("PAUSE", &[]), ["PAUSE"]);
        let names = ["orders".to_owned(), "a \"b\"".to_owned()];
        assert_eq!(commands("RESUME", &names), ["RESUME \"orders\"", "RESUME \"a \"\"b\"\"\""]);
    }
}
