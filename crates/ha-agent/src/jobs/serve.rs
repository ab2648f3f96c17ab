//! Becoming primary, and giving the lease back.

use std::sync::Arc;
use std::time::Duration;

use ha_core::Epoch;
use ha_core::state::{Command, Outcome, Refused, VacateReason};
use ha_postgres::driver::PostgresDriver;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{JobError, database, guard};
use crate::agent::{Agent, lock};
use crate::clock;
use crate::events;
use crate::lease_keeper;
use crate::promotions;

/// How long ending recovery may take before it is tried again or given up.
const PROMOTE_LIMIT: Duration = Duration::from_secs(10);
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
    let deadline = lock(&agent.holder)
        .as_ref()
        .filter(|holder| holder.epoch() == epoch)
        .and_then(|holder| holder.deadline(clock::now()))
        .ok_or_else(|| JobError::NotNow(format!("the right of epoch {epoch} has ended")))?;
    // Rule 57: should this promotion never be recorded, its timeline can still be told from another one
    // of the same number.
    let timeline = database.facts().answer(run).map(|probe| probe.timeline);
    if let Some(timeline) = timeline
        && let Err(error) = promotions::note(&agent.config.data_dir, epoch, timeline)
    {
        warn!(%error, "could not note the promotion");
    }
    database.permits.make_primary(epoch, deadline)?;
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
    database.facts().writable_run = Some(run);
    events::NodePromoted { node: agent.node(), epoch, begin, took: began.elapsed() }.emit();
    let agent = Arc::clone(&agent);
    // Not on the way to the first write.
    tokio::spawn(async move { after_promotion(&agent, epoch, begin).await });
    Ok(())
}

async fn after_promotion<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
    begin: ha_core::WalPosition,
) {
    let Some(database) = &agent.database else { return };
    let at_unix_ms = clock::wall_unix_ms();
    let command = Command::RecordPromotion { epoch, begin, at_unix_ms };
    match agent.submit(command, SUBMIT_LIMIT).await {
        Ok(Outcome::Applied | Outcome::Refused(Refused::AlreadyRecorded(_))) => {}
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
    let status = guard(database)?;
    if !status.state.is_gone() && status.primary_epoch != Epoch::NONE {
        return Err(JobError::NotNow("the database is not down yet".to_owned()));
    }
    let reason = VacateReason::Released { why: why.to_owned() };
    let outcome = agent
        .submit(Command::Vacate { epoch, reason }, SUBMIT_LIMIT)
        .await
        .map_err(|source| JobError::Submit { what: "release the lease", source })?;
    match outcome {
        Outcome::Applied => {
            events::LeaseReleased { node: agent.node(), epoch, why }.emit();
            Ok(())
        }
        // Somebody else ended it meanwhile: that is what was wanted.
        Outcome::Refused(Refused::LeaseVacant | Refused::StaleEpoch { .. }) => Ok(()),
        Outcome::Refused(why) => {
            Err(JobError::Refused { what: "release the lease", why: why.to_string() })
        }
    }
}
