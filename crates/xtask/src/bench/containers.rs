//! A cluster in containers, made with `deploy/compose.yaml` as users have it, ready to be hurt.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::faults::Fault;
use crate::bench::subject::{Clients, Subject};
use crate::bench::world;
use crate::bench::writer::{TABLE, Target};
use crate::binaries::Programs;
use crate::cluster::process::Process;
use crate::cluster::status::Status;
use crate::cluster::{account, prepare};
use crate::failure::{Doing as _, Failure, Outcome};
use crate::{exec, paths};

/// How long the engine may take for one command, and for building the image.
const LIMIT: Duration = Duration::from_mins(3);
const BUILDING: Duration = Duration::from_mins(15);
const PREFIX: &str = "haclt-bench-";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const DATABASES: [&str; 2] = ["n1-postgres", "n2-postgres"];
/// Below cargo's target directory, and let into the build by `.dockerignore`.
const PREBUILT: &str = "image-bench";

/// The cluster. Dropping it removes its containers, network, volumes and image.
#[derive(Debug)]
pub(crate) struct Containers {
    project: String,
    compose: Vec<String>,
    major: u32,
    haclt: PathBuf,
    postgres: [u16; 2],
    grpc: [u16; 3],
    password: Option<String>,
}

impl Containers {
    /// Makes the image of the programs; starts nothing.
    pub(crate) fn create(programs: &Programs) -> Outcome<Self> {
        if !account::is_root() {
            return Err(Failure::new("cannot hurt containers from outside: not root")
                .hint("Run `sudo make bench MODE=compose`, or as root."));
        }
        let major = match std::env::var("HACLT_MAJOR") {
            Ok(text) => text.parse().doing(|| format!("cannot use HACLT_MAJOR '{text}'"))?,
            Err(_) => 17,
        };
        docker(&["version"]).map_err(|failure| {
            Failure::new(format!("no Docker engine answers: {failure}"))
                .hint("Start it, or measure processes: `make bench MODE=process`.")
        })?;
        let compose = compose_program()?;
        let [n1, n2, g1, g2, g3] = free_ports()?;
        let containers = Self {
            project: format!("{PREFIX}{}", std::process::id()),
            compose,
            major,
            haclt: programs.haclt.clone(),
            postgres: [n1, n2],
            grpc: [g1, g2, g3],
            password: None,
        };
        containers.remove_stale();
        containers.build_image(programs)?;
        Ok(containers)
    }

    /// Starts all containers and waits until the cluster is healthy; returns how long that took.
    pub(crate) fn start(&mut self) -> Outcome<Duration> {
        let began = Instant::now();
        exec::output(self.compose(&self.project).args(["up", "--detach"]), LIMIT)?;
        let status = self.wait_healthy()?;
        let took = began.elapsed();
        let secret = ["exec", &self.container("n1"), "cat", "/etc/haclt/secrets/superuser"];
        self.password = Some(docker(&secret)?.trim().to_owned());
        self.sql(self.primary(&status)?, TABLE)?;
        Ok(took)
    }

    /// Returns what the databases are, and what runs them.
    pub(crate) fn version(&self) -> Outcome<String> {
        let version = self.sql(0, "show server_version")?.concat();
        let engine = docker(&["version", "--format", "{{.Server.Version}}"])?;
        Ok(format!("{version} in containers of Docker {}", engine.trim()))
    }

    /// Returns where the engine keeps volumes.
    pub(crate) fn folder() -> Outcome<PathBuf> {
        let root = docker(&["info", "--format", "{{.DockerRootDir}}"])?;
        Ok(PathBuf::from(root.trim()))
    }

