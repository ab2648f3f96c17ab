//! A guard in a directory of its own, and what a test does to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ha_core::permit::{GuardStatus, Order, PERMIT_FILE, Permit, RunState, STATUS_FILE, StopMode};
use ha_core::{BootId, BootNanos, Epoch};
use ha_guard::tree;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

/// The longest wait for anything; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const MARK: &str = "HA_GUARD_TEST";
pub(crate) const DOWN: Order = Order::Down { stop: StopMode::Fast };

/// A postmaster that ends when told to, with one child.
pub(crate) const POLITE: &str = "trap 'exit 0' INT QUIT; sleep 1000 & while :; do wait; done";
/// A postmaster that no polite signal stops.
pub(crate) const STUBBORN: &str = "trap '' INT QUIT; while :; do sleep 1; done";
/// A postmaster with descendants of every kind.
pub(crate) const TREE: &str = "
    setsid sh -c 'setsid sleep 1000 & sleep 1000' &
    sh -c 'sh -c \"trap \\\"\\\" INT QUIT TERM HUP; sleep 1000; sleep 1000\" &'
    (setsid sh -c 'while :; do sh -c \"sleep 0.3 & sleep 0.2 &\"; done' &)
    sh -c 'while :; do (sleep 0.1 &); done' &
    while :; do sleep 1; done";

pub(crate) fn now() -> BootNanos {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = u32::try_from(time.tv_nsec).unwrap();
    BootNanos(0).after(Duration::new(time.tv_sec.unsigned_abs(), nanos))
}

pub(crate) fn in_ms(ms: u64) -> BootNanos {
    now().after(Duration::from_millis(ms))
}

pub(crate) fn boot() -> BootId {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().parse().unwrap()
}

pub(crate) const fn primary(epoch: u64, deadline: BootNanos) -> Order {
    Order::Primary { epoch: Epoch(epoch), deadline }
}

/// Waits until `look` returns something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// The guard to test: the one just built, or another build of it, such as the static one.
pub(crate) fn guard_program() -> PathBuf {
    let other = std::env::var_os("HA_GUARD_BIN").map(PathBuf::from);
    other.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ha-guard")))
}

/// A guard's surroundings. Dropping it kills everything that was started in it.
pub(crate) struct World {
    directory: TempDir,
    pub(crate) margin_ms: u64,
    pub(crate) fast_stop_ms: u64,
    pub(crate) immediate_stop_ms: u64,
    pub(crate) identity: Option<(u32, u32)>,
    pub(crate) command: Vec<String>,
    guard: Option<Child>,
}

impl World {
    /// A world whose postmaster is a shell script.
    pub(crate) fn new(script: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("ha-guard-").tempdir().unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let world = Self {
            directory,
            margin_ms: 100,
            fast_stop_ms: 20_000,
            immediate_stop_ms: 20_000,
            identity: None,
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            guard: None,
        };
        fs::create_dir(world.permit_dir()).unwrap();
        fs::create_dir(world.pgdata()).unwrap();
        fs::write(world.pgdata().join("standby.signal"), "").unwrap();
        world
    }

