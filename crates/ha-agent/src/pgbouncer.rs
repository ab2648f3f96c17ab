//! PgBouncers that follow the primary, and let clients wait while a switchover is under way.
//!
//! Each has a task of its own, so that one that is lost keeps no other waiting. That task alone resumes: a
//! switchover only says that it is over, in whichever way, and so does an agent that starts and finds the
//! note of an earlier one. What the agent of a lost host had paused, the agent of the new primary resumes.

mod due;
mod note;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use ha_core::decide::Rule;
use ha_core::{Epoch, NodeId};
use ha_postgres::Secret;
use ha_postgres::driver::PostgresDriver;
use ha_postgres::pgbouncer::{Console, ConsoleError, Target, list};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use crate::agent::{Agent, lock};
use crate::config::{BouncerSettings, Config};
use crate::events;
use due::{Due, Pause};

/// How often a PgBouncer is looked after when nothing wakes its task.
const TICK: Duration = Duration::from_millis(250);
/// The same while its clients wait.
const TICK_DUE: Duration = Duration::from_millis(20);
/// How long to wait after something failed.
const RETRY: Duration = Duration::from_secs(1);
/// How old an agent has to be: just started, it may have applied less of the replicated state than there is.
const SETTLE: Duration = Duration::from_secs(1);
/// How long one that is written by another agent may take to point at the new primary.
const POINTED_LIMIT: Duration = Duration::from_secs(5);
/// How long the disk may take to note something.
const NOTE_LIMIT: Duration = Duration::from_secs(2);
/// How long a switchover waits for clients to go on before it reports.
const RESUME_LIMIT: Duration = Duration::from_secs(10);

/// The PgBouncers of this agent's configuration.
#[derive(Debug)]
pub struct Bouncers {
    slots: Vec<Slot>,
    began: Instant,
}

/// One PgBouncer.
#[derive(Debug)]
struct Slot {
    settings: BouncerSettings,
    /// By this agent, or by an earlier start of it.
    paused: Mutex<Option<Pause>>,
    /// Held while it is told something: commands do not overtake each other.
    console: tokio::sync::Mutex<()>,
    wake: Notify,
}

/// Who is primary, once all nodes know.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Primary {
    node: NodeId,
    epoch: Epoch,
    host: String,
    port: u16,
    /// Whether that is this node.
    own: bool,
}

impl Bouncers {
    /// Takes over what an earlier start of the agent has paused.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let began = Instant::now();
        let (epoch, noted) = note::read(&config.data_dir).unwrap_or_default();
        let slots = config.bouncers.iter().map(|settings| Slot {
            paused: Mutex::new(noted.contains(&settings.admin.to_string()).then_some(Pause {
                epoch,
                since: began,
                held: false,
                found: true,
            })),
            settings: settings.clone(),
            console: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        });
        Self { slots: slots.collect(), began }
    }
}

impl Slot {
    async fn open(&self) -> Result<Console, ConsoleError> {
        let BouncerSettings { admin, user, password_file, .. } = &self.settings;
        let password = match password_file {
            Some(file) => {
                let text = tokio::fs::read_to_string(file).await.map_err(|error| {
                    ConsoleError::Failed(format!("cannot read {}: {error}", file.display()))
                })?;
                Secret::new(text.trim_end_matches(['\n', '\r']))
            }
            None => Secret::new(""),
        };
        Console::open(admin, user, &password).await
    }

    /// Has it send sessions to the primary.
    async fn point(&self, by: &NodeId, primary: &Primary) -> Result<(), ConsoleError> {
        let failed = |why: String| ConsoleError::Failed(why);
        if let Some(file) = self.settings.databases_file.clone() {
            let (by, databases) = (by.to_string(), self.settings.databases.clone());
            let (host, port) = (primary.host.clone(), primary.port);
            let shown = file.display().to_string();
            let written = tokio::task::spawn_blocking(move || {
                list::point(&file, &by, &databases, &host, port)
            });
            let written = written.await.map_err(|panic| failed(panic.to_string()))?;
            written.map_err(|error| failed(format!("could not write {shown}: {error}")))?;
        }
        // Also if the file says so already: whoever wrote it may not have come to this.
        match self.open().await {
            // It reads its file when it starts.
            Err(ConsoleError::Absent) => Ok(()),
            Err(error) => Err(error),
            Ok(mut console) => console.reload().await,
        }
    }
}

/// Looks after the PgBouncers until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    join_all(agent.bouncers.slots.iter().map(|slot| tend(&agent, slot))).await;
}

