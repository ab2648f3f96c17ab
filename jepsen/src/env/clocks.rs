//! Wall clocks of the nodes: each node's programs run under libfaketime, which reads from a file of the node
//! how far off its clock is.
//!
//! What follows such a clock: PostgreSQL, its tools, and what an agent asks of the C library (the times of its
//! log lines and of what it writes into the Raft log). What does not: the guard, which is linked statically, and
//! what an agent asks of the kernel without the C library. Clocks that only go forward are left as they are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ha_tests::{Cluster, Node, processes, programs};

use crate::harness::{Harness, Trying as _};

/// Names the directory with the two libraries, if it is not where distributions have it.
const DIRECTORY: &str = "HA_FAKETIME_DIR";
/// Where distributions have it.
const DIRECTORIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
];
/// For one thread: takes no lock, since PostgreSQL asks for the time in signal handlers too.
const ONE_THREAD: &str = "libfaketime.so.1";
/// For many threads.
const THREADS: &str = "libfaketimeMT.so.1";

/// Where the library keeps what a process shares with those that it starts.
const SHARED: &str = "/dev/shm";
/// How its files there are called, before the process id.
const SHARED_NAMES: [&str; 2] = ["faketime_shm_", "sem.faketime_sem_"];

/// The wall clocks.
#[derive(Debug, Clone)]
pub struct Clocks {
    files: BTreeMap<String, PathBuf>,
    _sweep: Arc<Sweep>,
}

/// Removes what killed processes left in shared memory when it is dropped.
#[derive(Debug)]
struct Sweep;

impl Drop for Sweep {
    fn drop(&mut self) {
        sweep(Path::new(SHARED));
    }
}

/// Of a process that lives nothing is removed; those of a dead one have mapped what they use.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = SHARED_NAMES.iter().find_map(|prefix| name.strip_prefix(prefix));
        let pid = pid.and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| !processes::is_alive(pid)) {
            // Somebody else may have removed it meanwhile, or own it.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Returns the directory with the libraries.
///
/// # Errors
/// That there is none.
fn found() -> Result<PathBuf, String> {
    let named = std::env::var_os(DIRECTORY).map(PathBuf::from);
    let known = DIRECTORIES.iter().map(PathBuf::from);
    let fits = |dir: &PathBuf| dir.join(ONE_THREAD).is_file() && dir.join(THREADS).is_file();
    named.into_iter().chain(known).find(fits).ok_or_else(|| {
        format!("libfaketime is not installed (package libfaketime, or {DIRECTORY})")
    })
}

/// Has the programs of every node start with a clock that can be put off. To be called before any is started.
/// Without the library nothing is changed, and the second value says so.
///
/// # Errors
/// If the files cannot be written.
pub fn prepare(cluster: &mut Cluster) -> Result<Result<Clocks, String>, Harness> {
    let library = match found() {
        Ok(library) => library,
        Err(why) => return Ok(Err(why)),
    };
    // Left by a run that was killed.
    sweep(Path::new(SHARED));
    let mut files = BTreeMap::new();
    for node in cluster.nodes_mut() {
        let file = node.dir.join("clock");
        write(&file, 0)?;
        let tools = node.dir.join("programs");
        wrap_all(&programs::postgres_dir(), &tools, &preloaded(&library.join(ONE_THREAD), &file))?;
        lead_to(node, &tools);
        node.environment.extend(preloaded(&library.join(THREADS), &file));
        files.insert(node.name.clone(), file);
    }
    Ok(Ok(Clocks { files, _sweep: Arc::new(Sweep) }))
}

impl Clocks {
    /// Returns the names of all nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    /// Puts a node's clock off by so many milliseconds; 0 is right.
    ///
    /// # Errors
    /// If its file cannot be written.
    pub fn set(&self, node: &str, off_ms: i64) -> Result<(), Harness> {
        let file = self.files.get(node);
        write(file.ok_or_else(|| Harness::new(format!("no clock of {node}")))?, off_ms)
    }
}

/// Replaces the file in one step: it is read at any time.
fn write(file: &Path, off_ms: i64) -> Result<(), Harness> {
    let what = || format!("write {}", file.display());
    let scratch = file.with_extension("new");
    fs::write(&scratch, offset(off_ms)).trying(what)?;
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o644)).trying(what)?;
    fs::rename(scratch, file).trying(what)
}

/// Returns it as the library reads it: seconds, with a sign.
fn offset(off_ms: i64) -> String {
    let sign = if off_ms < 0 { '-' } else { '+' };
    let ms = off_ms.unsigned_abs();
    format!("{sign}{}.{:03}", ms / 1000, ms % 1000)
}

/// Returns the environment of a program whose clock is in a file.
fn preloaded(library: &Path, file: &Path) -> [(String, String); 5] {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        // Read at every question: a clock jumps for everybody at once.
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        // Times of files are the kernel's.
        ("NO_FAKE_STAT", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// Agents and guards give no such environment to what they start: a script in the place of each program does.
fn wrap_all(from: &Path, to: &Path, environment: &[(String, String)]) -> Result<(), Harness> {
    let what = || format!("make {}", to.display());
    let pairs: Vec<String> =
        environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    fs::create_dir_all(to).trying(what)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).trying(what)?;
    for program in fs::read_dir(from).trying(|| format!("read {}", from.display()))?.flatten() {
        let script = to.join(program.file_name());
        let real = program.path();
        // Of the script nothing is left: the process is the program's then.
        let text = format!("#!/bin/sh\n{} exec {} \"$@\"\n", pairs.join(" "), real.display());
        fs::write(&script, text).trying(what)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).trying(what)?;
    }
    Ok(())
}

/// A witness that is to have no programs keeps none.
fn lead_to(node: &mut Node, tools: &Path) {
    let key = if node.is_data { "postgres.bin_dir" } else { "witness.bin_dir" };
    let real = programs::postgres_dir();
    if node.config.get(key).is_some_and(|dir| Path::new(dir) == real) {
        node.config.text(key, tools.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_written_in_seconds_with_its_sign() {
        assert_eq!(offset(0), "+0.000");
        assert_eq!(offset(3_600_250), "+3600.250");
        assert_eq!(offset(-40), "-0.040");
    }

    #[test]
    fn what_the_library_left_of_dead_processes_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let living = format!("sem.faketime_sem_{}", std::process::id());
        let names = ["faketime_shm_4194999", "sem.faketime_sem_4194999", &living, "PostgreSQL.12"];
        for name in names {
            fs::write(root.path().join(name), "").unwrap();
        }
        sweep(root.path());
        let left = names.map(|name| root.path().join(name).exists());
        assert_eq!(left, [false, false, true, true]);
    }

    #[test]
    fn a_program_becomes_a_script_that_runs_it_with_the_environment() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir(&from).unwrap();
        let program = from.join("tell");
        fs::write(&program, "#!/bin/sh\necho \"$LIKE $0 $1\"\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        wrap_all(&from, &to, &[("LIKE".to_owned(), "this".to_owned())]).unwrap();
        let output = programs::run(&to.join("tell"), &["a b"]);
        let said = programs::said(&output);
        assert_eq!(said, format!("this {} a b\n", program.display()));
    }
}
