//! The granter's side of the lease: when may it be given to another?
//!
//! The granter is the Raft leader. What it remembers of renewals belongs to one Raft term and is made
//! anew with each: kept longer, or made from an older confirmation, it gives two primaries.

use std::time::Duration;

use crate::clock::ClockReading;
use crate::epoch::Epoch;
use crate::lease::{Drift, Lease};

/// What a Raft leader knows about the lease it watches over.
#[derive(Debug, Clone)]
pub struct Granter {
    drift: Drift,
    record: Option<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    term: u64,
    epoch: Epoch,
    renewed_at: ClockReading,
    standing: Standing,
    /// The pause that was last seen, by its number, and whether it lasted.
    pauses: u64,
    paused: bool,
    /// In which container the holder's guard runs, as the latest confirmed renewal told.
    container: Option<String>,
}

/// Where a lease stands with its granter. It only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Renewals are confirmed.
    Renewable,
    /// None is confirmed any more, because the holder's container is being killed. The ttl still counts.
    Killing,
    /// It is over, because the kill is confirmed.
    Killed,
    /// It is over, because of its ttl.
    Expired,
}

/// Why a renewal was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RenewRefused {
    /// Not leader of the term that the renewal began in, or not leader at all.
    #[error("this node is not the Raft leader of the term that the renewal began in")]
    TermChanged,
    /// The lease is not held under that epoch.
    #[error("the lease is not held under that epoch")]
    NotHeld,
    /// It has expired, or its holder is being killed; a `Vacate` is on its way.
    #[error("the lease of that epoch has expired")]
    Vacating,
}

/// A lease that has expired: `Vacate` it, bound to this term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The only Raft term in which that decision is good.
    pub term: u64,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// How many pauses there had been: after one more it is not good either.
    pub pauses: u64,
    /// Whether it ended by a kill from outside, and not by its ttl.
    pub killed: bool,
}

/// A holder that was not heard of for a while, and what to kill so that its lease is over at once.
///
/// Why that is safe is in `ARCHITECTURE.md`, "A kill from outside".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overdue {
    /// The only Raft term in which the kill counts.
    pub term: u64,
    /// The epoch that the holder has.
    pub epoch: Epoch,
    /// The container that its guard runs in.
    pub container: String,
}

impl Granter {
    /// Returns a granter that has seen nothing.
    #[must_use]
    pub const fn new(drift: Drift) -> Self {
        Self { drift, record: None }
    }

    /// Takes in what this node sees of Raft now: the term it leads, if it leads one, and the applied
    /// lease. Call at every change and at every tick, with the clock read *after* both.
    ///
    /// Terms are compared, not roles: a watch may skip leader, other leader, leader again.
    pub fn observe(&mut self, leading: Option<u64>, lease: &Lease, now: ClockReading) {
        let Some(term) = leading else {
            self.record = None;
            return;
        };
        let epoch = lease.grant().map_or(Epoch::NONE, |grant| grant.epoch);
        match &mut self.record {
            // Terms only grow: whoever saw an older one looked earlier than the record was made.
            Some(record) if record.term > term => {}
            Some(record) if record.term == term && record.epoch == epoch => {}
            other => {
                let standing = Standing::Renewable;
                let (pauses, paused, container) = (0, false, None);
                *other = Some(Record {
                    term,
                    epoch,
                    renewed_at: now,
                    standing,
                    pauses,
                    paused,
                    container,
                });
            }
        }
    }

    /// Takes in whether the cluster is paused, and the how-manieth pause it is or was last. Call right after
    /// [`Granter::observe`], with what was read together with the lease.
    ///
    /// A new pause makes the record anew: no lease expires in it, so that what was decided just before is not
    /// to be carried out any more, and the replicated state refuses it.
    pub fn observe_pause(&mut self, pauses: u64, paused: bool, now: ClockReading) {
        let Some(record) = &mut self.record else { return };
        // They only grow: whoever saw an older one looked earlier.
        if pauses > record.pauses {
            record.pauses = pauses;
            record.standing = Standing::Renewable;
            record.renewed_at = now;
        }
        record.paused = paused && pauses >= record.pauses;
    }

