//! What the suite needs of the nodes, wherever they run: as processes that it started itself, or in containers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_proto::v1::StatusReply;
use ha_tests::processes::{self, Process};
use ha_tests::{Cluster, Node, status};
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::Database;
use super::busy::Busy;
use super::containers::Containers;
use crate::harness::{Harness, Trying as _};
use crate::nemesis::Outcome;

/// How often agents are asked for what is waited for.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The nodes.
#[derive(Debug)]
pub enum Place {
    /// Agents are children of the suite.
    Processes(Box<Cluster>),
    /// Each agent and each database is in a container.
    Containers(Box<Containers>),
}

/// A process of a node that faults are made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its agent.
    Agent,
    /// Its guard.
    Guard,
    /// Its server's first process.
    Postmaster,
    /// What receives WAL: a standby's receiver, a witness's `pg_receivewal`.
    Receiver,
}

impl Place {
    /// Returns the names of all nodes.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Processes(cluster) => cluster.nodes().iter().map(|n| n.name.clone()).collect(),
            Self::Containers(containers) => containers.names(),
        }
    }

    /// Returns whether a node has a database.
    pub fn has_database(&self, name: &str) -> bool {
        match self {
            Self::Processes(cluster) => cluster.node(name).is_data,
            Self::Containers(_) => super::containers::has_database(name),
        }
    }

    /// Returns the names of the nodes that have a database.
    pub fn data_nodes(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| self.has_database(name)).collect()
    }

    /// Returns the addresses of all agents.
    pub fn agents(&self) -> Vec<String> {
        match self {
            Self::Processes(cluster) => cluster.nodes().iter().map(Node::grpc).collect(),
            Self::Containers(containers) => containers.agents(),
        }
    }

    /// Returns the databases.
    ///
    /// # Errors
    /// If an address has no port.
    pub fn databases(&self) -> Result<Vec<Database>, Harness> {
        match self {
            Self::Processes(cluster) => cluster.data_nodes().map(database).collect(),
            Self::Containers(containers) => Ok(containers.databases()),
        }
    }

    /// Returns the directory that a node's agent and guard share.
    pub fn permit_dir(&self, name: &str) -> PathBuf {
        match self {
            Self::Processes(cluster) => cluster.node(name).permit_dir().to_owned(),
            Self::Containers(containers) => containers.permit_dir(name),
        }
    }

    /// Returns the file with the superuser's password, once there is a cluster.
    pub fn superuser_file(&self) -> PathBuf {
        match self {
            Self::Processes(cluster) => {
                cluster.data_nodes().next().map(Node::superuser_file).unwrap_or_default()
            }
            Self::Containers(containers) => containers.superuser_file(),
        }
    }

    /// Asks every agent for the cluster's status, and returns the first answer that is wanted.
    ///
    /// All are asked at once: one that is frozen would keep the next fault waiting.
    pub async fn status(&self, wanted: impl Fn(&StatusReply) -> bool) -> Option<StatusReply> {
        let mut asked = JoinSet::new();
        for address in self.agents() {
            asked.spawn(async move { status::status(&address).await });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some(status)) = answer
                && wanted(&status)
            {
                return Some(status);
            }
        }
        None
    }

    /// Waits until commits wait for the quorum that all nodes make; for no longer than that.
    pub async fn quorum_in_force(&self, limit: Duration) {
        let in_force = async {
            while self.status(|s| status::everybody_acknowledges(s, 1)).await.is_none() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        // One that never comes in force is a matter of the cluster: it is not healthy in the end.
        drop(tokio::time::timeout(limit, in_force).await);
    }

    /// Opens a session of the superuser to a node's database.
    ///
    /// # Errors
    /// What the server or the network says.
    pub async fn session(&self, name: &str) -> Result<Client, Harness> {
        let opened = match self {
            Self::Processes(cluster) => cluster.node(name).session().await,
            Self::Containers(containers) => return containers.session(name).await,
        };
        opened.trying(|| "open a session".to_owned())
    }

    /// Returns a process of a node, if it lives.
    pub fn process(&mut self, name: &str, role: Role) -> Option<i32> {
        let cluster = match self {
            Self::Processes(cluster) => cluster,
            Self::Containers(containers) => return containers.process(name, role),
        };
        let node = cluster.node_mut(name);
        match role {
            Role::Agent => node.agent_runs().then(|| node.agent_pid()),
            Role::Guard => node.guard_pid(),
            Role::Postmaster => node.postmaster(),
            Role::Receiver => node.receiver(),
        }
    }

    /// Returns every living process of a node but the agent's.
    pub fn database_processes(&self, name: &str) -> Vec<Process> {
        match self {
            Self::Processes(cluster) => cluster.node(name).database_processes(),
            Self::Containers(containers) => containers.database_processes(name),
        }
    }

    /// Returns whether whoever starts agents can do that now.
    pub fn obeys(&self) -> bool {
        match self {
            Self::Processes(_) => true,
            Self::Containers(containers) => containers.engine_is_there(),
        }
    }

    /// Starts an agent that the suite ended.
    pub fn start_agent(&mut self, name: &str) -> Outcome {
        let cluster = match self {
            Self::Processes(cluster) => cluster,
            Self::Containers(containers) => return containers.start(name),
        };
        let node = cluster.node_mut(name);
        if node.agent_runs() {
            return Outcome::Installed(format!("{name}: its agent runs already"));
        }
        node.kill_agent();
        node.start();
        Outcome::Installed(format!("{name}: agent started"))
    }

    /// Has all processes of a node go on, in the order that is worst for the fence.
    pub fn thaw(&mut self, name: &str) -> Outcome {
        let cluster = match self {
            Self::Processes(cluster) => cluster,
            Self::Containers(containers) => return containers.unpause_node(name),
        };
        let node = cluster.node_mut(name);
        if !node.agent_runs() {
            node.kill_agent();
        }
        node.thaw();
        Outcome::Installed(format!("{name} goes on"))
    }

    /// Sees to it that agents that ended by themselves are started again, and returns them. Those of `down` are
    /// ended on purpose.
    pub fn look_after_agents(&mut self, down: &BTreeSet<String>, busy: &Busy) -> Vec<String> {
        let cluster = match self {
            Self::Processes(cluster) => cluster,
            Self::Containers(containers) => return containers.look_after_agents(busy),
        };
        let mut ended = Vec::new();
        for node in cluster.nodes_mut() {
            if down.contains(&node.name) || node.agent_runs() {
                continue;
            }
            node.kill_agent();
            node.start();
            ended.push(node.name.clone());
        }
        ended
    }

    /// Undoes whatever may still be wrong with processes.
    ///
    /// # Errors
    /// If it cannot be undone.
    pub fn put_right(&mut self) -> Result<(), Harness> {
        match self {
            Self::Processes(cluster) => {
                go_on(&cluster.processes());
                Ok(())
            }
            Self::Containers(containers) => containers.put_right(),
        }
    }

    /// Starts every agent that does not run.
    pub fn start_agents(&mut self) {
        match self {
            Self::Processes(cluster) => {
                for node in cluster.nodes_mut() {
                    if !node.agent_runs() {
                        node.kill_agent();
                        node.start();
                    }
                }
            }
            Self::Containers(containers) => containers.start_agents(),
        }
    }

    /// Copies what agents, guards and servers wrote to where it outlives the cluster.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn keep_logs(&self, to: &Path) -> Result<(), Harness> {
        std::fs::create_dir_all(to).trying(|| format!("make {}", to.display()))?;
        let cluster = match self {
            Self::Processes(cluster) => cluster,
            Self::Containers(containers) => return containers.keep_logs(to),
        };
        cluster.nodes().iter().try_for_each(|node| keep_logs_of(node, to))
    }
}

