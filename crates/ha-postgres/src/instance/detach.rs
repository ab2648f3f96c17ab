//! Ending the reception of WAL on a running standby, provably (rule 95).
//!
//! Taking the upstream out of the settings is not enough: the startup process, which starts WAL
//! receivers, reads its settings only between two records, and a record may wait for long. Hence two
//! more things: the password that a receiver needs to connect is taken away, and the receiver that
//! runs is ended by us. A receiver that was seen by nobody yet has not read the password yet.
//!
//! # Sources
//! PostgreSQL, `xlogrecovery.c: WaitForWALToBecomeAvailable`; `walreceiver.c: WalRcvDie` (it flushes what it
//! has received, while it still is in `pg_stat_activity`).

use std::time::Duration;

use ha_core::{Lsn, TimelineId};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::Instance;
use super::directory::newest_timeline;
use super::settings::CONNINFO;
use crate::attempt::Attempt;
use crate::driver::{ActionError, Detached, Effect};
use crate::sql;
use crate::wire::{Connection, WireError};

const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a signal may take until it is sent again.
const SIGNAL_EVERY: Duration = Duration::from_secs(1);
/// How long replay may take to notice that nothing comes any more, before it counts as busy.
const NOTICE: Duration = Duration::from_millis(50);

const STATE: &str = "\
SELECT pg_is_in_recovery(), current_setting('primary_conninfo'), \
 coalesce(pg_last_wal_receive_lsn(), '0/0'), coalesce(pg_last_wal_replay_lsn(), '0/0'), r.pid, \
 coalesce(r.age < 2 * (SELECT setting::bigint FROM pg_settings \
  WHERE name = 'wal_retrieve_retry_interval'), false), \
 EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' \
  AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')) \
FROM (SELECT max(pid) AS pid, \
  min(1000 * extract(epoch FROM clock_timestamp() - backend_start)) AS age \
 FROM pg_stat_activity WHERE backend_type = 'walreceiver') r";

/// One look at the standby.
struct Look {
    in_recovery: bool,
    conninfo: String,
    timeline: TimelineId,
    flushed: Lsn,
    received: Lsn,
    replayed: Lsn,
    receiver: Option<i32>,
    /// The receiver is so young that replay may rest from an earlier failure to find WAL.
    young: bool,
    waiting: bool,
}

impl Look {
    async fn at(session: &mut Connection, attempt: &Attempt) -> Result<Self, WireError> {
        let during = "looking at the WAL receiver";
        let deadline = attempt.deadline();
        let (identity, state) =
            session.query_both("IDENTIFY_SYSTEM", STATE, during, deadline).await?;
        let missing = || WireError::Protocol("no row".to_owned());
        let (identity, state) =
            (identity.first().ok_or_else(missing)?, state.first().ok_or_else(missing)?);
        Ok(Self {
            in_recovery: state.flag(0)?,
            conninfo: state.value(1)?,
            timeline: TimelineId(identity.value(1)?),
            flushed: identity.value(2)?,
            received: state.value(2)?,
            replayed: state.value(3)?,
            receiver: state.optional(4)?,
            young: state.flag(5)?,
            waiting: state.flag(6)?,
        })
    }
}

impl Instance {
    /// See `detach` of the trait.
    pub(super) async fn stop_receiving(&self, attempt: &Attempt) -> Result<Detached, ActionError> {
        let unknown = |error: WireError| sql::action_error(attempt, &error, Effect::Unknown);
        // Only there a standby tells which timeline it replays.
        let settings = [("replication", "database")];
        let opened = self.connect(&settings, attempt.deadline()).await;
        let mut session =
            opened.map_err(|error| sql::action_error(attempt, &error, Effect::None))?;
        let mut look = Look::at(&mut session, attempt).await.map_err(unknown)?;
        if !look.in_recovery {
            return Err(attempt.refused("the server is not in recovery"));
        }
        self.write_upstream(None, attempt).await?;
        self.reset_if_altered(CONNINFO, &mut session, attempt).await?;
        let mut reloaded: Option<Instant> = None;
        let mut ended: Option<(i32, Instant)> = None;
        let (mut young, mut quiet_since) = (false, None);
        loop {
            if !look.conninfo.is_empty()
                && reloaded.is_none_or(|at: Instant| at.elapsed() >= SIGNAL_EVERY)
            {
                self.reload(attempt).await?;
                reloaded = Some(Instant::now());
            }
            if let Some(pid) = look.receiver {
                young |= look.young;
                if ended.is_none_or(|(last, at)| last != pid || at.elapsed() >= SIGNAL_EVERY) {
                    self.runtime.signal_server(pid, &[Signal::TERM, Signal::CONT]).await;
                    ended = Some((pid, Instant::now()));
                }
            } else if look.conninfo.is_empty() {
                let since = *quiet_since.get_or_insert_with(Instant::now);
                if look.waiting || since.elapsed() >= NOTICE {
                    return self.detached(&look, young, attempt);
                }
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
            // The password is gone by now: whoever is not there in this look cannot connect.
            look = Look::at(&mut session, attempt).await.map_err(unknown)?;
            if !look.in_recovery {
                return Err(attempt.failed("the server ended recovery", Effect::Unknown));
            }
        }
    }

    fn detached(
        &self,
        look: &Look,
        young: bool,
        attempt: &Attempt,
    ) -> Result<Detached, ActionError> {
        let Look { timeline, flushed, received, replayed, waiting, .. } = *look;
        let replay_timeline = timeline;
        let (timeline, flushed) = if received > flushed.max(replayed) {
            // The server tells of the timeline that it replays; it has received a newer one.
            let newest = newest_timeline(&self.layout).map_err(|why| attempt.refused(why))?;
            (newest, received)
        } else {
            (timeline, flushed.max(replayed))
        };
        let exhausted = waiting && (replayed == flushed || !young);
        Ok(Detached { timeline, flushed, replayed, replay_timeline, exhausted })
    }
}
