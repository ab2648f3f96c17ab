//! `haclt`: the command line.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use haclt::Streams;

fn main() -> ExitCode {
    let out = io::stdout();
    let terminal = out.is_terminal();
    let mut streams = Streams { out, notes: io::stderr(), terminal };
    haclt::run(std::env::args_os(), &mut streams).into()
}
