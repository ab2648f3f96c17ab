//! Containers: PostgreSQL in a container of the stock image whose process 1 is the guard, its tools in
//! containers of the same image that run once.
//!
//! What decides is never the engine: the guard and its permit are. The engine is asked to start the
//! container, to kill it when its guard is frozen, and to run tools; all of it is off the way of a
//! failover. An engine that is gone, slow or talks nonsense is a state with a name, and means nothing
//! about the database.
//!
//! Process ids of the other namespace mean nothing here. Whether a guard lives is told by its heartbeat
//! and by its lock, which works across containers; signals for its server are asked of the guard.

pub(crate) mod engine;
pub(crate) mod examine;
mod image;
mod memory;
pub(crate) mod own;
mod peer;
mod signals;
mod tls;
mod tools;
mod watch;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{
    CreateContainerOptions, KillContainerOptions, LogsOptions, StopContainerOptions,
};
use futures::StreamExt as _;
use ha_core::permit::{LAUNCH_FILE, Launch};
use tokio::sync::{Mutex as AsyncMutex, OnceCell, watch as channel};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::attempt::{Attempt, one_line};
use crate::driver::{ActionError, Effect, GuardSeen};
use crate::guard_files::GuardFiles;
use crate::instance::directory::Layout;
use crate::instance::{InstanceConfig, RunAs, settings};

use engine::{Engine, EngineError};
use examine::{Places, lives, started_at};
use image::image_of;
use memory::Remembered;
use tools::{TOOL_LABEL, Tools};
use watch::Seen;

pub use peer::{KillError, PeerEngine};
pub use tls::PeerAddress;

/// How long a question may take where the engine looks at something, such as a list.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How long starting, stopping and the like may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// How long a container is missed before it is made again.
const MISSED_AFTER: Duration = Duration::from_secs(8);
/// How long a container may run without its guard having taken the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Which container, and how to reach its engine.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Name or id of the Postgres container.
    pub container: String,
    /// The engine's socket, such as `unix:///var/run/docker.sock`.
    pub socket: String,
    /// File in which the container is remembered, so that it can be made again.
    pub memory: PathBuf,
}

/// A Postgres container that can be used.
#[derive(Debug, Clone)]
pub struct Examined {
    remembered: Remembered,
    /// Why the engine could not be asked, if it could not: then this is what is remembered.
    pub trouble: Option<String>,
}

impl Examined {
    /// Returns the major version of the image's PostgreSQL.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.remembered.major
    }

    /// Returns whether the container has a network of its own.
    pub(crate) fn own_network(&self) -> bool {
        let host = self.remembered.container.host_config.as_ref();
        let mode = host.and_then(|host| host.network_mode.as_deref()).unwrap_or_default();
        mode != "host" && !mode.starts_with("container:")
    }

    /// Returns whom the image runs the server as.
    #[must_use]
    pub const fn run_as(&self) -> RunAs {
        self.remembered.run_as()
    }
}

impl DockerConfig {
    /// Looks at the container that the configuration means; changes nothing but the file in which it
    /// is remembered. If the engine cannot be asked, what is remembered counts: the guard may be
    /// guarding all the same.
    ///
    /// # Errors
    /// All faults, one line each.
    pub async fn examine(&self, config: &InstanceConfig) -> Result<Examined, Vec<String>> {
        let engine = Engine::new(&self.socket);
        let places = Places::of(config);
        let remembered = Remembered::load(&self.memory).map_err(|why| vec![why])?;
        let found = match engine.inspect(&self.container).await {
            Ok(found) => found,
            Err(error) => {
                let missing = match error {
                    EngineError::Missing(_) => self.missing(),
                    ref other => other.to_string(),
                };
                let remembered = remembered.ok_or_else(|| vec![missing.clone()])?;
                return Ok(Examined { remembered, trouble: Some(missing) });
            }
        };
        let own = own::own_container(&engine).await.map_err(|error| vec![error.to_string()])?;
        let mut faults = examine::faults(&self.container, &found, own.as_ref(), &places);
        let image = match image_of(&engine, &self.container, &found).await {
            Ok(image) => Some(image),
            Err(why) => {
                faults.push(format!("container {}: {why}", self.container));
                None
            }
        };
        let mounts = found.mounts.as_deref().unwrap_or_default();
        let source = own::source_of(mounts, &config.data_dir.to_string_lossy());
        match (image, source) {
            (Some((major, run_as)), Some(source)) if faults.is_empty() => {
                let remembered = Remembered::new(major, run_as, source, found);
                remembered.save(&self.memory).map_err(|why| vec![why])?;
                Ok(Examined { remembered, trouble: None })
            }
            _ => Err(faults),
        }
    }

