//! Keeps what the primary's server waits for, what is recorded, and what is wanted, in line.
//!
//! One step at a time, each decided by [`ha_core::wal_quorum::next`] from what is recorded now. Nothing
//! that is remembered here is needed for safety: an agent that forgot it proves it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha_core::policy::Durability;
use ha_core::state::{Command, Outcome, State};
use ha_core::view::{Instance, LeaseView};
use ha_core::wal_quorum::{Change, Live, Quorum, Recorded, next};
use ha_core::{Epoch, Lsn, NodeId};
use ha_postgres::driver::{GuardSeen, PostgresDriver, Receiver, Receivers, Synchronous};
use ha_proto::v1::{Acknowledger, QuorumReport};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::agent::{Agent, Database, SubmitError, lock};
use crate::control_loop;
use crate::crash_point;
use crate::events;

/// How often the receivers are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long a look, and a change of the setting, may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
const CHANGE_LIMIT: Duration = Duration::from_secs(5);
/// How long recording a quorum may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(3);
/// After how many failed looks or changes in a row that is a trouble: some seconds.
const FAILURES_MAX: u32 = 10;
/// How long an acknowledger may be away, or a commit wait for it, before it counts as gone: longer than
/// a receiver that reconnects needs, and a slow one is not thrown out.
const PATIENCE: Duration = Duration::from_secs(2);
/// How far behind a receiver may be to be counted in: with more, commits would wait for it.
const NEAR: u64 = 16 << 20;

/// Returns what the server is told for a quorum.
#[must_use]
pub fn synchronous(quorum: &Quorum) -> Synchronous {
    if quorum.is_alone() {
        return Synchronous::Nobody;
    }
    let members = quorum.members.iter().cloned().collect();
    Synchronous::Any { required: quorum.required, members }
}

/// What is remembered of one run under one grant.
#[derive(Debug, Default)]
struct Memory {
    of: (u64, Epoch),
    live: Live,
    /// A quorum that is proven live, and the position up to which others could acknowledge.
    grown: Option<(Quorum, Lsn)>,
    /// The primary's end of WAL when it was first seen under this grant: what it took over lies before.
    began_at: Option<Lsn>,
    /// The version of the recorded quorum that is known to be the current one.
    ///
    /// What an agent knows after its start may be past: the note of what is committed is not synced, and lost
    /// with the process. After an order whose end it did not hear, too. The server is told nothing by that:
    /// the quorum in force could let commits pass which those who know better do not look for.
    confirmed: Option<u64>,
    admitted: bool,
    seen: BTreeMap<NodeId, Seen>,
    told: String,
}

/// What is remembered of one receiver.
#[derive(Debug)]
struct Seen {
    flushed: Lsn,
    /// When it last was there and got on, or had nothing to get on with.
    alive: Instant,
    /// Whether it has been near the end since it came.
    counted: bool,
}

/// Keeps the quorum, for as long as the agent runs.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let Some(database) = &agent.database else { return };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = agent.raft.state();
    let mut memory = Memory::default();
    let mut failures = 0_u32;
    loop {
        tokio::select! {
            biased;
            _ = state.changed() => {}
            () = agent.quorum_now.notified() => {}
            _ = tick.tick() => {}
        }
        let Some(of) = serving(&agent, database) else {
            memory = Memory::default();
            lock(&agent.quorum).take();
            failures = 0;
            database.facts().trouble("quorum", None);
            continue;
        };
        if memory.of != of {
            memory = Memory { of, ..Memory::default() };
        }
        match memory.once(&agent, database).await {
            Ok(()) => {
                failures = 0;
                database.facts().trouble("quorum", None);
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                debug!(why, "could not look after the quorum");
                // A change that failed half-way may leave every commit waiting: somebody has to know.
                if failures == FAILURES_MAX {
                    warn!(why, "the quorum cannot be kept: commits may wait");
                }
                if failures >= FAILURES_MAX {
                    let line = format!("the quorum cannot be kept, commits may wait: {why}");
                    database.facts().trouble("quorum", Some(line));
                }
            }
        }
    }
}

