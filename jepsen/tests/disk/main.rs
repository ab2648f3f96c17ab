//! Disks that are mounted for real: files, and a PostgreSQL on them.
//!
//! Needs root, `/dev/fuse` and `mount`.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, missing_docs, reason = "these are tests")]

mod files;
mod postgres;
mod support;
