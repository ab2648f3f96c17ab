//! What a rehearsed fault needs of an instance: a table of haclt's own, and a crash.

use ha_core::permit::{GuardStatus, RunState};
use rustix::process::Signal;
use tokio::time::Instant;

use super::{Instance, Role};
use crate::attempt::Attempt;
use crate::drill::{SCHEMA, TABLE};
use crate::driver::{ActionError, DrillDriver, Effect, GuardSeen};
use crate::sql::{identifier, literal};

/// By this comment a schema is known to be of haclt.
const MARK: &str = "made by haclt drill";

/// Ends with an error if the schema is somebody else's; drops it otherwise.
fn drop_own() -> String {
    let (schema, mark) = (literal(SCHEMA), literal(MARK));
    let why = literal(&format!("schema {SCHEMA} is there already, and was not made by haclt"));
    format!(
        "IF EXISTS (SELECT FROM pg_namespace WHERE nspname = {schema} AND \
         obj_description(oid, 'pg_namespace') IS DISTINCT FROM {mark}) THEN \
         RAISE EXCEPTION USING MESSAGE = {why}; END IF; \
         IF EXISTS (SELECT FROM pg_namespace WHERE nspname = {schema}) THEN \
         DROP SCHEMA {SCHEMA} CASCADE; END IF;"
    )
}

fn make(user: &str) -> String {
    let (drop, mark, user) = (drop_own(), literal(MARK), identifier(user));
    format!(
        "DO $haclt$ BEGIN {drop} CREATE SCHEMA {SCHEMA}; COMMENT ON SCHEMA {SCHEMA} IS {mark}; \
         CREATE TABLE {TABLE} (n bigint PRIMARY KEY); GRANT USAGE ON SCHEMA {SCHEMA} TO {user}; \
         GRANT SELECT, INSERT ON {TABLE} TO {user}; END $haclt$"
    )
}

impl DrillDriver for Instance {
    fn drill_role(&self) -> Option<Role> {
        Some(self.config.replication.clone())
    }

    async fn make_drill_table(&self, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new("make the drill's table", deadline);
        let statement = make(&self.config.replication.name);
        self.execute(&statement, &[], &attempt, Effect::Unknown).await.map(drop)
    }

    async fn drop_drill_table(&self, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new("drop the drill's table", deadline);
        let statement = format!("DO $haclt$ BEGIN {} END $haclt$", drop_own());
        self.execute(&statement, &[], &attempt, Effect::Unknown).await.map(drop)
    }

    async fn crash_server(&self, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new("crash the server", deadline);
        let running = match self.runtime.guard_seen() {
            GuardSeen::Alive(GuardStatus { state: RunState::Running, postmaster, .. }) => {
                postmaster
            }
            GuardSeen::Alive(_) | GuardSeen::Absent | GuardSeen::Silent { .. } => None,
        };
        let Some(postmaster) = running else { return Err(attempt.refused("no server runs")) };
        if self.runtime.signal_server(postmaster, &[Signal::KILL]).await {
            return Ok(());
        }
        Err(attempt.refused(format!("process {postmaster} could not be killed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_elses_schema_is_touched_and_no_name_leads_out_of_the_statement() {
        let made = make("repl\"x");
        let (check, create) = (made.find("RAISE EXCEPTION"), made.find("CREATE SCHEMA"));
        assert!(check.is_some() && check < made.find("DROP SCHEMA") && check < create, "{made}");
        assert!(made.contains("TO \"repl\"\"x\";"), "{made}");
        assert!(!drop_own().contains("CREATE"));
    }
}
