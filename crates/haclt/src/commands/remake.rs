//! `haclt reclone`, `haclt rejoin` and `haclt reload`.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Write;
use std::time::Duration;

use clap::Args;
use ha_core::NodeId;
use tokio::time::{Instant, sleep};

use crate::client::{AdminClient, Remake};
use crate::commands::order::Waiting;
use crate::render::prose;
use crate::reply::order::OrderOutcome;
use crate::{CliError, ExitCode, Streams};

/// The pause before agents that gave no answer are asked again.
const PAUSE: Duration = Duration::from_millis(300);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(4);

/// Make a standby anew, as a copy of the primary
///
/// Refused for a primary, and while no primary serves: what the node has may be the last good copy. What is there
/// now stays in place until the copy is whole, and is moved aside then, so there has to be room for
/// both. If this program is interrupted the copying goes on; `--cancel` ends it.
///
/// Example: haclt reclone n2 --max-rate 50
#[derive(Debug, Args)]
pub struct Reclone {
    /// Node whose data directory is made anew
    node: NodeId,
    /// Copy from this node instead of the primary
    #[arg(long, value_name = "NODE")]
    from: Option<NodeId>,
    /// Copy at most so many MiB a second
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_rate: Option<u32>,
    /// Take the order back; a copy that is not whole is thrown away
    #[arg(long, conflicts_with_all = ["from", "max_rate"])]
    cancel: bool,
    #[command(flatten)]
    waiting: LongWaiting,
}

/// Rewind a node that waits for you because of `rejoin = "manual"`
///
/// What the node had and the cluster went on without is kept aside first: `haclt diverged list`.
///
/// Example: haclt rejoin n1
#[derive(Debug, Args)]
pub struct Rejoin {
    /// Node that is rewound
    node: NodeId,
    #[command(flatten)]
    waiting: LongWaiting,
}

/// Have PostgreSQL read its configuration files again
///
/// Refused if something is wrong with the files. Says which parameters wait for a restart afterwards.
///
/// Example: haclt reload --all
#[derive(Debug, Args)]
pub struct Reload {
    /// Node whose PostgreSQL reads them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    node: Option<NodeId>,
    /// Every data node
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// How long to wait for what may take hours.
#[derive(Debug, Clone, Args)]
struct LongWaiting {
    /// Longest time to wait until the node follows the primary
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m. Then exit code 4: it goes on by itself.
    #[arg(
        long,
        help_heading = crate::cli::CONNECTION,
        value_name = "SECONDS",
        default_value = "60m",
        value_parser = crate::duration::parse_wait
    )]
    timeout: Duration,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl LongWaiting {
    fn waiting(&self) -> Waiting {
        Waiting { timeout: self.timeout, json: self.json }
    }
}

impl Reclone {
    /// Orders a clone, and waits for its end; or takes the order back.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        if self.cancel {
            let answer = client.remake(&self.node, &Remake::Cancel, 0).await?;
            return self.waiting.waiting().tell(&answer, streams);
        }
        let max_rate_kib = self.max_rate.map(|mib| mib * 1024);
        let how = Remake::Clone { from: self.from, max_rate_kib };
        until_end(client, streams, &self.node, &how, &self.waiting.waiting()).await
    }
}

impl Rejoin {
    /// Orders a rewind, and waits for its end.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        until_end(client, streams, &self.node, &Remake::Rejoin, &self.waiting.waiting()).await
    }
}

/// Gives the order, and again until it has ended: given twice, it is done once.
async fn until_end(
    client: &mut AdminClient,
    streams: &mut Streams<impl Write, impl Write>,
    node: &NodeId,
    how: &Remake,
    waiting: &Waiting,
) -> Result<ExitCode, CliError> {
    let until = Instant::now() + waiting.timeout;
    // Each of them is seeded at random.
    let number = RandomState::new().build_hasher().finish();
    client.set_patience(QUESTION);
    let mut shown = String::new();
    loop {
        let awaited = match client.remake(node, how, number).await {
            Ok(answer) if answer.reply.outcome == OrderOutcome::Accepted => {
                let how_far = answer.reply.detail.unwrap_or_default();
                if how_far != shown {
                    streams.note(&how_far);
                    shown.clone_from(&how_far);
                }
                how_far
            }
            Ok(answer) => return waiting.tell(&answer, streams),
            Err(error @ (CliError::NoAnswer { .. } | CliError::OutcomeUnknown { .. })) => {
                sleep(PAUSE).await;
                error.to_string()
            }
            Err(error) => return Err(error),
        };
        if Instant::now() >= until {
            return Err(CliError::NotEnded { waited: waiting.timeout, awaited });
        }
    }
}

impl Reload {
    /// Has the files read, on one node or on all.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let nodes = if let Some(node) = self.node {
            vec![node]
        } else {
            let answer = client.status().await?;
            prose::tell(&answer, streams);
            let data = answer.reply.nodes.into_iter().filter(|node| node.kind == "data");
            data.map(|node| node.name).collect()
        };
        self.waiting.begin(client);
        for node in &nodes {
            let answer = client.reload(node).await?;
            self.waiting.tell(&answer, streams)?;
        }
        Ok(ExitCode::Done)
    }
}
