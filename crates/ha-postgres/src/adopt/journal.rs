//! What an adoption has to remember: written before anything changes, read by whoever goes on with it
//! or takes it back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::instance::write_file;

const VERSION: u32 = 1;
const FILE: &str = "journal.json";

/// What the server was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It accepted writes.
    Primary,
    /// It followed another server.
    Standby,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing is done yet.
    Begun,
    /// What haclt needs in the old server is there; it is to be stopped.
    Stopping,
    /// It is stopped for good, and files are being moved.
    Moving,
    /// The database is haclt's.
    Adopted,
    /// Files are being moved back.
    Undoing,
}

/// A container's restart policy, as the engine names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Its name: `no`, `always` …
    pub name: String,
    /// How often at most; of `on-failure` only.
    pub count: Option<i64>,
}

/// The old server's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldContainer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its restart policy before.
    pub restart: Restart,
    /// The data directory on the machine.
    pub source: String,
}

/// A file of the data directory that gets another content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFile {
    /// Its name in the data directory.
    pub name: String,
    /// The new content.
    pub text: String,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// How far it is.
    pub phase: Phase,
    /// What the server was before.
    pub origin: Origin,
    /// Whose database it is.
    pub system_identifier: u64,
    /// Where the data was.
    pub from: PathBuf,
    /// Where the data goes.
    pub to: PathBuf,
    /// What is in the old directory; known once the server is stopped.
    pub entries: Vec<String>,
    /// Owner of the files before: user and group.
    pub owner: (u32, u32),
    /// Owner of the files under haclt.
    pub new_owner: (u32, u32),
    /// Mode of the old directory before.
    pub mode: u32,
    /// The old container, if it was one.
    pub container: Option<OldContainer>,
    /// Debian's file that says whether the server starts with the machine, and what it said.
    pub start_conf: Option<(PathBuf, String)>,
    /// The unit of systemd that ran it.
    pub unit: Option<String>,
    /// Files that get another content.
    pub files: Vec<NewFile>,
    /// Slots that were there before.
    pub slots: Vec<String>,
    /// Roles that were made.
    pub roles: Vec<String>,
    /// Lowest values that a standby of this data could run with before (rule 65).
    pub lowest: BTreeMap<String, u64>,
    /// Those that are higher since, for a standby that goes back.
    pub raised: BTreeMap<String, u64>,
}

/// Returns the directory of the journal, beside the data directory.
pub(crate) fn place(data_dir: &Path) -> PathBuf {
    let mut path = data_dir.as_os_str().to_owned();
    path.push(".adopted");
    path.into()
}

impl Journal {
    /// Begins one.
    pub(crate) fn new(origin: Origin, from: PathBuf, to: PathBuf) -> Self {
        Self {
            version: VERSION,
            phase: Phase::Begun,
            origin,
            system_identifier: 0,
            from,
            to,
            entries: Vec::new(),
            owner: (0, 0),
            new_owner: (0, 0),
            mode: 0o700,
            container: None,
            start_conf: None,
            unit: None,
            files: Vec::new(),
            slots: Vec::new(),
            roles: Vec::new(),
            lowest: BTreeMap::new(),
            raised: BTreeMap::new(),
        }
    }

    /// Returns whether the data stays where it is.
    #[must_use]
    pub fn in_place(&self) -> bool {
        self.from == self.to
    }

    /// Returns the directory that it lies in, with copies of the files that change.
    pub(crate) fn dir(&self) -> PathBuf {
        place(&self.to)
    }

    /// Reads the journal of a data directory; none if there is none.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, String> {
        let path = place(data_dir).join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let journal: Self = serde_json::from_str(&text)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if journal.version != VERSION {
            let version = journal.version;
            return Err(format!("{}: version {version} is unknown", path.display()));
        }
        Ok(Some(journal))
    }

    /// Writes it; on disk when it returns.
    pub(crate) fn save(&self) -> Result<(), String> {
        let dir = self.dir();
        crate::instance::make_dir(&dir, None, 0o700)?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| format!("cannot write the journal: {error}"))?;
        write_file(&dir.join(FILE), text, None).map(drop)
    }
}
