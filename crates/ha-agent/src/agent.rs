//! What the tasks of one agent share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha_core::candidate::Refusal;
use ha_core::granter::Granter;
use ha_core::holder::Holder;
use ha_core::state::{Command, Outcome, State};
use ha_core::{BootId, Epoch, Incarnation, NodeId, WalPosition};
use ha_postgres::driver::Upstream;
use ha_postgres::wal::files::Tip;
use ha_proto::v1::{ProposeRequest, QuorumReport, ReportReply, propose_reply};
use ha_raft::{ProposeError, RaftHandle};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::Config;
use crate::drill;
use crate::facts::Facts;
use crate::hooks::Hooks;
use crate::peers::{PeerError, Peers};
use crate::permit_book::PermitBook;
use crate::pgbouncer::Bouncers;
use crate::pledge::Pledge;
use crate::switchover::Operation;
use crate::witness::Witness;

/// One agent: what its tasks share.
#[derive(Debug)]
pub struct Agent<D> {
    /// The configuration, which never changes while the agent runs.
    pub config: Config,
    /// This start of the agent.
    pub incarnation: Incarnation,
    /// This boot of the machine.
    pub boot: BootId,
    /// Raft.
    pub raft: RaftHandle,
    /// The other agents.
    pub peers: Peers,
    /// The database; `None` on a witness.
    pub database: Option<Database<D>>,
    /// What keeps WAL; `None` on a data node.
    pub witness: Option<Witness>,
    /// Of which epochs this node acknowledges nothing any more.
    pub pledge: Arc<Pledge>,
    /// Held while this node begins to receive WAL, or makes sure that it does not: a pledge must not
    /// come between the decision to follow a primary and the act.
    pub receiving: Arc<tokio::sync::Mutex<()>>,
    /// What this node last vouched for in an election, and of which epoch. Nothing is added to it under
    /// that epoch or an earlier one.
    pub vouched: Arc<Mutex<Option<(Epoch, Tip)>>>,
    /// What the primary knows of its acknowledgers; `None` on every other node.
    pub quorum: Mutex<Option<QuorumReport>>,
    /// Major version of the database's binaries, such as 15.
    pub postgres_major: Option<u32>,
    /// How long this node may be primary; `None` while it was granted nothing that it may renew.
    pub holder: Mutex<Option<Holder>>,
    /// When the lease may be given to another, while this node leads.
    pub granter: Mutex<Granter>,
    /// The latest report of each other node.
    pub sightings: Mutex<BTreeMap<NodeId, Sighting>>,
    /// The primary's end of WAL as its latest renewal told this node, and under which epoch.
    pub last_known: Mutex<Option<(Epoch, WalPosition)>>,
    /// Why nobody was elected the last time.
    pub last_refusals: Mutex<BTreeMap<NodeId, Refusal>>,
    /// The latest switchover from this node.
    pub switchover: watch::Sender<Option<Operation>>,
    /// Held while a password of this node is changed.
    pub credentials: tokio::sync::Mutex<()>,
    /// Held while this node leads a change of passwords.
    pub rotating: Arc<tokio::sync::Mutex<()>>,
    /// What this agent has to do with drills.
    pub drills: Arc<drill::Here>,
    /// Programs of the operator.
    pub hooks: Hooks,
    /// PgBouncers that follow the primary.
    pub bouncers: Bouncers,
    /// Wakes the control loop.
    pub wake: Notify,
    /// Wakes the lease keeper.
    pub renew_now: Notify,
    /// Wakes the quorum's keeper.
    pub quorum_now: Notify,
    /// Wakes the prober.
    pub probe_now: Notify,
    /// When the control loop last ran, `CLOCK_BOOTTIME` nanoseconds.
    pub looped_at: AtomicU64,
    /// Whether the cluster knows another Raft store under this node's name, and this one is new.
    pub is_stranger: AtomicBool,
    /// Set once the agent was told to stop.
    pub leaving: AtomicBool,
    /// The pause that the latest confirmed renewal told of, by its number; 0 for none.
    pub pause_seen: AtomicU64,
    /// Set while the end of a pause is being confirmed.
    pub confirming: AtomicBool,
    /// Held while a support bundle is collected: one at a time.
    pub collecting: Arc<tokio::sync::Semaphore>,
    next_request: AtomicU64,
}

