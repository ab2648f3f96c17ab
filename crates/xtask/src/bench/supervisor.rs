//! What systemd does on a real host: starts an agent, and starts it again at once when it ended.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::Node;
use crate::cluster::process::{self, Process};
use crate::failure::{Failure, Outcome};
use crate::local::up::agent_command;

/// An agent that ends this soon did not get going.
const QUICK: Duration = Duration::from_secs(1);
/// After so many quick ends it is not started again.
const QUICK_MAX: u32 = 5;

/// One supervised agent.
#[derive(Debug)]
pub(crate) struct Supervisor {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    /// The agent's process id; 0 while there is none.
    pid: AtomicI32,
    /// Whether to start it again.
    keep: AtomicBool,
    starts: AtomicU32,
    gave_up: Mutex<Option<String>>,
}

impl Supervisor {
    /// Starts an agent. `prefix` is the command that leads to its host, such as `ip netns exec x`.
    pub(crate) fn start(prefix: impl Fn(&Path) -> Command, agent: &Path, node: &Node) -> Self {
        let state = Arc::new(State {
            pid: AtomicI32::new(0),
            keep: AtomicBool::new(true),
            starts: AtomicU32::new(0),
            gave_up: Mutex::new(None),
        });
        let mut command = prefix(agent);
        // A group of its own: Ctrl-C in our terminal is not meant for it.
        agent_command(&mut command, node).process_group(0);
        let (shared, log, name) = (state.clone(), node.log(), node.name.clone());
        let thread = thread::spawn(move || supervise(&shared, &mut command, &log, &name));
        Self { state, thread: Some(thread) }
    }

    /// Returns the agent's process, if it is running.
    pub(crate) fn agent(&self) -> Option<Process> {
        let pid = self.state.pid.load(Ordering::SeqCst);
        Process::look(pid).filter(|process| process.program == "ha-agent")
    }

    /// Returns how often the agent was started.
    pub(crate) fn starts(&self) -> u32 {
        self.state.starts.load(Ordering::SeqCst)
    }

    /// Fails if the agent ended so often that it was not started again.
    pub(crate) fn check(&self) -> Outcome<()> {
        let gave_up = self.state.gave_up.lock().unwrap_or_else(PoisonError::into_inner);
        gave_up.clone().map_or(Ok(()), |why| Err(Failure::new(why)))
    }

    /// From now on the agent is not started again when it ends.
    pub(crate) fn let_go(&self) {
        self.state.keep.store(false, Ordering::SeqCst);
    }

    /// Asks the agent to end and waits for that; after `patience` it is killed.
    pub(crate) fn stop(&mut self, patience: Duration) {
        self.let_go();
        process::end(&[Signal::TERM], patience, || self.agent().into_iter().collect());
        self.join();
    }

    /// Waits until the agent, killed by somebody else, is gone for good.
    pub(crate) fn join(&mut self) {
        self.let_go();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn supervise(state: &State, command: &mut Command, log: &PathBuf, name: &str) {
    let mut quick = 0;
    while state.keep.load(Ordering::SeqCst) {
        let started = Instant::now();
        let ended = run_once(state, command, log);
        state.pid.store(0, Ordering::SeqCst);
        quick = if started.elapsed() < QUICK { quick + 1 } else { 0 };
        if quick >= QUICK_MAX || ended.is_err() {
            let how = ended.unwrap_or_else(|error| error.to_string());
            let why = format!("the agent of node {name} does not stay up: {how}; see its log");
            *state.gave_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            return;
        }
    }
}

fn run_once(state: &State, command: &mut Command, log: &PathBuf) -> std::io::Result<String> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let errors = log.try_clone()?;
    let mut child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn()?;
    state.starts.fetch_add(1, Ordering::SeqCst);
    state.pid.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    child.wait().map(|status| status.to_string())
}
