//! A witness keeps WAL: it receives from the holder of the lease, acknowledges commits, and hands the
//! WAL on to data nodes that lack it.
//!
//! It follows the lease, never anything else: it receives under an epoch that it has not pledged away,
//! and once it has pledged, an answer leaves only after the receiver is proven dead.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_core::ancestry::{Line, TimelineSwitch, doubtful_from};
use ha_core::decide::Rule;
use ha_core::{Epoch, Lsn, NodeId, NodeKind, TimelineId};
use ha_postgres::credentials::password_of;
use ha_postgres::driver::{PostgresDriver, Upstream};
use ha_postgres::instance::{ask_history, ensure_own_slot};
use ha_postgres::wal::files::{Tip, tip};
use ha_postgres::wal::receiver::{self, ReceiveError, Receiver, ReceiverConfig};
use ha_postgres::wal::store::WalStore;
use ha_postgres::{Role, Secret};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use crate::agent::{Agent, lock};
use crate::config::{Config, WitnessSettings};
use crate::promotions;

/// How long a receiver that ended waits before it is started again, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// A receiver that ran for so long had no trouble at its start.
const STEADY: Duration = Duration::from_secs(5);
/// How long a primary may take to tell its history.
const HISTORY_LIMIT: Duration = Duration::from_secs(2);
/// How long ending a receiver may take.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How often positions are read, and WAL that nobody needs is removed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much WAL is kept beyond what the data nodes have: a rewind reads back to the checkpoint before
/// the fork.
const KEEP_BEHIND: u64 = 256 << 20;

/// What keeps WAL on a witness.
#[derive(Debug)]
pub struct Witness {
    /// The `[witness]` section.
    pub settings: WitnessSettings,
    role: Option<Role>,
    bin_dir: Option<PathBuf>,
    /// Why no WAL can be kept; `None` if it can.
    pub unable: Option<String>,
    /// What was seen.
    pub facts: Mutex<Facts>,
    /// Under which epoch a receiver may be alive. Set before it starts, cleared once it is proven dead.
    active: watch::Sender<Option<Epoch>>,
    wake: Notify,
}

/// What a witness has seen of its WAL.
#[derive(Debug, Default)]
pub struct Facts {
    /// Whether a receiver has been running for a moment.
    pub receiving: bool,
    /// The WAL that is there, as of the latest look.
    pub tip: Option<Tip>,
    /// How much of it, bytes.
    pub bytes: u64,
    /// WAL before this was given up for the bound although a data node may need it.
    pub dropped_up_to: Option<Lsn>,
    /// Why nothing is received, one line.
    pub trouble: Option<String>,
    /// What is wrong with the files, one line.
    pub damaged: Option<String>,
}

impl Witness {
    /// Finds out whether WAL can be kept here: the client programs, the password.
    pub fn new(config: &Config) -> Option<Self> {
        let settings = config.witness.clone()?;
        let bin_dir = settings.bin_dir.clone().or_else(newest_bin_dir);
        let tools = match &bin_dir {
            Some(dir) => receiver::tools(dir).map(drop),
            None => {
                Err("pg_receivewal is not installed: install the PostgreSQL client programs of \
                         the same major, such as Debian's postgresql-client-15"
                    .to_owned())
            }
        };
        let password = match &settings.replication_password_file {
            None => Err("witness.replication_password_file is not set".to_owned()),
            Some(path) => password_of(path),
        };
        let (role, unable) = match (tools, password) {
            (Ok(()), Ok(password)) => {
                (Some(Role { name: settings.replication_user.clone(), password }), None)
            }
            (Err(why), _) | (Ok(()), Err(why)) => (None, Some(format!("keeps no WAL: {why}"))),
        };
        if let Some(why) = &unable {
            info!(why, "this witness votes, but does not acknowledge commits");
        }
        Some(Self {
            settings,
            role,
            bin_dir,
            unable,
            facts: Mutex::default(),
            // An earlier agent may have left a receiver.
            active: watch::Sender::new(Some(Epoch::NONE)),
            wake: Notify::new(),
        })
    }

    /// Returns the user that WAL is received as; `None` if none can be.
    #[must_use]
    pub fn role(&self) -> Option<&Role> {
        self.role.as_ref()
    }

    /// Returns once no receiver of an epoch up to `pledged` is alive. The pledge must have been made.
    pub async fn silenced(&self, pledged: Epoch, limit: Duration) -> bool {
        self.wake.notify_one();
        let mut active = self.active.subscribe();
        let quiet = active.wait_for(|epoch| epoch.is_none_or(|epoch| epoch > pledged));
        matches!(timeout(limit, quiet).await, Ok(Ok(_)))
    }

