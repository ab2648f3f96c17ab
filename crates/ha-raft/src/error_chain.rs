//! Errors as one line, for those that cross a thread, openraft or the network as text.

use std::error::Error;

/// Returns an error as one line, with everything behind it.
pub(crate) fn chain(e: &dyn Error) -> String {
    let mut line = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        line.push_str(": ");
        line.push_str(&e.to_string());
        source = e.source();
    }
    line
}
