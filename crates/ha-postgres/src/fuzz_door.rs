//! Readers of what other programs wrote, for the fuzz targets. Not part of the interface.

use std::collections::{BTreeMap, BTreeSet};

use ha_core::ancestry::TimelineSwitch;
use ha_core::{Lsn, TimelineId};

use crate::control_file::{ControlData, decode};
use crate::driver::ControlFile;
use crate::history::{Segment, parse_history};
use crate::instance::settings;

/// Reads the output of `pg_controldata`; also the size of a segment.
///
/// # Errors
/// What is wrong with it.
pub fn control_text(text: &str) -> Result<(ControlFile, u64), String> {
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    ControlData::parse(&lines).map(|data| told(&data))
}

/// Reads a control file; also the size of a segment.
///
/// # Errors
/// What is wrong with it.
pub fn control_bytes(bytes: &[u8]) -> Result<(ControlFile, u64), String> {
    decode(bytes).map(|data| told(&data)).map_err(|error| error.to_string())
}

fn told(data: &ControlData) -> (ControlFile, u64) {
    (data.describe(17, false), data.segment_bytes)
}

/// Reads a timeline history file.
///
/// # Errors
/// What is wrong with it.
pub fn history(text: &str) -> Result<Vec<TimelineSwitch>, String> {
    parse_history(text)
}

/// Reads the name of a segment in `pg_wal`: its timeline, its number, and where it and the next one begin.
#[must_use]
pub fn segment(name: &str, segment_bytes: u64) -> Option<(TimelineId, u64, Lsn, Lsn)> {
    let segment = Segment::parse(name, segment_bytes)?;
    let next = segment.next().begin(segment_bytes);
    Some((segment.timeline, segment.number, segment.begin(segment_bytes), next))
}

/// Returns a user's `postgresql.conf` with our line at its end, or none if it is there.
#[must_use]
pub fn with_include(text: &str) -> Option<String> {
    settings::with_include(text)
}

/// Returns `postgresql.auto.conf` without what haclt manages and without a `work_mem`, or none if nothing is to be
/// taken out.
#[must_use]
pub fn stripped(text: &str) -> Option<String> {
    let lowest = BTreeMap::from([("max_connections", 100)]);
    settings::stripped(text, &lowest, &BTreeSet::from(["work_mem".to_owned()]))
}
