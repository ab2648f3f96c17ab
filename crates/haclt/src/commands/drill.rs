//! `haclt drill`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use ha_core::NodeId;
use ha_proto::v1::DrillNews;
use tokio::signal::ctrl_c;
use tokio::time::{Instant, timeout};
use tonic::{Code, Streaming};

use crate::client::{AdminClient, DrillWish};
use crate::confirm::Confirmed;
use crate::render::drill::{self, picture};
use crate::render::json::{self, Layout};
use crate::render::prose;
use crate::reply::drill::{DrillPlan, Measured, Seen};
use crate::reply::plain;
use crate::{CliError, ExitCode, Streams};

/// How long no agent may tell anything, and how long a drill may take beyond its fault.
const SILENCE: Duration = Duration::from_secs(100);
const DRILL_LIMIT: Duration = Duration::from_secs(330);

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Hand the primary role over, in order
    Switchover,
    /// Kill the primary's postmaster
    Crash,
    /// Stop the primary's agent for a while
    Freeze,
    /// Cut the primary's agent off from the other agents for a while
    Partition,
}

impl Fault {
    const fn word(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Crash => "crash",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
        }
    }
}

/// Rehearse a fault on the primary, and report what it cost
///
/// The agents make the fault themselves, bounded, and it ends by itself whatever dies meanwhile. Another node
/// writes rows all the while, as a client does, and reads them back: the report says for how long no write was
/// acknowledged, whether an acknowledged one is lost, and who noticed what when. Refused unless the cluster is
/// healthy. Clients of the primary are cut off: docs/drill.md says what each drill does. If this program is
/// interrupted the measuring ends, and the fault still ends by itself.
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a command line")]
#[derive(Debug, Args)]
#[command(after_help = "Example: haclt drill freeze --seconds 10 --output freeze.svg")]
pub struct Drill {
    /// What is rehearsed
    #[arg(value_enum, default_value = "switchover", value_name = "FAULT")]
    fault: Fault,
    /// Standby that is to take over, in a switchover; without it the fittest one
    #[arg(long, value_name = "NODE")]
    to: Option<NodeId>,
    /// Refuse unless this node is the primary
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// How long a freeze or a partition lasts; without it 5 s more than the lease's ttl
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: Option<u32>,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Accept that acknowledged commits may be lost, where durability.mode is async
    #[arg(long)]
    accept_data_loss: bool,
    /// Say what would happen and what speaks against it; change nothing
    ///
    /// Ends with exit code 3 if it would be refused.
    #[arg(long)]
    dry_run: bool,
    /// Draw the report into that file, too: .svg or .html
    #[arg(long, value_name = "FILE", value_parser = picture_file)]
    output: Option<PathBuf>,
    /// Print one JSON object, of a stable shape
    #[arg(long)]
    json: bool,
}

fn picture_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg" | "html") => Ok(path),
        _ => Err("expected a file that ends in .svg or .html".to_owned()),
    }
}

