//! Changes of several keys, what would become of them, and those of the past.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::lines;
use crate::client::AdminClient;
use crate::commands::order::Waiting;
use crate::render::json::{self, Layout};
use crate::render::{config, prose};
use crate::reply::config::Outcome;
use crate::{CliError, ExitCode, Streams};

/// Take keys out of the configuration
///
/// A parameter is then again what the files of each node say, or PostgreSQL's default.
///
/// Example: haclt config unset postgres.parameters.jit
#[derive(Debug, Args)]
pub(super) struct Unset {
    /// Keys, such as postgres.parameters.jit
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Ask whether the servers would take values; change nothing
///
/// The primary's server is asked. Ends with exit code 2 for a value that is none, and 3 for what is haclt's own.
///
/// Example: haclt config validate postgres.parameters.jit off
#[derive(Debug, Args)]
pub(super) struct Validate {
    /// Key, such as postgres.parameters.jit
    #[arg(required_unless_present = "file", requires = "value")]
    key: Option<String>,
    /// Value it would have
    value: Option<String>,
    /// File of `key = value` lines to look at instead
    #[arg(long, conflicts_with = "key")]
    file: Option<PathBuf>,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Show who changed what: the last 100 changes
///
/// TIME is in UTC.
#[derive(Debug, Args)]
pub(super) struct History {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl Unset {
    pub(super) async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let changes: Vec<_> = self.keys.into_iter().map(|key| (key, None)).collect();
        carry_out(client, streams, &changes, None, &self.waiting).await
    }
}

/// Gives the order, and says what became of it.
pub(super) async fn carry_out(
    client: &mut AdminClient,
    streams: &mut Streams<impl Write, impl Write>,
    changes: &[(String, Option<String>)],
    version: Option<u64>,
    waiting: &Waiting,
) -> Result<ExitCode, CliError> {
    waiting.begin(client);
    let answer = client.change_all(changes, version, false).await?;
    prose::tell(&answer, streams);
    let text = if waiting.json {
        json::changes(&answer.reply, Layout::Pretty)
    } else {
        config::changes(&answer.reply)
    };
    streams.emit(&text)?;
    if answer.reply.outcome == Some(Outcome::Accepted) {
        let awaited = answer.reply.detail.unwrap_or_default();
        return Err(CliError::NotEnded { waited: waiting.timeout, awaited });
    }
    Ok(ExitCode::Done)
}

impl Validate {
    pub(super) async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let changes = match (&self.file, self.key, self.value) {
            (Some(path), ..) => {
                let what = path.display().to_string();
                let faults = match std::fs::read_to_string(path) {
                    Ok(text) => lines::parse(&text),
                    Err(error) => Err(vec![error.to_string()]),
                };
                let values = faults.map_err(|faults| CliError::BadLines { what, faults })?;
                values.into_iter().map(|(key, value)| (key, Some(value))).collect()
            }
            (None, Some(key), value) => vec![(key, value)],
            (None, None, _) => Vec::new(),
        };
        let answer = client.change_all(&changes, None, true).await?;
        prose::tell(&answer, streams);
        let text = if self.json {
            json::changes(&answer.reply, Layout::Pretty)
        } else {
            config::changes(&answer.reply)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}

impl History {
    pub(super) async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.config_history().await?;
        prose::tell(&answer, streams);
        let text = if self.json {
            json::config_history(&answer.reply, Layout::Pretty)
        } else {
            config::history(&answer.reply)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}
