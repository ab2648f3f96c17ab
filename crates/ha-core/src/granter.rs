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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    term: u64,
    epoch: Epoch,
    renewed_at: ClockReading,
    vacating: bool,
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
    /// It has expired; a `Vacate` is on its way.
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
            other => *other = Some(Record { term, epoch, renewed_at: now, vacating: false }),
        }
    }

    /// Returns the term to note when a renewal arrives, before leadership is confirmed.
    ///
    /// # Errors
    /// [`RenewRefused::TermChanged`] if this node has not seen itself as leader.
    pub fn arrived(&self) -> Result<u64, RenewRefused> {
        self.record.map(|record| record.term).ok_or(RenewRefused::TermChanged)
    }

    /// Confirms a renewal, in one step, after a majority round that began after it arrived.
    ///
    /// `noted` is what [`Granter::arrived`] said, `confirmed` the term the majority confirmed,
    /// `lease` the applied lease read now, `now` the clock read now.
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
        if record.vacating {
            return Err(RenewRefused::Vacating);
        }
        record.renewed_at = now;
        Ok(())
    }

    /// Returns the expiry to act on, and refuses renewals of that epoch from here on.
    ///
    /// Returned again at each call until the lease changes or the term ends: a `Vacate` that failed is
    /// proposed again, always bound to the same term.
    pub fn expire(&mut self, lease: &Lease, now: ClockReading) -> Option<Expiry> {
        let grant = lease.grant()?;
        let record = self.record.as_mut().filter(|record| record.epoch == grant.epoch)?;
        let waited = now.shortest_since(record.renewed_at);
        if !record.vacating && waited < self.drift.lengthened(grant.ttl) {
            return None;
        }
        record.vacating = true;
        Some(Expiry { term: record.term, epoch: record.epoch })
    }

    /// Returns how long until the lease expires if nobody renews it; `None` if this node does not lead
    /// or the lease is vacant.
    #[must_use]
    pub fn left(&self, lease: &Lease, now: ClockReading) -> Option<Duration> {
        let grant = lease.grant()?;
        let record = self.record.filter(|record| record.epoch == grant.epoch)?;
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
        let expiry = Expiry { term: 4, epoch: Epoch(7) };
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
