//! One PostgreSQL instance: file work on its data directory, SQL to its server, its guard.
//!
//! Where its programs run is the business of a `Runtime` (processes of this machine, or containers);
//! everything else is here, once for all of them.

mod admission;
mod checkup;
mod clone;
mod cluster_conf;
mod detach;
pub(crate) mod directory;
pub(crate) mod diverged;
mod drill;
mod initdb;
mod prepare;
mod promote;
mod reload;
mod rewind;
mod session;
pub(crate) mod settings;
mod slots;
mod survey;
mod synchronous;
mod upstream;
mod wal_end;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ha_core::ancestry::TimelineSwitch;
use ha_core::clock::millis;
use ha_core::permit::{GuardStatus, Permit};
use ha_core::{Lsn, NodeId, WalPosition};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::Password;
use crate::attempt::Attempt;
use crate::credentials::Logins;
use crate::diverged::Diverged;
use crate::docker::{DockerConfig, DockerRuntime, Examined};
use crate::driver::{
    ActionError, Checkup, ClusterApplied, ClusterConf, ControlFile, DataDir, Detached, Effect,
    GuardSeen, Knock, PostgresDriver, Probe, ProbeError, Receivers, Reloaded, Survey, Synchronous,
    Upstream, UpstreamHistory, Verdict,
};
use crate::guard_files::GuardFiles;
use crate::guard_files::boot_id;
use crate::process::{ProcessConfig, ProcessRuntime};
use crate::runtime::Runtime;
use crate::tool::Tool;
use crate::wal::files::{Tip, tip_of_local};
use crate::wire::Connection;

pub use checkup::knock;
use directory::Layout;
pub(crate) use directory::{make_dir, write_file};
pub(crate) use settings::{connection, pass_line};
pub use upstream::{ask as ask_history, ensure_own_slot};

/// A database user of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: Password,
}

/// The system user that PostgreSQL and its tools run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How this node's PostgreSQL is run.
#[derive(Debug, Clone)]
pub struct InstanceConfig {
    /// This node: `application_name` and slot name on its upstream.
    pub node: NodeId,
    /// PGDATA. Its parent directory must be writable too: clones are made and old data is kept
    /// beside it, and so are `<name>.haclt` (pass file, sockets) and `<name>.half-made` (a mark).
    pub data_dir: PathBuf,
    /// The directory shared with the guard, on tmpfs where there is one.
    pub permit_dir: PathBuf,
    /// Logs of the guard and, in `postgresql`, of the server (seven files, one a weekday).
    pub log_dir: PathBuf,
    /// Addresses to listen on.
    pub listen_addresses: Vec<String>,
    /// Port to listen on.
    pub port: u16,
    /// Address at which this agent itself reaches the server, such as `127.0.0.1`.
    pub probe_host: String,
    /// Whether the server has a network of its own, so that this agent is another host to it.
    pub own_network: bool,
    /// The superuser that `initdb` makes and the agent uses.
    pub superuser: Role,
    /// The user that standbys, `pg_basebackup` and `pg_rewind` connect as: `haclt_replication`.
    pub replication: Role,
    /// Set when the agent runs as root: the server refuses to.
    pub run_as: Option<RunAs>,
    /// How long before its deadline a right ends for the guard.
    pub margin: Duration,
    /// How long the guard waits for a fast stop before an immediate one.
    pub fast_stop: Duration,
    /// How long the guard waits for an immediate stop before it kills.
    pub immediate_stop: Duration,
    /// Further settings of the server. Those that haclt manages itself are refused.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf` after our own; if empty, everybody may log in by SCRAM-SHA-256.
    pub hba: Vec<String>,
}

/// One PostgreSQL instance of this node, over processes of this machine or over containers.
#[derive(Debug)]
pub struct Instance {
    config: Arc<InstanceConfig>,
    layout: Layout,
    runtime: Runtime,
    /// One change of the data directory at a time; held also by file work that cannot be stopped.
    changing: Arc<AsyncMutex<()>>,
    /// One change at a time of who must acknowledge commits.
    acknowledging: AsyncMutex<()>,
    /// The session through which receivers are looked at.
    watching: AsyncMutex<Option<Connection>>,
    /// What our `pg_hba` file said when the server last read it, as far as this process has seen.
    admitting: AsyncMutex<Option<bool>>,
    /// What the cluster wants of every server, as far as this agent knows.
    wanted: Mutex<Option<Arc<ClusterConf>>>,
}

