//! The control file: read natively, or by the labels that `pg_controldata` prints.
//!
//! # Sources
//! PostgreSQL, `src/bin/pg_controldata/pg_controldata.c`: the labels, unchanged from 13 to 18 for
//! those read here; run with `LC_ALL=C`.

mod native;

use std::collections::BTreeMap;
use std::str::FromStr;

use ha_core::{Lsn, TimelineId, WalPosition};

use crate::driver::{ControlFile, ControlState};
use crate::wal::page::is_segment_size;

pub(crate) use native::{NativeError, decode, read};

/// Settings whose value on a standby must not be below the primary's, by label and by name (rule 65).
const RAISED_ON_STANDBY: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// The part of the control file that the driver needs, beyond what it tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlData {
    pub(crate) system_identifier: u64,
    pub(crate) state: ControlState,
    pub(crate) checkpoint: WalPosition,
    pub(crate) redo: Lsn,
    pub(crate) min_recovery_end: WalPosition,
    pub(crate) checksums: bool,
    pub(crate) segment_bytes: u64,
    /// Lowest values that a standby of this data may run with.
    pub(crate) lowest: BTreeMap<&'static str, u64>,
}

impl ControlData {
    /// Reads the output of `pg_controldata`; the error says what is wrong with it.
    pub(crate) fn parse(lines: &[String]) -> Result<Self, String> {
        if let Some(warning) = lines.iter().find(|line| line.starts_with("WARNING")) {
            return Err(warning.clone());
        }
        let fields = Fields(
            lines
                .iter()
                .filter_map(|line| line.split_once(':'))
                .map(|(label, value)| (label.trim(), value.trim()))
                .collect(),
        );
        let lowest = RAISED_ON_STANDBY
            .iter()
            .map(|(label, name)| Ok((*name, fields.parsed(label)?)))
            .collect::<Result<_, String>>()?;
        Ok(Self {
            system_identifier: fields.parsed("Database system identifier")?,
            state: state(fields.text("Database cluster state")?)?,
            checkpoint: WalPosition {
                timeline: TimelineId(fields.parsed("Latest checkpoint's TimeLineID")?),
                lsn: fields.parsed("Latest checkpoint location")?,
            },
            redo: fields.parsed("Latest checkpoint's REDO location")?,
            min_recovery_end: WalPosition {
                timeline: TimelineId(fields.parsed("Min recovery ending loc's timeline")?),
                lsn: fields.parsed("Minimum recovery ending location")?,
            },
            checksums: fields.parsed::<u32>("Data page checksum version")? != 0,
            segment_bytes: segment_bytes(fields.parsed("Bytes per WAL segment")?)?,
            lowest,
        })
    }

    pub(crate) fn describe(&self, major: u32, standby_signal: bool) -> ControlFile {
        ControlFile {
            system_identifier: self.system_identifier,
            major,
            state: self.state,
            checkpoint: self.checkpoint,
            redo: self.redo,
            min_recovery_end: self.min_recovery_end,
            checksums: self.checksums,
            standby_signal,
        }
    }
}

/// Positions are divided by it: nothing that no server writes may get there.
fn segment_bytes(bytes: u64) -> Result<u64, String> {
    if is_segment_size(bytes) {
        return Ok(bytes);
    }
    Err(format!("the control file gives a segment size of {bytes} bytes"))
}

fn state(text: &str) -> Result<ControlState, String> {
    Ok(match text {
        "shut down" => ControlState::ShutDown,
        "shut down in recovery" => ControlState::ShutDownInRecovery,
        "in production" => ControlState::InProduction,
        "in archive recovery" | "in crash recovery" | "starting up" | "shutting down" => {
            ControlState::InRecovery
        }
        other => return Err(format!("pg_controldata reports the unknown state {other:?}")),
    })
}

struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl Fields<'_> {
    fn text(&self, label: &str) -> Result<&str, String> {
        self.0.get(label).copied().ok_or_else(|| format!("pg_controldata does not say {label:?}"))
    }

    fn parsed<T: FromStr>(&self, label: &str) -> Result<T, String> {
        let text = self.text(label)?;
        text.parse().map_err(|_| format!("pg_controldata says {label:?} is {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    const OUTPUT: &str = "\
pg_control version number:            1300
Database system identifier:           7575511111111111111
Database cluster state:               in archive recovery
pg_control last modified:             Sun Nov 23 03:20:00 2025
Latest checkpoint location:           0/3000060
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/3000110
Min recovery ending loc's timeline:   3
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn the_control_file_is_read_by_its_labels() {
        let data = ControlData::parse(&lines(OUTPUT)).unwrap();
        assert_eq!(data.state, ControlState::InRecovery);
        assert_eq!(data.checkpoint.to_string(), "0/3000060 on timeline 2");
        assert_eq!(data.redo.to_string(), "0/3000028");
        assert_eq!(data.min_recovery_end.to_string(), "0/3000110 on timeline 3");
        assert_eq!(data.lowest.get("max_locks_per_transaction"), Some(&64));
        assert!(data.checksums);
    }

    #[test]
    fn a_damaged_or_foreign_control_file_is_an_error() {
        let broken = format!("WARNING: Calculated CRC checksum does not match\n{OUTPUT}");
        assert!(ControlData::parse(&lines(&broken)).is_err());
        for line in OUTPUT.lines().filter(|l| !l.starts_with("pg_control")) {
            let without = OUTPUT.replace(line, "");
            assert!(ControlData::parse(&lines(&without)).is_err(), "{line}");
        }
        assert!(ControlData::parse(&lines(&OUTPUT.replace("in archive", "in no"))).is_err());
        for bytes in ["0", "1", "16777215", "2147483648"] {
            let output = OUTPUT.replace("16777216", bytes);
            assert!(ControlData::parse(&lines(&output)).is_err(), "{bytes}");
        }
    }
}
