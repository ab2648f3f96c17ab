//! `haclt completions`.

use std::io::Write;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{Cli, CliError, ExitCode, Streams};

/// Print the completions for a shell
///
/// For bash: `source <(haclt completions bash)`. Asks no agent.
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell that reads them
    shell: Shell,
}

impl Completions {
    /// Prints the completions.
    ///
    /// # Errors
    /// [`CliError::Output`] if they could not be printed.
    pub fn run(self, streams: &mut Streams<impl Write, impl Write>) -> Result<ExitCode, CliError> {
        // Into memory first: the generator panics if it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "haclt", &mut script);
        streams.emit(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::Done)
    }
}
