//! Who may do what, and what comes of it.

use super::log::Command;
use super::state::{Action, DATA, LONG_AGO, NEVER, NODES, Node, Phase, Slot, State};
use super::{Bounds, Lease, Mistake};

impl Lease {
    /// What this node's clock shows, in tenths of a tick.
    pub(super) fn clock(&self, state: &State, node: u8) -> u8 {
        state.tick * self.rate(state, node)
    }

    fn rate(&self, state: &State, node: u8) -> u8 {
        self.bounds.rates[usize::from(state.rates)][usize::from(node)]
    }

    /// How long a renewal is good for to its holder, in tenths of a tick: the ttl less the drift of a tenth.
    fn shortened(&self) -> u8 {
        self.bounds.ttl * if self.makes(Mistake::NoDriftMargin) { 10 } else { 9 }
    }

    /// The same to the granter: the ttl and the drift.
    fn lengthened(&self) -> u8 {
        self.bounds.ttl * if self.makes(Mistake::NoDriftMargin) { 10 } else { 11 }
    }

    /// Lists what may happen next. What would change nothing, or could never matter, is left out.
    pub(super) fn offer(&self, state: &State, actions: &mut Vec<Action>) {
        if state.tick < self.bounds.ticks {
            actions.push(Action::Tick);
        }
        for node in NODES {
            self.offer_raft(state, node, actions);
            if state.node(node).leads && state.node(node).alive {
                self.offer_leader(state, node, actions);
            }
            self.offer_faults(state, node, actions);
        }
        for node in DATA {
            self.offer_holder(state, node, actions);
        }
        for (slot, at) in (0..self.bounds.slots).zip(&state.slots) {
            self.offer_renewal(state, slot, *at, actions);
        }
    }

    fn has_room(&self, node: &Node) -> bool {
        node.log.len() < self.bounds.entries
    }

    fn offer_raft(&self, state: &State, candidate: u8, actions: &mut Vec<Action>) {
        let it = state.node(candidate);
        if !it.alive {
            return;
        }
        for other in NODES.into_iter().filter(|other| *other != candidate) {
            let voter = state.node(other);
            if !voter.alive {
                continue;
            }
            let next = it.term.max(voter.term) + 1;
            let up_to_date = it.log.age() >= voter.log.age();
            if !it.leads && next <= self.bounds.terms && up_to_date && self.has_room(it) {
                actions.push(Action::Elect { candidate, voter: other });
            }
            if it.leads && voter.term <= it.term {
                for acked in [true, false].into_iter().filter(|acked| *acked || self.bounds.losses)
                {
                    actions.push(Action::Replicate { from: candidate, to: other, acked });
                }
            }
        }
    }

    fn offer_leader(&self, state: &State, leader: u8, actions: &mut Vec<Action>) {
        let it = state.node(leader);
        if !self.has_room(it) {
            return;
        }
        let (applied, in_the_end) = (state.lease(leader), it.log.in_the_end());
        if let Some(epoch) = applied.epoch() {
            let counts = it.record_term == it.term && it.record_epoch == epoch;
            let waited = state.tick.saturating_sub(it.renewed) * self.rate(state, leader);
            let over = it.renewed == LONG_AGO || waited >= self.lengthened();
            if counts && in_the_end.epoch() == Some(epoch) && over {
                actions.push(Action::Expire { leader });
            }
        } else if in_the_end == applied && applied.last < self.bounds.epochs {
            let up = DATA.into_iter().filter(|node| state.node(*node).alive);
            actions.extend(up.map(|to| Action::Grant { leader, to }));
        }
        if state.stray > 0 && in_the_end.epoch() == Some(state.stray) {
            actions.push(Action::VacateLate { leader });
        }
        for of in DATA {
            let released = state.node(of).released;
            if released > 0 && in_the_end.of(of) == Some(released) {
                actions.push(Action::TakeRelease { leader, of, transfer: false });
                if released < self.bounds.epochs {
                    actions.push(Action::TakeRelease { leader, of, transfer: true });
                }
            }
        }
    }

