//! The front door: one node of the Raft group.
//!
//! ```text
//! open ──▶ service (mounted in the agent's server) ──▶ initialize, once per cluster, on one node
//!      ──▶ state, changed, status                       what to see, and when to look
//!      ──▶ propose, confirm_leadership, transfer_leader  what to do, on the leader only
//! ```
//!
//! Nothing here is forwarded to another node, and nothing is tried twice: the agent decides.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::state::{Command, Outcome};
use ha_proto::v1::raft_server::RaftServer;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardReason, ForwardToLeader,
    InitializeError as RaftInitializeError, LinearizableReadError, RaftError,
};
use openraft::impls::ProgressResponder;
use openraft::{Config, LinearizerOption, ReadPolicy, SnapshotPolicy};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::log_store::{self, LogStore, StoreError, StoreOptions};
use crate::state_machine::StateMachine;
use crate::state_machine::snapshot::Snapshots;
use crate::store_dir::StoreDir;
use crate::transport::{Cut, MESSAGE_BYTES_MAX, MESSAGE_ENTRIES_MAX, Network, Peers, RaftService};
use crate::types::{CommittedLeader, ENTRY_BYTES_MAX, Proposal, TypeConfig, VoterId};

mod errors;
mod replace;
mod status;

pub use errors::{
    ConfirmError, Effect, InitializeError, OpenError, ProposeError, ReplaceError, TransferError,
};
pub use status::{Leadership, RaftStatus};

pub use crate::state_machine::Applied;
pub use crate::types::Member as MemberInfo;

use status::Raft;

/// How long stopping may take, Raft and store each.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How to run one node.
#[derive(Debug, Clone)]
pub struct RaftSettings {
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Where its store is, or shall be.
    pub dir: PathBuf,
    /// Where the nodes' agents listen, `host:port`; comes before what the membership says.
    pub peers: BTreeMap<NodeId, String>,
    /// How often the leader is heard; 100 ms is good. It is also the limit for a follower to sync
    /// its log and answer.
    pub heartbeat: Duration,
    /// A follower campaigns after `election_max` without a leader, plus a random time from
    /// `election_min` to `election_max`; 300 ms and 600 ms are good.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
}

/// A leadership that a majority has confirmed after it was asked for, and whose first entry is
/// applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// The term of that leadership.
    pub term: u64,
}

/// One node of the group. Clones are handles of the same node.
#[derive(Debug, Clone)]
pub struct RaftHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    raft: Raft,
    store: LogStore,
    dir: StoreDir,
    state: watch::Receiver<Arc<Applied>>,
    leadership: watch::Receiver<Leadership>,
    cut: Cut,
    election_min: Duration,
    election_max: Duration,
}

impl RaftHandle {
    /// Opens the store, or makes it, and starts Raft. Needs no peer to be up.
    ///
    /// When this returns, the state holds everything that was known here to be committed before.
    ///
    /// # Errors
    /// [`OpenError`]: the store cannot be used, or the settings contradict each other.
    pub async fn open(settings: RaftSettings) -> Result<Self, OpenError> {
        let config = config(&settings)?;
        let RaftSettings { cluster, node, dir, peers, election_min, election_max, .. } = settings;
        let (dir, store) = log_store::open(&dir, &cluster, &node, StoreOptions::default())
            .await
            .map_err(OpenError::Store)?;
        let peers = Arc::new(Peers::new(cluster, node.clone(), peers));
        let cut = peers.cut().clone();
        match Self::start(config, node, peers, &dir, &store).await {
            Ok((raft, state)) => {
                let (publish, leadership) = watch::channel(Leadership::default());
                let watching =
                    status::watch_leadership(raft.clone(), store.clone(), Arc::new(publish));
                tokio::spawn(watching);
                Ok(Self {
                    inner: Arc::new(Inner {
                        raft,
                        store,
                        dir,
                        state,
                        leadership,
                        cut,
                        election_min,
                        election_max,
                    }),
                })
            }
            Err(e) => {
                store.close().await;
                Err(e)
            }
        }
    }

