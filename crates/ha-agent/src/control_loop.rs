//! Observe, decide, act: one data node's loop. It coordinates and nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::decide::{Decision, decide};
use ha_core::view::View;
use ha_postgres::driver::{GuardSeen, PostgresDriver};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::act;
use crate::agent::{Agent, Database, lock};
use crate::clock;
use crate::events;
use crate::granter;
use crate::guard_watch;
use crate::hooks;
use crate::lease_keeper;
use crate::observe::{Seen, observe};
use crate::pause;
use crate::tend;

/// How often the loop runs when nothing wakes it.
const TICK: Duration = Duration::from_millis(100);

/// Runs the loop until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let Some(database) = &agent.database else { return };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = agent.raft.state();
    let mut guard_changed = guard_watch::start(&agent);
    loop {
        tokio::select! {
            biased;
            () = agent.wake.notified() => {}
            _ = state.changed() => {}
            Ok(()) = guard_changed.changed() => {}
            () = database.driver.changed() => {}
            _ = tick.tick() => {}
        }
        agent.looped_at.store(clock::now().boottime.0, Ordering::Relaxed);
        once(&agent, database).await;
    }
}

async fn once<D: PostgresDriver>(agent: &Arc<Agent<D>>, database: &Database<D>) {
    lease_keeper::follow_state(agent, database);
    let guard = tend::guard(agent, database).await;
    pause::keep(agent, database, &guard);
    tend::look_at_disk(agent, database, &guard);
    tend::note_times(agent, database, &guard);
    let view = view(agent, database, &guard);
    tend::give_up_if_blind(agent, database, &view);
    let decision = decide(&view);
    note(agent, database, &view, &decision);
    act::act(agent, database, &view, &decision);
    hooks::note(agent, &guard, &view, &decision);
}

/// Makes the view from what is known now.
pub fn view<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    guard: &GuardSeen,
) -> View {
    let replaceable =
        lock(&agent.sightings).values().any(|seen| seen.current().is_some_and(granter::fit));
    let state = agent.state();
    let holder = lock(&agent.holder);
    let permit = database.permits.current();
    let facts = database.facts();
    observe(&Seen {
        node: agent.node(),
        policy: &agent.config.policy,
        state: &state,
        holder: holder.as_ref(),
        pledged: agent.pledge.epoch(),
        permit,
        guard,
        facts: &facts,
        replaceable,
        now: clock::now(),
        at: Instant::now(),
    })
}

/// Logs a decision when its rule or its step changes.
fn note<D>(agent: &Agent<D>, database: &Database<D>, view: &View, decision: &Decision) {
    let mut facts = database.facts();
    if facts.decision.as_ref().is_some_and(|(last, _)| last == decision) {
        return;
    }
    events::DecisionChanged { node: agent.node(), epoch: view.epoch, decision }.emit();
    let same_rule = facts.decision.as_ref().filter(|(last, _)| last.rule == decision.rule);
    let since = same_rule.map_or_else(Instant::now, |(_, since)| *since);
    facts.decision = Some((decision.clone(), since));
}