async fn tend<D: PostgresDriver>(agent: &Agent<D>, slot: &Slot) {
    let mut state = agent.raft.state();
    let mut tender = Tender { agent, slot, pointed_to: None, claimed: None, due_since: None };
    let mut complained = false;
    loop {
        let tick = if tender.due_since.is_some() { TICK_DUE } else { TICK };
        tokio::select! {
            _ = state.changed() => {}
            () = slot.wake.notified() => {}
            () = sleep(tick) => {}
        }
        let turn = slot.console.lock().await;
        let done = tender.once().await;
        drop(turn);
        if let Err(error) = &done {
            if !complained {
                let pgbouncer = &slot.settings.admin;
                warn!(%pgbouncer, %error, "could not tell PgBouncer, trying again");
            }
            sleep(RETRY).await;
        }
        complained = done.is_err();
    }
}

/// What the task of one PgBouncer knows.
struct Tender<'a, D> {
    agent: &'a Agent<D>,
    slot: &'a Slot,
    /// What it was told last.
    pointed_to: Option<Primary>,
    /// Under which grant this node, the primary, has resumed it.
    claimed: Option<Epoch>,
    /// Since when it is to be resumed.
    due_since: Option<Instant>,
}

impl<D: PostgresDriver> Tender<'_, D> {
    async fn once(&mut self) -> Result<(), ConsoleError> {
        let primary = primary(self.agent);
        let pointed = self.point(primary.as_ref()).await;
        let resumed = self.resume(primary.as_ref(), pointed.is_ok()).await;
        pointed.and(resumed)
    }

    async fn point(&mut self, primary: Option<&Primary>) -> Result<(), ConsoleError> {
        let Some(primary) = primary.filter(|now| self.pointed_to.as_ref() != Some(*now)) else {
            return Ok(());
        };
        self.slot.point(self.agent.node(), primary).await?;
        self.pointed_to = Some(primary.clone());
        let (admin, Primary { node, epoch, .. }) = (&self.slot.settings.admin, primary);
        events::BouncerPointed { admin, primary: node, epoch: *epoch }.emit();
        Ok(())
    }

    async fn resume(
        &mut self,
        primary: Option<&Primary>,
        pointed: bool,
    ) -> Result<(), ConsoleError> {
        let paused = *lock(&self.slot.paused);
        let now = primary.map(|primary| (primary.epoch, primary.own));
        let due = due::due(paused, now, self.claimed, Instant::now());
        if due == Due::No {
            self.due_since = None;
            return Ok(());
        }
        let since = *self.due_since.get_or_insert_with(Instant::now);
        let patient = due == Due::Yes && since.elapsed() < POINTED_LIMIT;
        if patient && !pointed {
            return Ok(());
        }
        let admin = &self.slot.settings.admin;
        match self.slot.open().await {
            // Started again, it is not paused.
            Err(ConsoleError::Absent) => {}
            Err(error) => return Err(error),
            Ok(mut console) => {
                let elsewhere = self.elsewhere(&console.targets().await?, primary);
                match elsewhere {
                    Some(_) if patient => return Ok(()),
                    Some(target) => {
                        let Target { database, host, port } = target;
                        warn!(
                            pgbouncer = %admin, database, host, port,
                            "PgBouncer does not point at the primary, its clients go on all the same"
                        );
                    }
                    None => {}
                }
                console.resume(&self.slot.settings.databases).await?;
            }
        }
        self.due_since = None;
        self.claimed = now.filter(|(_, own)| *own).map(|(epoch, _)| epoch).or(self.claimed);
        if let Some(pause) = paused {
            // Not a pause that was ordered meanwhile.
            lock(&self.slot.paused).take_if(|now| *now == pause);
            write_note(self.agent).await;
            events::BouncerResumed { admin, paused: pause.since.elapsed() }.emit();
        }
        Ok(())
    }

    /// Returns a database whose sessions still go to a node that is not primary.
    fn elsewhere(&self, targets: &[Target], primary: Option<&Primary>) -> Option<Target> {
        let primary = primary?;
        let state = self.agent.state();
        let others: Vec<(String, u16)> = state
            .nodes
            .keys()
            .filter(|node| **node != primary.node)
            .filter_map(|node| self.agent.upstream(node))
            .map(|upstream| (upstream.host, upstream.port))
            .collect();
        let ours = &self.slot.settings.databases;
        let found = targets.iter().find(|target| {
            (ours.is_empty() || ours.contains(&target.database))
                && others.iter().any(|(host, port)| *host == target.host && *port == target.port)
        });
        found.cloned()
    }
}

