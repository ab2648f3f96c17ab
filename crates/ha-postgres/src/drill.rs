//! The client of a drill: numbered rows, written one by one to whoever takes them, and read back.

use ha_core::NodeId;
use tokio::time::Instant;

use crate::driver::Upstream;
use crate::instance::Role;
use crate::sql;
use crate::wire::{Connection, WireError};

/// The drill's schema, made for it and dropped afterwards.
pub const SCHEMA: &str = "haclt_drill";
/// The table in it.
pub const TABLE: &str = "haclt_drill.writes";

/// What became of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The server said that it is committed.
    Acknowledged,
    /// It was not done: the server said no, in these words.
    Refused(String),
    /// Nobody knows: the connection was lost, or no answer came in time.
    Unknown(String),
}

/// One connection of the drill's client.
#[derive(Debug)]
pub struct Writer {
    node: NodeId,
    connection: Connection,
}

impl Writer {
    /// Logs in to a node's server.
    ///
    /// Every write of this session waits for the quorum, whatever the user's own settings are, and none of the
    /// server's limits breaks a wait off: PostgreSQL would say then that it is committed.
    ///
    /// # Errors
    /// Why not, in one line; nothing was written.
    pub async fn open(role: &Role, at: &Upstream, deadline: Instant) -> Result<Self, String> {
        let settings = [
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_session_timeout", "0"),
            ("synchronous_commit", "on"),
            ("default_transaction_read_only", "off"),
        ];
        let opened = sql::open(&at.host, at.port, role, &settings, deadline).await;
        let connection = opened.map_err(|error| error.to_string())?;
        Ok(Self { node: at.node.clone(), connection })
    }

    /// Returns whose server it is.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Writes one row. After anything but [`Written::Acknowledged`] the connection is of no use any more.
    pub async fn write(&mut self, number: u64, deadline: Instant) -> Written {
        let statement = format!("INSERT INTO {TABLE} VALUES ({number})");
        judged(self.connection.query(&statement, "writing", deadline).await.map(drop))
    }

    /// Returns the rows that are there, in order; refuses on a server in recovery, which may lack some.
    ///
    /// # Errors
    /// Why not, in one line.
    pub async fn rows(&mut self, deadline: Instant) -> Result<Vec<u64>, String> {
        let said = |error: WireError| error.to_string();
        let recovery = "SELECT pg_is_in_recovery()";
        let answer = self.connection.query(recovery, "asking for the role", deadline).await;
        if answer.map_err(said)?.first().is_none_or(|row| row.flag(0) != Ok(false)) {
            return Err(format!("node {} is not primary", self.node));
        }
        let all = format!("SELECT n FROM {TABLE} ORDER BY n");
        let rows = self.connection.query(&all, "reading back", deadline).await.map_err(said)?;
        rows.iter().map(|row| row.value(0)).collect::<Result<_, _>>().map_err(said)
    }
}

/// Sorts the answer to a write. A server that is going away may have committed before it said so.
///
/// # Sources
/// PostgreSQL manual, "PostgreSQL Error Codes": class 57 is operator intervention.
fn judged(answer: Result<(), WireError>) -> Written {
    match answer {
        Ok(()) => Written::Acknowledged,
        Err(error @ WireError::Server { .. }) => {
            let text = error.to_string();
            if error.code().is_some_and(|code| code.starts_with("57")) {
                Written::Unknown(text)
            } else {
                Written::Refused(text)
            }
        }
        Err(error) => Written::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_no_of_the_server_means_that_nothing_was_written() {
        let server =
            |code: &str| WireError::Server { code: code.to_owned(), message: "m".to_owned() };
        assert_eq!(judged(Ok(())), Written::Acknowledged);
        for code in ["25006", "53100", "42P01"] {
            assert!(matches!(judged(Err(server(code))), Written::Refused(_)), "{code}");
        }
        let lost = [server("57P01"), server("57014"), WireError::TimedOut("writing")];
        for error in lost.into_iter().chain([WireError::Lost("closed".to_owned())]) {
            assert!(matches!(judged(Err(error.clone())), Written::Unknown(_)), "{error:?}");
        }
    }
}
