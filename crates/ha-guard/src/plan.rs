//! What is started and within which bounds: fixed by the command line, or told by a file.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_core::BootId;
use ha_core::permit::{Launch, ParseError};

use crate::files::read_small;

/// No launch file is longer than that.
const LAUNCH_BYTES_MAX: u64 = 64 * 1024;
/// Where users are known without any library: images have no others.
const USERS_FILE: &str = "/etc/passwd";

/// Where to learn what to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Here.
    Fixed(Launching),
    /// From a file that the agent writes, read at each start of a run.
    File(PathBuf),
}

/// What to start, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launching {
    /// How long before the deadline the killing starts.
    pub margin: Duration,
    /// How long a fast stop may take.
    pub fast_stop: Duration,
    /// How long an immediate stop may take.
    pub immediate_stop: Duration,
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
}

/// Why the launch file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It is not there, or cannot be read.
    #[error("launch file {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is damaged, or of another version.
    #[error("launch file {path:?}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ParseError,
    },
    /// It was written before the machine was started.
    #[error("launch file {path:?}: it is of another boot")]
    OtherBoot {
        /// The file.
        path: PathBuf,
    },
}

impl Launching {
    /// Reads a launch file of this boot.
    ///
    /// # Errors
    /// [`LaunchError`] if there is none that can be believed.
    pub fn read(path: &Path, boot: BootId) -> Result<Self, LaunchError> {
        let here = || path.to_owned();
        let text = read_small(path, LAUNCH_BYTES_MAX)
            .map_err(|source| LaunchError::Read { path: here(), source })?;
        let launch =
            Launch::decode(&text).map_err(|source| LaunchError::Parse { path: here(), source })?;
        if launch.boot != boot {
            return Err(LaunchError::OtherBoot { path: here() });
        }
        let Launch { margin, fast_stop, immediate_stop, command, .. } = launch;
        let command = command.into_iter().map(OsString::from).collect();
        Ok(Self { margin, fast_stop, immediate_stop, command })
    }
}

/// Whom to run `PostgreSQL` as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// By user and group id.
    Numbers {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// By a name in `/etc/passwd`: an image's own, whatever its numbers are.
    Named(String),
}

/// A user who is not known.
#[derive(Debug, thiserror::Error)]
pub enum WhoError {
    /// The file of users cannot be read.
    #[error("cannot read {USERS_FILE}")]
    Read(#[source] io::Error),
    /// No line of it has that name.
    #[error("there is no user {0} in {USERS_FILE}")]
    Unknown(String),
}

impl Who {
    /// Returns user and group id.
    ///
    /// # Errors
    /// [`WhoError`] if the name means nobody.
    pub fn ids(&self) -> Result<(u32, u32), WhoError> {
        match self {
            Self::Numbers { uid, gid } => Ok((*uid, *gid)),
            Self::Named(name) => {
                let users = fs::read_to_string(USERS_FILE).map_err(WhoError::Read)?;
                ids_of(name, &users).ok_or_else(|| WhoError::Unknown(name.clone()))
            }
        }
    }
}

/// Finds a user in the text of `/etc/passwd`.
///
/// # Sources
/// `passwd(5)`: name, password, user id, group id, and more, between colons.
fn ids_of(name: &str, users: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\n# a comment\npostgres2:x:7:7::/:\n\
                     postgres:x:70:71:Linux User,,,:/var/lib/postgresql:/bin/sh\n";
        assert_eq!(ids_of("postgres", users), Some((70, 71)));
        assert_eq!(ids_of("postgres", "postgres:x:999:999::/:/bin/bash"), Some((999, 999)));
        for nobody in ["post", "postgres3", "", "x"] {
            assert_eq!(ids_of(nobody, users), None, "{nobody}");
        }
    }
}
