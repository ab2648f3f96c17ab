//! Disks that are mounted for real: files, and a PostgreSQL on them.
//!
//! Needs root, `/dev/fuse` and `mount`.

mod files;
mod postgres;
mod support;
