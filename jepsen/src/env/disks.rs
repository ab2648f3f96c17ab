//! Disks of the nodes' own: each node has one for its data and one for its Raft store.

use std::collections::BTreeSet;
use std::path::Path;

use ha_tests::{Cluster, node};

use crate::disk::{Disk, Loss, Order};
use crate::harness::{Harness, Trying as _};

/// Which disk of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// PGDATA; on a witness, the WAL that it keeps.
    Data,
    /// The agent's own directory, with the Raft store and the pledge.
    Raft,
}

/// What can be wrong with a disk for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ill {
    /// Writes and syncs wait.
    Slow,
    /// There is no room.
    Full,
}

/// The disks of a cluster; unmounted when dropped.
#[derive(Debug, Default)]
pub struct Disks {
    disks: Vec<(String, Use, Disk)>,
    ill: BTreeSet<(String, Use, Ill)>,
}

/// Says what is missing to mount disks; nothing if all is there.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("disks need root");
    }
    (!Path::new("/dev/fuse").exists()).then_some("disks need /dev/fuse")
}

impl Use {
    const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Raft => "raft",
        }
    }
}

impl Disks {
    /// Mounts two disks for each node of a cluster that is not started yet, and has the nodes use them.
    ///
    /// # Errors
    /// If one cannot be mounted.
    pub fn mount(cluster: &mut Cluster) -> Result<Self, Harness> {
        let program = std::env::current_exe().trying(|| "find this program".to_owned())?;
        let mut disks = Self::default();
        for node in cluster.nodes_mut() {
            for used in [Use::Data, Use::Raft] {
                let mount = node.dir.join(format!("disk-{}", used.name()));
                let backing = node.dir.join(format!("behind-{}", used.name()));
                let disk = Disk::mount(&program, &backing, &mount)?;
                disks.disks.push((node.name.clone(), used, disk));
                let key = match used {
                    Use::Raft => "data_dir",
                    Use::Data if node.is_data => "postgres.data_dir",
                    Use::Data => "witness.wal_dir",
                };
                let inside = mount.join("files");
                let made = std::fs::create_dir(&inside);
                made.trying(|| format!("make {}", inside.display()))?;
                if key == "postgres.data_dir" {
                    node::chown(&inside);
                }
                node.config.text(key, inside.display());
            }
        }
        Ok(disks)
    }

    /// Makes a disk ill; returns what was done, or why not.
    ///
    /// # Errors
    /// If the disk does not obey.
    pub fn hurt(
        &mut self,
        place: (&str, Use),
        ill: Ill,
        sync_ms: u64,
    ) -> Result<Result<String, String>, Harness> {
        let (node, used) = place;
        if !self.ill.insert((node.to_owned(), used, ill)) {
            return Ok(Err(format!("{node}: its disk is that already")));
        }
        let order = match ill {
            Ill::Slow => Order::Slow(sync_ms, sync_ms / 20),
            Ill::Full => Order::Full(true),
        };
        self.order(node, Some(used), &order).map(Ok)
    }

    /// Ends what was wrong with a disk.
    ///
    /// # Errors
    /// If the disk does not obey.
    pub fn mend(&mut self, (node, used): (&str, Use), ill: Ill) -> Result<String, Harness> {
        self.ill.remove(&(node.to_owned(), used, ill));
        let order = match ill {
            Ill::Slow => Order::Slow(0, 0),
            Ill::Full => Order::Full(false),
        };
        self.order(node, Some(used), &order)
    }

    /// Ends whatever is wrong with any disk.
    ///
    /// # Errors
    /// If a disk does not obey.
    pub fn mend_all(&mut self) -> Result<(), Harness> {
        for (node, used, ill) in self.ill.clone() {
            self.mend((&node, used), ill)?;
        }
        Ok(())
    }

    /// Has every disk for data say from now on that it synced, and not do it.
    ///
    /// # Errors
    /// If a disk does not obey.
    pub fn lie(&mut self) -> Result<(), Harness> {
        let nodes: BTreeSet<String> = self.disks.iter().map(|(node, ..)| node.clone()).collect();
        for node in nodes {
            self.order(&node, Some(Use::Data), &Order::Lying(true))?;
        }
        Ok(())
    }

    /// Loses what a node did not sync; all its processes have to be dead.
    ///
    /// # Errors
    /// If a disk does not obey.
    pub fn lose(&mut self, node: &str, loss: &Loss) -> Result<String, Harness> {
        self.order(node, None, &Order::Lose(loss.clone()))
    }

    fn order(&mut self, at: &str, which: Option<Use>, order: &Order) -> Result<String, Harness> {
        let mut said = Vec::new();
        for (node, used, disk) in &mut self.disks {
            if node == at && which.is_none_or(|which| which == *used) {
                said.push(format!("{}: {}", used.name(), disk.order(order)?));
            }
        }
        Ok(said.join("; "))
    }
}
