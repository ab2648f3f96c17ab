//! Readers of what people and earlier runs wrote, for the fuzz targets. Not part of the interface.

use std::path::Path;
use std::time::Duration;

use ha_core::Epoch;

use crate::config::{Config, reader};
use crate::pledge;

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it, on one line.
pub fn config(text: &str, environment: Vec<(String, String)>) -> Result<Config, String> {
    let path = Path::new("agent.toml");
    Config::from_text(path, text, environment.into_iter()).map_err(|error| error.to_string())
}

/// Reads a duration of the configuration.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    reader::parse_duration(text)
}

/// Reads a size of the configuration, bytes.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    reader::parse_bytes(text)
}

/// Reads a pledge, and returns it with its text as it would be written again.
#[must_use]
pub fn pledge(text: &str) -> Option<(Epoch, String)> {
    pledge::parse(text).map(|epoch| (epoch, pledge::text(epoch)))
}
