//! What the loop keeps in order before it decides: the guard, and what is known of the disk.

use std::sync::Arc;
use std::time::Duration;

use ha_core::WalPosition;
use ha_core::permit::{GuardStatus, RunState};
use ha_core::state::State;
use ha_core::view::{Instance, LeaseView, Order, View};
use ha_postgres::driver::{DataDir, GuardSeen, PostgresDriver};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::agent::{Agent, Database};
use crate::lease_keeper;

/// How long starting a guard, or clearing up after a dead one, may take.
const GUARD_LIMIT: Duration = Duration::from_secs(5);
/// How long killing a frozen guard may hold the loop up.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// How long a guard may be silent before it is taken for frozen: four times its heartbeat and a stall.
const SILENT_MAX: Duration = Duration::from_secs(2);
/// How long the holder of the lease may see nothing of its database.
const BLIND_MAX: Duration = Duration::from_secs(10);
/// How long reading the data directory may take.
const INSPECT_LIMIT: Duration = Duration::from_secs(10);

/// Returns the guard, after starting one if there is none. A dead guard's orphans are killed first.
pub async fn guard<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) -> GuardSeen {
    let seen = database.driver.guard();
    let held_back = database.facts().holds_back("guard", Instant::now());
    let line = match &seen {
        GuardSeen::Alive(_) => None,
        GuardSeen::Absent => Some("its guard is not running".to_owned()),
        GuardSeen::Silent { silent_ms, .. } => {
            Some(format!("its guard has been silent for {silent_ms} ms"))
        }
    };
    let margin = database.driver.margin();
    let other_margin = match &seen {
        GuardSeen::Alive(status) => status.margin.filter(|other| *other != margin),
        GuardSeen::Absent | GuardSeen::Silent { .. } => None,
    };
    let other_margin = other_margin.map(|other| {
        let [guard, ours] = [other, margin].map(ha_core::clock::millis);
        format!(
            "its guard has a margin of {guard} ms until its next start, configured are {ours} ms"
        )
    });
    {
        let mut facts = database.facts();
        facts.trouble("guard", line);
        facts.trouble("margin", other_margin);
        facts.trouble("driver", database.driver.trouble());
    }
    if let GuardSeen::Silent { silent_ms, last: Some(last) } = &seen
        && Duration::from_millis(*silent_ms) >= SILENT_MAX
        && agent.state().pause.is_none_or(|pause| pause.ending)
    {
        end_silent_guard(database, last).await;
    }
    if seen != GuardSeen::Absent || held_back || agent.is_leaving() {
        return seen;
    }
    let deadline = Instant::now() + GUARD_LIMIT;
    let started = match database.driver.kill_orphans(deadline).await {
        Ok(()) => database.driver.ensure_guard(deadline).await,
        Err(error) => Err(error),
    };
    let mut facts = database.facts();
    match started {
        Ok(()) => {
            facts.succeeded("guard");
            // Whatever ran before is gone, and runs are counted anew.
            facts.data_dir = None;
            facts.server = crate::facts::Server::default();
            facts.writable_run = None;
            info!("guard started");
        }
        Err(error) => {
            let (wait, _) = facts.failed("guard", Instant::now());
            warn!(%error, retry_in_ms = ha_core::clock::millis(wait), "could not start the guard");
        }
    }
    drop(facts);
    database.driver.guard()
}

/// A guard that is frozen guards nothing. What its death leaves is killed before the next guard starts.
async fn end_silent_guard<D: PostgresDriver>(database: &Database<D>, last: &GuardStatus) {
    if database.facts().holds_back("kill_guard", Instant::now()) {
        return;
    }
    match database.driver.kill_guard(Instant::now() + KILL_LIMIT).await {
        Ok(()) => database.facts().succeeded("kill_guard"),
        Err(error) => {
            let (wait, _) = database.facts().failed("kill_guard", Instant::now());
            let retry_in_ms = ha_core::clock::millis(wait);
            warn!(run = last.run, %error, retry_in_ms, "could not kill the frozen guard");
        }
    }
}

