//! What the commands that give an order have in common.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use crate::client::{AdminClient, Answer};
use crate::duration::parse_wait;
use crate::render::json::{self, Layout};
use crate::render::prose;
use crate::reply::order::{OrderOutcome, Ordered};
use crate::{CliError, ExitCode, Streams};

/// How long to wait for an order, and how to say what became of it.
#[derive(Debug, Clone, Args)]
pub struct Waiting {
    /// Longest time to wait until it is carried out
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m. Then exit code 4: it goes on by itself.
    // The same name as the option of all commands, whose place it takes.
    #[arg(
        long,
        help_heading = crate::cli::CONNECTION,
        value_name = "SECONDS",
        default_value = "1m",
        value_parser = parse_wait
    )]
    pub(super) timeout: Duration,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    pub(super) json: bool,
}

impl Waiting {
    /// From now on the client waits as long as was asked for.
    pub(super) fn begin(&self, client: &mut AdminClient) {
        client.set_patience(self.timeout);
    }

    /// Says what became of an order.
    ///
    /// # Errors
    /// [`CliError::NotEnded`] if it is under way still.
    pub(super) fn tell(
        &self,
        answer: &Answer<Ordered>,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        prose::tell(answer, streams);
        let Ordered { outcome, detail } = &answer.reply;
        let detail = detail.clone().unwrap_or_default();
        if self.json {
            streams.emit(&json::ordered(&answer.reply, Layout::Pretty))?;
        }
        match outcome {
            OrderOutcome::Done | OrderOutcome::Unchanged if self.json => Ok(ExitCode::Done),
            OrderOutcome::Done => streams.emit(&format!("{detail}\n")).map(|()| ExitCode::Done),
            OrderOutcome::Unchanged => {
                streams.emit(&format!("{detail} (as before)\n")).map(|()| ExitCode::Done)
            }
            OrderOutcome::Accepted => {
                Err(CliError::NotEnded { waited: self.timeout, awaited: detail })
            }
        }
    }
}
