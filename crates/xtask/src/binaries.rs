//! Building the programs: agent and command line with cargo's usual means, the guard static.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::exec;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::paths;

/// The programs of a release build.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The daemon.
    pub(crate) agent: PathBuf,
    /// The command line.
    pub(crate) haclt: PathBuf,
    /// The guard.
    pub(crate) guard: PathBuf,
}

impl Programs {
    /// Builds all of them.
    pub(crate) fn build() -> Outcome<Self> {
        let mut command = paths::cargo();
        command.args(["build", "--locked", "--release", "-p", "ha-agent", "-p", "haclt"]);
        exec::run(&mut command)?;
        guard()?;
        Self::built()
    }

    /// Returns where an earlier [`Programs::build`] put them.
    pub(crate) fn built() -> Outcome<Self> {
        let release = paths::target()?.join("release");
        let (agent, haclt) = (release.join("ha-agent"), release.join("haclt"));
        Ok(Self { agent, haclt, guard: guard_path()? })
    }
}

/// Returns where the guard is put.
pub(crate) fn guard_path() -> Outcome<PathBuf> {
    Ok(paths::target()?.join("guard").join("ha-guard"))
}

/// Builds the guard and puts it at [`guard_path`] in one step; returns that path.
///
/// A target is named, although it is our own, so that the flags reach the guard only and not the
/// build scripts, and so that its files lie apart from everybody else's.
pub(crate) fn guard() -> Outcome<PathBuf> {
    let host = host_triple()?;
    let mut command = paths::cargo();
    command
        .args(["build", "--locked", "-p", "ha-guard", "--profile", "guard", "--target", &host])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    exec::run(&mut command)?;
    let built = paths::target()?.join(host).join("guard").join("ha-guard");
    let wanted = guard_path()?;
    put(&built, &wanted)?;
    Ok(wanted)
}

fn host_triple() -> Outcome<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.arg("-vV").current_dir(paths::workspace());
    let text = exec::output(&mut command, Duration::from_secs(30))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).doing(|| "`rustc -vV` names no host".to_owned())
}

/// Copies a program beside its place and renames it there, unless the same is there already: a
/// running guard keeps the file it was started from.
fn put(built: &Path, wanted: &Path) -> Outcome<()> {
    let doing = || format!("could not copy {} to {}", built.display(), wanted.display());
    let content = fs::read(built).doing(doing)?;
    if fs::read(wanted).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let folder = wanted.parent().ok_or_else(|| Failure::new(doing()))?;
    fs::create_dir_all(folder).doing(doing)?;
    let beside = wanted.with_extension("new");
    fs::write(&beside, content).doing(doing)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).doing(doing)?;
    fs::rename(&beside, wanted).doing(doing)
}

/// Returns the size of a file in bytes.
pub(crate) fn size(path: &Path) -> Outcome<u64> {
    fs::metadata(path).map(|m| m.len()).doing(|| format!("could not look at {}", path.display()))
}
