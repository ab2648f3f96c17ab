//! Everything is put right that the suite broke; the cluster has to do the rest by itself.

use std::time::{Duration, Instant};

use ha_tests::processes;
use rustix::process::Signal;

use crate::env::Env;
use crate::harness::Harness;
use crate::history::F;
use crate::journal::Journal;
use crate::nemesis::{Outcome, orders};

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
    limit: Duration,
) -> Result<Result<Duration, String>, Harness> {
    let done = async || {
        let healed = put_right(env, limit).await?;
        let outcome = match &healed {
            Ok(took) => Outcome::Installed(format!("healthy after {} ms", took.as_millis())),
            Err(said) => Outcome::Indeterminate(said.clone()),
        };
        Ok((outcome, None, healed))
    };
    journal.fault((F::Heal, "everything"), done).await
}

async fn put_right(env: &mut Env, limit: Duration) -> Result<Result<Duration, String>, Harness> {
    if let Some(world) = &env.world {
        world.heal()?;
    }
    if let Some(disks) = &mut env.disks {
        disks.mend_all()?;
    }
    for process in env.cluster.processes() {
        if processes::state(process.pid) == Some('T') {
            processes::send(process.pid, Signal::CONT);
        }
    }
    let began = Instant::now();
    let mut last = "no agent answers".to_owned();
    while began.elapsed() < limit {
        for node in env.cluster.nodes_mut() {
            if !node.agent_runs() {
                node.kill_agent();
                node.start();
            }
        }
        for node in env.cluster.nodes() {
            let Some(status) = node.status().await else { continue };
            if status.paused {
                orders::resume(&orders::endpoints(&env.cluster)).await?;
            }
            if status.state == "healthy" {
                return Ok(Ok(began.elapsed()));
            }
            last = ha_tests::status::brief(&status);
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(Err(last))
}
