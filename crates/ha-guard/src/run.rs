//! The loop: wait, look, decide, act, report.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ha_core::permit::{ExitHow, GuardStatus, Order, Permit, StopMode};
use ha_core::{BootId, BootNanos};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, set_child_subreaper, setsid};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use signal_hook::consts::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::cli::Options;
use crate::decide::{Action, Facts, Memory, Phase, Processes, Settings, decide};
use crate::files::{self, LockError};
use crate::plan::{Launching, Plan, WhoError};
use crate::spawn::Program;
use crate::steady::{Steadiness, steady};
use crate::tree;

/// The status is written at least this often; readers may count on 250 ms.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// The longest wait, whatever the timer does.
const WAIT_MAX: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// How long to let the killed die before looking for more to kill; doubled each time.
const KILL_PAUSE: Duration = Duration::from_millis(4);
const KILL_PAUSE_MAX: Duration = Duration::from_millis(64);
/// How long processes of an earlier guard may take to die.
const ORPHANS_ATTEMPTS: u32 = 500;
const ORPHANS_PAUSE: Duration = Duration::from_millis(10);
/// How long the last status may take to be written.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Why a guard cannot guard.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The permit directory is not to be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The system refuses something that guarding needs.
    #[error("could not {attempt}")]
    Setup {
        /// What was attempted.
        attempt: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It is not known whom to run `PostgreSQL` as.
    #[error("cannot tell whom to run PostgreSQL as")]
    Who(#[from] WhoError),
    /// Processes of an earlier guard will not die.
    #[error(
        "cannot guard data directory {pgdata:?}: processes {pids:?} of an earlier guard live on"
    )]
    Orphans {
        /// The data directory.
        pgdata: std::path::PathBuf,
        /// The processes.
        pids: Vec<i32>,
    },
}

fn setup<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> RunError {
    move |error| RunError::Setup { attempt, source: error.into() }
}

/// Guards until told to end.
///
/// # Errors
/// [`RunError`] if guarding could not even begin. Nothing was started then.
pub fn run(options: Options) -> Result<(), RunError> {
    let identity = options.who.as_ref().map(crate::plan::Who::ids).transpose()?;
    let _lock = files::lock(&options.permit_dir)?;
    let boot = boot_id().map_err(setup("read the boot id"))?;
    let _already_leader = setsid();
    set_child_subreaper(Some(getpid())).map_err(setup("become the reaper of all descendants"))?;
    tree::processes().map_err(setup("list processes in /proc"))?;
    let quit = Arc::new(AtomicBool::new(false));
    let signals = catch_signals(&quit).map_err(setup("catch signals"))?;
    let timer_flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer =
        timerfd_create(TimerfdClockId::Boottime, timer_flags).map_err(setup("make a timer"))?;
    let earlier = files::earlier_status(&options.permit_dir).filter(|status| status.boot == boot);
    kill_orphans(&options.pgdata, earlier.as_ref().and_then(|status| status.postmaster))?;
    // Only a guard in a container is asked for signals: elsewhere the agent sends its own.
    let sends = matches!(options.plan, Plan::File(_));
    let files = files::spawn(options.permit_dir.clone(), sends, boot)
        .map_err(setup("start the files thread"))?;
    let memory = earlier.map_or(Memory::after(0, ha_core::Epoch::NONE), |status| {
        Memory::after(status.run, status.primary_epoch)
    });
    let none = Duration::ZERO;
    let settings = Settings { boot, margin: none, fast_stop: none, immediate_stop: none };
    let program = Program { command: Vec::new(), identity, log: options.log.clone() };
    let mut guard = Guard {
        options,
        settings,
        program,
        told: false,
        launch_fault: String::new(),
        steadiness: steady(),
        memory,
        postmaster: None,
        exit: None,
        left: false,
        permit: None,
        permit_fault: String::new(),
        start_fault: String::new(),
        killed: None,
        reported: BootNanos(0),
        quit,
        signals,
        timer,
        files,
    };
    if let Plan::Fixed(launching) = &guard.options.plan {
        let launching = launching.clone();
        guard.take_in(launching);
    }
    guard.guard();
    Ok(())
}

fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string(BOOT_ID_FILE)?;
    text.trim().parse().map_err(io::Error::other)
}

/// Reads `CLOCK_BOOTTIME`, which counts suspend and which nobody can set.
fn now() -> BootNanos {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    let span = Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).unwrap_or_default());
    BootNanos(0).after(span)
}

