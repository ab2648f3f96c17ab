//! A note of which promotion the timeline here came from, so that two of one number can be told apart:
//! this node's own, or that of the primary it was found to follow.
//!
//! Rule 57: a node that promoted itself and died before the cluster recorded it may find, when it
//! comes back, that another node was promoted to a timeline of the same number, from the same
//! position. Nothing in PostgreSQL's files tells the two apart.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use ha_core::origin::Origin;
use ha_core::state::State;
use ha_core::{Epoch, TimelineId};

const FILE: &str = "promotion";
const HEADER: &str = "haclt promotion 1";

/// Notes that timeline `to`, which this node goes to from `from`, is the one that began under `epoch`.
///
/// # Errors
/// If the note cannot be written and synced.
pub fn note(dir: &Path, epoch: Epoch, to: TimelineId, from: TimelineId) -> io::Result<()> {
    let noted = Origin::after(read(dir), epoch, to, from);
    let temporary = dir.join("promotion.new");
    let mut file = fs::File::create(&temporary)?;
    writeln!(file, "{HEADER}\n{epoch} {to}")?;
    if let Some((from, origin)) = noted.before {
        writeln!(file, "{origin} {from}")?;
    }
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FILE))?;
    fs::File::open(dir)?.sync_all()
}

/// Returns whether `timeline`, as it is here, began under an epoch that the cluster does not know as its
/// origin, although it knows another one.
#[must_use]
pub fn is_unrecorded(dir: &Path, timeline: TimelineId, state: &State) -> bool {
    let Some(Origin { epoch, timeline: to, .. }) = read(dir) else { return false };
    let recorded = state.history.iter().rev().find(|p| p.begin.timeline == timeline);
    to == timeline && recorded.is_some_and(|promotion| promotion.epoch != epoch)
}

/// Returns the epoch under which `timeline`, as it is here, began, if that is noted.
#[must_use]
pub fn origin(dir: &Path, timeline: TimelineId) -> Option<Epoch> {
    read(dir)?.of(timeline)
}

/// Returns the promotion that the timeline came from which the promotion under `epoch` ended, if that is noted.
#[must_use]
pub fn followed(dir: &Path, epoch: Epoch) -> Option<Epoch> {
    read(dir)?.followed(epoch)
}

fn read(dir: &Path) -> Option<Origin> {
    let text = fs::read_to_string(dir.join(FILE)).ok()?;
    let mut lines = text.strip_prefix(HEADER)?.trim().lines();
    let mut next = || {
        let (epoch, timeline) = lines.next()?.split_once(' ')?;
        Some((TimelineId(timeline.parse().ok()?), Epoch(epoch.parse().ok()?)))
    };
    let (timeline, epoch) = next()?;
    Some(Origin { epoch, timeline, before: next() })
}

#[cfg(test)]
mod tests {
    use ha_core::state::Promotion;
    use ha_core::{Lsn, WalPosition};

    use super::*;

    #[test]
    fn a_promotion_that_another_one_overtook_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let begin = WalPosition { timeline: TimelineId(3), lsn: Lsn(100) };
        let recorded = |epoch| State {
            history: vec![Promotion {
                epoch: Epoch(epoch),
                holder: "n2".parse().expect("a valid name"),
                begin,
                follows: None,
                at_unix_ms: 0,
            }],
            ..State::default()
        };
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &recorded(6)), "nothing noted");
        note(dir.path(), Epoch(5), TimelineId(3), TimelineId(2)).expect("a writable directory");
        assert!(is_unrecorded(dir.path(), TimelineId(3), &recorded(6)));
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &recorded(5)), "ours");
        assert!(!is_unrecorded(dir.path(), TimelineId(2), &recorded(6)), "an older timeline");
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &State::default()), "nobody else's");
        // What is followed now came from the later promotion.
        note(dir.path(), Epoch(6), TimelineId(3), TimelineId(3)).expect("a writable directory");
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &recorded(6)));
    }

    #[test]
    fn what_is_noted_is_what_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let note = |epoch, to, from| {
            note(dir, Epoch(epoch), TimelineId(to), TimelineId(from))
                .expect("a writable directory");
        };
        assert_eq!(origin(dir, TimelineId(2)), None, "nothing is noted");
        note(2, 2, 1);
        assert_eq!(origin(dir, TimelineId(2)), Some(Epoch(2)));
        note(5, 4, 2);
        assert_eq!(origin(dir, TimelineId(2)), Some(Epoch(2)));
        assert_eq!(origin(dir, TimelineId(4)), Some(Epoch(5)));
        assert_eq!(followed(dir, Epoch(5)), Some(Epoch(2)));
    }
}
