//! `ha-agent recover`, which `haclt recover` runs: a cluster whose majority is lost for good is made anew from this node.
//!
//! `ARCHITECTURE.md`, "A lost majority", says what is safe about it and what an operator has to vouch for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ha_core::NodeId;
use ha_core::state::State;
use ha_proto::v1::HelloRequest;
use ha_raft::recovery::{AnewError, Survivor, last_state, make_anew};
use ha_raft::{Cut, StoreError};
use serde_json::json;

use crate::clock;
use crate::config::{Config, ConfigError};
use crate::founding::cluster_text;
use crate::peers::Peers;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const REFUSED: u8 = 3;

/// How long the agent of another node may take to say that it is there.
const HELLO_LIMIT: Duration = Duration::from_secs(2);

/// Make the cluster anew from this node alone, after the majority of its nodes was lost for good
///
/// Prints what is known, what is not, and what would be lost; changes nothing until the cluster's name is typed, or
/// given with --confirm. To be run where this node's agent runs, which is stopped before.
#[derive(Debug, Parser)]
#[command(name = "ha-agent recover")]
pub struct Arguments {
    /// Configuration file of this node's agent
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Give up every other node of the cluster
    #[arg(long, required = true)]
    force_new_cluster: bool,
    /// Go on without asking; the name of the cluster
    #[arg(long, value_name = "CLUSTER")]
    confirm: Option<String>,
    /// Who decided it, for the record
    #[arg(long, value_name = "NAME", default_value = "somebody", hide = true)]
    by: String,
    /// Write the plan as JSON
    #[arg(long)]
    json: bool,
}

/// What would be done, and what is known.
struct Plan<'a> {
    config: &'a Config,
    survivor: Survivor,
    new: State,
}

/// Why it was not done: an exit code, and what to say.
struct Ended(u8, Vec<String>);

impl Ended {
    fn refused(why: impl Into<String>) -> Self {
        Self(REFUSED, vec![why.into()])
    }
}

/// Runs the command and returns its exit code.
pub fn run(arguments: &Arguments, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match recover(arguments, out, err) {
        Ok(()) => DONE,
        Err(Ended(code, lines)) => {
            for line in lines {
                // If standard error is closed there is nobody to tell.
                drop(writeln!(err, "error: {line}"));
            }
            code
        }
    }
}

fn recover(arguments: &Arguments, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Ended> {
    let config = load(arguments)?;
    if config.postgres.is_none() {
        let why =
            format!("node {} is a witness: a cluster is made anew from a data node", config.node);
        return Err(Ended::refused(why));
    }
    if arguments.confirm.as_ref().is_some_and(|name| *name != config.cluster) {
        let why = format!("this is a node of cluster {:?}: nothing was changed", config.cluster);
        return Err(Ended::refused(why));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Ended(FAILED, vec![error.to_string()]))?;
    let plan = runtime.block_on(plan(&config, &arguments.by))?;
    let text = if arguments.json { plan.json() } else { plan.text() };
    let told = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    told.map_err(|error| Ended(FAILED, vec![format!("cannot write: {error}")]))?;
    if arguments.confirm.is_none() && !asked(&config.cluster, err)? {
        drop(writeln!(err, "nothing was changed: add --confirm {}", config.cluster));
        return Ok(());
    }
    // Reading takes a while: somebody may have come back meanwhile.
    runtime.block_on(expect_nobody(&config, &plan.survivor.state))?;
    let root = config.data_dir.join("raft");
    let Plan { survivor, new, .. } = plan;
    let (cluster, node, grpc) = (&config.cluster, &config.node, &config.advertise_grpc);
    let made = make_anew(&root, cluster, node, grpc, &survivor, new);
    let kept = runtime.block_on(made).map_err(|error| match error {
        AnewError::Changed | AnewError::Store(StoreError::Locked { .. }) => {
            Ended::refused(error.to_string())
        }
        AnewError::Store(_) | AnewError::Done { .. } => Ended(FAILED, vec![error.to_string()]),
    })?;
    drop(writeln!(
        err,
        "cluster {cluster:?} consists of node {node} alone; its old store is kept as {}.\n\
         Start its agent. Empty what is left of the other nodes before you start one of their agents again, give \
         it join = true, and take it in: haclt node add NODE HOST:PORT",
        kept.display()
    ));
    Ok(())
}

fn load(arguments: &Arguments) -> Result<Config, Ended> {
    Config::load(&arguments.config, std::env::vars()).map_err(|error| match error {
        ConfigError::Faults { path, faults } => {
            let shown = path.display().to_string();
            let lines = faults.iter().map(|fault| format!("configuration {shown}: {fault}"));
            Ended(USAGE, lines.collect())
        }
        error => Ended(USAGE, vec![error.to_string()]),
    })
}

async fn plan<'a>(config: &'a Config, by: &str) -> Result<Plan<'a>, Ended> {
    let root = config.data_dir.join("raft");
    if !root.join("store").is_dir() {
        let why =
            format!("{} holds no store: this node was never part of a cluster", root.display());
        return Err(Ended::refused(why));
    }
    let read = last_state(&root, &config.cluster, &config.node).await;
    let survivor = read.map_err(|error| match error {
        StoreError::Locked { .. } => Ended::refused(format!(
            "the agent of node {} runs, or another recovery of it: stop it first",
            config.node
        )),
        error => Ended(FAILED, vec![error.to_string()]),
    })?;
    let id = u128::from(clock::random()) << 64 | u128::from(clock::random());
    let new = survivor.state.survived_by(&config.node, id, by, clock::wall_unix_ms());
    let new = new.map_err(|why| Ended::refused(why.to_string()))?;
    expect_nobody(config, &survivor.state).await?;
    Ok(Plan { config, survivor, new })
}