    /// Copies what the first processes of all containers said where it outlives the cluster.
    pub(crate) fn keep_logs(&self, out: &Path) -> Outcome<()> {
        let folder = out.join("logs");
        account::folder(&folder, 0o755)?;
        for service in NODES.iter().chain(&DATABASES) {
            let mut logs = Command::new("docker");
            let said = exec::outcome(logs.args(["logs", &self.container(service)]), LIMIT)?;
            let text = [said.stdout, said.stderr].concat();
            let path = folder.join(format!("{service}.log"));
            prepare::write(&path, &String::from_utf8_lossy(&text), 0o644)?;
        }
        Ok(())
    }

    fn container(&self, service: &str) -> String {
        format!("{}-{service}", self.project)
    }

    fn image(&self) -> String {
        format!("haclt/agent:{}", self.project)
    }

    fn base(&self) -> String {
        std::env::var("HACLT_POSTGRES_IMAGE").unwrap_or_else(|_| format!("postgres:{}", self.major))
    }

    /// Returns Compose for a project with these settings.
    fn compose(&self, project: &str) -> Command {
        let mut command = Command::new(&self.compose[0]);
        command.args(&self.compose[1..]).arg("--file").arg(deploy().join("compose.yaml"));
        // A group of its own: Ctrl-C in our terminal is not meant for it.
        command.process_group(0);
        command
            .env("COMPOSE_PROJECT_NAME", project)
            .env("HACLT_CLUSTER", "bench")
            .env("HACLT_POSTGRES_IMAGE", self.base())
            .env("HACLT_AGENT_IMAGE", self.image())
            .env("HACLT_RUN", permits(project));
        if self.major >= 18 {
            command.env("HACLT_IMAGE_VOLUME", "/var/lib/postgresql");
        }
        for (node, port) in NODES.into_iter().zip(self.postgres) {
            let name = format!("HACLT_{}_POSTGRES_PORT", node.to_uppercase());
            command.env(name, port.to_string());
        }
        for (node, port) in NODES.into_iter().zip(self.grpc) {
            command.env(format!("HACLT_{}_GRPC_PORT", node.to_uppercase()), port.to_string());
        }
        command
    }

    /// Makes the agent's image of the release build: what users get, but for the C library, which is
    /// the base image's.
    fn build_image(&self, programs: &Programs) -> Outcome<()> {
        let prebuilt = paths::target()?.join(PREBUILT);
        account::folder(&prebuilt, 0o755)?;
        for program in [&programs.agent, &programs.haclt, &programs.guard] {
            let to = prebuilt.join(program.file_name().unwrap_or_default());
            fs::copy(program, &to).doing(|| format!("could not copy {}", program.display()))?;
        }
        let mut build = Command::new(deploy().join("build-image.sh"));
        build.arg(self.major.to_string()).process_group(0);
        build.env("HACLT_PREBUILT", PREBUILT).env("HACLT_AGENT_IMAGE", self.image());
        build.env("HACLT_POSTGRES_IMAGE", self.base());
        exec::output(&mut build, BUILDING).map(|_| ())
    }

    /// Removes all that belongs to a project.
    fn remove(&self, project: &str) {
        // A tool's container is no service's, and would hold the volume of its database.
        let volumes = DATABASES.map(|database| format!("volume={project}_{database}"));
        let named = format!("name={project}-");
        for filter in volumes.iter().chain([&named]) {
            let listed = docker(&["ps", "--all", "--quiet", "--filter", filter]);
            for id in listed.unwrap_or_default().split_whitespace() {
                drop(docker(&["rm", "--force", "--volumes", id]));
            }
        }
        let mut down = self.compose(project);
        drop(exec::output(down.args(["down", "--volumes", "--remove-orphans"]), LIMIT));
        let image = format!("haclt/agent:{project}");
        if docker(&["image", "inspect", &image]).is_ok() {
            drop(docker(&["rmi", &image]));
        }
        drop(fs::remove_dir_all(permits(project)));
    }

