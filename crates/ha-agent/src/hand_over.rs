//! What handing the primary role over needs, whether the agent leaves or an operator wants it.

use std::time::Duration;

use futures::future::join_all;
use ha_core::permit::{Order, RunState, StopMode};
use ha_core::view::Job;
use ha_core::{Epoch, NodeId, NodeKind, WalPosition};
use ha_postgres::driver::{ControlState, DataDir, GuardSeen, PostgresDriver};
use ha_proto::v1::ReportReply;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::agent::{Agent, Database, lock};
use crate::clock;
use crate::crash_point;
use crate::facts::{Facts, RunningJob};
use crate::granter;
use crate::jobs;
use crate::report;

/// How long a standby may take to receive the end of our WAL (rule 33).
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// How long a standby may take to report, and how often in a row it may not.
const ASK_LIMIT: Duration = Duration::from_millis(500);
const SILENT_MAX: u32 = 3;
/// What the guard's escalation may add to the fast stop.
const STOP_SLACK: Duration = Duration::from_secs(15);
/// How long reading the end of WAL, or the control file, may take.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a fresh renewal may take, and how much of the right has to be left for the stop.
const RENEWAL_LIMIT: Duration = Duration::from_secs(2);
const STOP_SHARE: f64 = 0.75;
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);

/// For as long as this lives, the control loop leaves the database alone.
#[derive(Debug)]
pub struct Held<'a, D> {
    database: &'a Database<D>,
    since: Instant,
    marker: JoinHandle<()>,
}

/// Takes the database away from the control loop, unless anything is under way on it: two operations at
/// once could stop a server for one purpose and start it for another.
///
/// # Errors
/// What is under way.
pub fn take<D>(database: &Database<D>) -> Result<Held<'_, D>, &'static str> {
    let mut facts = database.facts();
    match &facts.job {
        Some(job) => Err(job.step),
        None => Ok(hold(database, &mut facts)),
    }
}

/// Takes it for good, because the agent ends; a job under way is cancelled.
pub fn take_for_good<D>(database: &Database<D>) {
    let mut facts = database.facts();
    if let Some(job) = facts.job.take() {
        job.abort.abort();
    }
    std::mem::forget(hold(database, &mut facts));
}

fn hold<'a, D>(database: &'a Database<D>, facts: &mut Facts) -> Held<'a, D> {
    let marker = tokio::spawn(std::future::pending::<()>());
    let since = Instant::now();
    facts.job = Some(RunningJob {
        job: Job::HandOver,
        step: "hand_over",
        since,
        abort: marker.abort_handle(),
        progress: String::new(),
    });
    Held { database, since, marker }
}

impl<D> Drop for Held<'_, D> {
    fn drop(&mut self) {
        self.marker.abort();
        let mut facts = self.database.facts();
        // Not what came after: an agent that leaves takes it for good.
        if facts.job.as_ref().is_some_and(|job| job.since == self.since) {
            facts.job = None;
        }
        // What was known of the disk is of the time before.
        facts.data_dir = None;
    }
}

/// A standby that says just now that it is fit: it may be leaving too.
pub async fn fit_standby<D: PostgresDriver>(agent: &Agent<D>) -> Option<NodeId> {
    let reports = standbys(agent).await;
    let fit =
        |(_, report): &(NodeId, Option<ReportReply>)| report.as_ref().is_some_and(granter::fit);
    reports.into_iter().find(fit).map(|(node, _)| node)
}

/// Asks every other data node, at once: what was heard of them before may be a second old.
pub async fn standbys<D: PostgresDriver>(agent: &Agent<D>) -> Vec<(NodeId, Option<ReportReply>)> {
    let state = agent.state();
    let data =
        state.nodes.iter().filter(|(node, is)| is.kind == NodeKind::Data && *node != agent.node());
    let asked = data.map(|(node, _)| async move { (node.clone(), ask(agent, node).await) });
    join_all(asked).await
}

/// Asks a node for a report with positions read just now.
pub async fn ask<D: PostgresDriver>(agent: &Agent<D>, node: &NodeId) -> Option<ReportReply> {
    agent.peers.report(node, report::request(agent, true), ASK_LIMIT).await.ok()
}

/// Why a primary was not stopped in order.
#[derive(Debug)]
pub enum NotStopped {
    /// The server runs on.
    NotBegun(String),
    /// It was told to stop.
    Failed(String),
}

