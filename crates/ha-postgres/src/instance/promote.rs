//! Ending recovery. This is on the path of every failover: it waits for nothing it need not.

use std::time::Duration;

use ha_core::{Lsn, WalPosition};
use tokio::time::sleep;

use super::{Instance, directory};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect};
use crate::probe::timeline_of;
use crate::sql;
use crate::wire::{Connection, WireError};

/// How often the server is asked whether recovery has ended.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What `pg_promote` says when recovery has ended already.
const NOT_IN_RECOVERY: &str = "55000";

impl Instance {
    /// Promotes and waits until a new session may write. That it was promoted before is no error.
    pub(super) async fn end_recovery(&self, attempt: &Attempt) -> Result<WalPosition, ActionError> {
        let error = |effect| {
            move |error: WireError| match &error {
                // Whatever the server said after the request, it may have gone on.
                WireError::Server { code, .. } if effect == Effect::Unknown && code != "57014" => {
                    attempt.failed(&error, effect)
                }
                _ => sql::action_error(attempt, &error, effect),
            }
        };
        let opened = self.connect(&[], attempt.deadline()).await;
        let mut session = opened.map_err(error(Effect::None))?;
        let asked =
            session.query("SELECT pg_promote(false)", "promoting", attempt.deadline()).await;
        match asked {
            Ok(rows) => {
                let sent = rows.first().is_some_and(|row| row.flag(0) == Ok(true));
                if !sent {
                    return Err(attempt.refused("the server could not signal its postmaster"));
                }
            }
            Err(refused) if refused.code() == Some(NOT_IN_RECOVERY) => {}
            Err(refused @ WireError::Server { .. }) => return Err(error(Effect::None)(refused)),
            Err(lost) => return Err(error(Effect::Unknown)(lost)),
        }
        while self.is_in_recovery(&mut session, attempt).await.map_err(error(Effect::Unknown))? {
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
        drop(session);
        self.begin_of_timeline(attempt).await.map_err(error(Effect::Unknown))
    }

    async fn is_in_recovery(
        &self,
        session: &mut Connection,
        attempt: &Attempt,
    ) -> Result<bool, WireError> {
        let ask = "SELECT pg_is_in_recovery()";
        let rows = session.query(ask, "promoting", attempt.deadline()).await?;
        rows.first().ok_or_else(|| WireError::Protocol("no row".to_owned()))?.flag(0)
    }

    /// Asks a new session for the timeline that is written now, and returns where that began.
    async fn begin_of_timeline(&self, attempt: &Attempt) -> Result<WalPosition, WireError> {
        let mut session = self.connect(&[], attempt.deadline()).await?;
        let ask = "SELECT pg_walfile_name(pg_current_wal_flush_lsn())";
        let rows = session.query(ask, "confirming the promotion", attempt.deadline()).await?;
        let name: String =
            rows.first().ok_or_else(|| WireError::Protocol("no row".to_owned()))?.value(0)?;
        let timeline = timeline_of(&name)?;
        let history = directory::history_of(&self.layout, timeline).map_err(WireError::Protocol)?;
        // A cluster that was never promoted began at no switch.
        let lsn = history.last().map_or(Lsn::ZERO, |switch| switch.end);
        Ok(WalPosition { timeline, lsn })
    }
}
