//! What is true, whatever the nodes believe: the committed log, the acknowledged writes, and what must
//! never be.

use std::collections::BTreeMap;
use std::rc::Rc;

use ha_core::Epoch;
use ha_core::permit::Order;
use ha_core::policy::Durability;
use ha_core::state::{Command, Outcome, State, VacateReason};

use super::raft::Entry;
use super::state::World;

/// A write that a server took in.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Its record, and where that ends.
    record: u64,
    end: usize,
}

/// What is known to be true.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) log: Vec<Rc<Entry>>,
    states: Vec<(Rc<State>, Outcome)>,
    writes: BTreeMap<u64, Written>,
    /// Writes that clients were told of, where the cluster had promised to keep them.
    acknowledged: Vec<Written>,
    /// Who began to serve last, and under which epoch.
    serving: Option<(usize, Epoch)>,
    /// The highest epoch that is over by the committed log.
    pub(crate) over: Epoch,
    pub(crate) violation: Option<String>,
    pub(crate) promotions: u64,
}

impl Oracle {
    pub(crate) fn written(&mut self, write: u64, record: u64, end: usize) {
        self.writes.insert(write, Written { record, end });
    }

    /// Returns the state after everything that anybody knows to be committed.
    pub(crate) fn state(&self) -> Option<&Rc<State>> {
        self.states.last().map(|(state, _)| state)
    }
}

impl World {
    /// A node learned that the entry at an index is committed. Returns what follows from it.
    ///
    /// Every node must find the same entry there. The state machine is deterministic, so it is run once.
    pub(crate) fn committed(
        &mut self,
        host: usize,
        index: usize,
        entry: &Rc<Entry>,
    ) -> (Rc<State>, Outcome) {
        let at = index - 1;
        if let Some(known) = self.oracle.log.get(at) {
            if known.id != entry.id {
                self.violated(format!("committed logs differ at {index}"));
            }
            return self.oracle.states[at].clone();
        }
        let before = self.oracle.state().cloned().unwrap_or_default();
        let mut state = Rc::clone(&before);
        let outcome = match &entry.command {
            Some(command) => Rc::make_mut(&mut state).apply(command),
            None => Outcome::Applied,
        };
        if state.last_epoch < before.last_epoch || state.last_epoch.0 > before.last_epoch.0 + 1 {
            self.violated(format!("epoch {} after {}", state.last_epoch, before.last_epoch));
        }
        self.oracle.log.push(Rc::clone(entry));
        self.oracle.states.push((Rc::clone(&state), outcome.clone()));
        if let Some(command) = &entry.command {
            self.tell(host, &format!("committed: {}", shown(command, &outcome)));
        }
        let over = match state.lease.grant() {
            Some(grant) => Epoch(grant.epoch.0 - 1),
            None => state.last_epoch,
        };
        if over > self.oracle.over {
            self.oracle.over = over;
            if let Some(Command::Vacate { reason: VacateReason::Expired, .. }) = &entry.command {
                self.no_permit_outlives(over);
            }
        }
        (state, outcome)
    }

    /// A lease expired by its granter's count: no permit of it has time left.
    fn no_permit_outlives(&mut self, epoch: Epoch) {
        for at in 0..self.hosts.len() {
            let host = &self.hosts[at];
            if !host.up || host.frozen.is_some() || host.stood_still() {
                continue;
            }
            if let Some(permit) = host.permit
                && let Order::Primary { epoch: own, deadline } = permit.order
                && own <= epoch
                && deadline > self.clock(at).boottime
            {
                let name = self.hosts[at].name.clone();
                self.violated(format!("the permit of {name} outlives the lease of epoch {own}"));
            }
        }
    }

    fn epoch_of(&self, host: usize) -> Epoch {
        let guard = self.hosts[host].pg.as_ref().map(|pg| pg.guard);
        guard.and_then(|guard| guard.right).map_or(Epoch::NONE, |(epoch, _)| epoch)
    }

    /// A server accepts writes from now on.
    pub(crate) fn begins_to_serve(&mut self, host: usize) {
        let epoch = self.epoch_of(host);
        let name = self.hosts[host].name.clone();
        self.oracle.promotions += 1;
        if let Some((_, latest)) = self.oracle.serving
            && epoch < latest
        {
            self.violated(format!("{name} begins to serve under epoch {epoch}, after {latest}"));
        }
        self.oracle.serving = Some((host, epoch));
        let acknowledged = std::mem::take(&mut self.oracle.acknowledged);
        let lost = acknowledged.iter().filter(|write| !self.has(host, **write)).count();
        self.oracle.acknowledged = acknowledged;
        if lost > 0 {
            self.violated(format!("{name} begins to serve without {lost} acknowledged writes"));
        }
    }

