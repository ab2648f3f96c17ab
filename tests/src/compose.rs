//! A cluster in containers, made with `deploy/compose.yaml` as users have it, and the Docker commands
//! that people and machines do to it.

pub mod fixed;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ha_proto::v1::StatusReply;

use crate::engine::Engine;
use crate::mount::SmallDisk;
use crate::programs::{self, said};
use crate::wait::{eventually, within};
use crate::writer::{Acks, Place, Writer};
use crate::{node, status};

/// The containers: agents, then databases.
pub const SERVICES: [&str; 5] = ["n1", "n2", "n3", "n1-postgres", "n2-postgres"];
/// Where what agents and guards say to each other lies, and further files of Compose.
const FILES: &str = "/run";
const PREFIX: &str = "haclt-test-";
/// How long one Docker command may take on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What a story did to clients.
#[derive(Debug, Clone)]
pub struct Told {
    /// Acknowledged writes.
    pub acked: usize,
    /// The longest time between two of them.
    pub gap: Duration,
}

/// The cluster. Dropping it removes its containers, networks and volumes.
#[derive(Debug)]
pub struct Compose {
    project: String,
    major: u32,
    ports: Ports,
    image: String,
    permits: PathBuf,
    password: String,
    written: i64,
    story: Vec<String>,
    began: Instant,
    /// The engine, if it is not the machine's: whoever ends it for a while holds the lock.
    engine: Option<Arc<Mutex<Engine>>>,
    /// Where that one answers.
    socket: Option<PathBuf>,
    /// Further files of Compose, on top of the first.
    besides: Vec<PathBuf>,
    /// Environment that those need.
    further: Vec<(String, String)>,
    /// Addresses of the containers, if clients are not to go through the engine.
    addresses: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    postgres: [u16; 2],
    grpc: [u16; 3],
}

impl Ports {
    /// Ports that nobody has now, and that the kernel gives to no outgoing connection.
    fn free() -> Self {
        let mut found = (0..).map(|step| {
            let number = std::process::id().wrapping_mul(41).wrapping_add(step) % 8_000;
            22_000 + u16::try_from(number).expect("below 8,000")
        });
        let mut held = Vec::new();
        let mut port = || loop {
            let port = found.next().expect("an endless row");
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                held.push(listener);
                return port;
            }
        };
        Self { postgres: [port(), port()], grpc: [port(), port(), port()] }
    }
}

/// Returns whether an engine and Compose are there; says so loudly if not.
pub fn is_there() -> bool {
    let there = is_found();
    if !there {
        let mut err = std::io::stderr().lock();
        writeln!(err, "SKIPPED: no Docker engine, or no docker-compose").expect("standard error");
    }
    there
}

/// Returns whether an engine and Compose are there.
pub fn is_found() -> bool {
    let runs = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    };
    runs("docker", &["version"]) && runs("docker-compose", &["version"])
}

