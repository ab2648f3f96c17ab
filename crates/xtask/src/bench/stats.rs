//! Numbers made of what the clients saw. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

/// Which client an acknowledgement went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The application: may go to either node.
    App,
    /// A client next to the old primary, which knows no other.
    Pinned,
}

/// One acknowledged insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The value inserted; no other insert has it.
    pub(crate) value: i64,
    /// Index of the node that acknowledged.
    pub(crate) node: usize,
    /// Who was told.
    pub(crate) client: Client,
    /// When the insert was sent, on `CLOCK_MONOTONIC`, counted from the start of the bench.
    pub(crate) sent: Duration,
    /// When the acknowledgement was there.
    pub(crate) at: Duration,
}

/// One insert that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// Index of the node that did not answer.
    pub(crate) node: usize,
    /// When it was sent.
    pub(crate) sent: Duration,
    /// When the client gave it up.
    pub(crate) at: Duration,
}

/// Minimum, median and maximum of some measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Returns the three numbers as a table shows them.
    pub(crate) fn shown(&self) -> String {
        format!("{:.0} / {:.0} / {:.0}", self.min, self.median, self.max)
    }
}

/// Returns the spread; `None` if nothing was measured.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    };
    Some(Spread { min, median, max })
}

/// Returns the longest time between two acknowledgements to the application that follow each other,
/// among those that end at `from` or later and begin at `to` or earlier.
pub(crate) fn longest_gap(acks: &[Ack], from: Duration, to: Duration) -> Option<Duration> {
    let mut times: Vec<Duration> =
        acks.iter().filter(|ack| ack.client == Client::App).map(|ack| ack.at).collect();
    times.sort_unstable();
    times
        .windows(2)
        .filter(|pair| pair[1] >= from && pair[0] <= to)
        .map(|pair| pair[1].saturating_sub(pair[0]))
        .max()
}

/// Returns by how much the first acknowledgement of another node came after the last one of `old`,
/// in milliseconds. Negative: both acknowledged at the same time. `None`: no other node did.
pub(crate) fn margin_ms(acks: &[Ack], old: usize) -> Option<f64> {
    let last_old = acks.iter().filter(|ack| ack.node == old).map(|ack| ack.at).max()?;
    let first_other = acks.iter().filter(|ack| ack.node != old).map(|ack| ack.at).min()?;
    let milliseconds = |from, to: Duration| to.saturating_sub(from).as_secs_f64() * 1000.0;
    Some(milliseconds(last_old, first_other) - milliseconds(first_other, last_old))
}

/// Returns how many inserts `old` acknowledged that it was sent after another node had begun to
/// acknowledge: two primaries.
///
/// A node that stood still may say late of an insert from before that it was acknowledged in time: that
/// is no second primary, and the row must be there all the same.
pub(crate) fn overlaps(acks: &[Ack], old: usize) -> usize {
    let other = acks.iter().filter(|ack| ack.node != old).map(|ack| ack.at).min();
    let late = |ack: &&Ack| ack.node == old && other.is_some_and(|other| ack.sent > other);
    acks.iter().filter(late).count()
}

/// Returns how long the slowest insert on a node took among those under way from `from` to `to`. One
/// that got no answer counts as long as the client waited.
pub(crate) fn slowest(
    acks: &[Ack],
    unanswered: &[Unanswered],
    node: usize,
    from: Duration,
    to: Duration,
) -> Option<Duration> {
    let answered = acks.iter().map(|ack| (ack.node, ack.sent, ack.at));
    answered
        .chain(unanswered.iter().map(|lost| (lost.node, lost.sent, lost.at)))
        .filter(|(on, sent, at)| *on == node && *sent <= to && *at >= from)
        .map(|(_, sent, at)| at.saturating_sub(sent))
        .max()
}

/// Returns how many values that a client was told of are not there, by client.
pub(crate) fn lost(acks: &[Ack], present: &BTreeSet<i64>, client: Client) -> usize {
    acks.iter().filter(|ack| ack.client == client && !present.contains(&ack.value)).count()
}

/// Returns how many acknowledgements a client got.
pub(crate) fn count(acks: &[Ack], client: Client) -> usize {
    acks.iter().filter(|ack| ack.client == client).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(value: i64, node: usize, client: Client, ms: u64) -> Ack {
        let at = Duration::from_millis(ms);
        Ack { value, node, client, sent: at, at }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(spread([]), None);
        assert_eq!(spread([3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(spread([4.0, 1.0, 2.0, 9.0]).map(|s| s.median), Some(3.0));
    }

    #[test]
    fn the_gap_is_the_applications_and_spans_both_nodes() {
        let acks = [
            ack(1, 0, Client::App, 0),
            ack(2, 0, Client::App, 20),
            ack(3, 0, Client::Pinned, 500),
            ack(4, 1, Client::App, 1020),
            ack(5, 1, Client::App, 1040),
        ];
        let at = Duration::from_millis;
        assert_eq!(longest_gap(&acks, at(0), at(9999)), Some(at(1000)));
        assert_eq!(longest_gap(&acks, at(0), at(10)), Some(at(20)));
        assert_eq!(longest_gap(&acks, at(1030), at(9999)), Some(at(20)));
        assert_eq!(longest_gap(&acks[..1], at(0), at(9999)), None);
    }

    #[test]
    fn the_margin_counts_every_client_of_the_old_node() {
        let acks = [
            ack(1, 0, Client::App, 0),
            ack(2, 0, Client::Pinned, 900),
            ack(3, 1, Client::App, 1000),
        ];
        assert_eq!(margin_ms(&acks, 0), Some(100.0));
        let overlapping = [acks[0], acks[2], ack(4, 0, Client::Pinned, 1200)];
        assert_eq!(margin_ms(&overlapping, 0), Some(-200.0));
        assert_eq!(margin_ms(&acks[..2], 0), None);
    }

    #[test]
    fn a_second_primary_is_told_from_a_late_answer_by_when_the_insert_was_sent() {
        let new = ack(2, 1, Client::App, 1000);
        let late = |sent: u64| {
            let ack = ack(1, 0, Client::Pinned, 5000);
            Ack { sent: Duration::from_millis(sent), ..ack }
        };
        assert_eq!(overlaps(&[new, late(900)], 0), 0);
        assert_eq!(overlaps(&[new, late(1100)], 0), 1);
        assert_eq!(overlaps(&[late(1100)], 0), 0);
    }

    #[test]
    fn the_slowest_insert_is_one_under_way_answered_or_not() {
        let ms = Duration::from_millis;
        let slow = Ack { sent: ms(100), ..ack(1, 0, Client::App, 400) };
        let lost = Unanswered { node: 0, sent: ms(1000), at: ms(3000) };
        let at = |from, to| slowest(&[slow], &[lost], 0, ms(from), ms(to));
        assert_eq!(at(300, 900), Some(ms(300)));
        assert_eq!(at(500, 900), None);
        assert_eq!(at(500, 1500), Some(ms(2000)));
    }

    #[test]
    fn what_is_missing_is_counted_by_client() {
        let acks = [ack(1, 0, Client::App, 0), ack(2, 0, Client::Pinned, 1)];
        let present = BTreeSet::from([1]);
        assert_eq!(lost(&acks, &present, Client::App), 0);
        assert_eq!(lost(&acks, &present, Client::Pinned), 1);
    }
}