/// Gives a proven lease up when nothing was seen of the database for too long: a guard that cannot be
/// started, a process that cannot be killed, a disk that does not answer. It is left to expire, since
/// nobody can say that the database is down.
pub fn give_up_if_blind<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>, view: &View) {
    let blind = view.lease == LeaseView::Ours
        && view.order != Order::Paused
        && matches!(view.instance, Instance::Unseen | Instance::Stopping);
    let since = {
        let mut facts = database.facts();
        facts.blind_since = blind.then(|| facts.blind_since.unwrap_or_else(Instant::now));
        facts.blind_since
    };
    if since.is_some_and(|since| since.elapsed() >= BLIND_MAX) {
        warn!(epoch = %view.epoch, "nothing is seen of the database, the lease is given up");
        if let Err(error) = lease_keeper::burn(agent, database, view.epoch) {
            warn!(%error, "could not withdraw the permit");
        }
    }
}

/// Has the data directory read once after each run, while nothing runs on it.
pub fn look_at_disk<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    guard: &GuardSeen,
) {
    let GuardSeen::Alive(status) = guard else { return };
    let run = status.run;
    {
        let mut facts = database.facts();
        // What somebody may mend by hand is looked at again and again.
        let final_answer = match &facts.data_dir {
            Some((of, DataDir::Missing | DataDir::Unreadable(_))) => {
                *of == run && facts.holds_back("inspect", Instant::now())
            }
            Some((of, found)) => *of == run && !is_foreign(&agent.state(), found),
            None => false,
        };
        let waits = facts.holds_back("inspect", Instant::now());
        let busy = facts.inspecting || facts.job.is_some();
        if !status.state.is_gone() || final_answer || waits || busy {
            return;
        }
        facts.inspecting = true;
    }
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let Some(database) = &agent.database else { return };
        let found = database.driver.inspect(Instant::now() + INSPECT_LIMIT).await;
        let wal_end = first_wal_end(&agent, database, &found).await;
        let line = match &found {
            DataDir::Missing => Some("its data directory is missing".to_owned()),
            DataDir::Unreadable(why) => Some(format!("its data directory is unreadable: {why}")),
            other if is_foreign(&agent.state(), other) => {
                Some("its data directory belongs to another database cluster".to_owned())
            }
            DataDir::Empty | DataDir::HalfMade(_) | DataDir::Present(_) => None,
        };
        let mut facts = database.facts();
        facts.inspecting = false;
        if line.is_some() {
            facts.failed("inspect", Instant::now());
        } else {
            facts.succeeded("inspect");
        }
        if let Some(line) = line.as_ref().filter(|line| facts.troubles.get("data") != Some(*line)) {
            warn!(reason = line, "cannot use the data directory");
        }
        facts.trouble("data", line);
        facts.data_dir = Some((run, found));
        facts.wal_end = wal_end.map(|end| (run, end));
        drop(facts);
        agent.wake.notify_one();
    });
}

/// Before there is a cluster its database is chosen by how far each one's WAL goes: a checkpoint is not
/// where it ends.
async fn first_wal_end<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    found: &DataDir,
) -> Option<WalPosition> {
    let registered = agent.state().system_identifier.is_some();
    if registered || !matches!(found, DataDir::Present(_)) {
        return None;
    }
    match database.driver.end_of_wal(Instant::now() + INSPECT_LIMIT).await {
        Ok(end) => Some(end),
        Err(error) => {
            warn!(%error, "could not read the end of WAL of the database that is here");
            None
        }
    }
}

fn is_foreign(state: &State, found: &DataDir) -> bool {
    match found {
        DataDir::Present(control) => {
            state.system_identifier.is_some_and(|id| id != control.system_identifier)
        }
        DataDir::Missing | DataDir::Unreadable(_) | DataDir::Empty | DataDir::HalfMade(_) => false,
    }
}

/// Notes since when things are as they are.
pub fn note_times<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>, guard: &GuardSeen) {
    let now = Instant::now();
    let vacant = agent.state().lease.grant().is_none();
    let mut facts = database.facts();
    let since = |slot: Option<Instant>, holds: bool| holds.then(|| slot.unwrap_or(now));
    facts.vacant_since = since(facts.vacant_since, vacant);
    let status = match guard {
        GuardSeen::Alive(status) => Some(status),
        GuardSeen::Absent | GuardSeen::Silent { .. } => None,
    };
    let gone = status.is_some_and(|status| status.state.is_gone());
    facts.stopped_since = since(facts.stopped_since, gone);
    if let Some(status) = status.filter(|status| status.state == RunState::Running)
        && facts.starting_since.is_none_or(|(run, _)| run != status.run)
    {
        facts.starting_since = Some((status.run, now));
        agent.probe_now.notify_one();
    }
}
