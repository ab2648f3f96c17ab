//! `haclt events` and `haclt history`.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use tokio::time::sleep;

use crate::client::AdminClient;
use crate::moment::parse_since;
use crate::render::json::{self, Layout};
use crate::render::{journal, prose};
use crate::reply::journal::Event;
use crate::{CliError, ExitCode, Streams};

/// The pause before agents that gave no answer are asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one question waits for something to happen, while following.
const FOLLOW: Duration = Duration::from_secs(20);

/// Show what happened: leases, promotions, rewinds, and every order with who gave it
///
/// The cluster remembers the last 500 events. TIME is in UTC. An event whose ID is marked with a star has a log
/// on its node: `haclt events show ID`.
///
/// Example: haclt events --since 2h
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Events {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only what happened since then: 90s, 15m, 2h, 3d ago, or a time such as 2026-11-26T03:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<u64>,
    /// At most so many, the latest
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    last: u32,
    /// Go on showing what happens, until interrupted
    #[arg(long)]
    follow: bool,
    /// Print JSON: one object, or with `--follow` one a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(Show),
}

/// Show one event, with the log that its node keeps of it
///
/// Example: haclt events show 17
#[derive(Debug, Args)]
struct Show {
    /// Number, as `haclt events` shows it
    id: u64,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

/// Show the promotions that are remembered: who was primary, since when, and why it ended
///
/// Example: haclt history
#[derive(Debug, Args)]
pub struct History {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

impl Events {
    /// Shows events.
    ///
    /// # Errors
    /// [`CliError`] if nobody answered, or it could not be shown.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        if let Some(Command::Show(show)) = self.command {
            return show.run(client, streams).await;
        }
        let answer = client.events(0, self.last, false).await?;
        prose::tell(&answer, streams);
        let wanted = |event: &Event| self.since.is_none_or(|since| event.at_unix_ms >= since);
        let events: Vec<Event> = answer.reply.events.into_iter().filter(wanted).collect();
        let mut seen = answer.reply.last;
        if !self.follow {
            let text = if self.json {
                json::events(&events, Layout::Pretty)
            } else {
                journal::events(&events)
            };
            streams.emit(&text)?;
            return Ok(ExitCode::Done);
        }
        self.each(&events, streams)?;
        client.set_patience(FOLLOW);
        loop {
            match client.events(seen, 0, true).await {
                Ok(answer) => {
                    self.each(&answer.reply.events, streams)?;
                    // A cluster made anew counts anew.
                    seen = answer.reply.last;
                }
                Err(error @ (CliError::NoAnswer { .. } | CliError::OutcomeUnknown { .. })) => {
                    streams.note(&format!("warning: {error}"));
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn each(
        &self,
        events: &[Event],
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<(), CliError> {
        for event in events {
            let line = if self.json {
                json::event(event, Layout::Line)
            } else {
                format!("{}\n", journal::line(event))
            };
            streams.emit(&line)?;
        }
        Ok(())
    }
}

impl Show {
    async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.event(self.id).await?;
        prose::tell(&answer, streams);
        let text = if self.json {
            json::event_report(&answer.reply, Layout::Pretty)
        } else {
            journal::report(&answer.reply)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}

impl History {
    /// Shows the promotions.
    ///
    /// # Errors
    /// [`CliError`] if nobody answered, or it could not be shown.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let answer = client.history().await?;
        prose::tell(&answer, streams);
        let promotions = &answer.reply.promotions;
        let text = if self.json {
            json::history(promotions, Layout::Pretty)
        } else {
            journal::history(promotions)
        };
        streams.emit(&text)?;
        Ok(ExitCode::Done)
    }
}

/// Returns milliseconds of Unix time by the wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "people name times by it")]
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
