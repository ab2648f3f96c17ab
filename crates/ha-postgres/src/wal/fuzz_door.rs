//! WAL in memory, for the fuzz targets. Not part of the interface.

use ha_core::{Lsn, TimelineId};

use super::WalError;
use super::page::{PAGE_BYTES, first_page};
use super::scan::{Pages, ScannedEnd, Scanner};

struct Memory<'a> {
    begin: u64,
    bytes: &'a [u8],
}

impl Pages for Memory<'_> {
    fn page(&mut self, at: Lsn) -> Result<&[u8], WalError> {
        let from = at.0.checked_sub(self.begin).and_then(|from| usize::try_from(from).ok());
        let rest = from.and_then(|from| self.bytes.get(from..)).unwrap_or_default();
        Ok(rest.get(..PAGE_BYTES).unwrap_or(rest))
    }
}

/// Reads records from the beginning of a segment, as long as there are some; none if it does not begin with a
/// page. Also where the segment begins, and how many records were whole.
///
/// # Errors
/// None: there is nothing that could fail to be read.
pub fn scan(
    bytes: &[u8],
    newest: TimelineId,
    limit: Option<Lsn>,
) -> Result<Option<(Lsn, u64, ScannedEnd)>, WalError> {
    let Ok((form, begin, _)) = first_page(bytes) else { return Ok(None) };
    let mut scanner = Scanner::new(Memory { begin: begin.0, bytes }, form, newest, limit);
    let walked = scanner.walk(begin.0, u64::MAX)?;
    Ok(Some((begin, walked.records, walked.into_end())))
}
