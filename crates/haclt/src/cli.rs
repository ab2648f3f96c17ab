//! The command line's arguments.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::AdminClient;
use crate::commands::adopt::Adopt;
use crate::commands::completions::Completions;
use crate::commands::config::Config;
use crate::commands::credentials::Credentials;
use crate::commands::diverged::Diverged;
use crate::commands::doctor::Doctor;
use crate::commands::drill::Drill;
use crate::commands::explain::Explain;
use crate::commands::failover::Failover;
use crate::commands::fence::{Fence, Unfence};
use crate::commands::journal::{Events, History};
use crate::commands::man::Man;
use crate::commands::node::Node;
use crate::commands::pause::{Pause, Resume};
use crate::commands::recover::Recover;
use crate::commands::remake::{Reclone, Rejoin, Reload};
use crate::commands::restart::Restart;
use crate::commands::status::Status;
use crate::commands::support::SupportBundle;
use crate::commands::switchover::Switchover;
use crate::duration::parse_duration;
use crate::endpoint::{DEFAULT_ENDPOINT, parse_endpoints};
use crate::{CliError, ExitCode, Streams};

pub(crate) const CONNECTION: &str = "Connection";

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule, 4 outcome unknown

At 3 a.m.: `haclt status` says what is wrong, `haclt explain` says why, `haclt doctor` what to mend.";

const AFTER_LONG_HELP: &str = "\
Exit codes:
  0  done
  1  failed; nothing was changed
  2  usage: the arguments are wrong
  3  refused by a rule
  4  outcome unknown: the order was sent, and may or may not have taken effect

Data goes to standard output, all else to standard error.

At 3 a.m.: `haclt status` says what is wrong, `haclt explain` says why, `haclt doctor` what to mend.";

