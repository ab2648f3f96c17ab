//! Running one hook: its environment, its output, its end, by force if need be.

use std::fs;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::info;

use super::Call;
use crate::config::HookKind;

/// What of our environment a hook sees.
const KEPT: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// Marks everything that a hook starts, so that it is found however far it has gone away.
const MARK: &str = "HACLT_HOOK_RUN";
/// How much of what it says is logged.
const LINES_MAX: usize = 200;
const LINE_BYTES_MAX: usize = 1000;
/// How long the pipes may stay open after its end: what it left running holds them too.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);
/// How often, and how many times, what is to die is looked for.
const KILL_EVERY: Duration = Duration::from_millis(5);
const KILLS_MAX: u32 = 40;

/// How a hook ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed, with everything that it had started.
    TimedOut(Duration),
    /// It was never begun.
    NotStarted(String),
}

impl End {
    /// Returns whether it did what it is there for.
    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "{status}"),
            Self::TimedOut(limit) => write!(f, "killed after {} ms", limit.as_millis()),
            Self::NotStarted(why) => write!(f, "could not start: {why}"),
        }
    }
}

/// A process group and everything else that bears the mark: killed when this is dropped.
struct Family {
    leader: Option<Pid>,
    mark: String,
}

impl Family {
    fn kill(&self) -> usize {
        if let Some(leader) = self.leader {
            // It may be gone already.
            let _gone = kill_process_group(leader, Signal::KILL);
        }
        let found = marked(&self.mark);
        for pid in &found {
            let _gone = kill_process(*pid, Signal::KILL);
        }
        found.len()
    }

