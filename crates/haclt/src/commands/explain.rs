//! `haclt explain`.

use std::io::Write;

use clap::Args;

use crate::client::AdminClient;
use crate::render::json::{self, Layout};
use crate::render::prose;
use crate::{CliError, ExitCode, Streams};

/// Say why the cluster is as it is, and what would happen if the primary died now
///
/// For each node: which rule decided last, what it means, and what the node is waiting for. Then
/// who would be promoted, why that one, who would not, what would be lost, and how long writes
/// would be refused.
#[derive(Debug, Args)]
pub struct Explain {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl Explain {
    /// Shows the explanation.
    ///
    /// # Errors
    /// [`CliError`] if it could not be shown.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.explain().await?;
        prose::tell(&answer, streams);
        let text = if self.json {
            json::explanation(&answer.reply, Layout::Pretty)
        } else {
            prose::explanation(&answer.reply)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}