/// Refuses while the agent of another node answers.
async fn expect_nobody(config: &Config, state: &State) -> Result<(), Ended> {
    let known = state.nodes.iter().map(|(node, is)| (node.clone(), is.grpc.clone()));
    let mut addresses: BTreeMap<NodeId, String> = known.collect();
    addresses.extend(config.peers.clone());
    addresses.remove(&config.node);
    let peers = Peers::new(&addresses, Cut::default()).map_err(|why| Ended(FAILED, vec![why]))?;
    let mut lines = Vec::new();
    for node in addresses.into_keys() {
        let request = HelloRequest {
            cluster: config.cluster.clone(),
            from: config.node.to_string(),
            to: node.to_string(),
            protocol: ha_proto::PROTOCOL,
            ..HelloRequest::default()
        };
        let Ok(reply) = peers.hello(&node, request, HELLO_LIMIT).await else { continue };
        let other = !reply.cluster_id.is_empty() && reply.cluster_id != cluster_text(state);
        lines.push(if other || reply.generation > state.generation {
            format!(
                "the cluster was made anew already, and node {node} is part of it: empty this node, and have it taken \
                 in there (haclt node add)"
            )
        } else {
            format!(
                "the agent of node {node} answers: with a majority of the nodes nothing is to be recovered; if there \
                 is none for good, stop that agent first, it can come in again afterwards"
            )
        });
    }
    if lines.is_empty() { Ok(()) } else { Err(Ended(REFUSED, lines)) }
}

/// Has the name typed, if somebody is there to type it.
fn asked(cluster: &str, err: &mut dyn Write) -> Result<bool, Ended> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    drop(write!(err, "\nType the name of the cluster to go on: "));
    drop(err.flush());
    let mut typed = String::new();
    let read = stdin.lock().read_line(&mut typed);
    read.map_err(|error| Ended(FAILED, vec![format!("cannot read: {error}")]))?;
    if typed.trim() == cluster {
        return Ok(true);
    }
    Err(Ended::refused(format!("that is not {cluster:?}: nothing was changed")))
}

impl Plan<'_> {
    fn lost(&self) -> Vec<&str> {
        let all = self.survivor.state.nodes.keys();
        all.filter(|node| **node != self.config.node).map(NodeId::as_str).collect()
    }

    /// What this node cannot know, in words.
    fn unknown(&self) -> Vec<String> {
        let (node, state) = (&self.config.node, &self.survivor.state);
        let lost = self.lost().join(", ");
        let mut lines = vec![format!(
            "whether {lost} are gone for good: if enough of them come back without knowing of this, they are a \
             majority, and have a primary of their own"
        )];
        let mut promised = state.demands().peekable();
        if promised.peek().is_none() {
            lines.push(
                "what the last primary acknowledged and did not send: nothing was promised"
                    .to_owned(),
            );
        }
        for recorded in promised {
            // It may have been elected, and not have fetched yet what it lacked.
            let served = state.history.iter().any(|promotion| promotion.epoch == recorded.epoch);
            lines.push(if recorded.primary == *node && served {
                format!(
                    "whether another node became primary after epoch {}: what it acknowledged is lost; of what was \
                     acknowledged before, this node has everything",
                    recorded.epoch
                )
            } else {
                format!(
                    "which acknowledged commits it lacks: those of node {} in epoch {} needed {}",
                    recorded.primary, recorded.epoch, recorded.quorum
                )
            });
        }
        if state.is_paused() {
            lines.push(
                "whether a lost primary still runs: in a pause only switching it off stops it"
                    .to_owned(),
            );
        }
        lines
    }

    fn text(&self) -> String {
        let (node, state) = (&self.config.node, &self.survivor.state);
        let holder = state.lease.holder().map_or("nobody", NodeId::as_str);
        let lost = self.lost().join(", ");
        let unknown: String =
            self.unknown().iter().map(|line| ["  - ", line, "\n"].concat()).collect();
        format!(
            "Cluster {:?} would be made anew from node {node} alone.\n\n\
             This node knows: epoch {}, lease held by {holder}, log entry {}, durability {}.\n\
             Given up: {lost}.\n\n\
             It cannot know:\n\
             {unknown}\n\
             Before you go on:\n\
             \x20 [ ] {lost} are switched off, or their agents cannot start: no power, no disk, no unit\n\
             \x20 [ ] no other data node has more: the one with the latest WAL is the one to recover from\n\
             \x20 [ ] clients that could reach another node are stopped\n\
             \x20 [ ] a copy of this node's data directory is made, if there is room\n\n\
             Afterwards this node is primary without a standby (durability {}), until others are taken in.\n\
             What is left of the other nodes' databases must not be used again: it is emptied first.\n",
            state.cluster,
            state.last_epoch,
            self.survivor.last_log,
            state.durability,
            self.new.durability,
        )
    }

    fn json(&self) -> String {
        let state = &self.survivor.state;
        let plan = json!({
            "cluster": state.cluster,
            "node": self.config.node,
            "epoch": state.last_epoch,
            "lease_holder": state.lease.holder(),
            "log_entry": self.survivor.last_log,
            "given_up": self.lost(),
            "unknown": self.unknown(),
            "generation": self.new.generation,
            "durability": self.new.durability.to_string(),
        });
        format!("{plan:#}")
    }
}
