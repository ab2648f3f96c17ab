//! The configuration as lines, for the fuzz targets. Not part of the interface.

use std::collections::BTreeMap;

use crate::commands::config::lines;

/// Reads `key = value` lines.
///
/// # Errors
/// What is wrong, with the number of each line.
pub fn config_lines(text: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    lines::parse(text)
}

/// Returns a line that sets the key.
#[must_use]
pub fn config_line(key: &str, value: &str) -> String {
    lines::line(key, value)
}
