//! The process that serves a disk, from inside and from outside.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::Mode;

use super::pieces::Loss;
use super::serve::serve as answer;
use super::store::Store;
use crate::harness::{Harness, Trying as _};

/// Where the kernel asks.
const DEVICE: &str = "/dev/fuse";
/// How many requests are worked on at a time.
const THREADS: usize = 16;
/// How long a disk may take to answer; what is slow about it must be over by then.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a disk may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What a disk is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Each sync and each write takes so many milliseconds; 0 and 0 is a disk that is not slow.
    Slow(u64, u64),
    /// There is no room, or there is again.
    Full(bool),
    /// Syncs do nothing, or something again.
    Lying(bool),
    /// The power is cut: what was not synced is lost. Every process that had files open has to be dead.
    Lose(Loss),
    /// It shall say what is open and not synced.
    State,
}

impl Order {
    fn text(&self) -> String {
        let switch = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Self::Slow(sync_ms, write_ms) => format!("slow {sync_ms} {write_ms}"),
            Self::Full(on) => format!("full {}", switch(on)),
            Self::Lying(on) => format!("lying {}", switch(on)),
            Self::Lose(Loss::All) => "lose all".to_owned(),
            Self::Lose(Loss::Some(seed)) => format!("lose {seed}"),
            Self::State => "state".to_owned(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let switch = |word: &str| match word {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["slow", sync, write] => Some(Self::Slow(sync.parse().ok()?, write.parse().ok()?)),
            ["full", word] => Some(Self::Full(switch(word)?)),
            ["lying", word] => Some(Self::Lying(switch(word)?)),
            ["lose", "all"] => Some(Self::Lose(Loss::All)),
            ["lose", seed] => Some(Self::Lose(Loss::Some(seed.parse().ok()?))),
            ["state"] => Some(Self::State),
            _ => None,
        }
    }
}

/// Serves a disk: shows on `mount` what lies in `backing`, which is made if it is not there. Obeys what standard input
/// says, one order a line, each answered by `ok` or `error` with a text, until there is no more of it.
///
/// # Errors
/// If it cannot be mounted.
pub fn serve(backing: &Path, mount: &Path, say: &mut dyn FnMut(&str)) -> Result<(), Harness> {
    for dir in [backing.join("shown"), backing.join("removed"), mount.to_owned()] {
        fs::create_dir_all(&dir).trying(|| format!("make {}", dir.display()))?;
    }
    // Modes are as they are asked for: the kernel has applied the mask of whoever asked.
    rustix::process::umask(Mode::empty());
    let store = Arc::new(Store::open(backing).trying(|| format!("open {}", backing.display()))?);
    let mut served = Served::mount(&store, mount)?;
    say("ok mounted");
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let done = match Order::parse(&line) {
            Some(Order::Lose(loss)) => {
                let (next, done) = served.lose(&store, mount, &loss)?;
                served = next;
                done
            }
            Some(order) => Ok(obey(&store, &order)),
            None => Err(format!("{line:?} is no order")),
        };
        match done {
            Ok(text) => say(&format!("ok {text}")),
            Err(text) => say(&format!("error {text}")),
        }
    }
    // Lazily: whoever still has files open there finds them gone when this process is.
    unmount(mount);
    Ok(())
}

/// A mount that is answered.
#[derive(Debug)]
struct Served(Vec<JoinHandle<()>>);

impl Served {
    fn mount(store: &Arc<Store>, mount: &Path) -> Result<Self, Harness> {
        let device = File::options().read(true).write(true).open(DEVICE);
        let device = Arc::new(device.trying(|| format!("open {DEVICE}"))?);
        mounted(&device, mount)?;
        let threads = (0..THREADS).map(|_| {
            let (store, device) = (Arc::clone(store), Arc::clone(&device));
            std::thread::spawn(move || answer(&store, &device))
        });
        Ok(Self(threads.collect()))
    }

    /// Cuts the power: the mount ends, and all that the kernel remembers of it, and a new one begins.
    fn lose(
        self,
        store: &Arc<Store>,
        mount: &Path,
        loss: &Loss,
    ) -> Result<(Self, Result<String, String>), Harness> {
        if let Err(why) = store.let_go() {
            return Ok((self, Err(why)));
        }
        let began = Instant::now();
        while is_mounted(mount) && began.elapsed() < END_LIMIT {
            // Not lazily: nobody may be there any more, and what is still asked has to be done first.
            let mut command = Command::new("umount");
            command.arg(mount).stdin(Stdio::null()).stderr(Stdio::null());
            command.status().trying(|| "run umount".to_owned())?;
        }
        if is_mounted(mount) {
            return Ok((self, Err("somebody is there".to_owned())));
        }
        let done = store.lose(loss);
        for thread in self.0.into_iter().filter(JoinHandle::is_finished) {
            thread.join().map_err(|_| Harness::new("a thread of the disk panicked"))?;
        }
        Ok((Self::mount(store, mount)?, done))
    }
}

