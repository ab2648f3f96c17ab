//! An election's question: pledge to acknowledge nothing more of an epoch, stop receiving, say what you
//! have (rules 95 and 104).

use std::sync::Arc;
use std::time::Duration;

use ha_core::ancestry::TimelineSwitch;
use ha_core::permit::Order;
use ha_core::view::Job;
use ha_core::{Epoch, Lsn, WalPosition};
use ha_postgres::driver::{DataDir, GuardSeen, PostgresDriver};
use ha_postgres::wal::files::Tip;
use ha_proto::v1::{RevokeReply, WalTip};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::agent::{Agent, Database, lock};
use crate::crash_point;
use crate::lease_keeper;
use crate::promotions;
use crate::report;

/// How long stopping to receive, and reading what is there, may take. The election asks again.
///
/// With the pledge and a fresh look at the database this has to fit into what the leader waits.
const LIMIT: Duration = Duration::from_millis(700);

/// Answers `Revoke`, to its end even if nobody waits for the answer any more: half of it would leave a
/// standby without anybody to follow.
pub async fn answer<D: PostgresDriver>(agent: &Arc<Agent<D>>, epoch: Epoch) -> RevokeReply {
    let own = Arc::clone(agent);
    match tokio::spawn(async move { answer_whole(&own, epoch).await }).await {
        Ok(reply) => reply,
        Err(error) => refusal(agent, error.to_string()),
    }
}

/// The same for a caller that waits to the end. The reply names no pledge, or no WAL, where this node
/// cannot vouch for it.
pub async fn answer_whole<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) -> RevokeReply {
    let known = agent.state().last_epoch;
    if epoch != known {
        // Later: whoever leads knows of grants that this node has yet to apply. Earlier: whoever asks
        // does not lead any more. Either way it is asked again.
        return refusal(agent, format!("it knows of epoch {known}, not of {epoch}"));
    }
    #[cfg(feature = "sabotage")]
    if ha_raft::sabotage::is("revoke-skipped") {
        return unrevoked(agent, epoch).await;
    }
    let fresh = agent.pledge.epoch() < epoch;
    if let Err(why) = pledge(agent, epoch).await {
        warn!(%epoch, why, "could not pledge");
        return refusal(agent, why);
    }
    crash_point::reached("revoke: pledged");
    if fresh {
        info!(%epoch, "pledged to acknowledge nothing more of this epoch");
        agent.wake.notify_one();
    }
    let deadline = Instant::now() + LIMIT;
    let found = match timeout(LIMIT, tip(agent, epoch, deadline)).await {
        Ok(found) => found,
        Err(_) => Err("what is there could not be read in time".to_owned()),
    };
    crash_point::reached("revoke: read");
    let (tip, why) = match found {
        Ok(tip) => (tip, String::new()),
        Err(why) => (None, why),
    };
    RevokeReply {
        report: Some(report::fresh(agent).await),
        pledged: agent.pledge.epoch().0,
        tip: tip.as_ref().map(to_wire),
        why,
    }
}

/// Says that it has pledged, and what it has, and goes on receiving.
#[cfg(feature = "sabotage")]
async fn unrevoked<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) -> RevokeReply {
    let deadline = Instant::now() + LIMIT;
    let found = if let Some(database) = &agent.database {
        match database.driver.probe(deadline).await {
            Ok(probe) => {
                let position = WalPosition { timeline: probe.timeline, lsn: probe.replayed };
                let driver = Arc::clone(&database.driver);
                let read = tokio::task::spawn_blocking(move || driver.wal_tip(position)).await;
                read.map_err(|error| error.to_string())
                    .and_then(|read| read.map_err(|error| error.to_string()).map(Some))
            }
            Err(error) => Err(error.to_string()),
        }
    } else if let Some(witness) = &agent.witness {
        witness.read_tip().await
    } else {
        Ok(None)
    };
    let report = Some(report::fresh(agent).await);
    match found {
        Ok(tip) => {
            let tip = tip.as_ref().map(to_wire);
            RevokeReply { report, pledged: epoch.0, tip, why: String::new() }
        }
        Err(why) => RevokeReply { report, pledged: epoch.0, tip: None, why },
    }
}

fn refusal<D: PostgresDriver>(agent: &Agent<D>, why: String) -> RevokeReply {
    let pledged = agent.pledge.epoch().0;
    RevokeReply { report: Some(report::local(agent)), pledged, tip: None, why }
}

