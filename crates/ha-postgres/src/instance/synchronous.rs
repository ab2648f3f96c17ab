//! Whose acknowledgement commits wait for: the setting, its barrier, and what the server sees of those
//! who acknowledge.
//!
//! Three kinds of processes have their own idea of `synchronous_standby_names`. A commit waits if a
//! flag in shared memory says that there are synchronous standbys, and the *checkpointer* sets that
//! flag when it reads its configuration; what the committing session itself has loaded does not
//! matter. A commit is released by a *walsender*, by the setting that this walsender has loaded. And
//! the *postmaster* hands its own to every new process. All three read it some time after the signal.
//!
//! # Sources
//! PostgreSQL, `syncrep.c: SyncRepWaitForLSN, SyncRepReleaseWaiters, SyncRepUpdateSyncStandbysDefined`.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use ha_core::{Lsn, NodeId};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use super::Instance;
use super::settings::{self, CONF_FILE, SYNCHRONOUS};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Effect, ProbeError, Receiver, Receivers, Synchronous};
use crate::probe::timeline_of;
use crate::sql::{self, APPLICATION_NAME, probe_error};
use crate::wire::{Connection, Row, WireError};

/// How often the server is asked whether it has read its configuration.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a signal may take until it is sent again.
const SIGNAL_EVERY: Duration = Duration::from_secs(1);
/// How long a walsender may go on with an older setting until it is ended.
const SENDER_PATIENCE: Duration = Duration::from_secs(1);

/// Prepared once in a session: planning these would take longer than running them.
///
/// The session's own setting is that of a new one, because a session reads its configuration before
/// each statement if it was told to. Our own sessions' waits are no client's.
const PREPARE: &str = "\
PREPARE haclt_state AS SELECT \
 current_setting('synchronous_standby_names'), r.yes, \
 CASE WHEN r.yes THEN coalesce(pg_last_wal_replay_lsn(), '0/0') \
      ELSE pg_current_wal_flush_lsn() END, \
 CASE WHEN NOT r.yes THEN pg_walfile_name(pg_current_wal_flush_lsn()) END, \
 CASE WHEN r.yes THEN (SELECT timeline_id FROM pg_control_checkpoint()) END, \
 w.count, coalesce(w.longest, 0) \
FROM (SELECT pg_is_in_recovery() AS yes OFFSET 0) r, \
 (SELECT count(*) AS count, greatest(0, (1000 * extract(epoch FROM \
   max(clock_timestamp() - query_start)))::bigint) AS longest \
  FROM pg_stat_get_activity(NULL) WHERE wait_event = 'SyncRep' AND application_name <> 'haclt') w; \
PREPARE haclt_senders AS SELECT \
 a.application_name, s.pid, coalesce(s.flush_lsn, '0/0'), s.state, s.sync_priority \
FROM pg_stat_get_wal_senders() s JOIN pg_stat_get_activity(NULL) a USING (pid) ORDER BY 1, 2";

const SENDERS: &str = "\
SELECT application_name, pid, coalesce(flush_lsn, '0/0'), state, sync_priority \
FROM pg_stat_replication";

/// A commit that waits for those who must acknowledge. In a block of its own because the statement
/// timeout covers a commit in there, and no other: whatever becomes of us, it does not hang for good.
const TEST_COMMIT: &str = "\
DO $haclt$ BEGIN PERFORM pg_logical_emit_message(true, 'haclt', 'barrier'); COMMIT; END $haclt$";
/// The same where somebody has removed the language.
const PLAIN_TEST_COMMIT: &str = "SELECT pg_logical_emit_message(true, 'haclt', 'barrier')";

impl Instance {
    /// See `set_synchronous` of the trait.
    pub(super) async fn say_synchronous(
        &self,
        to: &Synchronous,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let lock = timeout_at(attempt.deadline(), self.acknowledging.lock());
        let _one_at_a_time = lock.await.map_err(|_| attempt.timed_out())?;
        let opened = self.connect(&[], attempt.deadline()).await;
        let session = opened.map_err(|error| sql::action_error(attempt, &error, Effect::None))?;
        self.make_live(to, session, true, attempt).await.map(drop)
    }

