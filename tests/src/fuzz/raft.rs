//! What lies in the Raft store, and what other nodes send.

use ha_raft::log_store::fuzz_door as store;
use ha_raft::transport::fuzz_door as sent;

use super::{choice, text};

/// Records: what is accepted is written again in a way that reads as the same.
pub(super) fn records(data: &[u8]) {
    let (kind, rest) = choice(data);
    let seal = kind & 1 == 1;
    let mut record = rest.to_vec();
    if seal {
        store::seal_record(&mut record);
    }
    match kind >> 1 {
        0 => again(&record, |bytes| store::entry(index_of(bytes), bytes)),
        1 => again(&record, store::vote),
        2 => again(&record, store::mark),
        3 => {
            if let Some(slot) = store::witness_slot(&record, seal) {
                assert_eq!(store::witness_slot(&slot, false).as_ref(), Some(&slot));
            }
        }
        _ => {
            let text = text(rest);
            let text = if seal { store::seal_snapshot(&text) } else { text.into_owned() };
            if let Ok(written) = store::snapshot(&text) {
                assert_eq!(store::snapshot(&written), Ok(written));
            }
        }
    }
}

/// The index that the record gives itself, so that it does not end there.
fn index_of(record: &[u8]) -> u64 {
    let found = record.get(17..25).and_then(|bytes| bytes.try_into().ok());
    found.map_or(0, u64::from_le_bytes)
}

fn again(record: &[u8], read: impl Fn(&[u8]) -> Result<Vec<u8>, String>) {
    match read(record) {
        Ok(written) => assert_eq!(read(&written), Ok(written.clone())),
        Err(why) => assert!(!why.is_empty()),
    }
}

/// Messages of another node, as far as they go before a Raft group sees them.
pub(super) fn messages(data: &[u8]) {
    let (kind, payload) = choice(data);
    let from = "n2".parse().expect("a letter and a digit are a name");
    match kind % 3 {
        0 => {
            if let Ok(entries) = sent::append(&from, payload) {
                assert!(entries <= payload.len());
            }
        }
        1 => drop(sent::vote(&from, payload)),
        _ => drop(sent::install(&from, payload)),
    }
}
