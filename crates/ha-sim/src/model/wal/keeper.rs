//! The agent of a primary keeps setting, record and wish in line: `ha_agent::quorum_keeper`, step by step.

use super::core::{Few, InForce, Next, next};
use super::state::{Keeper, Known, Ordered, State};
use super::{Mistake, WalQuorum};

impl WalQuorum {
    /// What the keeper of this primary does next.
    pub(super) fn next_of(&self, keeper: &Keeper) -> Next {
        let Keeper { known, set, proven, wanted, .. } = *keeper;
        let shrinks = wanted != known.quorum && wanted.covered_by(known.quorum);
        if self.makes(Mistake::ShrunkBeforeRecorded) && shrinks {
            return if set == Some(wanted) { Next::Record(wanted) } else { Next::Set(wanted) };
        }
        next(known.quorum, set, proven, wanted)
    }

    /// Takes that step; not `whole`: only as far as the server is told, if it is.
    pub(super) fn keep(&self, state: &mut State, node: u8, whole: bool) {
        let keeper = state.node(node).keeper;
        let change = self.next_of(&keeper);
        let known = keeper.known;
        let confirmed = keeper.confirmed == known.version || self.makes(Mistake::QuorumUnconfirmed);
        if !confirmed && change != Next::Nothing {
            return self.order(state, node, known.quorum, false);
        }
        match change {
            Next::Nothing => {
                if known.open && Self::has_passed(state, node, known.quorum, keeper.began_at) {
                    self.order(state, node, known.quorum, true);
                }
            }
            Next::Set(quorum) => {
                tell(state, node, quorum);
                let memory = &mut state.node_mut(node).keeper;
                memory.proven = memory.proven.filter(|proven| *proven == quorum);
                (memory.set, memory.grown) = (Some(quorum), None);
            }
            Next::Settle(quorum) => self.settle(state, node, quorum, whole),
            Next::Record(quorum) => self.order(state, node, quorum, false),
            Next::Grow(quorum) => self.grow(state, node, quorum, whole),
        }
    }

    fn has_passed(state: &State, node: u8, quorum: Few, at: u8) -> bool {
        state.have(node, quorum, at) >= quorum.required
    }

    /// Has the server go by this alone (rule 100).
    fn settle(&self, state: &mut State, node: u8, quorum: Few, whole: bool) {
        tell(state, node, quorum);
        let it = state.node_mut(node);
        (it.keeper.set, it.keeper.proven, it.keeper.grown) = (None, None, None);
        if whole {
            if !self.makes(Mistake::GrownUnproven) {
                it.in_force = InForce::only(quorum);
            }
            (it.keeper.set, it.keeper.proven) = (Some(quorum), Some(quorum));
        }
    }

    fn grow(&self, state: &mut State, node: u8, quorum: Few, whole: bool) {
        let keeper = state.node(node).keeper;
        let until = keeper
            .grown
            .filter(|(grown, _)| *grown == quorum && keeper.proven == Some(quorum))
            .map(|(_, until)| until);
        let Some(until) = until else {
            self.settle(state, node, quorum, whole);
            if whole {
                let end = state.node(node).wal.len();
                state.node_mut(node).keeper.grown = Some((quorum, end));
            }
            return;
        };
        let enough = Self::has_passed(state, node, quorum, until.max(keeper.began_at));
        if enough || self.makes(Mistake::GrownTooEarly) {
            self.order(state, node, quorum, true);
        }
    }

    /// Orders something to be recorded; from now on it is not known whether what is known is current.
    fn order(&self, state: &mut State, node: u8, quorum: Few, settled: bool) {
        if state.raft.version >= self.bounds.versions {
            return;
        }
        let epoch = state.node(node).serving;
        let keeper = &mut state.node_mut(node).keeper;
        let version = keeper.known.version;
        (keeper.confirmed, keeper.heard, keeper.waits) = (0, 0, true);
        state.order = Some(Ordered { by: node, awaited: true, epoch, version, quorum, settled });
    }

    /// The agent learns what is recorded now.
    pub(super) fn learn(state: &mut State, node: u8, saved: bool) {
        let raft = state.raft;
        let it = state.node_mut(node);
        let open = raft.unsettled.iter().any(Option::is_some);
        let known = Known { version: raft.version, quorum: raft.recorded.quorum, open };
        it.keeper.known = known;
        if saved {
            it.keeper.saved = known;
        }
        if it.keeper.heard == known.version {
            it.keeper.confirmed = known.version;
        }
    }
}

fn tell(state: &mut State, node: u8, quorum: Few) {
    let it = state.node_mut(node);
    it.in_force = it.in_force.and(quorum);
}
