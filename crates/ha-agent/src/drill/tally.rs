//! What became of the writes of a drill: counted, and the longest silence between two acknowledgements.

use std::collections::BTreeSet;
use std::time::Duration;

use ha_core::NodeId;
use ha_postgres::drill::Written;

/// After so long without an acknowledgement writes count as not going through.
pub const SILENCE: Duration = Duration::from_secs(1);

/// What became of the writes since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// The server said that they are committed.
    pub acknowledged: u64,
    /// They were not done.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Who acknowledged last.
    pub node: Option<NodeId>,
}

/// The writes of one drill. Moments are counted from when the measuring began.
#[derive(Debug, Default)]
pub struct Tally {
    acknowledged: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
    failed: u64,
    last: Option<Duration>,
    struck: Option<Duration>,
    gap: Option<(Duration, Duration)>,
    news: Counts,
}

/// What the rows that are there say of the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    /// Acknowledged, and not there.
    pub lost: u64,
    /// Of unknown fate, and there.
    pub surfaced: u64,
}

impl Tally {
    /// Notes what became of a row's write, and when that was known.
    pub fn note(&mut self, number: u64, at: Duration, what: &Written, node: &NodeId) {
        match what {
            Written::Acknowledged => {
                self.acknowledged.insert(number);
                self.news.acknowledged += 1;
                self.news.node = Some(node.clone());
                self.hear(at);
            }
            Written::Refused(_) => self.fail(),
            Written::Unknown(_) => {
                self.unknown.insert(number);
                self.news.unknown += 1;
            }
        }
    }

    /// Notes a try that did not get as far as a write.
    pub fn fail(&mut self) {
        self.failed += 1;
        self.news.failed += 1;
    }

    /// From here on the longest silence counts; one that lasts already counts from its beginning.
    pub fn strike(&mut self, at: Duration) {
        self.struck = Some(at);
    }

    fn hear(&mut self, at: Duration) {
        if let (Some(struck), Some(last)) = (self.struck, self.last)
            && at >= struck
        {
            self.widen(last, at);
        }
        self.last = Some(at);
    }

    fn widen(&mut self, from: Duration, to: Duration) {
        let longer = |(known_from, known_to): &(Duration, Duration)| {
            to.saturating_sub(from) > known_to.saturating_sub(*known_from)
        };
        if self.gap.as_ref().is_none_or(longer) {
            self.gap = Some((from, to));
        }
    }

    /// Returns how many were acknowledged, failed, and are of unknown fate.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        let count = |set: &BTreeSet<u64>| u64::try_from(set.len()).unwrap_or(u64::MAX);
        (count(&self.acknowledged), self.failed, count(&self.unknown))
    }

    /// Returns what is new since it was last asked.
    pub fn take_news(&mut self) -> Counts {
        std::mem::take(&mut self.news)
    }

    /// Returns whether writes go through at that moment.
    #[must_use]
    pub fn flows(&self, at: Duration) -> bool {
        self.last.is_some_and(|last| at.saturating_sub(last) < SILENCE)
    }

    /// Returns whether a write was acknowledged since the fault.
    #[must_use]
    pub fn heard_since_strike(&self) -> bool {
        self.struck.is_some_and(|struck| self.last.is_some_and(|last| last >= struck))
    }

    /// Returns the longest silence since the fault, from when to when; one that still lasts at `now` counts.
    #[must_use]
    pub fn gap(&self, now: Duration) -> Option<(Duration, Duration)> {
        self.struck?;
        let open = self.last.filter(|_| !self.flows(now)).map(|last| (last, now));
        let span = |(from, to): &(Duration, Duration)| to.saturating_sub(*from);
        self.gap.into_iter().chain(open).max_by_key(span)
    }

    /// Compares with the rows that are there.
    #[must_use]
    pub fn compare(&self, rows: &BTreeSet<u64>) -> Compared {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Compared {
            lost: count(self.acknowledged.difference(rows).count()),
            surfaced: count(self.unknown.intersection(rows).count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn acknowledged(tally: &mut Tally, moments: &[u64]) {
        let node: NodeId = "n1".parse().expect("a name");
        for at in moments {
            tally.note(*at, ms(*at), &Written::Acknowledged, &node);
        }
    }

    #[test]
    fn the_gap_is_the_longest_silence_from_the_last_acknowledgement_before_the_fault_on() {
        let mut tally = Tally::default();
        // A slow moment before the fault is not of the fault.
        acknowledged(&mut tally, &[0, 500, 520]);
        assert_eq!(tally.gap(ms(520)), None);
        tally.strike(ms(530));
        acknowledged(&mut tally, &[900, 920, 1000]);
        assert_eq!(tally.gap(ms(1000)), Some((ms(520), ms(900))));
        assert!(tally.heard_since_strike() && tally.flows(ms(1999)) && !tally.flows(ms(2000)));
    }

    #[test]
    fn a_silence_that_does_not_end_counts_as_far_as_it_was_seen() {
        let mut tally = Tally::default();
        acknowledged(&mut tally, &[0, 20]);
        tally.strike(ms(30));
        assert_eq!(tally.gap(ms(100)), None, "20 ms after the last one nobody knows yet");
        assert_eq!(tally.gap(ms(5020)), Some((ms(20), ms(5020))));
        assert!(!tally.heard_since_strike());
    }

    #[test]
    fn lost_is_what_was_acknowledged_and_is_not_there() {
        let node: NodeId = "n2".parse().expect("a name");
        let mut tally = Tally::default();
        acknowledged(&mut tally, &[1, 2, 3]);
        tally.note(4, ms(4), &Written::Unknown("lost".to_owned()), &node);
        tally.note(5, ms(5), &Written::Unknown("lost".to_owned()), &node);
        tally.note(6, ms(6), &Written::Refused("read-only".to_owned()), &node);
        tally.fail();
        assert_eq!(tally.totals(), (3, 2, 2));
        let compared = tally.compare(&BTreeSet::from([1, 3, 5]));
        assert_eq!(compared, Compared { lost: 1, surfaced: 1 });
        let news = tally.take_news();
        assert_eq!((news.acknowledged, news.failed, news.unknown), (3, 2, 2));
        assert_eq!(tally.take_news(), Counts::default());
    }
}
