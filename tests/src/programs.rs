//! The programs under test and PostgreSQL's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Returns where a program of the workspace is: `HA_BIN_DIR`, else `target/debug`.
pub fn program(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace`", path.display());
    path
}

/// Returns cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize().expect("target exists")
}

fn bin_dir() -> PathBuf {
    std::env::var_os("HA_BIN_DIR").map_or_else(|| target_dir().join("debug"), PathBuf::from)
}

/// Returns the guard: `HA_GUARD`, else the small static one if it is built, else the debug one.
pub fn guard() -> PathBuf {
    if let Some(path) = std::env::var_os("HA_GUARD") {
        return path.into();
    }
    let small = target_dir().join("guard/ha-guard");
    if small.exists() { small } else { program("ha-guard") }
}

/// Returns the newest PostgreSQL's programs on this machine, or those of `HA_PG_BIN_DIR`.
pub fn postgres_dir() -> PathBuf {
    if let Some(path) = std::env::var_os("HA_PG_BIN_DIR") {
        return path.into();
    }
    let entries = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let major = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("PostgreSQL is installed");
    PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))
}

/// Runs a program to its end and returns what it said.
pub fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()))
}

/// Returns both streams of a finished program as one text.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