async fn pledge<D: PostgresDriver>(agent: &Agent<D>, epoch: Epoch) -> Result<(), String> {
    // A permit of that epoch is as good as a receiver: nothing may be acknowledged under it either.
    if let Some(database) = &agent.database
        && let Order::Primary { epoch: permitted, .. } = database.permits.current().order
        && permitted <= epoch
    {
        lease_keeper::burn(agent, database, permitted).map_err(|error| error.to_string())?;
        agent.wake.notify_one();
    }
    let pledge = Arc::clone(&agent.pledge);
    let raised = tokio::task::spawn_blocking(move || pledge.raise(epoch)).await;
    raised.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Returns the WAL that this node has, once nothing can be added to it under a revoked epoch.
async fn tip<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
    deadline: Instant,
) -> Result<Option<Tip>, String> {
    if let Some(database) = &agent.database {
        return of_database(agent, database, epoch, deadline).await.map(Some);
    }
    // One that cannot receive any more may have WAL all the same.
    let Some(witness) = &agent.witness else { return Ok(None) };
    if !witness.silenced(epoch, deadline.saturating_duration_since(Instant::now())).await {
        return Err("its receiver has not ended yet".to_owned());
    }
    // Nor may anything be moved meanwhile.
    let _receiving = agent.receiving.lock().await;
    witness.sync().await?;
    let found = witness.read_tip().await?;
    match found.as_ref().and_then(|tip| tip.damaged.as_ref()) {
        // What it acknowledged may have been in there.
        Some(damage) => Err(format!("the WAL that it kept is damaged: {damage}")),
        None => Ok(found),
    }
}

async fn of_database<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
    deadline: Instant,
) -> Result<Tip, String> {
    let GuardSeen::Alive(status) = database.driver.guard() else {
        return Err("its guard does not answer".to_owned());
    };
    // Whoever is about to follow the old primary either did so before, and is stopped here, or sees the
    // pledge.
    let receiving = Arc::clone(&agent.receiving).lock_owned().await;
    if agent.state().last_epoch != epoch {
        return Err("a later grant was made meanwhile".to_owned());
    }
    let position = if status.state.is_gone() {
        stopped(database, deadline).await?
    } else {
        // Nothing that was fetched for an earlier grant may replace what is here.
        database.driver.clear_spool().map_err(|error| error.to_string())?;
        // Whatever comes of it, this node has to be told anew whom to follow.
        database.facts().following = Some((status.run, None, Instant::now()));
        let had = database.driver.detach(deadline).await.map_err(|error| error.to_string())?;
        WalPosition { timeline: had.replay_timeline, lsn: had.replayed }
    };
    let (driver, vouched) = (Arc::clone(&database.driver), Arc::clone(&agent.vouched));
    let read = tokio::task::spawn_blocking(move || {
        let known = lock(&vouched).clone().filter(|(of, tip)| *of == epoch && tip.end >= position);
        if let Some((_, tip)) = known {
            return Ok(tip);
        }
        // What is on the disk counts, not only what was replayed so far: a server that was restarted
        // may still replay an older timeline. And one such search at a time. After a long time without
        // replay it takes longer than the election waits: then the next question finds its result.
        let found = driver.wal_tip(position).map_err(|error| error.to_string());
        if let Ok(tip) = &found {
            *lock(&vouched) = Some((epoch, tip.clone()));
        }
        drop(receiving);
        found
    });
    let tip = read.await.map_err(|error| error.to_string())??;
    if promotions::is_unrecorded(&agent.config.data_dir, tip.end.timeline, &agent.state()) {
        return Err(format!("its timeline {} is not the cluster's", tip.end.timeline));
    }
    Ok(tip)
}

/// The end of WAL of a stopped database, which it would recover to.
async fn stopped<D: PostgresDriver>(
    database: &Database<D>,
    deadline: Instant,
) -> Result<WalPosition, String> {
    let readable = {
        let facts = database.facts();
        match facts.job.as_ref().map(|running| running.job) {
            // It is stopped for good, and its word is needed if a third node is away.
            Some(Job::HandOver) => true,
            Some(_) => false,
            None => matches!(facts.data_dir, Some((_, DataDir::Present(_)))),
        }
    };
    if !readable {
        return Err("its data directory cannot be read now".to_owned());
    }
    database.driver.end_of_wal(deadline).await.map_err(|error| error.to_string())
}

/// Turns a tip into what travels.
#[must_use]
pub fn to_wire(tip: &Tip) -> WalTip {
    WalTip {
        end: Some(tip.end.into()),
        history: tip.history.iter().map(switch_to_wire).collect(),
        oldest: tip.oldest.0,
    }
}

/// Turns one line of a history into what travels.
#[must_use]
pub fn switch_to_wire(switch: &TimelineSwitch) -> ha_proto::v1::TimelineSwitch {
    ha_proto::v1::TimelineSwitch { timeline: switch.timeline.0, end: switch.end.0 }
}

/// And back, for an election.
#[must_use]
pub fn from_wire(tip: &WalTip) -> ha_core::candidate::Tip {
    ha_core::candidate::Tip {
        end: tip.end.unwrap_or_default().into(),
        history: tip
            .history
            .iter()
            .map(|switch| TimelineSwitch {
                timeline: ha_core::TimelineId(switch.timeline),
                end: Lsn(switch.end),
            })
            .collect(),
        oldest: Lsn(tip.oldest),
    }
}
