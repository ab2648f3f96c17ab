//! Hooks: programs of the operator, run when something has happened to this node's database.
//!
//! They are never waited for by anything that safety depends on: changes are told to a queue, and a task of
//! its own runs one hook at a time. Only a switchover waits, on purpose: for `before_switchover`, which may
//! break it off while nothing is changed, and for `after_switchover`, before it reports.

mod change;
mod memory;
mod program;
mod queue;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_core::decide::Decision;
use ha_core::permit::RunState;
use ha_core::state::State;
use ha_core::step::Step;
use ha_core::view::View;
use ha_core::{Epoch, NodeId};
use ha_postgres::driver::{GuardSeen, PostgresDriver};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use crate::agent::{Agent, lock};
use crate::config::{Config, HookKind};
use crate::events;
use crate::switchover::End;
use change::{Look, Standing};
use queue::{Item, Queue};

/// What a hook is told as the reason of a switchover's.
const SWITCHOVER: &str = "switchover";
/// How long an agent that leaves waits for its hooks beyond one hook's limit.
const FAREWELL_SLACK: Duration = Duration::from_secs(1);

/// What is known of hooks on this node.
#[derive(Debug)]
pub struct Hooks {
    /// Whether any is configured.
    any: bool,
    /// How the database stood at the latest change that was told.
    standing: Mutex<Standing>,
    queue: Mutex<Queue>,
    more: Notify,
    /// Held while a hook runs: one at a time.
    turn: tokio::sync::Mutex<()>,
}