    /// Whether this start of the agent may renew what it holds by the log (`ha_agent::observe::may_renew`).
    fn renewable(&self, state: &State, node: u8) -> Option<u8> {
        let it = state.node(node);
        let lease = state.lease(node);
        let epoch = lease.of(node)?;
        let own = lease.held == Some((node, it.start));
        let found = it.permit == epoch || self.makes(Mistake::RebootForgetsRelease);
        (it.alive && it.burnt < epoch && (own || found)).then_some(epoch)
    }

    fn offer_holder(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        let it = state.node(node);
        let Bounds { releases, restarts_in_place, slots, .. } = self.bounds;
        if let Some(epoch) = self.renewable(state, node) {
            let free = (0..slots).find(|slot| state.slots[usize::from(*slot)].phase == Phase::Free);
            actions.extend(free.map(|slot| Action::Send { slot, from: node }));
            let right = it.permit == epoch && self.clock(state, node) < it.deadline;
            if right && it.active == 0 {
                actions.push(Action::Promote { node });
            }
        }
        if it.alive && releases && state.lease(node).of(node).is_some_and(|e| it.released < e) {
            actions.push(Action::GiveUp { node });
        }
        if it.alive && it.active > 0 && it.released == it.active {
            actions.push(Action::Stop { node });
        }
        if restarts_in_place && it.active > 0 {
            actions.push(Action::DatabaseCrash { node });
        }
    }

    fn offer_faults(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        if !state.node(node).alive {
            actions.push(Action::AgentStart { node });
        } else if state.crashes < self.bounds.crashes {
            actions.push(Action::AgentCrash { node, forgets: false });
            if state.node(node).commit > 1 {
                actions.push(Action::AgentCrash { node, forgets: true });
            }
        }
        if state.reboots < self.bounds.reboots && DATA.contains(&node) {
            actions.push(Action::Reboot { node });
        }
    }

    fn offer_renewal(&self, state: &State, slot: u8, at: Slot, actions: &mut Vec<Action>) {
        match at.phase {
            Phase::Free => return,
            Phase::Sent => {
                let leads = |node: &u8| state.node(*node).leads && state.node(*node).alive;
                let early = |node: &u8| {
                    !self.makes(Mistake::CheckedBeforeTheRoundOnly)
                        || self.confirmable(state, at, *node, state.node(*node).term, 0)
                };
                let gets = NODES.into_iter().filter(leads).filter(early);
                actions.extend(gets.map(|leader| Action::Receive { slot, leader }));
            }
            Phase::Asking => {
                let leader = state.node(at.leader);
                let asks = leader.leads && leader.alive && leader.term == at.term;
                let yes = |node: &u8| {
                    let it = state.node(*node);
                    asks && *node != at.leader && it.alive && it.term <= at.term
                };
                let says = NODES.into_iter().filter(yes);
                actions.extend(says.map(|by| Action::Acknowledge { slot, by }));
            }
            Phase::Acked => {
                let checked = self.makes(Mistake::CheckedBeforeTheRoundOnly);
                if checked || self.confirmable(state, at, at.leader, at.term, at.need) {
                    actions.push(Action::Confirm { slot });
                }
            }
            Phase::Yes => {
                let it = state.node(at.from);
                if it.alive && it.burnt < at.epoch && it.permit <= at.epoch {
                    actions.push(Action::Answer { slot });
                }
            }
        }
        actions.push(Action::Lose { slot });
    }

    /// The last look before a renewal is confirmed: `ha_core::granter::Granter::confirm`. The node may have been
    /// deposed without having noticed.
    fn confirmable(&self, state: &State, slot: Slot, leader: u8, term: u8, need: u8) -> bool {
        let it = state.node(leader);
        let fresh = it.commit >= need || self.makes(Mistake::AnsweredBeforeFirstEntry);
        let renewable = !it.vacating || self.makes(Mistake::RenewedWhileVacating);
        let held = state.lease(leader).epoch() == Some(slot.epoch);
        let recorded = it.record_term == term && it.record_epoch == slot.epoch;
        it.alive && fresh && renewable && held && recorded
    }