impl Drill {
    /// Plans, asks, and unless that was all, has the fault made and tells what is seen.
    ///
    /// # Errors
    /// [`CliError`] if it was not done, if a write was lost, or if the cluster is not healthy again in time.
    pub async fn run(
        self,
        client: &mut AdminClient,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<ExitCode, CliError> {
        let wish = DrillWish {
            kind: self.fault.word(),
            node: self.node.clone(),
            to: self.to.clone(),
            seconds: self.seconds.unwrap_or_default(),
            accept_data_loss: self.accept_data_loss,
        };
        let answer = client.drill_plan(&wish).await?;
        prose::tell(&answer, streams);
        let plan = answer.reply;
        if self.dry_run {
            let text = if self.json {
                json::drill_plan(&plan, Layout::Pretty)
            } else {
                drill::plan(&plan)
            };
            streams.emit(&text)?;
            let possible = plan.refusal().is_none();
            return Ok(if possible { ExitCode::Done } else { ExitCode::Refused });
        }
        streams.note(drill::plan(&plan).trim_end());
        if let Some(why) = plan.refusal() {
            return Err(CliError::DrillRefused { why });
        }
        let confirmed = if self.yes {
            Confirmed::beforehand()
        } else {
            let asked = Confirmed::typed(&answer.cluster, "Clients will be cut off.", streams);
            asked.map_err(|error| match error {
                CliError::NobodyToAsk => CliError::NobodyAgreed,
                error => error,
            })?
        };
        // A file that cannot be written is better noticed before.
        let file = self.output.as_deref().map(create).transpose()?;
        let accept = self.accept_data_loss;
        let mut news = client.drill(&plan, accept, &answer.cluster, confirmed).await?;
        let mut seen = Seen::default();
        let result = until_end(&mut news, &plan, &mut seen, streams).await?;
        let text = drill::report(&plan, &seen, &result);
        // The report first: a picture that cannot be written hides nothing.
        if self.json {
            streams.emit(&json::drill(&plan, &seen, &result, Layout::Pretty))?;
        } else {
            streams.emit(&text)?;
        }
        if let (Some(mut file), Some(path)) = (file, &self.output) {
            let drawn = if path.extension().is_some_and(|ending| ending == "html") {
                picture::html(&plan, &seen, &result, &text)
            } else {
                picture::svg(&plan, &seen, &result)
            };
            file.write_all(drawn.as_bytes()).map_err(|error| unwritten(path, error))?;
        }
        verdict(&result)
    }
}

fn create(path: &Path) -> Result<File, CliError> {
    File::create(path).map_err(|error| unwritten(path, error))
}

fn unwritten(path: &Path, source: io::Error) -> CliError {
    CliError::Picture { path: path.to_owned(), source }
}

/// Tells what is seen until the end of the drill.
async fn until_end(
    news: &mut Streaming<DrillNews>,
    plan: &DrillPlan,
    seen: &mut Seen,
    streams: &mut Streams<impl Write, impl Write>,
) -> Result<Measured, CliError> {
    let until = Instant::now() + plan.fault + DRILL_LIMIT;
    let broken = |why: String| CliError::DrillBroken { what: plan.what(), why };
    // One for all messages: an interrupt between two of them counts, too.
    let interrupted = ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let left = until.saturating_duration_since(Instant::now()).min(SILENCE);
        let next = tokio::select! {
            next = timeout(left, news.message()) => next,
            _ = &mut interrupted => return Err(CliError::DrillLeft { what: plan.what() }),
        };
        match next {
            Err(_) => return Err(broken("nothing was told of it in time".to_owned())),
            Ok(Ok(None)) => return Err(broken("the agent that measures ended".to_owned())),
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                return Err(CliError::DrillNotDone { why: plain(status.message()) });
            }
            Ok(Err(status)) => return Err(broken(plain(status.message()))),
            Ok(Ok(Some(told))) => {
                if let Some(line) = seen.take(told) {
                    streams.note(&line);
                }
                if let Some(result) = &seen.result {
                    return Ok(result.clone());
                }
            }
        }
    }
}

/// Says by the exit code how it went: well only if nothing was lost and everything is as it was.
fn verdict(result: &Measured) -> Result<ExitCode, CliError> {
    match result.lost {
        Some(0) => {}
        Some(lost) => {
            let acknowledged = result.acknowledged;
            return Err(CliError::DrillLost { lost, acknowledged });
        }
        None => {
            let awaited = "that the rows can be read back".to_owned();
            return Err(CliError::DrillUnwell { awaited });
        }
    }
    if !result.healthy {
        return Err(CliError::DrillUnwell { awaited: result.awaited.clone() });
    }
    if !result.cleaned {
        return Err(CliError::DrillUnwell { awaited: result.trouble.clone() });
    }
    Ok(ExitCode::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_drill_that_lost_nothing_and_left_nothing_is_done() {
        let well = || Measured {
            acknowledged: 9,
            lost: Some(0),
            healthy: true,
            cleaned: true,
            ..Measured::default()
        };
        let code = |result: &Measured| match verdict(result) {
            Ok(code) => (code, String::new()),
            Err(error) => (error.exit_code(), error.to_string()),
        };
        assert_eq!(code(&well()).0, ExitCode::Done);
        let (lost, said) = code(&Measured { lost: Some(2), ..well() });
        assert_eq!(lost, ExitCode::Failed);
        assert!(said.contains("2 of 9 acknowledged writes"), "{said}");
        assert_eq!(code(&Measured { lost: None, ..well() }).0, ExitCode::Unknown);
        let ill = Measured { healthy: false, awaited: "node n1 is rewinding".into(), ..well() };
        let (code_of_ill, said) = code(&ill);
        assert_eq!(code_of_ill, ExitCode::Unknown);
        assert!(said.contains("node n1 is rewinding"), "{said}");
        assert_eq!(code(&Measured { cleaned: false, ..well() }).0, ExitCode::Unknown);
    }

    #[test]
    fn a_picture_is_of_a_kind_that_can_be_drawn() {
        assert!(picture_file("a/drill.svg").is_ok() && picture_file("drill.html").is_ok());
        for wrong in ["drill", "drill.png", ".svg", "svg", ""] {
            assert!(picture_file(wrong).is_err(), "{wrong}");
        }
    }
}
