//! `down`: stop everything of the local cluster, and remove its files if asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::binaries;
use crate::cluster::Cluster;
use crate::cluster::process::{self, Process};
use crate::cluster::status::Status;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::local::{self, Record, elsewhere, permit_root, up};
use crate::{note, paths};

/// How long an agent may take to stop its PostgreSQL and itself.
const AGENT_PATIENCE: Duration = Duration::from_secs(30);

/// Stops everything; with `purge` removes all files too.
pub(crate) fn down(purge: bool) -> Outcome<()> {
    let root = local::root();
    let record = match Record::read() {
        Ok(record) => record,
        // A record nobody understands must not keep anybody from getting rid of it.
        Err(_) if purge => None,
        Err(failure) => return Err(failure),
    };
    let mut roots = record.as_ref().map_or_else(|| vec![root.clone()], Record::roots);
    // Also without a record these are ours: their names are made of this checkout's path.
    roots.extend([permit_root(&root), elsewhere(&root)]);
    let existing: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
    if !root.exists() && process::of_cluster(&existing).is_empty() {
        remove(&roots, purge)?;
        note!("nothing is running");
        return Ok(());
    }
    let lock = up::lock()?;
    let began = Instant::now();
    let before = process::of_cluster(&existing);
    if before.is_empty() {
        note!("nothing is running");
    } else {
        stop(record.as_ref(), &existing)?;
        note!("stopped {} processes in {:.1} s", before.len(), began.elapsed().as_secs_f64());
    }
    remove(&roots, purge)?;
    drop(lock);
    Ok(())
}

fn stop(record: Option<&Record>, roots: &[&Path]) -> Outcome<()> {
    let cluster = record.and_then(known);
    let status = || cluster.as_ref().and_then(|(cluster, haclt)| ask(cluster, haclt));
    let order = status().map_or_else(Vec::new, |status| stopping_order(&status));
    for name in order.into_iter().map(Some).chain([None]) {
        let agents = || of_program("ha-agent", roots, name.as_deref());
        let targets = agents();
        for agent in &targets {
            note!("stopping {}", name.as_deref().unwrap_or(&agent.command));
            agent.signal(Signal::TERM);
        }
        if !process::wait_until(AGENT_PATIENCE, || agents().is_empty()) {
            note!("it did not stop within {} s: killing it", AGENT_PATIENCE.as_secs());
            process::end(&[], Duration::ZERO, agents);
        }
        // Until the others have noticed, the primary would wait for it to take over.
        if let Some(name) = name.filter(|_| !targets.is_empty()) {
            process::wait_until(Duration::from_secs(3), || {
                status().is_none_or(|status| !status.is_at_work(&name))
            });
        }
    }
    let guards = || of_program("ha-guard", roots, None);
    if !process::wait_until(Duration::from_secs(3), || process::of_cluster(roots).is_empty()) {
        note!("asking what is left to stop: {}", named(&process::of_cluster(roots)));
        process::end(&[Signal::TERM], Duration::from_secs(10), guards);
    }
    // PostgreSQL without a guard: SIGQUIT is its immediate shutdown, for every process of it.
    let left = process::end(&[Signal::QUIT], Duration::from_secs(5), || process::of_cluster(roots));
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("could not stop: {}", named(&left)))
        .hint("They belong to another user, or are stuck in the kernel; try again as root."))
}

/// Returns the cluster and where `haclt` is, if that can be found out.
fn known(record: &Record) -> Option<(Cluster, PathBuf)> {
    let cluster = record.cluster(local::means(binaries::guard_path().ok()?, None).ok()?);
    Some((cluster, paths::target().ok()?.join("release").join("haclt")))
}

fn ask(cluster: &Cluster, haclt: &Path) -> Option<Status> {
    Status::ask(Command::new(haclt), &cluster.endpoints()).ok()
}

/// In which order to stop the agents: the standby first, so that there is nobody to hand over to,
/// and the witness last, so that there is a majority for as long as possible.
fn stopping_order(status: &Status) -> Vec<String> {
    let rank = |role: &str| match role {
        "primary" => 1,
        "witness" => 2,
        _ => 0,
    };
    let mut nodes: Vec<_> = status.nodes.iter().collect();
    nodes.sort_by_key(|node| rank(&node.role));
    nodes.into_iter().map(|node| node.name.clone()).collect()
}

fn of_program(program: &str, roots: &[&Path], node: Option<&str>) -> Vec<Process> {
    let mut found = process::of_cluster(roots);
    found.retain(|process| {
        process.program == program
            && node.is_none_or(|name| process.command.contains(&format!("/{name}/agent.toml")))
    });
    found
}

fn named(processes: &[Process]) -> String {
    let names = processes.iter().map(|p| format!("{} (pid {})", p.program, p.pid));
    names.collect::<Vec<_>>().join(", ")
}

/// Removes the directories, each only if it is exactly the one this checkout makes.
fn remove(roots: &[PathBuf], purge: bool) -> Outcome<()> {
    if !purge {
        return Ok(());
    }
    let root = local::root();
    let known = [root.clone(), permit_root(&root), elsewhere(&root)];
    for path in known {
        if path.exists() {
            fs::remove_dir_all(&path).doing(|| format!("could not remove {}", path.display()))?;
            note!("removed {}", path.display());
        }
    }
    for path in roots.iter().filter(|path| path.exists()) {
        note!("left in place, as this checkout did not make it: {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standby_stops_first_and_the_witness_last() {
        let status = r#"{"state":"healthy","nodes":[{"name":"n3","role":"witness"},
            {"name":"n1","role":"primary"},{"name":"n2","role":"standby"}]}"#;
        let order = stopping_order(&Status::parse(status).unwrap());
        assert_eq!(order, ["n2", "n1", "n3"]);
    }
}
