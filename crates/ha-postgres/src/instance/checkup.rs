//! What a checkup measures of our own server, and logins to those of others.

use ha_core::Lsn;
use tokio::time::Instant;

use super::{Instance, Role};
use crate::attempt::one_line;
use crate::driver::{
    Archiver, Checkup, Knock, KnockError, Measured, ProbeError, Purpose, Slot, Standby,
    Transactions, Upstream, Wal,
};
use crate::sql::{self, probe_error};
use crate::wire::{Connection, Row, WireError};

const STATE: &str = "SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names')";

/// What the C library sorts by counts too: an index that was built by another version of it is wrong.
///
/// # Sources
/// PostgreSQL manual, "Hot Standby", "Administrator's Overview": what a standby may not have less of;
/// `pg_database_collation_actual_version`.
const SETTINGS: &str = "\
SELECT name, setting FROM pg_settings WHERE name IN ( \
 'archive_mode', 'block_size', 'data_checksums', 'fsync', 'full_page_writes', 'max_connections', \
 'max_locks_per_transaction', 'max_prepared_transactions', 'max_replication_slots', \
 'max_wal_senders', 'max_worker_processes', 'server_version', 'server_version_num', \
 'shared_preload_libraries', 'synchronous_commit', 'track_commit_timestamp', 'wal_level', \
 'wal_log_hints', 'wal_segment_size') \
UNION ALL SELECT 'collation_version', coalesce(pg_database_collation_actual_version(oid), '-') \
 FROM pg_database WHERE datname = current_database()";

/// A standby of a standby keeps WAL too: what it has replayed stands for its end.
const SLOTS: &str = "\
SELECT slot_name, active, coalesce(wal_status, ''), \
 greatest(0, pg_wal_lsn_diff(w.lsn, restart_lsn))::bigint, safe_wal_size \
 FROM pg_replication_slots, LATERAL (SELECT CASE WHEN pg_is_in_recovery() \
  THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END OFFSET 0) w(lsn) ORDER BY 1";

const STANDBYS: &str = "\
SELECT application_name, coalesce(state, ''), \
 coalesce(greatest(0, pg_wal_lsn_diff(w.lsn, coalesce(flush_lsn, sent_lsn)))::bigint, 0), \
 (extract(epoch FROM replay_lag) * 1000)::bigint \
 FROM pg_stat_replication, LATERAL (SELECT CASE WHEN pg_is_in_recovery() \
  THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END OFFSET 0) w(lsn) \
 WHERE application_name <> 'haclt' AND coalesce(state, '') <> 'backup' ORDER BY 1";

const WAL: &str = "\
SELECT coalesce(sum(size), 0)::bigint, \
 pg_size_bytes(current_setting('max_wal_size')) + pg_size_bytes(current_setting('wal_keep_size')) \
 FROM pg_ls_waldir()";

const ARCHIVER: &str = "\
SELECT current_setting('archive_mode') <> 'off', \
 CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') THEN last_failed_wal END, \
 coalesce(extract(epoch FROM now() - last_failed_time)::bigint, 0), failed_count \
 FROM pg_stat_archiver";

const TRANSACTIONS: &str = "\
SELECT (SELECT count(*) FROM pg_prepared_xacts), \
 coalesce((SELECT extract(epoch FROM now() - min(prepared))::bigint FROM pg_prepared_xacts), 0), \
 datname, age(datfrozenxid) FROM pg_database ORDER BY age(datfrozenxid) DESC LIMIT 1";

/// What `pg_rewind` calls on the source.
///
/// # Sources
/// PostgreSQL manual, `pg_rewind`, "Notes": the functions that a role without superuser has to be granted.
const REWIND: &str = "\
SELECT f FROM unnest(ARRAY['pg_ls_dir(text,boolean,boolean)', 'pg_stat_file(text,boolean)', \
 'pg_read_binary_file(text)', 'pg_read_binary_file(text,bigint,bigint,boolean)']) f \
 WHERE NOT has_function_privilege(f, 'execute')";

impl Instance {
    /// See `checkup` of the trait.
    pub(super) async fn measure(&self, deadline: Instant) -> Result<Checkup, ProbeError> {
        let began = Instant::now();
        let sort = |error: WireError| probe_error(&error, began.elapsed());
        let mut session = self.connect(&[], deadline).await.map_err(sort)?;
        let login = began.elapsed();
        let state = session.query(STATE, "reading the state", deadline).await.map_err(sort)?;
        let state = first(&state).map_err(sort)?;
        let (in_recovery, synchronous) =
            (state.flag(0).map_err(sort)?, state.value(1).map_err(sort)?);
        let mut part = Part { session, deadline };
        Ok(Checkup {
            login,
            in_recovery,
            synchronous,
            settings: part
                .ask(SETTINGS, |rows| {
                    rows.iter().map(|row| Ok((row.value(0)?, row.value(1)?))).collect()
                })
                .await,
            slots: part.ask(SLOTS, |rows| rows.iter().map(slot).collect()).await,
            standbys: part.ask(STANDBYS, |rows| rows.iter().map(standby).collect()).await,
            wal: part
                .ask(WAL, |rows| {
                    let row = first(rows)?;
                    Ok(Wal { bytes: row.value(0)?, expected_bytes: row.value(1)? })
                })
                .await,
            archiver: part.ask(ARCHIVER, |rows| archiver(first(rows)?)).await,
            transactions: part.ask(TRANSACTIONS, |rows| transactions(first(rows)?)).await,
        })
    }
}

