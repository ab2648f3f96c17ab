//! Which promotion the timeline of a node's WAL came from, as the node notes it.

use crate::epoch::Epoch;
use crate::timeline::TimelineId;

/// A node's note of where its timeline came from.
///
/// Numbers of timelines do not tell them apart (rule 57, [`crate::ancestry::doubtful_from`]); the epoch under which
/// one began does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The epoch under which the timeline began.
    pub epoch: Epoch,
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline that the WAL was on before, and the epoch of that one: known until the new one is on the disk.
    pub before: Option<(TimelineId, Epoch)>,
}

impl Origin {
    /// Returns what to note of a timeline that the node goes to from `from`, after what was noted last.
    #[must_use]
    pub fn after(last: Option<Self>, epoch: Epoch, timeline: TimelineId, from: TimelineId) -> Self {
        let known = last.filter(|_| from != timeline).and_then(|last| last.of(from));
        Self { epoch, timeline, before: known.map(|epoch| (from, epoch)) }
    }

    /// Returns the epoch under which a timeline that the WAL is on began, if that is noted.
    #[must_use]
    pub fn of(&self, timeline: TimelineId) -> Option<Epoch> {
        let now = (self.timeline, self.epoch);
        let mut known = [Some(now), self.before].into_iter().flatten();
        known.find(|(of, _)| *of == timeline).map(|(_, epoch)| epoch)
    }

    /// Returns the epoch of the timeline that the promotion under `epoch` ended, if that is noted.
    #[must_use]
    pub fn followed(&self, epoch: Epoch) -> Option<Epoch> {
        self.before.filter(|_| self.epoch == epoch).map(|(_, before)| before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_timeline_before_came_from_stays_known_until_the_new_one_is_on_disk() {
        let after = |last, epoch, to, from| {
            Some(Origin::after(last, Epoch(epoch), TimelineId(to), TimelineId(from)))
        };
        let of =
            |noted: Option<Origin>, timeline| noted?.of(TimelineId(timeline)).map(|epoch| epoch.0);
        let first = after(None, 2, 2, 1);
        assert_eq!((of(first, 1), of(first, 2)), (None, Some(2)));
        // A primary on timeline 3, of which nothing has arrived; then one on timeline 4.
        let noted = after(after(first, 4, 3, 2), 5, 4, 2);
        assert_eq!((of(noted, 2), of(noted, 3), of(noted, 4)), (Some(2), None, Some(5)));
        // All of it has arrived.
        let noted = after(noted, 5, 4, 4);
        assert_eq!((of(noted, 2), of(noted, 4)), (None, Some(5)));
        // A promotion that is tried again, also under another epoch.
        let noted = after(after(after(noted, 6, 5, 4), 6, 5, 4), 7, 5, 4);
        assert_eq!((of(noted, 4), of(noted, 5)), (Some(5), Some(7)));
        let last = noted.expect("just noted");
        assert_eq!(last.followed(Epoch(7)), Some(Epoch(5)));
        assert_eq!(last.followed(Epoch(6)), None, "another promotion is noted");
    }
}
