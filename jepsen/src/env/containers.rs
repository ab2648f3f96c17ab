//! The cluster in containers, as `deploy/compose.yaml` makes them, on a Docker engine of the run's own.
//!
//! The engine is in a network of its own, and so are the clients. Containers keep their addresses, so that clients
//! can be held to one server, and go past the ports that the engine publishes: those are gone with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ha_tests::compose::{self, Compose, SERVICES};
use ha_tests::engine::{self, Engine};
use ha_tests::processes::{self, Process};
use ha_tests::programs::said;
use ha_tests::{node, status};
use tokio_postgres::{Client, NoTls};

use super::busy::Busy;
use super::place::{self, Role};
use super::resolver::Resolver;
use super::{Database, Durability};
use crate::harness::{Harness, Trying as _};
use crate::nemesis::Outcome;

/// The major version of PostgreSQL, as `deploy/compose.yaml` has it.
const MAJOR: u32 = 17;
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const GRPC_PORT: u16 = 7400;
const POSTGRES_PORT: u16 = 5432;
/// The label of a container that runs one of PostgreSQL's programs for an agent.
const TOOL_LABEL: &str = "org.haclt.tool";
/// The label with the node that it is for.
const NODE_LABEL: &str = "org.haclt.node";
/// How often it is looked for an agent that is not known to run.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often an agent that does not run is started, in the end.
const START_EVERY: Duration = Duration::from_secs(3);
/// What an engine says that did nothing, because what was asked of it does not fit.
const REFUSALS: [&str; 9] = [
    "is not running",
    "is not paused",
    "is already paused",
    "is paused",
    "is restarting",
    "is not connected to",
    "already exists in network",
    "No such container",
    "no such container",
];
/// What is taken by whoever ends the engine.
pub const ENGINE: &str = "engine";

/// Two data nodes and a witness. They are gone once this is dropped, and so is their engine.
#[derive(Debug)]
pub struct Containers {
    compose: Compose,
    _resolver: Option<Resolver>,
    live_restore: bool,
    /// The containers' full ids.
    ids: BTreeMap<String, String>,
    /// The processes of agents that have no reason to end.
    agents: BTreeMap<String, i32>,
    looked: Instant,
    started: Instant,
    secrets: PathBuf,
    /// Held by everybody who runs docker beside everything else.
    commands: Arc<()>,
}

/// Says what is missing to make containers; nothing if all is there.
pub fn missing() -> Option<&'static str> {
    if !engine::is_possible() {
        return Some("an engine of a run's own needs root, dockerd and ip");
    }
    (!compose::is_found()).then_some("no Docker engine answers, or docker-compose is not installed")
}

/// Returns whether a node has a database.
pub fn has_database(name: &str) -> bool {
    SERVICES.contains(&database_of(name).as_str())
}

/// Returns the container of a node's database.
pub fn database_of(name: &str) -> String {
    format!("{name}-postgres")
}

/// Returns the containers of a node: the database's first.
pub fn services_of(name: &str) -> Vec<String> {
    let mut all = vec![database_of(name), name.to_owned()];
    all.retain(|service| SERVICES.contains(&service.as_str()));
    all
}

/// Returns the name by which somebody has a container to himself.
pub fn busy_name(service: &str) -> String {
    format!("container {service}")
}

/// Returns what became of a docker command.
pub fn outcome(told: &str, output: &Output) -> Outcome {
    let text = said(output).trim().replace('\n', "; ");
    if output.status.success() {
        return Outcome::Installed(told.to_owned());
    }
    let told = format!("{told}: {text}");
    if !output.stdout.is_empty() {
        // One of several that did not fit does not undo the others.
        Outcome::Installed(told)
    } else if REFUSALS.iter().any(|refusal| text.contains(refusal)) {
        Outcome::Skipped(told)
    } else {
        Outcome::Indeterminate(told)
    }
}

/// Returns settings that are not the defaults of `deploy/compose.yaml`, as a further file of Compose.
fn settings(durability: Durability, bare_witness: bool) -> String {
    let of = |node: &str| {
        let mut environment = vec![format!("HA_DURABILITY_MODE: {}", durability.mode().name())];
        if bare_witness && !has_database(node) {
            environment.push("HA_WITNESS_BIN_DIR: /var/empty".to_owned());
        }
        format!("  {node}: {{environment: {{{}}}}}\n", environment.join(", "))
    };
    format!("services:\n{}", NODES.map(of).concat())
}