    /// A world with a guard, told to run `script` as run 1, a standby.
    pub(crate) fn standby(script: &str) -> Self {
        let mut world = Self::new(script);
        world.start_guard();
        world.permit(1, 0, Order::Standby);
        world.wait_state(RunState::Running);
        // Until the shell has set its traps, any signal would just kill it.
        world.wait_alive(2);
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn permit_dir(&self) -> PathBuf {
        self.path().join("permit")
    }

    pub(crate) fn pgdata(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The guard's command line, ready to be started.
    pub(crate) fn guard_command(&self) -> Command {
        let mut command = Command::new(guard_program());
        command.env(MARK, self.path()).stdin(Stdio::null());
        command.arg("run").arg("--permit-dir").arg(self.permit_dir());
        command.arg("--pgdata").arg(self.pgdata());
        command.arg("--log").arg(self.path().join("log"));
        for (option, ms) in [
            ("--margin-ms", self.margin_ms),
            ("--fast-stop-ms", self.fast_stop_ms),
            ("--immediate-stop-ms", self.immediate_stop_ms),
        ] {
            command.arg(option).arg(ms.to_string());
        }
        if let Some((uid, gid)) = self.identity {
            command.args(["--uid", &uid.to_string(), "--gid", &gid.to_string()]);
        }
        command.arg("--").args(&self.command);
        command
    }

    /// Starts a guard and waits for its first status.
    pub(crate) fn start_guard(&mut self) {
        let guard = self.guard_command().spawn().unwrap();
        let pid = i32::try_from(guard.id()).unwrap();
        self.guard = Some(guard);
        self.wait("a status of this guard", |status| status.guard_pid == pid);
    }

    pub(crate) fn guard_pid(&self) -> i32 {
        i32::try_from(self.guard.as_ref().unwrap().id()).unwrap()
    }

    pub(crate) fn signal_guard(&self, signal: Signal) {
        tree::send(self.guard_pid(), signal);
    }

    /// Waits for the guard's end and returns its exit code.
    pub(crate) fn guard_exit(&mut self) -> Option<i32> {
        let mut guard = self.guard.take().unwrap();
        until("the guard's end", || guard.try_wait().unwrap()).code()
    }

    pub(crate) fn kill_guard(&mut self) {
        self.signal_guard(Signal::KILL);
        assert_eq!(self.guard_exit(), None);
    }

    pub(crate) fn write_permit(&self, text: &str) {
        let scratch = self.permit_dir().join("scratch");
        fs::write(&scratch, text).unwrap();
        fs::rename(scratch, self.permit_dir().join(PERMIT_FILE)).unwrap();
    }

    pub(crate) fn permit(&self, run: u64, burnt: u64, order: Order) {
        self.write_permit(&Permit { boot: boot(), run, burnt: Epoch(burnt), order }.encode());
    }

    pub(crate) fn status(&self) -> Option<GuardStatus> {
        let text = fs::read_to_string(self.permit_dir().join(STATUS_FILE)).ok()?;
        Some(GuardStatus::decode(&text).expect("a status is always whole"))
    }

    /// Waits for a status that `is_it` accepts.
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&GuardStatus) -> bool) -> GuardStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if let Some(status) = status.clone().filter(&is_it) {
                return status;
            }
            assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}: {status:?}");
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    pub(crate) fn wait_state(&self, state: RunState) -> GuardStatus {
        self.wait(state.name(), |status| status.state == state)
    }

    /// Waits until the guard, which saw everything up to now, has reported twice more.
    pub(crate) fn settle(&self) -> GuardStatus {
        let (mut last, mut beats) = (now(), 0);
        until("two heartbeats", || {
            let status = self.status()?;
            if status.heartbeat > last {
                (last, beats) = (status.heartbeat, beats + 1);
            }
            (beats >= 3).then_some(status)
        })
    }

    /// Returns the living processes of this world, without its guard.
    pub(crate) fn alive(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}\0", self.path().display()).into_bytes();
        let pgdata = self.pgdata();
        let guard = self.guard.as_ref().map(|guard| i32::try_from(guard.id()).unwrap());
        let all = tree::processes().unwrap();
        let alive = all.iter().filter(|(pid, stat)| !stat.dead && Some(**pid) != guard);
        let ours = |pid: i32| {
            let marked = fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.windows(mark.len()).any(|part| part == mark));
            marked || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == pgdata)
        };
        alive.map(|(pid, _)| *pid).filter(|pid| ours(*pid)).collect()
    }

    pub(crate) fn assert_nothing_alive(&self) {
        assert_eq!(self.alive(), Vec::<i32>::new(), "processes are left");
    }

    /// Asserts that the guard has no child of any kind: what is not collected may still be dying.
    pub(crate) fn assert_no_children(&self) {
        let guard = self.guard_pid();
        let all = tree::processes().unwrap();
        let children = all.iter().filter(|(_, stat)| stat.parent == guard);
        let children: Vec<i32> = children.map(|(pid, _)| *pid).collect();
        assert_eq!(children, Vec::<i32>::new(), "children of the guard are left");
    }

    pub(crate) fn wait_alive(&self, at_least: usize) {
        until("processes of the postmaster", || (self.alive().len() >= at_least).then_some(()));
    }
}

#[expect(clippy::print_stdout, reason = "a failing test says what it saw")]
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: String =
                tail.into_iter().rev().fold(String::new(), |all, line| all + line + "\n");
            println!("{:?}\nlog:\n{tail}", self.status());
        }
        if let Some(mut guard) = self.guard.take() {
            let _ended_already = guard.kill();
            let _ended_already = guard.wait();
        }
        for _ in 0..1000 {
            let alive = self.alive();
            if alive.is_empty() {
                return;
            }
            for pid in alive {
                tree::send(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}
