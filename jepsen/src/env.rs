//! Where the cluster under test runs: three agents on loopback addresses, each in a network of its own, or containers.

pub mod busy;
pub mod clocks;
pub mod containers;
pub mod disks;
pub mod owner;
pub mod place;
pub mod queue;
pub mod resolver;
pub mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ha_tests::address::{Claim, Host};
use ha_tests::engine::Engine;
use ha_tests::shape::{Mode, Shape};
use ha_tests::{Cluster, Node};

use crate::harness::Harness;
use crate::nemesis::Fault;
use busy::Busy;
use clocks::Clocks;
use containers::Containers;
use disks::Disks;
use place::Place;
use resolver::Resolver;
use world::World;

/// How much memory must be free for a cluster to live there.
const MEMORY_MIN: u64 = 4 << 30;

/// Places for nodes that join: a number, and whether there is a database.
const SPARES: [(u8, bool); 3] = [(4, true), (5, true), (6, false)];

/// Returns for how many nodes there must be room.
pub fn places(spares: bool) -> u8 {
    let last = SPARES.iter().map(|(number, _)| *number).max().unwrap_or_default();
    if spares { last } else { 3 }
}

/// Which kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Loopback addresses of one machine: everything but partitions.
    Process,
    /// A network namespace for each node: partitions too; needs root.
    Netns,
    /// Containers of `deploy/compose.yaml`, on a Docker engine of the run's own; needs root.
    Compose,
}

impl Kind {
    /// Returns the name that the command line has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Netns => "netns",
            Self::Compose => "compose",
        }
    }

    /// Returns why a fault cannot be made there; nothing if it can.
    pub const fn cannot(self, fault: Fault) -> Option<&'static str> {
        let cut_off =
            matches!(fault, Fault::IsolatePrimary | Fault::IsolateNode | Fault::IsolateAll);
        match self {
            Self::Process | Self::Netns if fault.needs_containers() => {
                Some("the nodes are in no containers")
            }
            Self::Process if fault.needs_networks() => {
                Some("the nodes have no networks of their own")
            }
            Self::Compose if fault.needs_networks() && !cut_off => {
                Some("docker takes a container off its network, and does nothing to single links")
            }
            Self::Compose if fault.changes_members() => Some("deploy/compose.yaml has three nodes"),
            Self::Compose if fault.puts_off_clocks() => {
                Some("no image has a library that puts clocks off")
            }
            Self::Compose if fault.needs_disks() => Some("volumes are on the engine's disk"),
            Self::Process | Self::Netns | Self::Compose => None,
        }
    }
}

/// What a place for nodes is made from. Networks and engines are made while there is one thread: all others are
/// where the clients are then.
#[derive(Debug)]
pub enum Ground {
    /// Addresses on loopback.
    Loopback,
    /// Networks.
    Networks(World),
    /// An engine, in whose network this thread is, and its name server.
    Engine(Box<Engine>, Option<Resolver>),
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
    pub place: Place,
    /// The disks, if each node has its own.
    pub disks: Option<Disks>,
    /// The networks, if each node has its own.
    pub world: Option<World>,
    /// The nodes' wall clocks, or why they cannot be put off; none if no fault wants to.
    pub clocks: Option<Result<Clocks, String>>,
    /// What faults have to themselves.
    pub busy: Busy,
    /// Nodes that are no part of the cluster, and may join it.
    pub spares: Vec<Node>,
    /// Nodes of the cluster that were told to leave it, and may not be out yet.
    pub leaving: BTreeSet<String>,
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
    /// Prepares two data nodes and a witness, and places for further ones if `spares` says so; nothing is started.
    ///
    /// # Errors
    /// If what earlier runs left cannot be removed, or this run cannot be marked as the owner.
    pub fn create(
        test: &str,
        ground: Ground,
        durability: Durability,
        bare_witness: bool,
        spares: bool,
    ) -> Result<Self, Harness> {
        let root = root();
        owner::remove_stale_files(&[Path::new("/dev/shm"), Path::new("/tmp")])?;
        let on = |place, world| {
            let (busy, leaving) = (Busy::default(), BTreeSet::new());
            Self { place, world, disks: None, clocks: None, busy, spares: Vec::new(), leaving }
        };
        let world = match ground {
            Ground::Loopback => None,
            Ground::Networks(world) => Some(world),
            Ground::Engine(engine, resolver) => {
                let founded = (*engine, resolver);
                let containers = Containers::prepare(founded, durability, bare_witness);
                return Ok(on(Place::Containers(Box::new(containers)), None));
            }
        };
        let (durability, witness_programs) = (durability.mode(), !bare_witness);
        let shape = Shape { durability, witness_programs, ..Shape::default() };
        let claim = Claim::new();
        let host = |n| world.as_ref().map_or_else(|| Host::at(claim.node(n)), |w| w.host(n));
        let hosts = (1..=shape.data + shape.witnesses).map(host).collect();
        let places = SPARES.iter().filter(|_| spares);
        let places: Vec<_> = places.map(|(n, data)| (*n, *data, host(*n))).collect();
        let mut cluster = Cluster::on_hosts(test, root, Vec::new(), shape, (claim, hosts));
        owner::mark(&cluster.base)?;
        let spare = |(n, data, host)| cluster.spare(&format!("n{n}"), data, host);
        let mut spares: Vec<Node> = places.into_iter().map(spare).collect();
        // A client that is served gets its own session, and so do those who look.
        for node in cluster.nodes_mut().iter_mut().chain(&mut spares).filter(|node| node.is_data) {
            node.config.text("postgres.parameters.max_connections", "60");
        }
        let mut env = on(Place::Processes(Box::new(cluster)), world);
        env.spares = spares;
        Ok(env)
    }