fn obey(store: &Store, order: &Order) -> String {
    let switches = &store.switches;
    match order {
        Order::Slow(sync_ms, write_ms) => {
            switches.sync_ms.store(*sync_ms, Ordering::Relaxed);
            switches.write_ms.store(*write_ms, Ordering::Relaxed);
        }
        Order::Full(on) => switches.full.store(*on, Ordering::Relaxed),
        Order::Lying(on) => switches.lying.store(*on, Ordering::Relaxed),
        Order::State => return store.state(),
        Order::Lose(_) => {}
    }
    order.text()
}

/// Mounts a device that we answer.
fn mounted(device: &File, mount: &Path) -> Result<(), Harness> {
    let what = || format!("mount {}", mount.display());
    let mut command = Command::new("mount");
    // The device is its standard input.
    let options =
        "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,noatime";
    command.args(["-i", "-t", "fuse", "-o", options, "jepsen-disk"]).arg(mount);
    let output = command.stdin(device.try_clone().trying(what)?).output().trying(what)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Harness::new(format!("could not {}: {said}", what())))
}

/// A disk that is mounted; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    mount: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Disk {
    /// Starts `program` (this one: `jepsen`) to serve a disk.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(program: &Path, backing: &Path, mount: &Path) -> Result<Self, Harness> {
        let mut command = Command::new(program);
        command.arg("disk").arg("--backing").arg(backing).arg("--mount").arg(mount);
        // An interrupt from the keyboard is for the run, which then ends its disks.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().trying(|| "start a disk".to_owned())?;
        let input = child.stdin.take();
        let (told, answers) = channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // Nobody listens any more when the disk is dropped.
                    drop(told.send(line));
                }
            });
        }
        let mut disk = Self { mount: mount.to_owned(), child, input, answers };
        disk.answer("mount")?;
        Ok(disk)
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Gives an order and returns the answer.
    ///
    /// # Errors
    /// If it is refused or there is no answer.
    pub fn order(&mut self, order: &Order) -> Result<String, Harness> {
        let text = order.text();
        if let Some(input) = &mut self.input {
            writeln!(input, "{text}").trying(|| format!("tell a disk: {text}"))?;
        }
        self.answer(&text)
    }

    fn answer(&mut self, asked: &str) -> Result<String, Harness> {
        let told =
            |why: &str| Harness::new(format!("disk {}: {asked}: {why}", self.mount.display()));
        let line = self.answers.recv_timeout(ANSWER_LIMIT).map_err(|e| told(&e.to_string()))?;
        match line.split_once(' ') {
            Some(("ok", text)) => Ok(text.to_owned()),
            _ => Err(told(&line)),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.input.take());
        let began = Instant::now();
        while began.elapsed() < END_LIMIT && self.child.try_wait().is_ok_and(|end| end.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Both do nothing to one that has ended as it should.
        drop(self.child.kill());
        drop(self.child.wait());
        if is_mounted(&self.mount) {
            unmount(&self.mount);
        }
    }
}

/// Unmounts whatever is mounted below a directory.
pub fn unmount_below(base: &Path) {
    for mount in mounts().iter().rev().filter(|mount| mount.starts_with(base)) {
        unmount(mount);
    }
}

fn unmount(mount: &Path) {
    let mut command = Command::new("umount");
    command.arg("-l").arg(mount).stdin(Stdio::null()).stderr(Stdio::null());
    // Whether it is gone is looked at where that matters.
    drop(command.status());
}

fn is_mounted(mount: &Path) -> bool {
    mounts().iter().any(|other| other == mount)
}

/// Returns where something is mounted, in that order; names with unusual characters as the kernel writes them.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_is_written_and_nothing_else_is_one() {
        for order in [
            Order::Slow(200, 20),
            Order::Full(true),
            Order::Full(false),
            Order::Lying(true),
            Order::Lose(Loss::All),
            Order::Lose(Loss::Some(7)),
            Order::State,
        ] {
            assert_eq!(Order::parse(&order.text()), Some(order));
        }
        for wrong in ["", "slow 1", "slow 1 x", "full", "full maybe", "lose", "burn"] {
            assert_eq!(Order::parse(wrong), None, "{wrong}");
        }
    }
}