    /// Makes sure that what is there stays there.
    ///
    /// # Errors
    /// If it cannot, in one line.
    pub async fn sync(&self) -> Result<(), String> {
        let dir = self.settings.wal_dir.clone();
        let synced = tokio::task::spawn_blocking(move || {
            WalStore::open(&dir).and_then(|store| store.sync())
        });
        synced.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Reads what WAL is there.
    ///
    /// # Errors
    /// If it cannot be read, in one line.
    pub async fn read_tip(&self) -> Result<Option<Tip>, String> {
        let dir = self.settings.wal_dir.clone();
        let read = tokio::task::spawn_blocking(move || tip(&dir)).await;
        let found = read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let mut facts = lock(&self.facts);
        facts.damaged = found.as_ref().and_then(|tip| tip.damaged.clone());
        facts.tip.clone_from(&found);
        Ok(found)
    }

    /// The receiver; of one that cannot be run, what is needed to end an earlier one.
    fn receiver(&self, node: &NodeId) -> Receiver {
        let nobody = || Role { name: String::new(), password: Secret::new("").into() };
        Receiver::new(ReceiverConfig {
            node: node.clone(),
            bin_dir: self.bin_dir.clone().unwrap_or_default(),
            dir: self.settings.wal_dir.clone(),
            replication: self.role.clone().unwrap_or_else(nobody),
            run_as: None,
        })
    }
}

/// Debian's and most others' place, the newest major first.
fn newest_bin_dir() -> Option<PathBuf> {
    let majors = (15..=18).rev();
    let places = majors.flat_map(|major| {
        [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")]
    });
    let mut places = places.chain(["/usr/local/bin".to_owned(), "/usr/bin".to_owned()]);
    places.find(|dir| PathBuf::from(dir).join("pg_receivewal").exists()).map(PathBuf::from)
}

/// Whom to receive from now: the holder of a lease that was not pledged away.
fn wanted<D: PostgresDriver>(agent: &Agent<D>) -> Option<(Epoch, NodeId)> {
    let state = agent.state();
    if state.is_leaving(agent.node()) {
        return None;
    }
    #[cfg(feature = "sabotage")]
    if ha_raft::sabotage::is("revoke-skipped") {
        // Whatever became of the lease: whoever was promoted last.
        return state.latest_promotion().map(|latest| (latest.epoch, latest.holder.clone()));
    }
    let grant = state.lease.grant()?;
    (grant.epoch > agent.pledge.epoch()).then(|| (grant.epoch, grant.holder.clone()))
}

/// Receives WAL for as long as the agent runs.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let Some(witness) = &agent.witness else { return };
    let receiver = witness.receiver(agent.node());
    // A receiver that an earlier start of the agent left goes on acknowledging: it is ended before
    // anything is promised.
    end(witness, &receiver).await;
    if witness.unable.is_some() {
        return;
    }
    let mut state = agent.raft.state();
    let mut wait = RETRY_MIN;
    loop {
        let Some((epoch, holder)) = wanted(&agent) else {
            tokio::select! {
                _ = state.changed() => {}
                () = witness.wake.notified() => {}
            }
            continue;
        };
        // First said, then checked again, then begun: a pledge in between is either seen here, or
        // sees that this may be alive.
        witness.active.send_replace(Some(epoch));
        let began = Instant::now();
        let begun = is_recorded(&agent, epoch);
        if wanted(&agent) == Some((epoch, holder.clone())) {
            let stop = superseded(&agent, epoch);
            let ended = tokio::select! {
                biased;
                () = stop => None,
                ended = receive(&agent, witness, &receiver, &holder) => Some(ended),
            };
            note_end(witness, &holder, ended);
        }
        // Dropped above; what is still to be proven is that nothing of it is left.
        end(witness, &receiver).await;
        lock(&witness.facts).receiving = false;
        if began.elapsed() >= STEADY {
            wait = RETRY_MIN;
        }
        let same = wanted(&agent).is_some_and(|(now, _)| now == epoch);
        if same {
            tokio::select! {
                () = sleep(wait) => wait = (wait * 3 / 2).min(RETRY_MAX),
                () = superseded(&agent, epoch) => wait = RETRY_MIN,
                // Commits of a new primary may wait for nobody but this node.
                () = recorded(&agent, epoch), if !begun => wait = RETRY_MIN,
            }
        } else {
            wait = RETRY_MIN;
        }
    }
}

/// Returns once nothing of a receiver is left, and says so.
async fn end(witness: &Witness, receiver: &Receiver) {
    while let Err(error) = receiver.stop_leftovers(Instant::now() + END_LIMIT).await {
        warn!(%error, "the receiver could not be ended yet");
    }
    witness.active.send_replace(None);
}

/// Returns once another epoch, or none, is to be received under.
async fn superseded<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) {
    let Some(witness) = &agent.witness else { return };
    let mut state = agent.raft.state();
    while wanted(agent).is_some_and(|(now, _)| now == epoch) {
        tokio::select! {
            _ = state.changed() => {}
            () = witness.wake.notified() => {}
        }
    }
}