/// The right to change the data directory. Clones are held by file work in other threads.
type Changing = Arc<OwnedMutexGuard<()>>;

impl InstanceConfig {
    /// Returns everything that is wrong with it, one line each. Changes nothing.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        settings::faults(self)
    }
}

impl Instance {
    /// Runs the instance as processes of this machine. Checks the configuration and makes the
    /// directories that are ours.
    ///
    /// # Errors
    /// [`ActionError::Cannot`] with everything that is wrong with the configuration.
    pub fn on_processes(
        config: InstanceConfig,
        process: ProcessConfig,
    ) -> Result<Self, ActionError> {
        let attempt = Attempt::new("use the PostgreSQL configuration", Instant::now());
        let mut faults = config.faults();
        faults.extend(process.faults());
        if !faults.is_empty() {
            return Err(attempt.cannot(faults.join("; ")));
        }
        let (config, layout, files) = Self::prepared(config, &attempt)?;
        let runtime = ProcessRuntime::new(process, Arc::clone(&config), layout.clone(), files);
        Ok(Self::assembled(config, layout, Runtime::Process(Box::new(runtime))))
    }

    /// Runs the instance in the container that was examined. Checks the configuration, makes the
    /// directories that are ours, and watches the engine if called within a Tokio runtime.
    ///
    /// # Errors
    /// [`ActionError::Cannot`] with everything that is wrong with the configuration.
    pub fn on_docker(
        mut config: InstanceConfig,
        docker: DockerConfig,
        examined: Examined,
    ) -> Result<Self, ActionError> {
        let attempt = Attempt::new("use the PostgreSQL configuration", Instant::now());
        config.run_as = Some(examined.run_as());
        config.own_network = examined.own_network();
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(attempt.cannot(faults.join("; ")));
        }
        let (config, layout, files) = Self::prepared(config, &attempt)?;
        let runtime =
            DockerRuntime::new(docker, examined, Arc::clone(&config), layout.clone(), files);
        Ok(Self::assembled(config, layout, Runtime::Docker(runtime)))
    }

    /// Makes the directories that are ours.
    fn prepared(
        config: InstanceConfig,
        attempt: &Attempt,
    ) -> Result<(Arc<InstanceConfig>, Layout, GuardFiles), ActionError> {
        let layout = Layout::of(&config.data_dir).map_err(|why| attempt.cannot(why))?;
        if let Some(why) = settings::unusable_in_shell(&layout.spool()) {
            return Err(attempt.cannot(why));
        }
        let boot = boot_id().map_err(|why| attempt.cannot(why))?;
        directory::make_own_directories(&config, &layout).map_err(|why| attempt.cannot(why))?;
        // Of an agent that was killed during initdb.
        directory::remove_file(&layout.password_file()).map_err(|why| attempt.cannot(why))?;
        let files = GuardFiles::new(config.permit_dir.clone(), boot);
        Ok((Arc::new(config), layout, files))
    }

    fn assembled(config: Arc<InstanceConfig>, layout: Layout, runtime: Runtime) -> Self {
        Self {
            config,
            layout,
            runtime,
            changing: Arc::new(AsyncMutex::new(())),
            acknowledging: AsyncMutex::new(()),
            watching: AsyncMutex::new(None),
            admitting: AsyncMutex::new(None),
            wanted: Mutex::new(None),
        }
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &InstanceConfig {
        &self.config
    }

    fn tool(&self, name: &'static str) -> Tool<'_> {
        Tool::new(name, self.runtime.programs())
    }

    /// Waits for the right to change the data directory, and proves that nothing runs on it: not a
    /// server, and not a tool that an earlier agent left behind.
    async fn change(&self, attempt: &Attempt) -> Result<Changing, ActionError> {
        let lock = Arc::clone(&self.changing).lock_owned();
        let guard = timeout_at(attempt.deadline(), lock).await.map_err(|_| attempt.timed_out())?;
        self.runtime.end_leftover_tools(attempt).await?;
        if let Some(why) = self.runtime.in_use().await {
            return Err(attempt.refused(why));
        }
        Ok(Arc::new(guard))
    }

    /// Refuses a guard that was told of another margin, when the agent was configured otherwise: what is
    /// to be dead before the deadline would be killed later than the agent counts on.
    fn expect_margin(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let GuardSeen::Alive(GuardStatus { margin: Some(margin), .. }) = self.runtime.guard_seen()
        else {
            return Ok(());
        };
        if margin >= self.config.margin {
            return Ok(());
        }
        Err(attempt.cannot(format!(
            "the guard of this run has a margin of {} ms, configured are {} ms: restart the database",
            millis(margin),
            millis(self.config.margin)
        )))
    }

    /// The same for whoever only reads, which may be on the way of a failover.
    async fn still(&self, attempt: &Attempt) -> Result<Changing, ActionError> {
        let lock = Arc::clone(&self.changing).lock_owned();
        let guard = timeout_at(attempt.deadline(), lock).await.map_err(|_| attempt.timed_out())?;
        self.runtime.end_leftover_tools(attempt).await?;
        if let Some(why) = self.runtime.in_use_by_server().await {
            return Err(attempt.refused(why));
        }
        Ok(Arc::new(guard))
    }

    /// Reads files, which may wait for a disk, away from the threads that serve the lease. Past the
    /// deadline that goes on there, unheard.
    async fn reading<T: Send + 'static>(
        &self,
        attempt: &Attempt,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ActionError> {
        match timeout_at(attempt.deadline(), tokio::task::spawn_blocking(work)).await {
            Err(_) => Err(attempt.timed_out()),
            Ok(Err(ended)) => Err(attempt.refused(ended)),
            Ok(Ok(result)) => Ok(result),
        }
    }

    /// Does file work that may wait for a disk, away from the threads that serve the lease. Past the
    /// deadline it goes on there, and keeps the right to change the data directory until its end.
    async fn file_work<T: Send + 'static>(
        &self,
        changing: &Changing,
        attempt: &Attempt,
        work: impl FnOnce(&InstanceConfig, &Layout) -> Result<T, String> + Send + 'static,
    ) -> Result<T, ActionError> {
        let (config, layout) = (Arc::clone(&self.config), self.layout.clone());
        let changing = Arc::clone(changing);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&config, &layout);
            drop(changing);
            result
        });
        match timeout_at(attempt.deadline(), done).await {
            Err(_) => Err(attempt.timed_out()),
            Ok(Err(ended)) => Err(attempt.failed(ended, Effect::Unknown)),
            Ok(Ok(result)) => result.map_err(|why| attempt.failed(why, Effect::Unknown)),
        }
    }
}

