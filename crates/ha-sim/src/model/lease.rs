//! The lease: three nodes, their logs, clocks and permits, and every order of what they may do.
//!
//! Nodes 0 and 1 may hold the lease, node 2 is the witness. Any of them may lead. An agent that is frozen takes no
//! step; a message that is late is handled late or never. `docs/model.md` says what each step stands for.

mod bounds;
mod log;
mod state;
mod steps;

use std::fmt::Write as _;

use stateright::{Model, Property};

pub use bounds::{Bounds, CLEAN, LARGE, Mistake, NAMES, Named, breaks};
pub use state::{Action, State};

use super::Story;
use log::Command;
use state::{DATA, NODES, Phase};

/// At most one node accepts writes, and under a permit that has not ended.
pub const ONE_PRIMARY: &str = "one primary";
/// Nobody accepts writes under an epoch that a committed log, anywhere, says is over.
pub const NOT_VACATED: &str = "an active epoch is nowhere vacated";
/// Whoever gave its lease back has stopped.
pub const STOPPED: &str = "a release implies a stop";
/// What is committed is the same everywhere.
pub const LOGS_AGREE: &str = "committed logs agree";
/// Epochs grow by one and have one holder each; whoever is active was granted its epoch.
pub const EPOCHS: &str = "epochs grow by one, with one holder each";
/// From here on a schedule without faults leads to a primary.
pub const RECOVERS: &str = "a primary can be reached";

/// The lease within bounds, with or without a mistake.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// How far it is explored.
    pub bounds: Bounds,
    /// What is done wrong.
    pub mistake: Option<Mistake>,
}

impl Lease {
    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let vectors = 0..u8::try_from(self.bounds.rates.len()).unwrap_or(u8::MAX);
        let starts = vectors.flat_map(|rates| {
            self.bounds.leaders.iter().map(move |leader| State::with_leader(rates, *leader))
        });
        if self.bounds.empty { State::empty(self.bounds.rates.len()) } else { starts.collect() }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.offer(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let next = self.take(state, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let Bounds { terms, releases, crashes, recovers, .. } = self.bounds;
        let always = Property::always;
        let mut all = vec![
            always(ONE_PRIMARY, |model: &Self, s: &State| {
                let valid = |node: u8| {
                    let it = s.node(node);
                    it.active == 0
                        || model.makes(Mistake::ReleaseBeforeStop)
                        || (it.permit == it.active && model.clock(s, node) < it.deadline)
                };
                s.active().count() <= 1 && DATA.into_iter().all(valid)
            }),
            always(NOT_VACATED, |_, s: &State| {
                let over = |epoch| NODES.iter().any(|node| s.lease(*node).is_over(epoch));
                !s.active().any(|(_, epoch)| over(epoch))
            }),
            always(STOPPED, |_, s: &State| {
                s.active().all(|(node, epoch)| s.node(node).released != epoch)
            }),
            always(LOGS_AGREE, |_, s: &State| s.logs_agree()),
            always(EPOCHS, |_, s: &State| s.epochs_are_in_order()),
        ];
        if recovers {
            all.push(always(RECOVERS, |model: &Self, s: &State| model.recovers(s)));
            return all;
        }
        let sometimes = Property::sometimes;
        all.push(sometimes("take-over by expiry", |_, s: &State| {
            s.took_over(|it| matches!(it, Command::Vacate { .. }))
        }));
        if releases {
            all.push(sometimes("take-over by release", |_, s: &State| {
                s.took_over(|it| matches!(it, Command::Release { .. }))
            }));
            all.push(sometimes("take-over by transfer", |_, s: &State| {
                s.took_over(|it| matches!(it, Command::Transfer { .. }))
            }));
        }
        if terms > 1 {
            all.push(sometimes("two leaders", |_, s: &State| {
                NODES.iter().filter(|node| s.node(**node).leads).count() > 1
            }));
            all.push(sometimes("renewed by a later leader", |_, s: &State| {
                s.slots.iter().any(|slot| {
                    let granted = s.node(slot.leader).log.term_of_grant(slot.epoch);
                    slot.phase == Phase::Yes && granted.is_some_and(|term| term < slot.term)
                })
            }));
        }
        if crashes > 0 {
            all.push(sometimes("a primary without its agent", |_, s: &State| {
                s.active().any(|(node, _)| !s.node(node).alive)
            }));
        }
        all
    }
}

impl Story for Lease {
    fn tell(&self, action: &Action, after: &State) -> String {
        let mut line = format!("{:<44}", action.to_string());
        let _ = write!(line, " t{}", after.tick);
        for node in NODES {
            let it = after.node(node);
            let _ = write!(line, " | n{node}");
            line.push_str(match (it.alive, it.leads) {
                (false, _) => " down",
                (true, true) => " leads",
                (true, false) => "",
            });
            let _ = write!(line, " term {}, {}", it.term, after.lease(node));
            if it.active > 0 {
                let _ = write!(line, ", PRIMARY of {}", it.active);
            }
        }
        line
    }
}

#[cfg(test)]
mod tests;
