//! Nodes on this machine for tests: real PostgreSQL, the real guard, own directories and ports.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod engine;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ha_core::permit::{GuardStatus, Order, Permit, StopMode};
use ha_core::{BootId, BootNanos, Epoch, Lsn, NodeId, WalPosition};
use ha_postgres::driver::{GuardSeen, PostgresDriver, Probe, Synchronous, Upstream};
use ha_postgres::{Instance, InstanceConfig, ProcessConfig, Role, RunAs, Secret};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::kind::DOCKER;

pub(crate) const SUPERUSER_PASSWORD: &str = "super: 'q\\uote' §1";
pub(crate) const REPLICATION_PASSWORD: &str = "repl: 'q\\uote' §2";

/// Where the programs of the newest PostgreSQL of this machine are.
pub(crate) fn bin_dir() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed")
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|path| path.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL is installed")
}

/// Returns the path of the guard, built anew if it is older than its sources.
///
/// Asking cargo each time would wait for whoever holds its lock.
pub(crate) fn guard_binary() -> PathBuf {
    static GUARD: OnceLock<PathBuf> = OnceLock::new();
    GUARD
        .get_or_init(|| {
            let test = std::env::current_exe().unwrap();
            let guard = test.ancestors().nth(2).unwrap().join("ha-guard");
            let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
            let sources = ["ha-guard/src", "ha-core/src"].map(|dir| newest(&crates.join(dir)));
            let built = std::fs::metadata(&guard).and_then(|file| file.modified()).ok();
            if built.is_none_or(|built| sources.iter().any(|source| *source > built)) {
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let done =
                    Command::new(cargo).args(["build", "--quiet", "-p", "ha-guard"]).status();
                assert!(done.unwrap().success(), "the guard does not build");
            }
            guard
        })
        .clone()
}