    /// Takes a step that was offered.
    pub(super) fn take(&self, state: &State, action: Action) -> State {
        let mut next = *state;
        match action {
            Action::Tick => self.tick(&mut next),
            Action::Elect { candidate, voter } => self.elect(&mut next, candidate, voter),
            Action::Replicate { from, to, acked } => self.replicate(&mut next, from, to, acked),
            Action::Expire { leader } => {
                let epoch = next.node(leader).record_epoch;
                next.node_mut(leader).vacating = true;
                append(&mut next, leader, Command::Vacate { epoch });
                if self.makes(Mistake::VacateNotBoundToTerm) {
                    next.stray = epoch;
                }
            }
            Action::VacateLate { leader } => {
                let epoch = next.stray;
                append(&mut next, leader, Command::Vacate { epoch });
            }
            Action::Grant { leader, to } => {
                let (epoch, start) = (next.lease(leader).last + 1, next.node(to).start);
                append(&mut next, leader, Command::Grant { to, epoch, start });
            }
            Action::TakeRelease { leader, of, transfer } => {
                let epoch = next.node(of).released;
                let to = 1 - of;
                let start = next.node(to).start;
                let command = if transfer {
                    Command::Transfer { to, epoch, start }
                } else {
                    Command::Release { epoch }
                };
                append(&mut next, leader, command);
            }
            Action::Send { .. }
            | Action::Receive { .. }
            | Action::Acknowledge { .. }
            | Action::Confirm { .. }
            | Action::Answer { .. }
            | Action::Lose { .. } => self.renew(&mut next, action),
            Action::Promote { node } => next.node_mut(node).active = next.node(node).permit,
            Action::GiveUp { node } => self.give_up(&mut next, node),
            Action::Stop { node } | Action::DatabaseCrash { node } => {
                next.node_mut(node).active = 0;
            }
            Action::AgentCrash { node, forgets } => {
                next.crashes += 1;
                self.end_agent(&mut next, node);
                let it = next.node_mut(node);
                it.alive = false;
                if forgets {
                    it.commit = 1;
                }
            }
            Action::AgentStart { node } => Self::start_agent(&mut next, node),
            Action::Reboot { node } => {
                next.reboots += 1;
                self.end_agent(&mut next, node);
                let it = next.node_mut(node);
                (it.active, it.permit, it.deadline, it.burnt) = (0, 0, 0, 0);
                Self::start_agent(&mut next, node);
            }
        }
        self.forget_what_cannot_matter(&mut next);
        next
    }

    fn tick(&self, next: &mut State) {
        next.tick += 1;
        for node in DATA {
            let now = self.clock(next, node);
            let it = next.node_mut(node);
            // The guard: dead by the deadline, whatever the agent does.
            if now >= it.deadline {
                it.deadline = 0;
                // After a release before the stop only the permit of another epoch is left to go by.
                it.active = 0;
            }
        }
    }

    /// One voter beside the candidate is a majority; the third node goes on believing what it believed.
    fn elect(&self, next: &mut State, candidate: u8, voter: u8) {
        let term = next.node(candidate).term.max(next.node(voter).term) + 1;
        self.see_term(next, voter, term);
        self.see_term(next, candidate, term);
        let tick = next.tick;
        let epoch = next.lease(candidate).epoch().unwrap_or(0);
        let it = next.node_mut(candidate);
        it.leads = true;
        it.log.push(term, Command::Blank);
        let known = it.record_epoch == epoch && it.record_term > 0;
        if !(self.makes(Mistake::RecordKeptPerNode) && known) {
            let waits = !self.makes(Mistake::NewLeaderDoesNotWait);
            it.renewed = if waits { tick } else { LONG_AGO };
        }
        (it.record_term, it.record_epoch, it.vacating) = (term, epoch, false);
        if self.makes(Mistake::CountsFromGrantsOnly) {
            it.renewed = NEVER;
        }
    }

    fn see_term(&self, next: &mut State, node: u8, term: u8) {
        let it = next.node_mut(node);
        if it.term < term {
            it.term = term;
            it.leads = false;
            it.vacating &= !self.makes(Mistake::VacatingForgotten);
        }
    }

