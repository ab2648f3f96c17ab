//! Questions to a running server over a new connection each time: role, positions, can it write.

use ha_core::{Lsn, TimelineId};
use tokio::time::Instant;

use crate::driver::{Probe, ProbeError};
use crate::instance::Role;
use crate::sql::{self, probe_error};
use crate::wire::{Row, WireError};

/// One row about the server, then one row for each attached standby.
///
/// `in_recovery` is read once: a promotion in the middle must not mix two answers.
const STATE: &str = "\
SELECT r.yes, \
 current_setting('server_version_num'), \
 CASE WHEN NOT r.yes THEN pg_walfile_name(pg_current_wal_flush_lsn()) END, \
 CASE WHEN r.yes THEN coalesce(pg_last_wal_replay_lsn(), '0/0') \
      ELSE pg_current_wal_flush_lsn() END, \
 EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'), \
 coalesce((SELECT latest_end_lsn FROM pg_stat_wal_receiver), '0/0'), \
 EXISTS (SELECT FROM pg_settings WHERE pending_restart), \
 (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
   AND pid <> pg_backend_pid() AND state NOT IN ('idle', 'disabled') \
   AND NOT (application_name = 'haclt' AND usename = current_user)), \
 (SELECT timeline_id FROM pg_control_checkpoint()), \
 current_setting('synchronous_standby_names'), \
 EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver') \
FROM (SELECT pg_is_in_recovery() AS yes OFFSET 0) r; \
SELECT application_name, flush_lsn FROM pg_stat_replication \
 WHERE application_name <> 'haclt' AND flush_lsn IS NOT NULL ORDER BY 1";

/// Reads role and positions.
///
/// The connection is one of replication, because only there a standby says which timeline it
/// replays: what the WAL receiver says may be ahead of that (rule 55). `IDENTIFY_SYSTEM` gives the
/// timeline together with the end of the WAL received *on that timeline*, a pair that can be
/// compared with another node's history.
///
/// # Sources
/// PostgreSQL, `walsender.c: IdentifySystem, GetStandbyFlushRecPtr`.
pub(crate) async fn read(
    host: &str,
    port: u16,
    role: &Role,
    deadline: Instant,
) -> Result<Probe, ProbeError> {
    let began = Instant::now();
    let answer = async {
        let settings = [("replication", "database")];
        let mut connection = sql::open(host, port, role, &settings, deadline).await?;
        let during = "reading the state";
        let (identity, state) =
            connection.query_both("IDENTIFY_SYSTEM", STATE, during, deadline).await?;
        probe_from(&identity, &state)
    };
    answer.await.map_err(|error| probe_error(&error, began.elapsed()))
}

fn probe_from(identity: &[Row], state: &[Row]) -> Result<Probe, WireError> {
    let missing = || WireError::Protocol("an answer without rows".to_owned());
    let identity = identity.first().ok_or_else(missing)?;
    let (state, attached) = state.split_first().ok_or_else(missing)?;
    let in_recovery = state.flag(0)?;
    let position: Lsn = state.value(3)?;
    let (timeline, flushed, replayed) = if in_recovery {
        // Asked first, so it may be behind what is replayed by now: the pair must fit together.
        let flushed: Lsn = identity.value(2)?;
        (TimelineId(identity.value(1)?), flushed, position.min(flushed))
    } else {
        (timeline_of(&state.value::<String>(2)?)?, position, position)
    };
    let checkpointed: u32 = state.value(8)?;
    Ok(Probe {
        in_recovery,
        system_identifier: identity.value(0)?,
        version_num: state.value(1)?,
        timeline,
        flushed,
        replayed,
        streaming: in_recovery && state.flag(4)?,
        upstream_end: if in_recovery { state.value(5)? } else { Lsn::ZERO },
        pending_restart: state.flag(6)?,
        attached: attached
            .iter()
            .map(|row| Ok((row.value(0)?, row.value(1)?)))
            .collect::<Result<_, WireError>>()?,
        busy_clients: state.value(7)?,
        synchronous: state.value(9)?,
        wal_receiver: state.flag(10)?,
        checkpoint_on_timeline: !in_recovery && TimelineId(checkpointed) == timeline,
    })
}

/// Returns the timeline in the name of a WAL file.
pub(crate) fn timeline_of(wal_file: &str) -> Result<TimelineId, WireError> {
    let number = wal_file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let wrong = || WireError::Protocol(format!("{wal_file:?} is no WAL file name"));
    number.map(TimelineId).ok_or_else(wrong)
}

/// Writes and flushes a small WAL record.
pub(crate) async fn write(
    host: &str,
    port: u16,
    role: &Role,
    deadline: Instant,
) -> Result<(), ProbeError> {
    let began = Instant::now();
    let answer = async {
        // Local: a missing standby must not look like a broken disk.
        let settings = [("synchronous_commit", "local")];
        let mut connection = sql::open(host, port, role, &settings, deadline).await?;
        let emit = "SELECT pg_logical_emit_message(true, 'haclt', 'probe')";
        connection.query(emit, "writing", deadline).await
    };
    answer.await.map(drop).map_err(|error| probe_error(&error, began.elapsed()))
}
