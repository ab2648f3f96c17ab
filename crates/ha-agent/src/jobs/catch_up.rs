//! Fetching WAL from whoever kept it: before a promotion, and for a standby that the primary cannot
//! serve any more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ha_core::ancestry::{Line, Relation, compare, doubtful_from};
use ha_core::view;
use ha_core::{Epoch, Lsn, NodeId, WalPosition};
use ha_postgres::driver::{PostgresDriver, UpstreamHistory};
use ha_postgres::wal::files::segment_name;
use ha_postgres::wal::scan::read_header;
use ha_proto::v1::WalPiece;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{JobError, POLL, database, guard, upstream};
use crate::agent::{Agent, Database, lock};
use crate::config::Rejoin;
use crate::crash_point;
use crate::revoke;
use crate::wal_transfer;

/// How long asking the local server may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// How long replay may stand still although everything that it needs is there.
const STILL_MAX: Duration = Duration::from_secs(10);
/// How long a future primary tries before it leaves the lease to others.
const TRIES_MAX: u32 = 5;
/// How many segments are fetched before they are replayed: the disk is not filled with copies. More,
/// if one record is longer than that: it may have up to 1 GiB.
const BATCH: usize = 16;

/// Replays everything that the grant demands, fetched from the node that has it (rule 96).
///
/// # Errors
/// [`JobError`]; tried again a few times, then the lease is given back.
pub async fn fast_forward<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    let state = agent.state();
    let demanded = state.lease.grant().filter(|grant| grant.epoch == epoch);
    let Some(catch_up) = demanded.and_then(|grant| grant.catch_up.clone()) else {
        database.facts().caught_up = Some((epoch, true));
        return Ok(());
    };
    let began = Instant::now();
    let had = position(database).await?;
    if let Err(error) = pull(&agent, database, &catch_up.from, catch_up.to).await {
        let tries = {
            let mut facts = database.facts();
            let before = facts.fetches_failed;
            let tries = if before.0 == epoch { before.1 + 1 } else { 1 };
            facts.fetches_failed = (epoch, tries);
            tries
        };
        if tries >= TRIES_MAX {
            warn!(%epoch, %error, "cannot get the WAL that acknowledged commits are in");
            database.facts().caught_up = Some((epoch, false));
        }
        return Err(error);
    }
    let took_ms = ha_core::clock::millis(began.elapsed());
    let bytes = catch_up.to.lsn.bytes_after(had.lsn);
    info!(%epoch, from = %catch_up.from, to = %catch_up.to, bytes, took_ms, "fetched missing WAL");
    let mut facts = database.facts();
    facts.caught_up = Some((epoch, true));
    Ok(())
}

/// Fetches the WAL that `primary` has removed from any node that kept it. If nobody did, a clone is next.
///
/// # Errors
/// [`JobError`]; tried again.
pub async fn refill<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    primary: NodeId,
    epoch: Epoch,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    // Nothing may arrive meanwhile: what is fetched must never be less than what is here.
    let had = position(database).await?;
    let theirs = database
        .driver
        .upstream_history(&upstream(&agent, &primary)?, Instant::now() + LOOK_LIMIT)
        .await
        .map_err(|error| JobError::NotNow(error.to_string()))?;
    // What is on the disk counts, replayed or not: whoever has less than that would have the server
    // restore a shorter copy of a segment over a longer one.
    let driver = Arc::clone(&database.driver);
    let read = tokio::task::spawn_blocking(move || driver.wal_tip(had)).await;
    let end = read.map_err(|error| JobError::NotNow(error.to_string()))??.end;
    for (source, to) in keepers(&agent, &primary, end, &theirs) {
        info!(%source, from = %had, %to, "fetching WAL that the primary has removed");
        match pull(&agent, database, &source, to).await {
            Ok(()) => {
                let mut facts = database.facts();
                facts.starved = None;
                facts.compared = None;
                return Ok(());
            }
            Err(error) => info!(%source, %error, "could not fetch the missing WAL there"),
        }
    }
    let rejoin = agent.config.postgres.as_ref().map_or(Rejoin::Auto, |settings| settings.rejoin);
    let (next, plan) = match rejoin {
        Rejoin::Auto => (view::Relation::CloneOnly, "it is cloned anew"),
        Rejoin::Rewind | Rejoin::Manual => {
            (view::Relation::Manual, "postgres.rejoin leaves it to you")
        }
    };
    warn!(%primary, from = %had, plan, "the WAL that this standby needs is nowhere any more");
    let mut facts = database.facts();
    facts.starved = None;
    facts.compared = Some((epoch, next, Instant::now()));
    Ok(())
}

