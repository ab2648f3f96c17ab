//! Puts an agent together and runs it until it is told to stop.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::admin_server::AdminServer;
use ha_proto::v1::agent_server::AgentServer;
use ha_raft::{OpenError, RaftHandle, RaftSettings};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tracing::{error, info};

use crate::admin::AdminService;
use crate::agent::{Agent, Database};
use crate::clock;
use crate::config::Config;
use crate::control_loop;
use crate::door::Door;
use crate::events;
use crate::facts::Facts;
use crate::fencing;
use crate::founding::{self, Stranger};
use crate::granter;
use crate::hooks;
use crate::housekeeping;
use crate::lease_keeper;
use crate::leave;
use crate::parameters;
use crate::peers::{MESSAGE_BYTES_MAX, Peers};
use crate::permit_book::PermitBook;
use crate::pgbouncer;
use crate::pledge::{Pledge, PledgeError};
use crate::prober;
use crate::quorum_keeper;
use crate::scheduler;
use crate::service::AgentService;
use crate::witness;

/// How often a node that belongs to no Raft group yet looks for one.
const JOIN_INTERVAL: Duration = Duration::from_millis(300);
/// How often it is looked whether the cluster was made anew without this node.
const MEET_INTERVAL: Duration = Duration::from_secs(2);
/// How often in a row peers may say that they know another store.
const STRANGE_MAX: u32 = 3;

