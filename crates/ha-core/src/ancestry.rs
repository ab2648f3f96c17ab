//! Who descends from whom: comparing a position with another node's timeline history.

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::lsn::{Lsn, WalPosition};
use crate::state::Promotion;
use crate::timeline::TimelineId;

/// One line of a timeline history file: `timeline` ended at `end`, where the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The timeline that ended.
    pub timeline: TimelineId,
    /// Where it ended.
    pub end: Lsn,
}

/// How a node's WAL relates to the history of the server it should follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Everything the node has is part of that history: it can stream.
    Ancestor,
    /// The node has WAL past `fork` that the history lacks.
    Diverged {
        /// The last position both share, on the node's branch.
        fork: WalPosition,
    },
    /// The histories share nothing that could be found: only a new clone helps.
    Unrelated,
}

/// Compares a node's end of WAL with the history of the server it should follow.
///
/// `local_end` is the node's real end of WAL (after crash recovery, or received and flushed);
/// `local_history` and `history` are the parsed history files, oldest switch first, of the node and
/// of the server; `timeline` and `flushed` are where the server is now.
///
/// Equal timeline numbers are not taken as proof (rule 57): the switches that led to them are
/// compared too. Two branches with equal numbers *and* equal switches cannot be told apart here:
/// see [`doubtful_from`].
///
/// # Sources
/// PostgreSQL, `pg_rewind.c: findCommonAncestorTimeline` compares entries from the oldest, by number
/// and begin; the last common one ends at the smaller of the two ends.
#[must_use]
pub fn compare(
    local_end: WalPosition,
    local_history: &[TimelineSwitch],
    timeline: TimelineId,
    history: &[TimelineSwitch],
    flushed: Lsn,
) -> Relation {
    let ours = branch(local_history, local_end.timeline, local_end.lsn);
    let theirs = branch(history, timeline, flushed);
    let mut shared = None;
    for (our, their) in ours.iter().zip(&theirs) {
        if our.timeline != their.timeline {
            break;
        }
        let end = our.end.min(their.end);
        shared = Some((*our, *their, WalPosition { timeline: our.timeline, lsn: end }));
        if our.end != their.end {
            break;
        }
    }
    let Some((our, their, fork)) = shared else { return Relation::Unrelated };
    let ours_ends_here = our.timeline == local_end.timeline;
    let theirs_ends_here = their.timeline == timeline;
    // The node's branch ends inside the shared part, or the server has simply not flushed (or not
    // told us of) what the node already received from it.
    if ours_ends_here && (our.end <= their.end || theirs_ends_here) {
        Relation::Ancestor
    } else {
        Relation::Diverged { fork }
    }
}

/// Each timeline of a history up to `last`, and where it ends.
fn branch(switches: &[TimelineSwitch], last: TimelineId, end: Lsn) -> Vec<TimelineSwitch> {
    let mut all: Vec<TimelineSwitch> =
        switches.iter().copied().filter(|s| s.timeline < last).collect();
    all.push(TimelineSwitch { timeline: last, end });
    all
}

/// A history as its files tell it, and the promotion that its last timeline began with.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// How it came there, oldest first.
    pub switches: &'a [TimelineSwitch],
    /// Under which epoch that timeline began, if anybody noted it.
    pub origin: Option<Epoch>,
}

/// Returns from where on two histories may differ although their files say that they are the same, if there is such a
/// place: there a timeline begins that has one number and one beginning in both, two promotions of that number
/// from that place are recorded, and it is not known that both histories went through the same one of them.
///
/// PostgreSQL numbers a timeline after the newest that the promoted node has heard of. So a number is taken twice if
/// nobody received anything of the first promotion, or if a node that was away for it is promoted all the same (where
/// acknowledged commits may be lost). Both twins begin where their common parent ended, so a history that goes
/// *through* one of them to a later timeline looks as if it had gone through the other one, and a rewind would begin
/// behind the true fork. What tells them apart is which promotion followed which ([`Promotion::follows`]); where
/// that is unknown, the two count as different: a clone too many is slow, a rewind too short is a damaged database.
#[must_use]
pub fn doubtful_from(
    ours: Line<'_>,
    theirs: Line<'_>,
    promotions: &[Promotion],
) -> Option<WalPosition> {
    shared_begins(ours, theirs).into_iter().find(|begin| {
        let twins: Vec<Epoch> =
            promotions.iter().filter(|p| p.begin == *begin).map(|p| p.epoch).collect();
        let through =
            |line: Line<'_>| ancestors(line.origin, promotions).find(|epoch| twins.contains(epoch));
        twins.len() > 1 && (through(ours).is_none() || through(ours) != through(theirs))
    })
}

