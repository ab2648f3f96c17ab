//! Runs PostgreSQL's own programs: bounded, killed as a whole, watched line by line.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use crate::attempt::{Attempt, one_line};
use crate::driver::{ActionError, Effect};
use crate::process::RunAs;

/// Environment variable that marks our tools with the data directory they work on, so that a later
/// agent finds what an earlier one left behind when it was killed.
pub(crate) const DATA_DIR_MARK: &str = "HACLT_DATA_DIR";
/// Environment variable with the process that started the tool.
pub(crate) const STARTED_BY_MARK: &str = "HACLT_STARTED_BY";

/// Where a longer line of a program is cut.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;
const LINES_KEPT_MAX: usize = 4096;

/// One run of a program.
pub(crate) struct Tool<'a> {
    name: &'static str,
    bin_dir: &'a Path,
    data_dir: &'a Path,
    run_as: Option<RunAs>,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    stdin: Vec<u8>,
    keep: Keep,
    on_line: Option<&'a (dyn Fn(&str) -> bool + Send + Sync)>,
    on_answer: Option<&'a (dyn Fn(&str) + Send + Sync)>,
}

/// How much of the standard output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    All,
    Last,
}

/// What a program that succeeded wrote.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Lines of standard output.
    pub(crate) lines: Vec<String>,
    /// Lines of standard error.
    pub(crate) errors: Vec<String>,
}

/// Why a program did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// It could not be started at all.
    #[error("could not start {program}: {error}")]
    Start { program: String, error: String },
    /// It was killed at the deadline.
    #[error("no end by the deadline")]
    TimedOut,
    /// It ended with an error.
    #[error("{tool}: {why}")]
    Failed { tool: &'static str, why: String, errors: Vec<String> },
}

impl ToolError {
    /// Names the attempt. `effect` is what a failed run means; a run that never began has none.
    pub(crate) fn during(&self, attempt: &Attempt, effect: Effect) -> ActionError {
        match self {
            Self::Start { .. } => attempt.cannot(self),
            Self::TimedOut => attempt.timed_out(),
            Self::Failed { .. } => attempt.failed(self, effect),
        }
    }
}

impl<'a> Tool<'a> {
    pub(crate) fn new(
        name: &'static str,
        bin_dir: &'a Path,
        data_dir: &'a Path,
        run_as: Option<RunAs>,
    ) -> Self {
        let (args, env, stdin) = (Vec::new(), Vec::new(), Vec::new());
        let (keep, on_line, on_answer) = (Keep::All, None, None);
        Self { name, bin_dir, data_dir, run_as, args, env, stdin, keep, on_line, on_answer }
    }

