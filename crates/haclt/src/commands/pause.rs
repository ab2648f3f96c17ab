//! `haclt pause` and `haclt resume`.

use std::io::Write;

use clap::Args;
use ha_core::NodeId;

use crate::client::AdminClient;
use crate::commands::order::Waiting;
use crate::confirm::Confirmed;
use crate::{CliError, ExitCode, Streams};

/// Leave the databases alone: nothing is promoted, started, stopped or restarted
///
/// What runs goes on running, also without its agent: the primary's guard has no deadline in a pause. A primary
/// that fails stays down, and no other takes over, until `haclt resume`. The one thing that is stopped all
/// the same is a database that accepts writes without the lease.
///
/// Example: haclt pause --reason "new switches in rack 4"
#[derive(Debug, Args)]
pub struct Pause {
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// Look after the databases again
///
/// Nobody is promoted before the primary's guard is seen to have a deadline again. If the primary's machine is
/// gone for good that never happens: then `--without` takes your word for it.
///
/// Example: haclt resume
#[derive(Debug, Args)]
pub struct Resume {
    /// Do not wait for this node's word: its machine is off, and stays off
    ///
    /// If its database runs after all, there will be two primaries. Asks for the cluster's name, unless
    /// `--yes` is given.
    #[arg(long, value_name = "NODE")]
    without: Option<NodeId>,
    /// Do not ask for the cluster's name
    #[arg(long, requires = "without")]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Pause {
    /// Pauses the cluster.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        self.waiting.begin(client);
        let answer = client.pause(&self.reason).await?;
        self.waiting.tell(&answer, streams)
    }
}

impl Resume {
    /// Ends the pause.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let confirmed = match &self.without {
            None => None,
            Some(node) => Some((node, self.confirm(node, client, streams).await?)),
        };
        self.waiting.begin(client);
        let answer = client.resume(confirmed).await?;
        self.waiting.tell(&answer, streams)
    }

    async fn confirm(
        &self,
        node: &NodeId,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<Confirmed, CliError> {
        if self.yes {
            return Ok(Confirmed::beforehand());
        }
        if streams.ask.is_none() {
            return Err(CliError::NobodyToAsk);
        }
        let cluster = client.status().await?.cluster;
        let cost = format!(
            "If the database of node {node} runs, there will be two primaries, and what one of them \
             acknowledges may be lost. Make sure that its machine is off."
        );
        Confirmed::typed(&cluster, &cost, streams)
    }
}
