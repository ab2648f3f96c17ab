//! Who descends from whom: comparing a position with another node's timeline history.

use serde::{Deserialize, Serialize};

use crate::lsn::{Lsn, WalPosition};
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
/// compared too. Two branches with equal numbers *and* equal switches cannot be told apart here;
/// the recorded promotions of the replicated state are for that.
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
    let branch = |switches: &[TimelineSwitch], last: TimelineId, end: Lsn| {
        let mut all: Vec<TimelineSwitch> =
            switches.iter().copied().filter(|s| s.timeline < last).collect();
        all.push(TimelineSwitch { timeline: last, end });
        all
    };
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
}
