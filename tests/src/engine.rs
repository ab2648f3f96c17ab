//! A Docker engine of a test's own, to be stopped, killed and started again.
//!
//! It is in a network of its own, and so is the test from then on: its bridges, its packet filter and
//! the ports that it publishes are nobody else's. The machine's own engine is only read from.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::programs::said;

/// Not a directory for temporary files: those may be in memory, or on an overlay.
const BELOW: &str = "/var/tmp";
const PREFIX: &str = "haclt-engine-";
/// How long an engine may take to answer after its start, on a busy machine.
const STARTING: Duration = Duration::from_secs(60);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The engine. Dropping it ends it and everything that it runs.
#[derive(Debug)]
pub struct Engine {
    name: String,
    live_restore: bool,
    daemon: Option<Child>,
    /// Ours, as systemd's is: what containers have mounted outlives a restart of the engine.
    listener: UnixListener,
}

/// Returns whether a test can have an engine of its own; says so loudly if not.
pub fn can_be_made() -> bool {
    let can = is_possible();
    if !can {
        let mut err = std::io::stderr().lock();
        writeln!(err, "SKIPPED: not root, or no dockerd").expect("standard error");
    }
    can
}

/// Returns whether this machine can have a further engine.
pub fn is_possible() -> bool {
    let runs = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    };
    getuid().is_root() && runs("dockerd", "--version") && runs("ip", "-V")
}

impl Engine {
    /// Starts an engine and moves this thread, and all that it starts from now on, into its network.
    pub fn start(live_restore: bool) -> Self {
        Self::start_asking(live_restore, None)
    }

    /// The same. What its own name server does not know it asks of the one at that address.
    pub fn start_asking(live_restore: bool, dns: Option<&str>) -> Self {
        clear_stale();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let dir = dir(&name);
        fs::create_dir_all(&dir).expect("a directory of ours");
        let dns: Vec<&str> = dns.into_iter().collect();
        let settings = serde_json::json!({ "live-restore": live_restore, "dns": dns }).to_string();
        fs::write(dir.join("daemon.json"), settings).expect("a directory of ours");
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let network = File::open(Path::new("/run/netns").join(&name)).expect("our own network");
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter it");
        let listener = UnixListener::bind(dir.join("socket")).expect("a directory of ours");
        let mut engine = Self { name, live_restore, daemon: None, listener };
        engine.run();
        engine
    }

    /// Starts the daemon, unless it is running, and waits until it answers.
    pub fn run(&mut self) {
        if self.daemon.is_some() {
            return;
        }
        let dir = dir(&self.name);
        let at = |name: &str| dir.join(name).display().to_string();
        let driver = crate::compose::docker(&["info", "--format", "{{.Driver}}"]);
        // The protocol by which systemd hands over a socket: descriptor 3, named in the environment.
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec dockerd \"$@\"";
        let log = File::options().create(true).append(true).open(dir.join("log"));
        let log = log.expect("a directory of ours");
        let listener = self.listener.try_clone().expect("our own socket");
        let child = Command::new("sh")
            .args(["-c", script, "dockerd", "--host", "fd://"])
            .args(["--config-file", &at("daemon.json"), "--data-root", &at("data")])
            .args(["--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--storage-driver", driver.trim()])
            .stdin(OwnedFd::from(listener))
            .stdout(log.try_clone().expect("our own file"))
            .stderr(log)
            .spawn();
        self.daemon = Some(child.expect("a shell"));
        let began = Instant::now();
        while !self.answers() {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            let end = log.lines().last().unwrap_or_default();
            assert!(began.elapsed() < STARTING, "the engine does not answer: {end}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn answers(&self) -> bool {
        let mut ask = Command::new("timeout");
        ask.args(["5", "docker", "--host", &self.host(), "version"]).stdin(Stdio::null());
        ask.output().is_ok_and(|output| output.status.success())
    }

    /// Ends the daemon with a signal and waits until it is gone.
    pub fn end(&mut self, signal: Signal) {
        let mut daemon = self.daemon.take().expect("it is running");
        let pid = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("our own child");
        daemon.wait().expect("our own child");
    }

    /// Copies images from the machine's engine.
    pub fn load(&self, images: &[&str]) {
        let mut save = Command::new("docker");
        save.arg("save").args(images).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut save = save.spawn().expect("it was there before");
        let stream = save.stdout.take().expect("a pipe");
        let mut load = Command::new("docker");
        let loaded = load.args(["--host", &self.host(), "load"]).stdin(stream).output();
        let loaded = loaded.expect("it was there before");
        let saved = save.wait().expect("our own child").success();
        assert!(saved && loaded.status.success(), "could not copy images: {}", said(&loaded));
    }

    /// Returns where it answers, for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Returns its socket.
    pub fn socket(&self) -> PathBuf {
        dir(&self.name).join("socket")
    }

    /// Returns whether containers live on while the daemon is away.
    pub const fn restores_live(&self) -> bool {
        self.live_restore
    }

    /// Returns the file with what it said.
    pub fn log_file(&self) -> PathBuf {
        dir(&self.name).join("log")
    }

    /// Returns the end of what it said.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.end(Signal::KILL);
        }
        clear(&self.name);
    }
}