    /// Returns which kind of place it is.
    pub const fn kind(&self) -> Kind {
        match (&self.place, &self.world) {
            (Place::Containers(_), _) => Kind::Compose,
            (Place::Processes(_), Some(_)) => Kind::Netns,
            (Place::Processes(_), None) => Kind::Process,
        }
    }

    /// Gives the nodes clocks that can be put off, if this machine can; to be called before the cluster is started.
    ///
    /// # Errors
    /// If files cannot be written.
    pub fn wind_clocks(&mut self) -> Result<(), Harness> {
        if let Place::Processes(cluster) = &mut self.place {
            self.clocks = Some(clocks::prepare(cluster)?);
        }
        Ok(())
    }

    /// Gives each node disks of its own, if this machine can; to be called before the cluster is started.
    ///
    /// # Errors
    /// If a disk cannot be mounted.
    pub fn mount_disks(&mut self) -> Result<(), Harness> {
        if let Place::Processes(cluster) = &mut self.place
            && disks::missing().is_none()
        {
            self.disks = Some(Disks::mount(cluster)?);
        }
        Ok(())
    }

    /// Returns whether a node is one of the cluster.
    pub fn knows(&self, name: &str) -> bool {
        self.place.names().iter().any(|known| known == name)
    }

    /// Returns the databases that there are, or may be.
    ///
    /// # Errors
    /// If an address has no port.
    pub fn databases(&self) -> Result<Vec<Database>, Harness> {
        let spares = self.spares.iter().filter(|node| node.is_data).map(place::database);
        let mut all = self.place.databases()?;
        all.extend(spares.collect::<Result<Vec<_>, _>>()?);
        Ok(all)
    }

    /// Copies what agents, guards and servers wrote to where it outlives the cluster.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn keep_logs(&self, to: &Path) -> Result<(), Harness> {
        self.place.keep_logs(to)?;
        self.spares.iter().try_for_each(|node| place::keep_logs_of(node, to))
    }

    /// Returns the cluster, if its nodes are processes that the suite started.
    pub fn cluster(&mut self) -> Option<&mut Cluster> {
        match &mut self.place {
            Place::Processes(cluster) => Some(cluster),
            Place::Containers(_) => None,
        }
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // Between the end of the processes that use them and the removal of the directories that they lie in.
        if let Place::Processes(cluster) = &mut self.place
            && self.disks.is_some()
        {
            cluster.kill_all();
            self.disks = None;
        }
    }
}

fn root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    if free < MEMORY_MIN { PathBuf::from("/tmp") } else { memory.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn each_fault_can_be_made_somewhere_and_containers_have_theirs_alone() {
        for fault in Fault::value_variants() {
            let made: Vec<Kind> = Kind::value_variants()
                .iter()
                .filter(|kind| kind.cannot(*fault).is_none())
                .copied()
                .collect();
            assert!(!made.is_empty(), "{fault:?}");
            let only = made == [Kind::Compose];
            assert_eq!(only, fault.needs_containers(), "{fault:?}: {made:?}");
        }
    }

    #[test]
    fn containers_know_faults_of_processes_and_orders_and_are_cut_off_as_a_whole() {
        use Fault::{IsolateAll, IsolateNode, IsolatePrimary, Ring};
        for fault in [IsolatePrimary, IsolateNode, IsolateAll] {
            assert_eq!(Kind::Compose.cannot(fault), None);
            assert!(Kind::Process.cannot(fault).is_some());
        }
        assert!(Kind::Compose.cannot(Ring).is_some() && Kind::Netns.cannot(Ring).is_none());
        for group in ["kill", "pause", "orders", "cancel-waits", "container", "engine"] {
            for fault in crate::nemesis::fault::parse_list(group).unwrap() {
                assert_eq!(Kind::Compose.cannot(fault), None, "{fault:?}");
            }
        }
    }
}
