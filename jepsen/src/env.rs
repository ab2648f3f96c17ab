//! Where the cluster under test runs: three agents on loopback addresses, or each in a network of its own.

pub mod busy;
pub mod clocks;
pub mod disks;
pub mod owner;
pub mod queue;
pub mod world;

use std::path::{Path, PathBuf};

use ha_tests::address::{Claim, Host};
use ha_tests::shape::{Mode, Shape};
use ha_tests::{Cluster, Node};

use crate::harness::{Harness, Trying as _};
use busy::Busy;
use clocks::Clocks;
use disks::Disks;
use world::World;

/// How much memory must be free for a cluster to live there.
const MEMORY_MIN: u64 = 4 << 30;

/// Which kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Loopback addresses of one machine: everything but partitions.
    Process,
    /// A network namespace for each node: partitions too; needs root.
    Netns,
}

impl Kind {
    /// Returns the name that the command line has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Netns => "netns",
        }
    }
}

/// What commits wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// A majority of the nodes: nothing may be lost.
    Quorum,
    /// A standby: nothing may be lost.
    StrictStandby,
    /// Nobody: acknowledged writes may be lost, and the checkers must see it.
    Async,
}

impl Durability {
    /// Returns the mode of the cluster.
    pub const fn mode(self) -> Mode {
        match self {
            Self::Quorum => Mode::Quorum,
            Self::StrictStandby => Mode::StrictStandby,
            Self::Async => Mode::Async,
        }
    }
}

/// A cluster with the network that it runs in. Both are gone once this is dropped.
#[derive(Debug)]
pub struct Env {
    /// The nodes; first, so that they end before their network does.
    pub cluster: Cluster,
    /// The disks, if each node has its own.
    pub disks: Option<Disks>,
    /// The networks, if each node has its own.
    pub world: Option<World>,
    /// The nodes' wall clocks, or why they cannot be put off; none if no fault wants to.
    pub clocks: Option<Result<Clocks, String>>,
    /// What faults have to themselves.
    pub busy: Busy,
}

/// What a client needs to reach a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The node's name.
    pub node: String,
    /// Its address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Env {
    /// Prepares two data nodes and a witness; nothing is started.
    ///
    /// # Errors
    /// If what earlier runs left cannot be removed, or this run cannot be marked as the owner.
    pub fn create(
        test: &str,
        world: Option<World>,
        durability: Durability,
        bare_witness: bool,
    ) -> Result<Self, Harness> {
        let root = root();
        owner::remove_stale_files(&[Path::new("/dev/shm"), Path::new("/tmp")])?;
        let (durability, witness_programs) = (durability.mode(), !bare_witness);
        let shape = Shape { durability, witness_programs, ..Shape::default() };
        let claim = Claim::new();
        let hosts = (1..=shape.data + shape.witnesses)
            .map(|n| world.as_ref().map_or_else(|| Host::at(claim.node(n)), |w| w.host(n)))
            .collect();
        let mut cluster = Cluster::on_hosts(test, root, Vec::new(), shape, (claim, hosts));
        owner::mark(&cluster.base)?;
        // A client that is served gets its own session, and so do those who look.
        cluster.set_on_data_nodes("postgres.parameters.max_connections", "\"60\"");
        Ok(Self { cluster, disks: None, world, clocks: None, busy: Busy::default() })
    }

    /// Gives each node disks of its own, if this machine can; to be called before the cluster is started.
    ///
    /// # Errors
    /// If a disk cannot be mounted.
    pub fn mount_disks(&mut self) -> Result<(), Harness> {
        if disks::missing().is_none() {
            self.disks = Some(Disks::mount(&mut self.cluster)?);
        }
        Ok(())
    }

    /// Returns the databases.
    ///
    /// # Errors
    /// If an address has no port.
    pub fn databases(&self) -> Result<Vec<Database>, Harness> {
        self.cluster.data_nodes().map(database).collect()
    }

    /// Returns the addresses of all agents with the nodes' names.
    pub fn agents(&self) -> Vec<(String, String)> {
        self.cluster.nodes().iter().map(|node| (node.name.clone(), node.grpc())).collect()
    }

    /// Copies what agents, guards and servers wrote to where it outlives the cluster.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn keep_logs(&self, to: &Path) -> Result<(), Harness> {
        std::fs::create_dir_all(to).trying(|| format!("make {}", to.display()))?;
        for node in self.cluster.nodes() {
            let mut found = vec![node.log()];
            let entries = std::fs::read_dir(node.dir.join("log"));
            found.extend(entries.into_iter().flatten().flatten().map(|entry| entry.path()));
            for path in found.iter().filter(|path| path.is_file()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let target = to.join(format!("{}-{name}", node.name));
                std::fs::copy(path, &target).trying(|| format!("copy {}", path.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // Between the end of the processes that use them and the removal of the directories that they lie in.
        if self.disks.is_some() {
            self.cluster.kill_all();
            self.disks = None;
        }
    }
}

fn database(node: &Node) -> Result<Database, Harness> {
    let address = node.postgres();
    let parts = address.rsplit_once(':').and_then(|(h, p)| Some((h.to_owned(), p.parse().ok()?)));
    let (host, port) = parts.ok_or_else(|| Harness::new(format!("no port in {address}")))?;
    Ok(Database { node: node.name.clone(), host, port })
}

fn root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    if free < MEMORY_MIN { PathBuf::from("/tmp") } else { memory.to_owned() }
}