    /// Returns the term to note when a renewal arrives, before leadership is confirmed.
    ///
    /// # Errors
    /// [`RenewRefused::TermChanged`] if this node has not seen itself as leader.
    pub fn arrived(&self) -> Result<u64, RenewRefused> {
        self.record.as_ref().map(|record| record.term).ok_or(RenewRefused::TermChanged)
    }

    /// Confirms a renewal, in one step, after a majority round that began after it arrived.
    ///
    /// `noted` is what [`Granter::arrived`] said, `confirmed` the term the majority confirmed,
    /// `lease` the applied lease read now, `now` the clock read now. Afterwards
    /// [`Granter::runs_in`] may be told.
    ///
    /// # Errors
    /// [`RenewRefused`]: then nothing changed.
    pub fn confirm(
        &mut self,
        noted: u64,
        confirmed: u64,
        epoch: Epoch,
        lease: &Lease,
        now: ClockReading,
    ) -> Result<(), RenewRefused> {
        let record = self.record.as_mut().ok_or(RenewRefused::TermChanged)?;
        if record.term != noted || record.term != confirmed {
            return Err(RenewRefused::TermChanged);
        }
        let held = lease.grant().is_some_and(|grant| grant.epoch == epoch);
        // A grant that was applied but not observed yet has no record: it is renewed after the tick.
        if !held || record.epoch != epoch {
            return Err(RenewRefused::NotHeld);
        }
        if record.standing != Standing::Renewable {
            return Err(RenewRefused::Vacating);
        }
        record.renewed_at = now;
        Ok(())
    }

    /// Notes in which container the guard of the holder runs: what the renewal of `epoch` told that was
    /// just confirmed.
    pub fn runs_in(&mut self, epoch: Epoch, container: Option<String>) {
        if let Some(record) = self.record.as_mut().filter(|record| record.epoch == epoch) {
            record.container = container;
        }
    }

    /// Returns whom to kill if nobody renewed the lease for `patience`; `None` as well if a kill is under
    /// way, if the lease is over, or if nothing is known that could be killed.
    #[must_use]
    pub fn overdue(&self, lease: &Lease, now: ClockReading, patience: Duration) -> Option<Overdue> {
        let grant = lease.grant()?;
        let record = self.record.as_ref().filter(|record| record.epoch == grant.epoch)?;
        if record.paused
            || record.standing != Standing::Renewable
            || now.shortest_since(record.renewed_at) < patience
        {
            return None;
        }
        let container = record.container.clone()?;
        Some(Overdue { term: record.term, epoch: record.epoch, container })
    }

    /// Refuses every renewal of that epoch from here on. Call *before* the order to kill leaves.
    ///
    /// Returns whether it may leave at all: not if the holder was heard of since, or the term ended.
    #[must_use]
    pub fn refuse(&mut self, of: &Overdue, now: ClockReading, patience: Duration) -> bool {
        let Some(record) = self.record_of(of) else { return false };
        if record.paused
            || record.standing != Standing::Renewable
            || record.container.as_ref() != Some(&of.container)
            || now.shortest_since(record.renewed_at) < patience
        {
            return false;
        }
        record.standing = Standing::Killing;
        true
    }

    /// Notes that every process of the container is gone: the lease is over without waiting for the ttl.
    ///
    /// Counts only after [`Granter::refuse`], in the same term. Returns whether it did.
    pub fn killed(&mut self, of: &Overdue) -> bool {
        match self.record_of(of) {
            Some(record) if record.standing == Standing::Killing => {
                record.standing = Standing::Killed;
                true
            }
            _ => false,
        }
    }

    fn record_of(&mut self, of: &Overdue) -> Option<&mut Record> {
        self.record.as_mut().filter(|record| record.term == of.term && record.epoch == of.epoch)
    }

    /// Returns the expiry to act on, and refuses renewals of that epoch from here on.
    ///
    /// Returned again at each call until the lease changes or the term ends: a `Vacate` that failed is
    /// proposed again, always bound to the same term.
    pub fn expire(&mut self, lease: &Lease, now: ClockReading) -> Option<Expiry> {
        let grant = lease.grant()?;
        let record = self.record.as_mut().filter(|record| record.epoch == grant.epoch)?;
        if record.paused {
            return None;
        }
        let waited = now.shortest_since(record.renewed_at);
        let over = matches!(record.standing, Standing::Killed | Standing::Expired);
        if !over && waited < self.drift.lengthened(grant.ttl) {
            return None;
        }
        if !over {
            record.standing = Standing::Expired;
        }
        let killed = record.standing == Standing::Killed;
        Some(Expiry { term: record.term, epoch: record.epoch, pauses: record.pauses, killed })
    }

