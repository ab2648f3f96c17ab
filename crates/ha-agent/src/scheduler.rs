//! The leader's clock: switchovers whose time has come, and drills that nobody ended.
//!
//! A switchover that is due is taken off the list first, in the replicated state, and ordered then: a leader
//! that dies in between has dropped one, and none is ever ordered twice. One that is late is dropped (rule 42).

use std::sync::Arc;
use std::time::Duration;

use ha_core::Incarnation;
use ha_core::state::journal::{EventKind, Note};
use ha_core::state::operator::{Drill, Scheduled};
use ha_core::state::{Command, Outcome, State};
use ha_postgres::driver::PostgresDriver;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::admin::switchover;
use crate::agent::{Agent, Sighting, lock};
use crate::clock;
use crate::drill::conduct;
use crate::notes;

/// How often the leader looks at the wall clock.
const TICK: Duration = Duration::from_millis(500);
/// How late a switchover may begin.
const WINDOW_MS: u64 = 60_000;
/// How long taking it off the list may take.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);

/// What becomes of a scheduled switchover now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    NotYet,
    Now,
    TooLate,
}

fn due(scheduled: &Scheduled, now_unix_ms: u64) -> Due {
    match now_unix_ms.checked_sub(scheduled.due_unix_ms) {
        None => Due::NotYet,
        Some(late) if late <= WINDOW_MS => Due::Now,
        Some(_) => Due::TooLate,
    }
}

/// Orders what is due while this node leads, until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let status = agent.raft.status();
        if !status.is_leader {
            continue;
        }
        let now = clock::wall_unix_ms();
        let state = agent.state();
        if let Some(drill) = left_over(&agent, &state, now) {
            tokio::spawn(conduct::sweep(Arc::clone(&agent), drill));
        }
        let next = state.scheduled.iter().find(|known| due(known, now) != Due::NotYet).cloned();
        let Some(scheduled) = next else { continue };
        let late = due(&scheduled, now) == Due::TooLate;
        let why = if late { "its time is past: nobody led then" } else { "its time has come" };
        let (id, why) = (scheduled.id, why.to_owned());
        let take = Command::Unschedule { id, by: String::new(), why };
        match agent.raft.propose(take, Some(status.term), PROPOSE_LIMIT).await {
            Ok(Outcome::Applied) if late => {
                warn!(id, "a scheduled switchover is dropped, too late");
            }
            Ok(Outcome::Applied) => begin(&agent, scheduled),
            Ok(Outcome::Refused(_)) => {}
            Err(error) => warn!(id, %error, "could not begin a scheduled switchover"),
        }
    }
}

/// Returns a drill that nobody will end: whoever conducted it is lost.
fn left_over<D>(agent: &Agent<D>, state: &State, now_unix_ms: u64) -> Option<Drill> {
    let drill = state.drill.as_ref()?;
    let is_over = state.drill_under_way(now_unix_ms).is_none();
    let now = if drill.conductor == *agent.node() {
        Some(agent.incarnation)
    } else {
        let sightings = lock(&agent.sightings);
        let report = sightings.get(&drill.conductor).and_then(Sighting::current);
        report.map(|report| Incarnation(report.incarnation))
    };
    let started_anew = now.is_some_and(|now| now != drill.incarnation);
    let lost = (is_over || started_anew) && agent.drills.conducted().is_none();
    lost.then(|| drill.clone())
}

fn begin<D: PostgresDriver>(agent: &Arc<Agent<D>>, scheduled: Scheduled) {
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let Scheduled { id, to, by, .. } = scheduled;
        info!(id, ?to, by, "a scheduled switchover begins");
        if let Err(why) = switchover::by_schedule(&agent, to.as_ref(), &by).await {
            warn!(id, why, "the scheduled switchover is refused");
            let text = format!("scheduled as number {id}, refused: {why}");
            notes::tell(&agent, Note::new(EventKind::Switchover, text).asked_by(&by));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_begins_within_its_window_and_is_dropped_after_it_rule_42() {
        let scheduled = Scheduled { id: 1, due_unix_ms: 100_000, to: None, by: "ann".to_owned() };
        #[rustfmt::skip]
        let table = [
            (0,       Due::NotYet),
            (99_999,  Due::NotYet),
            (100_000, Due::Now),
            (160_000, Due::Now),
            (160_001, Due::TooLate),
        ];
        for (now, expected) in table {
            assert_eq!(due(&scheduled, now), expected, "{now}");
        }
    }
}
