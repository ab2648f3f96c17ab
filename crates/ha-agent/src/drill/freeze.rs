//! Stopping this process for a while, in a way that is sure to end.
//!
//! A process cannot continue itself. So two helpers (this program again, as `ha-agent thaw`) are started first;
//! each holds a handle of this process that cannot come to mean another one, says that it is ready, and waits
//! for the word. One stops this process and continues it after the time; the other only continues it, a moment
//! later, should the first be gone. Each continues it before it goes if it is told to end. Nobody has to order
//! the end, and no single death prevents it.
//!
//! Process 1 of a container cannot be stopped by a signal from inside. There every thread that runs the agent's
//! tasks sleeps for that long instead: nothing is renewed, looked at or answered either.

use std::io::{self, BufRead as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use ha_core::clock::millis;
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::FAULT_MAX;

/// How long the answer to the order has to leave before the process stops.
pub const LEAD: Duration = Duration::from_millis(150);
/// How much later the second helper acts.
const SECOND: Duration = Duration::from_millis(100);
/// How long a helper may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(3);
/// The word that this program runs a helper by, and what helpers say and are told.
pub const THAW: &str = "thaw";
const READY: &str = "ready";
const GO: &str = "go";
const STOPS: &str = "stop";
const KEEPS: &str = "keep";

/// Stops this process for that long, [`LEAD`] after this returns.
///
/// # Errors
/// Why it cannot be sure to be continued, in one line: then it is not stopped.
pub async fn freeze(span: Duration) -> Result<(), String> {
    let span = span.min(FAULT_MAX);
    if std::process::id() == 1 {
        return occupy(span);
    }
    let mut keeps = helper(KEEPS, span).await?;
    let mut stops = match helper(STOPS, span).await {
        Ok(stops) => stops,
        Err(why) => {
            end(keeps).await;
            return Err(why);
        }
    };
    // The one that only continues is told first.
    let mut told = tell(&mut keeps).await;
    if told.is_ok() {
        told = tell(&mut stops).await;
    }
    if let Err(error) = told {
        end(stops).await;
        end(keeps).await;
        return Err(format!("a helper that would continue the agent is gone: {error}"));
    }
    info!(span_ms = millis(span), "standing still for a drill");
    tokio::spawn(async move {
        for mut child in [stops, keeps] {
            if let Err(error) = child.wait().await {
                warn!(%error, "could not wait for a helper of the drill");
            }
        }
        info!("going on after a drill");
    });
    Ok(())
}

/// Starts a helper and waits until it is ready.
async fn helper(part: &str, span: Duration) -> Result<Child, String> {
    let failed = |why: String| format!("cannot be sure to continue the agent: {why}");
    // The very program that runs, also after it was replaced on disk.
    let mut command = Command::new("/proc/self/exe");
    command.arg(THAW).arg(part).arg(std::process::id().to_string()).arg(millis(span).to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Not of a terminal's group: what interrupts the agent there must not end who continues it.
    command.process_group(0).kill_on_drop(false);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let Some(said) = child.stdout.take() else { return Err(failed("no pipe".to_owned())) };
    let mut lines = BufReader::new(said).lines();
    match timeout(READY_LIMIT, lines.next_line()).await {
        Ok(Ok(Some(line))) if line == READY => Ok(child),
        other => {
            end(child).await;
            Err(failed(format!("a helper is not ready: {other:?}")))
        }
    }
}

async fn tell(child: &mut Child) -> io::Result<()> {
    let Some(mut ear) = child.stdin.take() else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    ear.write_all(format!("{GO}\n").as_bytes()).await?;
    ear.shutdown().await
}

async fn end(mut child: Child) {
    if let Err(error) = child.kill().await {
        warn!(%error, "could not end a helper of the drill");
    }
}

/// Has every thread of the runtime sleep.
fn occupy(span: Duration) -> Result<(), String> {
    let runtime = tokio::runtime::Handle::current();
    let threads = runtime.metrics().num_workers();
    // From outside the runtime, so that each of its threads takes one.
    let spawned = std::thread::Builder::new().name("drill".to_owned()).spawn(move || {
        std::thread::sleep(LEAD);
        for _ in 0..threads {
            runtime.spawn(async move { std::thread::sleep(span) });
        }
    });
    info!(span_ms = millis(span), threads, "standing still for a drill, as process 1");
    spawned.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

/// What a helper was told on its command line.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    stops: bool,
    pid: i32,
    span: Duration,
}

fn part(words: &[String]) -> Option<Part> {
    let [part, pid, span_ms] = words else { return None };
    let stops = match part.as_str() {
        STOPS => true,
        KEEPS => false,
        _ => return None,
    };
    let span = Duration::from_millis(span_ms.parse().ok()?);
    Some(Part { stops, pid: pid.parse().ok()?, span: span.min(FAULT_MAX) })
}

/// Runs a helper: `ha-agent thaw stop|keep PID MILLISECONDS`, started by the process of that number. Returns the
/// exit code.
#[must_use]
pub fn thaw(words: &[String]) -> u8 {
    const FAILED: u8 = 1;
    let Some(part) = part(words) else { return FAILED };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(help(&part))) {
        Ok(Ok(())) => 0,
        Ok(Err(_)) | Err(_) => FAILED,
    }
}

async fn help(part: &Part) -> io::Result<()> {
    let mut told = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let agent = Pid::from_raw(part.pid).ok_or(io::ErrorKind::InvalidInput)?;
    let handle = pidfd_open(agent, PidfdFlags::empty())?;
    // Looked at while held: it is the process that started this one, and no other.
    if getppid() != Some(agent) {
        return Err(io::ErrorKind::NotFound.into());
    }
    writeln!(io::stdout(), "{READY}")?;
    let mut word = String::new();
    io::stdin().lock().read_line(&mut word)?;
    if word.trim_end() != GO {
        return Ok(());
    }
    sleep(LEAD).await;
    let mut span = part.span;
    if part.stops {
        pidfd_send_signal(&handle, Signal::STOP)?;
    } else {
        span += SECOND;
    }
    let [terminate, interrupt, hangup] = &mut told;
    tokio::select! {
        () = sleep(span) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(pidfd_send_signal(&handle, Signal::CONT)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_knows_its_part_and_nothing_else_and_no_part_is_longer_than_allowed() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let expected = Part { stops: true, pid: 12, span: Duration::from_millis(3400) };
        assert_eq!(part(&words("stop 12 3400")), Some(expected));
        let capped = part(&words("keep 12 99999999")).expect("a part");
        assert_eq!((capped.stops, capped.span), (false, FAULT_MAX));
        for wrong in ["", "stop", "stop 12", "halt 12 3", "stop x 3", "stop 12 -3", "stop 12 3 4"] {
            assert_eq!(part(&words(wrong)), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn without_helpers_that_are_ready_nothing_is_stopped() {
        // The program that runs this test knows no such word.
        let refused = freeze(Duration::from_secs(30)).await.expect_err("no helper here");
        assert!(refused.starts_with("cannot be sure to continue the agent"), "{refused}");
    }
}
