//! `ha-agent adopt`, which `haclt adopt` runs: takes over a database that exists, and gives it back.

mod peers;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ha_postgres::adopt::{self, AdoptError, Fault, Phase, Request, Source};

use crate::config::{Config, ConfigError, DriverSettings, PostgresSettings};
use crate::{crash_point, preflight};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const REFUSED: u8 = 3;
const UNKNOWN: u8 = 4;

/// How long an agent that runs may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const SOCKET: &str = "unix:///var/run/docker.sock";

/// Take over an existing database as this node's, or give it back
///
/// Says what would change and why, and changes nothing, unless --yes is given. To be run where the data
/// is, as root, while the old server runs and this node's agent does not.
#[derive(Debug, Parser)]
#[command(name = "ha-agent adopt")]
pub struct Arguments {
    /// Configuration file of this node's agent
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Container that runs the old server
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from_data_dir", "undo"])]
    from_container: Option<String>,
    /// Data directory of the old server, which runs on this machine
    #[arg(long, value_name = "DIR", conflicts_with = "undo")]
    from_data_dir: Option<PathBuf>,
    /// Role to look at the old server with, if it is not postgres or the container's `POSTGRES_USER`
    #[arg(long = "as", value_name = "ROLE")]
    superuser: Option<String>,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Give the database back: with --yes, put everything where it was
    #[arg(long)]
    undo: bool,
    /// Write the plan as JSON
    #[arg(long)]
    json: bool,
}

/// Where the command writes.
struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

impl Streams<'_> {
    fn say(&mut self, text: &str) -> u8 {
        if writeln!(self.out, "{}", text.trim_end()).is_err() { FAILED } else { DONE }
    }

    /// Says what is wrong in one line, and what to do about it in another.
    fn complain(&mut self, what: &str, hint: &str) {
        // If standard error is closed there is nobody to tell.
        drop(writeln!(self.err, "error: {what}"));
        if !hint.is_empty() {
            drop(writeln!(self.err, "hint: {hint}"));
        }
    }

    fn refuse(&mut self, faults: &[Fault]) -> u8 {
        for Fault { what, hint } in faults {
            self.complain(what, hint);
        }
        if faults.is_empty() { DONE } else { REFUSED }
    }
}

/// Runs the command and returns its exit code.
pub fn run(arguments: &Arguments, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut streams = Streams { out, err };
    let config = match Config::load(&arguments.config, std::env::vars()) {
        Ok(config) => config,
        Err(ConfigError::Faults { path, faults }) => {
            for fault in faults {
                streams.complain(&format!("configuration {}: {fault}", path.display()), "");
            }
            return USAGE;
        }
        Err(error) => {
            streams.complain(&error.to_string(), "");
            return USAGE;
        }
    };
    let Some(settings) = &config.postgres else {
        streams.complain("a witness has no database to adopt", "");
        return USAGE;
    };
    if !arguments.undo && arguments.from_container.is_none() && arguments.from_data_dir.is_none() {
        let hint = "Name it with --from-container or --from-data-dir.";
        streams.complain("it is not said what to adopt", hint);
        return USAGE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            streams.complain(&format!("cannot start the runtime: {error}"), "");
            return FAILED;
        }
    };
    let code = runtime.block_on(async {
        let request = match request(&config, settings, arguments).await {
            Ok(request) => request,
            Err(faults) => {
                for fault in &faults {
                    streams.complain(fault, "");
                }
                return USAGE;
            }
        };
        let done = if arguments.undo {
            undo(&config, &request, arguments, &mut streams).await
        } else {
            adopt(&config, &request, arguments, &mut streams).await
        };
        done.unwrap_or_else(|error| stopped(&error, arguments, &mut streams))
    });
    runtime.shutdown_background();
    code
}

fn stopped(error: &AdoptError, arguments: &Arguments, streams: &mut Streams<'_>) -> u8 {
    match error {
        AdoptError::Nothing(_) => {
            streams.complain(&error.to_string(), "");
            FAILED
        }
        AdoptError::Halfway(_) => {
            let hint = if arguments.undo {
                "Type the same again: it goes on where it stopped."
            } else {
                "It is half done. Type the same again to go on where it stopped, or --undo --yes to go \
                 back."
            };
            streams.complain(&error.to_string(), hint);
            UNKNOWN
        }
    }
}

