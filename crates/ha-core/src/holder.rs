//! The holder's side of the lease: how long may I be primary?
//!
//! Every sentence of `DESIGN.md` §5 that this file holds is a counterexample in the model when it is
//! read more loosely; the tests are named after those mistakes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{BootNanos, ClockReading};
use crate::epoch::Epoch;
use crate::lease::{Drift, Grant};

/// How many unanswered renewals are remembered. Older ones can no longer extend the right by much.
const PENDING_MAX: usize = 16;

/// One grant, as its holder counts it.
///
/// Dropped and made anew for each epoch: nothing of one grant ever counts for another.
#[derive(Debug, Clone)]
pub struct Holder {
    epoch: Epoch,
    right: Duration,
    /// When each unanswered renewal was about to be sent, by request id.
    pending: BTreeMap<u64, ClockReading>,
    /// When the latest confirmed renewal was about to be sent.
    proven: Option<ClockReading>,
    burnt: bool,
}

impl Holder {
    /// Starts counting a grant. There is no right before the first confirmed renewal under it.
    #[must_use]
    pub fn new(grant: &Grant, drift: Drift) -> Self {
        Self {
            epoch: grant.epoch,
            right: drift.shortened(grant.ttl),
            pending: BTreeMap::new(),
            proven: None,
            burnt: false,
        }
    }

