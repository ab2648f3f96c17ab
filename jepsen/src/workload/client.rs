//! Sessions of clients, and what an error says about a transaction.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::poll_fn;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use crate::env::Database;
use crate::random::Random;

/// The clients' user: no superuser, as in real life.
pub const USER: &str = "jepsen";
/// Its password.
pub const PASSWORD: &str = "jepsen-Secret-of-tests";
/// How long one server may take until it has let a client in.
const CONNECT_LIMIT: Duration = Duration::from_millis(1500);

/// How databases are reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// All databases.
    pub databases: Vec<Database>,
    /// The file with the superuser's password.
    pub superuser_file: PathBuf,
}

/// To whom a client goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// This node, whatever its role.
    Node(Database),
    /// Whoever accepts writes.
    Writable,
}

/// A session that is open.
#[derive(Debug)]
pub struct Session {
    /// What statements go through.
    pub client: Client,
    /// The node that answers.
    pub node: String,
    commit_sent: AtomicBool,
    unconfirmed: Arc<AtomicBool>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending<T> {
    /// It was acknowledged.
    Ok(T),
    /// It did not happen.
    Fail(String),
    /// Nobody knows.
    Info(String),
}

impl Access {
    /// Opens a session; none if nobody lets the client in. Servers are tried in an order of chance.
    pub async fn open(&self, door: &Door, random: &mut Random) -> Option<Session> {
        match door {
            Door::Node(database) => open(database, TargetSessionAttrs::Any).await,
            Door::Writable => {
                let mut left: Vec<&Database> = self.databases.iter().collect();
                while let Some(database) = random.pick(&left).copied() {
                    let session = open(database, TargetSessionAttrs::ReadWrite).await;
                    if session.is_some() {
                        return session;
                    }
                    left.retain(|other| *other != database);
                }
                None
            }
        }
    }

    /// Opens a session of the superuser.
    pub async fn superuser(&self, database: &Database) -> Option<Client> {
        let password = ha_tests::node::superuser_password(&self.superuser_file);
        let mut config = config(database, "postgres", &password);
        config.application_name("jepsen-operator");
        let connecting = config.connect(NoTls);
        let (client, connection) =
            tokio::time::timeout(CONNECT_LIMIT, connecting).await.ok()?.ok()?;
        tokio::spawn(connection);
        Some(client)
    }
}

fn config(database: &Database, user: &str, password: &str) -> Config {
    let mut config = Config::new();
    config.host(&database.host).port(database.port).user(user).password(password);
    config.dbname("postgres").connect_timeout(CONNECT_LIMIT);
    config
}

async fn open(database: &Database, wanted: TargetSessionAttrs) -> Option<Session> {
    let mut config = config(database, USER, PASSWORD);
    config.target_session_attrs(wanted).application_name("jepsen");
    let connecting = config.connect(NoTls);
    let (client, mut connection) =
        tokio::time::timeout(CONNECT_LIMIT, connecting).await.ok()?.ok()?;
    let unconfirmed = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&unconfirmed);
    tokio::spawn(async move {
        // The messages of a server come in their order: the flag is set before the answer is seen.
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message
                && notice.message().contains("wait for synchronous replication")
            {
                noted.store(true, Ordering::SeqCst);
            }
        }
    });
    let node = database.node.clone();
    Some(Session { client, node, commit_sent: AtomicBool::new(false), unconfirmed })
}

impl Session {
    /// Notes that what is sent next may commit.
    pub fn commits(&self) {
        self.commit_sent.store(true, Ordering::SeqCst);
    }

    /// Runs a transaction and says how it ended. After anything but a refusal the session is of no use.
    pub async fn attempt<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Ending<T> {
        self.commit_sent.store(false, Ordering::SeqCst);
        self.unconfirmed.store(false, Ordering::SeqCst);
        let ended = tokio::time::timeout(limit, work).await;
        let sent = self.commit_sent.load(Ordering::SeqCst);
        if self.unconfirmed.load(Ordering::SeqCst) {
            return Ending::Info("the wait for the quorum was cancelled".to_owned());
        }
        match ended {
            Ok(Ok(value)) => Ending::Ok(value),
            Ok(Err(error)) => {
                let code = error.code().map(|code| code.code().to_owned());
                let text = ha_tests::node::said(&error);
                let text = code.as_ref().map_or_else(|| text.clone(), |c| format!("{c} {text}"));
                if !sent || code.is_some_and(|code| is_refusal(&code)) {
                    Ending::Fail(text)
                } else {
                    Ending::Info(text)
                }
            }
            // What was never told to commit is rolled back when the connection closes.
            Err(_) if !sent => Ending::Fail(format!("no answer in {limit:?}, never committed")),
            Err(_) => Ending::Info(format!("no answer in {limit:?}")),
        }
    }

    /// Runs `text`, then whatever it is in.
    ///
    /// # Errors
    /// What the server says.
    pub async fn batch(&self, text: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(text).await
    }

    /// Commits.
    ///
    /// # Errors
    /// What the server says.
    pub async fn commit(&self) -> Result<(), tokio_postgres::Error> {
        self.commits();
        self.client.batch_execute("commit").await
    }
}

/// Returns whether an error of this SQLSTATE means that the transaction did not happen, even if it had been
/// told to commit. What is not in this list is not known.
///
/// Appendix A of PostgreSQL's manual. A server that ends (57P01, 57P02) may have written the commit before; a
/// lost connection (class 08) and an internal error (class XX) say nothing. 57014 is a statement that was
/// cancelled; a wait for the quorum that is cancelled gives a warning instead.
pub fn is_refusal(code: &str) -> bool {
    const CODES: [&str; 6] = [
        "57014", // query_canceled
        "57P03", // cannot_connect_now
        "55P03", // lock_not_available
        "40001", // serialization_failure
        "40P01", // deadlock_detected
        "53300", // too_many_connections
    ];
    // Data, constraints, transaction state (25006: read-only), authorization, syntax and names.
    const CLASSES: [&str; 6] = ["22", "23", "25", "28", "3D", "42"];
    CODES.contains(&code) || CLASSES.iter().any(|class| code.starts_with(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_errors_say_that_nothing_happened() {
        for refusal in ["25006", "40001", "40P01", "23505", "57014", "57P03", "42P01"] {
            assert!(is_refusal(refusal), "{refusal}");
        }
        for unknown in ["57P01", "57P02", "08006", "08007", "XX000", "40003", "58030", "53100"] {
            assert!(!is_refusal(unknown), "{unknown}");
        }
    }
}