    /// Returns how long until the lease expires if nobody renews it; `None` if this node does not lead
    /// or the lease is vacant.
    #[must_use]
    pub fn left(&self, lease: &Lease, now: ClockReading) -> Option<Duration> {
        let grant = lease.grant()?;
        let record = self.record.as_ref().filter(|record| record.epoch == grant.epoch)?;
        let waited = now.shortest_since(record.renewed_at);
        Some(self.drift.lengthened(grant.ttl).saturating_sub(waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootNanos;
    use crate::epoch::Incarnation;
    use crate::lease::Grant;

    const fn at_ms(ms: u64) -> ClockReading {
        ClockReading { boottime: BootNanos(ms * 1_000_000), monotonic_raw: ms * 1_000_000 }
    }

    fn held(epoch: u64) -> Lease {
        Lease::Held(Grant {
            holder: "n1".parse().expect("a valid name"),
            incarnation: Incarnation(1),
            epoch: Epoch(epoch),
            ttl: Duration::from_secs(3),
            catch_up: None,
        })
    }

    fn leading(term: u64, lease: &Lease, ms: u64) -> Granter {
        let mut granter = Granter::new(Drift::DEFAULT);
        granter.observe(Some(term), lease, at_ms(ms));
        granter
    }

    #[test]
    fn a_new_leader_waits_a_full_ttl_with_drift() {
        let mut granter = leading(4, &held(7), 1000);
        assert_eq!(granter.expire(&held(7), at_ms(4029)), None);
        let expiry = Expiry { term: 4, epoch: Epoch(7), pauses: 0, killed: false };
        assert_eq!(granter.expire(&held(7), at_ms(4030)), Some(expiry));
    }

    #[test]
    fn a_leader_of_a_later_term_forgets_the_renewals_it_confirmed_before() {
        let mut granter = leading(4, &held(7), 0);
        granter.observe(Some(6), &held(7), at_ms(3000)); // the watch skipped term 5
        assert_eq!(granter.expire(&held(7), at_ms(5000)), None);
        assert_eq!(granter.left(&held(7), at_ms(5000)), Some(Duration::from_millis(1030)));
    }

    #[test]
    fn a_look_at_an_older_term_changes_nothing() {
        let mut granter = leading(6, &held(7), 0);
        assert!(granter.expire(&held(7), at_ms(4000)).is_some());
        granter.observe(Some(5), &held(7), at_ms(4001));
        let refused = granter.confirm(6, 6, Epoch(7), &held(7), at_ms(4002));
        assert_eq!(refused, Err(RenewRefused::Vacating));
    }

    #[test]
    fn a_deposed_leader_decides_nothing() {
        let mut granter = leading(4, &held(7), 0);
        granter.observe(None, &held(7), at_ms(100));
        assert_eq!(granter.expire(&held(7), at_ms(9000)), None);
        assert_eq!(granter.arrived(), Err(RenewRefused::TermChanged));
    }

    #[test]
    fn a_renewal_is_confirmed_only_within_the_term_it_arrived_in() {
        let mut granter = leading(4, &held(7), 0);
        let noted = granter.arrived().expect("it leads");
        let other = RenewRefused::TermChanged;
        assert_eq!(granter.confirm(noted, 5, Epoch(7), &held(7), at_ms(1)), Err(other));
        granter.observe(Some(6), &held(7), at_ms(50));
        assert_eq!(granter.confirm(noted, 4, Epoch(7), &held(7), at_ms(60)), Err(other));
    }

    #[test]
    fn a_renewal_is_refused_while_its_epoch_is_being_vacated() {
        let mut granter = leading(4, &held(7), 0);
        let noted = granter.arrived().expect("it leads");
        assert!(granter.expire(&held(7), at_ms(4000)).is_some());
        let got = granter.confirm(noted, 4, Epoch(7), &held(7), at_ms(4001));
        assert_eq!(got, Err(RenewRefused::Vacating));
        assert!(granter.expire(&held(7), at_ms(4002)).is_some(), "proposed until it is applied");
    }

    #[test]
    fn a_renewal_of_another_epoch_or_of_a_vacant_lease_is_refused() {
        let mut granter = leading(4, &held(7), 0);
        let no = Err(RenewRefused::NotHeld);
        assert_eq!(granter.confirm(4, 4, Epoch(6), &held(7), at_ms(1)), no);
        assert_eq!(granter.confirm(4, 4, Epoch(7), &Lease::Vacant, at_ms(1)), no);
        // Applied in between, not observed yet.
        assert_eq!(granter.confirm(4, 4, Epoch(8), &held(8), at_ms(1)), no);
    }

    #[test]
    fn nothing_expires_in_a_pause_and_what_was_decided_before_counts_no_more() {
        let mut granter = leading(4, &held(7), 0);
        assert!(granter.expire(&held(7), at_ms(4000)).is_some());
        granter.observe(Some(4), &held(7), at_ms(4001));
        granter.observe_pause(1, true, at_ms(4001));
        assert_eq!(granter.expire(&held(7), at_ms(60_000)), None);
        assert_eq!(granter.overdue(&held(7), at_ms(60_000), Duration::from_secs(1)), None);
        assert_eq!(granter.confirm(4, 4, Epoch(7), &held(7), at_ms(60_001)), Ok(()));
        // A look from before the pause comes late.
        granter.observe_pause(0, false, at_ms(60_002));
        granter.observe_pause(1, false, at_ms(60_003));
        assert_eq!(granter.expire(&held(7), at_ms(63_030)), None);
        let expiry = Expiry { term: 4, epoch: Epoch(7), pauses: 1, killed: false };
        assert_eq!(granter.expire(&held(7), at_ms(63_031)), Some(expiry));
    }

    #[test]
    fn a_grant_starts_the_count_anew() {
        let mut granter = leading(4, &Lease::Vacant, 0);
        granter.observe(Some(4), &held(8), at_ms(10_000));
        assert_eq!(granter.expire(&held(8), at_ms(13_000)), None);
        assert!(granter.expire(&held(8), at_ms(13_030)).is_some());
    }

    #[test]
    fn a_confirmed_renewal_starts_the_count_anew_from_the_confirmation() {
        let mut granter = leading(4, &held(7), 0);
        assert_eq!(granter.confirm(4, 4, Epoch(7), &held(7), at_ms(2000)), Ok(()));
        assert_eq!(granter.expire(&held(7), at_ms(5029)), None);
        assert!(granter.expire(&held(7), at_ms(5030)).is_some());
    }

    fn told(mut granter: Granter) -> Granter {
        granter.runs_in(Epoch(7), Some("c1".to_owned()));
        granter
    }

    const PATIENCE: Duration = Duration::from_millis(1500);

    #[test]
    fn a_confirmed_kill_ends_the_lease_before_its_ttl() {
        let mut granter = told(leading(4, &held(7), 0));
        assert_eq!(granter.overdue(&held(7), at_ms(1499), PATIENCE), None);
        let of = granter.overdue(&held(7), at_ms(1500), PATIENCE).expect("nobody renewed it");
        assert!(granter.refuse(&of, at_ms(1510), PATIENCE));
        assert_eq!(granter.expire(&held(7), at_ms(1520)), None, "only asked for yet");
        assert!(granter.killed(&of));
        let expiry = Expiry { term: 4, epoch: Epoch(7), pauses: 0, killed: true };
        assert_eq!(granter.expire(&held(7), at_ms(1530)), Some(expiry));
        assert_eq!(granter.expire(&held(7), at_ms(9000)), Some(expiry), "until it is vacated");
    }

    #[test]
    fn from_the_order_to_kill_on_no_renewal_is_confirmed() {
        let mut granter = told(leading(4, &held(7), 0));
        let noted = granter.arrived().expect("it leads");
        let of = granter.overdue(&held(7), at_ms(1500), PATIENCE).expect("nobody renewed it");
        assert!(granter.refuse(&of, at_ms(1510), PATIENCE));
        let no = Err(RenewRefused::Vacating);
        assert_eq!(granter.confirm(noted, 4, Epoch(7), &held(7), at_ms(1511)), no);
        // The kill came to nothing: then the ttl is waited for as ever.
        assert_eq!(granter.expire(&held(7), at_ms(3029)), None);
        assert!(granter.expire(&held(7), at_ms(3030)).is_some());
        assert_eq!(granter.confirm(noted, 4, Epoch(7), &held(7), at_ms(3031)), no);
    }

    #[test]
    fn a_kill_counts_only_if_renewals_were_refused_before_it() {
        let mut granter = told(leading(4, &held(7), 0));
        let of = granter.overdue(&held(7), at_ms(1500), PATIENCE).expect("nobody renewed it");
        assert!(!granter.killed(&of), "no order was given");
        assert_eq!(granter.expire(&held(7), at_ms(1600)), None);
    }

    #[test]
    fn a_holder_that_is_heard_of_again_is_not_killed() {
        let mut granter = told(leading(4, &held(7), 0));
        let of = granter.overdue(&held(7), at_ms(1500), PATIENCE).expect("nobody renewed it");
        assert_eq!(granter.confirm(4, 4, Epoch(7), &held(7), at_ms(1505)), Ok(()));
        assert!(!granter.refuse(&of, at_ms(1510), PATIENCE));
        // Nor is a container that it has left.
        granter.runs_in(Epoch(7), Some("c2".to_owned()));
        assert!(!granter.refuse(&of, at_ms(9000), PATIENCE));
    }

    #[test]
    fn a_kill_of_another_term_or_epoch_counts_for_nothing() {
        let mut granter = told(leading(4, &held(7), 0));
        let of = granter.overdue(&held(7), at_ms(1500), PATIENCE).expect("nobody renewed it");
        assert!(granter.refuse(&of, at_ms(1510), PATIENCE));
        // Deposed, leader again: between the two another leader may have confirmed a renewal.
        granter.observe(Some(6), &held(7), at_ms(1520));
        assert!(!granter.killed(&of));
        assert_eq!(granter.expire(&held(7), at_ms(1600)), None);
        assert_eq!(granter.overdue(&held(7), at_ms(4000), PATIENCE), None, "nothing is known yet");
        let mut granter = told(leading(4, &held(7), 0));
        assert!(granter.refuse(&of, at_ms(1510), PATIENCE));
        granter.observe(Some(4), &held(8), at_ms(1600));
        assert!(!granter.killed(&of));
        assert_eq!(granter.expire(&held(8), at_ms(2000)), None);
    }

    #[test]
    fn a_holder_in_no_container_is_waited_for() {
        let granter = leading(4, &held(7), 0);
        assert_eq!(granter.overdue(&held(7), at_ms(2500), PATIENCE), None);
    }

    #[test]
    fn the_granter_counts_the_slower_of_its_clocks() {
        let mut granter = leading(4, &held(7), 0);
        // Suspended: CLOCK_MONOTONIC_RAW stood still, so only 1 s is sure.
        let woken = ClockReading { boottime: BootNanos(60_000_000_000), ..at_ms(1000) };
        assert_eq!(granter.expire(&held(7), woken), None);
    }

    /// Runs holder and granter against each other at the extremes of drift: the holder's right has
    /// always ended, in true time, when the granter vacates.
    #[test]
    fn at_the_extremes_of_drift_the_right_has_ended_before_the_lease_is_vacated() {
        use crate::holder::Holder;
        for (holder_rate, granter_rate) in [(990, 1010), (1010, 990), (1000, 1000), (991, 1009)] {
            let on = |rate: u64, true_ms: u64| ClockReading {
                boottime: BootNanos(true_ms * rate * 1000),
                monotonic_raw: true_ms * rate * 1000,
            };
            let lease = held(7);
            let mut granter = Granter::new(Drift::DEFAULT);
            granter.observe(Some(4), &lease, on(granter_rate, 0));
            let mut holder = Holder::new(lease.grant().expect("held"), Drift::DEFAULT);
            assert!(holder.sending(1, on(holder_rate, 100)));
            // Confirmed at once, the fastest that can be.
            granter.confirm(4, 4, Epoch(7), &lease, on(granter_rate, 100)).expect("a leader");
            assert!(holder.confirmed(1));
            for true_ms in 100..4000 {
                let right = !holder.left(on(holder_rate, true_ms)).is_zero();
                let vacated = granter.clone().expire(&lease, on(granter_rate, true_ms)).is_some();
                assert!(!(right && vacated), "{holder_rate}, {granter_rate} at {true_ms} ms");
            }
        }
    }
}