    /// Returns the grant's epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Notes that the renewal `id` is *about to be* sent. Call before anything of it leaves.
    ///
    /// Returns whether it may be sent at all: not once the epoch is burnt. Ids must never be reused
    /// within one agent start.
    #[must_use]
    pub fn sending(&mut self, id: u64, now: ClockReading) -> bool {
        if self.burnt {
            return false;
        }
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_first();
        }
        self.pending.insert(id, now);
        true
    }

    /// Notes a "yes" to the renewal `id`. Returns whether it extended the right.
    ///
    /// Unknown ids, answers that come twice, and anything after [`Holder::burn`] change nothing.
    pub fn confirmed(&mut self, id: u64) -> bool {
        let Some(sent_at) = self.pending.remove(&id) else { return false };
        let newer = self.proven.is_none_or(|proven| sent_at.boottime > proven.boottime);
        if self.burnt || !newer {
            return false;
        }
        self.proven = Some(sent_at);
        true
    }

    /// Gives the epoch up for good: no renewal, no late answer counts again.
    pub fn burn(&mut self) {
        self.burnt = true;
        self.proven = None;
        self.pending.clear();
    }

    /// Returns whether a renewal was ever confirmed under this grant.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        self.proven.is_some()
    }

    /// Returns whether the latest confirmed renewal was sent after `moment`.
    ///
    /// A server that first ran after its predecessor's container was killed from outside must not live on
    /// what was confirmed before the kill.
    #[must_use]
    pub fn is_proven_since(&self, moment: BootNanos) -> bool {
        self.proven.is_some_and(|sent| sent.boottime > moment)
    }

    /// Returns how much of the right is left; zero if it ended, was never proven, or is burnt.
    #[must_use]
    pub fn left(&self, now: ClockReading) -> Duration {
        self.proven
            .map_or(Duration::ZERO, |sent| self.right.saturating_sub(now.longest_since(sent)))
    }

    /// Returns when the right ends on this boot's `CLOCK_BOOTTIME`, for the permit.
    ///
    /// `None` if nothing is left.
    #[must_use]
    pub fn deadline(&self, now: ClockReading) -> Option<BootNanos> {
        let left = self.left(now);
        (!left.is_zero()).then(|| now.boottime.after(left))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::epoch::Incarnation;

    #[test]
    fn what_was_sent_before_a_moment_is_no_proof_after_it() {
        let mut holder = holder();
        assert!(!holder.is_proven_since(at_ms(0).boottime));
        assert!(holder.sending(1, at_ms(100)));
        assert!(holder.sending(2, at_ms(300)));
        assert!(holder.confirmed(1));
        assert!(holder.is_proven_since(at_ms(99).boottime));
        assert!(!holder.is_proven_since(at_ms(100).boottime));
        assert!(holder.confirmed(2));
        assert!(holder.is_proven_since(at_ms(200).boottime));
        holder.burn();
        assert!(!holder.is_proven_since(at_ms(0).boottime));
    }

    fn holder() -> Holder {
        let grant = Grant {
            holder: "n1".parse().expect("a valid name"),
            incarnation: Incarnation(1),
            epoch: Epoch(7),
            ttl: Duration::from_secs(3),
            catch_up: None,
        };
        Holder::new(&grant, Drift::DEFAULT)
    }

    const fn at_ms(ms: u64) -> ClockReading {
        ClockReading { boottime: BootNanos(ms * 1_000_000), monotonic_raw: ms * 1_000_000 }
    }

    #[test]
    fn a_grant_alone_gives_no_right() {
        assert_eq!(holder().left(at_ms(0)), Duration::ZERO);
        assert_eq!(holder().deadline(at_ms(0)), None);
    }

    #[test]
    fn the_right_counts_from_before_sending_not_from_the_answer() {
        let mut holder = holder();
        assert!(holder.sending(1, at_ms(1000)));
        assert!(holder.confirmed(1)); // however late: the time of the answer is not even asked for
        assert_eq!(holder.left(at_ms(2000)), Duration::from_millis(1970));
        assert_eq!(holder.deadline(at_ms(2000)), Some(BootNanos(3_970_000_000)));
        assert_eq!(holder.left(at_ms(3970)), Duration::ZERO);
        assert_eq!(holder.deadline(at_ms(9000)), None);
    }

    #[test]
    fn an_answer_counts_for_its_own_request_only() {
        let mut holder = holder();
        assert!(holder.sending(1, at_ms(1000)));
        assert!(holder.sending(2, at_ms(2000)));
        assert!(holder.confirmed(1));
        assert_eq!(holder.left(at_ms(2000)), Duration::from_millis(1970));
        assert!(!holder.confirmed(1), "twice");
        assert!(!holder.confirmed(99), "never sent");
        assert_eq!(holder.left(at_ms(2000)), Duration::from_millis(1970));
    }

    #[test]
    fn answers_out_of_order_never_shorten_the_right() {
        let mut holder = holder();
        assert!(holder.sending(1, at_ms(1000)));
        assert!(holder.sending(2, at_ms(2000)));
        assert!(holder.confirmed(2));
        assert!(!holder.confirmed(1));
        assert_eq!(holder.left(at_ms(2000)), Duration::from_millis(2970));
    }

    #[test]
    fn a_burnt_epoch_is_never_renewed_and_late_answers_are_ignored() {
        let mut holder = holder();
        assert!(holder.sending(1, at_ms(1000)));
        assert!(holder.sending(2, at_ms(1100)));
        assert!(holder.confirmed(1));
        holder.burn();
        assert!(!holder.confirmed(2));
        assert!(!holder.sending(3, at_ms(1200)));
        assert_eq!(holder.left(at_ms(1200)), Duration::ZERO);
    }

    #[test]
    fn time_in_suspend_counts() {
        let mut holder = holder();
        assert!(holder.sending(1, at_ms(1000)));
        assert!(holder.confirmed(1));
        // Only CLOCK_BOOTTIME went on.
        let woken = ClockReading { boottime: BootNanos(5_000_000_000), ..at_ms(1001) };
        assert_eq!(holder.left(woken), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn the_right_never_outlives_the_newest_confirmed_sending(
            events in prop::collection::vec((0_u8..3, 0_u64..8, 0_u64..500), 0..60),
        ) {
            let mut holder = holder();
            let (mut now, mut next, mut sent, mut newest) = (0, 0, BTreeMap::new(), None::<u64>);
            for (what, pick, wait) in events {
                now += wait;
                if what == 0 {
                    next += 1;
                    prop_assert!(holder.sending(next, at_ms(now)));
                    sent.insert(next, now);
                } else if let Some(id) = next.checked_sub(pick).filter(|id| *id > 0)
                    && holder.confirmed(id)
                {
                    newest = newest.max(Some(sent[&id]));
                }
                let right = newest.map_or(0, |s| (s + 2970).saturating_sub(now));
                prop_assert_eq!(holder.left(at_ms(now)), Duration::from_millis(right));
            }
        }
    }
}