    fn missing(&self) -> String {
        format!("container {} is missing: make it with docker compose up -d", self.container)
    }
}

/// Runs everything in containers.
#[derive(Debug)]
pub(crate) struct DockerRuntime(Arc<Shared>);

/// What the runtime and its tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    docker: DockerConfig,
    config: Arc<InstanceConfig>,
    layout: Layout,
    files: GuardFiles,
    engine: Engine,
    remembered: Mutex<Remembered>,
    /// The id of the agent's own container, if it is in one, once the engine told.
    own: OnceCell<Option<String>>,
    /// What was seen of engine and container.
    seen: channel::Sender<Seen>,
    tools: Tools,
    /// Since when there has been no container, as far as this process has seen.
    missing_since: Mutex<Option<Instant>>,
    /// One question to the guard at a time.
    signalling: AsyncMutex<()>,
    drawn: AtomicU64,
}

impl DockerRuntime {
    /// Begins to watch the engine if this is a runtime's thread.
    pub(crate) fn new(
        docker: DockerConfig,
        examined: Examined,
        config: Arc<InstanceConfig>,
        layout: Layout,
        files: GuardFiles,
    ) -> Self {
        let Examined { remembered, trouble } = examined;
        let (engine, seed) = (Engine::new(&docker.socket), crate::guard_files::boot_now().0);
        let shared = Arc::new(Shared {
            docker,
            config,
            layout,
            files,
            engine,
            remembered: Mutex::new(remembered),
            own: OnceCell::new(),
            seen: channel::Sender::new(Seen::at_start(trouble)),
            tools: Tools::default(),
            missing_since: Mutex::default(),
            signalling: AsyncMutex::new(()),
            drawn: AtomicU64::new(seed),
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(watch::run(Arc::downgrade(&shared)));
        }
        Self(shared)
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    pub(crate) fn files(&self) -> &GuardFiles {
        &self.0.files
    }

    /// Returns what is not well with engine or container, in one line.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.0.seen.borrow().trouble()
    }

    /// Returns the id of the container that the guard runs in, if nothing speaks against that.
    pub(crate) fn container_id(&self) -> Option<String> {
        let GuardSeen::Alive(_) = self.0.guard_seen() else { return None };
        self.0.seen.borrow().well.clone()
    }

    /// Waits until something is seen of engine or container that was not so before.
    pub(crate) async fn changed(&self) {
        // The sender lives as long as we do.
        drop(self.0.seen.subscribe().changed().await);
    }
}

impl Shared {
    /// Returns a number that this process did not draw before.
    fn random(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::Relaxed)
    }

    fn remembered(&self) -> Remembered {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what was just seen of the container, on disk too: what makes it again.
    fn remember(&self, found: ContainerInspectResponse) -> Result<(), String> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.container = found;
        remembered.save(&self.docker.memory)
    }

    /// Returns the id of the agent's own container, or none if it is in none.
    async fn own(&self) -> Result<Option<String>, EngineError> {
        let ask = || async { Ok(own::own_container(&self.engine).await?.and_then(|own| own.id)) };
        self.own.get_or_try_init(ask).await.cloned()
    }

    async fn container(&self) -> Result<ContainerInspectResponse, EngineError> {
        self.engine.inspect(&self.docker.container).await
    }

    pub(crate) fn guard_seen(&self) -> GuardSeen {
        // A guard that is gone let go of its lock, however fresh its last status is.
        self.files.seen(|_| self.files.is_locked())
    }