fn dir(name: &str) -> PathBuf {
    Path::new(BELOW).join(name)
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("it was there before");
    assert!(output.status.success(), "ip {arguments:?}: {}", said(&output));
}

/// Ends what an engine left running, unmounts what it mounted, removes its files and its network.
fn clear(name: &str) {
    let dir = dir(name);
    let began = Instant::now();
    while let pids = pids_of(&dir)
        && !pids.is_empty()
        && began.elapsed() < Duration::from_secs(10)
    {
        for pid in pids {
            // One that is gone meanwhile is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    remove_groups(&dir);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let ours: Vec<PathBuf> = mounts.filter(|mount| mount.starts_with(&dir)).collect();
    for mount in ours.iter().rev() {
        drop(Command::new("umount").arg("--lazy").arg(mount).output());
    }
    drop(fs::remove_dir_all(&dir));
    drop(Command::new("ip").args(["netns", "delete", name]).output());
}

/// Removes the control groups of containers that were killed and not removed.
fn remove_groups(dir: &Path) {
    let containers = fs::read_dir(dir.join("data/containers")).into_iter().flatten().flatten();
    for id in containers.map(|entry| entry.file_name()) {
        let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let parents = trees.map(|tree| tree.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        for group in parents.map(|parent| parent.join("docker").join(&id)) {
            if group.exists() {
                // Busy if a process is left in it; then that is what remains to be seen.
                drop(fs::remove_dir(group));
            }
        }
    }
}

/// Returns the engine's processes: each has a path of its directory as an argument, or is the child of
/// one that has, as the first process of a container is.
fn pids_of(dir: &Path) -> Vec<Pid> {
    let wanted = format!("{}/", dir.display());
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let named = pids.filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let program = command.split('\0').next().unwrap_or_default();
        let program = Path::new(program).file_name().and_then(|name| name.to_str());
        let theirs = ["dockerd", "containerd", "containerd-shim-runc-v2", "fuse-overlayfs"];
        program.is_some_and(|program| theirs.contains(&program)) && command.contains(&wanted)
    });
    let named: Vec<i32> = named.collect();
    let children = named.iter().flat_map(|pid| {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let list = list.unwrap_or_default();
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    children.chain(named.iter().copied()).filter_map(Pid::from_raw).collect()
}

/// Clears what tests that were killed left behind.
fn clear_stale() {
    for entry in fs::read_dir(BELOW).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        let dead = maker.filter(|(pid, _)| !Path::new("/proc").join(pid).exists());
        if let Some((pid, _)) = dead {
            clear(&name);
            crate::compose::clear_files_of(pid);
        }
    }
}