    /// See `settle_synchronous` of the trait.
    pub(super) async fn say_synchronous_with_barrier(
        &self,
        to: &Synchronous,
        attempt: &Attempt,
    ) -> Result<Lsn, ActionError> {
        let lock = timeout_at(attempt.deadline(), self.acknowledging.lock());
        let _one_at_a_time = lock.await.map_err(|_| attempt.timed_out())?;
        // Its text goes to no log: that the wait of the test commit was cancelled would alarm somebody.
        let quiet = [("log_min_messages", "panic"), ("synchronous_commit", "on")];
        let deadline = attempt.deadline();
        let opened = tokio::try_join!(self.connect(&[], deadline), self.connect(&quiet, deadline));
        let (mut session, tester) =
            opened.map_err(|error| sql::action_error(attempt, &error, Effect::None))?;
        let unknown = |error: WireError| sql::action_error(attempt, &error, Effect::Unknown);
        if one_flag(&mut session, "SELECT pg_is_in_recovery()", attempt).await.map_err(unknown)? {
            return Err(attempt.refused("the server is in recovery"));
        }
        // Nobody is promised anything by a setting of nobody: nothing to prove.
        let open = to.setting().is_empty();
        if !open {
            session = self.make_live(&Synchronous::Closed, session, true, attempt).await?;
            self.await_senders(&mut session, attempt).await?;
            self.prove_commits_wait(&mut session, tester, attempt).await?;
        }
        let ask = "SELECT pg_current_wal_insert_lsn()";
        let rows = session.query(ask, "reading the end of WAL", attempt.deadline()).await;
        let end = rows.and_then(|rows| first(&rows)?.value(0)).map_err(unknown)?;
        self.make_live(to, session, false, attempt).await?;
        Ok(end)
    }