/// The database of a data node.
#[derive(Debug)]
pub struct Database<D> {
    /// How it is run.
    pub driver: Arc<D>,
    /// What its guard may do.
    pub permits: PermitBook<D>,
    /// What was seen of it.
    pub facts: Mutex<Facts>,
}

/// What was last heard of another node.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// When it was asked last.
    pub asked: Instant,
    /// When it answered last, and what.
    pub answered: Option<(Instant, ReportReply)>,
    /// Why it did not answer the last time; `None` if it did.
    pub error: Option<String>,
}

impl Sighting {
    /// Returns the report, if the node answered the last time it was asked.
    #[must_use]
    pub fn current(&self) -> Option<&ReportReply> {
        match (&self.error, &self.answered) {
            (None, Some((_, report))) => Some(report),
            _ => None,
        }
    }
}

/// Why a command of the replicated state has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// No Raft leader could be asked, or it refused before doing anything.
    #[error("no Raft leader took it: {0}")]
    NotTaken(String),
    /// It may have been carried out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

impl<D> Agent<D> {
    /// Puts an agent together.
    pub fn new(
        config: Config,
        boot: BootId,
        raft: RaftHandle,
        peers: Peers,
        database: Option<Database<D>>,
        postgres_major: Option<u32>,
        pledge: Pledge,
    ) -> Self {
        let witness = Witness::new(&config);
        let granter = Granter::new(config.policy.drift);
        let (hooks, bouncers) = (Hooks::new(&config), Bouncers::new(&config));
        Self {
            config,
            incarnation: Incarnation(crate::clock::random()),
            boot,
            raft,
            peers,
            database,
            witness,
            pledge: Arc::new(pledge),
            receiving: Arc::default(),
            vouched: Arc::default(),
            quorum: Mutex::new(None),
            postgres_major,
            holder: Mutex::new(None),
            granter: Mutex::new(granter),
            sightings: Mutex::new(BTreeMap::new()),
            last_known: Mutex::new(None),
            last_refusals: Mutex::new(BTreeMap::new()),
            switchover: watch::Sender::new(None),
            credentials: tokio::sync::Mutex::default(),
            rotating: Arc::default(),
            drills: Arc::default(),
            hooks,
            bouncers,
            wake: Notify::new(),
            renew_now: Notify::new(),
            quorum_now: Notify::new(),
            probe_now: Notify::new(),
            looped_at: AtomicU64::new(0),
            is_stranger: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            pause_seen: AtomicU64::new(0),
            confirming: AtomicBool::new(false),
            collecting: Arc::new(tokio::sync::Semaphore::new(1)),
            next_request: AtomicU64::new(1),
        }
    }

    /// Returns this node's name.
    pub fn node(&self) -> &NodeId {
        &self.config.node
    }

    /// Returns the replicated state as applied on this node.
    pub fn state(&self) -> State {
        self.raft.state().borrow().state.clone()
    }

    /// Returns a request id that this start of the agent never used.
    pub fn next_request(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns whether the agent was told to stop.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Returns every node, and where its agent listens; what the configuration says of that comes first.
    ///
    /// Before there is a group these are the voters of the configuration; afterwards the group's members, and the
    /// nodes that the cluster knows: one of them may be out of the group while its store is replaced.
    pub fn members(&self) -> BTreeMap<NodeId, String> {
        let status = self.raft.status();
        if !self.raft.is_initialized() || status.members.is_empty() {
            return self.config.peers.clone();
        }
        let state = self.state();
        let known = state.nodes.iter().map(|(node, is)| (node, &is.grpc));
        let voting = status.members.iter().map(|(node, member)| (node, &member.grpc));
        let address = |(node, told): (&NodeId, &String)| {
            (node.clone(), self.config.peers.get(node).unwrap_or(told).clone())
        };
        voting.chain(known).map(address).collect()
    }

    /// Returns the other nodes.
    pub fn others(&self) -> Vec<NodeId> {
        self.members().into_keys().filter(|node| *node != self.config.node).collect()
    }

    /// Returns where a node's Postgres listens, by the replicated state.
    pub fn upstream(&self, node: &NodeId) -> Option<Upstream> {
        let state = self.state();
        let address = &state.nodes.get(node)?.postgres;
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Upstream { node: node.clone(), host, port: port.parse().ok()? })
    }

