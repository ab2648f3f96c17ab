//! A disk of a test's own.

use std::path::{Path, PathBuf};

use jepsen::disk::{Disk, Loss, Order};

/// A disk, and the directory that it lies in; unmounted first.
#[derive(Debug)]
pub(crate) struct Mounted {
    disk: Disk,
    dir: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_jepsen"));
        let disk = Disk::mount(program, &dir.path().join("behind"), &dir.path().join("disk"));
        Self { disk: disk.unwrap(), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    pub(crate) fn behind(&self) -> PathBuf {
        self.dir.path().join("behind")
    }

    pub(crate) fn order(&mut self, order: &Order) -> String {
        self.disk.order(order).unwrap()
    }

    pub(crate) fn lose(&mut self, loss: Loss) -> String {
        self.order(&Order::Lose(loss))
    }

    /// Ends the disk and returns whether it is gone.
    pub(crate) fn unmount(self) -> bool {
        let mount = self.disk.path().to_owned();
        drop(self.disk);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        !mounts.contains(&*mount.to_string_lossy())
    }
}