impl PostgresDriver for Instance {
    fn guard(&self) -> GuardSeen {
        self.runtime.guard_seen()
    }

    async fn ensure_guard(&self, deadline: Instant) -> Result<(), ActionError> {
        self.runtime.start_guard(&Attempt::new("start the guard", deadline)).await
    }

    async fn kill_guard(&self, deadline: Instant) -> Result<(), ActionError> {
        self.runtime.kill_guard(&Attempt::new("kill the frozen guard", deadline)).await
    }

    async fn stop_guard(&self, deadline: Instant) -> Result<(), ActionError> {
        self.runtime.stop_guard(&Attempt::new("stop the guard", deadline)).await
    }

    fn read_permit(&self) -> Result<Option<Permit>, ActionError> {
        self.runtime.files().read_permit()
    }

    fn write_permit(&self, permit: &Permit) -> Result<(), ActionError> {
        self.runtime.files().write_permit(permit)
    }

    async fn end_tools(&self, deadline: Instant) {
        self.runtime.end_tools(deadline).await;
    }

    async fn kill_orphans(&self, deadline: Instant) -> Result<(), ActionError> {
        self.runtime.end_orphans(&Attempt::new("kill orphaned processes", deadline)).await
    }

    async fn inspect(&self, deadline: Instant) -> DataDir {
        self.look(deadline).await
    }

    async fn probe(&self, deadline: Instant) -> Result<Probe, ProbeError> {
        let InstanceConfig { port, superuser, .. } = &*self.config;
        crate::probe::read(&self.host(), *port, superuser, deadline).await
    }

