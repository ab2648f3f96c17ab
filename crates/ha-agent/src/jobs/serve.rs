//! Becoming primary, and giving the lease back.

use std::sync::Arc;
use std::time::Duration;

use ha_core::state::{Command, Outcome, Refused, VacateReason};
use ha_core::{Epoch, TimelineId};
use ha_postgres::driver::{PostgresDriver, Synchronous};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{JobError, POLL, database, guard};
use crate::agent::{Agent, Database, lock};
use crate::clock;
use crate::crash_point;
use crate::events;
use crate::lease_keeper;
use crate::promotions;
use crate::quorum_keeper;

/// How long ending recovery may take before it is tried again or given up.
const PROMOTE_LIMIT: Duration = Duration::from_secs(10);
/// How long a promotion waits for a renewal that was sent since its server runs.
const PROOF_LIMIT: Duration = Duration::from_secs(1);
/// How long a change of a setting may take.
const SETTING_LIMIT: Duration = Duration::from_secs(3);
/// How long a release waits for the database to be down.
const DOWN_LIMIT: Duration = Duration::from_secs(2);
/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(5);
/// How long the checkpoint after a promotion may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(3600);

/// Ends recovery under our lease: permit first, then the server.
///
/// # Errors
/// [`JobError`]; the server may have been promoted all the same, and runs under its permit only.
pub async fn promote<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    epoch: Epoch,
) -> Result<(), JobError> {
    let began = Instant::now();
    let database = database(&agent)?;
    let run = guard(database)?.run;
    await_proof(&agent, database, epoch, run).await?;
    let alone = await_commits(&agent, database, epoch).await?;
    // Rule 57: should this promotion never be recorded, its timeline can still be told from another one
    // of the same number. Synced before the deadline is read: a slow disk must not eat into it unseen.
    let from = database.facts().answer(run).map(|probe| probe.timeline);
    let next = from.map_or(TimelineId(0), |from| TimelineId(from.0 + 1));
    let from = from.unwrap_or(TimelineId(0));
    crash_point::reached("promote: told who acknowledges");
    note(&agent, epoch, next, from).await?;
    crash_point::reached("promote: noted");
    let deadline = lock(&agent.holder)
        .as_ref()
        .filter(|holder| holder.epoch() == epoch)
        .and_then(|holder| holder.deadline(clock::now()))
        .ok_or_else(|| JobError::NotNow(format!("the right of epoch {epoch} has ended")))?;
    database.permits.make_primary(run, epoch, deadline)?;
    crash_point::reached("promote: permitted");
    let begin = match database.driver.promote(began + PROMOTE_LIMIT).await {
        Ok(begin) => begin,
        Err(error) => {
            let mut facts = database.facts();
            let failures = match facts.promote_failures {
                (of, failures) if of == epoch => failures + 1,
                _ => 1,
            };
            facts.promote_failures = (epoch, failures);
            return Err(error.into());
        }
    };
    crash_point::reached("promote: promoted");
    database.facts().writable_run = Some(run);
    if alone {
        // If this fails, the quorum's keeper does it a moment later.
        let deadline = Instant::now() + SETTING_LIMIT;
        if let Err(error) = database.driver.set_synchronous(&Synchronous::Nobody, deadline).await {
            warn!(%error, "could not set that the primary acknowledges alone");
        }
    }
    events::NodePromoted { node: agent.node(), epoch, begin, took: began.elapsed() }.emit();
    let agent = Arc::clone(&agent);
    // Not on the way to the first write.
    tokio::spawn(async move {
        if begin.timeline != next
            && let Err(error) = note(&agent, epoch, begin.timeline, from).await
        {
            warn!(%error, "could not correct the note of the promotion");
        }
        record_promotion(&agent, epoch, begin).await;
    });
    Ok(())
}

/// Waits until a renewal is confirmed that was sent after this run was seen to run.
///
/// A granter that kills this node's container from outside refuses renewals first. So whatever is started
/// after that has no right to go by, though the one of before may not have ended yet.
async fn await_proof<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
    run: u64,
) -> Result<(), JobError> {
    let not_now = |why: &str| JobError::NotNow(format!("epoch {epoch}: {why}"));
    let until = Instant::now() + PROOF_LIMIT;
    loop {
        let since = {
            let facts = database.facts();
            (facts.server.run == run).then_some(facts.server.since)
        };
        let since = since.ok_or_else(|| not_now("its server was not seen to run yet"))?;
        let proven = lock(&agent.holder)
            .as_ref()
            .is_some_and(|holder| holder.epoch() == epoch && holder.is_proven_since(since));
        if proven {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(not_now("no renewal was confirmed since its server runs"));
        }
        agent.renew_now.notify_one();
        sleep(POLL).await;
    }
}