/// Makes every signal that may come wake the loop, and none end the guard.
fn catch_signals(quit: &Arc<AtomicBool>) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(quit))?;
    }
    for signal in [SIGTERM, SIGINT, SIGCHLD, SIGHUP, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

/// Kills what a guard before this one left behind: its right is nobody's any more.
fn kill_orphans(pgdata: &Path, postmaster: Option<i32>) -> Result<(), RunError> {
    let mut pids = Vec::new();
    for _ in 0..ORPHANS_ATTEMPTS {
        pids = tree::orphans(pgdata, postmaster);
        // PostgreSQL takes an id in its lock file for a living postmaster until somebody has
        // collected the dead one. Who that is, is not in our hands; so this is no error in the end.
        let uncollected = postmaster.is_some_and(tree::is_zombie);
        if pids.is_empty() && !uncollected {
            return Ok(());
        }
        for pid in &pids {
            tree::send(*pid, Signal::KILL);
        }
        thread::sleep(ORPHANS_PAUSE);
    }
    if pids.is_empty() {
        return Ok(());
    }
    Err(RunError::Orphans { pgdata: pgdata.to_owned(), pids })
}

/// The last killing and the pause after it.
#[derive(Debug, Clone, Copy)]
struct Killed {
    at: BootNanos,
    pause: Duration,
}

#[derive(Debug)]
struct Guard {
    options: Options,
    settings: Settings,
    program: Program,
    /// Whether settings and program are those of a plan: none was read yet otherwise.
    told: bool,
    launch_fault: String,
    steadiness: Steadiness,
    memory: Memory,
    postmaster: Option<i32>,
    exit: Option<ExitHow>,
    /// Whether the guard has children.
    left: bool,
    permit: Option<Permit>,
    permit_fault: String,
    start_fault: String,
    killed: Option<Killed>,
    reported: BootNanos,
    quit: Arc<AtomicBool>,
    signals: UnixStream,
    timer: OwnedFd,
    files: UnixDatagram,
}

impl Guard {
    fn guard(&mut self) {
        loop {
            self.reap();
            self.receive();
            let facts = self.look();
            let (memory, action) = decide(self.memory, &facts, &self.settings);
            let settled = memory == self.memory;
            self.memory = memory;
            self.act(action, facts.now);
            if !settled || facts.now >= self.reported.after(HEARTBEAT) {
                self.report();
            }
            if action == Action::Quit {
                return self.farewell();
            }
            if settled {
                self.wait();
            }
        }
    }

    fn reap(&mut self) {
        let reaped = tree::reap(self.postmaster);
        self.left = reaped.left;
        if let Some(exit) = reaped.postmaster {
            self.exit = Some(exit);
            self.postmaster = None;
        }
    }

    /// Takes the latest permit that the files thread sent.
    fn receive(&mut self) {
        let mut buffer = [0; files::DATAGRAM_BYTES_MAX];
        while let Ok(length) = self.files.recv(&mut buffer) {
            let text = std::str::from_utf8(buffer.get(..length).unwrap_or_default());
            let parsed = match text {
                Ok("") => Err("there is no permit that can be read".to_owned()),
                Ok(text) => Permit::decode(text).map_err(|error| format!("permit: {error}")),
                Err(_) => Err("permit: not a text".to_owned()),
            };
            let ours = parsed.and_then(|permit| {
                let ours = permit.boot == self.settings.boot;
                if ours { Ok(permit) } else { Err("permit: it is of another boot".to_owned()) }
            });
            self.permit_fault = ours.as_ref().err().cloned().unwrap_or_default();
            self.permit = ours.ok();
        }
    }

    /// Reads the launch file, if there is one; returns whether it is known what to start.
    ///
    /// Only while nothing runs: what a run was started with holds to its end, its margin above all.
    fn learn(&mut self) -> bool {
        let Plan::File(path) = &self.options.plan else { return true };
        match Launching::read(path, self.settings.boot) {
            Ok(launching) => {
                self.launch_fault.clear();
                self.take_in(launching);
                true
            }
            Err(error) => {
                self.launch_fault = error.to_string();
                false
            }
        }
    }

    fn take_in(&mut self, launching: Launching) {
        let Launching { margin, fast_stop, immediate_stop, command } = launching;
        self.settings = Settings { margin, fast_stop, immediate_stop, ..self.settings };
        self.program.command = command;
        self.told = true;
    }

    fn look(&mut self) -> Facts {
        let killing = matches!(self.memory.phase, Phase::Killing { .. });
        let processes = if self.postmaster.is_some() {
            Processes::Postmaster
        } else if self.left || (killing && tree::has_company()) {
            Processes::Leftovers
        } else {
            Processes::None
        };
        // The data directory's disk may hang: it is looked at only while nothing runs.
        let next =
            self.permit.filter(|permit| !self.memory.is_busy() && permit.run > self.memory.run);
        let may_start = next.is_some_and(|permit| permit.order.lets_run());
        let launchable = may_start && self.learn();
        let standby_signal = next.is_some_and(|permit| permit.order == Order::Standby)
            && self.options.pgdata.join("standby.signal").try_exists().unwrap_or(false);
        let quit = self.quit.load(Ordering::Relaxed);
        Facts { now: now(), permit: self.permit, standby_signal, launchable, processes, quit }
    }

    fn act(&mut self, action: Action, now: BootNanos) {
        match action {
            Action::Stay | Action::Quit => {}
            Action::Start => self.start(),
            Action::Stop(mode) => {
                let signal = match mode {
                    StopMode::Fast => Signal::INT,
                    StopMode::Immediate => Signal::QUIT,
                };
                if let Some(pid) = self.postmaster {
                    tree::send(pid, signal);
                }
            }
            Action::Kill => {
                let pause = match self.killed {
                    Some(Killed { at, pause }) if now < at.after(pause) => return,
                    Some(Killed { pause, .. }) => (pause * 2).min(KILL_PAUSE_MAX),
                    None => KILL_PAUSE,
                };
                tree::kill(self.postmaster);
                self.killed = Some(Killed { at: now, pause });
            }
        }
    }

    fn start(&mut self) {
        self.exit = None;
        self.killed = None;
        self.start_fault.clear();
        match self.program.start(self.steadiness.oom_before.as_deref()) {
            Ok(started) => {
                self.postmaster = Some(started.pid);
                self.left = true;
                if let Some(error) = started.without_log {
                    self.start_fault = format!("could not open the log: {error}");
                }
            }
            Err(error) => {
                self.memory = self.memory.not_started();
                self.start_fault = error.to_string();
            }
        }
    }

    /// Hands the status to the files thread; one that it has no room for is lost.
    fn report(&mut self) {
        let why = self.memory.why.to_string();
        let reasons = [why.as_str(), &self.start_fault, &self.launch_fault, &self.permit_fault];
        let reasons: Vec<&str> = reasons.into_iter().filter(|text| !text.is_empty()).collect();
        let heartbeat = now();
        let status = GuardStatus {
            boot: self.settings.boot,
            guard_pid: getpid().as_raw_pid(),
            heartbeat,
            run: self.memory.run,
            state: self.memory.state(),
            postmaster: self.postmaster,
            exit: self.exit,
            primary_epoch: self.memory.primary_epoch,
            realtime: self.steadiness.realtime,
            margin: self.told.then_some(self.settings.margin),
            deadline: self.memory.deadline(),
            reason: reasons.join("; "),
        };
        let _lost = self.files.send(status.encode().as_bytes());
        self.reported = heartbeat;
    }

    /// Waits for a signal, a permit, or the time of the next thing to do, and for 250 ms at most.
    fn wait(&mut self) {
        let heartbeat = Some(self.reported.after(HEARTBEAT));
        let check = self.memory.next_check(&self.settings);
        let kill = match self.memory.phase {
            Phase::Killing { .. } => self.killed.map(|killed| killed.at.after(killed.pause)),
            _ => None,
        };
        let next = [heartbeat, check, kill].into_iter().flatten().min().unwrap_or_default();
        let value = Duration::from_nanos(next.0.max(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(value.subsec_nanos()),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = Itimerspec { it_interval, it_value };
        // On this clock the timer runs out during suspend too, and wakes us right after it.
        let _bounded_anyway = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer);
        let mut fds = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.files.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
        ];
        let _woken = poll(&mut fds, Some(&WAIT_MAX));
        let mut bytes = [0; 256];
        // Not in a loop: a storm of signals must not keep us here.
        let _signals = io::Read::read(&mut &self.signals, &mut bytes);
        let _expired = rustix::io::read(&self.timer, &mut bytes[..8]);
    }

    /// Waits, but not long, until the last status is written.
    fn farewell(&mut self) {
        let _best_effort = self.files.set_nonblocking(false);
        let _best_effort = self.files.set_read_timeout(Some(FAREWELL_WAIT));
        let _best_effort = self.files.set_write_timeout(Some(FAREWELL_WAIT));
        if self.files.send(&[]).is_err() {
            return;
        }
        let mut buffer = [0; files::DATAGRAM_BYTES_MAX];
        for _ in 0..64 {
            match self.files.recv(&mut buffer) {
                Ok(length) if buffer.get(..length) != Some(files::FAREWELL) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}
