//! `haclt adopt`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::{CliError, ExitCode, Streams};

/// The program that does the work, which has the agent's configuration and PostgreSQL's tools.
const AGENT: &str = "ha-agent";

/// Take over an existing database as this node's, or give it back
///
/// Says what would change and why, and changes nothing, unless --yes is given. To be run where the data
/// is, as root, while the old server runs and this node's agent does not; asks no agent, but runs
/// `ha-agent adopt`, which is installed beside `haclt`.
#[derive(Debug, Args)]
pub struct Adopt {
    /// Configuration file of this node's agent
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Container that runs the old server
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_data_dir", "undo"])]
    from_container: Option<String>,
    /// Data directory of the old server, which runs on this machine
    #[arg(long, value_name = "DIR", conflicts_with = "undo")]
    from_data_dir: Option<PathBuf>,
    /// Role to look at the old server with, if it is not postgres or the container's `POSTGRES_USER`
    #[arg(long = "as", value_name = "ROLE")]
    superuser: Option<String>,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Give the database back: with --yes, put everything where it was
    #[arg(long)]
    undo: bool,
    /// Write the plan as JSON
    #[arg(long)]
    json: bool,
}

impl Adopt {
    /// Runs the agent's program, which writes to the same streams.
    ///
    /// # Errors
    /// [`CliError::Agent`] if it is not there.
    pub fn run(self, streams: &mut Streams<impl Write, impl Write>) -> Result<ExitCode, CliError> {
        run_agent(&self.words(), streams)
    }

    fn words(self) -> Vec<OsString> {
        let Self { config, from_container, from_data_dir, superuser, yes, undo, json } = self;
        let mut words = vec!["adopt".into(), "--config".into(), config.into()];
        let valued = [
            ("--from-container", from_container.map(OsString::from)),
            ("--from-data-dir", from_data_dir.map(OsString::from)),
            ("--as", superuser.map(OsString::from)),
        ];
        words.extend(
            valued.into_iter().filter_map(|(name, value)| Some([name.into(), value?])).flatten(),
        );
        let flags = [("--yes", yes), ("--undo", undo), ("--json", json)];
        words
            .extend(flags.iter().filter(|(_, given)| *given).map(|(name, _)| OsString::from(name)));
        words
    }
}

/// Runs the agent's program with these words, on the same streams.
///
/// # Errors
/// [`CliError::Agent`] if it is not there.
pub(super) fn run_agent(
    words: &[OsString],
    streams: &mut Streams<impl Write, impl Write>,
) -> Result<ExitCode, CliError> {
    streams.emit("")?;
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(AGENT)));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| AGENT.into());
    let status = Command::new(&program).args(words).status();
    let status = status.map_err(|source| CliError::Agent { program, source })?;
    Ok(match status.code() {
        Some(0) => ExitCode::Done,
        Some(2) => ExitCode::Usage,
        Some(3) => ExitCode::Refused,
        Some(1) => ExitCode::Failed,
        // Killed, too: what it had done is in its journal.
        _ => ExitCode::Unknown,
    })
}