/// Makes the standby ready to be primary: whoever has to acknowledge commits is in its settings before
/// the first one can be made, and it has everything that its grant demands. Returns whether it is to be
/// told after its promotion that it acknowledges alone.
async fn await_commits<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    epoch: Epoch,
) -> Result<bool, JobError> {
    let state = agent.state();
    let not_now = |why: &str| JobError::NotNow(format!("epoch {epoch}: {why}"));
    let recorded = state.recorded.as_ref().filter(|recorded| recorded.epoch == epoch);
    let recorded = recorded.ok_or_else(|| not_now("its quorum is not known here yet"))?;
    let grant = state.lease.grant().filter(|grant| grant.epoch == epoch);
    let grant = grant.ok_or_else(|| not_now("it is not granted any more"))?;
    let deadline = Instant::now() + SETTING_LIMIT;
    if let Some(catch_up) = &grant.catch_up {
        let had = database.driver.detach(deadline).await?;
        if had.replayed < catch_up.to.lsn {
            database.facts().caught_up = None;
            return Err(not_now("it has not replayed what it has to"));
        }
    }
    let to = quorum_keeper::synchronous(&recorded.quorum);
    // "Nobody" is set after the promotion: a standby that was told so, and then is not promoted, would have
    // to be trusted to have noticed when it is told otherwise.
    let after = to == Synchronous::Nobody;
    let before = if after { &Synchronous::Closed } else { &to };
    database.driver.set_synchronous(before, deadline).await?;
    Ok(after)
}

async fn note<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    epoch: Epoch,
    to: TimelineId,
    from: TimelineId,
) -> Result<(), JobError> {
    let dir = agent.config.data_dir.clone();
    let noted = tokio::task::spawn_blocking(move || promotions::note(&dir, epoch, to, from)).await;
    match noted {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let dir = agent.config.data_dir.display();
            Err(JobError::NotNow(format!("could not note the promotion in {dir}: {error}")))
        }
        Err(panic) => Err(JobError::NotNow(panic.to_string())),
    }
}

/// Tells the cluster about a promotion, and has the server write the checkpoint that a rewind against
/// it needs. Done again until both are seen to be true.
pub async fn record_promotion<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
    begin: ha_core::WalPosition,
) {
    let Some(database) = &agent.database else { return };
    let at_unix_ms = clock::wall_unix_ms();
    let dir = agent.config.data_dir.clone();
    let noted = tokio::task::spawn_blocking(move || promotions::followed(&dir, epoch)).await;
    let follows = noted.ok().flatten();
    let command = Command::RecordPromotion { epoch, begin, follows, at_unix_ms };
    match agent.submit(command, SUBMIT_LIMIT).await {
        Ok(Outcome::Applied | Outcome::Refused(Refused::AlreadyRecorded(_))) => {
            crash_point::reached("promote: recorded");
        }
        Ok(Outcome::Refused(why)) => warn!(%epoch, %why, "promotion was not recorded"),
        Err(error) => warn!(%epoch, %error, "promotion was not recorded"),
    }
    // pg_rewind against this node is safe only after it (rule 59).
    if let Err(error) = database.driver.checkpoint(Instant::now() + CHECKPOINT_LIMIT).await {
        info!(%epoch, %error, "checkpoint after the promotion did not end");
    }
}

/// Gives the lease back. What could write is down; the epoch is given up here before anybody is told.
///
/// # Errors
/// [`JobError`]; the lease may have been vacated all the same, and the epoch stays given up.
pub async fn release<D: PostgresDriver>(
    agent: Arc<Agent<D>>,
    epoch: Epoch,
    why: &'static str,
) -> Result<(), JobError> {
    let database = database(&agent)?;
    lease_keeper::burn(&agent, database, epoch)?;
    crash_point::reached("release: burnt");
    let until = Instant::now() + DOWN_LIMIT;
    loop {
        let status = guard(database)?;
        if status.state.is_gone() || status.primary_epoch == Epoch::NONE {
            break;
        }
        if Instant::now() >= until {
            return Err(JobError::NotNow("the database is not down yet".to_owned()));
        }
        sleep(POLL).await;
    }
    let reason = VacateReason::Released { why: why.to_owned() };
    let outcome = agent
        .submit(Command::Vacate { epoch, reason, pauses: 0 }, SUBMIT_LIMIT)
        .await
        .map_err(|source| JobError::Submit { what: "release the lease", source })?;
    crash_point::reached("release: vacated");
    match outcome {
        Outcome::Applied => events::LeaseReleased { node: agent.node(), epoch, why }.emit(),
        // Somebody else ended it meanwhile: that is what was wanted.
        Outcome::Refused(Refused::LeaseVacant | Refused::StaleEpoch { .. }) => {}
        Outcome::Refused(why) => {
            return Err(JobError::Refused { what: "release the lease", why: why.to_string() });
        }
    }
    // Until this node knows it too, it would only be decided again.
    let mut state = agent.raft.state();
    let ended =
        state.wait_for(|now| now.state.lease.grant().is_none_or(|grant| grant.epoch != epoch));
    drop(timeout(SUBMIT_LIMIT, ended).await);
    Ok(())
}
