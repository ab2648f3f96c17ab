//! Coming back, or coming in, as a standby.

use std::sync::Arc;
use std::time::Duration;

use ha_core::ancestry::{self, Line, Relation as Ancestry, TimelineSwitch, doubtful_from};
use ha_core::clock::millis;
use ha_core::state::journal::{EventKind, Note};
use ha_core::state::{Command, Outcome, Promotion, State};
use ha_core::view::Relation;
use ha_core::{Epoch, Lsn, NodeId, TimelineId, WalPosition};
use ha_postgres::driver::{
    ActionError, DataDir, PostgresDriver, Upstream, UpstreamHistory, missing_wal,
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{JobError, await_answer, await_running, database, guard, upstream};
use crate::agent::{Agent, Database, lock};
use crate::clock;
use crate::config::Rejoin;
use crate::crash_point;
use crate::diverged;
use crate::events;
use crate::facts::{Ordered, Remake};
use crate::notes;
use crate::parameters;
use crate::promotions;
use crate::wal_transfer;

/// How long small things may take: writing configuration, asking a server.
const SHORT: Duration = Duration::from_secs(10);
/// How long a server that starts is watched. One that replays for longer is starting all the same.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long `initdb` may take.
const INITDB_LIMIT: Duration = Duration::from_secs(300);
/// How long a rewind may take.
const REWIND_LIMIT: Duration = Duration::from_secs(3600);
/// How long a clone may take.
const CLONE_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long keeping diverged WAL, or taking over fetched WAL, may take.
const KEEP_LIMIT: Duration = Duration::from_secs(3600);
/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(10);

/// Starts the stopped database in recovery, following `primary` or nobody.
///
/// # Errors
/// [`JobError`]; whatever started runs as a standby.
pub async fn start_standby<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    primary: Option<NodeId>,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let from = primary.as_ref().map(|node| upstream(&agent, node)).transpose()?;
    let receiving = agent.receiving.lock().await;
    if primary.is_some() {
        expect_unpledged(&agent, epoch)?;
    }
    parameters::tell(&agent, database);
    database.driver.prepare_standby(from.as_ref(), Instant::now() + SHORT).await?;
    crash_point::reached("standby: prepared");
    let run = database.permits.start_standby(guard(database)?.run)?;
    drop(receiving);
    {
        let mut facts = database.facts();
        facts.writable_run = None;
        facts.following = Some((run, primary, Instant::now()));
    }
    let started = match await_running(database, run, SHORT).await {
        // It may end right after its start, and would be started again and again without a pause.
        Ok(()) => await_answer(database, run, ANSWER_LIMIT).await,
        failed => failed,
    };
    if matches!(started, Err(JobError::NotStarted(_))) {
        parameters::condemn(database);
    }
    if started.is_err() {
        // It will not start by itself: look at the disk, compare and decide anew.
        let mut facts = database.facts();
        facts.data_dir = None;
        facts.compared = None;
    }
    started
}

/// What is received from the primary of a revoked epoch would be acknowledged to it (rule 104).
fn expect_unpledged<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) -> Result<(), JobError> {
    let pledged = agent.pledge.epoch();
    if epoch > pledged {
        return Ok(());
    }
    Err(JobError::NotNow(format!("epoch {epoch} is over: this node has pledged up to {pledged}")))
}

/// Points the running standby at `primary`.
///
/// # Errors
/// [`JobError`].
pub async fn follow<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    primary: NodeId,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let run = guard(database)?.run;
    let from = upstream(&agent, &primary)?;
    let _receiving = agent.receiving.lock().await;
    expect_unpledged(&agent, epoch)?;
    // What is left there may be less than what is here by now.
    database.driver.clear_spool()?;
    database.driver.follow(Some(&from), Instant::now() + SHORT).await?;
    database.facts().following = Some((run, Some(primary), Instant::now()));
    Ok(())
}