impl Containers {
    /// Makes the images; nothing is started.
    pub fn prepare(
        (engine, resolver): (Engine, Option<Resolver>),
        durability: Durability,
        bare_witness: bool,
    ) -> Self {
        let live_restore = engine.restores_live();
        let mut compose = Compose::prepare(MAJOR, Some(engine));
        compose.fix_addresses();
        if durability != Durability::Quorum || bare_witness {
            compose.add_file("settings.yaml", &settings(durability, bare_witness));
        }
        let now = Instant::now();
        Self {
            compose,
            _resolver: resolver,
            live_restore,
            ids: BTreeMap::new(),
            agents: BTreeMap::new(),
            looked: now,
            started: now,
            secrets: PathBuf::new(),
            commands: Arc::new(()),
        }
    }

    /// Starts everything, and returns the primary once the cluster is well.
    pub async fn begin(&mut self, bare_witness: bool) -> String {
        self.compose.compose(&["up", "--detach"]);
        let limit = ha_tests::within(120);
        // One whose witness keeps no WAL calls itself degraded for that.
        let well = |s: &ha_proto::v1::StatusReply| {
            s.state == "healthy" || (bare_witness && status::all_follow(s))
        };
        let status = self.compose.await_status("the cluster is well", limit, well).await;
        for service in SERVICES {
            let format = ["inspect", "--format", "{{.Id}}", &self.compose.container(service)];
            let id = self.compose.docker(&format).trim().to_owned();
            self.ids.insert(service.to_owned(), id);
        }
        self.secrets = self.volume("secrets");
        self.find_agents(&Busy::default());
        status::holder(&status).to_owned()
    }

