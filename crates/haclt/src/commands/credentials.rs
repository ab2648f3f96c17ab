//! `haclt credentials`.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::client::AdminClient;
use crate::commands::order::Waiting;
use crate::duration::parse_wait;
use crate::render::json::{self, Layout};
use crate::render::{credentials, prose};
use crate::{CliError, ExitCode, Streams};

/// Change the passwords of the internal users, or see where they are
///
/// Example: haclt credentials show
#[derive(Debug, Args)]
pub struct Credentials {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(Show),
    Rotate(Rotate),
}

/// List the internal users, and the files with their passwords on every node
///
/// NEXT says whether a new password waits beside the one in use: a change that was not finished. SERVER is which of
/// the two the node's own server takes. AGREES is whether the node has a password that the primary's node has.
/// No password is shown, or leaves a node.
///
/// Example: haclt credentials show
#[derive(Debug, Args)]
struct Show {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Give internal users new passwords
///
/// Every node gets the new password beside the old one first, then the server is told, and when the servers of all
/// nodes take it, every node forgets the old one. Clients and standbys keep their connections. Refused, before
/// anything is changed, if a node does not answer or cannot replace its file. Given again after it was cut short, it
/// finishes what was begun.
///
/// Example: haclt credentials rotate postgres
#[derive(Debug, Args)]
struct Rotate {
    /// Role whose password is changed; all internal users, one after the other, if none is named
    user: Option<String>,
    /// Only say what would be done, or why it would be refused
    #[arg(long)]
    dry_run: bool,
    /// Longest time to wait until the servers of all nodes take the new passwords
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m. Then exit code 4: give the order again.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_wait)]
    wait: Duration,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl Credentials {
    /// Shows or changes passwords.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Show(show) => show.run(client, streams).await,
            Command::Rotate(Rotate { user, dry_run, wait, json }) => {
                let waiting = Waiting { timeout: wait, json };
                waiting.begin(client);
                let answer = client.rotate_credentials(user.as_deref(), dry_run).await?;
                waiting.tell(&answer, streams)
            }
        }
    }
}

impl Show {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.credentials().await?;
        prose::tell(&answer, streams);
        let entries = &answer.reply.entries;
        let text = if self.json {
            json::credentials(entries, Layout::Pretty)
        } else {
            credentials::credentials(entries)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}
