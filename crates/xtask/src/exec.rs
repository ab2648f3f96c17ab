//! Running other programs: bounded, with their words kept for the failure message.

use std::ffi::OsStr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Doing as _, Failure, Outcome};

/// How often a condition outside this process is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Returns a command line as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command in the foreground, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Outcome<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .doing(|| format!("could not start `{}`", shown(command)))?;
    succeeded(command, status, "")
}

/// Runs a command to its end, at most for `limit`, and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command, limit: Duration) -> Outcome<String> {
    let output = outcome(command, limit)?;
    succeeded(command, output.status, &String::from_utf8_lossy(&output.stderr))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, at most for `limit`, and returns status and output, whatever they are.
///
/// A program that is not done in time is killed; that is a failure.
pub(crate) fn outcome(command: &mut Command, limit: Duration) -> Outcome<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("could not start `{}`", shown(command)))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let waited = wait(&mut child, limit);
    if waited.is_none() {
        drop(child.kill());
        drop(child.wait());
    }
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    match waited {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => Err(Failure::new(format!(
            "`{}` was not done within {} ms and was stopped",
            shown(command),
            limit.as_millis()
        ))),
    }
}

/// Waits for a child at most for `limit`; `None` if it is still running then.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

fn succeeded(command: &Command, status: ExitStatus, stderr: &str) -> Outcome<()> {
    if status.success() {
        return Ok(());
    }
    let said = stderr.trim().lines().last().map_or_else(String::new, |line| format!(": {line}"));
    Err(Failure::new(format!("`{}` failed with {status}{said}", shown(command))))
}

/// Returns whether a program of this name is in `PATH`.
pub(crate) fn in_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_quoted_with_its_last_line() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo last >&2; exit 3"]);
        let failure = output(&mut command, Duration::from_secs(10)).map_err(|e| e.to_string());
        let text = failure.err().unwrap_or_default();
        assert!(text.ends_with("failed with exit status: 3: last"), "{text}");
    }

    #[test]
    fn a_program_that_does_not_end_is_stopped_at_the_limit() {
        let started = Instant::now();
        let mut command = Command::new("sleep");
        let failure = output(command.arg("60"), Duration::from_millis(50));
        assert!(failure.is_err_and(|f| f.to_string().contains("was not done within 50 ms")));
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
