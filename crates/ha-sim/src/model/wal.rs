//! The WAL quorum: who acknowledges commits, what is recorded of that, and what elections make of it.
//!
//! Nodes 0 and 1 have a database, node 2 is a witness that keeps WAL. Time and Raft are left out: what is committed
//! is committed at once and for all, but an agent may know an older state for as long as it likes, and after a
//! restart an older one than before. A primary may go on under a lease that is over; nothing here depends on clocks.
//! `elect`, `wal_quorum::next`, `Quorum::covered_by` and `State::apply` are the real ones.

mod bounds;
mod core;
mod keeper;
mod state;
mod steps;

use std::fmt::Write as _;

use stateright::{Model, Property};

pub use bounds::{Bounds, CLEAN, LARGE, Mistake, NAMES, Named, Wish};
pub use state::{Action, State};

use super::Story;
use state::{DATA, NODES};

/// Whoever is primary under the latest epoch has every write that was acknowledged.
pub const NOTHING_LOST: &str = "the primary has every acknowledged write";
/// Nobody acknowledges a write that is not part of the history which goes on.
pub const NOT_TWO_HISTORIES: &str = "nothing is acknowledged beside the history that goes on";
/// Whatever a server may go by is covered by what is recorded.
pub const COVERED: &str = "what a server may go by is covered by the record";

/// The WAL quorum within bounds, with or without a mistake.
#[derive(Debug, Clone, Copy)]
pub struct WalQuorum {
    /// How far it is explored.
    pub bounds: Bounds,
    /// What is done wrong.
    pub mistake: Option<Mistake>,
}

impl WalQuorum {
    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

impl Model for WalQuorum {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.bounds.first.iter().map(|wish| State::first(wish.of(0))).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.offer(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let next = self.take(state, action)?;
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let Bounds { epochs, changes, .. } = self.bounds;
        let (always, sometimes) = (Property::always, Property::sometimes);
        let mut all = vec![
            always(NOTHING_LOST, |_, s: &State| {
                let has_all = |node: &u8| {
                    let it = s.node(*node);
                    it.serving != s.raft.last_epoch || s.acked.is_part_of(it.wal)
                };
                DATA.iter().all(has_all)
            }),
            always(NOT_TWO_HISTORIES, |_, s: &State| !s.two_histories),
            always(COVERED, |_, s: &State| s.is_covered()),
            sometimes("a later primary acknowledges", |_, s: &State| s.acked.last() > 1),
            sometimes("a primary goes on under a lease that is over", |_, s: &State| {
                let serving = |node: &&u8| s.node(**node).serving > 0;
                DATA.iter().filter(serving).count() > 1
            }),
            sometimes("the winner has to fetch", |_, s: &State| {
                s.promise.is_some_and(|promise| promise.from.is_some())
            }),
        ];
        if changes > 0 {
            all.push(sometimes("the record changes", |_, s: &State| {
                let first = State::first(s.raft.recorded.quorum).raft.recorded;
                s.raft.recorded.epoch == 1 && s.changes > 0 && s.raft.version > first.epoch
            }));
        }
        if epochs > 2 {
            all.push(sometimes("an earlier quorum has a say", |_, s: &State| {
                s.raft.last_epoch > 2 && s.raft.unsettled.iter().flatten().count() > 0
            }));
        }
        all
    }
}

impl Story for WalQuorum {
    fn tell(&self, action: &Action, after: &State) -> String {
        let mut line = format!("{:<58}", action.to_string());
        for node in NODES {
            let it = after.node(node);
            let _ = write!(line, " | n{node} {}", it.wal);
            if it.serving > 0 {
                let _ = write!(line, " PRIMARY of {} by", it.serving);
                for quorum in it.in_force.all() {
                    let _ = write!(line, " {quorum}");
                }
            } else if it.follows > 0 {
                let _ = write!(line, " <{}", it.follows);
            }
        }
        let raft = &after.raft;
        let _ = write!(line, " | recorded {} of {}", raft.recorded.quorum, raft.recorded.epoch);
        let _ = write!(line, " | acknowledged {}", after.acked);
        line
    }
}

#[cfg(test)]
mod tests;