    /// A server that was primary is up again in place. One whose machine stood still may go by a right that
    /// is over, as it would have without the crash: what it acknowledges is what counts.
    pub(crate) fn goes_on_to_serve(&mut self, host: usize) {
        let epoch = self.epoch_of(host);
        let superseded = self.oracle.serving.is_some_and(|(_, latest)| epoch < latest);
        if !(superseded && self.hosts[host].stood_still()) {
            self.begins_to_serve(host);
        }
    }

    fn has(&self, host: usize, write: Written) -> bool {
        let record = self.hosts[host].wal().and_then(|wal| wal.get(write.end - 1));
        record.is_some_and(|record| record.id == write.record)
    }

    /// A server lets a commit go.
    pub(crate) fn acknowledged(&mut self, host: usize, write: u64, end: usize) {
        let epoch = self.epoch_of(host);
        let name = self.hosts[host].name.clone();
        if epoch <= self.oracle.over && !self.hosts[host].stood_still() {
            self.violated(format!("{name} acknowledges under epoch {epoch}, which is over"));
        }
        // From the order on that async is enough nothing is promised, though the mode in force is the old one
        // for a moment more.
        let promised = self.oracle.state().is_some_and(|state| {
            let recorded = state.recorded.as_ref().map(|recorded| recorded.mode);
            state.durability != Durability::Async
                && recorded.is_some_and(|mode| mode != Durability::Async)
        });
        let Some(written) = self.oracle.writes.get(&write).copied() else { return };
        if written.end != end {
            self.violated(format!("{name} acknowledges another write than it wrote"));
        }
        if !promised {
            return;
        }
        if let Some((serving, latest)) = self.oracle.serving
            && latest > epoch
            && !self.has(serving, written)
        {
            self.violated(format!("{name} acknowledges a write that epoch {latest} lacks"));
        }
        self.oracle.acknowledged.push(written);
    }

    /// Looked at after every event.
    pub(crate) fn check(&mut self) {
        let mut writer = None;
        for at in 0..self.hosts.len() {
            if !self.can_acknowledge(at) {
                continue;
            }
            let epoch = self.epoch_of(at);
            let name = &self.hosts[at].name;
            if epoch <= self.oracle.over {
                let text = format!("{name} can acknowledge under epoch {epoch}, which is over");
                self.violated(text);
                return;
            }
            if let Some(other) = writer.replace(at) {
                let text = format!("{name} and {} can acknowledge", self.hosts[other].name);
                self.violated(text);
                return;
            }
        }
    }

    /// Whether a node accepts writes and could let them go. One that stood still is judged by what it does.
    fn can_acknowledge(&self, at: usize) -> bool {
        let host = &self.hosts[at];
        let Some(pg) = &host.pg else { return false };
        let Some(server) = pg.server.as_ref().filter(|s| s.up && !s.recovery) else { return false };
        let quiet = server.stopping && server.sessions.is_empty() && server.waiting.is_empty();
        host.up && host.frozen.is_none() && !host.stood_still() && !quiet
    }
}

fn shown(command: &Command, outcome: &Outcome) -> String {
    let text = match command {
        Command::Found { .. } => "found".to_owned(),
        Command::AssignBootstrap { to, .. } => format!("bootstrap by {to}"),
        Command::RegisterSystem { .. } => "database registered".to_owned(),
        Command::Grant { to, epoch, catch_up, .. } => match catch_up {
            Some(it) => {
                format!("grant {epoch} to {to}, which fetches up to {} from {}", it.to.lsn, it.from)
            }
            None => format!("grant {epoch} to {to}"),
        },
        Command::Vacate { epoch, reason: VacateReason::Expired, .. } => {
            format!("epoch {epoch} expired")
        }
        Command::Vacate { epoch, reason, .. } => match reason {
            VacateReason::Released { why } => format!("epoch {epoch} released, {why}"),
            VacateReason::Expired | VacateReason::Killed => format!("epoch {epoch} ended"),
        },
        Command::Transfer { epoch, to, .. } => format!("epoch {epoch} handed over to {to}"),
        Command::RecordPromotion { epoch, begin, .. } => format!("promotion of {epoch} at {begin}"),
        Command::SetDurability { durability, .. } => format!("durability {durability}"),
        Command::SetQuorum { epoch, mode, quorum, settled, .. } => {
            format!(
                "quorum of {epoch}: {mode}, {quorum}{}",
                if *settled { ", settled" } else { "" }
            )
        }
        Command::RecordDivergence { node, fork, end, .. } => {
            format!("{node} diverged from {} to {}", fork.lsn, end.lsn)
        }
        other => {
            format!("{other:?}").split([' ', '{', '(']).next().unwrap_or_default().to_lowercase()
        }
    };
    match outcome {
        Outcome::Applied => text,
        Outcome::Refused(why) => format!("{text}: refused, {why}"),
    }
}
