//! Bundles for whoever helps.

use std::path::Path;

use serde::Serialize;

use super::{Layout, object};
use crate::bundle::{NodeOutcome, Written};

#[derive(Serialize)]
struct Bundle<'a> {
    file: String,
    files: usize,
    bytes: u64,
    nodes: &'a [NodeOutcome],
}

#[derive(Serialize)]
struct Listed<'a> {
    files: Vec<File<'a>>,
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a str,
    bytes: u64,
}

/// Returns what was written.
#[must_use]
pub fn bundle(path: &Path, written: &Written, nodes: &[NodeOutcome], layout: Layout) -> String {
    let file = path.display().to_string();
    object(&Bundle { file, files: written.files, bytes: written.bytes, nodes }, layout)
}

/// Returns what is in a bundle.
#[must_use]
pub fn listed(files: &[(String, u64)], layout: Layout) -> String {
    let files = files.iter().map(|(path, bytes)| File { path, bytes: *bytes }).collect();
    object(&Listed { files }, layout)
}