/// Who else says that it has WAL of the primary's history from this position on, and up to where.
fn keepers<D: PostgresDriver>(
    agent: &Agent<D>,
    primary: &NodeId,
    had: WalPosition,
    theirs: &UpstreamHistory,
) -> Vec<(NodeId, WalPosition)> {
    let state = agent.state();
    let sightings = lock(&agent.sightings);
    let others = sightings.iter().filter(|(node, _)| *node != primary);
    let tips = others.filter_map(|(node, seen)| {
        let report = seen.current()?;
        // A server's flushed position may lie within a record, which nobody can replay to.
        let tip = match (&report.witness, &report.tip, &report.postgres) {
            (Some(witness), _, _) => revoke::from_wire(witness.tip.as_ref()?),
            (None, Some(tip), Some(postgres)) => {
                let mut tip = revoke::from_wire(tip);
                tip.end.lsn = Lsn(postgres.replayed);
                tip
            }
            (None, _, _) => return None,
        };
        let (timeline, switches) = (theirs.timeline, &theirs.switches);
        let relation = compare(tip.end, &tip.history, timeline, switches, theirs.flushed);
        // Which promotion theirs began with is not told: where that matters, they are no source.
        let there = Line { timeline, switches, origin: None };
        let here = Line { timeline: tip.end.timeline, switches: &tip.history, origin: None };
        let of_use = tip.oldest <= had.lsn
            && tip.end > had
            && relation == Relation::Ancestor
            && doubtful_from(here, there, &state.history).is_none();
        of_use.then(|| (node.clone(), tip.end))
    });
    tips.collect()
}

/// The end of what the server has replayed, and nothing arrives by itself any more.
async fn position<D: PostgresDriver>(database: &Database<D>) -> Result<WalPosition, JobError> {
    // Whatever comes of it, this node has to be told anew whom to follow.
    let run = guard(database)?.run;
    database.facts().following = Some((run, None, Instant::now()));
    let had = database.driver.detach(Instant::now() + LOOK_LIMIT).await?;
    Ok(WalPosition { timeline: had.replay_timeline, lsn: had.replayed })
}

