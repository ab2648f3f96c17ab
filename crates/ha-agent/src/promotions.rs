//! A note of which promotion the timeline here came from, so that two of one number can be told apart:
//! this node's own, or that of the primary it was found to follow.
//!
//! Rule 57: a node that promoted itself and died before the cluster recorded it may find, when it
//! comes back, that another node was promoted to a timeline of the same number, from the same
//! position. Nothing in PostgreSQL's files tells the two apart.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use ha_core::state::State;
use ha_core::{Epoch, TimelineId};

const FILE: &str = "promotion";
const HEADER: &str = "haclt promotion 1";

/// Notes that timeline `to` is the one that began under `epoch`.
///
/// # Errors
/// If the note cannot be written and synced.
pub fn note(dir: &Path, epoch: Epoch, to: TimelineId) -> io::Result<()> {
    let temporary = dir.join("promotion.new");
    let mut file = fs::File::create(&temporary)?;
    writeln!(file, "{HEADER}\n{epoch} {to}")?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FILE))?;
    fs::File::open(dir)?.sync_all()
}

/// Returns whether `timeline`, as it is here, began under an epoch that the cluster does not know as its
/// origin, although it knows another one.
#[must_use]
pub fn is_unrecorded(dir: &Path, timeline: TimelineId, state: &State) -> bool {
    let Some((epoch, to)) = read(dir) else { return false };
    let recorded = state.history.iter().rev().find(|p| p.begin.timeline == timeline);
    to == timeline && recorded.is_some_and(|promotion| promotion.epoch != epoch)
}

fn read(dir: &Path) -> Option<(Epoch, TimelineId)> {
    let text = fs::read_to_string(dir.join(FILE)).ok()?;
    let line = text.strip_prefix(HEADER)?.trim();
    let (epoch, timeline) = line.split_once(' ')?;
    Some((Epoch(epoch.parse().ok()?), TimelineId(timeline.parse().ok()?)))
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
                at_unix_ms: 0,
            }],
            ..State::default()
        };
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &recorded(6)), "nothing noted");
        note(dir.path(), Epoch(5), TimelineId(3)).expect("a writable directory");
        assert!(is_unrecorded(dir.path(), TimelineId(3), &recorded(6)));
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &recorded(5)), "ours");
        assert!(!is_unrecorded(dir.path(), TimelineId(2), &recorded(6)), "an older timeline");
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &State::default()), "nobody else's");
        // What is followed now came from the later promotion.
        note(dir.path(), Epoch(6), TimelineId(3)).expect("a writable directory");
        assert!(!is_unrecorded(dir.path(), TimelineId(3), &recorded(6)));
    }
}
