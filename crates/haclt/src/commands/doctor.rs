//! `haclt doctor`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use ha_core::NodeId;

use crate::client::AdminClient;
use crate::duration::parse_wait;
use crate::render::json::{self, Layout};
use crate::render::{doctor, prose};
use crate::{CliError, ExitCode, Streams};

/// Examine every node: what is wrong, the evidence, and what mends it
///
/// Each agent examines its node, and its ways to the others: agents, clocks, databases and the users that
/// log in there, slots, lag, WAL, disks, guard, settings, configuration, secrets. Nothing is changed,
/// and neither a leader nor a quorum is needed. docs/doctor.md explains every check. The exit code is 1
/// if anything is critical or a warning.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Show the findings on this node only
    node: Option<NodeId>,
    /// Show what is well, too
    #[arg(long, short)]
    verbose: bool,
    /// Print one JSON object, of a stable shape; what is well included
    #[arg(long)]
    json: bool,
    /// Longest time to wait for an answer, all agents together
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m. The examination itself takes some seconds.
    // The same name as the option of all commands, whose place it takes.
    #[arg(
        long,
        help_heading = crate::cli::CONNECTION,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = parse_wait
    )]
    timeout: Duration,
}

impl Doctor {
    /// Shows what was found.
    ///
    /// # Errors
    /// [`CliError`] if nobody could be asked.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        client.set_patience(self.timeout);
        let answer = client.doctor(self.node.as_ref()).await?;
        prose::tell(&answer, streams);
        let text = if self.json {
            json::examination(&answer.reply, Layout::Pretty)
        } else {
            doctor::examination(&answer.reply, self.verbose)
        };
        streams.emit(&text)?;
        Ok(if answer.reply.is_well() { ExitCode::Done } else { ExitCode::Failed })
    }
}
