//! Everything is put right that the suite broke; the cluster has to do the rest by itself.

use std::time::{Duration, Instant};

use crate::env::Env;
use crate::harness::Harness;
use crate::history::F;
use crate::journal::Journal;
use crate::nemesis::{Outcome, members, orders};
use crate::random::Random;
use crate::workload::client::{Access, Door, Session};

/// How often the cluster is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// Undoes whatever may still be wrong, and waits until the cluster is healthy. Returns how long that took;
/// nothing if it is not healthy by the limit, with what it says of itself.
///
/// # Errors
/// If the suite cannot.
pub async fn heal(
    env: &mut Env,
    journal: &Journal,
    bare_witness: bool,
    limit: Duration,
) -> Result<Result<Duration, String>, Harness> {
    let done = async || {
        let healed = put_right(env, bare_witness, limit).await?;
        let outcome = match &healed {
            Ok(took) => Outcome::Installed(format!("healthy after {} ms", took.as_millis())),
            Err(said) => Outcome::Indeterminate(said.clone()),
        };
        Ok((outcome, None, healed))
    };
    journal.fault((F::Heal, "everything"), done).await
}

async fn put_right(
    env: &mut Env,
    bare_witness: bool,
    limit: Duration,
) -> Result<Result<Duration, String>, Harness> {
    if let Some(world) = &env.world {
        world.heal()?;
    }
    if let Some(disks) = &mut env.disks {
        disks.mend_all()?;
    }
    env.place.put_right()?;
    let began = Instant::now();
    let mut last = "no agent answers".to_owned();
    while began.elapsed() < limit {
        env.place.start_agents();
        // Nodes come and go only where there are places for more.
        if !env.spares.is_empty()
            && let Err(left) = members::settle(env).await?
        {
            last = left;
            tokio::time::sleep(EVERY).await;
            continue;
        }
        for address in env.place.agents() {
            let Some(status) = ha_tests::status::status(&address).await else { continue };
            if status.paused {
                orders::resume(&orders::endpoints(&env.place)).await?;
            }
            // One whose witness keeps no WAL calls itself degraded for that, and is as well as it can be once the
            // standby is recorded as the one who acknowledges.
            let quorum = status.wal_quorum.as_ref().is_none_or(|quorum| quorum.required > 0);
            let well = bare_witness && quorum && ha_tests::status::all_follow(&status);
            if well || status.state == "healthy" {
                return Ok(Ok(began.elapsed()));
            }
            last = ha_tests::status::brief(&status);
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(Err(last))
}

/// Waits until every standby of the cluster has replayed what the primary had when it was first asked. Returns how long that took.
///
/// # Errors
/// Who is behind, if it does not come to that by the limit.
pub async fn level(env: &Env, access: &Access, limit: Duration) -> Result<Duration, String> {
    let began = Instant::now();
    let mut random = Random::new(0, 5);
    let mut wanted: Option<String> = None;
    let mut behind = "nobody accepts writes".to_owned();
    while began.elapsed() < limit {
        if wanted.is_none()
            && let Some(primary) = access.open(&Door::Writable, &mut random).await
        {
            wanted = one(&primary, "select pg_current_wal_flush_lsn()::text").await;
        }
        if let Some(end) = &wanted {
            let question = format!(
                "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() >= '{end}'::pg_lsn \
                 else true end)::text"
            );
            let mut late = Vec::new();
            for database in access.databases.iter().filter(|there| env.knows(&there.node)) {
                let session = access.open(&Door::Node(database.clone()), &mut random).await;
                let there = match &session {
                    Some(session) => one(session, &question).await,
                    None => None,
                };
                if there.as_deref() != Some("true") {
                    late.push(database.node.clone());
                }
            }
            if late.is_empty() {
                return Ok(began.elapsed());
            }
            behind = format!("not at {end} yet: {}", late.join(", "));
        }
        tokio::time::sleep(EVERY).await;
    }
    Err(behind)
}

/// Asks one question with one answer; nothing if there is none within the time of a call.
async fn one(session: &Session, question: &str) -> Option<String> {
    let asked = session.client.query_one(question, &[]);
    let row = tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?.ok()?;
    row.try_get(0).ok()
}
