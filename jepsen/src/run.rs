//! One run: a cluster, clients, faults, an end in which all must be well, a verdict.

pub mod analysis;
pub mod announced;
pub mod heal;
pub mod torment;
pub mod verdict;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ha_tests::status;
use tokio::sync::watch::channel;

use crate::env::place::Place;
use crate::env::resolver::Names;
use crate::env::{Database, Durability, Env, Ground, Kind};
use crate::harness::{Harness, Trying as _};
use crate::journal::Journal;
use crate::nemesis::{Fault, Plan};
use crate::workload::client::{Access, Door};
use crate::workload::draw::Source;
use crate::workload::execute::How;
use crate::workload::lane::{Clients, Habit, Lane};
use crate::workload::{Level, Workload, schema};
use torment::{Story, Torment};
use verdict::{Facts, Verdict};

/// In a run's directory: when whose guard named a right to be primary.
const LEASES: &str = "leases.jsonl";
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the cluster may take until it is healthy, once nothing is broken any more.
const HEAL_LIMIT: Duration = Duration::from_secs(120);
/// How long a cluster may take to begin on disks of its own: each of the many small writes is a question to a process.
const ON_DISKS_LIMIT: Duration = Duration::from_secs(240);
/// How long is waited for the quorum to be in force before the first client comes.
const IN_FORCE_LIMIT: Duration = Duration::from_secs(60);
/// How long clients go on after that.
const AFTER: Duration = Duration::from_secs(3);
/// How long standbys may take in the end to have what the primary has.
const LEVEL_LIMIT: Duration = Duration::from_secs(30);
/// Time from one read on a standby to the next.
const READ_PACE: Duration = Duration::from_millis(200);
/// How long the last reads may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub env: Kind,
    /// What clients do.
    pub workload: Workload,
    /// Which faults may be drawn.
    pub faults: Vec<Fault>,
    /// Which faults come, instead of drawing them.
    pub script: Option<String>,
    /// How long faults are made.
    pub seconds: u64,
    /// Calls in a second, all clients together.
    pub rate: u64,
    /// What everything is drawn from.
    pub seed: u64,
    /// Where runs are kept.
    pub store: PathBuf,
    /// Level of transactions.
    pub level: Level,
    /// What commits wait for.
    pub durability: Durability,
    /// Whether the witness keeps no WAL.
    pub bare_witness: bool,
    /// Whether disks for data say that they synced, and do not, from the first client on.
    pub lying_disks: bool,
    /// Whether containers live on while their engine is away.
    pub live_restore: bool,
    /// Whether names that are not known to their engine are answered.
    pub names: Names,
}

/// Whether somebody wants the run to end early.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Returns whether it is to end.
    pub fn wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks for an end.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Options {
    /// Returns a name for runs of this kind.
    pub fn name(&self) -> String {
        let level = match (self.workload, self.level) {
            (Workload::Append | Workload::Bank, level) => {
                format!("-{}", level.sql().replace(' ', "-"))
            }
            _ => String::new(),
        };
        format!("{}-{}{level}", self.env.name(), self.workload.name())
    }

    /// Makes the directory of a new run and returns it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn directory(&self) -> Result<PathBuf, Harness> {
        let now = i64::try_from(ha_agent::clock::wall_unix_ms()).unwrap_or_default();
        let now = chrono::DateTime::from_timestamp_millis(now).unwrap_or_default();
        let time = format!("{}-{}", now.format("%Y%m%dT%H%M%S%.3f"), self.seed);
        let dir = self.store.join(self.name()).join(time);
        std::fs::create_dir_all(&dir).trying(|| format!("make {}", dir.display()))?;
        Ok(dir)
    }

    /// Returns the plan of faults.
    ///
    /// # Errors
    /// If a script is not one.
    pub fn plan(&self) -> Result<Plan, Harness> {
        let plan = match &self.script {
            Some(text) => Plan::script(text, self.seed).map_err(Harness::new)?,
            None => Plan::random(&self.faults, self.seconds, self.seed),
        };
        if plan.any(Fault::shows_unacknowledged)
            && !matches!(self.workload, Workload::Set | Workload::Probe)
        {
            let why = "a commit whose wait is cancelled is visible and may be lost, as PostgreSQL says: \
                       only the workloads set and probe can judge that";
            return Err(Harness::new(why));
        }
        Ok(plan)
    }
}

