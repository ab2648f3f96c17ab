//! `haclt status`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use tokio::time::MissedTickBehavior;

use crate::client::{AdminClient, Answer};
use crate::duration::parse_seconds;
use crate::render::json::{self, Layout};
use crate::render::{prose, table};
use crate::reply::ClusterStatus;
use crate::{CliError, ExitCode, Streams, error};

/// Moves the cursor to the top left corner and clears the terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show the cluster's state: who is primary, who follows, how far
///
/// LAG is the WAL that a node has still to receive. SYNC says whether commits count the node as
/// an acknowledger: `sync` for a standby and `ack` for a witness if so, `async` for a standby that
/// only follows. What is unknown or does not apply is `-`, in JSON `null`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
    /// Repeat every SECONDS until Ctrl-C
    ///
    /// On a terminal each frame replaces the one before; otherwise they follow each other, as one
    /// line each with `--json`. An agent that cannot be reached ends nothing.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = parse_seconds,
        conflicts_with = "exit_code"
    )]
    watch: Option<Duration>,
    /// End with exit code 1 unless the cluster is healthy
    ///
    /// Without it, the exit code is 0 whenever the state could be shown.
    #[arg(long)]
    exit_code: bool,
}

impl Status {
    /// Shows the state once, or again and again.
    ///
    /// # Errors
    /// [`CliError`] if it could not be shown.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        if let Some(interval) = self.watch {
            return self.repeat(interval, client, streams).await;
        }
        let answer = client.status().await?;
        prose::tell(&answer, streams);
        let layout = Layout::Pretty;
        streams.emit(&self.draw(&answer.reply, layout))?;
        if self.exit_code && !answer.reply.is_healthy() {
            return Ok(ExitCode::Failed);
        }
        Ok(ExitCode::Done)
    }

    fn draw(&self, status: &ClusterStatus, layout: Layout) -> String {
        if self.json { json::status(status, layout) } else { table::status(status) }
    }

    /// Draws frame after frame, until the process is ended or nobody reads them any more.
    async fn repeat(
        &self,
        interval: Duration,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch { clears: streams.terminal && !self.json, frames: 0, notes: vec![] };
        loop {
            ticks.tick().await;
            let outcome = client.status().await;
            let frame =
                outcome.as_ref().ok().map(|Answer { reply, .. }| self.draw(reply, Layout::Line));
            let notes = match outcome {
                Ok(answer) => prose::notes(&answer.failures, answer.informed),
                // Agents come back: that is what people watch for.
                Err(error @ CliError::NoAnswer { .. }) => vec![error::report(&error)],
                Err(error) => return Err(error),
            };
            let apart = !self.json;
            watch.show(frame.as_deref(), notes, apart, streams)?;
        }
    }
}

/// What a watched status has shown so far.
struct Watch {
    /// Whether each frame replaces the one before.
    clears: bool,
    frames: u64,
    notes: Vec<String>,
}

impl Watch {
    /// Shows a frame, if there is one, and the notes, again only if the screen was cleared or
    /// they changed.
    fn show(
        &mut self,
        frame: Option<&str>,
        notes: Vec<String>,
        apart: bool,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<(), CliError> {
        if self.clears {
            streams.emit(&format!("{CLEAR}{}", frame.unwrap_or_default()))?;
        } else if let Some(frame) = frame {
            let gap = if apart && self.frames > 0 { "\n" } else { "" };
            streams.emit(&format!("{gap}{frame}"))?;
            self.frames += 1;
        }
        if self.clears || notes != self.notes {
            for note in &notes {
                streams.note(note);
            }
            self.notes = notes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(clears: bool, apart: bool, frames: &[(Option<&str>, &[&str])]) -> (String, String) {
        let mut streams = Streams { out: vec![], notes: vec![], terminal: clears, ask: None };
        let mut watch = Watch { clears, frames: 0, notes: vec![] };
        for (frame, notes) in frames {
            let notes = notes.iter().map(ToString::to_string).collect();
            watch.show(*frame, notes, apart, &mut streams).unwrap();
        }
        (String::from_utf8(streams.out).unwrap(), String::from_utf8(streams.notes).unwrap())
    }

    #[test]
    fn on_a_terminal_a_frame_replaces_the_one_before() {
        let frames: [(_, &[&str]); 3] = [(Some("a\n"), &["x"]), (None, &["y"]), (Some("b\n"), &[])];
        let (out, notes) = shown(true, true, &frames);
        assert_eq!(out, format!("{CLEAR}a\n{CLEAR}{CLEAR}b\n"));
        assert_eq!(notes, "x\ny\n");
    }

    #[test]
    fn elsewhere_frames_follow_each_other_and_notes_are_not_repeated() {
        let frames: [(_, &[&str]); 4] =
            [(Some("a\n"), &["x"]), (Some("b\n"), &["x"]), (None, &["y"]), (Some("c\n"), &["x"])];
        let (out, notes) = shown(false, true, &frames);
        assert_eq!((out.as_str(), notes.as_str()), ("a\n\nb\n\nc\n", "x\ny\nx\n"));
        assert_eq!(shown(false, false, &frames).0, "a\nb\nc\n");
    }
}