    pub(crate) fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn pass_file(self, file: &Path) -> Self {
        self.env("PGPASSFILE", file)
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Keeps only the last line of standard output.
    pub(crate) fn keep_last(mut self) -> Self {
        self.keep = Keep::Last;
        self
    }

    /// Shows each line of standard error to `on_line`; what it returns true for is not logged.
    pub(crate) fn on_line(mut self, on_line: &'a (dyn Fn(&str) -> bool + Send + Sync)) -> Self {
        self.on_line = Some(on_line);
        self
    }

    /// Gives each line of standard output to `on_answer` and keeps none: there may be gigabytes.
    pub(crate) fn on_answer(mut self, on_answer: &'a (dyn Fn(&str) + Send + Sync)) -> Self {
        self.on_answer = Some(on_answer);
        self
    }

    fn command(&self) -> Command {
        let program = self.bin_dir.join(self.name);
        let mut command = Command::new(program);
        command.args(&self.args).env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Nothing of PGHOST and its like: what the tool does is what its arguments say.
        for kept in ["PATH", "TZ", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.env("LC_ALL", "C").env("PGCONNECT_TIMEOUT", "5");
        command.env(DATA_DIR_MARK, self.data_dir).env(STARTED_BY_MARK, started_by());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(RunAs { uid, gid }) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs the program to its end.
    ///
    /// Dropping the future, and the deadline, kill it with all processes of its group:
    /// `pg_basebackup` has a child that receives WAL (rule 63).
    pub(crate) async fn run(self, deadline: Instant) -> Result<Output, ToolError> {
        let mut child = self.command().spawn().map_err(|error| ToolError::Start {
            program: self.bin_dir.join(self.name).display().to_string(),
            error: error.to_string(),
        })?;
        // Declared after the child, so dropped before it: the group dies before its id can be free.
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        debug!(tool = self.name, pid = child.id(), "tool started");
        let Ok((status, output)) = timeout_at(deadline, self.watch(&mut child, &group)).await
        else {
            drop(group);
            // Reaped here if the kernel is quick, otherwise by the runtime later.
            let _reaped = timeout(Duration::from_millis(500), child.wait()).await;
            return Err(ToolError::TimedOut);
        };
        match status {
            Ok(status) if status.success() => {
                std::mem::forget(group);
                Ok(output)
            }
            Ok(status) => {
                let why = last_error(&output.errors, status);
                Err(ToolError::Failed { tool: self.name, why, errors: output.errors })
            }
            Err(error) => Err(ToolError::Failed {
                tool: self.name,
                why: error.to_string(),
                errors: output.errors,
            }),
        }
    }

    async fn watch(
        &self,
        child: &mut Child,
        group: &Group,
    ) -> (std::io::Result<ExitStatus>, Output) {
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut output = Output::default();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // It may end without reading all; its exit status says what that means.
                let _all_read = stdin.write_all(&self.stdin).await;
                let _closed = stdin.shutdown().await;
            }
        };
        let answers = each_line(stdout, |line| {
            if let Some(on_answer) = self.on_answer {
                return on_answer(line);
            }
            if self.keep == Keep::Last {
                output.lines.clear();
            }
            if output.lines.len() < LINES_KEPT_MAX {
                output.lines.push(line.to_owned());
            }
        });
        let complaints = each_line(stderr, |line| {
            if self.on_line.is_some_and(|on_line| on_line(line)) {
                return;
            }
            debug!(tool = self.name, line, "tool said");
            if output.errors.len() == LINES_KEPT_MAX {
                output.errors.remove(0);
            }
            output.errors.push(line.to_owned());
        });
        let end = async {
            let status = child.wait().await;
            // A child it left behind would hold the pipes open, and go on working.
            if !status.as_ref().is_ok_and(ExitStatus::success) {
                group.kill();
            }
            status
        };
        let ((), (), (), status) = tokio::join!(feed, answers, complaints, end);
        (status, output)
    }
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn kill(&self) {
        if let Some(leader) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Names this process: its id and its start time, since ids are used again.
pub(crate) fn started_by() -> String {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let ticks = crate::process::start_ticks(own).unwrap_or_default();
    format!("{own}:{ticks}")
}

/// Feeds whole lines to `sink`; a line longer than the limit is cut.
async fn each_line(source: Option<impl AsyncRead + Unpin>, mut sink: impl FnMut(&str)) {
    let Some(mut source) = source else { return };
    let mut chunk = vec![0; 64 << 10];
    let mut line = Vec::new();
    // A pipe that cannot be read any more is at its end for us.
    while let Ok(count @ 1..) = source.read(&mut chunk).await {
        for byte in chunk.iter().take(count) {
            match byte {
                b'\n' | b'\r' if line.is_empty() => {}
                b'\n' | b'\r' => {
                    sink(&String::from_utf8_lossy(&line));
                    line.clear();
                }
                _ if line.len() < LINE_BYTES_MAX => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        sink(&String::from_utf8_lossy(&line));
    }
}

/// Returns the line that says best why the program failed.
fn last_error(errors: &[String], status: ExitStatus) -> String {
    let telling = ["error: ", "fatal: ", "FATAL:  ", "PANIC:  ", "ERROR:  "];
    let said = errors.iter().rev().find_map(|line| {
        let at = telling.iter().find_map(|word| line.find(word).map(|at| at + word.len()))?;
        line.get(at..)
    });
    let said = said.or(errors.last().map(String::as_str));
    said.map_or_else(|| status.to_string(), one_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tool<'static> {
        Tool::new("sh", Path::new("/bin"), Path::new("/nowhere"), None).args(["-c", script])
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn the_line_with_the_error_is_the_reason() {
        let script = "echo fine; echo 'x: error: no such thing' >&2; echo 'hint' >&2; exit 3";
        let failed = shell(script).run(soon()).await.unwrap_err();
        assert_eq!(failed.to_string(), "sh: no such thing");
        let failed = shell("exit 3").run(soon()).await.unwrap_err();
        assert_eq!(failed.to_string(), "sh: exit status: 3");
        let output = shell("echo one; echo two").keep_last().run(soon()).await.unwrap();
        assert_eq!(output.lines, ["two"]);
    }

    #[tokio::test]
    async fn what_the_tool_started_dies_with_it() {
        // The shell names its child, which would hold the pipe open for ten minutes.
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; kill -9 $$", file.display());
        let failed = shell(&script).run(soon()).await.unwrap_err();
        assert!(matches!(failed, ToolError::Failed { .. }), "{failed}");
        let timed_out = shell("sleep 600 & sleep 600")
            .run(Instant::now() + Duration::from_millis(200))
            .await
            .unwrap_err();
        assert!(matches!(timed_out, ToolError::TimedOut), "{timed_out}");
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        while crate::process::is_alive(pid) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_tool_sees_nothing_of_our_environment_but_what_it_is_given() {
        let tool = shell("env").env("PGPASSFILE", "/p");
        let lines = tool.run(soon()).await.unwrap().lines;
        let names: Vec<&str> =
            lines.iter().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.contains(&"PGPASSFILE") && names.contains(&"HACLT_DATA_DIR"));
        assert!(!names.contains(&"CARGO_MANIFEST_DIR") && !names.contains(&"HOME"));
    }
}
