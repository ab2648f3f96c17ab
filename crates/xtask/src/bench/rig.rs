//! A cluster on three hosts of its own, ready to be hurt.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::faults::Fault;
use crate::bench::stop;
use crate::bench::subject::{Clients, Subject};
use crate::bench::supervisor::Supervisor;
use crate::bench::world::{self, Place, World};
use crate::bench::writer::{TABLE, Target};
use crate::binaries::Programs;
use crate::cluster::account::Account;
use crate::cluster::process::Process;
use crate::cluster::status::Status;
use crate::cluster::{Cluster, Kind, Means, Mode, Roots, account, prepare};
use crate::failure::{Doing as _, Failure, Outcome};
use crate::paths::Postgres;

/// A directory that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes a new one that every account may enter, after removing those of benches that were
    /// killed.
    pub(crate) fn create(below: &Path, name: &str) -> Outcome<Self> {
        for entry in fs::read_dir(below).into_iter().flatten().flatten() {
            if maker(&entry.file_name().to_string_lossy(), name)
                .is_some_and(|pid| Process::look(pid).is_none())
            {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        let path = below.join(format!("{name}-{}", std::process::id()));
        account::folder(&path, 0o755)?;
        Ok(Self(path))
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Everything a measurement needs. The order of the fields is the order of cleaning up: agents,
/// then hosts with what is left in them, then files.
#[derive(Debug)]
pub(crate) struct Rig {
    supervisors: Vec<Option<Supervisor>>,
    /// The hosts.
    pub(crate) world: World,
    /// The cluster.
    pub(crate) cluster: Cluster,
    /// PostgreSQL's programs.
    pub(crate) postgres: Postgres,
    /// The account PostgreSQL runs under.
    pub(crate) account: Account,
    programs: Programs,
    password: Option<String>,
    folder: Folder,
    _permits: Folder,
}

impl Rig {
    /// Makes hosts and files; starts nothing.
    pub(crate) fn create(programs: Programs, below: &Path, mode: Mode) -> Outcome<Self> {
        let world = World::create(3)?;
        let account = account::for_server()?.doing(|| "cannot measure: not root".to_owned())?;
        let postgres = Postgres::find()?;
        let folder = Folder::create(below, "haclt-bench")?;
        if !account.can_enter(folder.path()) {
            return Err(Failure::new(format!(
                "cannot use {}: user {} cannot enter it",
                folder.path().display(),
                account.name
            ))
            .hint("Choose another directory with --dir."));
        }
        let memory = Path::new("/dev/shm");
        let permits =
            Folder::create(if memory.is_dir() { memory } else { below }, "haclt-permits")?;
        let roots = Roots {
            root: folder.path().to_path_buf(),
            postgres: folder.path().to_path_buf(),
            permits: permits.path().to_path_buf(),
        };
        let means = Means {
            postgres: postgres.clone(),
            guard: programs.guard.clone(),
            run_as: Some(account.name.clone()),
            mode,
        };
        let cluster = Cluster::on_hosts("bench", roots, world::address, means);
        let supervisors = cluster.nodes.iter().map(|_| None).collect();
        Ok(Self {
            supervisors,
            world,
            cluster,
            postgres,
            account,
            programs,
            password: None,
            folder,
            _permits: permits,
        })
    }

    /// Starts all agents and waits until the cluster is healthy; returns how long that took.
    pub(crate) fn start(&mut self) -> Outcome<Duration> {
        let began = Instant::now();
        prepare::prepare(&self.cluster, Some(&self.account))?;
        self.password = Some(prepare::read_secret(&self.cluster.secret("superuser"))?);
        for index in 0..self.cluster.nodes.len() {
            self.start_agent(index);
        }
        let status = self.wait_healthy()?;
        let took = began.elapsed();
        self.sql(self.primary(&status)?, TABLE)?;
        Ok(took)
    }

    /// Starts the agent of one node, as its host would at boot.
    pub(crate) fn start_agent(&mut self, index: usize) {
        let world = &self.world;
        let prefix = |program: &Path| world.command(Place::Host(index), program);
        let node = &self.cluster.nodes[index];
        self.supervisors[index] = Some(Supervisor::start(prefix, &self.programs.agent, node));
    }

    /// Ends every process of a node at once, agent included, and keeps it that way.
    pub(crate) fn kill_node(&mut self, index: usize) -> Outcome<()> {
        if let Some(supervisor) = &self.supervisors[index] {
            supervisor.let_go();
        }
        self.world.kill_all(Place::Host(index))?;
        self.supervisors[index] = None;
        Ok(())
    }

    /// Stops all agents in order: they stop what they started. The standby first, so that there is
    /// nobody to hand over to, and the witness last, so that there is a majority.
    pub(crate) fn stop(&mut self) {
        let status = self.status().ok();
        let primary = status.and_then(|status| self.primary(&status).ok());
        let mut order: Vec<usize> = (0..self.supervisors.len()).collect();
        order.sort_by_key(|&index| {
            (self.cluster.nodes[index].kind == Kind::Witness, Some(index) == primary)
        });
        for index in order {
            if let Some(supervisor) = &mut self.supervisors[index] {
                supervisor.stop(Duration::from_secs(20));
            }
        }
        self.supervisors.fill_with(|| None);
    }

    /// Returns a node's agent.
    pub(crate) fn agent(&self, index: usize) -> Outcome<Process> {
        let supervisor = self.supervisors[index].as_ref();
        let agent = supervisor.and_then(Supervisor::agent);
        agent.doing(|| format!("node {} has no agent running", self.cluster.nodes[index].name))
    }

    /// Returns a node's postmaster.
    pub(crate) fn postmaster(&self, index: usize) -> Outcome<Process> {
        let node = &self.cluster.nodes[index];
        let file = node.pgdata().join("postmaster.pid");
        let text = fs::read_to_string(&file).doing(|| format!("could not read {}", file.display()));
        let pid = text?.lines().next().and_then(|line| line.trim().parse().ok());
        pid.and_then(Process::look)
            .filter(|process| process.program == "postgres")
            .doing(|| format!("node {} has no postmaster running", node.name))
    }

    /// Freezes every process of a node at once, agent included, as a host does that is paused.
    pub(crate) fn freeze(&self, index: usize) -> Outcome<()> {
        stop::until("a host stood still", Duration::from_secs(10), || {
            let awake: Vec<Process> = self.world.processes(Place::Host(index));
            let awake: Vec<&Process> =
                awake.iter().filter(|process| !process.is_stopped()).collect();
            for process in &awake {
                process.signal(Signal::STOP);
            }
            Ok(awake.is_empty())
        })
    }

    /// Undoes [`Rig::freeze`] in the order that is worst for the fence: sessions first, then who would
    /// end them.
    pub(crate) fn thaw(&self, index: usize) {
        let all = self.world.processes(Place::Host(index));
        let is_server = |process: &&Process| process.program == "postgres";
        all.iter().filter(is_server).for_each(|process| process.signal(Signal::CONT));
        for process in &all {
            process.signal(Signal::CONT);
        }
    }

    /// Returns the process that receives WAL on a node.
    pub(crate) fn receiver(&self, index: usize) -> Outcome<Process> {
        let receives = |process: &Process| {
            process.program == "pg_receivewal"
                || (process.program == "postgres" && process.command.contains("walreceiver"))
        };
        let found = self.world.processes(Place::Host(index)).into_iter().find(receives);
        found.doing(|| format!("node {} receives no WAL", self.cluster.nodes[index].name))
    }

    /// Returns the two servers, as the clients know them.
    pub(crate) fn targets(&self) -> Outcome<Vec<Target>> {
        let password = self.password.clone().doing(|| "the cluster was not started".to_owned())?;
        let nodes = self.cluster.nodes.iter().enumerate();
        Ok(nodes
            .filter(|(_, node)| node.kind == Kind::Data)
            .map(|(index, node)| Target {
                node: index,
                address: node.postgres,
                password: password.clone(),
            })
            .collect())
    }

    /// Copies the agents' and the servers' logs where they outlive the rig.
    pub(crate) fn keep_logs(&self, out: &Path) -> Outcome<()> {
        let folder = out.join("logs");
        account::folder(&folder, 0o755)?;
        for node in &self.cluster.nodes {
            // Whatever exists; a node that never started has none.
            drop(fs::copy(node.log(), folder.join(format!("{}-agent.log", node.name))));
            for (number, log) in logs_below(&node.home).into_iter().enumerate() {
                let name = log.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
                drop(fs::copy(&log, folder.join(format!("{}-{number}-{name}", node.name))));
            }
        }
        Ok(())
    }

    /// Returns the directory with everything.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Subject for Rig {
    fn names(&self) -> Vec<&str> {
        self.cluster.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    fn status(&self) -> Outcome<Status> {
        let haclt = self.world.command(Place::Hub, &self.programs.haclt);
        Status::ask(haclt, &self.cluster.endpoints())
    }

    fn check(&self) -> Outcome<()> {
        self.supervisors.iter().flatten().try_for_each(Supervisor::check)
    }

    fn application(&self) -> Outcome<Clients<Vec<Target>>> {
        Ok((self.world.network(Place::Hub), self.targets()?))
    }

    fn pinned(&self, node: usize) -> Outcome<Clients<Target>> {
        Ok((self.world.network(Place::Host(node)), self.targets()?[node].clone()))
    }

    fn starts(&self, node: usize) -> u32 {
        self.supervisors[node].as_ref().map_or(0, Supervisor::starts)
    }

    fn daemons(&self) -> Outcome<Vec<(String, Process)>> {
        let places = self.cluster.nodes.iter().enumerate();
        let inside = places.flat_map(|(index, node)| {
            let processes = self.world.processes(Place::Host(index)).into_iter();
            processes.map(|process| (node.name.clone(), process))
        });
        let ours = |process: &Process| ["ha-agent", "ha-guard"].contains(&process.program.as_str());
        Ok(inside.filter(|(_, process)| ours(process)).collect())
    }

    fn inject(&mut self, fault: Fault, node: usize) -> Outcome<()> {
        fault.inject(self, node)
    }

    fn end(&mut self, fault: Fault, node: usize) -> Outcome<()> {
        fault.end(self, node)
    }
}

/// Returns which process made a folder called like this.
fn maker(folder: &str, name: &str) -> Option<i32> {
    folder.strip_prefix(name)?.strip_prefix('-')?.parse().ok()
}

/// Finds files whose name ends in `.log`, three levels deep.
fn logs_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut level = vec![folder.to_path_buf()];
    for _ in 0..4 {
        let entries = level.iter().filter_map(|folder| fs::read_dir(folder).ok());
        let paths: Vec<PathBuf> = entries.flatten().flatten().map(|entry| entry.path()).collect();
        let is_log = |path: &PathBuf| {
            path.extension().is_some_and(|e| e == "log") && !path.ends_with("agent.log")
        };
        found.extend(paths.iter().filter(|path| is_log(path)).cloned());
        level = paths.into_iter().filter(|path| path.is_dir()).collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_a_bench_tell_their_maker() {
        assert_eq!(maker("haclt-bench-17", "haclt-bench"), Some(17));
        assert_eq!(maker("haclt-bench-17-x", "haclt-bench"), None);
        assert_eq!(maker("haclt-0-17", "haclt-bench"), None);
    }

    #[test]
    fn a_folder_is_gone_when_dropped_and_those_of_dead_benches_too() {
        let below = tempfile::tempdir().unwrap();
        // No process has this id: the kernel's limit is 2^22.
        let stale = below.path().join("x-99999999");
        fs::create_dir(&stale).unwrap();
        let folder = Folder::create(below.path(), "x").unwrap();
        assert!(folder.path().is_dir() && !stale.exists());
        let path = folder.path().to_path_buf();
        drop(folder);
        assert!(!path.exists());
    }
}