    /// Kills until nothing is found any more: a process may be starting another one just now.
    async fn kill_all(&self) {
        for _ in 0..KILLS_MAX {
            if self.kill() == 0 {
                return;
            }
            sleep(KILL_EVERY).await;
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the living processes with that entry in their environment.
fn marked(entry: &str) -> Vec<Pid> {
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|dir| dir.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            // That of a zombie is empty.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|known| known == entry.as_bytes())
        })
        .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .collect()
}

/// Runs a hook to its end. What it says is logged line by line; the last line of its standard error is
/// returned for whoever asks why.
///
/// Dropping the future kills it. If it succeeds, what it has left running is left alone.
pub(super) async fn run(call: &Call, words: &[String], limit: Duration) -> (End, String) {
    let deadline = Instant::now() + limit;
    let Some((program, arguments)) = words.split_first() else {
        return (End::NotStarted("no program is named".to_owned()), String::new());
    };
    let mark = format!("{}-{:016x}", std::process::id(), crate::clock::random());
    let mut command = Command::new(Path::new(program));
    command.args(arguments).args(call.arguments()).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    for kept in KEPT {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.envs(call.environment.iter().map(|(name, value)| (name, value)));
    command.env("HACLT_HOOK", call.kind.name()).env("HACLT_ROLE", call.role).env(MARK, &mark);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (End::NotStarted(format!("{program}: {error}")), String::new()),
    };
    // Declared after the child, so dropped before it: the group dies before its id can be free.
    let family = Family {
        leader: child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
        mark: format!("{MARK}={mark}"),
    };
    let kind = call.kind;
    let said = tokio::spawn(each_line(kind, "stdout", child.stdout.take()));
    let complained = tokio::spawn(each_line(kind, "stderr", child.stderr.take()));
    let end = match timeout_at(deadline, child.wait()).await {
        Ok(Ok(status)) => End::Exited(status),
        Ok(Err(error)) => End::NotStarted(error.to_string()),
        Err(_) => End::TimedOut(limit),
    };
    if end.is_success() {
        std::mem::forget(family);
    } else {
        family.kill_all().await;
        // Reaped here if the kernel is quick, otherwise by the runtime later.
        let _reaped = timeout(DRAIN_LIMIT, child.wait()).await;
    }
    let [said, complained] = [said, complained].map(AbortOnDrop);
    let [_, last] = [drained(said).await, drained(complained).await];
    (end, last)
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop(JoinHandle<String>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn drained(mut reader: AbortOnDrop) -> String {
    match timeout(DRAIN_LIMIT, &mut reader.0).await {
        Ok(Ok(last)) => last,
        Ok(Err(_)) | Err(_) => String::new(),
    }
}

/// Logs what is said, up to a bound; returns the last line.
async fn each_line(
    kind: HookKind,
    stream: &'static str,
    source: Option<impl AsyncRead + Unpin>,
) -> String {
    let Some(mut source) = source else { return String::new() };
    let mut last = String::new();
    let (mut chunk, mut line, mut lines) = (vec![0; 4 << 10], Vec::new(), 0);
    let mut say = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            return;
        }
        lines += 1;
        match lines {
            ..=LINES_MAX => info!(target: "ha::hook", hook = kind.name(), stream, line = text),
            _ if lines == LINES_MAX + 1 => {
                info!(target: "ha::hook", hook = kind.name(), stream, "further output is dropped");
            }
            _ => {}
        }
        last = text;
    };
    // A pipe that cannot be read any more is at its end for us.
    while let Ok(count @ 1..) = source.read(&mut chunk).await {
        for byte in chunk.get(..count).unwrap_or_default() {
            if *byte == b'\n' {
                say(&mut line);
            } else if line.len() < LINE_BYTES_MAX {
                line.push(*byte);
            }
        }
    }
    say(&mut line);
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        let environment = vec![("HACLT_CLUSTER", "orders".to_owned())];
        Call { kind: HookKind::OnStart, role: "standby", environment }
    }

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script, "script"].map(str::to_owned).to_vec()
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_hook_sees_its_arguments_and_nothing_of_our_environment() {
        let script = "[ \"$*\" = 'on_start standby orders' ] && [ \"$HACLT_ROLE\" = standby ] && \
                      [ -z \"$CARGO_MANIFEST_DIR\" ] && [ -n \"$PATH\" ]";
        let (end, said) = run(&call(), &shell(script), LONG).await;
        assert!(end.is_success(), "{end}: {said}");
        let (end, said) = run(&call(), &shell("echo no; echo 'but why' >&2; exit 3"), LONG).await;
        assert_eq!((end.to_string().as_str(), said.as_str()), ("exit status: 3", "but why"));
        let (end, _) = run(&call(), &["/no/such".to_owned()], LONG).await;
        assert!(matches!(end, End::NotStarted(_)), "{end}");
    }

    #[tokio::test]
    async fn at_its_limit_a_hook_dies_with_all_that_it_started() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pids");
        let script = format!(
            "trap '' TERM INT; sleep 600 & echo $! >{0}; setsid sleep 601 & echo $! >>{0}; \
             (setsid sh -c 'sleep 602 & echo $! >>{0}' &); sleep 603",
            file.display()
        );
        let limit = Duration::from_secs(1);
        let began = Instant::now();
        let (end, _) = run(&call(), &shell(&script), limit).await;
        assert!(matches!(end, End::TimedOut(_)), "{end}");
        assert!(began.elapsed() < limit * 3, "{:?}", began.elapsed());
        let pids = fs::read_to_string(file).expect("three children");
        assert_eq!(pids.lines().count(), 3, "{pids}");
        for pid in pids.lines() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        }
    }

    #[tokio::test]
    async fn output_without_end_is_cut_and_what_goes_on_is_not_waited_for() {
        let began = Instant::now();
        let script = "yes 2>&1 | head -c 3000000; head -c 100000 /dev/zero >&2; sleep 3 &";
        let (end, said) = run(&call(), &shell(script), LONG).await;
        assert!(end.is_success(), "{end}");
        assert!(said.len() <= LINE_BYTES_MAX * 3, "{}", said.len());
        assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    }
}