/// Returns whether the promotion under that epoch is recorded: nothing is received before.
fn is_recorded<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) -> bool {
    agent.state().latest_promotion().is_some_and(|latest| latest.epoch >= epoch)
}

/// Returns once it is.
async fn recorded<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) {
    let mut state = agent.raft.state();
    while !is_recorded(agent, epoch) && state.changed().await.is_ok() {}
}

fn note_end(witness: &Witness, holder: &NodeId, ended: Option<Result<(), String>>) {
    let mut facts = lock(&witness.facts);
    let trouble = match ended {
        None | Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("receives no WAL from {holder}: {why}")),
    };
    if facts.trouble != trouble
        && let Some(why) = &trouble
    {
        info!(why, "receiver ended");
    }
    facts.trouble = trouble;
}

/// Makes the store fit for the holder's history, then receives until something is in the way.
async fn receive<D: PostgresDriver>(
    agent: &Agent<D>,
    witness: &Witness,
    receiver: &Receiver,
    holder: &NodeId,
) -> Result<(), String> {
    let from = agent.upstream(holder).ok_or("its address is not known yet")?;
    fit_store(agent, witness, &from).await?;
    let steady = async {
        sleep(Duration::from_millis(300)).await;
        {
            let mut facts = lock(&witness.facts);
            facts.receiving = true;
            facts.trouble = None;
        }
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        ended = receiver.run(&from) => match ended {
            Ok(never) => match never {},
            Err(error) => error,
        },
        () = steady => return Ok(()),
    };
    if matches!(error, ReceiveError::SlotMissing)
        && let Some(role) = &witness.role
    {
        let made = ensure_own_slot(agent.node(), role, &from, Instant::now() + HISTORY_LIMIT).await;
        return made.map_err(|error| error.to_string());
    }
    if matches!(error, ReceiveError::WalRemoved(_) | ReceiveError::NotInHistory(_)) {
        start_over(agent, witness, &error).await?;
    }
    Err(error.to_string())
}

/// Moves aside what the holder's history lacks: it was received, and lost, before an earlier election.
async fn fit_store<D: PostgresDriver>(
    agent: &Agent<D>,
    witness: &Witness,
    from: &Upstream,
) -> Result<(), String> {
    let Some(role) = &witness.role else { return Ok(()) };
    let asked = ask_history(agent.node(), role, from, Instant::now() + HISTORY_LIMIT).await;
    let theirs = asked.map_err(|error| error.to_string())?;
    // Before its promotion the holder's history is not final, and its timeline not ours to judge by.
    if !theirs.writable {
        return Err("it does not accept writes yet".to_owned());
    }
    // Nor can its timeline be told from another one of that number before it is recorded (rule 57).
    let state = agent.state();
    if state.system_identifier != Some(theirs.system_identifier) {
        return Err(format!("it has another database: {}", theirs.system_identifier));
    }
    let Some(origin) = state.latest_promotion().filter(|latest| {
        Some(latest.epoch) == state.lease.grant().map(|grant| grant.epoch)
            && latest.begin.timeline == theirs.timeline
    }) else {
        return Err("its promotion is not recorded yet".to_owned());
    };
    let tip = witness.read_tip().await?;
    let had = tip.as_ref().map(|tip| tip.end.timeline);
    let there =
        Line { timeline: theirs.timeline, switches: &theirs.switches, origin: Some(origin.epoch) };
    let namesake = tip.is_some_and(|tip| {
        let dir = &agent.config.data_dir;
        let origin = promotions::origin(dir, tip.end.timeline);
        let here = Line { timeline: tip.end.timeline, switches: &tip.history, origin };
        promotions::is_unrecorded(dir, tip.end.timeline, &state)
            || doubtful_from(here, there, &state.history).is_some()
    });
    if namesake {
        set_aside(agent, witness, TimelineId(0), Vec::new()).await?;
    }
    set_aside(agent, witness, theirs.timeline, theirs.switches).await?;
    let (dir, epoch, timeline) = (agent.config.data_dir.clone(), origin.epoch, theirs.timeline);
    let from = had.filter(|_| !namesake).unwrap_or(timeline);
    let note = move || promotions::note(&dir, epoch, timeline, from);
    let noted = tokio::task::spawn_blocking(note).await;
    noted.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

async fn set_aside<D: PostgresDriver>(
    agent: &Agent<D>,
    witness: &Witness,
    timeline: TimelineId,
    history: Vec<TimelineSwitch>,
) -> Result<(), String> {
    let dir = witness.settings.wal_dir.clone();
    // Held to the end of the work, also if nobody waits for that any more: an election reads meanwhile.
    let moving = Arc::clone(&agent.receiving).lock_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let done = WalStore::open(&dir).and_then(|store| store.set_aside(timeline, &history));
        drop(moving);
        done
    });
    let aside = done.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    if let Some(aside) = aside {
        warn!(to = %aside.path.display(), "kept WAL is not part of the primary's history: set aside");
    }
    Ok(())
}