    /// Returns where a volume lies.
    fn volume(&self, name: &str) -> PathBuf {
        let volume = self.compose.volume(name);
        let at =
            self.compose.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]);
        PathBuf::from(at.trim())
    }

    /// Returns the names of all nodes.
    pub fn names(&self) -> Vec<String> {
        NODES.map(str::to_owned).into()
    }

    /// Returns the addresses of all agents.
    pub fn agents(&self) -> Vec<String> {
        let at = |node| format!("{}:{GRPC_PORT}", self.compose.fixed_address(node));
        NODES.map(at).into()
    }

    /// Returns the databases.
    pub fn databases(&self) -> Vec<Database> {
        let nodes = NODES.into_iter().filter(|node| has_database(node));
        let database = |node: &str| Database {
            node: node.to_owned(),
            host: self.compose.fixed_address(&database_of(node)),
            port: POSTGRES_PORT,
        };
        nodes.map(database).collect()
    }

    /// Returns the directory that a node's agent and guard share.
    pub fn permit_dir(&self, name: &str) -> PathBuf {
        self.compose.permit_dir(name)
    }

    /// Returns the file with the superuser's password.
    pub fn superuser_file(&self) -> PathBuf {
        self.secrets.join("superuser")
    }

    /// Opens a session of the superuser to a node's database.
    ///
    /// # Errors
    /// What the server or the network says.
    pub async fn session(&self, name: &str) -> Result<Client, Harness> {
        let mut config = tokio_postgres::Config::new();
        config.host(self.compose.fixed_address(&database_of(name))).port(POSTGRES_PORT);
        config.user("postgres").password(node::superuser_password(&self.superuser_file()));
        config.dbname("postgres").connect_timeout(Duration::from_secs(2));
        let opened = config.connect(NoTls).await.trying(|| "open a session".to_owned())?;
        tokio::spawn(opened.1);
        Ok(opened.0)
    }

    /// Returns every living process of ours in a container.
    fn processes(&self, service: &str) -> Vec<Process> {
        self.ids.get(service).map(|id| processes::of_container(id)).unwrap_or_default()
    }

    /// Returns every living process in the container of a node's database.
    pub fn database_processes(&self, name: &str) -> Vec<Process> {
        self.processes(&database_of(name))
    }

    /// Returns a process of a node, as the host sees it.
    pub fn process(&self, name: &str, role: Role) -> Option<i32> {
        let service = match role {
            Role::Agent => name.to_owned(),
            Role::Receiver if !has_database(name) => name.to_owned(),
            Role::Guard | Role::Postmaster | Role::Receiver => database_of(name),
        };
        let all = self.processes(&service);
        let guard = |process: &&Process| process.program == "ha-guard";
        let found = match role {
            Role::Agent => all.iter().find(|process| process.program == "ha-agent"),
            Role::Guard => all.iter().find(guard),
            Role::Postmaster => {
                let guard = all.iter().find(guard).map(|process| process.pid);
                let child = |process: &&Process| processes::parent(process.pid) == guard;
                all.iter().filter(|process| process.program == "postgres").find(child)
            }
            Role::Receiver => all.iter().find(|process| {
                process.program == "pg_receivewal" || process.command.contains("walreceiver")
            }),
        };
        found.map(|process| process.pid)
    }

    /// Returns whether the engine is there. It is not while somebody has it to end it.
    pub fn engine_is_there(&self) -> bool {
        self.compose.shared_engine().try_lock().is_ok()
    }

    /// Returns the engine, for somebody who ends it while others go on.
    pub fn engine(&self) -> Arc<Mutex<Engine>> {
        self.compose.shared_engine()
    }

    /// Returns whether containers live on while the engine is away.
    pub const fn live_restore(&self) -> bool {
        self.live_restore
    }

    /// Returns docker with arguments, for somebody who runs it beside everything else, and what he has to hold
    /// while he does.
    pub fn beside(&self, arguments: &[&str]) -> (Command, Arc<()>) {
        (self.compose.docker_command(arguments), Arc::clone(&self.commands))
    }

    /// Returns whether docker runs beside.
    pub fn is_ordered(&self) -> bool {
        Arc::strong_count(&self.commands) > 1
    }

    /// Returns the name of a service's container.
    pub fn container(&self, service: &str) -> String {
        self.compose.container(service)
    }

    /// Runs docker with some words, and then the containers of services.
    pub fn order(&self, words: &[&str], services: &[String]) -> Outcome {
        let names: Vec<String> = services.iter().map(|s| self.named(s)).collect();
        let all = [words, &names.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        let told = format!("docker {} {}", words.join(" "), services.join(" "));
        if self.engine_is_there() {
            outcome(&told, &self.compose.docker_output(&all))
        } else {
            Outcome::Skipped(format!("{told}: the engine is away"))
        }
    }

    /// Containers of tools have no service.
    fn named(&self, service: &str) -> String {
        if SERVICES.contains(&service) { self.container(service) } else { service.to_owned() }
    }

    /// Returns the containers of a node, with those of its tools that run just now.
    pub fn all_of(&self, name: &str) -> Vec<String> {
        let (tool, node) = (format!("label={TOOL_LABEL}"), format!("label={NODE_LABEL}={name}"));
        let mut all = services_of(name);
        if self.engine_is_there() {
            let listed =
                self.compose.docker_output(&["ps", "-q", "--filter", &tool, "--filter", &node]);
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            all.extend(listed.split_whitespace().map(str::to_owned));
        }
        all
    }

    /// Has an agent end without being counted as one that ended by itself.
    pub fn let_go(&mut self, service: &str) {
        self.agents.remove(service);
    }

    /// Starts a container that the suite ended.
    pub fn start(&mut self, service: &str) -> Outcome {
        self.order(&["start"], &[service.to_owned()])
    }

    /// Ends the pause of all containers of a node: sessions first, who would end them last.
    pub fn unpause_node(&mut self, name: &str) -> Outcome {
        let told: Vec<Outcome> =
            self.all_of(name).iter().map(|service| self.unpause(service)).collect();
        let told: Vec<&str> = told.iter().map(Outcome::detail).collect();
        Outcome::Installed(told.join("; "))
    }

    /// Ends the pause of a container. Its agent may have done so: one whose guard is frozen is killed and started.
    pub fn unpause(&self, service: &str) -> Outcome {
        match self.order(&["unpause"], &[service.to_owned()]) {
            Outcome::Skipped(text) => Outcome::Installed(text),
            other => other,
        }
    }

    /// Takes the containers of a node off the network.
    pub fn disconnect(&self, name: &str) -> Outcome {
        let network = self.compose.network();
        let cut = |service: String| self.order(&["network", "disconnect", &network], &[service]);
        together(&services_of(name).into_iter().map(cut).collect::<Vec<_>>())
    }

    /// Puts the containers of a node on the network again, where they were.
    pub fn connect(&self, name: &str) -> Outcome {
        let network = self.compose.network();
        let join = |service: String| {
            let address = self.compose.fixed_address(&service);
            let words =
                ["network", "connect", "--ip", &address, "--alias", &service, network.as_str()];
            self.order(&words, std::slice::from_ref(&service))
        };
        together(&services_of(name).into_iter().map(join).collect::<Vec<_>>())
    }

    /// Returns the agents that ended although nobody ended them. Docker starts them again, by their policy.
    pub fn look_after_agents(&mut self, busy: &Busy) -> Vec<String> {
        let gone = self.agents.iter().filter(|(_, pid)| !processes::is_alive(**pid));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.agents.remove(name);
        }
        if self.looked.elapsed() > LOOK_EVERY {
            self.find_agents(busy);
        }
        gone
    }

    /// Looks for agents that are not known to run, unless somebody is about to end them.
    fn find_agents(&mut self, busy: &Busy) {
        self.looked = Instant::now();
        if !self.live_restore && busy.has(ENGINE) {
            return;
        }
        for name in NODES {
            if self.agents.contains_key(name) || busy.has(&busy_name(name)) {
                continue;
            }
            if let Some(pid) = self.process(name, Role::Agent) {
                self.agents.insert(name.to_owned(), pid);
            }
        }
    }

    /// Starts the engine, has everything go on that stands still, and joins what was cut off.
    ///
    /// # Errors
    /// If the engine refuses, with what it says.
    pub fn put_right(&mut self) -> Result<(), Harness> {
        self.compose.engine().run();
        for service in SERVICES {
            place::go_on(&self.processes(service));
        }
        for node in NODES {
            for outcome in [self.unpause_node(node), self.connect(node)] {
                if let Outcome::Indeterminate(text) = outcome {
                    return Err(Harness::new(text));
                }
            }
        }
        self.started = Instant::now().checked_sub(START_EVERY).unwrap_or(self.started);
        Ok(())
    }

    /// Starts every agent that does not run; not again and again at once.
    pub fn start_agents(&mut self) {
        if self.started.elapsed() < START_EVERY {
            return;
        }
        self.started = Instant::now();
        for name in NODES {
            if self.process(name, Role::Agent).is_none() {
                // One that cannot be started is asked for once more, and the cluster is not healthy meanwhile.
                drop(self.start(name));
            }
        }
    }

    /// Copies what containers, servers and the engine wrote.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_logs(&self, to: &Path) -> Result<(), Harness> {
        for service in SERVICES {
            let target = to.join(format!("{service}.log"));
            let text = self.compose.log(service);
            std::fs::write(&target, text).trying(|| format!("write {}", target.display()))?;
        }
        for node in NODES.into_iter().filter(|node| has_database(node)) {
            let volume = self.volume(&database_of(node));
            place::copy_all(node, &volume.join("log"), to)?;
        }
        let engine = self.compose.shared_engine();
        let log = engine.lock().map(|engine| engine.log_file());
        let log = log.trying(|| "reach the engine".to_owned())?;
        let target = to.join("engine.log");
        std::fs::copy(log, target).trying(|| "copy the engine's log".to_owned())?;
        Ok(())
    }
}