/// The run and the epoch under which this node is primary now.
fn serving<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>) -> Option<(u64, Epoch)> {
    let GuardSeen::Alive(status) = database.driver.guard() else { return None };
    let run = status.run;
    let view = control_loop::view(agent, database, &GuardSeen::Alive(status));
    let primary = matches!(view.instance, Instance::Primary(_));
    (view.lease == LeaseView::Ours && primary).then_some((run, view.epoch))
}

impl Memory {
    async fn once<D: PostgresDriver>(
        &mut self,
        agent: &Agent<D>,
        database: &Database<D>,
    ) -> Result<(), String> {
        let looked = database.driver.receivers(Instant::now() + LOOK_LIMIT).await;
        let receivers = looked.map_err(|error| error.to_string())?;
        if receivers.in_recovery {
            return Ok(());
        }
        let state = agent.state();
        let Some(recorded) = state.recorded.clone().filter(|r| r.epoch == self.of.1) else {
            return Ok(());
        };
        let began_at = *self.began_at.get_or_insert(receivers.flushed);
        self.notice(&state, &receivers);
        self.distrust(&receivers);
        let wanted = state.quorum_for(agent.node(), |node| self.is_present(node));
        let change = next(&recorded.quorum, &self.live, &wanted);
        let confirmed = self.confirmed == Some(state.quorum_version);
        if confirmed {
            self.admit(database, &recorded, &receivers, began_at).await?;
        }
        let closed = !self.admitted && database.facts().closed_run == Some(self.of.0);
        *lock(&agent.quorum) = Some(report(&state, &receivers, closed));
        if !confirmed && (change != Change::Nothing || !self.admitted) {
            return self.confirm(agent, &state, recorded).await;
        }
        #[cfg(feature = "sabotage")]
        if ha_raft::sabotage::is("quorum-not-recorded") {
            let done = self.live.set.as_ref() == Some(&wanted);
            return if done { Ok(()) } else { self.set(database, wanted).await };
        }
        match change {
            Change::Nothing => {
                let settled = has_passed(&recorded.quorum, &receivers, began_at);
                let open = !state.unsettled.is_empty() && settled;
                if recorded.mode != state.durability || open {
                    self.record(agent, &state, recorded.quorum, settled).await?;
                }
                Ok(())
            }
            Change::Set(quorum) => self.set(database, quorum).await,
            Change::Settle(quorum) => self.settle(database, quorum).await.map(drop),
            Change::Record(quorum) => self.record(agent, &state, quorum, false).await,
            Change::Grow(quorum) => self.grow(agent, database, &state, quorum, &receivers).await,
        }
    }

    /// Takes in who receives.
    fn notice(&mut self, state: &State, receivers: &Receivers) {
        let now = Instant::now();
        let stalled = Duration::from_millis(receivers.longest_wait_ms) >= PATIENCE;
        for node in state.nodes.keys() {
            let row = receivers.rows.iter().find(|row| is_of(row, node));
            let Some(row) = row.filter(|row| row.state == "streaming" || row.state == "catchup")
            else {
                continue;
            };
            let known = self.seen.entry(node.clone()).or_insert(Seen {
                flushed: Lsn::ZERO,
                alive: now,
                counted: false,
            });
            // A receiver that gets nowhere while commits wait is as good as gone, connected or not.
            if !stalled || row.flushed > known.flushed || row.flushed >= receivers.flushed {
                known.alive = now;
            }
            known.flushed = row.flushed;
            known.counted |= receivers.flushed.bytes_after(row.flushed) <= NEAR;
        }
        self.seen.retain(|_, seen| now.duration_since(seen.alive) < PATIENCE);
    }

    fn is_present(&self, node: &NodeId) -> bool {
        self.seen.get(node).is_some_and(|seen| seen.counted)
    }

    /// Somebody else may have changed the setting, or its file (rule 73).
    fn distrust(&mut self, receivers: &Receivers) {
        let Some(set) = &self.live.set else { return };
        let expected = synchronous(set).setting();
        if receivers.setting != expected {
            warn!(
                expected,
                found = receivers.setting,
                "synchronous_standby_names was changed by somebody else, it is set again"
            );
            self.live = Live::default();
            self.grown = None;
        }
    }