/// A hook that is to be run.
#[derive(Debug)]
struct Call {
    kind: HookKind,
    role: &'static str,
    environment: Vec<(&'static str, String)>,
}

impl Call {
    /// What is added to the configured arguments.
    fn arguments(&self) -> [&str; 3] {
        let cluster = self.environment.iter().find(|(name, _)| *name == "HACLT_CLUSTER");
        [self.kind.name(), self.role, cluster.map_or("", |(_, value)| value)]
    }
}

impl Hooks {
    /// Reads how the database stood when the agent last ran.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            any: !config.hooks.commands.is_empty(),
            standing: Mutex::new(memory::read(&config.data_dir)),
            queue: Mutex::default(),
            more: Notify::new(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

/// Queues the hooks that a look at the database calls for. Waits for nothing.
pub fn note<D: PostgresDriver>(
    agent: &Agent<D>,
    guard: &GuardSeen,
    view: &View,
    decision: &Decision,
) {
    if !agent.hooks.any || agent.is_leaving() {
        return;
    }
    let GuardSeen::Alive(guard) = guard else { return };
    let state = agent.state();
    let promotion = state.latest_promotion();
    let look = Look {
        instance: view.instance,
        lease: view.lease,
        epoch: view.epoch,
        fencing: decision.step == Step::Fence,
        killed: guard.state == RunState::KilledAtDeadline && guard.primary_epoch != Epoch::NONE,
        recorded: promotion.is_some_and(|p| p.epoch == view.epoch && p.holder == *agent.node()),
        run: guard.run,
    };
    let before = *lock(&agent.hooks.standing);
    if let Some(after) = before.next(&look).filter(|after| *after != before) {
        enqueue(agent, &state, before, after, decision.rule.name());
    }
}

fn enqueue<D>(agent: &Agent<D>, state: &State, before: Standing, after: Standing, reason: &str) {
    *lock(&agent.hooks.standing) = after;
    let commands = &agent.config.hooks.commands;
    let mut hooks = change::hooks(before, after);
    hooks.retain(|kind| commands.contains_key(kind));
    let mut items: Vec<Item> = hooks
        .into_iter()
        .map(|kind| {
            // What was primary is to be a standby; what ended has no role.
            let role = if kind == HookKind::OnDemote { "standby" } else { after.role() };
            let environment = environment(agent, state, reason);
            Item { call: Some(Call { kind, role, environment }), then: None }
        })
        .collect();
    match items.last_mut() {
        Some(last) => last.then = Some(after),
        None => items.push(Item { call: None, then: Some(after) }),
    }
    for item in items {
        if let Some(older) = lock(&agent.hooks.queue).push(item) {
            let hook = older.kind.name();
            warn!(hook, "hooks pile up: one that waited is superseded by a later one of its kind");
        }
    }
    agent.hooks.more.notify_one();
}

/// What every hook is told, beside its name and the role.
fn environment<D>(agent: &Agent<D>, state: &State, reason: &str) -> Vec<(&'static str, String)> {
    let promotion = state.latest_promotion();
    let epoch = state.lease.grant().map_or(state.last_epoch, |grant| grant.epoch);
    let primary = state.lease.holder();
    let address = primary.and_then(|primary| agent.upstream(primary));
    let old = state.history.iter().rev().find(|p| p.epoch < epoch && Some(&p.holder) != primary);
    let text = |node: Option<&NodeId>| node.map(ToString::to_string).unwrap_or_default();
    vec![
        ("HACLT_CLUSTER", agent.config.cluster.clone()),
        ("HACLT_NODE", agent.node().to_string()),
        ("HACLT_EPOCH", epoch.0.to_string()),
        ("HACLT_TIMELINE", promotion.map(|p| p.begin.timeline.0.to_string()).unwrap_or_default()),
        ("HACLT_PRIMARY", text(primary)),
        ("HACLT_PRIMARY_HOST", address.as_ref().map(|a| a.host.clone()).unwrap_or_default()),
        ("HACLT_PRIMARY_PORT", address.map(|a| a.port.to_string()).unwrap_or_default()),
        ("HACLT_OLD_PRIMARY", text(old.map(|promotion| &promotion.holder))),
        ("HACLT_REASON", reason.to_owned()),
    ]
}

/// Runs what is queued, one after the other, until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    loop {
        // Notified before it is looked at: what comes in between is not missed.
        let more = agent.hooks.more.notified();
        let turn = agent.hooks.turn.lock().await;
        let item = lock(&agent.hooks.queue).pop();
        let Some(Item { call, then }) = item else {
            drop(turn);
            more.await;
            continue;
        };
        if let Some(call) = &call {
            drop(carry_out(&agent, call).await);
        }
        if let Some(standing) = then {
            remember(&agent, standing).await;
        }
    }
}

async fn remember<D>(agent: &Agent<D>, standing: Standing) {
    let dir = agent.config.data_dir.clone();
    let written = tokio::task::spawn_blocking(move || memory::write(&dir, standing)).await;
    if let Ok(Err(error)) = written {
        warn!(%error, "could not remember which hooks were run: they may run once more");
    }
}

/// Runs one hook and tells how it ended. To be called by whoever has the turn.
async fn carry_out<D: PostgresDriver>(agent: &Agent<D>, call: &Call) -> Result<(), String> {
    let settings = &agent.config.hooks;
    let Some(words) = settings.commands.get(&call.kind) else { return Ok(()) };
    let began = Instant::now();
    info!(hook = call.kind.name(), role = call.role, "hook begins");
    let (end, last) = program::run(call, words, settings.limit(call.kind)).await;
    let (outcome, failed) = (end.to_string(), !end.is_success());
    let (hook, took) = (call.kind.name(), began.elapsed());
    events::HookEnded { node: agent.node(), hook, outcome: &outcome, failed, took }.emit();
    let why = format!("hook {hook} failed: {outcome}");
    // Of a switchover's, whoever ordered it is told.
    let told = matches!(call.kind, HookKind::BeforeSwitchover | HookKind::AfterSwitchover);
    if let Some(database) = agent.database.as_ref().filter(|_| !told) {
        database.facts().trouble("hook", failed.then(|| why.clone()));
    }
    match (failed, last.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => Err(why),
        (true, false) => Err(format!("{why}: {last}")),
    }
}

/// Runs a hook out of turn order but not beside another one.
async fn await_hook<D: PostgresDriver>(agent: &Agent<D>, call: &Call) -> Result<(), String> {
    let limit = agent.config.hooks.limit(call.kind);
    let turn = timeout(limit, agent.hooks.turn.lock()).await;
    let Ok(_turn) = turn else {
        return Err(format!("hook {}: another hook is still running", call.kind));
    };
    carry_out(agent, call).await
}

/// Runs `before_switchover` and waits for it. Returns whether there is one.
///
/// # Errors
/// Why it failed: the switchover must not be.
pub(crate) async fn before_switchover<D: PostgresDriver>(
    agent: &Agent<D>,
    to: &NodeId,
) -> Result<bool, String> {
    let kind = HookKind::BeforeSwitchover;
    if !agent.config.hooks.commands.contains_key(&kind) {
        return Ok(false);
    }
    let mut environment = environment(agent, &agent.state(), SWITCHOVER);
    environment.push(("HACLT_NEW_PRIMARY", to.to_string()));
    await_hook(agent, &Call { kind, role: "primary", environment }).await.map(|()| true)
}

/// Runs `after_switchover` and waits for it, whichever way the switchover went. Returns whether there is one.
///
/// # Errors
/// Why it failed, which changes nothing.
pub(crate) async fn after_switchover<D: PostgresDriver>(
    agent: &Agent<D>,
    to: &NodeId,
    end: &End,
) -> Result<bool, String> {
    let kind = HookKind::AfterSwitchover;
    if !agent.config.hooks.commands.contains_key(&kind) {
        return Ok(false);
    }
    let (outcome, role) = match end {
        End::Done => ("done", "standby"),
        End::Kept(_) => ("not_done", "primary"),
        End::Lost(_) => ("elsewhere", "standby"),
    };
    let mut environment = environment(agent, &agent.state(), SWITCHOVER);
    environment.push(("HACLT_NEW_PRIMARY", to.to_string()));
    environment.push(("HACLT_OUTCOME", outcome.to_owned()));
    await_hook(agent, &Call { kind, role, environment }).await.map(|()| true)
}

/// Runs the hooks of a database that was stopped because its agent ends, and waits for them, within
/// bounds. What is left is run by the next agent.
pub(crate) async fn farewell<D: PostgresDriver>(agent: &Agent<D>) {
    let hooks = &agent.hooks;
    let down = agent.database.as_ref().is_some_and(|database| match database.driver.guard() {
        GuardSeen::Alive(status) => status.state.is_gone(),
        GuardSeen::Absent => true,
        GuardSeen::Silent { .. } => false,
    });
    if !hooks.any || !down {
        return;
    }
    let before = *lock(&hooks.standing);
    if !matches!(before, Standing::Stopped | Standing::Fenced) {
        enqueue(agent, &agent.state(), before, Standing::Stopped, "agent_stopping");
    }
    let until = Instant::now() + agent.config.hooks.timeout + FAREWELL_SLACK;
    while !lock(&hooks.queue).is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The last one has left the queue and may be at work.
    drop(timeout_at(until, hooks.turn.lock()).await);
}
