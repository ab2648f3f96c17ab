//! What this node tells everybody of what it did, for the record that `haclt events` shows.

use std::sync::Arc;
use std::time::Duration;

use ha_core::state::Command;
use ha_core::state::journal::Note;
use ha_postgres::driver::PostgresDriver;
use tracing::warn;

use crate::agent::Agent;

/// How long it is tried: the record is for people, nothing waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// Has it recorded, in the background. What cannot be recorded in time is in this node's log only.
pub fn tell<D: PostgresDriver>(agent: &Arc<Agent<D>>, note: Note) {
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let kind = note.kind;
        if let Err(error) = agent.submit(Command::Note { note }, LIMIT).await {
            warn!(%kind, %error, "could not record what happened");
        }
    });
}