    /// Removes what benches that were killed left behind.
    fn remove_stale(&self) {
        let label = "{{.Label \"com.docker.compose.project\"}}";
        let lists: [&[&str]; 3] = [
            &["ps", "--all", "--format", label],
            &["volume", "ls", "--format", label],
            &["images", "--format", "{{.Tag}}", "haclt/agent"],
        ];
        let listed: String = lists.iter().filter_map(|list| docker(list).ok()).collect();
        let projects: BTreeSet<&str> = listed.lines().collect();
        for project in projects {
            if maker(project).is_some_and(|pid| Process::look(pid).is_none()) {
                self.remove(project);
            }
        }
    }

    fn target(&self, node: usize, at: SocketAddr) -> Outcome<Target> {
        let password = self.password.clone().doing(|| "the cluster was not started".to_owned())?;
        Ok(Target { node, address: at, password })
    }

    /// Returns process 1 of a container.
    fn first(&self, service: &str) -> Outcome<Process> {
        let container = self.container(service);
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &container])?;
        let process = pid.trim().parse().ok().and_then(Process::look);
        process.doing(|| format!("container {container} is not running"))
    }

    /// Returns the postmaster: the one child of the guard.
    fn postmaster(&self, node: usize) -> Outcome<Process> {
        let guard = self.first(DATABASES[node])?.pid;
        let list = format!("/proc/{guard}/task/{guard}/children");
        let children = fs::read_to_string(&list).doing(|| format!("could not read {list}"))?;
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        let mut children = children.filter_map(Process::look);
        let found = children.find(|process| process.program == "postgres");
        found.doing(|| format!("container {} has no postmaster", self.container(DATABASES[node])))
    }

    fn host(node: usize) -> [&'static str; 2] {
        [NODES[node], DATABASES[node]]
    }

    /// Ends both containers of a node at once, and keeps it that way.
    fn kill(&self, node: usize) -> Outcome<()> {
        let names = Self::host(node).map(|service| self.container(service));
        docker(&["update", "--restart=no", &names[0], &names[1]])?;
        let first = [self.first(NODES[node])?, self.first(DATABASES[node])?];
        first.iter().for_each(world::kill);
        Ok(())
    }

    /// Starts both again, as a host does at boot.
    fn boot(&self, node: usize) -> Outcome<()> {
        let names = Self::host(node).map(|service| self.container(service));
        docker(&["update", "--restart=always", &names[0], &names[1]])?;
        docker(&["start", &names[1], &names[0]]).map(|_| ())
    }

    /// Lets everything vanish that both containers of a node send to others or get from them.
    fn cut(&self, node: usize) -> Outcome<()> {
        let [agent, database] = Self::host(node);
        for (here, sibling) in [(agent, database), (database, agent)] {
            let at = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
            let at = docker(&["inspect", "--format", at, &self.container(sibling)])?;
            let at = at.trim();
            let rules = format!(
                "*filter\n-A INPUT -i eth0 ! -s {at} -j DROP\n-A OUTPUT -o eth0 ! -d {at} -j DROP\nCOMMIT\n"
            );
            world::filter(inside(&self.first(here)?, "iptables-restore"), &rules)?;
        }
        Ok(())
    }

    /// Undoes [`Containers::cut`].
    fn heal(&self, node: usize) -> Outcome<()> {
        for service in Self::host(node) {
            exec::output(inside(&self.first(service)?, "iptables").arg("--flush"), LIMIT)?;
        }
        Ok(())
    }
}

impl Subject for Containers {
    fn names(&self) -> Vec<&str> {
        NODES.to_vec()
    }

    fn status(&self) -> Outcome<Status> {
        let endpoints: Vec<String> =
            self.grpc.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Status::ask(Command::new(&self.haclt), &endpoints.join(","))
    }

    fn check(&self) -> Outcome<()> {
        Ok(())
    }

