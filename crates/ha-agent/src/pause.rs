//! What a pause means for the permit and the guard of the holder.
//!
//! While the cluster is paused nobody is given the lease, so the holder's permit needs no deadline: its
//! database runs on whatever becomes of the agents. Before anybody may be given the lease again the guard
//! has to have a deadline, and this node says so. `ARCHITECTURE.md`, "Pause".

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ha_core::permit::Order;
use ha_core::state::{Command, State};
use ha_core::{BootNanos, Epoch};
use ha_postgres::driver::{GuardSeen, PostgresDriver};
use tracing::{debug, info, warn};

use crate::agent::{Agent, Database, lock};
use crate::clock;
use crate::permit_book::UNBOUND;

/// How long telling the cluster may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(3);

/// Takes the deadline away when a pause has begun, and gives it back when that is to end. Called at each
/// tick of the loop.
pub fn keep<D: PostgresDriver>(agent: &Arc<Agent<D>>, database: &Database<D>, guard: &GuardSeen) {
    let state = agent.state();
    let Some(epoch) = held_here(agent, &state) else { return };
    match &state.pause {
        Some(pause) if !pause.ending => begin(agent, database, &state, epoch, guard),
        Some(_) => end(agent, database, &state, epoch, guard),
        // It ended without this node's word.
        None => bound(agent, database, epoch),
    }
}

fn held_here<D>(agent: &Agent<D>, state: &State) -> Option<Epoch> {
    state.lease.grant().filter(|grant| grant.holder == *agent.node()).map(|grant| grant.epoch)
}

fn begin<D: PostgresDriver>(
    agent: &Agent<D>,
    database: &Database<D>,
    state: &State,
    epoch: Epoch,
    guard: &GuardSeen,
) {
    let seen = agent.pause_seen.load(Ordering::Relaxed);
    if !may_let_go(seen, state.pauses, guard, database.permits.current().order, epoch) {
        return;
    }
    match database.permits.unbound(epoch) {
        Ok(true) => info!(%epoch, "paused: the permit has no deadline any more"),
        Ok(false) => {}
        Err(error) => warn!(%epoch, %error, "could not take the deadline off the permit"),
    }
}

/// Whether the deadline may be taken off the permit.
///
/// The replicated state of an agent that was started anew may be older than what it knew before, so that this
/// pause may be over already, by its own word: `seen` is the pause that a majority has told of since. A guard
/// that does not say which deadline it knows could not be seen to have one again.
fn may_let_go(seen: u64, pauses: u64, guard: &GuardSeen, order: Order, epoch: Epoch) -> bool {
    let GuardSeen::Alive(status) = guard else { return false };
    let limited = matches!(order, Order::Primary { epoch: of, deadline } if of == epoch && deadline != UNBOUND);
    seen == pauses && status.deadline.is_some() && limited
}

/// Gives the permit the deadline that the latest confirmed renewal proves; without one it has to wait.
fn bound<D: PostgresDriver>(agent: &Agent<D>, database: &Database<D>, epoch: Epoch) {
    if !database.permits.is_unbound() {
        return;
    }
    let deadline = {
        let holder = lock(&agent.holder);
        let holder = holder.as_ref().filter(|holder| holder.epoch() == epoch);
        holder.and_then(|holder| holder.deadline(clock::now()))
    };
    let Some(deadline) = deadline else {
        agent.renew_now.notify_one();
        return;
    };
    if let Err(error) = database.permits.bound(epoch, deadline) {
        warn!(%epoch, %error, "could not give the permit a deadline");
    } else if database.permits.is_unbound() {
        agent.renew_now.notify_one();
    } else {
        info!(%epoch, "the permit has a deadline again");
    }
}

fn end<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    database: &Database<D>,
    state: &State,
    epoch: Epoch,
    guard: &GuardSeen,
) {
    bound(agent, database, epoch);
    if database.permits.is_unbound() || !is_limited(guard, database.permits.limited_until()) {
        return;
    }
    if agent.confirming.swap(true, Ordering::Relaxed) {
        return;
    }
    let (agent, pause) = (Arc::clone(agent), state.pauses);
    tokio::spawn(async move {
        let confirm = Command::ConfirmResumed { epoch, pause };
        match agent.submit(confirm, SUBMIT_LIMIT).await {
            Ok(outcome) => {
                info!(%epoch, ?outcome, "told the cluster that the guard has a deadline");
            }
            Err(error) => debug!(%epoch, %error, "could not tell that the guard has a deadline"),
        }
        agent.confirming.store(false, Ordering::Relaxed);
    });
}

/// Whether the guard is known to let nothing run for ever. One that is silent may not have read the permit.
fn is_limited(guard: &GuardSeen, before: BootNanos) -> bool {
    match guard {
        GuardSeen::Alive(status) => {
            let limited = |deadline| deadline != UNBOUND && deadline > before;
            status.state.is_gone() || status.deadline.is_none_or(limited)
        }
        // The next one clears up behind it, and says so.
        GuardSeen::Absent | GuardSeen::Silent { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use ha_core::permit::{GuardStatus, RunState};

    use super::*;

    fn alive(state: RunState, deadline: Option<u64>) -> GuardSeen {
        GuardSeen::Alive(GuardStatus {
            boot: ha_core::BootId(1),
            guard_pid: 1,
            heartbeat: BootNanos(1),
            run: 1,
            state,
            postmaster: None,
            exit: None,
            primary_epoch: Epoch(1),
            realtime: true,
            margin: None,
            deadline: deadline.map(BootNanos),
            reason: String::new(),
        })
    }

    #[test]
    fn a_deadline_is_taken_off_only_on_fresh_knowledge_and_if_it_can_be_seen_to_come_back() {
        let running = alive(RunState::Running, Some(9));
        let of =
            |epoch, deadline| Order::Primary { epoch: Epoch(epoch), deadline: BootNanos(deadline) };
        #[rustfmt::skip]
        let table = [
            (2, 2, running.clone(),                of(1, 9),        true),
            // What an agent that was started anew remembers, and no majority has said since.
            (0, 2, running.clone(),                of(1, 9),        false),
            (1, 2, running.clone(),                of(1, 9),        false),
            // A guard that does not say.
            (2, 2, alive(RunState::Running, None), of(1, 9),        false),
            (2, 2, GuardSeen::Absent,              of(1, 9),        false),
            (2, 2, running.clone(),                of(2, 9),        false),
            (2, 2, running.clone(),                of(1, u64::MAX), false),
            (2, 2, running,                        Order::Standby,  false),
        ];
        for (seen, pauses, guard, order, expected) in table {
            let got = may_let_go(seen, pauses, &guard, order, Epoch(1));
            assert_eq!(got, expected, "{seen} {pauses} {guard:?} {order:?}");
        }
    }

    #[test]
    fn a_guard_is_limited_only_if_it_says_so_of_what_was_written_since() {
        let before = BootNanos(100);
        let silent = GuardSeen::Silent { silent_ms: 3000, last: None };
        #[rustfmt::skip]
        let table = [
            (alive(RunState::Running, Some(101)),      true),
            (alive(RunState::Running, Some(u64::MAX)), false),
            // What it had before the pause: it may have read "no deadline" since.
            (alive(RunState::Running, Some(100)),      false),
            (alive(RunState::Running, None),           true), // a standby
            (alive(RunState::Exited, Some(u64::MAX)),  true),
            (GuardSeen::Absent,                        false),
            (silent,                                   false),
        ];
        for (guard, expected) in table {
            assert_eq!(is_limited(&guard, before), expected, "{guard:?}");
        }
    }
}