    async fn probe_write(&self, deadline: Instant) -> Result<(), ProbeError> {
        let InstanceConfig { port, superuser, .. } = &*self.config;
        crate::probe::write(&self.host(), *port, superuser, deadline).await
    }

    async fn initdb(&self, deadline: Instant) -> Result<ControlFile, ActionError> {
        self.make_cluster(&Attempt::new("initialise a database cluster", deadline)).await
    }

    async fn clone_from(
        &self,
        upstream: &Upstream,
        max_rate_kib: Option<u32>,
        progress: &(dyn Fn(u64, Option<u64>) + Send + Sync),
        deadline: Instant,
    ) -> Result<(), ActionError> {
        let attempt = Attempt::new(format!("clone from {}", upstream.node), deadline);
        self.make_clone(upstream, max_rate_kib, progress, &attempt).await
    }

    async fn reload(&self, deadline: Instant) -> Result<Reloaded, ActionError> {
        self.reload_and_look(&Attempt::new("reload the configuration", deadline)).await
    }

    fn want(&self, conf: Option<ClusterConf>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = conf.map(Arc::new);
    }

    async fn apply_cluster(
        &self,
        standby: bool,
        deadline: Instant,
    ) -> Result<ClusterApplied, ActionError> {
        let attempt = Attempt::new("apply the cluster's configuration", deadline);
        self.apply_wanted(standby, &attempt).await
    }

    fn condemn_cluster(&self) -> Result<bool, ActionError> {
        let attempt = Attempt::new("fall back to an earlier configuration", Instant::now());
        cluster_conf::condemn(&self.config, &self.layout).map_err(|why| attempt.refused(why))
    }