/// Fetches and has replayed everything up to `to`, a batch at a time.
async fn pull<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    source: &NodeId,
    to: WalPosition,
) -> Result<(), JobError> {
    let not_now = |why: String| JobError::NotNow(format!("cannot fetch WAL from {source}: {why}"));
    database.driver.clear_spool()?;
    let mut had = position(database).await?;
    let mut batch_max = BATCH;
    crash_point::reached("pull: detached");
    while had.lsn < to.lsn {
        let pieces = if source == agent.node() {
            return Err(JobError::NotNow("this node has the WAL itself".to_owned()));
        } else {
            wal_transfer::list_at(agent, source, had, to).await.map_err(not_now)?
        };
        let batch: Vec<&WalPiece> = pieces.iter().take(batch_max).collect();
        let spool = database.driver.spool();
        // Beside the spool first: the server takes whatever is in there at once.
        let beside = spool.with_extension("unchecked");
        for piece in &batch {
            let path = wal_transfer::fetch(agent, source, piece, &beside).await.map_err(not_now)?;
            check(database, piece, &path, had).await?;
            crash_point::reached("pull: fetched");
            wal_transfer::place(&path, &spool).await.map_err(not_now)?;
            crash_point::reached("pull: placed");
        }
        let goal = batch_end(&pieces, batch.len(), had.lsn, to.lsn);
        let replayed = replay(database, goal).await;
        crash_point::reached("pull: replayed");
        database.driver.clear_spool()?;
        match replayed {
            Ok(now) => (had, batch_max) = (now, BATCH),
            // Everything fetched is part of one record, perhaps.
            Err(error) if batch.len() < pieces.len() => {
                info!(%error, segments = batch.len(), "fetching more at once");
                batch_max = batch.len() * 2;
                had = position(database).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The end of what a batch brings: the target for the last one.
fn batch_end(pieces: &[WalPiece], batch: usize, had: Lsn, to: Lsn) -> Lsn {
    if pieces.len() <= batch {
        return to;
    }
    let segments = pieces.iter().take(batch).filter(|piece| !piece.name.ends_with(".history"));
    let Some(bytes) = pieces.last().map(|piece| piece.file_bytes.max(1)) else { return to };
    // Whole segments, counted from the one that holds the beginning. The last record may go on.
    let first = had.0 / bytes;
    let whole = first + segments.count() as u64;
    Lsn((whole.saturating_sub(1) * bytes).max(had.0 + 1)).min(to)
}

/// Checks a fetched file: it is what its name says, of this database cluster, and begins with what is
/// here already. Otherwise it is another history, or the sender has used the file again meanwhile.
async fn check<D: PostgresDriver>(
    database: &Database<D>,
    piece: &WalPiece,
    fetched: &Path,
    had: WalPosition,
) -> Result<(), JobError> {
    let Some(start) = segment_start(&piece.name, piece.file_bytes) else { return Ok(()) };
    let ends_here = start <= had.lsn.0 && had.lsn.0 - start < piece.file_bytes;
    let number = start / piece.file_bytes.max(1);
    let own_name = segment_name(had.timeline, number, piece.file_bytes);
    let dir = database.driver.wal_dir();
    let local = [dir.join(&piece.name), dir.join(own_name)];
    let (fetched, name) = (fetched.to_owned(), piece.name.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let header = read_header(&fetched).map_err(|error| error.to_string())?;
        if header.start.0 != start {
            return Err(format!("{name} begins at {}", header.start));
        }
        // Only the segment in which the local WAL ends is in both places.
        let ours = local.iter().find_map(|path| std::fs::read(path).ok());
        let Some(ours) = ours.filter(|_| ends_here) else { return Ok(()) };
        let theirs = std::fs::read(&fetched).map_err(|error| error.to_string())?;
        let length = usize::try_from(had.lsn.0 - start).unwrap_or(usize::MAX);
        if ours.get(..length) == theirs.get(..length) {
            Ok(())
        } else {
            Err(format!("{name} is of another history"))
        }
    });
    match checked.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(JobError::Refused { what: "use the fetched WAL", why }),
        Err(error) => Err(JobError::NotNow(error.to_string())),
    }
}

fn segment_start(name: &str, bytes: u64) -> Option<u64> {
    let log = u64::from_str_radix(name.get(8..16)?, 16).ok()?;
    let segment = u64::from_str_radix(name.get(16..24)?, 16).ok()?;
    Some((log << 32) + segment.checked_mul(bytes)?)
}

/// Waits until the server has replayed up to `goal`, for as long as it gets on.
async fn replay<D: PostgresDriver>(
    database: &Database<D>,
    goal: Lsn,
) -> Result<WalPosition, JobError> {
    let mut had = position(database).await?;
    let mut moved = Instant::now();
    while had.lsn < goal {
        if moved.elapsed() >= STILL_MAX {
            return Err(JobError::NotNow(format!(
                "the server replayed up to {had} and not up to {goal}"
            )));
        }
        sleep(POLL).await;
        let now = position(database).await?;
        if now.lsn > had.lsn {
            moved = Instant::now();
        }
        had = now;
    }
    Ok(had)
}
