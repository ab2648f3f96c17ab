//! Who may do what, and what comes of it.

use super::core::{InForce, Next, Order, Said, Wal};
use super::state::{Action, DATA, Keeper, Known, NODES, Node, Promise, State};
use super::{Mistake, WalQuorum};

impl WalQuorum {
    /// Lists what may happen next. Steps that change nothing are taken out later.
    pub(super) fn offer(&self, state: &State, actions: &mut Vec<Action>) {
        for node in DATA {
            if state.node(node).serving > 0 {
                self.offer_primary(state, node, actions);
            }
        }
        for node in NODES {
            self.offer_any(state, node, actions);
        }
        if let Some(order) = state.order {
            actions.push(Action::CarryOut { heard: false });
            if order.awaited {
                actions.push(Action::CarryOut { heard: true });
            }
        }
        match (state.raft.holder, state.promise) {
            (Some(_), promise) => {
                if state.raft.last_epoch < self.bounds.epochs {
                    actions.push(Action::Vacate);
                }
                actions.extend(promise.map(|promise| Action::Promote { node: promise.to }));
            }
            (None, _) => actions.push(Action::Elect),
        }
    }

    fn offer_primary(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        let it = state.node(node);
        if it.wal.len() < self.bounds.records {
            actions.push(Action::Write { node });
        }
        actions.extend([Action::Acknowledge { node }, Action::Kill { node }]);
        if state.changes < self.bounds.changes {
            let other = |wish: &super::Wish| wish.of(node) != it.keeper.wanted;
            let wishes = self.bounds.wishes.iter().copied().filter(other);
            actions.extend(wishes.map(|wish| Action::Want { node, wish }));
        }
        if it.keeper.waits {
            actions.push(Action::GiveUpWaiting { node });
        } else {
            actions.push(Action::Keep { node, whole: true });
            if matches!(self.next_of(&it.keeper), Next::Settle(_) | Next::Grow(_)) {
                actions.push(Action::Keep { node, whole: false });
            }
        }
        if state.raft.recorded.epoch == it.serving {
            actions.push(Action::Learn { node, saved: false });
            if self.bounds.crashes > state.crashes {
                actions.push(Action::Learn { node, saved: true });
            }
        }
    }

    fn offer_any(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        let it = state.node(node);
        if state.crashes < self.bounds.crashes {
            actions.push(Action::AgentCrash { node });
        }
        if it.serving > 0 {
            return;
        }
        actions.push(Action::Receive { node });
        let epochs = it.seen.max(it.pledged + 1)..=state.raft.last_epoch;
        let can = epochs.filter(|epoch| *epoch != it.follows && state.server_of(*epoch).is_some());
        actions.extend(can.map(|epoch| Action::Follow { node, epoch }));
        if state.raft.holder.is_none() {
            let last = state.raft.last_epoch;
            if it.pledged < last {
                actions.push(Action::Pledge { node });
            } else if it.said.is_none() {
                actions.push(Action::Report { node });
            }
        }
    }