/// Finds out how the local WAL relates to the holder's history.
///
/// # Errors
/// [`JobError`] if the primary does not answer, or is none yet (rule 54).
pub async fn compare<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    primary: NodeId,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let from = upstream(&agent, &primary)?;
    let theirs = history_of(database, &from).await?;
    if !theirs.writable {
        return Err(JobError::NotNow(format!("node {primary} does not accept writes yet")));
    }
    // Until its promotion is recorded, its timeline cannot be told from another one of that number.
    let state = agent.state();
    let origin = promotion_of(&state, epoch, &theirs)?;
    let (end, ours) = local_end(database).await?;
    let mut ancestry =
        ancestry::compare(end, &ours, theirs.timeline, &theirs.switches, theirs.flushed);
    // Equal numbers and equal switches do not prove a shared history (rule 57).
    let dir = &agent.config.data_dir;
    let here = Line {
        timeline: end.timeline,
        switches: &ours,
        origin: promotions::origin(dir, end.timeline),
    };
    let there =
        Line { timeline: theirs.timeline, switches: &theirs.switches, origin: Some(origin) };
    let doubt = doubtful_from(here, there, &state.history);
    if doubt.is_some() || promotions::is_unrecorded(dir, end.timeline, &state) {
        warn!(timeline = %end.timeline, "its timeline here began with another promotion, or may have");
        ancestry = Ancestry::Unrelated;
    }
    #[cfg(feature = "sabotage")]
    if ha_raft::sabotage::is("old-primary-not-compared") {
        ancestry = Ancestry::Ancestor;
    }
    let rejoin = agent.config.postgres.as_ref().map_or(Rejoin::Auto, |settings| settings.rejoin);
    let relation = match (ancestry, rejoin) {
        (Ancestry::Ancestor, _) => Relation::Ancestor,
        (Ancestry::Diverged { .. } | Ancestry::Unrelated, Rejoin::Manual) => Relation::Manual,
        (Ancestry::Diverged { .. }, Rejoin::Auto | Rejoin::Rewind) => Relation::Diverged,
        (Ancestry::Unrelated, Rejoin::Auto) => Relation::CloneOnly,
        (Ancestry::Unrelated, Rejoin::Rewind) => Relation::Manual,
    };
    match ancestry {
        Ancestry::Diverged { fork } => {
            let bytes = end.lsn.bytes_after(fork.lsn);
            warn!(%primary, %end, %fork, bytes, "local WAL diverges from the primary's history");
        }
        Ancestry::Ancestor | Ancestry::Unrelated => {
            info!(%primary, %end, relation = ?relation, "compared histories");
        }
    }
    if ancestry == Ancestry::Ancestor {
        note_origin(&agent, origin, theirs.timeline, end.timeline).await?;
    }
    let mut facts = database.facts();
    facts.diverged = fork_of(&ancestry, end, doubt, &state).map(|fork| (fork, end));
    facts.rewind_from = facts.diverged.map(|(fork, _)| fork);
    // It shares the history and still gets nothing: its slot says why.
    let starved = theirs.kept_from.is_some_and(|from| from == Lsn::ZERO || from > end.lsn);
    facts.starved = (ancestry == Ancestry::Ancestor && starved).then_some(epoch);
    facts.compared = Some((epoch, relation, Instant::now()));
    Ok(())
}

/// The epoch under which the primary's timeline began, as the cluster recorded it.
fn promotion_of(state: &State, epoch: Epoch, theirs: &UpstreamHistory) -> Result<Epoch, JobError> {
    let recorded = state.history.iter().rev().find(|promotion| promotion.epoch == epoch);
    match recorded {
        Some(promotion) if promotion.begin.timeline == theirs.timeline => Ok(epoch),
        _ => {
            Err(JobError::NotNow(format!("the promotion under epoch {epoch} is not recorded yet")))
        }
    }
}

/// Notes where the timeline that is followed from now on came from.
async fn note_origin<D: PostgresDriver>(
    agent: &Agent<D>,
    origin: Epoch,
    to: TimelineId,
    from: TimelineId,
) -> Result<(), JobError> {
    let dir = agent.config.data_dir.clone();
    let noted = tokio::task::spawn_blocking(move || promotions::note(&dir, origin, to, from));
    match noted.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let dir = agent.config.data_dir.display();
            Err(JobError::NotNow(format!("could not note the timeline's origin in {dir}: {error}")))
        }
        Err(panic) => Err(JobError::NotNow(panic.to_string())),
    }
}