pub(crate) fn newest(dir: &Path) -> SystemTime {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let times = entries.map(|entry| {
        let file = entry.metadata().unwrap();
        if file.is_dir() { newest(&entry.path()) } else { file.modified().unwrap() }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The user that PostgreSQL runs as, if the tests run as root.
pub(crate) fn run_as() -> Option<RunAs> {
    if DOCKER {
        return Some(*engine::RUN_AS.get().expect("a node was made"));
    }
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("user postgres");
    let number = |at: usize| line.split(':').nth(at).unwrap().parse().unwrap();
    Some(RunAs { uid: number(2), gid: number(3) })
}

/// Returns a driver of the kind that is tested.
pub(crate) fn driver(config: InstanceConfig) -> Instance {
    if DOCKER {
        return engine::driver(config);
    }
    let process = ProcessConfig { bin_dir: bin_dir(), guard: guard_binary() };
    Instance::on_processes(config, process).unwrap()
}

pub(crate) fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

pub(crate) fn boot_id() -> BootId {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().parse().unwrap()
}

pub(crate) fn boot_now() -> BootNanos {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    BootNanos(0)
        .after(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap()))
}

/// Waits until `look` finds something; panics after 30 s.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = soon(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A process of the server's user that has nothing to do with the server.
pub(crate) struct Stranger(std::process::Child);

impl Stranger {
    /// Puts its number into the lock file of a server that is gone, as if it had been used again.
    pub(crate) fn in_lock_file_of(node: &Node) -> Self {
        let mut stranger = Command::new("sleep");
        stranger.arg("600");
        if let Some(user) = run_as() {
            std::os::unix::process::CommandExt::uid(&mut stranger, user.uid);
        }
        let stranger = Self(stranger.spawn().unwrap());
        let file = node.data().join("postmaster.pid");
        let text = std::fs::read_to_string(&file).unwrap();
        let (_, rest) = text.split_once('\n').unwrap();
        std::fs::write(&file, format!("{}\n{rest}", stranger.0.id())).unwrap();
        stranger
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A tool that an agent before this one left at work on a node's data directory.
pub(crate) enum LeftBehind {
    Process(Box<std::process::Child>),
    Container(String),
}

impl LeftBehind {
    pub(crate) fn start(node: &Node, program: &str, args: &[&str]) -> Self {
        let data = node.data().display().to_string();
        let password = format!("PGPASSWORD={REPLICATION_PASSWORD}");
        if DOCKER {
            let user = run_as().unwrap();
            let (user, volumes) = (format!("{}:{}", user.uid, user.gid), node.container());
            let tool = format!("org.haclt.tool={program}");
            let dir = format!("org.haclt.data-dir={data}");
            let fixed = ["run", "-d", "--network", "host", "--user", &user, "--volumes-from"];
            let labels = ["--label", &tool, "--label", &dir, "--label", "org.haclt.started-by=1:1"];
            let what = [&volumes, "--env", &password, "--entrypoint", program, engine::image()];
            let all = [&fixed[..], &what[..1], &labels, &what[1..], args].concat();
            return Self::Container(engine::docker(&all));
        }
        let mut left = Command::new(bin_dir().join(program));
        if let Some(user) = run_as() {
            left.uid(user.uid).gid(user.gid);
        }
        left.args(args).env("PGPASSWORD", REPLICATION_PASSWORD).env("HACLT_DATA_DIR", data);
        left.env("HACLT_STARTED_BY", "1:1").current_dir("/").stderr(std::process::Stdio::null());
        Self::Process(Box::new(left.spawn().unwrap()))
    }

    /// Waits until it was ended from outside.
    pub(crate) async fn ends(self) {
        match self {
            Self::Process(mut child) => assert!(!child.wait().unwrap().success()),
            Self::Container(id) => {
                let gone = async || engine::try_docker(&["inspect", &id]).is_err().then_some(());
                until("the tool that was left behind is gone", gone).await;
            }
        }
    }
}

/// A port that nobody has now, and that the kernel gives to no outgoing connection: a server would be
/// kept from coming back by whoever got its port meanwhile. Other processes begin elsewhere.
fn free_port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = (u64::from(std::process::id()) * 41 + step) % 12_000;
        let port = 10_000 + u16::try_from(number).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One node. Dropping it ends its processes and removes its directories.
pub(crate) struct Node {
    pub(crate) driver: Instance,
    pub(crate) name: NodeId,
    pub(crate) port: u16,
    pub(crate) dir: TempDir,
    run: AtomicU64,
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub(crate) fn with(name: &str, change: impl FnOnce(&mut InstanceConfig)) -> Self {
        let dir = tempfile::Builder::new().prefix("ha-postgres-test-").tempdir().unwrap();
        // The server's user must get through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let mut config = InstanceConfig {
            node: name.parse().unwrap(),
            data_dir: dir.path().join("data"),
            permit_dir: dir.path().join("permit"),
            log_dir: dir.path().join("log"),
            listen_addresses: vec!["127.0.0.1".to_owned()],
            port,
            probe_host: "127.0.0.1".to_owned(),
            own_network: false,
            superuser: Role {
                name: "postgres".to_owned(),
                password: Secret::new(SUPERUSER_PASSWORD).into(),
            },
            replication: Role {
                name: "haclt_replication".to_owned(),
                password: Secret::new(REPLICATION_PASSWORD).into(),
            },
            run_as: if DOCKER { None } else { run_as() },
            margin: Duration::from_millis(100),
            fast_stop: Duration::from_secs(10),
            immediate_stop: Duration::from_secs(5),
            parameters: BTreeMap::from([("shared_buffers".to_owned(), "16MB".to_owned())]),
            hba: Vec::new(),
        };
        change(&mut config);
        if DOCKER {
            engine::make_container(&config);
        }
        let name = config.node.clone();
        let driver = driver(config);
        Self { driver, name, port, dir, run: AtomicU64::new(0) }
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream { node: self.name.clone(), host: "127.0.0.1".to_owned(), port: self.port }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.driver.config().data_dir
    }

    pub(crate) fn permit(&self, run: u64, order: Order) {
        let permit = Permit { boot: boot_id(), run, burnt: Epoch::NONE, order };
        self.driver.write_permit(&permit).unwrap();
    }

    pub(crate) fn next_run(&self) -> u64 {
        self.run.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn right(&self, epoch: u64) {
        let deadline = boot_now().after(Duration::from_secs(600));
        let run = self.run.load(Ordering::Relaxed);
        self.permit(run, Order::Primary { epoch: Epoch(epoch), deadline });
    }

    /// Starts the prepared data directory as a standby and waits until it answers.
    pub(crate) async fn start(&self) -> Probe {
        self.driver.ensure_guard(soon(10)).await.unwrap();
        self.permit(self.next_run(), Order::Standby);
        self.answers().await
    }

    pub(crate) async fn answers(&self) -> Probe {
        until("the server answers", async || self.driver.probe(soon(5)).await.ok()).await
    }

    /// A new primary.
    pub(crate) async fn new_primary(name: &str) -> Self {
        let node = Self::new(name);
        node.become_primary().await;
        node
    }

    pub(crate) async fn become_primary(&self) {
        self.driver.initdb(soon(60)).await.unwrap();
        self.start().await;
        self.right(1);
        self.promote().await;
    }

    /// Promotes it; its commits then wait for nobody.
    pub(crate) async fn promote(&self) -> WalPosition {
        let begin = self.driver.promote(soon(20)).await.unwrap();
        self.driver.set_synchronous(&Synchronous::Nobody, soon(10)).await.unwrap();
        begin
    }

    /// A new standby of `primary`, streaming.
    pub(crate) async fn new_standby(name: &str, primary: &Node) -> Self {
        let node = Self::new(name);
        node.driver.clone_from(&primary.upstream(), None, &|_, _| {}, soon(60)).await.unwrap();
        node.start().await;
        node.streams().await;
        node
    }

    pub(crate) async fn streams(&self) -> Probe {
        until("it streams", async || self.driver.probe(soon(5)).await.ok().filter(|p| p.streaming))
            .await
    }

    /// Waits until it has replayed all that the primary has flushed now.
    pub(crate) async fn catches_up_with(&self, primary: &Node) -> Probe {
        let end = primary.driver.probe(soon(5)).await.unwrap();
        until("it has caught up", async || {
            let probe = self.driver.probe(soon(5)).await.ok()?;
            (probe.replayed >= end.flushed && probe.timeline == end.timeline).then_some(probe)
        })
        .await
    }

    pub(crate) fn status(&self) -> Option<GuardStatus> {
        match self.driver.guard() {
            GuardSeen::Alive(status) => Some(status),
            GuardSeen::Silent { last, .. } => last,
            GuardSeen::Absent => None,
        }
    }

    pub(crate) fn postmaster(&self) -> i32 {
        self.status().and_then(|status| status.postmaster).expect("the server runs")
    }

    /// Signals a process as guard and server count it.
    pub(crate) fn signal(&self, pid: i32, signal: Signal) {
        let pid = if DOCKER { engine::outer_pid(&self.container(), pid) } else { pid };
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Returns the name of its container.
    pub(crate) fn container(&self) -> String {
        engine::container_of(self.driver.config())
    }

    pub(crate) async fn is_gone(&self) {
        let run = self.run.load(Ordering::Relaxed);
        until("the server is gone", async || {
            self.status().filter(|status| status.run >= run && status.state.is_gone())
        })
        .await;
    }

    pub(crate) async fn stop(&self, stop: StopMode) {
        self.permit(self.run.load(Ordering::Relaxed), Order::Down { stop });
        self.is_gone().await;
    }

    /// Ends the server without any shutdown.
    pub(crate) async fn crash(&self) {
        self.signal(self.postmaster(), Signal::KILL);
        self.is_gone().await;
    }

    /// Returns one of PostgreSQL's programs, to be run as the server's user.
    pub(crate) fn server_command(&self, name: &str) -> Command {
        if DOCKER {
            let user = run_as().unwrap();
            let mut command = Command::new("docker");
            command.args(["run", "--rm", "--network", "host", "--volumes-from", &self.container()]);
            command.args(["--user", &format!("{}:{}", user.uid, user.gid), "--env", "LC_ALL=C"]);
            command.args(["--entrypoint", name, engine::image()]);
            return command;
        }
        let mut command = Command::new(bin_dir().join(name));
        if let Some(user) = run_as() {
            command.uid(user.uid).gid(user.gid);
        }
        command.env("LC_ALL", "C").current_dir("/");
        command
    }

    /// Runs one of PostgreSQL's programs as the server's user and returns what it prints.
    pub(crate) fn tool(&self, name: &str, args: &[&str]) -> String {
        let output = self.server_command(name).args(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} of {}: {error}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs SQL as the superuser with `psql`, and returns its output.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = self.psql("postgres", SUPERUSER_PASSWORD, sql);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits something and returns the end of a record of it: the *flushed* position may be in the
    /// middle of a record that was not acknowledged to anybody.
    pub(crate) fn committed(&self) -> Lsn {
        self.sql("SELECT pg_logical_emit_message(true, 'test', 'commit')").parse().unwrap()
    }

    pub(crate) fn psql(&self, user: &str, password: &str, sql: &str) -> std::process::Output {
        Command::new(bin_dir().join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres"])
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", user, "-c", sql])
            .env("PGPASSWORD", password)
            .current_dir("/")
            .output()
            .unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if DOCKER {
            return engine::remove_containers(self.driver.config());
        }
        let Some(status) = self.status() else { return };
        let guard = Pid::from_raw(status.guard_pid).unwrap();
        if let Some(postmaster) = status.postmaster.and_then(Pid::from_raw) {
            // It may have been frozen by the test.
            let _gone = kill_process(postmaster, Signal::CONT);
        }
        let run = self.run.load(Ordering::Relaxed);
        self.permit(run, Order::Down { stop: StopMode::Immediate });
        let _gone = kill_process(guard, Signal::CONT);
        let _gone = kill_process(guard, Signal::TERM);
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::time::Instant::now() < deadline {
            match self.driver.guard() {
                GuardSeen::Absent => return,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        assert!(std::thread::panicking(), "the guard of {} did not end", self.name);
    }
}
