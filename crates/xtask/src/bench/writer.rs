//! The clients. Each holds its sessions and tries to write every 20 ms.
//!
//! The application keeps a session to each of the two nodes, as a pool with two hosts does, and
//! writes to whichever accepts writes: a session to a standby only asks whether it is one still. So
//! the gap it sees is the cluster's, not that of a client that waits for a dead server. The pinned
//! clients sit on the old primary's host and know only that; they are there to catch a node that
//! acknowledges when it may not any more.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

use crate::bench::stats::{Ack, Client, Unanswered};
use crate::bench::world;
use crate::cluster::SUPERUSER;
use crate::failure::{Doing as _, Failure, Outcome};

/// How often each session tries.
pub(crate) const PACE: Duration = Duration::from_millis(20);
/// How long opening a session may take.
const OPENING: Duration = Duration::from_millis(500);
/// How long the application waits for an answer, unless told otherwise: the other session does not
/// wait for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the pinned clients do: longer than any fault, so that their sessions are from before it.
const PINNED_PATIENCE: Duration = Duration::from_secs(90);
/// Sessions of the pinned client.
const PINNED_SESSIONS: usize = 2;

/// Makes the table.
pub(crate) const TABLE: &str = "create table if not exists haclt_bench \
    (value bigint primary key, at timestamptz not null default clock_timestamp())";

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Journal {
    origin: Instant,
    next: AtomicI64,
    acks: Mutex<Vec<Ack>>,
    unanswered: Mutex<Vec<Unanswered>>,
}

impl Journal {
    /// Returns an empty journal. Its clock starts now.
    pub(crate) fn new() -> Arc<Self> {
        let (acks, unanswered) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Arc::new(Self { origin: Instant::now(), next: AtomicI64::new(1), acks, unanswered })
    }

    /// Returns the time on the journal's clock.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Returns what was acknowledged so far.
    pub(crate) fn acks(&self) -> Vec<Ack> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what was not answered so far.
    pub(crate) fn unanswered(&self) -> Vec<Unanswered> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was acknowledged and what was not answered; values go on counting.
    pub(crate) fn clear(&self) {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn note_unanswered(&self, lost: Unanswered) {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).push(lost);
    }

    fn note(&self, ack: Ack) {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
    }
}

/// A server to write to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Index of its node.
    pub(crate) node: usize,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The superuser's password.
    pub(crate) password: String,
}

/// Running clients; they stop when this is dropped.
#[derive(Debug)]
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Outcome<()>>>,
}

impl Writers {
    /// Returns a set without any client.
    pub(crate) fn none() -> Self {
        Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() }
    }

    /// Starts the application in a network: one session to each target.
    pub(crate) fn start_app(&mut self, journal: &Arc<Journal>, network: PathBuf, to: &[Target]) {
        self.start_patient(journal, network, to, PATIENCE);
    }

    /// The same, with clients that wait so long for an answer.
    pub(crate) fn start_patient(
        &mut self,
        journal: &Arc<Journal>,
        network: PathBuf,
        to: &[Target],
        patience: Duration,
    ) {
        self.start(journal, network, to.to_vec(), Client::App, patience);
    }

    /// Starts the pinned clients in a network.
    pub(crate) fn start_pinned(&mut self, journal: &Arc<Journal>, network: PathBuf, to: &Target) {
        let targets = vec![to.clone(); PINNED_SESSIONS];
        self.start(journal, network, targets, Client::Pinned, PINNED_PATIENCE);
    }

    fn start(
        &mut self,
        journal: &Arc<Journal>,
        network: PathBuf,
        targets: Vec<Target>,
        client: Client,
        patience: Duration,
    ) {
        let (stop, journal) = (self.stop.clone(), journal.clone());
        self.threads.push(thread::spawn(move || {
            world::enter(&network)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.doing(|| "could not start a client".to_owned())?;
            let lanes = targets.into_iter().map(|target| Lane {
                journal: journal.clone(),
                target,
                client,
                patience,
                stop: stop.clone(),
            });
            let local = tokio::task::LocalSet::new();
            lanes.for_each(|lane| drop(local.spawn_local(lane.run())));
            runtime.block_on(async {
                let mut ticks = interval(PACE);
                local
                    .run_until(async {
                        while !stop.load(Ordering::Relaxed) {
                            ticks.tick().await;
                        }
                    })
                    .await;
            });
            Ok(())
        }));
    }

    /// Stops all clients and says whether one could not even start.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|_| Err(Failure::new("a client panicked")))?;
        }
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// One session to one server, opened again whenever it broke.
struct Lane {
    journal: Arc<Journal>,
    target: Target,
    client: Client,
    patience: Duration,
    stop: Arc<AtomicBool>,
}

/// How an attempt to write ended.
enum Wrote {
    Acknowledged(i64),
    /// The server is a standby.
    Refused,
    /// No answer or an error: it may have been written or not.
    Unknown,
}

impl Lane {
    async fn run(self) {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut session = None;
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            if session.is_none() {
                session = timeout(OPENING, Session::open(&self.target)).await.ok().flatten();
            }
            let Some(open) = &mut session else { continue };
            let sent = self.journal.now();
            match timeout(self.patience, open.write(&self.journal)).await {
                Ok(Wrote::Acknowledged(value)) => self.journal.note(Ack {
                    value,
                    node: self.target.node,
                    client: self.client,
                    sent,
                    at: self.journal.now(),
                }),
                Ok(Wrote::Refused) => {}
                Ok(Wrote::Unknown) | Err(_) => {
                    let (node, at) = (self.target.node, self.journal.now());
                    self.journal.note_unanswered(Unanswered { node, sent, at });
                    session = None;
                }
            }
        }
    }
}

struct Session {
    client: tokio_postgres::Client,
    insert: tokio_postgres::Statement,
    is_standby: bool,
    connection: tokio::task::JoinHandle<()>,
}

impl Session {
    async fn open(target: &Target) -> Option<Self> {
        let mut config = Config::new();
        config
            .host(target.address.ip().to_string())
            .port(target.address.port())
            .user(SUPERUSER)
            .password(&target.password)
            .dbname("postgres")
            .application_name("haclt-bench")
            .connect_timeout(OPENING);
        let (client, connection) = config.connect(NoTls).await.ok()?;
        let connection = tokio::task::spawn_local(async move { drop(connection.await) });
        let insert = client.prepare("insert into haclt_bench (value) values ($1)").await;
        let Ok(insert) = insert else {
            connection.abort();
            return None;
        };
        Some(Self { client, insert, is_standby: false, connection })
    }

    async fn write(&mut self, journal: &Journal) -> Wrote {
        if self.is_standby {
            match self.client.query_one("select pg_is_in_recovery()", &[]).await {
                Ok(row) => self.is_standby = row.try_get(0).unwrap_or(true),
                Err(_) => return Wrote::Unknown,
            }
            if self.is_standby {
                return Wrote::Refused;
            }
        }
        let value = journal.next.fetch_add(1, Ordering::Relaxed);
        match self.client.execute(&self.insert, &[&value]).await {
            Ok(_) => Wrote::Acknowledged(value),
            Err(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                self.is_standby = true;
                Wrote::Refused
            }
            Err(_) => Wrote::Unknown,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A connection into the void would linger for as long as TCP keeps trying.
        self.connection.abort();
    }
}