impl Compose {
    /// Makes the image of the agent of a major version, on the machine's engine or another; nothing is
    /// started yet.
    pub fn prepare(major: u32, engine: Option<Engine>) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let project = format!("{PREFIX}{}-{number}", std::process::id());
        let image = format!("postgres:{major}");
        let agent = agent_image(major);
        if let Some(engine) = &engine {
            engine.load(&[&image, &agent]);
        }
        Self {
            permits: Path::new(FILES).join(&project),
            project,
            major,
            ports: Ports::free(),
            image,
            password: String::new(),
            written: 0,
            story: Vec::new(),
            began: Instant::now(),
            socket: engine.as_ref().map(Engine::socket),
            engine: engine.map(|engine| Arc::new(Mutex::new(engine))),
            besides: Vec::new(),
            further: Vec::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// From now on clients go to the containers' own addresses: ports are published by the engine, and
    /// are gone with it.
    pub fn go_past_the_engine(&mut self) {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        for service in SERVICES {
            let address = self.docker(&["inspect", "--format", format, &self.container(service)]);
            self.addresses.insert(service.to_owned(), address.trim().to_owned());
        }
    }

    /// Gives volumes small disks of their own, before the first start.
    pub fn small(&mut self, volumes: &[&str], mib: u32) -> Vec<SmallDisk> {
        let beside = |name: &str| self.beside(name);
        let (mut disks, mut text) = (Vec::new(), "volumes:\n".to_owned());
        for volume in volumes {
            let path = beside(volume);
            disks.push(SmallDisk::mount(&path, mib));
            let options = format!("{{type: none, o: bind, device: \"{}\"}}", path.display());
            writeln!(text, "  {volume}: {{driver_opts: {options}}}").expect("a text");
        }
        self.add_file("disks.yaml", &text);
        disks
    }

    fn beside(&self, name: &str) -> PathBuf {
        Path::new(FILES).join(format!("{}-{name}", self.project))
    }

    /// Puts a file of Compose on top that is only this cluster's.
    pub fn add_file(&mut self, name: &str, text: &str) {
        let file = self.beside(name);
        std::fs::write(&file, text).expect("a file of ours");
        self.besides.push(file);
    }

    /// Puts another of the repository's Compose files on top, with the environment that it needs.
    pub fn put_on_top(&mut self, file: &str, environment: &[(&str, &str)]) {
        self.besides.push(deploy().join(file));
        let owned = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        self.further.extend(owned);
    }

    /// Starts it, and waits until it is healthy.
    pub async fn start(&mut self) {
        self.compose(&["up", "--detach"]);
        self.healthy(within(120)).await;
        self.say("healthy");
        let password = self.exec("n1", &["cat", "/etc/haclt/secrets/superuser"]);
        password.trim().clone_into(&mut self.password);
    }

    /// Starts it for the first time, with a table to write to.
    #[must_use]
    pub async fn begin(mut self) -> Self {
        self.start().await;
        let made = "create table writes (value bigint primary key, node text)";
        let primary = self.primary().await;
        self.sql(&primary, made).await.expect("a primary");
        self
    }

    /// Returns the engine that is not the machine's.
    pub fn engine(&mut self) -> MutexGuard<'_, Engine> {
        let engine = self.engine.as_ref().expect("a cluster on an engine of its own");
        engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the same, for somebody who ends it while others go on.
    pub fn shared_engine(&self) -> Arc<Mutex<Engine>> {
        Arc::clone(self.engine.as_ref().expect("a cluster on an engine of its own"))
    }

    /// Returns docker, bound to the cluster's engine.
    pub fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments);
        if let Some(socket) = &self.socket {
            command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        }
        command
    }

    /// Runs docker on the cluster's engine, whatever comes of it.
    pub fn docker_output(&self, arguments: &[&str]) -> Output {
        bounded(&mut self.docker_command(arguments))
    }

    /// Runs docker on the cluster's engine; panics if it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        succeeded(&mut self.docker_command(arguments))
    }

    /// Returns the name of a container: `n1` is an agent's, `n1-postgres` a database's.
    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}", self.project)
    }

    /// Returns the name of a volume.
    pub fn volume(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// Returns the directory that an agent and its guard share.
    pub fn permit_dir(&self, node: &str) -> PathBuf {
        self.permits.join(format!("{}-{node}", self.project))
    }

    /// Returns the name of the network.
    pub fn network(&self) -> String {
        format!("{}_cluster", self.project)
    }

    /// Uses another image for databases from the next `up` on.
    pub fn use_image(&mut self, image: &str) {
        image.clone_into(&mut self.image);
    }

    /// Runs docker-compose on the project; panics if it fails.
    pub fn compose(&self, arguments: &[&str]) -> String {
        let output = self.compose_output(arguments);
        assert!(output.status.success(), "docker-compose {arguments:?}: {}", said(&output));
        said(&output)
    }

    /// The same, whatever comes of it.
    pub fn compose_output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker-compose");
        command.arg("--file").arg(deploy().join("compose.yaml"));
        for file in &self.besides {
            command.arg("--file").arg(file);
        }
        command.args(arguments).envs(self.further.iter().cloned());
        let [n1, n2] = self.ports.postgres;
        let [g1, g2, g3] = self.ports.grpc;
        command
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("HACLT_CLUSTER", "orders")
            .env("HACLT_POSTGRES_IMAGE", &self.image)
            .env("HACLT_AGENT_IMAGE", agent_tag(self.major))
            .env("HACLT_RUN", &self.permits)
            .env("HACLT_N1_POSTGRES_PORT", n1.to_string())
            .env("HACLT_N2_POSTGRES_PORT", n2.to_string())
            .env("HACLT_N1_GRPC_PORT", g1.to_string())
            .env("HACLT_N2_GRPC_PORT", g2.to_string())
            .env("HACLT_N3_GRPC_PORT", g3.to_string());
        if let Some(socket) = &self.socket {
            command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
            command.env("HACLT_DOCKER_SOCKET", socket);
        }
        if self.major >= 18 {
            command.env("HACLT_IMAGE_VOLUME", "/var/lib/postgresql");
        }
        bounded(&mut command)
    }

    /// Runs a program in a service's container and returns what it wrote.
    pub fn exec(&self, service: &str, command: &[&str]) -> String {
        self.docker(&[&["exec", &self.container(service)], command].concat())
    }

    /// Returns where each agent answers.
    pub fn grpc(&self) -> impl Iterator<Item = String> {
        ["n1", "n2", "n3"].into_iter().zip(self.ports.grpc).map(|(node, port)| {
            let direct = self.addresses.get(node).map(|address| format!("{address}:7400"));
            direct.unwrap_or_else(|| format!("127.0.0.1:{port}"))
        })
    }

    /// Asks every agent in turn until one gives a status that is wanted.
    pub async fn await_status(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&StatusReply) -> bool,
    ) -> StatusReply {
        let mut last = "nobody answered".to_owned();
        let began = Instant::now();
        while began.elapsed() < limit {
            for grpc in self.grpc() {
                match status::status(&grpc).await {
                    Some(status) if wanted(&status) => return status,
                    Some(status) => last = status::brief(&status),
                    None => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("still not after {limit:?}: {what}; the last status was {last}");
    }

    /// Waits until the cluster is healthy.
    pub async fn healthy(&self, limit: Duration) -> StatusReply {
        self.await_status("the cluster is healthy", limit, |s| s.state == "healthy").await
    }

    /// Returns the node that holds the lease, once the cluster is healthy.
    pub async fn primary(&self) -> String {
        status::holder(&self.healthy(within(90)).await).to_owned()
    }

    /// Returns the data node that does not hold it.
    pub async fn standby(&self) -> String {
        if self.primary().await == "n1" { "n2".to_owned() } else { "n1".to_owned() }
    }

    fn place(&self, node: &str) -> Place {
        let port = self.ports.postgres[usize::from(node == "n2")];
        let direct = self.addresses.get(&format!("{node}-postgres"));
        let direct = direct.map(|address| format!("{address}:5432"));
        Place {
            node: node.to_owned(),
            address: direct.unwrap_or_else(|| format!("127.0.0.1:{port}")),
            password: self.password.clone(),
            password_file: None,
        }
    }

    /// Runs one statement in a new session and returns its first value as text.
    ///
    /// # Errors
    /// What the server or the network says, or that it took too long.
    pub async fn sql(&self, node: &str, statement: &str) -> Result<String, String> {
        let run = async {
            let place = self.place(node);
            let session = session(&place).await.map_err(|error| node::said(&error))?;
            node::first_value(&session, statement).await
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    /// Opens a session that is held while something happens to its server.
    pub async fn session(&self, node: &str) -> tokio_postgres::Client {
        session(&self.place(node)).await.expect("the node lets us in")
    }

    /// Begins to write to both data nodes, and waits until one acknowledges.
    pub async fn write(&mut self) -> Writer {
        let places = [self.place("n1"), self.place("n2")];
        let writer = Writer::at(&places, PATIENCE, self.written);
        self.more(&writer, 20, within(60)).await;
        writer
    }

    /// Waits for further acknowledged writes.
    pub async fn more(&self, writer: &Writer, count: usize, limit: Duration) {
        let enough = writer.count() + count;
        eventually("further writes are acknowledged", limit, async || {
            (writer.count() >= enough).then_some(())
        })
        .await;
    }

    /// Waits until a node acknowledges a write that was sent from now on.
    pub async fn writes_on(&self, writer: &Writer, node: &str, limit: Duration) {
        let before = Instant::now();
        eventually(&format!("{node} acknowledges writes"), limit, async || {
            let acks = writer.so_far();
            acks.0.iter().any(|ack| ack.node == node && ack.sent > before).then_some(())
        })
        .await;
    }

    /// Ends a story: the cluster is well again, nothing acknowledged is lost, and no two nodes
    /// acknowledged at once.
    pub async fn told(&mut self, what: &str, writer: Writer) -> Told {
        self.healthy(within(120)).await;
        self.more(&writer, 20, within(30)).await;
        let acks = writer.stop().await;
        acks.assert_no_write_after_the_next_primary();
        let primary = self.primary().await;
        let present = self.rows(&primary).await;
        let missing = acks.missing(&present);
        assert!(missing.is_empty(), "{what}: {} acknowledged rows are lost", missing.len());
        self.written = present.last().copied().unwrap_or(0).max(self.written) + 1000;
        let told = Told { acked: acks.0.len(), gap: acks.longest_gap() };
        self.say(&row(what, &told, &acks));
        told
    }

    /// Returns the values that a node's table has.
    pub async fn rows(&self, node: &str) -> BTreeSet<i64> {
        let session = self.session(node).await;
        let rows = session.query("select value from writes", &[]).await.expect("a readable table");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Returns what a container's process 1 wrote.
    pub fn log(&self, service: &str) -> String {
        said(&bounded(&mut self.docker_command(&["logs", &self.container(service)])))
    }

    /// Adds to what the test prints in the end.
    pub fn say(&mut self, text: &str) {
        self.story.push(format!("{:>6.1} s  {text}", self.began.elapsed().as_secs_f64()));
    }

    fn show(&self) {
        let mut err = std::io::stderr().lock();
        // If standard error is closed there is nobody to tell.
        drop(writeln!(err, "{}", self.story.join("\n")));
        if !std::thread::panicking() {
            return;
        }
        for service in SERVICES {
            let log = self.log(service);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
            drop(writeln!(err, "--- {service}\n{}", tail.join("\n")));
        }
        let all = ["ps", "--all", "--filter", &format!("name={}", self.project)];
        let listed = bounded(&mut self.docker_command(&all));
        drop(writeln!(err, "{}", said(&listed)));
        if let Some(engine) = &self.engine {
            let engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
            drop(writeln!(err, "--- engine\n{}", engine.log()));
        }
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if self.engine.is_some() {
            self.engine().run();
        }
        self.show();
        // An engine of our own takes everything with it.
        if self.engine.take().is_none() {
            self.remove();
        }
        drop(std::fs::remove_dir_all(&self.permits));
        for file in self.besides.iter().filter(|file| file.starts_with(FILES)) {
            drop(std::fs::remove_file(file));
        }
    }
}

impl Compose {
    /// Removes what the machine's engine has of us.
    fn remove(&self) {
        // Paused containers cannot be stopped, and tools are no service's.
        let volumes = ["n1", "n2"].map(|node| self.volume(&format!("{node}-postgres")));
        let named = format!("name={}", self.project);
        for ours in [named].into_iter().chain(volumes.map(|volume| format!("volume={volume}"))) {
            let listed = bounded(&mut self.docker_command(&["ps", "-aq", "--filter", &ours]));
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            for id in listed.split_whitespace() {
                drop(bounded(&mut self.docker_command(&["rm", "--force", "--volumes", id])));
            }
        }
        drop(self.compose_output(&["down", "--volumes", "--remove-orphans"]));
    }
}

fn row(what: &str, told: &Told, acks: &Acks) -> String {
    let nodes: BTreeSet<&str> = acks.0.iter().map(|ack| ack.node.as_str()).collect();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let by = nodes.join(" and ");
    format!("{what}: {} acknowledged by {by}, 0 lost, gap {} ms", told.acked, told.gap.as_millis())
}

async fn session(place: &Place) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (host, port) = place.address.rsplit_once(':').expect("host and port");
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port.parse().expect("a port")).user("postgres");
    config.password(&place.password).dbname("postgres").connect_timeout(Duration::from_secs(2));
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs docker on the machine's engine; panics if it fails.
pub fn docker(arguments: &[&str]) -> String {
    succeeded(Command::new("docker").args(arguments))
}

fn succeeded(command: &mut Command) -> String {
    let output = bounded(command);
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Ends the pause of a container, unless its agent has: a guard that is frozen guards nothing, so its
/// container is killed and started again.
pub fn unpause(container: &str) {
    let output = bounded(Command::new("docker").args(["unpause", container]));
    let text = said(&output);
    assert!(output.status.success() || text.contains("is not paused"), "{text}");
}

/// Removes what clusters of a process that was killed have in memory; its engine is gone.
pub(crate) fn clear_files_of(pid: &str) {
    let ours = format!("{PREFIX}{pid}-");
    for entry in std::fs::read_dir(FILES).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&ours) {
            // What cannot be removed is in the way of nobody: names have the process's id.
            drop(std::fs::remove_file(entry.path()));
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Runs a command to its end, or kills it after a while.
pub fn bounded(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("it was there before");
    let pid = i32::try_from(child.id()).expect("a process id");
    let (done, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(COMMAND_LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            crate::processes::send(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().expect("our own child");
    drop(done);
    output
}

fn deploy() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    here.canonicalize().expect("the repository has it")
}

/// Returns the tag of the agent's image: of this checkout, as other ones may be under test besides.
fn agent_tag(major: u32) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    programs::target_dir().hash(&mut hasher);
    format!("haclt/agent:under-test-{:08x}-pg{major}", hasher.finish() >> 32)
}

/// Makes the image of the agent of the programs under test, unless it is there: what users get, but for
/// the optimisation. A stand-in for the database's image is made first where that cannot be pulled.
///
/// Returns its tag.
pub fn agent_image(major: u32) -> String {
    let (base, tag) = (format!("postgres:{major}"), agent_tag(major));
    let prebuilt = programs::target_dir().join("image-under-test");
    std::fs::create_dir_all(&prebuilt).expect("a directory of ours");
    let stamp = prebuilt.with_extension(major.to_string());
    // One lock for all majors: the programs are put into one directory.
    let lock = File::options().create(true).append(true).open(prebuilt.with_extension("lock"));
    let lock = lock.expect("a directory of ours");
    lock.lock().expect("a file of ours");
    let sources = [
        ("ha-agent", programs::program("ha-agent")),
        ("haclt", programs::program("haclt")),
        ("ha-guard", programs::guard()),
    ];
    let identities = sources.iter().map(|(name, path)| {
        let file = std::fs::metadata(path).expect("a program that was built");
        format!("{name} {} {:?}", file.len(), file.modified().expect("a time"))
    });
    let identity = [vec![base.clone()], identities.collect()].concat().join("\n");
    let inspected = bounded(Command::new("docker").args(["image", "inspect", &tag]));
    let made_of = std::fs::read_to_string(&stamp).unwrap_or_default();
    if inspected.status.success() && made_of == identity {
        return tag;
    }
    for (name, from) in &sources {
        let to = prebuilt.join(name);
        std::fs::copy(from, &to).expect("a program that was built");
        // Half of a debug build is for debuggers. Without it the image is only smaller.
        drop(Command::new("strip").arg("--strip-debug").arg(&to).status());
    }
    let mut build = Command::new(deploy().join("build-image.sh"));
    build.arg(major.to_string()).env("HACLT_PREBUILT", "image-under-test");
    build.env("HACLT_AGENT_IMAGE", &tag).env("HACLT_POSTGRES_IMAGE", base);
    let built = build.stdin(Stdio::null()).output().expect("the repository's script");
    assert!(built.status.success(), "{}", said(&built));
    std::fs::write(stamp, identity).expect("a directory of ours");
    tag
}
