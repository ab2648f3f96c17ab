//! Keeps asking the local database whether it is there, and other agents what they see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::permit::RunState;
use ha_postgres::driver::{GuardSeen, PostgresDriver, ProbeError};
use ha_proto::v1::ReportReply;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use crate::agent::{Agent, Database, Sighting, lock};
use crate::clock;
use crate::facts::Server;
use crate::peers::PeerError;
use crate::report;

/// How often a server that never answered in this run is asked.
const STARTING_INTERVAL: Duration = Duration::from_millis(25);
/// One WAL segment: with less, a server cannot go on writing for long.
const FULL_BYTES: u64 = 16 << 20;
/// How often the other agents are asked what they see.
const SIGHTING_INTERVAL: Duration = Duration::from_millis(500);
/// How long one of them may take.
const SIGHTING_LIMIT: Duration = Duration::from_millis(900);

/// Asks the local database at the policy's interval, more often while it starts, until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let Some(database) = &agent.database else { return };
    let health = agent.config.policy.health;
    loop {
        let began = Instant::now();
        let Some(run) = running(database) else {
            // With a limit: a guard that was silent for a moment comes back without a new run.
            drop(timeout(health.interval, agent.probe_now.notified()).await);
            continue;
        };
        probe(&agent, database, run, began + health.limit).await;
        read_history(database, run).await;
        let answered = database.facts().answer(run).is_some();
        let wait = if answered { health.interval } else { STARTING_INTERVAL };
        tokio::select! {
            () = agent.probe_now.notified() => {}
            () = sleep_until(began + wait) => {}
        }
    }
}

/// Asks the local database now, unless its latest answer is younger than `fresh`.
pub async fn refresh<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    fresh: Duration,
    limit: Duration,
) {
    let Some(run) = running(database) else { return };
    let recent = {
        let facts = database.facts();
        facts.server.run == run
            && facts.server.answer.as_ref().is_some_and(|(_, at)| at.elapsed() < fresh)
    };
    if recent {
        return;
    }
    if let Ok(probe) = database.driver.probe(Instant::now() + limit).await {
        answered(agent, database, run, probe, false);
    }
}

fn running<D: PostgresDriver>(database: &Database<D>) -> Option<u64> {
    match database.driver.guard() {
        GuardSeen::Alive(status) if status.state == RunState::Running => Some(status.run),
        GuardSeen::Alive(_) | GuardSeen::Absent | GuardSeen::Silent { .. } => None,
    }
}

async fn probe<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    run: u64,
    deadline: Instant,
) {
    let result = database.driver.probe(deadline).await;
    // It may have been stopped or started anew meanwhile: then the answer says nothing.
    if running(database) != Some(run) {
        return;
    }
    let probe = match result {
        Ok(probe) => probe,
        Err(error) => {
            missed(agent, database, run, error);
            return;
        }
    };
    // Aborted transactions move WAL too: a full disk shows in the space, not in the positions.
    let free = agent.database.as_ref().and_then(|database| database.driver.free_bytes().ok());
    let full = free.filter(|free| !probe.in_recovery && *free < FULL_BYTES);
    if let Some(free) = full {
        let why = format!("only {free} bytes are free under its data directory");
        missed(agent, database, run, ProbeError::CannotWrite(why));
        return;
    }
    let idle = {
        let facts = database.facts();
        facts.answer(run).is_none_or(|last| {
            probe.in_recovery || probe.busy_clients == 0 || last.flushed != probe.flushed
        })
    };
    // Commits are proof that commits work. Only a server with busy clients and no progress is asked to
    // write: so an idle cluster writes nothing.
    if idle {
        answered(agent, database, run, probe, true);
        return;
    }
    match database.driver.probe_write(deadline).await {
        Ok(()) => answered(agent, database, run, probe, true),
        Err(error) => missed(agent, database, run, error),
    }
}

/// Reads the history of the timeline that the server is on, when that has changed.
async fn read_history<D: PostgresDriver>(database: &Database<D>, run: u64) {
    let timeline = {
        let facts = database.facts();
        let Some(timeline) = facts.answer(run).map(|probe| probe.timeline) else { return };
        if facts.history.as_ref().is_some_and(|(of, _)| *of == timeline) {
            return;
        }
        timeline
    };
    let driver = Arc::clone(&database.driver);
    let read = tokio::task::spawn_blocking(move || driver.local_history()).await;
    if let Ok(Ok(mut history)) = read {
        history.retain(|switch| switch.timeline < timeline);
        database.facts().history = Some((timeline, history));
    }
}

