//! Fetching WAL from whoever kept it: before a promotion, and for a standby that the primary cannot
//! serve any more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ha_core::view::Relation;
use ha_core::{Epoch, Lsn, NodeId, WalPosition};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::WalPiece;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{JobError, POLL, database, guard};
use crate::agent::{Agent, Database, lock};
use crate::config::Rejoin;
use crate::revoke;
use crate::wal_transfer;

/// How long asking the local server may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// How long replay may stand still although everything that it needs is there.
const STILL_MAX: Duration = Duration::from_secs(10);
/// How long a future primary tries before it leaves the lease to others.
const TRIES_MAX: u32 = 5;
/// How many segments are fetched before they are replayed: the disk is not filled with copies.
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
            facts.failed("fetch", Instant::now()).1
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
    facts.succeeded("fetch");
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
    let run = guard(database)?.run;
    database.facts().following = Some((run, None, Instant::now()));
    for (source, to) in keepers(&agent, &primary, had) {
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
        Rejoin::Auto => (Relation::CloneOnly, "it is cloned anew"),
        Rejoin::Rewind | Rejoin::Manual => (Relation::Manual, "postgres.rejoin leaves it to you"),
    };
    warn!(%primary, from = %had, plan, "the WAL that this standby needs is nowhere any more");
    let mut facts = database.facts();
    facts.starved = None;
    facts.compared = Some((epoch, next, Instant::now()));
    Ok(())
}

/// Who else says that it has WAL from this position on, and up to where.
fn keepers<D: PostgresDriver>(
    agent: &Agent<D>,
    primary: &NodeId,
    had: WalPosition,
) -> Vec<(NodeId, WalPosition)> {
    let sightings = lock(&agent.sightings);
    let others = sightings.iter().filter(|(node, _)| *node != primary);
    let tips = others.filter_map(|(node, seen)| {
        let report = seen.current()?;
        let tip = report.witness.as_ref().and_then(|w| w.tip.as_ref()).or(report.tip.as_ref())?;
        let tip = revoke::from_wire(tip);
        (tip.oldest <= had.lsn && tip.end > had).then(|| (node.clone(), tip.end))
    });
    tips.collect()
}

/// The end of what the server has replayed, and nothing arrives by itself any more.
async fn position<D: PostgresDriver>(database: &Database<D>) -> Result<WalPosition, JobError> {
    let had = database.driver.detach(Instant::now() + LOOK_LIMIT).await?;
    Ok(WalPosition { timeline: had.timeline, lsn: had.replayed })
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
    while had.lsn < to.lsn {
        let pieces = if source == agent.node() {
            return Err(JobError::NotNow("this node has the WAL itself".to_owned()));
        } else {
            wal_transfer::list_at(agent, source, had, to).await.map_err(not_now)?
        };
        let batch: Vec<&WalPiece> = pieces.iter().take(BATCH).collect();
        let spool = database.driver.spool();
        for piece in &batch {
            let path = wal_transfer::fetch(agent, source, piece, &spool).await.map_err(not_now)?;
            refuse_stranger(database, piece, &path, had.lsn).await?;
        }
        let goal = batch_end(&pieces, batch.len(), had.lsn, to.lsn);
        had = replay(database, goal).await?;
        database.driver.clear_spool()?;
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

/// What is here already must be a prefix of what was fetched: otherwise they are two histories.
async fn refuse_stranger<D: PostgresDriver>(
    database: &Database<D>,
    piece: &WalPiece,
    fetched: &Path,
    had: Lsn,
) -> Result<(), JobError> {
    let local = database.driver.wal_dir().join(&piece.name);
    let fetched = fetched.to_owned();
    let length = had.0 % piece.file_bytes.max(1);
    if piece.name.ends_with(".history") {
        return Ok(());
    }
    let start = segment_start(&piece.name, piece.file_bytes);
    // Only the segment in which the local WAL ends has both.
    if start.is_none_or(|start| start > had.0 || had.0 - start >= piece.file_bytes) {
        return Ok(());
    }
    let same = tokio::task::spawn_blocking(move || {
        let (Ok(ours), theirs) = (std::fs::read(&local), std::fs::read(&fetched)?) else {
            return Ok(true);
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let same = ours.get(..length) == theirs.get(..length);
        if !same {
            std::fs::remove_file(&fetched)?;
        }
        Ok::<bool, std::io::Error>(same)
    });
    match same.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(JobError::Refused {
            what: "use the fetched WAL",
            why: format!("{} is of another history", piece.name),
        }),
        Ok(Err(error)) => Err(JobError::NotNow(error.to_string())),
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