/// Stops a primary in order, under its lease, which is renewed meanwhile. Returns the end of its WAL; `say`
/// is told what was done.
///
/// # Errors
/// [`NotStopped`]: says whether it was told to stop.
pub async fn stop_primary<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
    say: &(dyn Fn(&'static str, String) + Sync),
) -> Result<WalPosition, NotStopped> {
    let permitted = database.permits.current().order;
    if !matches!(permitted, Order::Primary { epoch: current, .. } if current == epoch) {
        return Err(NotStopped::NotBegun(format!(
            "it is not primary under epoch {epoch} any more"
        )));
    }
    // The guard holds the stop to the deadline that it knows: so with as much time as there can be.
    await_fresh_right(agent, epoch).await.map_err(NotStopped::NotBegun)?;
    database
        .permits
        .down(StopMode::Fast)
        .map_err(|error| NotStopped::NotBegun(error.to_string()))?;
    say("stop", "clients are disconnected".to_owned());
    crash_point::reached("hand over: stopping");
    if !await_gone(agent, database).await {
        return Err(NotStopped::Failed("the database did not stop in time".to_owned()));
    }
    crash_point::reached("hand over: stopped");
    let killed = jobs::guard(database).is_ok_and(|g| g.state == RunState::KilledAtDeadline);
    if killed {
        return Err(NotStopped::Failed("the database did not stop within the lease".to_owned()));
    }
    let found = database.driver.inspect(Instant::now() + READ_LIMIT).await;
    match &found {
        DataDir::Present(control) if control.state == ControlState::ShutDown => {}
        _ => return Err(NotStopped::Failed("the database did not shut down in order".to_owned())),
    }
    let end = database.driver.end_of_wal(Instant::now() + READ_LIMIT).await;
    let end = end.map_err(|error| NotStopped::Failed(error.to_string()))?;
    say("stopped", format!("shut down at {}", end.lsn));
    Ok(end)
}

async fn await_fresh_right<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
) -> Result<(), String> {
    let wanted = agent.config.policy.ttl.mul_f64(STOP_SHARE);
    let until = Instant::now() + RENEWAL_LIMIT;
    agent.renew_now.notify_one();
    loop {
        let left = lock(&agent.holder)
            .as_ref()
            .filter(|holder| holder.epoch() == epoch)
            .map(|holder| holder.left(clock::now()));
        match left {
            None => return Err(format!("the lease of epoch {epoch} is not held any more")),
            Some(left) if left >= wanted => return Ok(()),
            Some(_) if Instant::now() >= until => {
                return Err("no renewal of the lease was confirmed in time".to_owned());
            }
            Some(_) => sleep(POLL).await,
        }
    }
}

/// Waits until nothing is left of the server. Returns whether that is so.
pub async fn await_gone<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) -> bool {
    let limit = agent.config.postgres.as_ref().map_or(STOP_SLACK, |p| p.fast_stop + STOP_SLACK);
    let until = Instant::now() + limit;
    while Instant::now() < until {
        match database.driver.guard() {
            GuardSeen::Alive(status) if status.state.is_gone() => return true,
            GuardSeen::Absent => {
                return database.driver.kill_orphans(until).await.is_ok();
            }
            GuardSeen::Alive(_) | GuardSeen::Silent { .. } => sleep(POLL).await,
        }
    }
    false
}

/// Waits until a standby has everything up to `end`. Returns whether it has.
pub async fn await_arrival<D: PostgresDriver>(
    agent: &Agent<D>,
    to: &NodeId,
    end: WalPosition,
) -> bool {
    let until = Instant::now() + ARRIVAL_LIMIT;
    let mut silent = 0;
    while Instant::now() < until && silent < SILENT_MAX {
        let report = ask(agent, to).await;
        silent = if report.is_some() { 0 } else { silent + 1 };
        let has = report.and_then(|report| has(&report));
        if has.is_some_and(|has| has.timeline == end.timeline && has.lsn >= end.lsn) {
            info!(%to, %end, "the standby has everything");
            return true;
        }
        sleep(POLL).await;
    }
    false
}

/// What a node that reports has flushed.
fn has(report: &ReportReply) -> Option<WalPosition> {
    report.postgres.as_ref()?.flushed.map(WalPosition::from)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use ha_postgres::fake::{FakeDriver, FakeWorld};

    use super::*;
    use crate::permit_book::PermitBook;

    fn database() -> Database<FakeDriver> {
        let node = "n1".parse().expect("a valid name");
        let margin = Duration::from_millis(500);
        let driver = Arc::new(FakeWorld::new().driver(&node, "127.0.0.1", 1, margin));
        let boot = clock::boot_id().expect("a boot id");
        let permits = PermitBook::load(Arc::clone(&driver), boot, true);
        Database { driver, permits, facts: Mutex::new(Facts::default()) }
    }

    #[tokio::test]
    async fn one_operation_at_a_time_holds_a_database() {
        let database = database();
        let held = take(&database).expect("nothing is under way");
        assert_eq!(take(&database).err(), Some("hand_over"));
        drop(held);
        let held = take(&database).expect("it was given back");
        // An agent that leaves asks nobody, and what it took the other does not give back.
        take_for_good(&database);
        drop(held);
        assert_eq!(take(&database).err(), Some("hand_over"));
    }
}
