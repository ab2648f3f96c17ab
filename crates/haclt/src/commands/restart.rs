//! `haclt restart`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use ha_core::NodeId;
use tokio::time::{Instant, sleep};

use crate::client::{AdminClient, SwitchoverOrder};
use crate::commands::switchover::until_end;
use crate::duration::parse_wait;
use crate::render::{prose, switchover};
use crate::reply::restart::{RestartOutcome, RestartPlan};
use crate::reply::switchover::SwitchoverOutcome;
use crate::{CliError, ExitCode, Streams};

/// How often a cluster that is not healthy yet is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Restart a node's PostgreSQL, in the role that it has; or all, one after the other
///
/// A primary is restarted under its lease: clients are cut off, nobody else becomes primary. With `--all` the
/// standbys are restarted first, each until the cluster is healthy again; then the primary role is
/// handed over, and the old primary is restarted as a standby, so that clients are cut off once, for a
/// switchover. Where a parameter shrinks that a standby must have as much of as its primary, such as
/// `max_connections`, the primary is restarted in place, and the standbys after it.
#[derive(Debug, Args)]
pub struct Restart {
    /// Node whose database is restarted
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    node: Option<NodeId>,
    /// Restart every database, the primary's last
    #[arg(long)]
    all: bool,
    /// Restart only where a changed parameter waits for it
    #[arg(long)]
    if_pending: bool,
    /// Say what would be done; change nothing
    ///
    /// Ends with exit code 3 if it would be refused.
    #[arg(long)]
    dry_run: bool,
    /// Longest time to wait for each database, and for the cluster to be healthy after it
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m. Then exit code 4: it goes on by itself.
    // The same name as the option of all commands, whose place it takes.
    #[arg(
        long,
        help_heading = crate::cli::CONNECTION,
        value_name = "SECONDS",
        default_value = "5m",
        value_parser = parse_wait
    )]
    timeout: Duration,
}

impl Restart {
    /// Restarts one database, or all in turn.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let Some(node) = &self.node else { return self.all(client, streams).await };
        match self.wanted(client, streams, node).await? {
            Some(plan) => self.one(client, streams, node, &plan).await,
            None => Ok(ExitCode::Done),
        }
    }

    /// Returns what a restart would mean; none if it is not wanted. Says which.
    async fn wanted(
        &self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
        node: &NodeId,
    ) -> Result<Option<RestartPlan>, CliError> {
        let answer = client.restart_plan(node).await?;
        prose::tell(&answer, streams);
        let plan = answer.reply;
        if self.if_pending && plan.pending.is_empty() {
            streams.emit(&format!("{node}: not restarted, no parameter waits for it\n"))?;
            return Ok(None);
        }
        Ok(Some(plan))
    }

    async fn one(
        &self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
        node: &NodeId,
        plan: &RestartPlan,
    ) -> Result<ExitCode, CliError> {
        let text = shown(node, plan);
        if self.dry_run {
            streams.emit(&text)?;
            let possible = plan.refusal().is_none();
            return Ok(if possible { ExitCode::Done } else { ExitCode::Refused });
        }
        streams.note(text.trim_end());
        if let Some(why) = plan.refusal() {
            return Err(CliError::RestartRefused { node: node.clone(), why });
        }
        client.set_patience(self.timeout);
        let answer = client.restart(node, plan.run).await?;
        prose::tell(&answer, streams);
        let why = answer.reply.why.unwrap_or_default();
        match answer.reply.outcome {
            RestartOutcome::Done => {
                streams.emit(&format!("{node}: restarted, {}\n", answer.reply.role))?;
                Ok(ExitCode::Done)
            }
            RestartOutcome::Failed => Err(CliError::NotRestarted { node: node.clone(), why }),
            RestartOutcome::Running => {
                Err(CliError::NotEnded { waited: self.timeout, awaited: why })
            }
        }
    }

    async fn all(
        &self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.status().await?;
        prose::tell(&answer, streams);
        let (mut standbys, mut primaries) = (Vec::new(), Vec::new());
        for node in answer.reply.nodes.into_iter().filter(|node| node.kind == "data") {
            if node.role == "primary" { &mut primaries } else { &mut standbys }.push(node.name);
        }
        if let Some(primary) = primaries.first()
            && !standbys.is_empty()
        {
            let plan = client.restart_plan(primary).await?.reply;
            if !plan.shrinks.is_empty() {
                // Where something else grows they need it before the primary has it.
                if !plan.grows.is_empty() {
                    self.each(client, streams, &standbys).await?;
                }
                streams.note(&format!(
                    "note: {} shrinks: the primary is restarted in place, before the standbys",
                    plan.shrinks.join(", ")
                ));
                self.each(client, streams, &primaries).await?;
                self.each(client, streams, &standbys).await?;
                return Ok(ExitCode::Done);
            }
        }
        self.each(client, streams, &standbys).await?;
        for node in &primaries {
            let Some(plan) = self.wanted(client, streams, node).await? else { continue };
            if standbys.is_empty() {
                self.one(client, streams, node, &plan).await?;
            } else {
                self.after_switchover(client, streams, node).await?;
            }
        }
        Ok(ExitCode::Done)
    }

    /// Restarts nodes one after the other, each in the role that it has.
    async fn each(
        &self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
        nodes: &[NodeId],
    ) -> Result<(), CliError> {
        for node in nodes {
            let Some(plan) = self.wanted(client, streams, node).await? else { continue };
            self.one(client, streams, node, &plan).await?;
            self.until_healthy(client).await?;
        }
        Ok(())
    }

    /// Hands the primary role over and restarts the old primary as a standby.
    async fn after_switchover(
        &self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
        node: &NodeId,
    ) -> Result<(), CliError> {
        let plan = client.switchover_plan(None).await?.reply;
        let shown = switchover::plan(&plan);
        if self.dry_run {
            return streams.emit(&shown);
        }
        streams.note(shown.trim_end());
        let order = SwitchoverOrder::of(&plan)?;
        let ended = until_end(client, streams, &order, self.timeout).await?;
        if ended.outcome != SwitchoverOutcome::Done {
            let why = ended.why.unwrap_or_default();
            return Err(CliError::NotRestarted { node: node.clone(), why });
        }
        streams.emit(&switchover::done(&ended))?;
        self.until_healthy(client).await?;
        let plan = client.restart_plan(node).await?.reply;
        self.one(client, streams, node, &plan).await?;
        self.until_healthy(client).await
    }

    async fn until_healthy(&self, client: &mut AdminClient) -> Result<(), CliError> {
        if self.dry_run {
            return Ok(());
        }
        let until = Instant::now() + self.timeout;
        loop {
            let awaited = match client.status().await {
                Ok(answer) if answer.reply.is_healthy() => return Ok(()),
                Ok(answer) => answer.reply.reason.unwrap_or(answer.reply.state),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(CliError::NotEnded { waited: self.timeout, awaited });
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

fn shown(node: &NodeId, plan: &RestartPlan) -> String {
    let pending = if plan.pending.is_empty() {
        "no parameter waits for it".to_owned()
    } else {
        format!("for {}", plan.pending.join(", "))
    };
    let findings = switchover::findings_of(&plan.findings);
    format!("{node}: restart as {}, {pending}\n{findings}", plan.role)
}
