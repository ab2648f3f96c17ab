//! `haclt failover`.

use std::io::Write;

use clap::Args;
use ha_core::NodeId;
use tokio::time::{Instant, sleep};

use crate::client::{AdminClient, Answer};
use crate::commands::order::Waiting;
use crate::confirm::Confirmed;
use crate::render::json::{self, Layout};
use crate::render::{failover, prose};
use crate::reply::failover::FailoverPlan;
use crate::{CliError, ExitCode, Streams};

/// How often it is looked whether the old lease has ended.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(300);

/// Give the primary role to a node in an emergency
///
/// For when nobody is primary and the agents refuse to elect anybody: `haclt explain` says why. While a primary
/// serves, use `haclt switchover`. Waits for the lease of a node that does not answer to end. What cannot be
/// proven to be at hand is given up only with `--accept-data-loss`, and only once the cluster's name was
/// typed; two primaries are never accepted.
///
/// Example: haclt failover --dry-run
#[derive(Debug, Args)]
pub struct Failover {
    /// Node that is to be primary; without it whoever has most
    #[arg(long, value_name = "NODE")]
    to: Option<NodeId>,
    /// Say who would win and why, and what would be lost; change nothing
    ///
    /// Ends with exit code 3 if nobody would.
    #[arg(long)]
    dry_run: bool,
    /// Go on although acknowledged commits may be lost
    #[arg(long)]
    accept_data_loss: bool,
    /// Do not ask for the cluster's name
    #[arg(long, requires = "accept_data_loss")]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Failover {
    /// Plans, and unless that was all, orders a failover and waits for its end.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = self.plan(client).await?;
        prose::tell(&answer, streams);
        let plan = &answer.reply;
        if self.dry_run {
            let text = if self.waiting.json {
                json::failover_plan(plan, Layout::Pretty)
            } else {
                failover::plan(plan)
            };
            streams.emit(&text)?;
            let possible = plan.winner.is_some() && !plan.serving;
            return Ok(if possible { ExitCode::Done } else { ExitCode::Refused });
        }
        streams.note(failover::plan(plan).trim_end());
        expect_possible(plan)?;
        let confirmed = self.confirm(&answer, streams)?;
        self.waiting.begin(client);
        let plan = self.vacant(client, answer.reply).await?;
        let answer = client.failover(&plan, self.to.as_ref(), confirmed).await?;
        self.waiting.tell(&answer, streams)
    }

    async fn plan(&self, client: &mut AdminClient) -> Result<Answer<FailoverPlan>, CliError> {
        client.failover_plan(self.to.as_ref(), self.accept_data_loss).await
    }

    fn confirm(
        &self,
        answer: &Answer<FailoverPlan>,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<Option<Confirmed>, CliError> {
        if !self.accept_data_loss || answer.reply.proven {
            return Ok(None);
        }
        if self.yes {
            return Ok(Some(Confirmed::beforehand()));
        }
        let lost = answer.reply.lost.as_deref().unwrap_or("unknown");
        let cost = format!("Lost for good: {lost}.");
        Confirmed::typed(&answer.cluster, &cost, streams).map(Some)
    }

    /// Waits until the old lease has ended, and returns what is so then.
    async fn vacant(
        &self,
        client: &mut AdminClient,
        mut plan: FailoverPlan,
    ) -> Result<FailoverPlan, CliError> {
        let until = Instant::now() + self.waiting.timeout;
        while let Some(holder) = plan.holder.clone() {
            if Instant::now() >= until {
                let awaited = format!("node {holder} holds the lease");
                return Err(CliError::NotEnded { waited: self.waiting.timeout, awaited });
            }
            sleep(LOOK_EVERY).await;
            plan = self.plan(client).await?.reply;
            expect_possible(&plan)?;
        }
        Ok(plan)
    }
}

fn expect_possible(plan: &FailoverPlan) -> Result<(), CliError> {
    match (&plan.holder, &plan.winner) {
        (Some(holder), _) if plan.serving => Err(CliError::FailoverRefused {
            why: format!("node {holder} is primary and serves: use haclt switchover"),
        }),
        (_, None) => Err(CliError::FailoverRefused { why: "nobody can be chosen".to_owned() }),
        (_, Some(_)) => Ok(()),
    }
}
