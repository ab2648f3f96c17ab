//! Networks: one namespace for each node, one for the clients with the bridge that joins them.
//!
//! Nothing of this is visible outside: neither the addresses nor the traffic. A fault of the network is a set
//! of rules in a node's own packet filter that drop what comes in.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ha_tests::address::Host;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::owner::Owner;
use crate::harness::{Harness, Trying as _};

const PREFIX: &str = "jepsen-";
/// Nodes have 1 and so on as their last number.
const NETWORK: &str = "10.78.0";
/// The clients' last number.
pub const CLIENTS: u8 = 254;

/// The namespaces; removed when dropped.
#[derive(Debug)]
pub struct World {
    owner: Owner,
    nodes: u8,
}

/// Where a node's traffic is, for a thread of the suite.
#[derive(Debug, Clone)]
pub struct Place(PathBuf);

/// Whether rules come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// They are appended.
    Add,
    /// They are taken out again.
    Remove,
}

/// Returns an address: a node's, or the clients'.
pub fn address(last: u8) -> String {
    format!("{NETWORK}.{last}")
}

/// Says what is missing to make networks; nothing if all is there.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    ["ip", "iptables-restore", "nsenter"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        let found = if program == "ip" { command.arg("-V") } else { &mut command }.status();
        found.is_err().then(|| format!("{program} is not installed"))
    })
}

impl World {
    /// Makes the namespaces, after removing those of runs that were killed.
    ///
    /// # Errors
    /// If this machine cannot.
    pub fn create(nodes: u8) -> Result<Self, Harness> {
        remove_stale()?;
        let world = Self { owner: Owner::this()?, nodes };
        world.build()?;
        Ok(world)
    }

    fn build(&self) -> Result<(), Harness> {
        let hub = self.name(CLIENTS);
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        let at = format!("{}/24", address(CLIENTS));
        ip(&["-n", &hub, "address", "add", &at, "dev", "br0"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for n in 1..=self.nodes {
            let (host, port) = (self.name(n), format!("node{n}"));
            let at = format!("{}/24", address(n));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &host];
            ip(&[["-n", &hub, "link", "add", &port].as_slice(), &peer].concat())?;
            ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &host, "address", "add", &at, "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        }
        // The filter must work before anything depends on it.
        self.filter(1, Change::Add, &["INPUT -s 192.0.2.1 -j DROP".to_owned()])?;
        self.filter(1, Change::Remove, &["INPUT -s 192.0.2.1 -j DROP".to_owned()])
    }

    fn name(&self, last: u8) -> String {
        let owner = self.owner.name();
        if last == CLIENTS {
            format!("{PREFIX}{owner}-hub")
        } else {
            format!("{PREFIX}{owner}-n{last}")
        }
    }

    fn enter_command(&self, last: u8) -> Vec<String> {
        let net = format!("--net=/run/netns/{}", self.name(last));
        vec!["nsenter".to_owned(), net, "--".to_owned()]
    }

    /// Returns where a node runs.
    pub fn host(&self, n: u8) -> Host {
        Host { address: address(n), enter: self.enter_command(n) }
    }

    /// Moves this thread, and every thread and program it starts from now on, to where the clients are.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter_clients(&self) -> Result<(), Harness> {
        self.place(CLIENTS).enter()
    }

    /// Returns where a node runs, for a thread that is to do something there.
    pub fn place(&self, n: u8) -> Place {
        Place(Path::new("/run/netns").join(self.name(n)))
    }

    /// Changes the packet filter of a node, all rules at once. A rule is a chain and what follows it.
    ///
    /// # Errors
    /// If the filter refuses, with what it says.
    pub fn filter(&self, n: u8, change: Change, rules: &[String]) -> Result<(), Harness> {
        self.change(n, "filter", change, rules)
    }

    /// Changes rules that see packets before those of the filter do: what passes here may be dropped there.
    ///
    /// # Errors
    /// If the filter refuses, with what it says.
    pub fn mangle(&self, n: u8, change: Change, rules: &[String]) -> Result<(), Harness> {
        self.change(n, "mangle", change, rules)
    }

    fn change(&self, n: u8, table: &str, change: Change, rules: &[String]) -> Result<(), Harness> {
        let flag = if change == Change::Add { "-A" } else { "-D" };
        let lines: Vec<String> = rules.iter().map(|rule| format!("{flag} {rule}\n")).collect();
        self.restore(n, &format!("*{table}\n{}COMMIT\n", lines.concat()))
    }

    /// Takes every rule out of every filter.
    ///
    /// # Errors
    /// If a filter refuses.
    pub fn heal(&self) -> Result<(), Harness> {
        (1..=self.nodes).try_for_each(|n| self.restore(n, "*filter\n-F INPUT\n-F OUTPUT\nCOMMIT\n"))
    }

    fn restore(&self, n: u8, text: &str) -> Result<(), Harness> {
        let enter = self.enter_command(n);
        let (first, others) = enter.split_first().expect("never empty");
        let mut command = Command::new(first);
        command.args(others).args(["iptables-restore", "--noflush", "--wait", "5"]);
        let quiet = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let what = || "change a packet filter".to_owned();
        let mut child = quiet.spawn().trying(what)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(text.as_bytes()).trying(what)?;
        }
        let output = child.wait_with_output().trying(what)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(Harness::new(format!("could not change a packet filter: {said}: {text:?}")))
    }
}

impl Place {
    /// Moves this thread there, and every thread and program it starts from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter(&self) -> Result<(), Harness> {
        let Self(path) = self;
        let file = File::open(path).trying(|| format!("open {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .trying(|| format!("enter {}", path.display()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for last in (1..=self.nodes).chain([CLIENTS]) {
            // One that was never made is no loss.
            drop(ip(&["netns", "delete", &self.name(last)]));
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), Harness> {
    let what = || format!("run ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().trying(what)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Harness::new(format!("could not {}: {said}", what())))
}

/// Removes namespaces whose run is over. Processes in them are ended by their files' owner.
fn remove_stale() -> Result<(), Harness> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner_of(&name).is_some_and(|owner| !owner.lives())
            && let Err(error) = ip(&["netns", "delete", &name])
            // Another run that begins now may have been faster.
            && entry.path().exists()
        {
            return Err(error);
        }
    }
    Ok(())
}

fn owner_of(name: &str) -> Option<Owner> {
    let (owner, _place) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    Owner::parse(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_run_gave_tell_an_owner() {
        assert_eq!(owner_of("jepsen-17-99-hub"), Owner::parse("17-99"));
        assert_eq!(owner_of("jepsen-17-99-n2"), Owner::parse("17-99"));
        assert_eq!(owner_of("jepsen-x-99-hub"), None);
        assert_eq!(owner_of("haclt-bench-17-99-hub"), None);
    }
}