/// Watch over a PostgreSQL cluster: what state it is in, and why
///
/// Asks any agent of the cluster, over gRPC.
#[derive(Debug, Parser)]
#[command(
    name = "haclt",
    version,
    disable_help_subcommand = true,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP
)]
pub struct Cli {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Connect {
    /// Agents to ask, in turn
    ///
    /// The gRPC addresses of agents, separated by commas; the option may also be repeated. The
    /// first that answers is believed, unless it knows no leader with a quorum: then the others
    /// are asked too, and the best view counts. IPv6 addresses stand in brackets. If none is
    /// named, the agent on this machine is asked, at 127.0.0.1:7400.
    #[arg(
        long = "endpoint",
        global = true,
        help_heading = CONNECTION,
        env = "HACLT_ENDPOINTS",
        hide_env_values = true,
        value_name = "HOST:PORT[,HOST:PORT...]"
    )]
    endpoints: Vec<String>,
    /// Cluster that is meant; agents of any other are refused
    #[arg(long, global = true, help_heading = CONNECTION, value_name = "NAME")]
    cluster: Option<String>,
    /// Longest time to wait for an answer, all agents together
    ///
    /// A whole number and a unit: 500ms, 5s, 1m. The time is shared fairly between the agents
    /// that are still to be asked, and none is given more than 700 ms to accept a connection.
    #[arg(
        long,
        global = true,
        help_heading = CONNECTION,
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_duration
    )]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
    Explain(Explain),
    Doctor(Doctor),
    Switchover(Switchover),
    Drill(Drill),
    Restart(Restart),
    Failover(Failover),
    Pause(Pause),
    Resume(Resume),
    Fence(Fence),
    Unfence(Unfence),
    Reclone(Reclone),
    Rejoin(Rejoin),
    Reload(Reload),
    Node(Node),
    Events(Events),
    History(History),
    Config(Config),
    Credentials(Credentials),
    Diverged(Diverged),
    SupportBundle(SupportBundle),
    Adopt(Adopt),
    Recover(Recover),
    Completions(Completions),
    Man(Man),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// [`CliError`] if it was not done.
    pub fn run(self, streams: &mut Streams<impl Write, impl Write>) -> Result<ExitCode, CliError> {
        let Self { connect, command } = self;
        match command {
            Command::Status(status) => {
                let mut client = connect.client()?;
                block_on(status.run(&mut client, streams))
            }
            Command::Explain(explain) => {
                let mut client = connect.client()?;
                block_on(explain.run(&mut client, streams))
            }
            Command::Doctor(doctor) => {
                let mut client = connect.client()?;
                block_on(doctor.run(&mut client, streams))
            }
            Command::Switchover(switchover) => {
                let mut client = connect.client()?;
                block_on(switchover.run(&mut client, streams))
            }
            Command::Drill(drill) => {
                let mut client = connect.client()?;
                block_on(drill.run(&mut client, streams))
            }
            Command::Restart(restart) => {
                let mut client = connect.client()?;
                block_on(restart.run(&mut client, streams))
            }
            Command::Failover(failover) => {
                let mut client = connect.client()?;
                block_on(failover.run(&mut client, streams))
            }
            Command::Pause(pause) => {
                let mut client = connect.client()?;
                block_on(pause.run(&mut client, streams))
            }
            Command::Resume(resume) => {
                let mut client = connect.client()?;
                block_on(resume.run(&mut client, streams))
            }
            Command::Fence(fence) => {
                let mut client = connect.client()?;
                block_on(fence.run(&mut client, streams))
            }
            Command::Unfence(unfence) => {
                let mut client = connect.client()?;
                block_on(unfence.run(&mut client, streams))
            }
            Command::Reclone(reclone) => {
                let mut client = connect.client()?;
                block_on(reclone.run(&mut client, streams))
            }
            Command::Rejoin(rejoin) => {
                let mut client = connect.client()?;
                block_on(rejoin.run(&mut client, streams))
            }
            Command::Reload(reload) => {
                let mut client = connect.client()?;
                block_on(reload.run(&mut client, streams))
            }
            Command::Node(node) => {
                let mut client = connect.client()?;
                block_on(node.run(&mut client, streams))
            }
            Command::Events(events) => {
                let mut client = connect.client()?;
                block_on(events.run(&mut client, streams))
            }
            Command::History(history) => {
                let mut client = connect.client()?;
                block_on(history.run(&mut client, streams))
            }
            Command::Config(config) => {
                let mut client = connect.client()?;
                block_on(config.run(&mut client, streams))
            }
            Command::Credentials(credentials) => {
                let mut client = connect.client()?;
                block_on(credentials.run(&mut client, streams))
            }
            Command::Diverged(diverged) => {
                let mut client = connect.client()?;
                block_on(diverged.run(&mut client, streams))
            }
            Command::SupportBundle(bundle) => {
                let mut client = connect.client()?;
                block_on(bundle.run(&mut client, streams))
            }
            Command::Adopt(adopt) => adopt.run(streams),
            Command::Recover(recover) => recover.run(streams),
            Command::Completions(completions) => completions.run(streams),
            Command::Man(man) => man.run(streams),
        }
    }
}

impl Connect {
    /// Returns the client for the endpoints that were named, or for the agent on this machine.
    ///
    /// An empty list is no list: environments are often set from variables that are not.
    fn client(self) -> Result<AdminClient, CliError> {
        let named: Vec<&str> = self
            .endpoints
            .iter()
            .map(String::as_str)
            .filter(|list| !list.trim().is_empty())
            .collect();
        let by_default = named.is_empty();
        let lists = if by_default { vec![DEFAULT_ENDPOINT] } else { named };
        let endpoints = parse_endpoints(lists).map_err(CliError::Endpoints)?;
        Ok(AdminClient::new(endpoints, by_default, self.cluster, self.timeout))
    }
}

/// Runs a request on a runtime of one thread, started only by commands that make one.
fn block_on<T>(request: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Start)?;
    let outcome = runtime.block_on(request);
    // Without waiting for a name that is still being looked up.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