    async fn start(
        config: Config,
        node: NodeId,
        peers: Arc<Peers>,
        dir: &StoreDir,
        store: &LogStore,
    ) -> Result<(Raft, watch::Receiver<Arc<Applied>>), OpenError> {
        let (path, purged) = (dir.snapshots(), store.purged());
        let opening = tokio::task::spawn_blocking(move || Snapshots::open(&path, purged));
        let snapshots = opening.await.unwrap_or_else(|e| {
            Err(StoreError::Panicked { path: dir.snapshots(), what: e.to_string() })
        });
        let (machine, state) = StateMachine::new(snapshots.map_err(OpenError::Store)?);
        let network = Network::new(peers);
        let raft =
            Raft::new(VoterId(node), Arc::new(config), network, store.clone(), machine).await;
        Ok((raft.map_err(|e| OpenError::Raft { what: e.to_string() })?, state))
    }

    /// Returns the service through which the other nodes talk to this one.
    #[must_use]
    pub fn service(&self) -> RaftServer<RaftService> {
        let service = RaftService::new(self.inner.raft.clone(), self.inner.dir.identity().clone());
        RaftServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Returns the switch that cuts this node off from its peers, for a rehearsed partition. It is Raft's own
    /// messages that it swallows here; whoever owns other lines to the peers cuts those.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.inner.cut.clone()
    }

    /// Returns the random identity of this node's store.
    #[must_use]
    pub fn store_id(&self) -> u128 {
        self.inner.dir.identity().store_id
    }