/// The primary cannot continue what is here: there will be a gap. What was kept is set aside, all of it,
/// since it is no history's that begins anew.
async fn start_over<D: PostgresDriver>(
    agent: &Agent<D>,
    witness: &Witness,
    error: &ReceiveError,
) -> Result<(), String> {
    warn!(%error, "the primary cannot continue the WAL that is kept here: starting over");
    set_aside(agent, witness, TimelineId(0), Vec::new()).await
}

/// Reads positions, and keeps the store within its bound, for as long as the agent runs.
pub async fn look<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let Some(witness) = &agent.witness else { return };
    if witness.unable.is_some() {
        return;
    }
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = witness.read_tip().await {
            lock(&witness.facts).damaged = Some(error);
        }
        let keep_from = needed_from(&agent);
        let (dir, max) = (witness.settings.wal_dir.clone(), witness.settings.wal_bytes_max);
        let done = tokio::task::spawn_blocking(move || tidy(&dir, keep_from, max)).await;
        match done {
            Ok(Ok((bytes, dropped))) => {
                let mut facts = lock(&witness.facts);
                facts.bytes = bytes;
                if let Some(dropped) = dropped {
                    warn!(%dropped, max, "kept WAL exceeds its bound: the oldest was removed");
                    facts.dropped_up_to = Some(dropped);
                }
                // Nobody needs it any more.
                let over = facts.dropped_up_to.is_some_and(|up_to| keep_from >= Some(up_to));
                if over {
                    facts.dropped_up_to = None;
                }
            }
            Ok(Err(error)) => debug!(error, "could not look after the kept WAL"),
            Err(error) => debug!(%error, "could not look after the kept WAL"),
        }
    }
}

fn tidy(
    dir: &std::path::Path,
    keep_from: Option<Lsn>,
    max: u64,
) -> Result<(u64, Option<Lsn>), String> {
    let text = |error: ha_postgres::wal::WalError| error.to_string();
    let store = WalStore::open(dir).map_err(text)?;
    if let Some(from) = keep_from {
        store.prune(Lsn(from.0.saturating_sub(KEEP_BEHIND))).map_err(text)?;
    }
    let dropped = store.enforce(max).map_err(text)?;
    Ok((store.bytes().map_err(text)?, dropped.map(|dropped| dropped.up_to)))
}

/// The oldest position that some data node still needs; `None` if one of them has never been heard.
///
/// A node that does not answer needs what it needed when it last did.
fn needed_from<D: PostgresDriver>(agent: &Agent<D>) -> Option<Lsn> {
    let state = agent.state();
    let sightings = lock(&agent.sightings);
    let data = state.nodes.iter().filter(|(_, is)| is.kind == NodeKind::Data);
    data.map(|(node, _)| {
        let (_, report) = sightings.get(node)?.answered.as_ref()?;
        let postgres = report.postgres.as_ref()?;
        let usable = postgres.data_dir == "present";
        let has = Lsn(postgres.flushed?.lsn);
        // One that does not follow may have to go back to where the history left its own.
        let follows = report.rule == Rule::Following.name() || report.rule == Rule::Serving.name();
        let fork = state.latest_promotion().filter(|_| !follows).map(|latest| latest.begin.lsn);
        usable.then(|| fork.map_or(has, |fork| has.min(fork)))
    })
    .try_fold(Lsn(u64::MAX), |least, at| Some(least.min(at?)))
    .filter(|least| *least != Lsn(u64::MAX))
}