/// Makes one outcome of several: what was done counts.
pub fn together(all: &[Outcome]) -> Outcome {
    let text: Vec<&str> = all.iter().map(Outcome::detail).collect();
    let text = text.join("; ");
    if all.iter().any(|outcome| matches!(outcome, Outcome::Indeterminate(_))) {
        Outcome::Indeterminate(text)
    } else if all.iter().any(|outcome| matches!(outcome, Outcome::Installed(_))) {
        Outcome::Installed(text)
    } else {
        Outcome::Skipped(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn ended(code: i32, out: &str, err: &str) -> Outcome {
        let status = ExitStatus::from_raw(code << 8);
        outcome("docker x", &Output { status, stdout: out.into(), stderr: err.into() })
    }

    #[test]
    fn what_did_not_fit_was_not_done_and_what_is_not_understood_is_not_known() {
        assert!(matches!(ended(0, "", ""), Outcome::Installed(_)));
        let refused = "Error response from daemon: Container 12 is not running";
        assert!(matches!(ended(1, "", refused), Outcome::Skipped(_)));
        // Of two containers one was killed.
        assert!(matches!(ended(1, "n1\n", refused), Outcome::Installed(_)));
        assert!(matches!(ended(1, "", "context deadline exceeded"), Outcome::Indeterminate(_)));
    }

    #[test]
    fn several_commands_are_one_fault() {
        let installed = || Outcome::Installed("a".to_owned());
        let skipped = || Outcome::Skipped("b".to_owned());
        let unsure = || Outcome::Indeterminate("c".to_owned());
        assert_eq!(together(&[installed(), skipped()]), Outcome::Installed("a; b".to_owned()));
        assert_eq!(together(&[skipped()]), skipped());
        assert!(matches!(together(&[installed(), unsure()]), Outcome::Indeterminate(_)));
    }

    #[test]
    fn a_witness_has_one_container_and_a_data_node_two() {
        assert_eq!(services_of("n1"), ["n1-postgres", "n1"]);
        assert_eq!(services_of("n3"), ["n3"]);
        assert!(has_database("n2") && !has_database("n3"));
    }

    #[test]
    fn settings_that_are_no_defaults_are_given_to_every_agent() {
        let text = settings(Durability::Async, true);
        assert!(text.contains("  n1: {environment: {HA_DURABILITY_MODE: async}}\n"), "{text}");
        assert!(text.contains("n3: {environment: {HA_DURABILITY_MODE: async, HA_WITNESS_BIN_DIR"));
    }
}