/// Where the local WAL left the history; as far as anybody can tell if nothing is shared.
fn fork_of(
    ancestry: &Ancestry,
    end: WalPosition,
    doubt: Option<WalPosition>,
    state: &State,
) -> Option<WalPosition> {
    match ancestry {
        Ancestry::Ancestor => None,
        Ancestry::Diverged { fork } => Some(*fork),
        Ancestry::Unrelated => {
            let namesake = |promotion: &&Promotion| promotion.begin.timeline == end.timeline;
            let begin = state.history.iter().rev().find(namesake).map(|namesake| namesake.begin);
            doubt.or(begin).or(Some(WalPosition { timeline: end.timeline, lsn: Lsn::ZERO }))
        }
    }
}

/// Records that this node's WAL left the history, and keeps it aside: before anything replaces it.
async fn keep_diverged<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
) -> Result<(), JobError> {
    let Some((fork, end)) = database.facts().diverged else { return Ok(()) };
    let (node, at_unix_ms) = (agent.node().clone(), clock::wall_unix_ms());
    let record = Command::RecordDivergence { node, fork, end, at_unix_ms };
    let what = "record the diverged WAL";
    match agent.submit(record, SUBMIT_LIMIT).await {
        Ok(Outcome::Applied) => {}
        Ok(Outcome::Refused(why)) => return Err(JobError::Refused { what, why: why.to_string() }),
        Err(source) => return Err(JobError::Submit { what, source }),
    }
    let Some(known) = diverged::find(agent, fork, end) else {
        return Err(JobError::NotNow(
            "the record of the diverged WAL is not applied here yet".into(),
        ));
    };
    crash_point::reached("diverged: recorded");
    let dir = diverged::dir(agent, &known);
    let kept = database.driver.keep_diverged(fork, end, &dir, Instant::now() + KEEP_LIMIT).await?;
    crash_point::reached("diverged: kept");
    let place = dir.display().to_string();
    events::WalDiverged { node: agent.node(), fork, end, kept: &place }.emit();
    if let Some(note) = kept.note {
        warn!(note, "diverged WAL is incomplete");
    }
    database.facts().diverged = None;
    Ok(())
}

/// Asks the primary for its history. That it does not answer yet is ordinary.
async fn history_of<D: PostgresDriver>(
    database: &Database<D>,
    from: &Upstream,
) -> Result<UpstreamHistory, JobError> {
    let asked = database.driver.upstream_history(from, Instant::now() + SHORT).await;
    asked.map_err(|error| JobError::NotNow(error.to_string()))
}

/// The node's real end of WAL and the history that leads there: everything on its disk, replayed or not.
/// A running server's own answer may be far behind that.
async fn local_end<D: PostgresDriver>(
    database: &Database<D>,
) -> Result<(WalPosition, Vec<TimelineSwitch>), JobError> {
    let status = guard(database)?;
    let position = if status.state.is_gone() {
        database.driver.end_of_wal(Instant::now() + SHORT).await?
    } else {
        let asked = database.driver.probe(Instant::now() + SHORT).await;
        let probe =
            asked.map_err(|why| JobError::NotNow(format!("the standby does not answer: {why}")))?;
        WalPosition { timeline: probe.timeline, lsn: probe.replayed }
    };
    let driver = Arc::clone(&database.driver);
    let read = tokio::task::spawn_blocking(move || driver.wal_tip(position)).await;
    let tip = read.map_err(|error| JobError::NotNow(error.to_string()))??;
    Ok((tip.end, tip.history))
}