    /// Returns which other container can write to the data directory, in words.
    ///
    /// An engine that cannot be asked starts nothing either: then the last look counts.
    async fn foreign(&self) -> Option<String> {
        match self.running().await {
            Ok(running) => self.foreign_of(&running).await,
            Err(_) => self.seen.borrow().foreign.clone(),
        }
    }

    /// Returns the containers that run, paused ones too.
    async fn running(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let running =
            self.engine.call(ASK_LIMIT, |docker| async move { docker.list_containers(None).await });
        running.await
    }

    async fn foreign_of(&self, running: &[ContainerSummary]) -> Option<String> {
        let remembered = self.remembered();
        let ours = remembered.container.id.clone();
        let own = self.own().await.ok().flatten();
        let foreign = running.iter().find(|one| {
            let is_tool = one.labels.as_ref().is_some_and(|labels| labels.contains_key(TOOL_LABEL));
            let mounts = one.mounts.as_deref().unwrap_or_default();
            one.id != ours && one.id != own && !is_tool && examine::uses(mounts, &remembered.source)
        })?;
        let name = foreign.names.iter().flatten().next().cloned().unwrap_or_default();
        let image = foreign.image.as_deref().unwrap_or("unknown");
        let name = name.trim_start_matches('/');
        let data_dir = self.layout.data_dir.display();
        Some(format!("container {name} of image {image} runs on the volume of {data_dir}: stop it"))
    }

    /// Returns what runs on the data directory, in words, if anything does.
    pub(crate) async fn in_use(&self) -> Option<String> {
        let data_dir = self.layout.data_dir.display();
        match self.guard_seen() {
            GuardSeen::Alive(status) if status.state.is_gone() => self.foreign().await,
            GuardSeen::Alive(status) => {
                let (run, state) = (status.run, status.state.name());
                Some(format!("the server of run {run} runs on {data_dir}: it is {state}"))
            }
            GuardSeen::Silent { .. } => Some(format!(
                "a guard that does not report may have a server that runs on {data_dir}"
            )),
            GuardSeen::Absent => match self.container().await {
                Ok(found) if lives(found.state.as_ref()) => {
                    let name = &self.docker.container;
                    Some(format!("container {name} runs on {data_dir} without a guard"))
                }
                Ok(_) | Err(EngineError::Missing(_)) => self.foreign().await,
                Err(error) => Some(format!("cannot tell what runs on {data_dir}: {error}")),
            },
        }
    }

    /// The same for whoever only reads: no engine is asked while the guard reports.
    pub(crate) async fn in_use_by_server(&self) -> Option<String> {
        match self.guard_seen() {
            GuardSeen::Alive(status) if status.state.is_gone() => None,
            _ => self.in_use().await,
        }
    }

    /// Writes what the guard is to start: it reads that at the next start of a run.
    pub(crate) fn write_launch(&self) -> Result<(), String> {
        let config = &*self.config;
        let mut command = vec!["postgres".to_owned()];
        command.extend(settings::server_args(config, &self.layout, self.remembered().major));
        let launch = Launch {
            boot: self.files.boot(),
            margin: config.margin,
            fast_stop: config.fast_stop,
            immediate_stop: config.immediate_stop,
            command,
        };
        self.files
            .replace(LAUNCH_FILE, &launch.encode())
            .map_err(|error| format!("cannot write the launch file: {error}"))
    }

