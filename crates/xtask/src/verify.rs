//! The gate: everything that must pass, step by step, each with its time.

mod counts;
mod leftovers;

use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing as _, Failure, Outcome};
use crate::{binaries, deps, exec, note, paths, sabotage, tidy};
use counts::{Counts, Runner};

/// How a step went.
enum Done {
    Passed,
    /// Not run, and why.
    Skipped(&'static str),
}

type Step = (&'static str, fn(&mut Counts) -> Outcome<Done>);

const STEPS: [Step; 15] = [
    ("format", |_| cargo(&["fmt", "--all", "--check"])),
    ("tidy", |_| tidy::tidy().map(passed)),
    ("deps", |_| deps::deps().map(passed)),
    ("typos", |_| optional("typos", Command::new("typos").args(["--config", ".typos.toml"]))),
    ("deny", |_| {
        let arguments = ["deny", "--locked", "check", "--config", ".deny.toml"];
        optional("cargo-deny", paths::cargo().args(arguments))
    }),
    ("machete", |_| optional("cargo-machete", paths::cargo().arg("machete"))),
    ("lints", |_| {
        let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--"];
        exec::run(paths::cargo().args(arguments).args(["-D", "warnings"])).map(passed)
    }),
    ("build", |_| cargo(&["build", "--locked", "--workspace", "--all-targets"])),
    ("guard", |_| binaries::guard().map(passed)),
    ("sabotage", |_| sabotage::check().map(passed)),
    ("tests", tests),
    ("faults", |_| faults()),
    ("leftovers", |_| leftovers::none(&marker(), Duration::from_secs(5)).map(passed)),
    ("doc tests", |counts| {
        let mut command = paths::cargo();
        command.args(["test", "--locked", "--workspace", "--doc"]);
        counted(Runner::Cargo, &mut command, counts)
    }),
    ("docs", |_| {
        let mut command = paths::cargo();
        command.args(["doc", "--locked", "--workspace", "--no-deps"]);
        exec::run(command.env("RUSTDOCFLAGS", "-D warnings")).map(passed)
    }),
];

/// Steps without which the following ones would only fail too.
const NEEDED: [&str; 2] = ["build", "guard"];

/// Runs all steps, so that one failure does not hide another.
pub(crate) fn verify() -> Outcome<()> {
    let began = Instant::now();
    let mut counts = Counts::default();
    let (mut skipped, mut failed) = (Vec::new(), Vec::new());
    for (index, (name, step)) in STEPS.into_iter().enumerate() {
        note!("==> {}/{} {name}", index + 1, STEPS.len());
        let started = Instant::now();
        let outcome = step(&mut counts);
        let took = started.elapsed().as_secs_f64();
        match outcome {
            Ok(Done::Passed) => note!("    {name}: passed in {took:.1} s"),
            Ok(Done::Skipped(why)) => {
                note!("    {name}: SKIPPED, {why}");
                skipped.push(name);
            }
            Err(failure) => {
                note!("    {name}: FAILED after {took:.1} s: {failure}");
                failed.push(format!("{name}: {failure}"));
                if NEEDED.contains(&name) {
                    failed.push("not run any more: what needs this step".to_owned());
                    break;
                }
            }
        }
    }
    if !skipped.is_empty() {
        note!("SKIPPED: {}", skipped.join(", "));
    }
    for failure in &failed {
        note!("FAILED {failure}");
    }
    note!("verify took {:.0} s", began.elapsed().as_secs_f64());
    // In a form that every reader of test logs knows.
    crate::data!("{counts}");
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("verify failed in {} steps", failed.len())))
}

/// Rewrites what a program can put right: format, and what clippy knows how to change.
pub(crate) fn fix() -> Outcome<()> {
    let arguments = ["clippy", "--fix", "--workspace", "--all-targets", "--allow-dirty"];
    exec::run(paths::cargo().args(arguments).arg("--allow-staged"))?;
    exec::run(paths::cargo().args(["fmt", "--all"]))?;
    if exec::in_path("typos") {
        let mut typos = Command::new("typos");
        typos.args(["--config", ".typos.toml", "--write-changes"]);
        exec::run(typos.current_dir(paths::workspace()))?;
    }
    Ok(())
}

fn passed<T>(_: T) -> Done {
    Done::Passed
}

fn cargo(arguments: &[&str]) -> Outcome<Done> {
    exec::run(paths::cargo().args(arguments)).map(passed)
}

/// Runs a program that may be absent.
fn optional(program: &str, command: &mut Command) -> Outcome<Done> {
    if !exec::in_path(program) {
        return Ok(Done::Skipped("it is not installed"));
    }
    exec::run(command.current_dir(paths::workspace())).map(passed)
}

/// What the tests' processes, and all that these start, carry in their environment.
fn marker() -> String {
    format!("verify-{}", std::process::id())
}

fn tests(counts: &mut Counts) -> Outcome<Done> {
    let mut command = paths::cargo();
    let runner = if exec::in_path("cargo-nextest") {
        command.args(["nextest", "run", "--locked", "--workspace"]);
        Runner::Nextest
    } else {
        note!("    cargo-nextest is not installed: no limit on time or parallel system tests");
        command.args(["test", "--locked", "--workspace", "--lib", "--bins", "--tests"]);
        command.args(["--no-fail-fast", "--", "--test-threads=2"]);
        Runner::Cargo
    };
    counted(runner, command.env(leftovers::VARIABLE, marker()), counts)
}

/// Real clusters, hurt on purpose: the short list of the fault suite. What it found is kept for whoever looks.
fn faults() -> Outcome<Done> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Done::Skipped("networks of their own need root"));
    }
    let target = paths::target()?;
    let store = target.join("faults");
    if store.exists() {
        fs::remove_dir_all(&store).doing(|| format!("could not remove {}", store.display()))?;
    }
    let mut suite = Command::new(target.join("debug/jepsen"));
    suite.args(["suite", "quick", "--jobs", "2", "--store"]).arg(&store);
    exec::run(suite.env(leftovers::VARIABLE, marker()).current_dir(paths::workspace())).map(passed)
}

/// Runs a test runner, shows what it says as it says it, and counts its tests.
fn counted(runner: Runner, command: &mut Command, counts: &mut Counts) -> Outcome<Done> {
    let colour = if std::io::stderr().is_terminal() { "always" } else { "never" };
    let shown = exec::shown(command);
    let mut child = command
        .env("CARGO_TERM_COLOR", colour)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("could not start `{shown}`"))?;
    let stdout = child.stdout.take().map(|pipe| thread::spawn(move || relay(runner, pipe)));
    let stderr = child.stderr.take().map(|pipe| thread::spawn(move || relay(runner, pipe)));
    let status = child.wait().doing(|| format!("could not wait for `{shown}`"))?;
    for relayed in [stdout, stderr].into_iter().flatten() {
        counts.add(relayed.join().unwrap_or_default());
    }
    if status.success() {
        return Ok(Done::Passed);
    }
    Err(Failure::new(format!("`{shown}` failed with {status}")))
}

fn relay(runner: Runner, pipe: impl std::io::Read) -> Counts {
    let mut counts = Counts::default();
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        note!("{line}");
        counts.add(Counts::of_line(runner, &line));
    }
    counts
}