    /// Hands a command to whoever leads, within `limit`. Not bound to a term, and tried again when an
    /// answer is lost: for commands that are compare-and-swap by themselves. A second try may be refused
    /// because the first one was carried out.
    ///
    /// # Errors
    /// [`SubmitError`]: says whether the command may have been carried out.
    pub async fn submit(&self, command: Command, limit: Duration) -> Result<Outcome, SubmitError> {
        let until = Instant::now() + limit;
        let mut last = "no Raft leader is known".to_owned();
        let mut maybe_done = false;
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            match self.submit_once(&command, left).await {
                Ok(outcome) => return Ok(outcome),
                Err(SubmitError::NotTaken(_)) if maybe_done => {}
                Err(SubmitError::NotTaken(why)) => last = why,
                Err(SubmitError::Unknown(why)) => {
                    maybe_done = true;
                    last = why;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(if maybe_done { SubmitError::Unknown(last) } else { SubmitError::NotTaken(last) })
    }

    async fn submit_once(
        &self,
        command: &Command,
        limit: Duration,
    ) -> Result<Outcome, SubmitError> {
        let leader = self.raft.status().leader;
        match leader {
            None => Err(SubmitError::NotTaken("no Raft leader is known".to_owned())),
            Some(leader) if leader == *self.node() => self
                .raft
                .propose(command.clone(), None, limit)
                .await
                .map_err(|error| submit_error(&error)),
            Some(leader) => self.submit_to(&leader, command, limit).await,
        }
    }

    async fn submit_to(
        &self,
        leader: &NodeId,
        command: &Command,
        limit: Duration,
    ) -> Result<Outcome, SubmitError> {
        let command = serde_json::to_vec(command)
            .map_err(|error| SubmitError::NotTaken(error.to_string()))?;
        let cluster = self.config.cluster.clone();
        let request = ProposeRequest { cluster, from: self.node().to_string(), command };
        let reply = match self.peers.propose(leader, request, limit).await {
            Ok(reply) => reply,
            Err(error @ PeerError::Unknown(_)) => {
                return Err(SubmitError::NotTaken(error.to_string()));
            }
            Err(error) => return Err(SubmitError::Unknown(error.to_string())),
        };
        match reply.answer {
            Some(propose_reply::Answer::Outcome(json)) => serde_json::from_slice(&json)
                .map_err(|error| SubmitError::Unknown(format!("malformed outcome: {error}"))),
            Some(propose_reply::Answer::NotLeader(_)) => {
                Err(SubmitError::NotTaken(format!("node {leader} does not lead")))
            }
            Some(propose_reply::Answer::Failed(why)) => Err(SubmitError::NotTaken(why)),
            Some(propose_reply::Answer::Unknown(why)) => Err(SubmitError::Unknown(why)),
            None => Err(SubmitError::Unknown(format!("node {leader} gave an empty answer"))),
        }
    }
}

impl<D> Database<D> {
    /// Returns what was seen of the database.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        lock(&self.facts)
    }
}

/// Locks, going on after a panic elsewhere: a broken invariant ends the agent anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sorts a failed proposal by whether it may have been carried out.
#[must_use]
pub fn submit_error(error: &ProposeError) -> SubmitError {
    match error.effect() {
        ha_raft::Effect::None => SubmitError::NotTaken(error.to_string()),
        ha_raft::Effect::Unknown => SubmitError::Unknown(error.to_string()),
    }
}