/// Rewinds the stopped database to the history of `primary`.
///
/// # Errors
/// [`JobError`]; if the primary is well and the rewind failed all the same, a clone is next.
pub async fn rewind<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    primary: NodeId,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let from = upstream(&agent, &primary)?;
    let theirs = history_of(database, &from).await?;
    if !theirs.writable || !theirs.checkpoint_on_timeline {
        return Err(JobError::NotNow(format!(
            "node {primary} has not completed the checkpoint after its promotion"
        )));
    }
    keep_diverged(&agent, database).await?;
    // What was vouched for in an election is not what is there from here on.
    *lock(&agent.vouched) = None;
    let (began, ordered) = (Instant::now(), database.facts().ordered.clone());
    let fork = database.facts().rewind_from;
    parameters::tell(&agent, database);
    let mut result = database.driver.rewind(&from, Instant::now() + REWIND_LIMIT).await;
    if let Err(error) = &result
        && missing_wal(error)
    {
        info!(%error, "the rewind needs WAL that is not here any more");
        adopt_missing(&agent, database, &primary).await?;
        result = database.driver.rewind(&from, Instant::now() + REWIND_LIMIT).await;
    }
    crash_point::reached("rewind: done");
    database.facts().data_dir = None;
    let Err(error) = result else {
        // A later note would be of the branch that is gone.
        if let Ok(origin) = promotion_of(&agent.state(), epoch, &theirs) {
            let from = fork.map_or(theirs.timeline, |fork| fork.timeline);
            note_origin(&agent, origin, theirs.timeline, from).await?;
        }
        let note = Note::new(EventKind::Rewound, format!("to the history of {primary}"));
        let note = note.about(agent.node());
        let note = fork.into_iter().fold(note, Note::at);
        remade(&agent, database, note, began, epoch, ordered);
        return Ok(());
    };
    // The primary vanished: try again later (rule 61).
    let again = database.driver.upstream_history(&from, Instant::now() + SHORT).await;
    if again.is_ok_and(|theirs| theirs.writable) {
        let rejoin = agent.config.postgres.as_ref().map_or(Rejoin::Auto, |s| s.rejoin);
        let next = if rejoin == Rejoin::Auto { Relation::CloneOnly } else { Relation::Manual };
        database.facts().compared = Some((epoch, next, Instant::now()));
    }
    Err(error.into())
}

/// Fetches, for a rewind, everything that others have kept of the time before the fork.
async fn adopt_missing<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    primary: &NodeId,
) -> Result<(), JobError> {
    let before = database.facts().rewind_from;
    let Some(fork) = before else { return Ok(()) };
    let dir = agent.config.data_dir.join("fetched");
    let mut files = Vec::new();
    let others = agent.others();
    for node in others.iter().filter(|node| *node != primary).chain([primary]) {
        let oldest = {
            let sightings = lock(&agent.sightings);
            let report = sightings.get(node).and_then(|seen| seen.current().cloned());
            report.and_then(|r| r.witness.and_then(|w| w.tip).or(r.tip)).map(|tip| tip.oldest)
        };
        let Some(oldest) = oldest.filter(|oldest| *oldest < fork.lsn.0) else { continue };
        let from = WalPosition { timeline: fork.timeline, lsn: Lsn(oldest) };
        match wal_transfer::fetch_all(agent, node, from, fork, &dir).await {
            Ok(found) => {
                files = found;
                break;
            }
            Err(error) => info!(%node, error, "could not fetch the WAL before the fork there"),
        }
    }
    if !files.is_empty() {
        database.driver.adopt_wal(&files, Instant::now() + KEEP_LIMIT).await?;
    }
    drop(std::fs::remove_dir_all(&dir));
    Ok(())
}