    /// On the machine itself, at the published ports: they are the same after every restart.
    fn application(&self) -> Outcome<Clients<Vec<Target>>> {
        let targets =
            self.postgres.into_iter().enumerate().map(|(node, port)| {
                self.target(node, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            });
        Ok((PathBuf::from("/proc/self/ns/net"), targets.collect::<Outcome<_>>()?))
    }

    /// In the network of the database's container as it is now; one that is started again has another.
    fn pinned(&self, node: usize) -> Outcome<Clients<Target>> {
        let first = self.first(DATABASES[node])?;
        let network = PathBuf::from(format!("/proc/{}/ns/net", first.pid));
        Ok((network, self.target(node, SocketAddr::from((Ipv4Addr::LOCALHOST, 5432)))?))
    }

    fn starts(&self, node: usize) -> u32 {
        let asked = ["inspect", "--format", "{{.RestartCount}}", &self.container(NODES[node])];
        docker(&asked).ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    fn daemons(&self) -> Outcome<Vec<(String, Process)>> {
        let services = NODES.iter().chain(&DATABASES);
        services
            .map(|service| {
                let node = service.split('-').next().unwrap_or(service);
                Ok((node.to_owned(), self.first(service)?))
            })
            .collect()
    }

    fn inject(&mut self, fault: Fault, node: usize) -> Outcome<()> {
        match fault {
            Fault::Postmaster => world::kill(&self.postmaster(node)?),
            Fault::Node => self.kill(node)?,
            Fault::AgentKill => world::kill(&self.first(NODES[node])?),
            Fault::AgentStop => self.first(NODES[node])?.signal(Signal::STOP),
            Fault::Network => self.cut(node)?,
        }
        Ok(())
    }

    fn end(&mut self, fault: Fault, node: usize) -> Outcome<()> {
        match fault {
            // The restart policy does.
            Fault::Postmaster | Fault::AgentKill => {}
            Fault::Node => self.boot(node)?,
            Fault::AgentStop => self.first(NODES[node])?.signal(Signal::CONT),
            Fault::Network => self.heal(node)?,
        }
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.remove(&self.project);
    }
}

fn docker(arguments: &[&str]) -> Outcome<String> {
    exec::output(Command::new("docker").args(arguments).process_group(0), LIMIT)
}

/// Returns a program that runs in a container's network, with the machine's files.
fn inside(first: &Process, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", first.pid)).arg(program);
    command
}

/// Compose v2 is a plugin of `docker`, 1.29 a program of its own.
fn compose_program() -> Outcome<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    if docker(&["compose", "version"]).is_ok() {
        return Ok(words(&["docker", "compose"]));
    }
    exec::in_path("docker-compose").then(|| words(&["docker-compose"])).ok_or_else(|| {
        Failure::new("Compose is not installed").hint("Debian: apt-get install docker-compose.")
    })
}

/// Returns ports that nobody has now, and that the kernel gives to no outgoing connection.
fn free_ports() -> Outcome<[u16; 5]> {
    let mut held = Vec::new();
    let mut port = std::process::id() % 8_000;
    for _ in 0..8_000 {
        port = (port + 1) % 8_000;
        let number = u16::try_from(port + 22_000).unwrap_or(u16::MAX);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, number)) {
            held.push((listener, number));
        }
        if let [a, b, c, d, e] = held.as_slice() {
            return Ok([a.1, b.1, c.1, d.1, e.1]);
        }
    }
    Err(Failure::new("there are no five free ports from 22000 to 29999"))
}

fn deploy() -> PathBuf {
    paths::workspace().join("deploy")
}

/// Returns where agents and guards of a project talk.
fn permits(project: &str) -> PathBuf {
    Path::new("/run").join(project)
}

/// Returns which process made a project of this name.
fn maker(project: &str) -> Option<i32> {
    project.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_projects_of_a_bench_tell_their_maker() {
        assert_eq!(maker("haclt-bench-17"), Some(17));
        assert_eq!(maker("haclt-bench-17-hub"), None);
        assert_eq!(maker("haclt"), None);
    }

    #[test]
    fn five_free_ports_are_five() {
        let ports = free_ports().unwrap();
        assert_eq!(ports.into_iter().collect::<BTreeSet<_>>().len(), 5);
    }
}
