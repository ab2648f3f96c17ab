//! What a planned stop of the server would run into.

use super::Instance;
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, Survey};
use crate::wire::{Row, WireError};

/// # Sources
/// PostgreSQL 15 to 18: `pg_stat_activity`, `pg_prepared_xacts`, `pg_replication_slots`,
/// `pg_ls_archive_statusdir()`.
const LOOK: &str = "\
WITH long AS (
    SELECT extract(epoch FROM now() - xact_start)::bigint AS age FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
      AND xact_start < now() - interval '30 seconds')
SELECT (SELECT count(*) FROM long),
       (SELECT coalesce(max(age), 0) FROM long),
       (SELECT count(*) FROM pg_prepared_xacts),
       (SELECT coalesce(string_agg(slot_name, ',' ORDER BY slot_name), '')
          FROM pg_replication_slots WHERE slot_type = 'logical'),
       CASE WHEN current_setting('archive_mode') = 'off' THEN 0
            ELSE (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') END,
       (SELECT coalesce(string_agg(name, ',' ORDER BY name), '')
          FROM pg_settings WHERE pending_restart)";

impl Instance {
    /// See `survey` of the trait.
    pub(super) async fn look_around(&self, attempt: &Attempt) -> Result<Survey, ActionError> {
        let rows = self.execute(LOOK, &[], attempt, Effect::None).await?;
        let row = rows.first().ok_or_else(|| attempt.failed("no row", Effect::None))?;
        read(row).map_err(|error| attempt.failed(error.to_string(), Effect::None))
    }
}

fn read(row: &Row) -> Result<Survey, WireError> {
    let names =
        |text: String| text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok(Survey {
        long_transactions: row.value(0)?,
        oldest_s: row.value(1)?,
        prepared: row.value(2)?,
        logical_slots: names(row.value(3)?),
        archive_backlog: row.value(4)?,
        pending_restart: names(row.value(5)?),
    })
}