    fn replicate(&self, next: &mut State, from: u8, to: u8, acked: bool) {
        let Node { term, log, commit, .. } = *next.node(from);
        self.see_term(next, to, term);
        next.node_mut(to).log = log;
        let known = next.node(to).commit.max(commit);
        self.commit(next, to, known);
        if acked {
            // Its last entry is of its own term: the first one was appended when it was elected.
            self.commit(next, from, log.len());
        }
    }

    fn commit(&self, next: &mut State, node: u8, commit: u8) {
        let before = next.lease(node);
        next.node_mut(node).commit = commit;
        let lease = next.lease(node);
        let (tick, now) = (next.tick, self.clock(next, node));
        let good_for = self.shortened();
        let it = next.node_mut(node);
        let epoch = lease.epoch().unwrap_or(0);
        if it.leads && before != lease && it.record_epoch != epoch {
            (it.record_epoch, it.renewed, it.vacating) = (epoch, tick, false);
        }
        if self.makes(Mistake::ActsOnTheGrant) && lease.of(node).is_some_and(|e| e > it.permit) {
            (it.permit, it.deadline) = (epoch, now + good_for);
        }
    }

    fn renew(&self, next: &mut State, action: Action) {
        let (Action::Send { slot, .. }
        | Action::Receive { slot, .. }
        | Action::Acknowledge { slot, .. }
        | Action::Confirm { slot }
        | Action::Answer { slot }
        | Action::Lose { slot }) = action
        else {
            return;
        };
        let mut it = next.slots[usize::from(slot)];
        match action {
            Action::Send { from, .. } => {
                let epoch = next.lease(from).last;
                it = Slot { phase: Phase::Sent, from, epoch, sent: next.tick, ..it };
                if self.makes(Mistake::AnswerOfAnotherRequest) {
                    next.node_mut(from).sent = next.tick;
                }
            }
            Action::Receive { leader, .. } => {
                let at = next.node(leader);
                let first = at.log.up_to_first_of(at.term);
                let cached = self.makes(Mistake::CachedConfirmation);
                it.phase = if cached { Phase::Acked } else { Phase::Asking };
                (it.leader, it.term, it.need) = (leader, at.term, at.commit.max(first));
            }
            Action::Acknowledge { by, .. } => {
                it.phase = Phase::Acked;
                self.see_term(next, by, it.term);
            }
            Action::Confirm { .. } => {
                it.phase = Phase::Yes;
                let tick = next.tick;
                next.node_mut(it.leader).renewed = tick;
            }
            Action::Answer { .. } => {
                self.take_yes(next, it);
                it = Slot::default();
            }
            _ => it = Slot::default(),
        }
        next.slots[usize::from(slot)] = it;
    }

    /// A yes gives a right from when *that* request was sent.
    fn take_yes(&self, next: &mut State, slot: Slot) {
        let since = match self.mistake {
            Some(Mistake::DeadlineFromAnswer) => next.tick,
            Some(Mistake::AnswerOfAnotherRequest) => next.node(slot.from).sent,
            _ => slot.sent,
        };
        let deadline = since * self.rate(next, slot.from) + self.shortened();
        let over = deadline <= self.clock(next, slot.from);
        let it = next.node_mut(slot.from);
        let known = if it.permit == slot.epoch { it.deadline } else { 0 };
        it.permit = slot.epoch;
        it.deadline = if over { known } else { known.max(deadline) };
    }

    fn give_up(&self, next: &mut State, node: u8) {
        let Some(epoch) = next.lease(node).of(node) else { return };
        let it = next.node_mut(node);
        it.released = epoch;
        if !self.makes(Mistake::EpochUsedAgain) {
            it.burnt = epoch;
        }
        if !self.makes(Mistake::ReleaseBeforeStop) {
            it.active = 0;
        }
    }

    /// What an agent keeps in memory is gone. Its database and its guard go on.
    fn end_agent(&self, next: &mut State, node: u8) {
        for slot in &mut next.slots {
            let asks = matches!(slot.phase, Phase::Asking | Phase::Acked) && slot.leader == node;
            if slot.from == node || asks {
                *slot = Slot::default();
            }
        }
        let it = next.node_mut(node);
        it.leads &= self.makes(Mistake::LeaderRestored);
        (it.record_term, it.record_epoch, it.renewed, it.vacating) = (0, 0, 0, false);
    }

