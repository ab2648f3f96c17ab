//! What faults are done to: a cluster with two databases and a witness, however it is run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use crate::bench::faults::Fault;
use crate::bench::stop;
use crate::bench::world;
use crate::bench::writer::Target;
use crate::cluster::SUPERUSER;
use crate::cluster::process::Process;
use crate::cluster::status::Status;
use crate::failure::{Doing as _, Failure, Outcome};

/// How long a cluster may take to become healthy.
const HEALING: Duration = Duration::from_secs(90);
/// How long a session may take to open, and one statement to be answered.
const OPENING: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(15);

/// Where clients are, and whom they write to.
pub(crate) type Clients<T> = (PathBuf, T);

/// How a cluster is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Driver {
    /// Local processes, each node in a network namespace of its own
    #[default]
    Process,
    /// Containers, as `deploy/compose.yaml` makes them
    Compose,
}

impl Driver {
    /// Returns what it is, for the table.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Process => "processes",
            Self::Compose => "containers",
        }
    }

    /// Returns how much longer writes may be gone than with processes (issue 4).
    pub(crate) const fn slack(self) -> Duration {
        match self {
            Self::Process => Duration::ZERO,
            Self::Compose => Duration::from_millis(300),
        }
    }
}

/// A cluster that faults are done to. Nodes are known by their index: the two databases come first.
pub(crate) trait Subject {
    /// Returns the nodes' names.
    fn names(&self) -> Vec<&str>;
    /// Asks the cluster how it is.
    fn status(&self) -> Outcome<Status>;
    /// Fails if a node cannot come back any more.
    fn check(&self) -> Outcome<()>;
    /// Returns where the application is, and how it knows the two databases.
    fn application(&self) -> Outcome<Clients<Vec<Target>>>;
    /// Returns where clients on a database's own host are, and how they know it.
    fn pinned(&self, node: usize) -> Outcome<Clients<Target>>;
    /// Returns how often a node's agent was started again by whoever watches over it.
    fn starts(&self, node: usize) -> u32;
    /// Returns all agents and guards, each with its node's name.
    fn daemons(&self) -> Outcome<Vec<(String, Process)>>;
    /// Brings a fault about on a node.
    fn inject(&mut self, fault: Fault, node: usize) -> Outcome<()>;
    /// Ends it: from here on the node can come back.
    fn end(&mut self, fault: Fault, node: usize) -> Outcome<()>;

    /// Returns which node is primary.
    fn primary(&self, status: &Status) -> Outcome<usize> {
        let name = status.primary().doing(|| format!("there is no primary: {}", status.line()))?;
        let index = self.names().iter().position(|node| *node == name);
        index.doing(|| format!("there is no node {name}"))
    }

    /// Waits until the whole cluster is well.
    fn wait_healthy(&self) -> Outcome<Status> {
        let mut last = Err(Failure::new("nobody was asked"));
        let waited = stop::until("the cluster became healthy", HEALING, || {
            self.check()?;
            last = self.status();
            Ok(last.as_ref().is_ok_and(Status::is_healthy))
        });
        match (waited, last) {
            (Ok(()), status) => status,
            (Err(failure), Ok(status)) => {
                Err(Failure::new(format!("{failure}; it says: {}", status.line())))
            }
            (Err(failure), Err(why)) => Err(Failure::new(format!("{failure}; {why}"))),
        }
    }

    /// Waits until the whole cluster is well and every other node acknowledges the primary's commits.
    fn wait_acknowledging(&self) -> Outcome<Status> {
        let mut last = None;
        let waited = stop::until("every node acknowledges", HEALING, || {
            let status = self.wait_healthy()?;
            let all = status.all_acknowledge();
            last = Some(status);
            Ok(all)
        });
        match (waited, last) {
            (Ok(()), Some(status)) => Ok(status),
            (Ok(()), None) => Err(Failure::new("nobody was asked")),
            (Err(failure), Some(status)) => Err(Failure::new(format!(
                "{failure}; of {:?} only {:?} do",
                status.members, status.acknowledging
            ))),
            (Err(failure), None) => Err(failure),
        }
    }

    /// Runs SQL on a node and returns the lines of its result, columns joined by `|`.
    fn sql(&self, node: usize, statement: &str) -> Outcome<Vec<String>> {
        let (network, targets) = self.application()?;
        sql(&network, &targets[node], statement)
    }

    /// Returns which of the values from `from` to `to` are there, asking the node with this index.
    fn present(&self, node: usize, from: i64, to: i64) -> Outcome<BTreeSet<i64>> {
        let query = format!("select value from haclt_bench where value between {from} and {to}");
        Ok(self.sql(node, &query)?.iter().filter_map(|line| line.parse().ok()).collect())
    }
}

/// Runs SQL from a place and returns the lines of its result, columns joined by `|`.
pub(crate) fn sql(network: &Path, target: &Target, statement: &str) -> Outcome<Vec<String>> {
    thread::scope(|scope| {
        // A thread of its own: it stays in that network.
        let asked = scope.spawn(|| {
            world::enter(network)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.doing(|| "could not start a client".to_owned())?;
            runtime.block_on(async {
                let answer = timeout(ANSWER, ask(target, statement)).await;
                answer.unwrap_or_else(|_| Err(Failure::new("the database did not answer")))
            })
        });
        asked.join().unwrap_or_else(|_| Err(Failure::new("a client panicked")))
    })
}

async fn ask(target: &Target, statement: &str) -> Outcome<Vec<String>> {
    let mut config = Config::new();
    config.host(target.address.ip().to_string()).port(target.address.port());
    config.user(SUPERUSER).password(&target.password).dbname("postgres");
    config.application_name("haclt-bench").connect_timeout(OPENING);
    let doing = || format!("could not ask the database on {}", target.address);
    let (client, connection) = config.connect(NoTls).await.doing(doing)?;
    let connection = tokio::spawn(connection);
    let answer = client.simple_query(statement).await.map_err(|error| {
        let said = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        Failure::new(format!("{}: {said}", doing()))
    });
    connection.abort();
    let lines = answer?.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let columns: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("")).collect();
            Some(columns.join("|"))
        }
        _ => None,
    });
    Ok(lines.collect())
}
