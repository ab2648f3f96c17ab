//! `haclt diverged`.

use std::io::Write;

use clap::{Args, Subcommand};

use crate::client::AdminClient;
use crate::confirm::Confirmed;
use crate::render::json::{self, Layout};
use crate::render::{diverged, prose};
use crate::{CliError, ExitCode, Streams};

/// List, show or drop WAL that a node had and the cluster went on without
///
/// A former primary that comes back may have WAL that the new one never got. It is kept aside on
/// that node before the node is rewound, so that what was in it can be looked at.
#[derive(Debug, Args)]
pub struct Diverged {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Drop(Remove),
}

/// List all diverged WAL that is known
///
/// FORK is where the cluster's history leaves the node's, END how far the node's WAL went, both as
/// LSN@TIMELINE. FOUND is in UTC.
#[derive(Debug, Args)]
struct List {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Show diverged WAL: the committed transactions that the cluster does not have
///
/// Ends with exit code 1 if the node that keeps the copy does not answer.
#[derive(Debug, Args)]
struct Show {
    /// Number, as `haclt diverged list` shows it
    id: u64,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Remove the kept copy of diverged WAL, for good
///
/// Says how much that is and asks for the cluster's name, unless `--yes` is given.
#[derive(Debug, Args)]
struct Remove {
    /// Number, as `haclt diverged list` shows it
    id: u64,
    /// Do not ask for the cluster's name
    #[arg(long)]
    yes: bool,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl Diverged {
    /// Lists, shows or drops diverged WAL.
    ///
    /// # Errors
    /// [`CliError`] if it was not done.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        match self.command {
            Command::List(list) => list.run(client, streams).await,
            Command::Show(show) => show.run(client, streams).await,
            Command::Drop(remove) => remove.run(client, streams).await,
        }
    }
}

impl List {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.diverged_list().await?;
        prose::tell(&answer, streams);
        let entries = &answer.reply.entries;
        let text =
            if self.json { json::list(entries, Layout::Pretty) } else { diverged::list(entries) };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}

impl Show {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.diverged_show(self.id).await?;
        prose::tell(&answer, streams);
        let report = answer.reply;
        let text = if self.json {
            json::report(&report, Layout::Pretty)
        } else {
            diverged::report(&report)
        };
        streams.emit(&text)?;
        if report.reachable {
            Ok(ExitCode::Done)
        } else {
            Err(CliError::KeeperSilent { node: report.entry.node, id: self.id })
        }
    }
}

impl Remove {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let confirmed = if self.yes {
            Confirmed::beforehand()
        } else if streams.ask.is_none() {
            return Err(CliError::NobodyToAsk);
        } else {
            let answer = client.diverged_show(self.id).await?;
            let cost = diverged::cost_of_drop(&answer.cluster, &answer.reply);
            Confirmed::typed(&answer.cluster, &cost, streams)?
        };
        let answer = client.diverged_drop(self.id, confirmed).await?;
        prose::tell(&answer, streams);
        let text = if self.json {
            json::dropped(self.id, &answer.reply, Layout::Pretty)
        } else {
            diverged::dropped(self.id, &answer.reply)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}
