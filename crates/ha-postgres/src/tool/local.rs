//! Tools as processes of this machine.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::{Lines, Output, SHELL, Tool, ToolError};
use crate::instance::RunAs;

/// Environment variable that marks our tools with the data directory they work on, so that a later
/// agent finds what an earlier one left behind when it was killed.
pub(crate) const DATA_DIR_MARK: &str = "HACLT_DATA_DIR";
/// Environment variable with the process that started the tool.
pub(crate) const STARTED_BY_MARK: &str = "HACLT_STARTED_BY";

/// Where the programs are, what they work on, and as whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local<'a> {
    /// The directory of the programs.
    pub(crate) bin_dir: &'a Path,
    /// The directory that they work on, by which a later agent finds them.
    pub(crate) work_dir: &'a Path,
    /// The user they run as, if not our own.
    pub(crate) run_as: Option<RunAs>,
}

impl Local<'_> {
    fn program(&self, tool: &Tool<'_>) -> PathBuf {
        if tool.name == SHELL { PathBuf::from("/bin/sh") } else { self.bin_dir.join(tool.name) }
    }

    fn command(&self, tool: &Tool<'_>) -> Command {
        let mut command = Command::new(self.program(tool));
        command.args(&tool.args).env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Nothing of PGHOST and its like: what the tool does is what its arguments say.
        for kept in ["PATH", "TZ", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if tool.name == SHELL {
            // What a script names is what tools are.
            command.env("PATH", self.bin_dir);
        }
        command.env("LC_ALL", "C").env("PGCONNECT_TIMEOUT", "5");
        command.env(DATA_DIR_MARK, self.work_dir).env(STARTED_BY_MARK, started_by());
        command.envs(tool.env.iter().map(|(name, value)| (name, value)));
        if let Some(RunAs { uid, gid }) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs the program to its end, and kills all processes of its group if that is not in time.
    pub(super) async fn run(
        &self,
        tool: &Tool<'_>,
        deadline: Instant,
    ) -> Result<Output, ToolError> {
        let mut child = self.command(tool).spawn().map_err(|error| ToolError::Start {
            program: self.program(tool).display().to_string(),
            error: error.to_string(),
        })?;
        // Declared after the child, so dropped before it: the group dies before its id can be free.
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        debug!(tool = tool.name, pid = child.id(), "tool started");
        let Ok((status, output)) = timeout_at(deadline, watch(tool, &mut child, &group)).await
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
            Ok(status) => Err(tool.failed(status, output.errors)),
            Err(error) => Err(tool.failed(error, output.errors)),
        }
    }
}

async fn watch(
    tool: &Tool<'_>,
    child: &mut Child,
    group: &Group,
) -> (std::io::Result<ExitStatus>, Output) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let Output { mut lines, mut errors } = Output::default();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // It may end without reading all; its exit status says what that means.
            let _all_read = stdin.write_all(&tool.stdin).await;
            let _closed = stdin.shutdown().await;
        }
    };
    let answers = each_line(stdout, |line| tool.answered(line, &mut lines));
    let complaints = each_line(stderr, |line| tool.complained(line, &mut errors));
    let end = async {
        let status = child.wait().await;
        // A child it left behind would hold the pipes open, and go on working.
        if !status.as_ref().is_ok_and(ExitStatus::success) {
            group.kill();
        }
        status
    };
    let ((), (), (), status) = tokio::join!(feed, answers, complaints, end);
    (status, Output { lines, errors })
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

/// Feeds whole lines to `sink`.
async fn each_line(source: Option<impl AsyncRead + Unpin>, mut sink: impl FnMut(&str)) {
    let Some(mut source) = source else { return };
    let mut chunk = vec![0; 64 << 10];
    let mut lines = Lines::default();
    // A pipe that cannot be read any more is at its end for us.
    while let Ok(count @ 1..) = source.read(&mut chunk).await {
        lines.take(chunk.get(..count).unwrap_or_default(), &mut sink);
    }
    lines.end(&mut sink);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::Programs;

    fn shell(script: &str) -> Tool<'static> {
        let (bin_dir, work_dir) = (Path::new("/bin"), Path::new("/nowhere"));
        let local = Local { bin_dir, work_dir, run_as: None };
        Tool::new("sh", Programs::Local(local)).args(["-c", script])
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
        let output = shell("echo one; echo two").run(soon()).await.unwrap();
        assert_eq!(output.lines, ["one", "two"]);
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
