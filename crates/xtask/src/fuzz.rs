//! Runs the fuzz targets of `fuzz/` one after the other: `docs/fuzzing.md`.

use std::fs;
use std::process::Command;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::{exec, note, paths};

/// How long an input is at most: most of what is read is short, and short ones run more often.
const INPUT_BYTES_MAX: u32 = 4096;
/// How long one input may take before that is a finding, seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// How much memory a target may take before that is a finding, MiB.
const MEMORY_MIB_MAX: u32 = 2048;

/// What to run, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Write inputs that reach something new to fuzz/corpus, which is kept in the repository
    #[arg(long)]
    grow: bool,
}

/// Runs all targets, so that one finding does not hide another.
pub(crate) fn fuzz(options: &Options) -> Outcome<()> {
    if !exec::in_path("cargo-fuzz") {
        return Err(Failure::new("cannot fuzz: cargo-fuzz is not installed")
            .hint("Run `cargo install cargo-fuzz`, then try again."));
    }
    let known = targets()?;
    let chosen: Vec<&String> = match &options.target {
        Some(wanted) => known.iter().filter(|name| *name == wanted).collect(),
        None => known.iter().collect(),
    };
    if chosen.is_empty() {
        return Err(Failure::new("there is no such target")
            .hint(format!("There are {}.", known.join(", "))));
    }
    let mut found = Vec::new();
    for name in chosen {
        note!("==> {name}, {} s", options.seconds);
        if let Err(failure) = run(name, options) {
            note!("    {name}: {failure}");
            found.push(name.as_str());
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("found something in {}", found.join(", ")))
        .hint("The input is in fuzz/artifacts; `cargo fuzz run TARGET FILE` runs it again."))
}

/// The programs that `fuzz/Cargo.toml` names.
fn targets() -> Outcome<Vec<String>> {
    let manifest = paths::workspace().join("fuzz").join("Cargo.toml");
    let text =
        fs::read_to_string(&manifest).doing(|| "could not read fuzz/Cargo.toml".to_owned())?;
    let table: toml::Table = text.parse().doing(|| "could not read fuzz/Cargo.toml".to_owned())?;
    let programs = table.get("bin").and_then(toml::Value::as_array);
    let name = |program: &toml::Value| program.get("name")?.as_str().map(str::to_owned);
    Ok(programs.into_iter().flatten().filter_map(name).collect())
}

fn run(name: &str, options: &Options) -> Outcome<()> {
    let kept = format!("fuzz/corpus/{name}");
    // What is found goes where git does not look, unless that is asked for.
    let grown = format!("fuzz/target/corpus/{name}");
    fs::create_dir_all(paths::workspace().join(&grown))
        .doing(|| format!("could not make {grown}"))?;
    let mut command = paths::cargo();
    command.args(["fuzz", "run", "--sanitizer", "none", name]);
    if !options.grow {
        command.arg(&grown);
    }
    command.args([&kept, "--"]);
    command.arg(format!("-max_total_time={}", options.seconds));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
    command.arg("-print_final_stats=1");
    exec::run(stable(&mut command))
}

/// Coverage needs flags of the compiler that stable releases hide; they do the same there.
fn stable(command: &mut Command) -> &mut Command {
    command.env("RUSTC_BOOTSTRAP", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_inputs() {
        let names = targets().unwrap();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            let folder = paths::workspace().join("fuzz").join("corpus").join(&name);
            let some = fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_some());
            assert!(some, "fuzz/corpus/{name} holds nothing");
        }
    }
}
