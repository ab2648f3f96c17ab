//! The internal users and their passwords' files, for programs.

use ha_core::NodeId;
use serde::Serialize;

use super::{Layout, object};
use crate::reply::credentials::CredentialEntry;

#[derive(Serialize)]
struct Credentials<'a> {
    credentials: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    user: &'a str,
    purpose: &'a str,
    node: &'a NodeId,
    file: Option<&'a str>,
    age_s: Option<u64>,
    half_way: bool,
    takes: &'a str,
    agrees: &'a str,
    trouble: Option<&'a str>,
}

/// Returns what every node has as one JSON object and a line feed.
#[must_use]
pub fn credentials(entries: &[CredentialEntry], layout: Layout) -> String {
    let credentials = entries.iter().map(|entry| Entry {
        user: &entry.user,
        purpose: &entry.purpose,
        node: &entry.node,
        file: entry.file.as_deref(),
        age_s: entry.age_s,
        half_way: entry.half_way,
        takes: &entry.takes,
        agrees: &entry.agrees,
        trouble: entry.trouble.as_deref(),
    });
    object(&Credentials { credentials: credentials.collect() }, layout)
}
