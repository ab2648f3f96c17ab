//! Sessions of the superuser with our own server.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Instance, InstanceConfig};
use crate::attempt::Attempt;
use crate::credentials::Logins;
use crate::driver::{ActionError, Effect};
use crate::sql;
use crate::wire::{self, Connection, Row, WireError};

impl Instance {
    /// Returns where this agent reaches the server: an address, or the directory of its socket.
    ///
    /// An engine resolves the names of containers and stands behind the ports that they publish. While it
    /// is away the server goes on, and its socket is in the volume that both see. At other times it is
    /// asked where others ask it: one that nobody else can reach is not well.
    pub(super) fn host(&self) -> Cow<'_, str> {
        let InstanceConfig { probe_host, port, .. } = &*self.config;
        let sockets = &self.layout.run_dir;
        if self.runtime.is_network_in_doubt() && wire::socket(sockets, *port).exists() {
            sockets.to_string_lossy()
        } else {
            Cow::Borrowed(probe_host)
        }
    }

    /// Returns the ways in to this server, as of now.
    pub(super) fn own_logins(&self) -> Logins {
        let config = &*self.config;
        Logins {
            host: self.host().into_owned(),
            port: config.port,
            roles: [config.superuser.clone(), config.replication.clone()],
            pass_file: self.layout.pass_file(),
            run_as: config.run_as,
            changing: Arc::clone(&self.changing),
        }
    }

    /// Opens a new session.
    pub(super) async fn connect(
        &self,
        settings: &[(&'static str, &str)],
        deadline: Instant,
    ) -> Result<Connection, WireError> {
        let config = &*self.config;
        sql::open(&self.host(), config.port, &config.superuser, settings, deadline).await
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