    fn start_agent(next: &mut State, node: u8) {
        let epoch = next.lease(node).epoch().unwrap_or(0);
        let tick = next.tick;
        let it = next.node_mut(node);
        it.alive = true;
        it.start += 1;
        if it.leads {
            (it.record_term, it.record_epoch, it.renewed) = (it.term, epoch, tick);
        }
    }

    /// A record that nothing will look at again is dropped, so that states that differ by it alone are one.
    fn forget_what_cannot_matter(&self, next: &mut State) {
        if self.makes(Mistake::RecordKeptPerNode) {
            return;
        }
        let slots = next.slots;
        for node in NODES {
            let it = next.node_mut(node);
            let asked = |slot: &Slot| {
                let pending = matches!(slot.phase, Phase::Asking | Phase::Acked);
                pending && slot.leader == node && slot.term == it.record_term
            };
            if !it.leads && it.record_term > 0 && !slots.iter().any(asked) {
                (it.record_term, it.record_epoch, it.renewed, it.vacating) = (0, 0, 0, false);
            }
        }
    }

    /// Whether a schedule in which nothing fails any more leads from here to a primary: every agent runs, somebody
    /// is elected and heard by all, renews or lets expire, grants, and the holder renews and begins.
    pub(super) fn recovers(&self, state: &State) -> bool {
        let Bounds { ttl, rates, epochs, .. } = self.bounds;
        let bounds = Bounds { ttl, rates, epochs: epochs + 1, ..Bounds::FREE };
        let free = Self { bounds, ..*self };
        let mut now = *state;
        for slot in [0, 1] {
            now = free.take(&now, Action::Lose { slot });
        }
        for node in NODES.into_iter().filter(|node| !state.node(*node).alive) {
            now = free.take(&now, Action::AgentStart { node });
        }
        let newest = now.nodes.iter().map(|node| node.term).max();
        let leads = |node: &u8| now.node(*node).leads && Some(now.node(*node).term) == newest;
        let longest = || NODES.into_iter().max_by_key(|node| now.node(*node).log.age());
        let current = NODES.into_iter().find(leads);
        let Some(leader) = current.or_else(longest) else { return false };
        if current.is_none() {
            now.node_mut(leader).leads = false;
            let voter = (leader + 1) % 3;
            now = free.take(&now, Action::Elect { candidate: leader, voter });
        }
        (0..self.bounds.ttl * 4).any(|_| {
            now = free.round(&now, leader);
            now.active().any(|(node, epoch)| now.lease(leader).of(node) == Some(epoch))
        })
    }

    /// Everybody does what is to be done, then a tick passes.
    fn round(&self, state: &State, leader: u8) -> State {
        let mut now = *state;
        let wanted = |now: &State, model: &Self| {
            let mut offered = Vec::new();
            model.offer(now, &mut offered);
            offered.into_iter().find(|action| match *action {
                Action::Expire { .. }
                | Action::Send { .. }
                | Action::Receive { .. }
                | Action::Acknowledge { .. }
                | Action::Confirm { .. }
                | Action::Answer { .. }
                | Action::Promote { .. } => true,
                Action::Grant { leader: by, .. } => by == leader,
                _ => false,
            })
        };
        for _ in 0..12 {
            for to in NODES.into_iter().filter(|to| *to != leader) {
                now = self.take(&now, Action::Replicate { from: leader, to, acked: true });
            }
            let Some(action) = wanted(&now, self) else { break };
            now = self.take(&now, action);
        }
        // What was sent under an epoch that is over gets no answer.
        now = self.take(&now, Action::Lose { slot: 0 });
        if now.active().next().is_some() { now } else { self.take(&now, Action::Tick) }
    }
}

fn append(next: &mut State, leader: u8, command: Command) {
    let it = next.node_mut(leader);
    it.log.push(it.term, command);
}