/// One session, several questions: one that fails does not spoil the others.
struct Part {
    session: Connection,
    deadline: Instant,
}

impl Part {
    async fn ask<T>(
        &mut self,
        question: &str,
        read: impl Fn(&[Row]) -> Result<T, WireError>,
    ) -> Measured<T> {
        let rows = self.session.query(question, "waiting for the answer", self.deadline).await;
        rows.and_then(|rows| read(&rows)).map_err(|error| one_line(&error.to_string()))
    }
}

fn first(rows: &[Row]) -> Result<&Row, WireError> {
    rows.first().ok_or_else(|| WireError::Protocol("an answer without rows".to_owned()))
}

fn slot(row: &Row) -> Result<Slot, WireError> {
    // Past the bound it is negative: nothing is left.
    let left: Option<i64> = row.optional(4)?;
    Ok(Slot {
        name: row.value(0)?,
        active: row.flag(1)?,
        status: row.value(2)?,
        kept_bytes: row.optional(3)?,
        left_bytes: left.map(|left| u64::try_from(left).unwrap_or(0)),
    })
}

fn standby(row: &Row) -> Result<Standby, WireError> {
    Ok(Standby {
        name: row.value(0)?,
        state: row.value(1)?,
        lag_bytes: row.value(2)?,
        replay_lag_ms: row.optional(3)?,
    })
}

fn archiver(row: &Row) -> Result<Option<Archiver>, WireError> {
    if !row.flag(0)? {
        return Ok(None);
    }
    let (failing, failed_s, failures) = (row.optional(1)?, row.value(2)?, row.value(3)?);
    Ok(Some(Archiver { failing, failed_s, failures }))
}

fn transactions(row: &Row) -> Result<Transactions, WireError> {
    // Negative for a moment after a freeze at the very end.
    let age: i64 = row.value(3)?;
    Ok(Transactions {
        prepared: row.value(0)?,
        prepared_s: row.value(1)?,
        oldest_database: row.value(2)?,
        oldest_age: u64::try_from(age).unwrap_or(0),
    })
}

/// Logs in to a server as its standby and its rewind would; changes nothing.
pub async fn knock(role: &Role, at: &Upstream, deadline: Instant) -> Vec<Knock> {
    let stream = async {
        let mut session = open(role, at, &[("replication", "true")], deadline).await?;
        let said = session.query("IDENTIFY_SYSTEM", "asking who it is", deadline).await;
        let end = said.and_then(|rows| first(&rows)?.optional(2)).map_err(|e| sort(&e))?;
        Ok(end)
    };
    let rewind = async {
        let mut session = open(role, at, &[], deadline).await?;
        let lacks = session.query(REWIND, "asking what it may do", deadline).await;
        let lacks = lacks.map_err(|error| sort(&error))?;
        let names: Result<Vec<String>, WireError> = lacks.iter().map(|row| row.value(0)).collect();
        let names = names.map_err(|error| sort(&error))?;
        if names.is_empty() { Ok(None) } else { Err(KnockError::Lacks(names.join(", "))) }
    };
    let (stream, rewind) = tokio::join!(timed(stream), timed(rewind));
    let knock = |purpose, answer| Knock { purpose, user: role.name.clone(), answer };
    vec![knock(Purpose::Replication, stream), knock(Purpose::Rewind, rewind)]
}

async fn open(
    role: &Role,
    at: &Upstream,
    settings: &[(&'static str, &str)],
    deadline: Instant,
) -> Result<Connection, KnockError> {
    sql::open(&at.host, at.port, role, settings, deadline).await.map_err(|error| sort(&error))
}

type Answer = Result<(std::time::Duration, Option<Lsn>), KnockError>;

async fn timed(work: impl Future<Output = Result<Option<Lsn>, KnockError>>) -> Answer {
    let began = Instant::now();
    work.await.map(|end| (began.elapsed(), end))
}

fn sort(error: &WireError) -> KnockError {
    let text = one_line(&error.to_string());
    match error {
        // cannot_connect_now and its relatives: it is not there yet, or not any more.
        WireError::Server { code, .. } if code.starts_with("57P") => KnockError::Unreachable(text),
        WireError::Server { .. } | WireError::Protocol(_) => KnockError::Refused(text),
        WireError::Refused | WireError::TimedOut(_) | WireError::Lost(_) => {
            KnockError::Unreachable(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_said_is_told_apart_from_silence() {
        let server =
            |code: &str| WireError::Server { code: code.to_owned(), message: "no".to_owned() };
        #[rustfmt::skip]
        let table = [
            (server("28000"),             KnockError::Refused("no (SQLSTATE 28000)".to_owned())),
            (server("53300"),             KnockError::Refused("no (SQLSTATE 53300)".to_owned())),
            (server("57P03"),             KnockError::Unreachable("no (SQLSTATE 57P03)".to_owned())),
            (WireError::Refused,          KnockError::Unreachable("connection refused".to_owned())),
            (WireError::TimedOut("connecting"), KnockError::Unreachable("no answer while connecting".to_owned())),
        ];
        for (error, expected) in table {
            assert_eq!(sort(&error), expected);
        }
    }
}