    async fn check_parameters(
        &self,
        values: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<BTreeMap<String, Verdict>, ActionError> {
        self.check_values(values, &Attempt::new("check parameters", deadline)).await
    }

    async fn rewind(&self, upstream: &Upstream, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new(format!("rewind to follow {}", upstream.node), deadline);
        self.rewind_to(upstream, &attempt).await
    }

    async fn keep_diverged(
        &self,
        fork: WalPosition,
        end: WalPosition,
        into: &Path,
        deadline: Instant,
    ) -> Result<Diverged, ActionError> {
        let attempt = Attempt::new(format!("keep diverged WAL in {}", into.display()), deadline);
        self.keep_wal(fork, end, into, &attempt).await
    }

    async fn adopt_wal(&self, files: &[PathBuf], deadline: Instant) -> Result<(), ActionError> {
        self.take_wal(files, &Attempt::new("adopt WAL", deadline)).await
    }

    async fn prepare_standby(
        &self,
        upstream: Option<&Upstream>,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        let attempt = Attempt::new("prepare the start as a standby", deadline);
        self.prepare_as_standby(upstream, &attempt).await
    }

    async fn prepare_restart_in_place(
        &self,
        admit: bool,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        self.prepare_in_place(admit, &Attempt::new("prepare the restart in place", deadline)).await
    }

    async fn follow(
        &self,
        upstream: Option<&Upstream>,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        let whom = upstream.map_or("nobody", |upstream| upstream.node.as_str());
        self.point_at(upstream, &Attempt::new(format!("follow {whom}"), deadline)).await
    }

    async fn promote(&self, deadline: Instant) -> Result<WalPosition, ActionError> {
        let attempt = Attempt::new("promote", deadline);
        self.expect_margin(&attempt)?;
        self.end_recovery(&attempt).await
    }

    async fn checkpoint(&self, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new("checkpoint", deadline);
        let settings = [("statement_timeout", "0")];
        self.execute("CHECKPOINT", &settings, &attempt, Effect::Unknown).await.map(drop)
    }

    async fn keep_internal_user(&self, deadline: Instant) -> Result<bool, ActionError> {
        let attempt = Attempt::new("keep the internal user", deadline);
        self.mend_internal_user(&attempt).await
    }

    async fn keep_slots(
        &self,
        peers: &[NodeId],
        positions: &[(NodeId, Lsn)],
        gone: &[NodeId],
        deadline: Instant,
    ) -> Result<Vec<NodeId>, ActionError> {
        let attempt = Attempt::new("keep replication slots", deadline);
        self.mend_slots(peers, positions, gone, &attempt).await
    }

    async fn set_synchronous(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        let attempt = Attempt::new("change synchronous_standby_names", deadline);
        self.say_synchronous(to, &attempt).await
    }

    async fn receivers(&self, deadline: Instant) -> Result<Receivers, ProbeError> {
        self.look_at_receivers(deadline).await
    }

    async fn settle_synchronous(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> Result<Lsn, ActionError> {
        let attempt = Attempt::new("settle synchronous_standby_names", deadline);
        self.say_synchronous_with_barrier(to, &attempt).await
    }

    async fn admit_clients(&self, admit: bool, deadline: Instant) -> Result<(), ActionError> {
        let what = if admit { "let clients in" } else { "keep clients out" };
        self.admit(admit, &Attempt::new(what, deadline)).await
    }

    async fn detach(&self, deadline: Instant) -> Result<Detached, ActionError> {
        self.stop_receiving(&Attempt::new("stop receiving WAL", deadline)).await
    }

    fn spool(&self) -> PathBuf {
        self.layout.spool()
    }

    fn clear_spool(&self) -> Result<(), ActionError> {
        let attempt = Attempt::new("clear the spool", Instant::now());
        directory::empty_dir(&self.layout.spool()).map_err(|why| attempt.refused(why))
    }

    fn wal_dir(&self) -> PathBuf {
        self.layout.wal_dir()
    }

    async fn end_of_wal(&self, deadline: Instant) -> Result<WalPosition, ActionError> {
        let attempt = Attempt::new("find the end of WAL", deadline);
        let _still = self.still(&attempt).await?;
        self.find_end_of_wal(&attempt).await
    }

    fn local_history(&self) -> Result<Vec<TimelineSwitch>, ActionError> {
        let attempt = Attempt::new("read the timeline history", Instant::now());
        directory::local_history(&self.layout).map_err(|why| attempt.refused(why))
    }

    fn wal_tip(&self, position: WalPosition) -> Result<Tip, ActionError> {
        let attempt = Attempt::new("read how far the WAL reaches", Instant::now());
        let mut tip = tip_of_local(&self.layout.in_data("pg_wal"), position)
            .map_err(|error| attempt.refused(error))?;
        // What was replayed is there, whatever the files say.
        if tip.end.timeline == position.timeline {
            tip.end.lsn = tip.end.lsn.max(position.lsn);
        }
        Ok(tip)
    }

    async fn upstream_history(
        &self,
        upstream: &Upstream,
        deadline: Instant,
    ) -> Result<UpstreamHistory, ActionError> {
        let attempt = Attempt::new(format!("read the history of {}", upstream.node), deadline);
        self.ask_history(upstream, &attempt).await
    }

    async fn move_aside(&self, why: &str, deadline: Instant) -> Result<PathBuf, ActionError> {
        let attempt = Attempt::new("move the data directory aside", deadline);
        let changing = self.change(&attempt).await?;
        let why = why.to_owned();
        let moved = self.file_work(&changing, &attempt, move |config, layout| {
            directory::move_aside(layout, config.run_as, &why)
        });
        moved.await
    }

    fn prune_aside(&self, keep: usize) -> Result<Vec<PathBuf>, ActionError> {
        self.delete_aside(keep, &Attempt::new("delete old data directories", Instant::now()))
    }

    fn free_bytes(&self) -> Result<u64, ActionError> {
        let attempt = Attempt::new("read the free space", Instant::now());
        directory::free_bytes(&self.layout).map_err(|why| attempt.refused(why))
    }

    fn margin(&self) -> Duration {
        self.config.margin
    }

    async fn survey(&self, deadline: Instant) -> Result<Survey, ActionError> {
        self.look_around(&Attempt::new("look at what runs on the server", deadline)).await
    }

    async fn checkup(&self, deadline: Instant) -> Result<Checkup, ProbeError> {
        self.measure(deadline).await
    }

    async fn knock(&self, at: &Upstream, deadline: Instant) -> Vec<Knock> {
        checkup::knock(&self.config.replication, at, deadline).await
    }

    fn logins(&self) -> Option<Logins> {
        Some(self.own_logins())
    }

    fn trouble(&self) -> Option<String> {
        self.runtime.trouble()
    }

    fn container_id(&self) -> Option<String> {
        self.runtime.container_id()
    }

    async fn changed(&self) {
        self.runtime.changed().await;
    }
}
