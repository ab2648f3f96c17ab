//! The control file itself, read without `pg_controldata`.
//!
//! # Sources
//! PostgreSQL, `pg_control.h: ControlFileData, CheckPoint, DBState`, the same from 13 to 16
//! (`PG_CONTROL_VERSION` 1300); 17 (1700) has one more field in what was padding, 18 (1800) one more byte
//! before the checksum. Offsets are those of a 64-bit little-endian machine, which `maxAlign`,
//! `floatFormat` and the checksum prove.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use ha_core::{Lsn, TimelineId, WalPosition};

use super::{ControlData, RAISED_ON_STANDBY, segment_bytes};
use crate::driver::ControlState;

/// Where the checksum is, by version of the file.
const CHECKSUM_AT: [(u32, usize); 3] = [(1300, 288), (1700, 288), (1800, 292)];
/// All that counts is within the first sector; the rest of the file is zeros.
const BYTES_MAX: usize = 512;

const SYSTEM_IDENTIFIER: usize = 0;
const VERSION: usize = 8;
const STATE: usize = 16;
const CHECKPOINT: usize = 32;
const REDO: usize = 40;
const CHECKPOINT_TIMELINE: usize = 48;
const MIN_RECOVERY_END: usize = 136;
const MIN_RECOVERY_TIMELINE: usize = 144;
/// `MaxConnections`, `max_worker_processes`, `max_wal_senders`, `max_prepared_xacts` and
/// `max_locks_per_xact`, in the order of [`RAISED_ON_STANDBY`].
const LOWEST: [usize; 5] = [180, 184, 188, 192, 196];
const MAX_ALIGN: usize = 204;
const FLOAT_FORMAT: usize = 208;
const SEGMENT_BYTES: usize = 228;
const CHECKSUM_VERSION: usize = 252;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NativeError {
    /// It could not be read.
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: io::Error },
    /// Another version than those that we know: `pg_controldata` of that version can read it.
    #[error("control file of unknown version {version}")]
    Version { version: u32 },
    /// Its checksum is wrong: damaged, or a server is just writing it.
    #[error("the checksum of the control file does not match")]
    Checksum,
    /// Its content means nothing.
    #[error("the control file says nothing known: {0}")]
    Content(String),
}

/// Reads the control file of a data directory, once. A running server may be writing it.
pub(crate) fn read(path: &Path) -> Result<ControlData, NativeError> {
    let fault = |source| NativeError::Read { path: path.display().to_string(), source };
    let mut bytes = Vec::with_capacity(BYTES_MAX);
    let file = File::open(path).map_err(fault)?;
    file.take(BYTES_MAX as u64).read_to_end(&mut bytes).map_err(fault)?;
    decode(&bytes)
}

/// As [`read`], of bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<ControlData, NativeError> {
    let short = || NativeError::Content(format!("it ends after {} bytes", bytes.len()));
    let u32_at = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or_else(short)
    };
    let u64_at = |at: usize| {
        let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or_else(short)
    };
    let version = u32_at(VERSION)?;
    let known = CHECKSUM_AT.iter().find(|(known, _)| *known == version);
    let (_, checksum_at) = known.ok_or(NativeError::Version { version })?;
    let summed = bytes.get(..*checksum_at).ok_or_else(short)?;
    if crc32c::crc32c(summed) != u32_at(*checksum_at)? {
        return Err(NativeError::Checksum);
    }
    let float = f64::from_bits(u64_at(FLOAT_FORMAT)?);
    if u32_at(MAX_ALIGN)? != 8 || float.to_bits() != 1_234_567.0_f64.to_bits() {
        return Err(NativeError::Content("it was written by another kind of machine".to_owned()));
    }
    let position = |timeline: usize, lsn: usize| {
        let (timeline, lsn) = (TimelineId(u32_at(timeline)?), Lsn(u64_at(lsn)?));
        Ok(WalPosition { timeline, lsn })
    };
    let lowest = RAISED_ON_STANDBY.iter().zip(LOWEST);
    let lowest = lowest.map(|((_, name), at)| Ok((*name, u64::from(u32_at(at)?))));
    Ok(ControlData {
        system_identifier: u64_at(SYSTEM_IDENTIFIER)?,
        state: state(u32_at(STATE)?)?,
        checkpoint: position(CHECKPOINT_TIMELINE, CHECKPOINT)?,
        redo: Lsn(u64_at(REDO)?),
        min_recovery_end: position(MIN_RECOVERY_TIMELINE, MIN_RECOVERY_END)?,
        checksums: u32_at(CHECKSUM_VERSION)? != 0,
        segment_bytes: segment_bytes(u64::from(u32_at(SEGMENT_BYTES)?))
            .map_err(NativeError::Content)?,
        lowest: lowest.collect::<Result<BTreeMap<_, _>, NativeError>>()?,
    })
}

/// Reads a `DBState`.
fn state(number: u32) -> Result<ControlState, NativeError> {
    Ok(match number {
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        // Starting up, shutting down, in crash recovery, in archive recovery.
        0 | 3 | 4 | 5 => ControlState::InRecovery,
        6 => ControlState::InProduction,
        other => return Err(NativeError::Content(format!("state {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A control file as a server would write it.
    fn file(version: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(SYSTEM_IDENTIFIER, &7_575_511_111_111_111_111_u64.to_le_bytes());
        put(VERSION, &version.to_le_bytes());
        put(STATE, &5_u32.to_le_bytes());
        put(CHECKPOINT, &0x0300_0060_u64.to_le_bytes());
        put(REDO, &0x0300_0028_u64.to_le_bytes());
        put(CHECKPOINT_TIMELINE, &2_u32.to_le_bytes());
        put(MIN_RECOVERY_END, &0x0300_0110_u64.to_le_bytes());
        put(MIN_RECOVERY_TIMELINE, &3_u32.to_le_bytes());
        put(LOWEST[4], &64_u32.to_le_bytes());
        put(MAX_ALIGN, &8_u32.to_le_bytes());
        put(FLOAT_FORMAT, &1_234_567.0_f64.to_le_bytes());
        put(SEGMENT_BYTES, &(16_u32 << 20).to_le_bytes());
        put(CHECKSUM_VERSION, &1_u32.to_le_bytes());
        let known = CHECKSUM_AT.iter().find(|(known, _)| *known == version);
        let at = known.map_or(288, |(_, at)| *at);
        let sum = crc32c::crc32c(&bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn every_known_version_is_read_and_no_other() {
        for version in [1300, 1700, 1800] {
            let data = decode(&file(version)).unwrap();
            assert_eq!(data.state, ControlState::InRecovery);
            assert_eq!(data.checkpoint.to_string(), "0/3000060 on timeline 2");
            assert_eq!(data.redo.to_string(), "0/3000028");
            assert_eq!(data.min_recovery_end.to_string(), "0/3000110 on timeline 3");
            assert_eq!(data.lowest.get("max_locks_per_transaction"), Some(&64));
            assert_eq!(data.segment_bytes, 16 << 20);
            assert!(data.checksums);
        }
        let other = decode(&file(1900));
        assert!(matches!(other, Err(NativeError::Version { version: 1900 })), "{other:?}");
    }

    proptest! {
        #[test]
        fn a_file_that_is_cut_or_changed_is_an_error(at in 0_usize..288, bit in 0_u8..8) {
            let mut bytes = file(1300);
            prop_assert!(decode(&bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
