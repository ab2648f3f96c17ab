//! Repository chores. `cargo xtask help` lists them; the `Makefile` has a door for most.

mod bench;
mod binaries;
mod cluster;
mod deps;
mod exec;
mod failure;
mod fuzz;
mod local;
mod paths;
mod ports;
mod sabotage;
mod say;
mod tidy;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Outcome;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Repository chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Build, start three agents and two PostgreSQL under ./.haclt, wait until healthy
    Up {
        /// Use the programs of the last build
        #[arg(long)]
        no_build: bool,
    },
    /// Stop what `up` started
    Down {
        /// Remove all its files too
        #[arg(long)]
        purge: bool,
    },
    /// Show the cluster that `up` started
    Status,
    /// Build the static guard into target/guard/ha-guard
    Guard,
    /// Run everything that must pass: format, lints, tests, docs, tidy, deps; writes nothing
    Verify,
    /// Rewrite what a program can put right
    Fix,
    /// Check sizes of files, words, `TODO` without an issue, paths of one machine
    Tidy,
    /// Check which crate depends on which
    Deps,
    /// Take one safety away at a time and see the fault suite find that (needs root; builds in target/sabotage)
    Sabotage,
    /// Feed what reads files, messages and arguments with random input (needs cargo-fuzz)
    Fuzz(fuzz::Options),
    /// Measure failovers and the idle cost, on hosts of its own (network namespaces; needs root)
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note!("error: {failure}");
            if let Some(hint) = failure.hint_text() {
                note!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(chore: &Chore) -> Outcome<()> {
    match chore {
        Chore::Up { no_build } => local::up::up(*no_build),
        Chore::Down { purge } => local::down::down(*purge),
        Chore::Status => local::up::status(),
        Chore::Guard => guard(),
        Chore::Verify => verify::verify(),
        Chore::Fix => verify::fix(),
        Chore::Tidy => tidy::tidy(),
        Chore::Deps => deps::deps(),
        Chore::Sabotage => sabotage::see(),
        Chore::Fuzz(options) => fuzz::fuzz(options),
        Chore::Bench(options) => bench::bench(options),
    }
}

fn guard() -> Outcome<()> {
    let path = binaries::guard()?;
    data!("{} ({} bytes)", path.display(), binaries::size(&path)?);
    Ok(())
}
