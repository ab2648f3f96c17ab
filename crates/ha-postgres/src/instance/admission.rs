//! Letting ordinary clients in or keeping them out (rule 99).

use std::time::Duration;

use tokio::time::{sleep, timeout_at};

use super::Instance;
use super::cluster_conf::hba_text;
use super::settings::HBA_FILE;
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect};
use crate::wire::Row;

const LOOK_EVERY: Duration = Duration::from_millis(2);

/// When the postmaster last read its configuration: a new session has that from it. The rules who
/// may log in are read right after.
///
/// # Sources
/// PostgreSQL, `postmaster.c: SIGHUP_handler`.
const LOADED: &str = "SELECT pg_conf_load_time()";
/// What is wrong with the file; a server that finds anything keeps its old rules.
const FAULTS: &str = "\
SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY 1 LIMIT 1";

impl Instance {
    /// See `admit_clients` of the trait.
    pub(super) async fn admit(&self, admit: bool, attempt: &Attempt) -> Result<(), ActionError> {
        let lock = timeout_at(attempt.deadline(), self.admitting.lock());
        let mut loaded = lock.await.map_err(|_| attempt.timed_out())?;
        let changed = self.rewrite(attempt, HBA_FILE, move |config, layout, old| {
            let wanted = hba_text(config, layout, admit);
            (old != wanted).then_some(wanted)
        });
        if !changed.await? && *loaded == Some(admit) {
            return Ok(());
        }
        *loaded = None;
        let load_time = async || {
            let rows = self.execute(LOADED, &[], attempt, Effect::Unknown).await?;
            let time = rows.first().and_then(|row| row.value::<String>(0).ok());
            time.ok_or_else(|| attempt.failed("no row", Effect::Unknown))
        };
        let before = load_time().await?;
        let faults = self.execute(FAULTS, &[], attempt, Effect::Unknown).await?;
        if let Some(why) = faults.first().map(fault) {
            return Err(attempt.cannot(format!("pg_hba {why}")));
        }
        self.reload(attempt).await?;
        while load_time().await? == before {
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
        *loaded = Some(admit);
        Ok(())
    }
}

fn fault(row: &Row) -> String {
    let number = row.value::<u32>(0).unwrap_or_default();
    format!("line {number}: {}", row.value::<String>(1).unwrap_or_default())
}
