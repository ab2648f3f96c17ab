//! `haclt`: the command line.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use haclt::Streams;

fn main() -> ExitCode {
    let out = io::stdout();
    let terminal = out.is_terminal();
    // Who does not see the question cannot answer it.
    let somebody = io::stdin().is_terminal() && io::stderr().is_terminal();
    let ask = somebody.then_some(read_line as fn() -> io::Result<String>);
    let mut streams = Streams { out, notes: io::stderr(), terminal, ask };
    haclt::run(std::env::args_os(), &mut streams).into()
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line)
}
