//! `haclt switchover`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use ha_core::NodeId;
use tokio::time::{Instant, sleep};

use crate::client::{AdminClient, SwitchoverOrder};
use crate::commands::order::Waiting;
use crate::duration::parse_wait;
use crate::moment::parse_at;
use crate::render::json::{self, Layout};
use crate::render::{journal, prose, switchover};
use crate::reply::switchover::{Switchover as Progress, SwitchoverOutcome};
use crate::{CliError, ExitCode, Streams};

/// The pause before agents that gave no answer are asked again.
const PAUSE: Duration = Duration::from_millis(300);

/// Hand the primary role to a standby, in order
///
/// Checks first, and says what it will do. Clients are served until the primary has written a
/// checkpoint; then it is stopped, the standby proves that it has everything, and takes over: no
/// committed transaction is lost, and none is left on the old primary alone. Until the role is handed
/// over, whatever fails leaves the old primary in its place. If this program is interrupted the
/// switchover goes on: `haclt status` shows how it ends.
#[derive(Debug, Args)]
pub struct Switchover {
    /// Standby that is to take over; without it the fittest one
    #[arg(long, value_name = "NODE")]
    to: Option<NodeId>,
    /// Do it at that time: 2026-11-26T03:00:00Z, or in so long: 90s, 15m, 2h
    ///
    /// The agents remember it, check again then, and drop it if they cannot begin within a minute. By the
    /// clock of the agents' leader.
    #[arg(long, value_name = "TIME", value_parser = parse_at, conflicts_with = "dry_run")]
    at: Option<u64>,
    /// Show the switchovers that are scheduled
    #[arg(long, conflicts_with_all = ["to", "at", "dry_run"])]
    scheduled: bool,
    /// Cancel the scheduled switchover of that number
    #[arg(long, value_name = "ID", conflicts_with_all = ["to", "at", "dry_run", "scheduled"])]
    cancel: Option<u64>,
    /// Say what would be done and what speaks against it; change nothing
    ///
    /// Ends with exit code 3 if it would be refused.
    #[arg(long)]
    dry_run: bool,
    /// Longest time to wait until it has ended
    ///
    /// Seconds, or a whole number and a unit: 30, 500ms, 2m. Then exit code 4: it goes on by itself.
    // The same name as the option of all commands, whose place it takes.
    #[arg(
        long,
        help_heading = crate::cli::CONNECTION,
        value_name = "SECONDS",
        default_value = "10m",
        value_parser = parse_wait
    )]
    timeout: Duration,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl Switchover {
    /// Plans, and unless that was all, orders a switchover and waits for its end.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, or if that is not known.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let waiting = Waiting { timeout: self.timeout, json: self.json };
        if let Some(due) = self.at {
            let answer = client.schedule_add(due, self.to.as_ref()).await?;
            return waiting.tell(&answer, streams);
        }
        if let Some(id) = self.cancel {
            let answer = client.schedule_cancel(id).await?;
            return waiting.tell(&answer, streams);
        }
        if self.scheduled {
            return self.list(client, streams).await;
        }
        let answer = client.switchover_plan(self.to.clone()).await?;
        prose::tell(&answer, streams);
        let plan = answer.reply;
        if self.dry_run {
            let text = if self.json {
                json::switchover_plan(&plan, Layout::Pretty)
            } else {
                switchover::plan(&plan)
            };
            streams.emit(&text)?;
            let possible = plan.refusal().is_none() && plan.to.is_some();
            return Ok(if possible { ExitCode::Done } else { ExitCode::Refused });
        }
        streams.note(switchover::plan(&plan).trim_end());
        let order = SwitchoverOrder::of(&plan)?;
        let ended = until_end(client, streams, &order, self.timeout).await?;
        if self.json {
            let SwitchoverOrder { from, to, .. } = &order;
            streams.emit(&json::switchover(from, to, &ended, Layout::Pretty))?;
        } else if ended.outcome == SwitchoverOutcome::Done {
            streams.emit(&switchover::done(&ended))?;
        }
        let why = ended.why.unwrap_or_default();
        match ended.outcome {
            SwitchoverOutcome::Done => Ok(ExitCode::Done),
            SwitchoverOutcome::NotDone => Err(CliError::NotSwitched { from: order.from, why }),
            SwitchoverOutcome::Elsewhere | SwitchoverOutcome::Running => {
                Err(CliError::SwitchedElsewhere { why, primary: ended.primary })
            }
        }
    }
}

impl Switchover {
    async fn list(
        &self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.schedule().await?;
        prose::tell(&answer, streams);
        let entries = &answer.reply.entries;
        let text = if self.json {
            json::schedule(entries, Layout::Pretty)
        } else {
            journal::schedule(entries)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}

/// Gives the order, and again until it has ended: given twice, it is done once.
pub(super) async fn until_end(
    client: &mut AdminClient,
    streams: &mut Streams<impl Write, impl Write>,
    order: &SwitchoverOrder,
    limit: Duration,
) -> Result<Progress, CliError> {
    let until = Instant::now() + limit;
    let mut shown = 0;
    loop {
        let awaited = match client.switchover(order, shown).await {
            Ok(answer) => {
                let progress = answer.reply;
                for step in progress.steps.iter().skip(shown) {
                    streams.note(&switchover::step(step));
                }
                if progress.outcome != SwitchoverOutcome::Running {
                    return Ok(progress);
                }
                if progress.steps.len() <= shown {
                    sleep(PAUSE).await;
                }
                shown = shown.max(progress.steps.len());
                progress.why.unwrap_or_else(|| "it is under way".to_owned())
            }
            // Who was to answer may be what just died.
            Err(error @ (CliError::NoAnswer { .. } | CliError::OutcomeUnknown { .. })) => {
                sleep(PAUSE).await;
                error.to_string()
            }
            Err(error) => return Err(error),
        };
        if Instant::now() >= until {
            return Err(CliError::NotEnded { waited: limit, awaited });
        }
    }
}