    /// Makes the setting live and returns a session that was new when it showed it. `fresh` says that
    /// `session` has just been opened.
    async fn make_live(
        &self,
        to: &Synchronous,
        mut session: Connection,
        fresh: bool,
        attempt: &Attempt,
    ) -> Result<Connection, ActionError> {
        let unknown = |error: WireError| sql::action_error(attempt, &error, Effect::Unknown);
        let wanted = to.setting();
        let text = wanted.clone();
        let changed = self.rewrite(attempt, CONF_FILE, move |_, _, old| {
            settings::with_setting(old, SYNCHRONOUS, &text)
        });
        let changed = changed.await?;
        let reset = self.reset_if_altered(SYNCHRONOUS, &mut session, attempt).await?;
        let mut live = live_setting(&mut session, attempt).await.map_err(unknown)?;
        if fresh && !changed && !reset && live == wanted {
            return Ok(session);
        }
        let mut signalled: Option<Instant> = None;
        loop {
            if signalled.is_none_or(|at| at.elapsed() >= SIGNAL_EVERY) {
                self.reload(attempt).await?;
                signalled = Some(Instant::now());
            }
            live = live_setting(&mut session, attempt).await.map_err(unknown)?;
            if live == wanted {
                // The postmaster, too: it tells its children after it has read the file itself.
                session = self.connect(&[], attempt.deadline()).await.map_err(unknown)?;
                live = live_setting(&mut session, attempt).await.map_err(unknown)?;
                if live == wanted {
                    return Ok(session);
                }
            }
            if attempt.left().is_zero() {
                let why = format!("{SYNCHRONOUS} is still {live:?}");
                return Err(attempt.failed(why, Effect::Unknown));
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }

    /// Waits until no walsender can release a commit by an older setting; ends those that do not
    /// read the new one in time.
    async fn await_senders(
        &self,
        session: &mut Connection,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let unknown = |error: WireError| sql::action_error(attempt, &error, Effect::Unknown);
        let mut silent: Option<BTreeSet<i32>> = None;
        let mut patient_until = Instant::now() + SENDER_PATIENCE;
        loop {
            let rows = session.query(SENDERS, "looking at walsenders", attempt.deadline()).await;
            let rows = rows.and_then(|rows| rows.iter().map(receiver).collect());
            let mut old: Vec<Receiver> = rows.map_err(unknown)?;
            let silent = silent.get_or_insert_with(|| {
                old.iter().filter(|row| is_silent(row)).map(|row| row.pid).collect()
            });
            old.retain(|row| is_old(row, silent));
            if old.is_empty() {
                return Ok(());
            }
            if Instant::now() >= patient_until {
                for Receiver { name, pid, .. } in &old {
                    warn!(name, pid, "ending a walsender that does not read the new setting");
                    let end = format!("SELECT pg_terminate_backend({pid})");
                    session
                        .query(&end, "ending a walsender", attempt.deadline())
                        .await
                        .map_err(unknown)?;
                    // A frozen one would end only when it is thawed, and is a danger until then.
                    self.runtime.signal_server(*pid, &[Signal::CONT]).await;
                }
                patient_until = Instant::now() + SENDER_PATIENCE;
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
    }

    /// Makes sure that a commit waits now, by one of `tester` that does; it is cancelled then.
    async fn prove_commits_wait(
        &self,
        session: &mut Connection,
        mut tester: Connection,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        let unknown = |error: WireError| sql::action_error(attempt, &error, Effect::Unknown);
        let deadline = attempt.deadline();
        let ask = "SELECT pg_backend_pid(), EXISTS \
                   (SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql')";
        let rows = tester.query(ask, "preparing a test commit", deadline).await;
        let (pid, block) = rows
            .and_then(|rows| Ok((first(&rows)?.value::<i32>(0)?, first(&rows)?.flag(1)?)))
            .map_err(unknown)?;
        let statement = if block { TEST_COMMIT } else { PLAIN_TEST_COMMIT };
        let waits = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity \
             WHERE pid = {pid} AND wait_event = 'SyncRep')"
        );
        while !attempt.left().is_zero() {
            let mut commit = pin!(tester.query(statement, "testing a commit", deadline));
            loop {
                // That it is done means that it did not wait: the checkpointer has yet to read.
                if let Ok(done) = timeout(LOOK_EVERY, &mut commit).await {
                    done.map_err(unknown)?;
                    break;
                }
                if one_flag(session, &waits, attempt).await.map_err(unknown)? {
                    let cancel = format!("SELECT pg_cancel_backend({pid})");
                    let cancelled = session.query(&cancel, "cancelling a test commit", deadline);
                    cancelled.await.map_err(unknown)?;
                    return commit.await.map(drop).map_err(unknown);
                }
            }
            sleep(LOOK_EVERY.min(attempt.left())).await;
        }
        Err(attempt.timed_out())
    }

    /// Takes a setting out of `postgresql.auto.conf` of the running server. Returns whether it was
    /// there.
    pub(super) async fn reset_if_altered(
        &self,
        name: &str,
        session: &mut Connection,
        attempt: &Attempt,
    ) -> Result<bool, ActionError> {
        let path = self.layout.in_data("postgresql.auto.conf");
        let text = std::fs::read(&path)
            .map_err(|error| attempt.refused(format!("cannot read {}: {error}", path.display())))?;
        if !settings::mentions(&String::from_utf8_lossy(&text), name) {
            return Ok(false);
        }
        warn!(name, "a setting of ours was changed by ALTER SYSTEM: it is reset");
        let reset = format!("ALTER SYSTEM RESET {name}");
        let done = session.query(&reset, "resetting a setting", attempt.deadline()).await;
        done.map(|_| true).map_err(|error| sql::action_error(attempt, &error, Effect::Unknown))
    }

    /// See `receivers` of the trait.
    pub(super) async fn look_at_receivers(
        &self,
        deadline: Instant,
    ) -> Result<Receivers, ProbeError> {
        let began = Instant::now();
        let lock = timeout_at(deadline, self.watching.lock()).await;
        let answer = async {
            let mut kept = lock.map_err(|_| WireError::TimedOut("waiting for another look"))?;
            // Taken out while it is used: after an error, or if this future is dropped in the middle
            // of an answer, it must not be used again.
            if let Some(mut session) = kept.take() {
                match receivers_from(&mut session, deadline).await {
                    // The server was restarted: a new connection tells.
                    Err(WireError::Lost(_) | WireError::Server { .. }) => {}
                    other => {
                        *kept = other.is_ok().then_some(session);
                        return other;
                    }
                }
            }
            let mut session = self.connect(&[("statement_timeout", "5s")], deadline).await?;
            session.query(PREPARE, "preparing", deadline).await?;
            let seen = receivers_from(&mut session, deadline).await?;
            *kept = Some(session);
            Ok(seen)
        };
        answer.await.map_err(|error| probe_error(&error, began.elapsed()))
    }
}

async fn receivers_from(
    session: &mut Connection,
    deadline: Instant,
) -> Result<Receivers, WireError> {
    let (state, senders) = session
        .query_both(
            "EXECUTE haclt_state",
            "EXECUTE haclt_senders",
            "looking at receivers",
            deadline,
        )
        .await?;
    let state = first(&state)?;
    let in_recovery = state.flag(1)?;
    let timeline = match state.optional::<String>(3)? {
        Some(file) => timeline_of(&file)?,
        None => ha_core::TimelineId(state.value(4)?),
    };
    let rows: Vec<Receiver> = senders.iter().map(receiver).collect::<Result<_, _>>()?;
    Ok(Receivers {
        setting: state.value(0)?,
        flushed: state.value(2)?,
        timeline,
        in_recovery,
        waiting: state.value(5)?,
        longest_wait_ms: state.value(6)?,
        rows: rows.into_iter().filter(|row| row.name != APPLICATION_NAME).collect(),
    })
}

fn receiver(row: &Row) -> Result<Receiver, WireError> {
    Ok(Receiver {
        name: row.value(0)?,
        pid: row.value(1)?,
        flushed: row.value(2)?,
        state: row.value(3)?,
        priority: row.value(4)?,
    })
}

/// Returns whether a walsender's priority may be hidden: the server shows 0 for one whose receiver
/// has not said yet what it has flushed. Only nodes can be in a setting of ours.
fn is_silent(row: &Receiver) -> bool {
    let node = row.name.parse::<NodeId>().is_ok() && row.name != APPLICATION_NAME;
    node && row.flushed == Lsn::ZERO && row.state != "backup" && !row.name.starts_with("pg_")
}

/// Returns whether a walsender may still release commits by an older setting. `silent` are those
/// whose priority was hidden at the first look; later ones have read the new setting before they
/// listen to their receiver.
fn is_old(row: &Receiver, silent: &BTreeSet<i32>) -> bool {
    row.priority > 0 || (is_silent(row) && silent.contains(&row.pid))
}

async fn live_setting(session: &mut Connection, attempt: &Attempt) -> Result<String, WireError> {
    let ask = format!("SELECT current_setting('{SYNCHRONOUS}')");
    let rows = session.query(&ask, "reading the settings", attempt.deadline()).await?;
    first(&rows)?.value(0)
}

async fn one_flag(
    session: &mut Connection,
    ask: &str,
    attempt: &Attempt,
) -> Result<bool, WireError> {
    let rows = session.query(ask, "looking at the server", attempt.deadline()).await?;
    first(&rows)?.flag(0)
}

fn first(rows: &[Row]) -> Result<&Row, WireError> {
    rows.first().ok_or_else(|| WireError::Protocol("no row".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walsender_is_old_while_it_may_release_by_what_it_read_before() {
        let row = |name: &str, pid, flushed, priority| Receiver {
            name: name.to_owned(),
            pid,
            flushed: Lsn(flushed),
            state: "streaming".to_owned(),
            priority,
        };
        let silent = BTreeSet::from([7, 8, 9, 10]);
        #[rustfmt::skip]
        let table = [
            // row                           old    why
            (row("n2", 1, 50, 1),            true,  "it has it loaded"),
            (row("n2", 1, 50, 0),            false, "it has read the new one"),
            (row("n2", 7, 0, 0),             true,  "its priority is hidden"),
            (row("n2", 1, 0, 0),             false, "it came later"),
            (row("n2", 7, 50, 0),            false, "it has spoken since"),
            (row("haclt", 8, 0, 0),          false, "a tool of ours"),
            (row("pg_basebackup", 9, 0, 0),  false, "a backup never speaks"),
            (row("My App", 10, 0, 0),        false, "no node can have that name"),
        ];
        for (row, old, why) in table {
            assert_eq!(is_old(&row, &silent), old, "{why}");
        }
    }
}