async fn request(
    config: &Config,
    settings: &PostgresSettings,
    arguments: &Arguments,
) -> Result<Request, Vec<String>> {
    let mut instance = preflight::instance_of(config, settings)?;
    let (mut directory, mut socket) = (None, SOCKET.to_owned());
    let major = match &settings.driver {
        DriverSettings::Process { bin_dir, run_as, .. } => {
            instance.run_as = preflight::run_as(run_as).map_err(|fault| vec![fault])?;
            directory = Some(bin_dir.clone());
            Some(preflight::major(bin_dir).map_err(|fault| vec![fault])?)
        }
        DriverSettings::Docker { socket: theirs, .. } => {
            socket.clone_from(theirs);
            instance.own_network = true;
            // The agent's image is made of the database's own: it has the same account.
            let major = std::env::var("PG_MAJOR").ok().and_then(|major| major.parse().ok());
            if major.is_some() {
                instance.run_as = preflight::run_as("postgres").map_err(|fault| vec![fault])?;
            }
            major
        }
    };
    let container = arguments.from_container.clone().map(Source::Container);
    let faults = instance.faults();
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Request {
        config: instance,
        source: container.or_else(|| arguments.from_data_dir.clone().map(Source::DataDir)),
        major,
        bin_dir: directory,
        socket,
        superuser: arguments.superuser.clone(),
        peers: config.peers.keys().filter(|node| **node != config.node).cloned().collect(),
        agent_runs: accepts(&config.advertise_grpc).await,
        between: crash_point::reached_in_adoption,
    })
}

/// Returns whether somebody listens there.
async fn accepts(address: &str) -> bool {
    let connecting = tokio::net::TcpStream::connect(address);
    matches!(tokio::time::timeout(CONNECT_LIMIT, connecting).await, Ok(Ok(_)))
}

async fn adopt(
    config: &Config,
    request: &Request,
    arguments: &Arguments,
    streams: &mut Streams<'_>,
) -> Result<u8, AdoptError> {
    if let Some(journal) = adopt::journal(request)? {
        match journal.phase {
            // Nothing had been done, or it can be done once more.
            Phase::Begun => {}
            Phase::Adopted => return Ok(streams.say(&report::adopted_before(config, &journal))),
            Phase::Undoing => {
                let what = "an undo of an earlier adoption is half done";
                return Ok(streams.refuse(&[Fault {
                    what: what.to_owned(),
                    hint: "Finish it with --undo --yes.".to_owned(),
                }]));
            }
            Phase::Stopping | Phase::Moving if arguments.yes => {
                let journal = adopt::resume(request, journal).await?;
                return Ok(streams.say(&report::adopted(config, &journal)));
            }
            Phase::Stopping | Phase::Moving => {
                return Ok(streams.say(&report::half_done(&journal)));
            }
        }
    }
    let prepared = adopt::prepare(request).await?;
    let plan = &prepared.plan;
    if arguments.json {
        let text = serde_json::to_string_pretty(plan).unwrap_or_default();
        streams.say(&text);
    } else {
        streams.say(&report::plan(config, plan));
    }
    let refused = streams.refuse(&plan.faults);
    if refused != DONE || !arguments.yes {
        return Ok(refused);
    }
    let journal = adopt::carry_out(request, &prepared).await?;
    Ok(if arguments.json { DONE } else { streams.say(&report::adopted(config, &journal)) })
}

async fn undo(
    config: &Config,
    request: &Request,
    arguments: &Arguments,
    streams: &mut Streams<'_>,
) -> Result<u8, AdoptError> {
    let mut found = adopt::prepare_undo(request).await?;
    found.faults.extend(peers::newer(config, &found).await);
    if !arguments.json {
        streams.say(&report::undo(&found));
    }
    let refused = streams.refuse(&found.faults);
    if refused != DONE || !arguments.yes {
        return Ok(refused);
    }
    let before = adopt::undo(request, found.journal).await?;
    Ok(if arguments.json { DONE } else { streams.say(&report::undone(&before)) })
}
