//! `haclt node`.

use std::io::Write;

use clap::{Args, Subcommand};
use ha_core::NodeId;

use crate::client::AdminClient;
use crate::commands::order::Waiting;
use crate::endpoint::parse_endpoints;
use crate::render::json::{self, Layout};
use crate::render::{nodes, prose};
use crate::{CliError, ExitCode, Streams};

/// List the nodes, take one in or out, or one in whose disk was lost
///
/// Example: haclt node list
#[derive(Debug, Args)]
pub struct Node {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Add(Add),
    Remove(Remove),
    Replace(Replace),
}

/// List the nodes, and their places among the voters
///
/// STORE is the identity of the Raft store that the others know of a node. One that answers with another store
/// lost its own, or is an old host that came back.
///
/// Example: haclt node list
#[derive(Debug, Args)]
struct List {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Take a new node into the cluster
///
/// Start its agent first, with `join = true`, an empty data directory, and the agents that there are under `peers`: it
/// waits. Then this gives it everything that the agents have agreed on, and a vote; a data node is cloned by
/// itself. Write it into the other agents' configurations when that suits you. For a node that is being taken
/// out, and without an address, it takes that back.
///
/// Example: haclt node add n4 10.77.0.4:7400
#[derive(Debug, Args)]
struct Add {
    /// Name of the node, as in its configuration
    node: NodeId,
    /// Where its agent listens
    #[arg(value_name = "HOST:PORT", value_parser = parse_address)]
    address: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Take a node out of the cluster for good
///
/// Its database is stopped; no commit waits for it any more; it is out once every commit that it may have acknowledged
/// is on enough others. Refused for the primary, and where fewer than three nodes would be left. Its files are
/// left alone: stop its agent afterwards, and delete what you do not need.
///
/// Example: haclt node remove n4
#[derive(Debug, Args)]
struct Remove {
    /// Node that leaves
    node: NodeId,
    #[command(flatten)]
    waiting: Waiting,
}

/// Take a node in whose disk was lost
///
/// Start its agent on the new disk first, with the old configuration and an empty data directory: it waits, and takes
/// part in nothing. Then this takes the lost store out of the group and the new one in; a data node is
/// cloned by itself. Refused while nobody is primary, and for a store that was part of a group before.
///
/// Example: haclt node replace n3
#[derive(Debug, Args)]
struct Replace {
    /// Node that lost its disk
    node: NodeId,
    #[command(flatten)]
    waiting: Waiting,
}

fn parse_address(text: &str) -> Result<String, String> {
    let named = parse_endpoints([text]).map_err(|error| error.to_string())?;
    match named.as_slice() {
        [endpoint] => Ok(endpoint.to_string()),
        _ => Err("expected one HOST:PORT".to_owned()),
    }
}

impl Node {
    /// Lists the nodes, or takes one in or out.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        match self.command {
            Command::List(list) => list.run(client, streams).await,
            Command::Add(add) => {
                add.waiting.begin(client);
                let answer = client.add_node(&add.node, add.address.as_deref()).await?;
                add.waiting.tell(&answer, streams)
            }
            Command::Remove(remove) => {
                remove.waiting.begin(client);
                let answer = client.remove_node(&remove.node).await?;
                remove.waiting.tell(&answer, streams)
            }
            Command::Replace(replace) => {
                replace.waiting.begin(client);
                let answer = client.replace(&replace.node).await?;
                replace.waiting.tell(&answer, streams)
            }
        }
    }
}

impl List {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.nodes().await?;
        prose::tell(&answer, streams);
        let entries = &answer.reply.nodes;
        let text =
            if self.json { json::nodes(entries, Layout::Pretty) } else { nodes::nodes(entries) };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}