/// Copies what a node's agent, guard and server wrote.
pub(super) fn keep_logs_of(node: &Node, to: &Path) -> Result<(), Harness> {
    copy(&node.name, &node.log(), to)?;
    copy_all(&node.name, &node.dir.join("log"), to)
}

/// Has everything go on that stands still by a signal.
pub(super) fn go_on(all: &[Process]) {
    for process in all.iter().filter(|process| processes::state(process.pid) == Some('T')) {
        processes::send(process.pid, Signal::CONT);
    }
}

/// Copies a node's log, if it is there.
fn copy(node: &str, path: &Path, to: &Path) -> Result<(), Harness> {
    if path.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let target = to.join(format!("{node}-{name}"));
        std::fs::copy(path, &target).trying(|| format!("copy {}", path.display()))?;
    }
    Ok(())
}

/// Copies a node's logs out of a directory and those in it, if it is there: servers have one of their own.
pub(super) fn copy_all(node: &str, from: &Path, to: &Path) -> Result<(), Harness> {
    let entries = std::fs::read_dir(from).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).try_for_each(|path| {
        if path.is_dir() { copy_all(node, &path, to) } else { copy(node, &path, to) }
    })
}

pub(super) fn database(node: &Node) -> Result<Database, Harness> {
    let address = node.postgres();
    let parts = address.rsplit_once(':').and_then(|(h, p)| Some((h.to_owned(), p.parse().ok()?)));
    let (host, port) = parts.ok_or_else(|| Harness::new(format!("no port in {address}")))?;
    Ok(Database { node: node.name.clone(), host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_server_is_kept_beside_that_of_its_guard() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("log"), root.path().join("kept"));
        std::fs::create_dir_all(from.join("postgresql")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("guard.log"), "g").unwrap();
        std::fs::write(from.join("postgresql/postgresql-1.log"), "s").unwrap();
        copy_all("n1", &from, &to).unwrap();
        copy_all("n1", &root.path().join("not-there"), &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("n1-guard.log")).unwrap(), "g");
        assert_eq!(std::fs::read_to_string(to.join("n1-postgresql-1.log")).unwrap(), "s");
    }
}