    /// Starts the container if it is stopped, and waits until its guard reports.
    pub(crate) async fn start_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let lock = timeout_at(attempt.deadline(), self.files.starting.lock());
        let _starting = lock.await.map_err(|_| attempt.timed_out())?;
        self.write_launch().map_err(|why| attempt.refused(why))?;
        if self.files.is_locked() {
            return match self.guard_seen() {
                GuardSeen::Alive(_) => Ok(()),
                _ => Err(attempt.refused("a guard that does not report holds the lock")),
            };
        }
        let before = self.files.last_status();
        let found = match self.container().await {
            Ok(found) => found,
            Err(EngineError::Missing(_)) => {
                self.expect_missed(attempt)?;
                self.make_again(attempt).await?
            }
            Err(error) => return Err(attempt.refused(error)),
        };
        *self.missing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.expect_usable(&found, attempt).await?;
        if let Some(foreign) = self.foreign().await {
            return Err(attempt.refused(foreign));
        }
        // A container whose guard was just killed lives until the engine has noticed: only one that was
        // started since has ended by itself.
        let run_before = started_at(&found);
        let mut found = Ok(found);
        loop {
            if let Ok(found) = &found
                && !lives(found.state.as_ref())
            {
                if started_at(found) != run_before {
                    return Err(attempt.refused(self.last_words(found).await));
                }
                self.start_container(attempt).await?;
            }
            let reports = self.files.last_status().filter(|_| self.files.is_locked());
            if reports.is_some_and(|status| Some(&status) != before.as_ref()) {
                info!(container = self.docker.container, "guard started");
                return Ok(());
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
            found = self.container().await;
        }
    }

    /// Refuses while somebody else may be about to make the container: Compose renames the old one first
    /// when it makes it anew.
    fn expect_missed(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let mut since = self.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.get_or_insert_with(Instant::now).elapsed() >= MISSED_AFTER {
            return Ok(());
        }
        let (name, wait) = (&self.docker.container, MISSED_AFTER.as_secs());
        Err(attempt.refused(format!("container {name} is missing: made again after {wait} s")))
    }

    /// Refuses a container that is not as it must be, and remembers one that is.
    async fn expect_usable(
        &self,
        found: &ContainerInspectResponse,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let own = own::own_container(&self.engine).await.map_err(|error| attempt.refused(error))?;
        let places = Places::of(&self.config);
        let faults = examine::faults(&self.docker.container, found, own.as_ref(), &places);
        if !faults.is_empty() {
            return Err(attempt.cannot(faults.join("; ")));
        }
        let (major, run_as) = image_of(&self.engine, &self.docker.container, found)
            .await
            .map_err(|why| attempt.refused(why))?;
        let known = self.remembered();
        if (major, run_as) != (known.major, known.run_as()) {
            let why = format!(
                "its image has PostgreSQL {major}, user {}, and the agent was started with \
                 PostgreSQL {}, user {}: restart the agent",
                run_as.uid,
                known.major,
                known.run_as().uid
            );
            return Err(attempt.cannot(format!("container {}: {why}", self.docker.container)));
        }
        self.remember(found.clone()).map_err(|why| attempt.refused(why))
    }

    async fn start_container(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let name = self.docker.container.clone();
        let limit = CHANGE_LIMIT.min(attempt.left());
        let started = self
            .engine
            .call(limit, move |docker| async move { docker.start_container(&name, None).await });
        match started.await {
            // Whether it started all the same is seen by the lock.
            Ok(()) | Err(EngineError::Slow { .. }) => Ok(()),
            Err(error) => Err(attempt.failed(error, Effect::Unknown)),
        }
    }

    /// Makes a container that somebody removed again, as it was.
    async fn make_again(&self, attempt: &Attempt) -> Result<ContainerInspectResponse, ActionError> {
        let name = &self.docker.container;
        let missing = self.docker.missing();
        let remembered = self.remembered();
        let body = remembered.body().map_err(|why| attempt.cannot(format!("{missing} ({why})")))?;
        let named = remembered.container.name.clone().unwrap_or_else(|| name.clone());
        let named = named.trim_start_matches('/').to_owned();
        warn!(container = name, "the Postgres container was removed: it is made again as it was");
        let created = self.engine.call(CHANGE_LIMIT, move |docker| async move {
            let options = CreateContainerOptions { name: Some(named), ..Default::default() };
            docker.create_container(Some(options), body).await
        });
        let created =
            created.await.map_err(|error| attempt.cannot(format!("{missing} ({error})")))?;
        for (network, endpoint) in remembered.networks().into_iter().skip(1) {
            let id = created.id.clone();
            let connected = self.engine.call(CHANGE_LIMIT, move |docker| async move {
                let request = bollard::models::NetworkConnectRequest {
                    container: id,
                    endpoint_config: Some(endpoint),
                };
                docker.connect_network(&network, request).await
            });
            connected.await.map_err(|error| attempt.cannot(format!("{missing} ({error})")))?;
        }
        self.container().await.map_err(|error| attempt.refused(error))
    }