/// Does a run and says what came of it. The directory is made by the caller.
///
/// # Errors
/// If the suite failed; that says nothing of the cluster.
pub async fn run(
    options: &Options,
    ground: Ground,
    dir: &Path,
    stop: &Stop,
) -> Result<Verdict, Harness> {
    let plan = options.plan()?;
    let journal = Arc::new(Journal::create(dir)?);
    let spares = plan.any(Fault::changes_members);
    let (durability, bare) = (options.durability, options.bare_witness);
    let mut env = Env::create(&options.name(), ground, durability, bare, spares)?;
    if plan.any(Fault::puts_off_clocks) {
        env.wind_clocks()?;
    }
    if options.lying_disks || plan.any(Fault::needs_disks) {
        env.mount_disks()?;
    }
    let access = prepare(&mut env, options).await?;
    if options.lying_disks {
        let disks = env.disks.as_mut().ok_or_else(|| Harness::new("there are no disks to lie"))?;
        disks.lie()?;
    }
    let guards = watch::Guards::of(&env);
    let confirm = plan.any(Fault::allows_stale_reads);
    let clients = Arc::new(Clients {
        workload: options.workload,
        how: How { level: options.level, confirm },
        limit: PATIENCE,
        access: access.clone(),
        source: Source::default(),
        journal: Arc::clone(&journal),
    });
    journal.know(access.databases.clone(), guards.clone());
    let (stop_watching, watching) = channel(false);
    let watcher = tokio::spawn(guards.follow(Arc::clone(&journal), watching));
    let (stop_clients, living) = channel(false);
    let lanes: Vec<_> = lanes(options, &access)
        .into_iter()
        .map(|lane| tokio::spawn(Arc::clone(&clients).live(lane, options.seed, living.clone())))
        .collect();
    let span = Duration::from_secs(options.seconds);
    let torment = Torment::new(&mut env, &access, &journal, Instant::now());
    let story = torment.run(&plan, span, stop).await?;
    let healed = heal::heal(&mut env, &journal, options.bare_witness, HEAL_LIMIT).await?;
    tokio::time::sleep(AFTER).await;
    stop_clients.send(true).trying(|| "stop the clients".to_owned())?;
    for lane in lanes {
        lane.await.trying(|| "end a client".to_owned())?;
    }
    let read = healed.is_ok() && clients.read_all(options.seed, READ_LIMIT).await;
    let level = heal::level(&env, &access, LEVEL_LIMIT).await;
    stop_watching.send(true).trying(|| "stop watching".to_owned())?;
    let intervals = watcher.await.trying(|| "end the watcher".to_owned())?;
    keep(&env, dir, &intervals, &story)?;
    let history = journal.finish()?;
    if stop.wanted() {
        return Err(Harness::new("interrupted"));
    }
    let facts = Facts { options, plan: &plan, story: &story, healed: &healed, read, level: &level };
    let acks = journal.acks();
    let mut checks = verdict::judge(&facts, &acks, dir)?;
    let run = analysis::asked(options, &plan, dir, &intervals);
    checks.extend(analysis::history(&run, &history, dir)?);
    let verdict = Verdict(checks);
    verdict::write(&facts, &verdict, dir)?;
    Ok(verdict)
}

/// Starts the cluster and makes what clients need.
async fn prepare(env: &mut Env, options: &Options) -> Result<Access, Harness> {
    let primary = match &mut env.place {
        Place::Containers(containers) => containers.begin(options.bare_witness).await,
        Place::Processes(cluster) if env.disks.is_some() => {
            cluster.start_agents();
            let status = cluster.streaming(ON_DISKS_LIMIT).await;
            status::holder(&status).to_owned()
        }
        Place::Processes(cluster) => cluster.bootstrap().await.0,
    };
    // Where the witness keeps no WAL, the standby alone is in the quorum.
    if options.durability == Durability::Quorum && !options.bare_witness {
        env.place.quorum_in_force(IN_FORCE_LIMIT).await;
    }
    let session = env.place.session(&primary).await?;
    schema::create(&session).await.trying(|| "make the tables".to_owned())?;
    let superuser_file = env.place.superuser_file();
    Ok(Access { databases: env.databases()?, superuser_file })
}

/// Returns the clients of a run: to each database some that stay there, and some that look for the primary; then to
/// each one that reads while it is a standby.
fn lanes(options: &Options, access: &Access) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for database in &access.databases {
        lanes.extend((0..3).map(|_| (Door::Node(database.clone()), Habit::Works)));
        lanes.extend((0..2).map(|_| (Door::Node(database.clone()), Habit::WorksSlowly)));
    }
    lanes.extend((0..4).map(|_| (Door::Writable, Habit::Works)));
    let count = u64::try_from(lanes.len()).unwrap_or(1);
    let pace = Duration::from_millis((count * 1000 / options.rate.max(1)).max(1));
    // A register does not say which of its writes was read.
    let told = options.workload != Workload::Register;
    let reads = |database: &Database| (Door::Node(database.clone()), Habit::ReadsOnStandby);
    lanes.extend(access.databases.iter().filter(|_| told).map(reads));
    let lane = |(number, (door, habit))| {
        let pace = if habit == Habit::ReadsOnStandby { READ_PACE } else { pace };
        Lane { number, door, pace, habit }
    };
    (0..).zip(lanes).map(lane).collect()
}

/// Writes what is known beside the journal.
fn keep(
    env: &Env,
    dir: &Path,
    intervals: &[watch::Interval],
    story: &Story,
) -> Result<(), Harness> {
    env.place.keep_logs(&dir.join("logs"))?;
    let lines: Vec<String> = intervals.iter().map(|i| format!("{}\n", i.json())).collect();
    std::fs::write(dir.join(LEASES), lines.concat()).trying(|| format!("write {LEASES}"))?;
    let told: Vec<String> = story.happened.iter().map(|h| format!("{}\n", h.line())).collect();
    std::fs::write(dir.join("faults.txt"), told.concat()).trying(|| "write faults.txt".to_owned())
}