    /// Returns whether this node is part of a group, or has been asked for a vote by one.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.inner.store.is_initialized()
    }

    /// Begins the group with these members. Exactly one node does this, once per cluster.
    ///
    /// Returns when the first entry is on this node's disk; the election follows. If this future is
    /// dropped, it may or may not have happened.
    ///
    /// # Errors
    /// [`InitializeError`]; its `effect` says whether it may have happened all the same.
    pub async fn initialize(
        &self,
        members: BTreeMap<NodeId, MemberInfo>,
    ) -> Result<(), InitializeError> {
        let Identity { node, store_id: own } = self.identity();
        let Some(named) = members.get(&node).map(|member| member.store_id) else {
            return Err(InitializeError::NotAMember { node });
        };
        if named != own {
            return Err(InitializeError::OtherStore { node, named, own });
        }
        let members: BTreeMap<_, _> =
            members.into_iter().map(|(id, member)| (VoterId(id), member)).collect();
        self.inner.raft.initialize(members).await.map_err(|e| match e {
            RaftError::APIError(RaftInitializeError::NotAllowed(_)) => {
                InitializeError::AlreadyInitialized { node }
            }
            RaftError::APIError(RaftInitializeError::NotInMembers(_)) => {
                InitializeError::NotAMember { node }
            }
            RaftError::Fatal(e) => InitializeError::Stopped { why: self.why(&e) },
        })
    }

    /// Returns the applied state as it is now, and as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<Applied>> {
        self.inner.state.clone()
    }

    /// Returns who leads, to be woken when that changes, or when Raft stops.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Returns this node's place in the group as it is now.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        status::status(status::metrics(&self.inner.raft), &self.inner.store)
    }

    /// Has the group carry out a command, if this node leads it; returns what became of it.
    ///
    /// With `bound_to_term`, only if this node leads in exactly that term: the entry is then of
    /// that term, or there is none. Returns by `limit`. If this future is dropped, the command may
    /// or may not be carried out.
    ///
    /// # Errors
    /// [`ProposeError`]; its `effect` says whether the command may be carried out all the same.
    pub async fn propose(
        &self,
        command: Command,
        bound_to_term: Option<u64>,
        limit: Duration,
    ) -> Result<Outcome, ProposeError> {
        let proposal =
            Proposal(Command::At { at_unix_ms: wall_unix_ms(), command: Box::new(command) });
        let bytes = serde_json::to_vec(&proposal).map_or(usize::MAX, |bytes| bytes.len());
        // What surrounds a command in its entry is a few bytes.
        if bytes > ENTRY_BYTES_MAX - 64 {
            return Err(ProposeError::TooLarge { bytes });
        }
        let (responder, answer) = ProgressResponder::complete_only();
        let mut write = self.inner.raft.write(proposal).responder(responder);
        if let Some(term) = bound_to_term {
            write = write.with_leader(CommittedLeader::new(term));
        }
        let proposing = async {
            write.await?;
            answer.await.map_err(|_| Fatal::Stopped)
        };
        match timeout(limit, proposing).await {
            Err(_) => Err(ProposeError::TimedOut { waited_ms: millis(limit) }),
            Ok(Err(e)) => Err(ProposeError::Stopped { why: self.why(&e) }),
            Ok(Ok(Ok(response))) => Ok(response.data),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(self.not_proposed(forward, bound_to_term))
            }
            Ok(Ok(Err(ClientWriteError::LogEntryDiscarded(forward)))) => {
                Err(ProposeError::LeaderChanged { leader: forward.leader_id.map(|id| id.0) })
            }
            // Only changes of the membership, or with conditions, are answered like this.
            Ok(Ok(Err(e))) => Err(ProposeError::Stopped { why: e.to_string() }),
        }
    }

    fn not_proposed(
        &self,
        forward: ForwardToLeader<TypeConfig>,
        bound_to_term: Option<u64>,
    ) -> ProposeError {
        let leader = forward.leader_id.map(|id| id.0);
        match (forward.reason, bound_to_term) {
            (ForwardReason::LeaseExpired, _) => ProposeError::NotReady,
            (ForwardReason::NotLeader, Some(bound)) if leader.as_ref() == Some(self.node()) => {
                ProposeError::OtherTerm { bound }
            }
            _ => ProposeError::NotLeader { leader },
        }
    }

    /// Asks a majority whether this node still leads, and waits until the state is at least what it
    /// was when the question was asked.
    ///
    /// The round begins after this call, so every later leader is elected after this call. When it
    /// returns, [`RaftHandle::state`] holds everything committed before the call, in particular
    /// what earlier terms left behind. Returns by `limit`. May be dropped: it changes nothing.
    ///
    /// # Errors
    /// [`ConfirmError`]: not leader, no majority in time, or the term is over.
    pub async fn confirm_leadership(&self, limit: Duration) -> Result<Confirmed, ConfirmError> {
        let raft = &self.inner.raft;
        let waited_ms = millis(limit);
        let deadline = Instant::now() + limit;
        let asked = self.leadership_now()?;
        // Never a lease read, and never `ensure_linearizable`, which waits without limit.
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(limit);
        let answer = timeout_at(deadline, raft.get_read_linearizer(option)).await;
        let linearizer = match answer {
            Err(_) => return Err(ConfirmError::NoQuorum { waited_ms }),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                return Err(ConfirmError::NoQuorum { waited_ms });
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                let leader = forward.leader_id.map(|id| id.0);
                return Err(ConfirmError::NotLeader { leader });
            }
            Ok(Err(RaftError::Fatal(e))) => {
                return Err(ConfirmError::Stopped { why: self.why(&e) });
            }
            Ok(Ok(linearizer)) => linearizer,
        };
        let confirmed = linearizer.read_log_id().committed_leader_id().term;
        let rest = deadline.saturating_duration_since(Instant::now());
        match linearizer.try_await_ready(raft, Some(rest)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(ConfirmError::NotApplied { waited_ms }),
            Err(e) => return Err(ConfirmError::Stopped { why: self.why(&e) }),
        }
        // Waiting for the state does not look at leadership again.
        let now = self.leadership_now()?;
        if asked != confirmed || confirmed != now {
            return Err(ConfirmError::TermChanged { asked, now });
        }
        Ok(Confirmed { term: confirmed })
    }

    /// Returns the term in which this node leads.
    fn leadership_now(&self) -> Result<u64, ConfirmError> {
        let metrics = status::metrics(&self.inner.raft);
        let Leadership { leader, term, is_leader, failure } =
            status::leadership(&metrics, &self.inner.store);
        match failure {
            Some(why) => Err(ConfirmError::Stopped { why }),
            None if is_leader => Ok(term),
            None => Err(ConfirmError::NotLeader { leader: leader.filter(|id| id != self.node()) }),
        }
    }

    /// Hands leadership to another voter, and waits until it has it.
    ///
    /// A leader that has told another to take over proposes nothing more, whatever comes of it; so
    /// it is told only if it answers and has every entry. Returns within `election_min` plus twice
    /// `election_max`. If this future is dropped, leadership may or may not move.
    ///
    /// # Errors
    /// [`TransferError`]; its `effect` says whether leadership may have moved all the same.
    pub async fn transfer_leader(&self, to: &NodeId) -> Result<(), TransferError> {
        let begun = Instant::now();
        let Inner { raft, election_min, election_max, .. } = self.inner.as_ref();
        let mut metrics = raft.metrics();
        raft.trigger().heartbeat().await.map_err(|e| self.transfer_stopped(&e))?;
        loop {
            let status = self.status();
            if let Some(why) = status.failure {
                return Err(TransferError::Stopped { why });
            }
            if !status.is_leader {
                return Err(TransferError::NotLeader { leader: status.leader });
            }
            if !status.voters.contains(to) {
                return Err(TransferError::NotAVoter { to: to.clone() });
            }
            if to == self.node() {
                return Ok(());
            }
            // An answer to what was sent after this call, or the node may have died since.
            let heard = status.acked_ago.get(to).copied().flatten();
            let matched = status.matched.get(to).copied().flatten();
            if heard.is_some_and(|ago| ago < begun.elapsed()) && matched == status.last_log {
                break;
            }
            let changed = timeout_at(begun + *election_min, metrics.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                let waited_ms = millis(begun.elapsed());
                return Err(TransferError::TargetBehind { to: to.clone(), waited_ms });
            }
        }
        let mut leadership = self.changed();
        raft.trigger()
            .transfer_leader(VoterId(to.clone()))
            .await
            .map_err(|e| self.transfer_stopped(&e))?;
        let taken = leadership.wait_for(|now| now.leader.as_ref() == Some(to));
        if let Ok(Ok(_)) = timeout(*election_max * 2, taken).await {
            return Ok(());
        }
        let waited_ms = millis(begun.elapsed());
        Err(TransferError::NotTaken { to: to.clone(), waited_ms })
    }

    fn transfer_stopped(&self, e: &Fatal<TypeConfig>) -> TransferError {
        TransferError::Stopped { why: self.why(e) }
    }

    /// Stops Raft and closes the store, each within five seconds. May be called again.
    pub async fn shutdown(&self) {
        match timeout(STOP_LIMIT, self.inner.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "could not stop Raft in order"),
            Err(_) => tracing::error!("could not stop Raft in time"),
        }
        if timeout(STOP_LIMIT, self.inner.store.close()).await.is_err() {
            tracing::error!("could not close the Raft store in time");
        }
    }

    fn node(&self) -> &NodeId {
        &self.inner.dir.identity().node
    }

    fn identity(&self) -> Identity {
        let identity = self.inner.dir.identity();
        Identity { node: identity.node.clone(), store_id: identity.store_id }
    }

    /// Returns why Raft has stopped: the store's own words, if it was the store.
    fn why(&self, e: &Fatal<TypeConfig>) -> String {
        let failure = self.inner.store.failure().borrow().as_deref().map(str::to_owned);
        failure.unwrap_or_else(|| e.to_string())
    }
}

struct Identity {
    node: NodeId,
    store_id: u128,
}

/// The wall clock, milliseconds of Unix time: for people only.
#[expect(clippy::disallowed_methods, reason = "the record says when things happened")]
fn wall_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn config(settings: &RaftSettings) -> Result<Config, OpenError> {
    let config = Config {
        cluster_name: settings.cluster.clone(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election_min),
        election_timeout_max: millis(settings.election_max),
        enable_pre_vote: Some(true),
        // A restarted leader asks for votes like everyone else.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(2000),
        max_in_snapshot_log_to_keep: 500,
        purge_batch_size: 256,
        max_payload_entries: MESSAGE_ENTRIES_MAX as u64,
        // Ours are kilobytes, but their receiver syncs a file and a directory.
        install_snapshot_timeout: 2000,
        backoff: "50ms 100ms ...500ms".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|e| OpenError::Settings { what: e.to_string() })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