    /// After a crash restart ordinary clients wait outside until the quorum has what they would see
    /// (rule 99).
    async fn admit<D: PostgresDriver>(
        &mut self,
        database: &Database<D>,
        recorded: &Recorded,
        receivers: &Receivers,
        began_at: Lsn,
    ) -> Result<(), String> {
        if self.admitted || !has_passed(&recorded.quorum, receivers, began_at) {
            return Ok(());
        }
        let done = database.driver.admit_clients(true, Instant::now() + CHANGE_LIMIT).await;
        done.map_err(|error| error.to_string())?;
        self.admitted = true;
        Ok(())
    }

    async fn set<D: PostgresDriver>(
        &mut self,
        database: &Database<D>,
        quorum: Quorum,
    ) -> Result<(), String> {
        // From the first byte that is sent it may be in force.
        self.grown = None;
        if self.live.proven.as_ref() != Some(&quorum) {
            self.live.proven = None;
        }
        crash_point::reached("quorum: before it is set");
        let deadline = Instant::now() + CHANGE_LIMIT;
        let done = database.driver.set_synchronous(&synchronous(&quorum), deadline).await;
        done.map_err(|error| error.to_string())?;
        crash_point::reached("quorum: set");
        self.live.set = Some(quorum);
        Ok(())
    }

    async fn settle<D: PostgresDriver>(
        &mut self,
        database: &Database<D>,
        quorum: Quorum,
    ) -> Result<Lsn, String> {
        self.live = Live::default();
        self.grown = None;
        let deadline = Instant::now() + CHANGE_LIMIT;
        let began = Instant::now();
        let done = database.driver.settle_synchronous(&synchronous(&quorum), deadline).await;
        let until = done.map_err(|error| error.to_string())?;
        crash_point::reached("quorum: settled");
        let took_ms = ha_core::clock::millis(began.elapsed());
        info!(quorum = %shown(&quorum), took_ms, "only this quorum acknowledges now");
        self.live = Live { set: Some(quorum.clone()), proven: Some(quorum) };
        Ok(until)
    }

    async fn grow<D: PostgresDriver>(
        &mut self,
        agent: &Agent<D>,
        database: &Database<D>,
        state: &State,
        quorum: Quorum,
        receivers: &Receivers,
    ) -> Result<(), String> {
        let proven = self.live.proven.as_ref() == Some(&quorum);
        let until = match &self.grown {
            Some((grown, until)) if proven && *grown == quorum => *until,
            _ => {
                let until = self.settle(database, quorum.clone()).await?;
                self.grown = Some((quorum.clone(), until));
                // What the receivers had was read before.
                return Ok(());
            }
        };
        let until = until.max(self.began_at.unwrap_or(until));
        if has_passed(&quorum, receivers, until) {
            crash_point::reached("quorum: passed");
            self.record(agent, state, quorum, true).await?;
        }
        Ok(())
    }

    async fn record<D: PostgresDriver>(
        &mut self,
        agent: &Agent<D>,
        state: &State,
        quorum: Quorum,
        settled: bool,
    ) -> Result<(), String> {
        let epoch = self.of.1;
        // On the way to somewhere else nothing is promised that was not before; nor is a weaker mode
        // called in force before the server goes by it too: until then clients wait as they did.
        let wanted = state.quorum_for(agent.node(), |node| self.is_present(node));
        let before = state.recorded.as_ref().map_or(state.durability, |recorded| recorded.mode);
        let there = quorum == wanted && self.live.set.as_ref() == Some(&quorum);
        let mode = if there { state.durability } else { before };
        self.submit(agent, state, (mode, quorum.clone()), settled).await?;
        crash_point::reached("quorum: recorded");
        let line = format!("{mode}, {}", shown(&quorum));
        if line != self.told {
            let members = shown(&quorum);
            events::QuorumChanged { node: agent.node(), epoch, mode, members: &members }.emit();
            self.told = line;
        }
        self.await_applied(agent, state.quorum_version).await;
        Ok(())
    }

