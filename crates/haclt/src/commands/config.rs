//! `haclt config`.

mod edit;
pub(crate) mod lines;
mod several;

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::client::{AdminClient, Change};
use crate::confirm::Confirmed;
use crate::duration::parse_wait;
use crate::render::json::{self, Layout};
use crate::render::{config, prose};
use crate::reply::config::{ConfigItem, Outcome};
use crate::{CliError, ExitCode, Streams};

/// Show or change the configuration that all nodes share
///
/// It is replicated: any agent can be asked, and a change reaches every node. What belongs to one
/// node alone stands in the configuration file of its agent. Keys: `durability.mode`;
/// `postgres.parameters.NAME`, a parameter of every server; `postgres.primary.NAME` and
/// `postgres.standby.NAME`, of the servers in that role; `postgres.hba.NNN`, a rule of `pg_hba.conf`.
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(Show),
    Get(Get),
    Set(Set),
    Unset(several::Unset),
    Edit(edit::Edit),
    Validate(several::Validate),
    History(several::History),
}

/// Show all keys, what they are set to, and what is in force
#[derive(Debug, Args)]
struct Show {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Print what one key is set to
///
/// If another value is still in force, a note on standard error says so.
#[derive(Debug, Args)]
struct Get {
    /// Key, such as durability.mode
    key: String,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Change one key, and wait until that is in force
///
/// `durability.mode` says who acknowledges a commit before its client is told: `quorum` (one more
/// node, which may be the witness), `strict-standby` (a standby) or `async` (nobody, so that
/// commits may be lost with the primary). A parameter is checked by the primary's server first; one
/// that needs a restart waits for `haclt restart --all --if-pending`. Ends with exit code 4 if the change is accepted and not
/// in force in time: it goes on by itself.
#[derive(Debug, Args)]
struct Set {
    /// Key, such as durability.mode
    key: String,
    /// Value it is to have
    value: String,
    /// End once the change is accepted, whether it is in force or not
    #[arg(long)]
    no_wait: bool,
    /// Longest time to wait until it is in force
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m.
    // The same name as the option of all commands, whose place it takes.
    #[arg(
        long,
        help_heading = crate::cli::CONNECTION,
        value_name = "SECONDS",
        default_value = "60",
        value_parser = parse_wait
    )]
    timeout: Duration,
    /// Do not ask for the cluster's name where data may be lost
    #[arg(long)]
    yes: bool,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl Config {
    /// Shows or changes the configuration.
    ///
    /// # Errors
    /// [`CliError`] if it was not done.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Show(show) => show.run(client, streams).await,
            Command::Get(get) => get.run(client, streams).await,
            Command::Set(set) => set.run(client, streams).await,
            Command::Unset(unset) => unset.run(client, streams).await,
            Command::Edit(edit) => edit.run(client, streams).await,
            Command::Validate(validate) => validate.run(client, streams).await,
            Command::History(history) => history.run(client, streams).await,
        }
    }
}

impl Show {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.configuration().await?;
        prose::tell(&answer, streams);
        let text = if self.json {
            json::configuration(&answer.reply, Layout::Pretty)
        } else {
            config::configuration(&answer.reply)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}

impl Get {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.configuration().await?;
        prose::tell(&answer, streams);
        let items = answer.reply.items;
        let Some(item) = items.iter().find(|item| item.key == self.key) else {
            let known = items.into_iter().map(|item| item.key).collect();
            return Err(CliError::UnknownKey { key: self.key, known });
        };
        if self.json {
            streams.emit(&json::item(item, Layout::Pretty))?;
        } else {
            let ConfigItem { key, value, in_force, awaited, .. } = item;
            if let Some(awaited) = awaited {
                streams.note(&format!("note: {key} {awaited}"));
            }
            if value != in_force {
                streams.note(&format!("note: {key} is not in force yet: {in_force} is"));
            }
            streams.emit(&format!("{value}\n"))?;
        }
        Ok(ExitCode::Done)
    }
}

impl Set {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let change = self.allowed(client, streams).await?;
        let wait = !self.no_wait;
        client.set_patience(self.timeout);
        let answer = client.change(change, wait).await?;
        prose::tell(&answer, streams);
        let Self { key, value, timeout, json, .. } = self;
        let text = if json {
            json::changed(&key, &value, &answer.reply, Layout::Pretty)
        } else {
            config::changed(&key, &value, &answer.reply)
        };
        streams.emit(&text)?;
        match answer.reply.outcome {
            Outcome::Accepted if wait => {
                Err(CliError::NotYet { key, value, waited: timeout, awaited: answer.reply.detail })
            }
            Outcome::Done | Outcome::Accepted | Outcome::Unchanged => Ok(ExitCode::Done),
        }
    }

    /// Returns the change, confirmed by the user if it may lose data.
    async fn allowed(
        &self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<Change, CliError> {
        let Self { key, value, .. } = self;
        if let Some(change) = Change::harmless(key, value) {
            return Ok(change);
        }
        let confirmed = if self.yes {
            Confirmed::beforehand()
        } else if streams.ask.is_none() {
            return Err(CliError::NobodyToAsk);
        } else {
            let answer = client.status().await?;
            let cost = config::cost_of_async(&answer);
            Confirmed::typed(&answer.cluster, &cost, streams)?
        };
        Ok(Change::confirmed(key, value, confirmed))
    }
}