    /// Says how a container ended.
    async fn last_words(&self, found: &ContainerInspectResponse) -> String {
        let name = self.docker.container.clone();
        let said = self.engine.call(ASK_LIMIT, move |docker| async move {
            let options = LogsOptions {
                stdout: true,
                stderr: true,
                tail: "1".to_owned(),
                ..Default::default()
            };
            let mut lines = Box::pin(docker.logs(&name, Some(options)));
            lines.next().await.transpose()
        });
        let said = said.await.ok().flatten().map(|line| one_line(&line.to_string()));
        let said =
            said.filter(|line| !line.is_empty()).unwrap_or_else(|| "it said nothing".to_owned());
        let state = found.state.clone().unwrap_or_default();
        let code = state.exit_code.unwrap_or_default();
        let engine = state.error.filter(|error| !error.is_empty());
        let engine = engine.map_or_else(String::new, |error| format!(" ({error})"));
        format!("container {} ended with exit code {code}{engine}: {said}", self.docker.container)
    }

    /// Kills the container of a guard that does not report, and with it everything in it.
    pub(crate) async fn kill_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let GuardSeen::Silent { .. } = self.guard_seen() else { return Ok(()) };
        warn!(container = self.docker.container, "the guard is frozen: its container is killed");
        self.kill_container(attempt).await
    }

    /// Kills the container and returns once it is seen to be dead.
    async fn kill_container(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let mut refused = None;
        loop {
            match self.container().await {
                Err(EngineError::Missing(_)) => return Ok(()),
                Ok(found) if !lives(found.state.as_ref()) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(attempt.failed(error, Effect::Unknown)),
            }
            if attempt.left().is_zero() {
                return Err(refused.map_or_else(
                    || attempt.timed_out(),
                    |why: EngineError| attempt.failed(why, Effect::Unknown),
                ));
            }
            let name = self.docker.container.clone();
            let killed =
                self.engine.call(ASK_LIMIT.min(attempt.left()), move |docker| async move {
                    let options = KillContainerOptions { signal: "KILL".to_owned() };
                    docker.kill_container(&name, Some(options)).await
                });
            // Whatever it says, what counts is the next look.
            refused = killed.await.err();
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }

    /// Stops the container: the guard ends its server in order, then itself.
    pub(crate) async fn stop_guard(&self, attempt: &Attempt) -> Result<(), ActionError> {
        if self.guard_seen() == GuardSeen::Absent {
            return Ok(());
        }
        let name = self.docker.container.clone();
        let seconds = i32::try_from(attempt.left().as_secs()).unwrap_or(i32::MAX);
        let stopped = self.engine.call(attempt.left(), move |docker| async move {
            let options = StopContainerOptions { t: Some(seconds), ..Default::default() };
            docker.stop_container(&name, Some(options)).await
        });
        match stopped.await {
            Ok(()) | Err(EngineError::Missing(_)) => Ok(()),
            Err(error) => Err(attempt.failed(error, Effect::Unknown)),
        }
    }

    /// Makes sure that a container without a guard holds no process: the lock of a guard that dies is
    /// free a moment before the last process of its namespace is gone.
    pub(crate) async fn end_orphans(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let began = Instant::now();
        loop {
            match self.guard_seen() {
                GuardSeen::Absent => {}
                GuardSeen::Alive(_) | GuardSeen::Silent { .. } => {
                    return Err(attempt.cannot("a guard holds the lock: it alone may kill"));
                }
            }
            match self.container().await {
                Err(EngineError::Missing(_)) => break,
                Ok(found) if !lives(found.state.as_ref()) => break,
                Ok(_) => {}
                Err(error) => return Err(attempt.refused(error)),
            }
            if began.elapsed() >= LOCK_PATIENCE {
                let container = &self.docker.container;
                warn!(container, "a container without a guard is killed");
                self.kill_container(attempt).await?;
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
        self.end_leftover_tools(attempt).await
    }
}
