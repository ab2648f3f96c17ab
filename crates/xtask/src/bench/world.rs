//! Three hosts and a place for clients: network namespaces, joined by a bridge. Nothing of this is
//! visible outside of them: neither the addresses nor the traffic.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cluster::account;
use crate::cluster::process::{self, Process};
use crate::exec;
use crate::failure::{Doing as _, Failure, Outcome};

const LIMIT: Duration = Duration::from_secs(20);
const PREFIX: &str = "haclt-bench-";

/// A host, or the place where the clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where the bridge is, and the clients.
    Hub,
    /// The host of the node with this index.
    Host(usize),
}

/// The namespaces; removed, with all processes in them, when dropped.
#[derive(Debug)]
pub(crate) struct World {
    pid: u32,
    hosts: usize,
}

/// Returns the address of a node's host.
pub(crate) fn address(index: u16) -> IpAddr {
    let last = u8::try_from(index + 1).unwrap_or(u8::MAX);
    IpAddr::from([10, 77, 0, last])
}

impl World {
    /// Makes the namespaces, after removing those of benches that were killed.
    pub(crate) fn create(hosts: usize) -> Outcome<Self> {
        if !account::is_root() {
            return Err(Failure::new("cannot make network namespaces: not root")
                .hint("Run `sudo make bench`, or as root."));
        }
        remove_stale();
        let world = Self { pid: std::process::id(), hosts };
        world.build()?;
        Ok(world)
    }

    fn build(&self) -> Outcome<()> {
        let hub = self.name(Place::Hub);
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "address", "add", "10.77.0.254/24", "dev", "br0"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for (index, number) in (0..self.hosts).zip(0u16..) {
            let host = self.name(Place::Host(index));
            let port = format!("host{index}");
            let at = format!("{}/24", address(number));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &host];
            ip(&[["-n", &hub, "link", "add", &port].as_slice(), &peer].concat())?;
            ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &host, "address", "add", &at, "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    fn name(&self, place: Place) -> String {
        match place {
            Place::Hub => format!("{PREFIX}{}-hub", self.pid),
            Place::Host(index) => format!("{PREFIX}{}-h{index}", self.pid),
        }
    }

    /// Returns the file that stands for a place's network.
    pub(crate) fn network(&self, place: Place) -> PathBuf {
        Path::new("/run/netns").join(self.name(place))
    }

    /// Returns a command that runs a program in a place.
    pub(crate) fn command(&self, place: Place, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place)]).arg(program);
        command
    }

    /// Returns the processes in a place.
    pub(crate) fn processes(&self, place: Place) -> Vec<Process> {
        processes_in(&self.name(place))
    }

    /// Ends every process in a place at once, as a loss of power would.
    pub(crate) fn kill_all(&self, place: Place) -> Outcome<()> {
        let left = process::end(&[], Duration::ZERO, || self.processes(place));
        if left.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!("could not kill {} processes", left.len())))
    }

    /// The same for a server that will never start again: removes its shared memory too.
    pub(crate) fn wipe(&self, place: Place) -> Outcome<()> {
        let segments = segments_in(&self.name(place));
        self.kill_all(place)?;
        process::remove_segments(&segments);
        Ok(())
    }

    /// Cuts a host off: what it sends and what is sent to it vanishes, without any error to anybody.
    /// Its own processes still reach each other.
    pub(crate) fn cut(&self, host: usize) -> Outcome<()> {
        const RULES: &str =
            "*filter\n-A INPUT -i eth0 -j DROP\n-A OUTPUT -o eth0 -j DROP\nCOMMIT\n";
        filter(self.command(Place::Host(host), Path::new("iptables-restore")), RULES)
    }

    /// Undoes [`World::cut`].
    pub(crate) fn heal(&self, host: usize) -> Outcome<()> {
        let mut command = self.command(Place::Host(host), Path::new("iptables"));
        exec::output(command.arg("--flush"), LIMIT).map(|_| ())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for place in (0..self.hosts).map(Place::Host).chain([Place::Hub]) {
            remove(&self.name(place));
        }
    }
}

/// Adds rules to a network's packet filter; `restore` is `iptables-restore`, run there.
pub(crate) fn filter(mut restore: Command, rules: &str) -> Outcome<()> {
    let doing = || "could not cut off a host".to_owned();
    restore.arg("--noflush").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = restore.spawn().doing(doing)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules.as_bytes()).doing(doing)?;
    }
    let status = exec::wait(&mut child, LIMIT);
    status.filter(std::process::ExitStatus::success).doing(doing).map(|_| ())
}

/// Moves this thread, and every thread it starts from now on, into a network.
pub(crate) fn enter(network: &Path) -> Outcome<()> {
    let doing = || format!("could not enter {}", network.display());
    let file = File::open(network).doing(doing)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).doing(doing)
}

fn ip(arguments: &[&str]) -> Outcome<()> {
    exec::output(Command::new("ip").args(arguments), LIMIT).map(|_| ())
}

fn processes_in(name: &str) -> Vec<Process> {
    let list = exec::output(Command::new("ip").args(["netns", "pids", name]), LIMIT);
    let list = list.unwrap_or_default();
    list.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Process::look).collect()
}

fn segments_in(name: &str) -> Vec<PathBuf> {
    processes_in(name).iter().flat_map(process::segments).collect()
}

fn remove(name: &str) {
    let segments = segments_in(name);
    process::end(&[], Duration::ZERO, || processes_in(name));
    process::remove_segments(&segments);
    drop(ip(&["netns", "delete", name]));
}

/// Removes namespaces whose bench is not running any more.
fn remove_stale() {
    let list = exec::output(Command::new("ip").args(["netns", "list"]), LIMIT).unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        if maker(name).is_some_and(|pid| Process::look(pid).is_none()) {
            remove(name);
        }
    }
}

/// Returns which process made a namespace of this name.
fn maker(name: &str) -> Option<i32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Kills one process of a place.
pub(crate) fn kill(process: &Process) {
    process.signal(Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_bench_tell_their_maker() {
        assert_eq!(maker("haclt-bench-17-hub"), Some(17));
        assert_eq!(maker("haclt-bench-x-hub"), None);
        assert_eq!(maker("other-17-hub"), None);
    }

    #[test]
    fn hosts_are_numbered_from_one() {
        assert_eq!(address(2).to_string(), "10.77.0.3");
    }
}
