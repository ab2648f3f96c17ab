//! `ha-agent`: the haclt daemon of one node.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ha_agent::adopt;
use ha_agent::config::{Config, ConfigError};
use ha_agent::drill::freeze;
use ha_agent::launch::{self, RunError};
use ha_agent::preflight::{self, Checked};
use ha_agent::recent_log;
use ha_agent::recover;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Failed.
const FAILED: u8 = 1;
/// The configuration is wrong.
const USAGE: u8 = 2;
/// A rule refused.
const REFUSED: u8 = 3;

#[cfg(not(feature = "sabotage"))]
const VERSION: &str = env!("CARGO_PKG_VERSION");
#[cfg(feature = "sabotage")]
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " SABOTAGE BUILD: unsafe on purpose, for tests");

/// The haclt daemon: keeps one node of a PostgreSQL cluster in its role
#[derive(Debug, Parser)]
#[command(
    name = "ha-agent",
    version = VERSION,
    after_help = "`ha-agent adopt --help`: takes over a database that exists\n\
                  `ha-agent recover --help`: makes the cluster anew from one survivor"
)]
struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and what it names, change nothing, and exit
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "adopt") {
        words.remove(1);
        let arguments = adopt::Arguments::parse_from(words);
        let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
        return ExitCode::from(adopt::run(&arguments, &mut out, &mut err));
    }
    if words.get(1).is_some_and(|word| word == "recover") {
        words.remove(1);
        let arguments = recover::Arguments::parse_from(words);
        return ExitCode::from(recover::run(
            &arguments,
            &mut std::io::stdout(),
            &mut std::io::stderr(),
        ));
    }
    if words.get(1).is_some_and(|word| word == freeze::THAW) {
        let words = words.into_iter().skip(2).map(|word| word.to_string_lossy().into_owned());
        return ExitCode::from(freeze::thaw(&words.collect::<Vec<_>>()));
    }
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config, std::env::vars()) {
        Ok(config) => config,
        Err(ConfigError::Faults { path, faults }) => {
            for fault in faults {
                complain(&format!("configuration {}: {fault}", path.display()), "");
            }
            return ExitCode::from(USAGE);
        }
        Err(error) => {
            complain(&error.to_string(), "");
            return ExitCode::from(USAGE);
        }
    };
    let faults = preflight::beside(&config);
    let checked = match preflight::check(&config) {
        Ok(checked) => checked,
        Err(more) => {
            for fault in more.iter().chain(arguments.check.then_some(&faults).into_iter().flatten())
            {
                complain(fault, "");
            }
            return ExitCode::from(USAGE);
        }
    };
    if arguments.check {
        for fault in &faults {
            complain(fault, "");
        }
        if !faults.is_empty() {
            return ExitCode::from(USAGE);
        }
        return report_check(&config, checked.as_ref());
    }
    init_log(&config);
    #[cfg(feature = "sabotage")]
    tracing::error!(
        missing = ha_raft::sabotage::named().unwrap_or("nothing"),
        "SABOTAGE BUILD: unsafe on purpose, never for data that matters"
    );
    for note in &config.notes {
        tracing::info!(note, "configuration note");
    }
    for fault in faults {
        tracing::warn!(fault, "configured, and does not work");
    }
    match start(config, checked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "agent ended");
            complain(&error.to_string(), &error.hint());
            ExitCode::from(if error.is_refusal() { REFUSED } else { FAILED })
        }
    }
}

fn start(config: Config, checked: Option<Checked>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .thread_name("ha-agent")
        .enable_all()
        .build()
        .map_err(|error| RunError::Server(format!("cannot start the runtime: {error}")))?;
    // The driver may watch something in the background.
    let inside = runtime.enter();
    let database = checked.map(Checked::into_driver).transpose();
    let database = database.map_err(|error| RunError::Server(error.to_string()))?;
    let database = database.map(|(driver, major)| (Arc::new(driver), major));
    drop(inside);
    let result = runtime.block_on(async {
        let stop = told_to_stop()?;
        launch::run(config, database, stop).await
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

fn told_to_stop() -> Result<impl Future<Output = ()>, RunError> {
    let failed = |error: std::io::Error| RunError::Server(format!("cannot watch signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn init_log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(recent_log::writer);
    if config.log_json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
}

fn report_check(config: &Config, checked: Option<&Checked>) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let version = checked.map_or(String::new(), |c| format!(", PostgreSQL {}", c.major));
    let mut lines = vec![format!(
        "configuration is good: node {} ({}) of cluster {:?}{version}",
        config.node, config.kind, config.cluster
    )];
    let notes = config.notes.iter().chain(checked.iter().flat_map(|checked| &checked.notes));
    lines.extend(notes.map(|note| format!("note: {note}")));
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return ExitCode::from(FAILED);
        }
    }
    ExitCode::SUCCESS
}

/// Says what is wrong on standard error, in one line, and what to do about it in another.
fn complain(what: &str, hint: &str) {
    let mut err = std::io::stderr().lock();
    // If standard error is closed there is nobody to tell.
    drop(writeln!(err, "error: {what}"));
    if !hint.is_empty() {
        drop(writeln!(err, "hint: {hint}"));
    }
}
