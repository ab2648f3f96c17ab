//! Questions to another node's server, as the replication user.

use ha_core::{Lsn, NodeId};
use tokio::time::Instant;
use tracing::info;

use super::{Instance, InstanceConfig, Role};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, Upstream, UpstreamHistory};
use crate::history::parse_history;
use crate::probe::timeline_of;
use crate::sql::{self, literal};
use crate::wire::{Connection, Row, WireError};

/// Everything in one round trip. The history file is read by a function that is granted to the
/// replication user, because `pg_rewind` needs the same one.
const HISTORY: &str = "\
SELECT (SELECT system_identifier FROM pg_control_system()), r.yes, \
 CASE WHEN NOT r.yes THEN w.file END, \
 CASE WHEN NOT r.yes THEN pg_current_wal_flush_lsn() ELSE pg_last_wal_replay_lsn() END, \
 (SELECT timeline_id FROM pg_control_checkpoint()), \
 current_setting('transaction_read_only') = 'off', \
 CASE WHEN NOT r.yes THEN convert_from(pg_read_binary_file( \
   'pg_wal/' || left(w.file, 8) || '.history', 0, 1048576, true), 'UTF8') END, \
 (SELECT CASE WHEN wal_status = 'lost' THEN '0/0' ELSE coalesce(restart_lsn, '0/0') END \
   FROM pg_replication_slots WHERE slot_name = current_setting('haclt.asking', true)) \
FROM (SELECT pg_is_in_recovery() AS yes OFFSET 0) r, \
 LATERAL (SELECT CASE WHEN NOT r.yes THEN pg_walfile_name(pg_current_wal_flush_lsn()) END AS file \
  OFFSET 0) w";

/// Asks a server for its identity and history, as the internal user, on behalf of `asking`.
///
/// # Errors
/// [`ActionError`]; nothing was changed.
pub async fn ask(
    asking: &NodeId,
    role: &Role,
    upstream: &Upstream,
    deadline: Instant,
) -> Result<UpstreamHistory, ActionError> {
    let attempt = Attempt::new(format!("read the history of {}", upstream.node), deadline);
    let Upstream { host, port, .. } = upstream;
    let answer = async {
        // As a walsender, which needs no place among the clients: those may all be waiting for the
        // acknowledgements that only follow from this answer.
        let settings = [("replication", "database"), ("haclt.asking", asking.as_str())];
        let mut session = sql::open(host, *port, role, &settings, deadline).await?;
        let rows = session.query(HISTORY, "reading the history", deadline).await?;
        history_from(rows.first().ok_or_else(|| WireError::Protocol("no row".to_owned()))?)
    };
    answer.await.map_err(|error| sql::action_error(&attempt, &error, Effect::None))
}

/// Makes the physical slot of `asking` on a server, or makes it anew if it lost its WAL.
///
/// # Errors
/// [`ActionError`]; the slot may have been made all the same.
pub async fn ensure_own_slot(
    asking: &NodeId,
    role: &Role,
    upstream: &Upstream,
    deadline: Instant,
) -> Result<(), ActionError> {
    let attempt = Attempt::new(format!("make a slot on {}", upstream.node), deadline);
    let Upstream { host, port, .. } = upstream;
    let answer = async {
        let settings = [("replication", "database")];
        let mut session = sql::open(host, *port, role, &settings, deadline).await?;
        ensure_slot(&mut session, asking, &attempt).await
    };
    answer.await.map_err(|error| sql::action_error(&attempt, &error, Effect::Unknown))
}

impl Instance {
    async fn connect_to(
        &self,
        upstream: &Upstream,
        attempt: &Attempt,
    ) -> Result<Connection, WireError> {
        let Upstream { host, port, .. } = upstream;
        let settings = [("replication", "database")];
        sql::open(host, *port, &self.config.replication, &settings, attempt.deadline()).await
    }

    /// Asks for identity and history.
    pub(super) async fn ask_history(
        &self,
        upstream: &Upstream,
        attempt: &Attempt,
    ) -> Result<UpstreamHistory, ActionError> {
        let InstanceConfig { node, replication, .. } = &*self.config;
        ask(node, replication, upstream, attempt.deadline()).await
    }

    /// Makes our slot on the upstream, or makes it anew if it lost its WAL: from here on the upstream
    /// keeps what we shall need.
    pub(super) async fn ensure_slot_on(
        &self,
        upstream: &Upstream,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let answer = async {
            let mut session = self.connect_to(upstream, attempt).await?;
            ensure_slot(&mut session, &self.config.node, attempt).await
        };
        answer.await.map_err(|error| sql::action_error(attempt, &error, Effect::None))
    }
}

async fn ensure_slot(
    session: &mut Connection,
    node: &NodeId,
    attempt: &Attempt,
) -> Result<(), WireError> {
    let during = "making our slot";
    let name = literal(node.as_str());
    let ask = format!(
        "SELECT restart_lsn IS NULL OR wal_status = 'lost' FROM pg_replication_slots \
         WHERE slot_name = {name}"
    );
    let found = session.query(&ask, during, attempt.deadline()).await?;
    match found.first().map(|row| row.flag(0)).transpose()? {
        Some(false) => return Ok(()),
        Some(true) => {
            let drop = format!("SELECT pg_drop_replication_slot({name})");
            session.query(&drop, during, attempt.deadline()).await?;
        }
        None => {}
    }
    let create = format!("SELECT pg_create_physical_replication_slot({name}, true)");
    match session.query(&create, during, attempt.deadline()).await {
        // Its own agent was quicker.
        Err(error) if error.code() == Some("42710") => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            info!("our replication slot made on the upstream");
            Ok(())
        }
    }
}

fn history_from(row: &Row) -> Result<UpstreamHistory, WireError> {
    let in_recovery = row.flag(1)?;
    let checkpointed: u32 = row.value(4)?;
    let timeline = match row.optional::<String>(2)? {
        Some(file) => timeline_of(&file)?,
        // A standby: good for a look, not for a rewind.
        None => ha_core::TimelineId(checkpointed),
    };
    let text: Option<String> = row.optional(6)?;
    let switches = match (text, timeline.0) {
        (Some(text), _) => parse_history(&text).map_err(WireError::Protocol)?,
        (None, 0 | 1) => Vec::new(),
        (None, _) if in_recovery => Vec::new(),
        (None, _) => return Err(WireError::Protocol("it lacks its own history file".to_owned())),
    };
    Ok(UpstreamHistory {
        system_identifier: row.value(0)?,
        timeline,
        switches,
        flushed: row.optional(3)?.unwrap_or(Lsn::ZERO),
        writable: !in_recovery && row.flag(5)?,
        checkpoint_on_timeline: !in_recovery && checkpointed == timeline.0,
        kept_from: row.optional(7)?,
    })
}