/// Where the timelines begin that both have, as far as their numbers and switches agree. The very first
/// timeline began with no promotion.
fn shared_begins(ours: Line<'_>, theirs: Line<'_>) -> Vec<WalPosition> {
    // Where the last timeline ends is not asked.
    let ours = branch(ours.switches, ours.timeline, Lsn(u64::MAX));
    let theirs = branch(theirs.switches, theirs.timeline, Lsn(u64::MAX));
    let mut begins = Vec::new();
    let mut begin = None;
    for (our, their) in ours.iter().zip(&theirs) {
        if our.timeline != their.timeline {
            break;
        }
        begins.extend(begin.map(|lsn| WalPosition { timeline: our.timeline, lsn }));
        if our.end != their.end {
            break;
        }
        begin = Some(our.end);
    }
    begins
}

/// A promotion and those before it on its line, newest first, as far as they are recorded.
fn ancestors(origin: Option<Epoch>, promotions: &[Promotion]) -> impl Iterator<Item = Epoch> {
    std::iter::successors(origin, |epoch| {
        let promotion = promotions.iter().find(|p| p.epoch == *epoch)?;
        promotion.follows.filter(|before| before < epoch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) }
    }

    fn switches(list: &[(u32, u64)]) -> Vec<TimelineSwitch> {
        list.iter()
            .map(|(t, end)| TimelineSwitch { timeline: TimelineId(*t), end: Lsn(*end) })
            .collect()
    }

    #[test]
    fn a_node_may_follow_exactly_when_its_wal_is_part_of_the_history() {
        let diverged = |t, lsn| Relation::Diverged { fork: at(t, lsn) };
        #[rustfmt::skip]
        let table = [
            // local end,  local history,        server's timeline, history, flushed,       relation
            (at(1, 100), vec![],                 1, vec![],                  100, Relation::Ancestor),
            (at(1, 100), vec![],                 1, vec![],                  90,  Relation::Ancestor),
            (at(1, 100), vec![],                 2, vec![(1, 100)],          150, Relation::Ancestor),
            (at(1, 99),  vec![],                 2, vec![(1, 100)],          150, Relation::Ancestor),
            (at(1, 101), vec![],                 2, vec![(1, 100)],          150, diverged(1, 100)),
            (at(2, 120), vec![(1, 100)],         2, vec![(1, 100)],          150, Relation::Ancestor),
            // Same number, other branch: it began elsewhere.
            (at(2, 120), vec![(1, 90)],          2, vec![(1, 100)],          150, diverged(1, 90)),
            (at(2, 120), vec![(1, 110)],         2, vec![(1, 100)],          150, diverged(1, 100)),
            // Behind by two promotions.
            (at(1, 100), vec![],                 3, vec![(1, 100), (2, 200)], 250, Relation::Ancestor),
            (at(1, 130), vec![],                 3, vec![(1, 100), (2, 200)], 250, diverged(1, 100)),
            (at(2, 230), vec![(1, 100)],         3, vec![(1, 100), (2, 200)], 250, diverged(2, 200)),
            // Ahead: promoted by itself, the server never was on that timeline.
            (at(2, 120), vec![(1, 100)],         1, vec![],                  150, diverged(1, 100)),
            // Timeline 2 was never ours: 1 → 3 on the server.
            (at(2, 120), vec![(1, 100)],         3, vec![(1, 110)],          150, diverged(1, 100)),
            (at(2, 120), vec![],                 3, vec![(1, 110)],          150, Relation::Unrelated),
        ];
        for (end, local, timeline, history, flushed, expected) in table {
            let got = compare(
                end,
                &switches(&local),
                TimelineId(timeline),
                &switches(&history),
                Lsn(flushed),
            );
            assert_eq!(got, expected, "{end}, {local:?} against {timeline}, {history:?}");
        }
    }

    fn promotion(epoch: u64, timeline: u32, lsn: u64, follows: Option<u64>) -> Promotion {
        let holder = "n1".parse().expect("a valid name");
        let follows = follows.map(Epoch);
        Promotion { epoch: Epoch(epoch), holder, begin: at(timeline, lsn), follows, at_unix_ms: 0 }
    }

    /// Timeline 2 began twice at 100: under epoch 2, and later under epoch 4 on a node that was away.
    fn twice(follows: [Option<u64>; 4]) -> Vec<Promotion> {
        let [second, third, twin, fourth] = follows;
        vec![
            promotion(2, 2, 100, second),
            promotion(3, 3, 200, third),
            promotion(4, 2, 100, twin),
            promotion(5, 3, 200, fourth),
        ]
    }

    #[test]
    fn histories_that_went_through_different_timelines_of_one_number_are_told_apart() {
        let known = twice([Some(1), Some(2), Some(1), Some(4)]);
        let silent = twice([None, None, None, None]);
        let through = switches(&[(1, 100), (2, 200)]);
        let early = switches(&[(1, 90), (2, 200)]);
        let on = |timeline, switches, origin: Option<u64>| Line {
            timeline: TimelineId(timeline),
            switches,
            origin: origin.map(Epoch),
        };
        let third = |origin| on(3, through.as_slice(), origin);
        #[rustfmt::skip]
        let table = [
            // ours,                     theirs,           promotions, twins?
            // The same line, and who is which is known.
            (third(Some(3)),             third(Some(3)),   &known,     false),
            (third(Some(5)),             third(Some(5)),   &known,     false),
            (on(2, &through, Some(4)),   third(Some(5)),   &known,     false),
            // All the files agree, and still.
            (third(Some(3)),             third(Some(5)),   &known,     true),
            (on(2, &through, Some(2)),   third(Some(5)),   &known,     true),
            // Not known which.
            (third(None),                third(Some(5)),   &known,     true),
            (third(Some(3)),             third(None),      &known,     true),
            (third(Some(5)),             third(Some(5)),   &silent,    true),
            // What they share is older than the two.
            (on(1, &[], None),           third(Some(5)),   &known,     false),
            (on(3, &early, None),        third(Some(5)),   &known,     false),
        ];
        for (ours, theirs, promotions, expected) in table {
            let expected = expected.then_some(at(2, 100));
            let got = doubtful_from(ours, theirs, promotions);
            assert_eq!(got, expected, "{ours:?} against {theirs:?}");
        }
    }

    #[test]
    fn where_no_number_was_taken_twice_nothing_is_in_doubt() {
        let promotions = [
            promotion(2, 2, 100, None),
            promotion(3, 3, 200, None),
            // The same number from another place: their switches tell these apart.
            promotion(4, 2, 90, None),
        ];
        let through = switches(&[(1, 100), (2, 200)]);
        let line = Line { timeline: TimelineId(3), switches: &through, origin: None };
        assert_eq!(doubtful_from(line, line, &promotions), None);
    }

    #[test]
    fn a_record_that_names_itself_as_its_own_ancestor_ends_the_line() {
        let promotions = [promotion(4, 2, 100, Some(4)), promotion(5, 2, 100, Some(9))];
        let through = switches(&[(1, 100)]);
        let line = |origin| Line {
            timeline: TimelineId(2),
            switches: &through,
            origin: Some(Epoch(origin)),
        };
        assert_eq!(doubtful_from(line(4), line(4), &promotions), None);
        assert_eq!(doubtful_from(line(4), line(5), &promotions), Some(at(2, 100)));
        assert_eq!(doubtful_from(line(9), line(4), &promotions), Some(at(2, 100)));
    }
}