/// Returns who is primary, if its promotion is known to all nodes, and, of this node, it serves.
fn primary<D>(agent: &Agent<D>) -> Option<Primary> {
    let settled = agent.bouncers.began.elapsed() >= SETTLE;
    let state = agent.state();
    let grant = state.lease.grant().filter(|_| settled)?;
    let promotion = state.latest_promotion()?;
    if promotion.epoch != grant.epoch || promotion.holder != grant.holder {
        return None;
    }
    let own = grant.holder == *agent.node();
    let database = agent.database.as_ref().filter(|_| own);
    let rule = database.map(|database| database.facts().rule().map(|(rule, _)| rule));
    if rule.is_some_and(|rule| rule != Some(Rule::Serving)) {
        return None;
    }
    let upstream = agent.upstream(&grant.holder)?;
    let (node, epoch) = (grant.holder.clone(), grant.epoch);
    Some(Primary { node, epoch, host: upstream.host, port: upstream.port, own })
}

/// Clients wait for as long as this lives, and until there is a primary after that.
#[derive(Debug)]
pub(crate) struct Paused<'a>(&'a Bouncers);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        for slot in &self.0.slots {
            if let Some(pause) = lock(&slot.paused).as_mut() {
                pause.held = false;
            }
            slot.wake.notify_one();
        }
    }
}

impl Paused<'_> {
    /// Lets clients go on, and waits for that, within bounds. Returns how many PgBouncers have not been
    /// resumed yet: that is done as soon as it can be.
    pub(crate) async fn end(self) -> usize {
        let bouncers = self.0;
        drop(self);
        await_resumed(bouncers).await
    }
}

async fn await_resumed(bouncers: &Bouncers) -> usize {
    let until = Instant::now() + RESUME_LIMIT;
    loop {
        let left = bouncers.slots.iter().filter(|slot| lock(&slot.paused).is_some()).count();
        if left == 0 || Instant::now() >= until {
            return left;
        }
        sleep(TICK_DUE).await;
    }
}

/// Pauses every PgBouncer: its clients wait, and none has a transaction open. Returns how many there are.
///
/// # Errors
/// Why not: clients of all go on, and nothing was changed.
pub(crate) async fn pause<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
) -> Result<(Paused<'_>, usize), String> {
    let bouncers = &agent.bouncers;
    if bouncers.slots.is_empty() {
        return Ok((Paused(bouncers), 0));
    }
    let held = Paused(bouncers);
    let began = Instant::now();
    for slot in &bouncers.slots {
        *lock(&slot.paused) = Some(Pause { epoch, since: began, held: true, found: false });
    }
    let noted = write_note(agent).await;
    let results = if noted {
        join_all(bouncers.slots.iter().map(|slot| pause_one(slot, began))).await
    } else {
        vec![Err("could not note which PgBouncers are paused".to_owned())]
    };
    let failed: Vec<String> = results.iter().filter_map(|result| result.clone().err()).collect();
    if failed.is_empty() {
        let count = results.iter().filter(|result| **result == Ok(true)).count();
        info!(count, paused_in_ms = ha_core::clock::millis(began.elapsed()), "PgBouncers paused");
        return Ok((held, count));
    }
    held.end().await;
    Err(failed.join("; "))
}

/// Pauses one; returns whether there is one.
async fn pause_one(slot: &Slot, began: Instant) -> Result<bool, String> {
    let BouncerSettings { admin, databases, pause_timeout, .. } = &slot.settings;
    let deadline = began + *pause_timeout;
    let work = async {
        let _turn = slot.console.lock().await;
        slot.open().await?.pause(databases, deadline).await
    };
    match timeout_at(deadline, work).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(ConsoleError::Absent)) => {
            // Nobody can come in through it, so nobody is cut off.
            info!(pgbouncer = %admin, "no PgBouncer listens there");
            *lock(&slot.paused) = None;
            Ok(false)
        }
        Ok(Err(error)) => Err(format!("could not pause PgBouncer {admin}: {error}")),
        Err(_) => {
            let limit = pause_timeout.as_millis();
            Err(format!("could not pause PgBouncer {admin} within {limit} ms"))
        }
    }
}

/// Writes which ones are paused, for the agent that comes after this one. Returns whether it could.
async fn write_note<D>(agent: &Agent<D>) -> bool {
    let paused: Vec<(Epoch, String)> = agent
        .bouncers
        .slots
        .iter()
        .filter_map(|slot| {
            let pause = (*lock(&slot.paused))?;
            Some((pause.epoch, slot.settings.admin.to_string()))
        })
        .collect();
    let dir = agent.config.data_dir.clone();
    let written = tokio::task::spawn_blocking(move || note::write(&dir, &paused));
    match timeout(NOTE_LIMIT, written).await {
        Ok(Ok(Ok(()))) => true,
        Ok(Ok(Err(error))) => {
            warn!(%error, "could not note which PgBouncers are paused");
            false
        }
        Ok(Err(_)) | Err(_) => false,
    }
}
