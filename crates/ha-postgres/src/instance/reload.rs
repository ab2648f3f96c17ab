//! Reading the configuration files again because an operator wants it.

use std::time::Duration;

use tokio::time::sleep;

use super::{Instance, cluster_conf};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, Reloaded};
use crate::wire::Row;

/// How often it is looked whether the server has read them.
const POLL: Duration = Duration::from_millis(50);

/// What the files say that the server would not take.
///
/// # Sources
/// PostgreSQL 15 to 18: `pg_file_settings`, `pg_hba_file_rules`. "setting could not be applied" is said of a bad
/// value, and also of one that needs a restart, which is no fault.
const FAULTS: &str = "\
SELECT coalesce(sourcefile, '') || ':' || coalesce(sourceline, 0) || ': '
       || coalesce(name || ': ', '') || error
  FROM pg_file_settings LEFT JOIN (SELECT name, context FROM pg_settings) AS known USING (name)
 WHERE error IS NOT NULL
   AND (error <> 'setting could not be applied' OR context IS DISTINCT FROM 'postmaster')
UNION ALL
SELECT 'pg_hba.conf:' || line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL";
const LOADED: &str = "SELECT extract(epoch FROM pg_conf_load_time())::text";
const PENDING: &str = "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name";

impl Instance {
    /// See `reload` of the trait.
    pub(super) async fn reload_and_look(&self, attempt: &Attempt) -> Result<Reloaded, ActionError> {
        // What was found not to start may be tried again.
        cluster_conf::pardon(&self.layout).map_err(|why| attempt.refused(why))?;
        let faults = self.texts(FAULTS, attempt).await?;
        if !faults.is_empty() {
            return Ok(Reloaded { faults, ..Reloaded::default() });
        }
        self.reload_and_wait(attempt).await?;
        Ok(Reloaded { faults, pending_restart: self.texts(PENDING, attempt).await? })
    }

    /// Has the server read its files again, and waits until it has.
    pub(super) async fn reload_and_wait(&self, attempt: &Attempt) -> Result<(), ActionError> {
        let before = self.texts(LOADED, attempt).await?;
        self.reload(attempt).await?;
        while self.texts(LOADED, attempt).await? == before {
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn texts(&self, ask: &str, attempt: &Attempt) -> Result<Vec<String>, ActionError> {
        let rows = self.execute(ask, &[], attempt, Effect::None).await?;
        let first = |row: &Row| row.value(0);
        let texts = rows.iter().map(first).collect::<Result<Vec<String>, _>>();
        texts.map_err(|error| attempt.failed(error.to_string(), Effect::None))
    }
}
