//! A small file system of a test's own, to be filled.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a tmpfs of so many MiB on a directory, which is made.
    pub fn mount(path: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(path).expect("a directory to mount on");
        let size = format!("size={mib}m,mode=0755");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .status()
            .expect("mount can be run");
        assert!(done.success(), "cannot mount a tmpfs on {}", path.display());
        Self { path: path.to_owned() }
    }

    /// Fills it with one file until nothing more fits; returns the file.
    pub fn fill(&self) -> PathBuf {
        self.fill_but(0)
    }

    /// The same, but leaves so many MiB free.
    pub fn fill_but(&self, mib: u64) -> PathBuf {
        let path = self.path.join("ballast");
        let mut file =
            OpenOptions::new().append(true).create(true).open(&path).expect("a file of ballast");
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0_u8; size];
            while self.free() > mib << 20 && file.write_all(&block).is_ok() {}
        }
        path
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.path).expect("a mounted file system");
        found.f_bavail * found.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left there must not keep it mounted for ever.
        let done = Command::new("umount").arg("-l").arg(&self.path).status();
        let gone = done.is_ok_and(|status| status.success());
        assert!(gone || std::thread::panicking(), "cannot unmount {}", self.path.display());
        // Some are below a directory that is removed anyway.
        drop(std::fs::remove_dir(&self.path));
    }
}
