//! WAL as files, without a server: reading it, keeping it, receiving it.
//!
//! A witness holds WAL and runs no PostgreSQL, so what it has must be told from the files alone, to
//! the byte: an election rests on it. `pg_waldump` is not enough for that. It waits for segments that
//! are not there, and it prints no end.

mod chain;
pub mod files;
#[doc(hidden)]
pub mod fuzz_door;
#[cfg(test)]
mod made;
pub(crate) mod page;
pub mod receiver;
pub mod scan;
mod serve;
pub mod store;
mod tip;

use std::io;
use std::path::Path;

/// Why WAL files could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The operating system refused.
    #[error("could not {action} {path}: {source}")]
    Io {
        /// What was attempted: `read`, `list`, `move`, `remove`, `flush`, `make`.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// Its answer.
        source: io::Error,
    },
    /// The file begins with nothing: it was made, and no WAL has come yet.
    #[error("WAL segment {path} is empty")]
    Empty {
        /// The file.
        path: String,
    },
    /// The file is no WAL segment or no timeline history that could be used.
    #[error("invalid WAL file {path}: {why}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file that is needed is not there.
    #[error("WAL file {name} is not in {dir}")]
    Missing {
        /// Its name, without `.partial`.
        name: String,
        /// Where it was looked for.
        dir: String,
    },
}

impl WalError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { action, path, source }
    }

    fn invalid(path: &Path, why: impl Into<String>) -> Self {
        Self::Invalid { path: path.display().to_string(), why: why.into() }
    }
}