    /// Has what is recorded here recorded once more: refused, if it is not what is recorded everywhere.
    async fn confirm<D: PostgresDriver>(
        &mut self,
        agent: &Agent<D>,
        state: &State,
        recorded: Recorded,
    ) -> Result<(), String> {
        self.submit(agent, state, (recorded.mode, recorded.quorum), false).await?;
        self.await_applied(agent, state.quorum_version).await;
        Ok(())
    }

    async fn submit<D: PostgresDriver>(
        &mut self,
        agent: &Agent<D>,
        state: &State,
        (mode, quorum): (Durability, Quorum),
        settled: bool,
    ) -> Result<(), String> {
        // Until its end is known here, nothing is.
        self.confirmed = None;
        let (epoch, version) = (self.of.1, state.quorum_version);
        let set = Command::SetQuorum { epoch, version, mode, quorum, settled };
        match agent.submit(set, SUBMIT_LIMIT).await {
            Ok(Outcome::Applied) => Ok(()),
            Ok(Outcome::Refused(why)) => Err(why.to_string()),
            Err(SubmitError::NotTaken(why) | SubmitError::Unknown(why)) => Err(why),
        }
    }

    /// Until this node knows it too, it would only be decided again.
    async fn await_applied<D: PostgresDriver>(&mut self, agent: &Agent<D>, version: u64) {
        let mut state = agent.raft.state();
        let applied = state.wait_for(|now| now.state.quorum_version > version);
        drop(tokio::time::timeout(SUBMIT_LIMIT, applied).await);
        let own = version + 1;
        self.confirmed = (agent.state().quorum_version == own).then_some(own);
    }
}

fn report(state: &State, receivers: &Receivers, closed: bool) -> QuorumReport {
    let acknowledgers = receivers.rows.iter().filter_map(|row| {
        let node = state.nodes.keys().find(|node| is_of(row, node))?;
        Some(Acknowledger {
            node: node.to_string(),
            flushed: row.flushed.0,
            streaming: row.state == "streaming",
        })
    });
    QuorumReport {
        setting: receivers.setting.clone(),
        acknowledgers: acknowledgers.collect(),
        waiting: receivers.waiting,
        longest_wait_ms: receivers.longest_wait_ms,
        closed,
    }
}

/// Whether a receiver is a node's: the server compares these names without regard to case (rule 76).
///
/// # Sources
/// PostgreSQL, `syncrep.c: SyncRepGetStandbyPriority`.
fn is_of(row: &Receiver, node: &NodeId) -> bool {
    row.name.eq_ignore_ascii_case(node.as_str())
}

/// Whether enough members of a quorum have everything up to a position.
fn has_passed(quorum: &Quorum, receivers: &Receivers, position: Lsn) -> bool {
    let passed = quorum.members.iter().filter(|member| {
        let row = receivers.rows.iter().find(|row| is_of(row, member));
        row.is_some_and(|row| row.flushed >= position)
    });
    u32::try_from(passed.count()).unwrap_or(u32::MAX) >= quorum.required
}

/// Returns a quorum in words.
#[must_use]
pub fn shown(quorum: &Quorum) -> String {
    if quorum.is_alone() {
        return "the primary alone".to_owned();
    }
    let members: Vec<&str> = quorum.members.iter().map(NodeId::as_str).collect();
    format!("{} of {}", quorum.required, members.join(", "))
}

/// Returns whether a mode promises that commits survive the primary.
#[must_use]
pub fn promises(mode: Durability) -> bool {
    mode != Durability::Async
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_counts_whatever_the_case_of_its_name_rule_76() {
        let row = |name: &str, flushed| Receiver {
            name: name.to_owned(),
            flushed: Lsn(flushed),
            ..Receiver::default()
        };
        let receivers =
            Receivers { rows: vec![row("N2", 100), row("n3", 90)], ..Receivers::default() };
        let member = |name: &str| name.parse::<NodeId>().expect("a valid name");
        let both = Quorum::new([member("n2"), member("n3")], 2);
        assert!(has_passed(&both, &receivers, Lsn(90)));
        assert!(!has_passed(&both, &receivers, Lsn(91)), "n3 has not");
        assert!(has_passed(&Quorum::new([member("n2")], 1), &receivers, Lsn(100)));
    }
}