fn answered<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    run: u64,
    probe: ha_postgres::driver::Probe,
    proves_health: bool,
) {
    let free = database.driver.free_bytes().ok();
    let mut facts = database.facts();
    let first = facts.answer(run).is_none_or(|last| last.in_recovery != probe.in_recovery);
    if first && !probe.in_recovery {
        agent.quorum_now.notify_one();
    }
    if facts.server.run != run {
        facts.server = Server::of_run(run, clock::now().boottime);
    }
    if !probe.in_recovery {
        facts.writable_run = Some(run);
    }
    facts.server.hear(&probe);
    if probe.streaming {
        facts.server.streamed_at = Some(Instant::now());
    }
    facts.server.answer = Some((probe, Instant::now()));
    if proves_health {
        facts.server.misses = 0;
        facts.server.error = None;
        facts.trouble("database", None);
    }
    facts.free_bytes = free;
    let low = free.filter(|free| *free < agent.config.policy.health.free_bytes_min);
    facts.trouble("disk", low.map(|free| format!("only {free} bytes are free for the database")));
    drop(facts);
    if first {
        agent.wake.notify_one();
    }
}

/// Notes a try without an answer. None of them alone means anything (rule 105); some mean that the
/// server is alive.
fn missed<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    run: u64,
    error: ProbeError,
) {
    let counts = match &error {
        ProbeError::Refused
        | ProbeError::TimedOut { .. }
        | ProbeError::CannotWrite(_)
        | ProbeError::Other(_) => true,
        // A crashed backend makes the server recover by itself in a moment; a start is a state of its
        // own; a wrong password or a full house is somebody else's fault.
        ProbeError::NotReady(_) | ProbeError::Authentication(_) | ProbeError::Full(_) => false,
    };
    let mut facts = database.facts();
    if facts.server.run != run {
        facts.server = Server::of_run(run, clock::now().boottime);
    }
    // A server that never answered in this run is starting: that has limits of its own.
    let known = facts.server.answer.is_some();
    if counts && known {
        facts.server.misses += 1;
        let misses = facts.server.misses;
        facts.trouble("database", Some(format!("database: {error} ({misses} in a row)")));
        warn!(run, misses, %error, "database did not answer");
    } else if matches!(error, ProbeError::Authentication(_)) {
        if facts.server.error.as_ref() != Some(&error) {
            warn!(run, %error, "cannot look at the database");
        }
        facts.trouble("database", Some(format!("database: {error}")));
    } else {
        debug!(run, %error, "database is not ready");
    }
    facts.server.error = Some(error);
    drop(facts);
    agent.wake.notify_one();
}

/// Asks the other agents what they see, until the agent ends.
pub async fn watch_peers<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let mut tasks = JoinSet::new();
    let mut watched: BTreeMap<NodeId, AbortHandle> = BTreeMap::new();
    loop {
        let looked = Instant::now();
        let members = agent.members();
        watched.retain(|node, task| {
            let stays = members.contains_key(node);
            if !stays {
                task.abort();
                lock(&agent.sightings).remove(node);
            }
            stays
        });
        for (node, address) in members.into_iter().filter(|(node, _)| node != agent.node()) {
            if let Err(error) = agent.peers.know(&node, &address) {
                debug!(error, "a peer's address is none");
            }
            let agent = &agent;
            watched
                .entry(node)
                .or_insert_with_key(|node| tasks.spawn(watch(Arc::clone(agent), node.clone())));
        }
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        sleep_until(looked + SIGHTING_INTERVAL).await;
    }
}

async fn watch<D: PostgresDriver>(agent: Arc<Agent<D>>, node: NodeId) {
    loop {
        let asked = Instant::now();
        let request = report::request(&agent, false);
        let reply = agent.peers.report(&node, request, SIGHTING_LIMIT).await;
        note_sighting(&agent, &node, asked, reply);
        sleep_until(asked + SIGHTING_INTERVAL).await;
    }
}

fn note_sighting<D>(
    agent: &Agent<D>,
    node: &NodeId,
    asked: Instant,
    reply: Result<ReportReply, PeerError>,
) {
    let mut sightings = lock(&agent.sightings);
    let known = sightings.get(node);
    let sighting = match reply {
        Ok(report) => Sighting { asked, answered: Some((Instant::now(), report)), error: None },
        Err(error) => {
            let error = error.to_string();
            if known.is_none_or(|seen| seen.error.is_none()) {
                warn!(peer = %node, error, "peer does not answer");
            }
            let answered = known.and_then(|seen| seen.answered.clone());
            Sighting { asked, answered, error: Some(error) }
        }
    };
    sightings.insert(node.clone(), sighting);
}
