//! The end of WAL of a stopped data directory, found by a reader of our own.

use std::collections::BTreeSet;
use std::path::Path;

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId, WalPosition};

use super::Instance;
use crate::attempt::Attempt;
use crate::control_file::ControlData;
use crate::driver::ActionError;
use crate::wal::WalError;
use crate::wal::files::{list, read_history, tip_of_server};

impl Instance {
    /// Follows the WAL from the latest checkpoint's REDO to the end of its last whole record.
    ///
    /// The control file may be behind: a standby's WAL, and that of a primary promoted after its
    /// latest checkpoint, goes on on newer timelines. Whether it does is told by the segments that
    /// are there: recovery, too, takes a segment of the newer timeline if it finds one.
    pub(super) async fn find_end_of_wal(
        &self,
        attempt: &Attempt,
    ) -> Result<WalPosition, ActionError> {
        let control = self.read_control(attempt).await?;
        let wal_dir = self.layout.wal_dir();
        let found = self.reading(attempt, move || end_of(&wal_dir, &control)).await?;
        found.map_err(|why| attempt.cannot(why))
    }
}

fn end_of(wal_dir: &Path, control: &ControlData) -> Result<WalPosition, String> {
    let redo = control.redo;
    let (timeline, history) = branch(wal_dir, control)?;
    let tip = tip_of_server(wal_dir, timeline, &history, redo, Lsn::ZERO)
        .map_err(|error| error.to_string())?;
    let end = tip.end;
    if end.lsn <= redo {
        return Err(format!("no WAL record at {redo}"));
    }
    // A timeline of which there is no record yet does not count.
    let begun = tip.history.last().filter(|switch| switch.end >= end.lsn);
    Ok(begun.map_or(end, |switch| WalPosition { timeline: switch.timeline, lsn: end.lsn }))
}

/// Returns the newest timeline that recovery would follow, and how it came about.
fn branch(
    wal_dir: &Path,
    control: &ControlData,
) -> Result<(TimelineId, Vec<TimelineSwitch>), String> {
    let from = control.checkpoint.timeline;
    let files = list(wal_dir).map_err(|error| error.to_string())?;
    let segments = files.iter().filter(|file| file.is_segment());
    let newer: BTreeSet<TimelineId> =
        segments.map(|file| file.name.timeline()).filter(|timeline| *timeline > from).collect();
    for timeline in newer.into_iter().rev() {
        // Without its history a server would not follow it either.
        let Ok(history) = read_history(wal_dir, timeline) else { continue };
        if leads_on(control, timeline, &history) {
            return Ok((timeline, history));
        }
    }
    match read_history(wal_dir, from) {
        Ok(history) => Ok((from, history)),
        // A clone may lack it; what comes before the checkpoint does not matter here.
        Err(WalError::Missing { .. }) => Ok((from, Vec::new())),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns whether a timeline descends from where the control file proves that recovery has been.
fn leads_on(control: &ControlData, timeline: TimelineId, history: &[TimelineSwitch]) -> bool {
    let lies_on = |seen: WalPosition| {
        let nowhere = seen.lsn == Lsn::ZERO || seen.timeline == timeline;
        nowhere || history.iter().any(|it| it.timeline == seen.timeline && it.end >= seen.lsn)
    };
    lies_on(control.checkpoint) && lies_on(control.min_recovery_end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::driver::ControlState;

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) }
    }

    #[test]
    fn a_timeline_leads_on_only_from_where_recovery_has_been() {
        let history = [(1, 100), (2, 200)].map(|(timeline, end)| TimelineSwitch {
            timeline: TimelineId(timeline),
            end: Lsn(end),
        });
        #[rustfmt::skip]
        let table = [
            // checkpoint   minimum recovery end  leads on to timeline 3
            (at(1, 50),     at(0, 0),             true),
            (at(1, 100),    at(0, 0),             true),
            (at(1, 101),    at(0, 0),             false),
            (at(2, 150),    at(2, 200),           true),
            (at(2, 150),    at(2, 201),           false),
            (at(2, 150),    at(3, 900),           true),
            (at(1, 50),     at(4, 60),            false),
        ];
        for (checkpoint, min_recovery_end, leads) in table {
            let control = ControlData {
                system_identifier: 1,
                state: ControlState::InProduction,
                checkpoint,
                redo: checkpoint.lsn,
                min_recovery_end,
                checksums: true,
                segment_bytes: 16 << 20,
                lowest: BTreeMap::new(),
            };
            let got = leads_on(&control, TimelineId(3), &history);
            assert_eq!(got, leads, "{checkpoint}, {min_recovery_end}");
        }
    }
}