/// Clones `primary`; what is there is kept aside.
///
/// # Errors
/// [`JobError`].
pub async fn clone<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    primary: NodeId,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let from = upstream(&agent, &primary)?;
    let theirs = history_of(database, &from).await?;
    // A backup begun before the end of recovery fails when the recovery ends.
    if !theirs.writable {
        return Err(JobError::NotNow(format!("node {primary} does not accept writes yet")));
    }
    let ordered = database.facts().ordered.clone();
    let (source, max_rate_kib) = match &ordered {
        Some(Ordered { what: Remake::Clone { from, max_rate_kib }, .. }) => {
            (from.clone(), *max_rate_kib)
        }
        Some(_) | None => (None, None),
    };
    let source = source.map(|node| upstream(&agent, &node)).transpose()?;
    let state = agent.state();
    if state.system_identifier != Some(theirs.system_identifier) {
        return Err(JobError::NotNow(format!(
            "node {primary} has the database {}, the cluster's is {}",
            theirs.system_identifier,
            state.system_identifier.map(|id| id.to_string()).unwrap_or_default()
        )));
    }
    let progress = |done: u64, total: Option<u64>| {
        crash_point::reached("clone: copying");
        if let Some(job) = &mut database.facts().job {
            job.progress = match total {
                Some(total) => format!("{done} of {total} bytes"),
                None => format!("{done} bytes"),
            };
        }
    };
    keep_before_clone(&agent, database).await?;
    *lock(&agent.vouched) = None;
    // Not the method call: `Arc` has a `clone_from` of its own.
    let (began, deadline) = (Instant::now(), Instant::now() + CLONE_LIMIT);
    let source = source.as_ref().unwrap_or(&from);
    parameters::tell(&agent, database);
    PostgresDriver::clone_from(&*database.driver, source, max_rate_kib, &progress, deadline)
        .await?;
    crash_point::reached("clone: done");
    if let Ok(origin) = promotion_of(&agent.state(), epoch, &theirs) {
        note_origin(&agent, origin, theirs.timeline, theirs.timeline).await?;
    }
    let note = Note::new(EventKind::Cloned, format!("from {}", source.node)).about(agent.node());
    remade(&agent, database, note, began, epoch, ordered);
    Ok(())
}

/// Notes that the data directory is a new one, and has it recorded.
fn remade<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    note: Note,
    began: Instant,
    epoch: Epoch,
    ordered: Option<Ordered>,
) {
    let by = ordered.as_ref().map(|ordered| ordered.by.clone()).unwrap_or_default();
    notes::tell(agent, note.asked_by(&by).lasting(millis(began.elapsed())));
    let mut facts = database.facts();
    facts.data_dir = None;
    facts.compared = Some((epoch, Relation::Ancestor, Instant::now()));
    if let Some(ordered) = ordered {
        facts.remade = Some((ordered.number, epoch));
        facts.ordered = None;
    }
}

/// A clone replaces the directory whatever is in it: that diverged WAL cannot be kept is no reason to
/// stay without a standby, since the whole directory is moved aside.
async fn keep_before_clone<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
) -> Result<(), JobError> {
    match keep_diverged(agent, database).await {
        Err(JobError::Action(error)) => {
            warn!(%error, "diverged WAL was not kept by itself, its data directory is moved aside");
            database.facts().diverged = None;
            Ok(())
        }
        other => other,
    }
}

/// Makes the cluster's database, or takes the one that is here, and registers it.
///
/// # Errors
/// [`JobError`]; a failed `initdb` gives the right back, so that it is assigned anew.
pub async fn bootstrap<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    attempt: u64,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let found = database.driver.inspect(Instant::now() + SHORT).await;
    let control = match found {
        DataDir::Present(control) => Ok(control),
        DataDir::Empty | DataDir::HalfMade(_) => {
            database.driver.initdb(Instant::now() + INITDB_LIMIT).await
        }
        DataDir::Missing | DataDir::Unreadable(_) => Err(ActionError::Cannot {
            action: "make the database".to_owned(),
            why: "the data directory cannot be used".to_owned(),
        }),
    };
    database.facts().data_dir = None;
    let (command, what, failed) = match control {
        Ok(control) => {
            let system_identifier = control.system_identifier;
            let command = Command::RegisterSystem { attempt, system_identifier };
            (command, "register the database", None)
        }
        Err(error) => (Command::EndBootstrap { attempt }, "give the bootstrap back", Some(error)),
    };
    let outcome = agent
        .submit(command, SUBMIT_LIMIT)
        .await
        .map_err(|source| JobError::Submit { what, source })?;
    match (failed, outcome) {
        (Some(error), _) => Err(error.into()),
        (None, Outcome::Applied) => Ok(()),
        // Told twice, because the first answer was lost.
        (None, Outcome::Refused(_)) if agent.state().system_identifier.is_some() => Ok(()),
        (None, Outcome::Refused(why)) => Err(JobError::Refused { what, why: why.to_string() }),
    }
}
