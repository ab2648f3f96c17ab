//! What operators order while things break.

use std::process::Stdio;
use std::time::Duration;

use ha_tests::programs;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Fault, Outcome};
use crate::env::place::Place;
use crate::harness::{Harness, Trying as _};
use crate::random::Random;

/// How long `haclt` may wait for an end.
const WAIT: &str = "20s";
/// How long it is waited for; a little longer.
const LIMIT: Duration = Duration::from_secs(90);

/// Returns the arguments of an order.
fn arguments(fault: Fault, random: &mut Random) -> Vec<String> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    match fault {
        Fault::Switchover => words(&format!("switchover --timeout {WAIT}")),
        Fault::PauseCluster => words("pause --reason jepsen"),
        Fault::ConfigSet => {
            let megabytes = random.between(4, 64);
            words(&format!("config set postgres.parameters.work_mem {megabytes}MB"))
        }
        Fault::RollingRestart => words(&format!("restart --all --timeout {WAIT}")),
        other => unreachable!("{other:?} is no order"),
    }
}

/// Gives an order, which goes on beside everything else. A pause is ended once `stopped` says so.
pub fn give(
    fault: Fault,
    place: &Place,
    random: &mut Random,
    mut stopped: watch::Receiver<bool>,
) -> JoinHandle<Result<Outcome, Harness>> {
    let (endpoints, arguments) = (endpoints(place), arguments(fault, random));
    tokio::spawn(async move {
        let given = run(&endpoints, &arguments).await?;
        if fault != Fault::PauseCluster {
            return Ok(given);
        }
        // That the sender is gone means the same.
        drop(stopped.wait_for(|stop| *stop).await);
        let resumed = resume(&endpoints).await?;
        let text = format!("{}; {}", given.detail(), resumed.detail());
        Ok(match given {
            Outcome::Installed(_) => Outcome::Installed(text),
            Outcome::Skipped(_) => Outcome::Skipped(text),
            Outcome::Indeterminate(_) => Outcome::Indeterminate(text),
        })
    })
}

/// Returns the addresses of all agents, as `haclt` wants them.
pub fn endpoints(place: &Place) -> String {
    place.agents().join(",")
}

/// Ends a pause, if there is one.
///
/// # Errors
/// See [`run`].
pub async fn resume(endpoints: &str) -> Result<Outcome, Harness> {
    run(endpoints, &["resume".to_owned()]).await
}

/// Runs `haclt` to its end.
///
/// # Errors
/// If it cannot be run, or says that it was called wrongly: that is a fault of the suite.
pub async fn run(endpoints: &str, arguments: &[String]) -> Result<Outcome, Harness> {
    let said = arguments.join(" ");
    let Some((code, text)) = call(endpoints, arguments).await? else {
        return Ok(Outcome::Indeterminate(format!("haclt {said}: no end after {LIMIT:?}")));
    };
    let text = text.replace('\n', "; ");
    let told = format!("haclt {said}: exit code {code:?}: {text}");
    match code {
        Some(0) => Ok(Outcome::Installed(told)),
        Some(1 | 3) => Ok(Outcome::Skipped(told)),
        Some(4) => Ok(Outcome::Indeterminate(told)),
        _ => Err(Harness::new(told)),
    }
}

/// Runs `haclt`, and returns its exit code and what it said; nothing if it does not end.
///
/// # Errors
/// If it cannot be run.
pub async fn call(
    endpoints: &str,
    arguments: &[String],
) -> Result<Option<(Option<i32>, String)>, Harness> {
    let mut command = Command::new(programs::program("haclt"));
    command.args(["--endpoint", endpoints]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().trying(|| "run haclt".to_owned())?;
    let Ok(output) = tokio::time::timeout(LIMIT, child.wait_with_output()).await else {
        return Ok(None);
    };
    let output = output.trying(|| format!("wait for haclt {}", arguments.join(" ")))?;
    Ok(Some((output.status.code(), programs::said(&output).trim().to_owned())))
}
