//! Where things are: the workspace, cargo's target directory, PostgreSQL's programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::exec;
use crate::failure::{Doing as _, Failure, Outcome};

/// Majors this project is meant to work with, best first.
const MAJORS: [u32; 4] = [18, 17, 16, 15];

/// Returns the root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Returns a `cargo` command that runs in the workspace.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace());
    command
}

/// Returns cargo's target directory.
pub(crate) fn target() -> Outcome<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata.get("target_directory").and_then(serde_json::Value::as_str);
    folder.map(PathBuf::from).doing(|| "`cargo metadata` names no target directory".to_owned())
}

/// Returns what `cargo metadata` says of the workspace's own packages.
pub(crate) fn metadata() -> Outcome<serde_json::Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let text = exec::output(&mut command, Duration::from_mins(1))?;
    serde_json::from_str(&text).doing(|| "could not read what `cargo metadata` said".to_owned())
}

/// PostgreSQL's server programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Postgres {
    /// The directory of `postgres`, `pg_ctl`, `pg_rewind` and the others.
    pub(crate) bin_dir: PathBuf,
    /// What `postgres --version` says, such as `15.18`.
    pub(crate) version: String,
}

impl Postgres {
    /// Finds them: `HACLT_PG_BIN` if set, else the newest supported major that Debian's packages put
    /// under `/usr/lib/postgresql`.
    pub(crate) fn find() -> Outcome<Self> {
        let bin_dir = match std::env::var_os("HACLT_PG_BIN") {
            Some(folder) => PathBuf::from(folder),
            None => MAJORS
                .iter()
                .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")))
                .find(|folder| folder.join("postgres").is_file())
                .ok_or_else(|| {
                    Failure::new("cannot find a PostgreSQL server, versions 15 to 18").hint(
                        "Run `make deps`, or set HACLT_PG_BIN to the directory of its programs.",
                    )
                })?,
        };
        let mut command = Command::new(bin_dir.join("postgres"));
        let text = exec::output(command.arg("--version"), Duration::from_secs(10))?;
        let version = text.split_whitespace().nth(2).unwrap_or("unknown").to_owned();
        Ok(Self { bin_dir, version })
    }

    /// Returns the path of one of the programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}