    /// Takes a step that was offered; nothing if it cannot be taken after all.
    pub(super) fn take(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Write { node } => {
                let it = next.node_mut(node);
                it.wal = it.wal.with(it.serving);
            }
            Action::Receive { node } => {
                let from = state.node(state.server_of(state.node(node).follows)?).wal;
                let it = next.node_mut(node);
                if !it.wal.is_part_of(from) || it.wal == from {
                    return None;
                }
                it.wal = from.first(it.wal.len() + 1);
            }
            Action::Acknowledge { node } => acknowledge(&mut next, node),
            Action::Follow { node, epoch } => {
                let from = state.node(state.server_of(epoch)?).wal;
                let it = next.node_mut(node);
                // What its primary lacks goes: it was rewound.
                (it.wal, it.follows, it.seen) = (it.wal.shared(from), epoch, epoch);
            }
            Action::Want { node, wish } => {
                next.changes += 1;
                next.node_mut(node).keeper.wanted = wish.of(node);
            }
            Action::Keep { node, whole } => self.keep(&mut next, node, whole),
            Action::CarryOut { heard } => carry_out(&mut next, heard),
            Action::GiveUpWaiting { node } => abandon(&mut next, node),
            Action::Learn { node, saved } => Self::learn(&mut next, node, saved),
            Action::AgentCrash { node } => crash(&mut next, node),
            Action::Kill { node } => {
                let it = next.node_mut(node);
                (it.serving, it.in_force, it.keeper) = (0, InForce::default(), Keeper::default());
                abandon(&mut next, node);
            }
            Action::Vacate => {
                next.raft = next.raft.apply(Order::Vacate)?;
                next.promise = None;
            }
            Action::Pledge { node } => {
                let last = next.raft.last_epoch;
                let it = next.node_mut(node);
                it.pledged = last;
                if !self.makes(Mistake::PledgeNotPersisted) {
                    it.saved_pledge = last;
                }
            }
            Action::Report { node } => {
                let it = next.node_mut(node);
                it.said = Some(it.wal);
                if !self.makes(Mistake::ReceiverNotStopped) {
                    it.follows = 0;
                }
            }
            Action::Elect => self.elect(&mut next)?,
            Action::Promote { node } => self.promote(&mut next, node),
        }
        Some(next)
    }

    fn elect(&self, next: &mut State) -> Option<()> {
        let last = next.raft.last_epoch;
        let said: [Said; 3] = next.nodes.map(|node| node.said.map(|wal| (last, wal)));
        let mut asked = next.raft;
        if self.makes(Mistake::TooFewReports) {
            for entry in asked.unsettled.iter_mut().flatten().chain([&mut asked.recorded]) {
                if entry.quorum.required == 1 && entry.quorum.members.count_ones() == 2 {
                    entry.quorum.required = 2;
                }
            }
        }
        let winner = asked.elect(said)?;
        let keeper = winner.from.unwrap_or(winner.node);
        let need = next.node(keeper).said?;
        next.raft = next.raft.apply(Order::Grant { to: winner.node })?;
        if self.makes(Mistake::EarlierQuorumForgotten) {
            next.raft.unsettled = Default::default();
        }
        next.promise = Some(Promise { to: winner.node, from: winner.from, need });
        for node in NODES {
            next.node_mut(node).said = None;
        }
        Some(())
    }

    fn promote(&self, next: &mut State, node: u8) {
        let Some(promise) = next.promise.take() else { return };
        let raft = next.raft;
        let recorded = raft.recorded.quorum;
        let it = next.node_mut(node);
        if !self.makes(Mistake::CatchUpSkipped) {
            it.wal = promise.need;
        }
        it.wal = it.wal.with(raft.last_epoch);
        (it.serving, it.follows, it.in_force) = (raft.last_epoch, 0, InForce::default());
        let open = raft.unsettled.iter().any(Option::is_some);
        let known = Known { version: raft.version, quorum: recorded, open };
        let began_at = it.wal.len();
        it.keeper = Keeper { known, saved: known, wanted: recorded, began_at, ..Keeper::default() };
    }
}

/// The server tells its clients of everything that any setting in force lets pass.
fn acknowledge(next: &mut State, node: u8) {
    let it: &Node = next.node(node);
    let passes = |len: &u8| {
        let mut all = it.in_force.all();
        all.any(|quorum| next.have(node, quorum, *len) >= quorum.required)
    };
    let Some(len) = (1..=it.wal.len()).rev().find(passes) else { return };
    let wal: Wal = it.wal.first(len);
    if next.acked.is_part_of(wal) {
        next.acked = wal;
    } else if !wal.is_part_of(next.acked) {
        next.two_histories = true;
    }
}

fn carry_out(next: &mut State, heard: bool) {
    let Some(order) = next.order.take() else { return };
    let set = Order::SetQuorum {
        epoch: order.epoch,
        version: order.version,
        quorum: order.quorum,
        settled: order.settled,
    };
    let applied = next.raft.apply(set);
    if order.awaited {
        let keeper = &mut next.node_mut(order.by).keeper;
        keeper.waits = false;
        if heard && applied.is_some() {
            keeper.heard = order.version + 1;
        }
    }
    next.raft = applied.unwrap_or(next.raft);
}

/// Nobody waits for this node's order any more; it may be carried out all the same.
fn abandon(next: &mut State, node: u8) {
    next.node_mut(node).keeper.waits = false;
    if let Some(order) = next.order.as_mut().filter(|order| order.by == node) {
        order.awaited = false;
    }
}

/// An agent starts anew: what it had in memory is gone. Its server, and its receiver, go on.
fn crash(next: &mut State, node: u8) {
    next.crashes += 1;
    abandon(next, node);
    let it = next.node_mut(node);
    it.pledged = it.saved_pledge;
    if it.serving > 0 {
        let Keeper { saved, wanted, .. } = it.keeper;
        let (known, began_at) = (saved, it.wal.len());
        it.keeper = Keeper { known, saved, wanted, began_at, ..Keeper::default() };
    }
}
