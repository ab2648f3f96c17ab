//! Sessions of the superuser with our own server.

use tokio::time::Instant;

use super::Instance;
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect};
use crate::sql;
use crate::wire::{Connection, Row, WireError};

impl Instance {
    /// Opens a new session.
    pub(super) async fn connect(
        &self,
        settings: &[(&'static str, &str)],
        deadline: Instant,
    ) -> Result<Connection, WireError> {
        let config = &*self.config;
        sql::open(&config.probe_host, config.port, &config.superuser, settings, deadline).await
    }

    /// Runs one statement in a session of its own. `effect` is what a lost connection means.
    pub(super) async fn execute(
        &self,
        statement: &str,
        settings: &[(&'static str, &str)],
        attempt: &Attempt,
        effect: Effect,
    ) -> Result<Vec<Row>, ActionError> {
        let opened = self.connect(settings, attempt.deadline()).await;
        let mut session =
            opened.map_err(|error| sql::action_error(attempt, &error, Effect::None))?;
        let answer = session.query(statement, "waiting for the answer", attempt.deadline()).await;
        answer.map_err(|error| sql::action_error(attempt, &error, effect))
    }
}
