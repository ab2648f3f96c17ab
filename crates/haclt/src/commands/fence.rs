//! `haclt fence` and `haclt unfence`.

use std::io::Write;

use clap::Args;
use ha_core::NodeId;

use crate::client::AdminClient;
use crate::commands::order::Waiting;
use crate::{CliError, ExitCode, Streams};

/// Stop a standby's PostgreSQL and keep it down
///
/// Its agent goes on voting. The node is not promoted, started or cloned until `haclt unfence`. A primary is not
/// fenced: switch over first.
///
/// Example: haclt fence n2 --reason "its disk reports errors"
#[derive(Debug, Args)]
pub struct Fence {
    /// Node whose database is stopped
    node: NodeId,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// Let a fenced node's PostgreSQL run again
///
/// Example: haclt unfence n2
#[derive(Debug, Args)]
pub struct Unfence {
    /// Node whose database may run again
    node: NodeId,
    #[command(flatten)]
    waiting: Waiting,
}

impl Fence {
    /// Fences a node.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        self.waiting.begin(client);
        let answer = client.fence(&self.node, &self.reason).await?;
        self.waiting.tell(&answer, streams)
    }
}

impl Unfence {
    /// Ends that.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        self.waiting.begin(client);
        let answer = client.unfence(&self.node).await?;
        self.waiting.tell(&answer, streams)
    }
}
