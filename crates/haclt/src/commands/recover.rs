//! `haclt recover`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::asker::asker;
use crate::commands::adopt::run_agent;
use crate::{CliError, ExitCode, Streams};

/// Make the cluster anew from this node alone, after its majority was lost for good
///
/// The last resort, when so many hosts are destroyed that the rest can decide nothing any more. Prints what is known,
/// what cannot be known, and a checklist; changes nothing until the cluster's name is typed, or given with
/// --confirm. To be run on the surviving data node while its agent is stopped; asks no agent, but runs `ha-agent
/// recover`, which is installed beside `haclt`. Refused while another node's agent answers.
///
/// Example: haclt recover --config /etc/haclt/agent.toml --force-new-cluster
#[derive(Debug, Args)]
pub struct Recover {
    /// Configuration file of this node's agent
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Give up every other node of the cluster
    #[arg(long, required = true)]
    force_new_cluster: bool,
    /// Go on without asking; the name of the cluster
    #[arg(long, value_name = "CLUSTER")]
    confirm: Option<String>,
    /// Write the plan as JSON
    #[arg(long)]
    json: bool,
}

impl Recover {
    /// Runs the agent's program, which writes to the same streams.
    ///
    /// # Errors
    /// [`CliError::Agent`] if it is not there.
    pub fn run(self, streams: &mut Streams<impl Write, impl Write>) -> Result<ExitCode, CliError> {
        let Self { config, force_new_cluster: _, confirm, json } = self;
        let mut words: Vec<OsString> = vec![
            "recover".into(),
            "--force-new-cluster".into(),
            "--config".into(),
            config.into(),
            "--by".into(),
            asker().into(),
        ];
        words.extend(confirm.into_iter().flat_map(|name| ["--confirm".into(), name.into()]));
        words.extend(json.then(|| "--json".into()));
        run_agent(&words, streams)
    }
}
