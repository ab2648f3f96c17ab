//! `haclt man`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::{Args, CommandFactory as _};

use crate::{Cli, CliError, ExitCode, Streams};

/// Print the manual page
///
/// To read it: `haclt man | man -l -`. Asks no agent.
#[derive(Debug, Args)]
pub struct Man {
    /// Write all pages, one for each command, to this directory instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Prints one page, or writes all to a directory, which is made if need be.
    ///
    /// # Errors
    /// [`CliError::Output`] or [`CliError::ManPages`] if they could not be written.
    pub fn run(self, streams: &mut Streams<impl Write, impl Write>) -> Result<ExitCode, CliError> {
        if let Some(dir) = self.dir {
            write_all(&dir).map_err(|source| CliError::ManPages { dir, source })?;
            return Ok(ExitCode::Done);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(CliError::Output)?;
        streams.emit(&String::from_utf8_lossy(&page))?;
        Ok(ExitCode::Done)
    }
}

fn write_all(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}