/// How long it may take until nothing is left of tools that were running then.
const TOOLS_LIMIT: Duration = Duration::from_secs(5);
/// How long open connections may take to end when the agent leaves.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Why an agent could not be started, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its directory cannot be used.
    #[error("cannot use data_dir {path}: {source}")]
    DataDir {
        /// The directory.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Its port is taken, or the address is not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address of the configuration.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// An address of a peer is none.
    #[error("cannot use {0}")]
    Peers(String),
    /// The kernel does not tell the id of this boot.
    #[error("cannot read the boot id: {0}")]
    BootId(std::io::Error),
    /// The Raft store cannot be used.
    #[error("{}", chain(.0))]
    Raft(#[from] OpenError),
    /// What it has pledged to elections cannot be read.
    #[error("{}", chain(.0))]
    Pledge(#[from] PledgeError),
    /// It must not go on under this name.
    #[error("{0}")]
    Stranger(#[from] Stranger),
    /// The Raft store failed while running.
    #[error("Raft stopped: {0}")]
    RaftStopped(String),
    /// The gRPC server ended.
    #[error("the gRPC server stopped: {0}")]
    Server(String),
}

impl RunError {
    /// Returns what to do about it, as a sentence; empty if the message says it all.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Raft(error) => error.hint().unwrap_or_default().to_owned(),
            Self::Stranger(Stranger::OtherStore { .. }) => {
                "This store was a voter once and was replaced since, or another host runs this node: stop one \
                 of them. To make this one the node, empty its store and say haclt node replace."
                    .to_owned()
            }
            Self::Stranger(Stranger::Superseded { .. }) => {
                "Empty what this node has, Raft store and data directory, give it join = true, and take it in \
                 again: haclt node add"
                    .to_owned()
            }
            Self::Listen { .. } => {
                "Another agent of this node may be running, or the port belongs to another program."
                    .to_owned()
            }
            Self::Pledge(PledgeError::Damaged { .. }) => {
                "It says up to which epoch this node acknowledges nothing any more. If the cluster has a \
                 primary that this node does not follow, removing the file is safe."
                    .to_owned()
            }
            Self::Pledge(PledgeError::File { .. })
            | Self::DataDir { .. }
            | Self::Peers(_)
            | Self::BootId(_)
            | Self::Stranger(Stranger::WrongPeer { .. })
            | Self::RaftStopped(_)
            | Self::Server(_) => String::new(),
        }
    }

    /// Returns whether a rule refused, rather than something failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

/// Runs an agent until `stop` ends, then lets it leave in order.
///
/// `database` is the driver of a data node and the major version of its binaries. Dropping the future
/// ends the agent as SIGKILL would.
///
/// # Errors
/// [`RunError`]: why it could not be started, or had to end.
pub async fn run<D: PostgresDriver>(
    config: Config,
    database: Option<(Arc<D>, u32)>,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let boot = clock::boot_id().map_err(RunError::BootId)?;
    make_dir(&config.data_dir)?;
    let pledge = Pledge::load(&config.data_dir)?;
    let listener = listen(&config.listen_grpc).await?;
    let raft = RaftHandle::open(RaftSettings {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        dir: config.data_dir.join("raft"),
        peers: config.peers.clone(),
        heartbeat: config.policy.heartbeat,
        election_min: config.policy.election_min,
        election_max: config.policy.election_max,
    })
    .await?;
    let peers = Peers::new(&config.peers, raft.cut()).map_err(RunError::Peers)?;
    let major = database.as_ref().map(|(_, major)| *major);
    if let Some((driver, _)) = &database {
        // Of an agent that was cut short: a running server would restore what is less than it has.
        driver.clear_spool().map_err(|error| RunError::Server(error.to_string()))?;
    }
    let database = database.map(|(driver, _)| Database {
        permits: PermitBook::load(Arc::clone(&driver), boot, raft.is_initialized()),
        driver,
        facts: std::sync::Mutex::new(Facts::default()),
    });
    let agent = Arc::new(Agent::new(config, boot, raft, peers, database, major, pledge));
    let (node, cluster) = (agent.node(), agent.config.cluster.as_str());
    events::AgentStarted { node, cluster, grpc: &agent.config.listen_grpc }.emit();

    let mut tasks = JoinSet::new();
    let (close, closing) = oneshot::channel::<()>();
    let mut server = tokio::spawn(serve(Arc::clone(&agent), listener, closing));
    tasks.spawn(control_loop::run(Arc::clone(&agent)));
    tasks.spawn(lease_keeper::run(Arc::clone(&agent)));
    tasks.spawn(granter::run(Arc::clone(&agent)));
    tasks.spawn(fencing::run(Arc::clone(&agent)));
    tasks.spawn(scheduler::run(Arc::clone(&agent)));
    tasks.spawn(prober::run(Arc::clone(&agent)));
    tasks.spawn(prober::watch_peers(Arc::clone(&agent)));
    tasks.spawn(housekeeping::run(Arc::clone(&agent)));
    tasks.spawn(quorum_keeper::run(Arc::clone(&agent)));
    tasks.spawn(parameters::run(Arc::clone(&agent)));
    tasks.spawn(witness::run(Arc::clone(&agent)));
    tasks.spawn(witness::look(Arc::clone(&agent)));
    tasks.spawn(hooks::run(Arc::clone(&agent)));
    tasks.spawn(pgbouncer::run(Arc::clone(&agent)));
    let mut joining = tokio::spawn(join(Arc::clone(&agent)));
    let mut raft_failed = tokio::spawn(raft_failure(Arc::clone(&agent)));
    let detached = vec![server.abort_handle(), joining.abort_handle(), raft_failed.abort_handle()];
    let mut leftovers = Leftovers { raft: Some(agent.raft.clone()), detached };

    let ended = tokio::select! {
        biased;
        () = stop => Ok(()),
        why = &mut raft_failed => Err(RunError::RaftStopped(why.unwrap_or_else(|e| e.to_string()))),
        result = &mut joining => match result {
            Ok(Err(stranger)) => Err(stranger.into()),
            Ok(Ok(())) => Ok(()),
            Err(panic) => Err(RunError::Server(panic.to_string())),
        },
        result = &mut server => Err(RunError::Server(server_end(result))),
        panicked = first_panic(&mut tasks) => Err(RunError::Server(panicked)),
    };
    if ended.is_ok() {
        info!("leaving");
        leave::leave(&agent).await;
        hooks::farewell(&agent).await;
    }
    if let Err(RunError::Stranger(Stranger::Superseded { .. })) = &ended {
        leave::give_up(&agent).await;
    }
    joining.abort();
    raft_failed.abort();
    tasks.shutdown().await;
    if let Some(database) = &agent.database {
        database.driver.end_tools(Instant::now() + TOOLS_LIMIT).await;
    }
    // No message may find Raft stopped behind an open door.
    drop(close);
    if !server.is_finished() && timeout(CLOSE_LIMIT, &mut server).await.is_err() {
        server.abort();
    }
    agent.raft.shutdown().await;
    leftovers.raft = None;
    info!("agent stopped");
    ended
}

/// What outlives the future that ran the agent, if that is dropped: a process that is killed leaves nothing, so
/// this does not either. A Raft node that went on without its agent would lead, and let no lease expire.
struct Leftovers {
    raft: Option<RaftHandle>,
    detached: Vec<AbortHandle>,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for task in &self.detached {
            task.abort();
        }
        if let Some(raft) = self.raft.take() {
            tokio::spawn(async move { raft.shutdown().await });
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), RunError> {
    std::fs::create_dir_all(dir)
        .map_err(|source| RunError::DataDir { path: dir.display().to_string(), source })
}

async fn listen(address: &str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { address: address.to_owned(), source })
}

/// Looks for a Raft group, or makes one, until this node is part of it.
async fn join<D: PostgresDriver>(agent: Arc<Agent<D>>) -> Result<(), Stranger> {
    while !founding::join(&agent).await? {
        sleep(JOIN_INTERVAL).await;
    }
    // Part of a group, as far as this node knows. Its peers may know better: it asks a few times.
    let mut strange = 0;
    for _ in 0..10 {
        match founding::ask_all(&agent).await {
            Ok(_) => strange = 0,
            Err(stranger) => {
                strange += 1;
                // A peer that lags may not know yet that this store was just taken in.
                if strange >= STRANGE_MAX {
                    return Err(stranger);
                }
            }
        }
        sleep(JOIN_INTERVAL).await;
    }
    // A node that was cut off may meet a cluster that was made anew without it.
    strange = 0;
    loop {
        sleep(MEET_INTERVAL).await;
        match founding::ask_all(&agent).await {
            Err(stranger @ Stranger::Superseded { .. }) => {
                strange += 1;
                if strange >= STRANGE_MAX {
                    return Err(stranger);
                }
            }
            Ok(_) | Err(_) => strange = 0,
        }
    }
}

async fn raft_failure<D: PostgresDriver>(agent: Arc<Agent<D>>) -> String {
    let mut changed = agent.raft.changed();
    let failed = changed.wait_for(|now| now.failure.is_some()).await;
    failed.ok().and_then(|now| now.failure.clone()).unwrap_or_default()
}

/// A task that coordinates never ends by itself: if one does, the agent starts again fenced.
async fn first_panic(tasks: &mut JoinSet<()>) -> String {
    loop {
        match tasks.join_next().await {
            Some(Err(panic)) => {
                error!(error = %panic, "a task of the agent panicked");
                return panic.to_string();
            }
            Some(Ok(())) => {} // A witness has no database to look after.
            None => std::future::pending().await,
        }
    }
}

fn server_end(result: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match result {
        Ok(Ok(())) => "it ended".to_owned(),
        Ok(Err(why)) => why,
        Err(error) => error.to_string(),
    }
}

async fn serve<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    listener: TcpListener,
    closing: oneshot::Receiver<()>,
) -> Result<(), String> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AdminServer<AdminService<D>>>().await;
    health.set_serving::<AgentServer<AgentService<D>>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(ha_proto::DESCRIPTORS)
        .build_v1()
        .map_err(|error| error.to_string())?;
    let agent_service = AgentServer::new(AgentService(Arc::clone(&agent)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let admin_service = AdminServer::new(AdminService(Arc::clone(&agent)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(Door::new(agent.raft.service(), agent.raft.cut()))
        .add_service(Door::new(agent_service, agent.raft.cut()))
        .add_service(admin_service)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
            // Closed or told, both mean the end.
            drop(closing.await);
        })
        .await
        .map_err(|error| error.to_string())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
