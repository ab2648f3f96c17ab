//! A disturbance: somebody cancels commits that wait for their quorum.

use std::time::Duration;

use tokio::sync::watch;

use super::client::Access;
use crate::harness::Harness;
use crate::nemesis::Outcome;

/// How often waits are looked for.
const EVERY: Duration = Duration::from_millis(15);

/// Cancels every wait for a quorum that it finds, on every node, until it is told to stop.
///
/// # Errors
/// None: a node that does not answer has no waits.
pub async fn cancel_waits(
    access: Access,
    stopped: watch::Receiver<bool>,
) -> Result<Outcome, Harness> {
    let mut cancelled = 0_u64;
    let mut sessions: Vec<Option<tokio_postgres::Client>> =
        access.databases.iter().map(|_| None).collect();
    while !*stopped.borrow() {
        for (database, session) in access.databases.iter().zip(&mut sessions) {
            if session.as_ref().is_none_or(tokio_postgres::Client::is_closed) {
                *session = access.superuser(database).await;
            }
            if let Some(open) = session {
                match tokio::time::timeout(Duration::from_secs(1), cancel(open)).await {
                    Ok(count) => cancelled += count,
                    Err(_) => *session = None,
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(Outcome::Installed(format!("{cancelled} waits cancelled")))
}

async fn cancel(session: &tokio_postgres::Client) -> u64 {
    let text = "select count(pg_cancel_backend(pid)) from pg_stat_activity \
                where wait_event = 'SyncRep' and usename = $1";
    let row = session.query_one(text, &[&super::client::USER]).await;
    let count = row.ok().and_then(|row| row.try_get::<_, i64>(0).ok());
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
}
