//! One node of a cluster: its files, its processes, what can be done to them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ha_agent::crash_point::FILE_VARIABLE;
use ha_core::permit::{GuardStatus, PERMIT_FILE, Permit, STATUS_FILE};
use rustix::process::Signal;
use tokio_postgres::NoTls;

use crate::address::Host;
use crate::config::Config;
use crate::wait::eventually;
use crate::{processes, programs, status};

/// Port of an agent; each node has an address of its own.
const GRPC_PORT: u16 = 7431;
/// Port of a database.
const POSTGRES_PORT: u16 = 5431;
/// The superuser's password.
pub const SUPERUSER_PASSWORD: &str = "sup3r-Secret-of-tests";
/// The replication user's password.
pub const REPLICATION_PASSWORD: &str = "repl1cation-Secret-of-tests";

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether it has a database.
    pub is_data: bool,
    /// Its configuration; written at each start of the agent.
    pub config: Config,
    /// Where everything of it lies.
    pub dir: PathBuf,
    /// Further environment of the agent.
    pub environment: Vec<(String, String)>,
    address: String,
    enter: Vec<String>,
    permit_dir: PathBuf,
    agent: Option<Child>,
}

impl Node {
    pub(crate) fn new(
        name: &str,
        is_data: bool,
        base: &Path,
        permits: &Path,
        host: Host,
        cluster: &str,
    ) -> Self {
        let dir = base.join(name);
        let permit_dir = permits.join(name);
        let mut node = Self {
            name: name.to_owned(),
            is_data,
            config: Config::default(),
            dir,
            environment: Vec::new(),
            address: host.address,
            enter: host.enter,
            permit_dir,
            agent: None,
        };
        make_dir(&node.dir);
        let config = &mut node.config;
        config.text("cluster", cluster).text("node", name);
        config.text("kind", if is_data { "data" } else { "witness" });
        config.text("data_dir", node.dir.join("agent").display());
        config.text("listen.grpc", format!("{}:{GRPC_PORT}", node.address));
        if is_data {
            node.make_dirs();
            node.configure_postgres(base);
        }
        node
    }

    fn make_dirs(&self) {
        make_dir(&self.dir.join("pg"));
        make_dir(&self.dir.join("pg/data"));
        make_dir(&self.permit_dir);
        chown(&self.dir.join("pg"));
        chown(&self.dir.join("pg/data"));
    }

    /// Empties the directories of agent, database and guard, as a new machine has them; the logs stay.
    pub fn empty(&self) {
        assert!(self.agent.is_none(), "the agent of {} runs", self.name);
        let data_dir = PathBuf::from(self.config.get("data_dir").expect("every node has one"));
        for dir in [&data_dir, &self.dir.join("pg"), &self.permit_dir] {
            // One that was never made is as good.
            let removed = !dir.exists() || fs::remove_dir_all(dir).is_ok();
            assert!(removed, "{} cannot be removed", dir.display());
        }
        if self.is_data {
            self.make_dirs();
        }
    }

    /// Has a witness keep WAL; without `tools` it is told of a directory without any program.
    pub(crate) fn configure_witness(&mut self, base: &Path, tools: bool) {
        let empty = self.dir.join("no-programs");
        make_dir(&empty);
        let bin_dir = if tools { programs::postgres_dir() } else { empty };
        self.config.text("witness.bin_dir", bin_dir.display());
        let password = base.join("replication");
        self.config.text("witness.replication_password_file", password.display());
    }

    fn configure_postgres(&mut self, base: &Path) {
        let listen = self.postgres();
        let config = &mut self.config;
        config.text("postgres.bin_dir", programs::postgres_dir().display());
        config.text("postgres.data_dir", self.dir.join("pg/data").display());
        config.text("postgres.listen", listen);
        config.text("postgres.superuser_password_file", base.join("superuser").display());
        config.text("postgres.replication_password_file", base.join("replication").display());
        config.text("postgres.guard", programs::guard().display());
        config.text("postgres.permit_dir", self.permit_dir.display());
        config.text("postgres.log_dir", self.dir.join("log").display());
        // Many clusters on one machine: each small.
        config.text("postgres.parameters.shared_buffers", "16MB");
        config.text("postgres.parameters.max_connections", "30");
        // What a killed server leaves of it goes with the directory.
        config.text("postgres.parameters.dynamic_shared_memory_type", "mmap");
    }

    /// Returns a command that runs a program where the node is.
    pub fn command(&self, program: &Path) -> Command {
        let Some((first, others)) = self.enter.split_first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(others).arg(program);
        command
    }

    /// Returns its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns where its agent listens.
    pub fn grpc(&self) -> String {
        format!("{}:{GRPC_PORT}", self.address)
    }

    /// Returns where its database listens.
    pub fn postgres(&self) -> String {
        format!("{}:{POSTGRES_PORT}", self.address)
    }

    /// Returns its data directory.
    pub fn pgdata(&self) -> PathBuf {
        PathBuf::from(self.config.get("postgres.data_dir").expect("a data node"))
    }

    /// Returns the agent's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Returns where the agent keeps its Raft store.
    pub fn raft_dir(&self) -> PathBuf {
        PathBuf::from(self.config.get("data_dir").expect("every node has one")).join("raft")
    }

    /// Returns where a witness keeps WAL.
    pub fn wal_dir(&self) -> PathBuf {
        let data_dir = PathBuf::from(self.config.get("data_dir").expect("every node has one"));
        self.config.get("witness.wal_dir").map_or_else(|| data_dir.join("wal"), PathBuf::from)
    }

    /// Returns the file with the node's pledge.
    pub fn pledge(&self) -> PathBuf {
        PathBuf::from(self.config.get("data_dir").expect("every node has one")).join("pledge")
    }

    /// Returns the directory that agent and guard share.
    pub fn permit_dir(&self) -> &Path {
        &self.permit_dir
    }

    /// Writes the configuration file and returns where it is.
    pub fn write_config(&self) -> PathBuf {
        let path = self.dir.join("agent.toml");
        fs::write(&path, self.config.render()).expect("a writable directory");
        path
    }

    /// Starts the agent.
    pub fn start(&mut self) {
        assert!(self.agent.is_none(), "the agent of {} runs already", self.name);
        self.agent = Some(self.spawn());
    }

    /// Starts a further agent with this node's configuration; whoever called must see to its end.
    pub fn spawn(&self) -> Child {
        let config = self.write_config();
        let log = OpenOptions::new().append(true).create(true).open(self.log());
        let log = log.expect("a writable log");
        self.command(&programs::program("ha-agent"))
            .arg("--config")
            .arg(config)
            .envs(self.environment.iter().cloned())
            .env(FILE_VARIABLE, self.crash_point())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the agent can be started")
    }

    fn crash_point(&self) -> PathBuf {
        self.dir.join("crash-point")
    }

    /// Has the agent die, as by a power cut, when it next comes to a place between two steps.
    pub fn crash_at(&self, place: &str) {
        let scratch = self.dir.join("crash-point.new");
        fs::write(&scratch, place).expect("a writable directory");
        fs::rename(scratch, self.crash_point()).expect("a writable directory");
    }

    /// Waits until the agent has died at the place that it was told to die at.
    pub async fn crashed(&mut self, limit: Duration) {
        let place = fs::read_to_string(self.crash_point()).unwrap_or_default();
        let what = format!("the agent of {} comes to {place:?}", self.name);
        eventually(&what, limit, async || (!self.crash_point().exists()).then_some(())).await;
        let ended = self.agent_end(Duration::from_secs(5)).await;
        let signal = std::os::unix::process::ExitStatusExt::signal(&ended);
        assert_eq!(signal, Some(Signal::KILL.as_raw()), "it ended otherwise: {ended}");
    }

    /// Returns whether the agent runs.
    pub fn agent_runs(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|end| end.is_none()))
    }

    /// Returns the agent's process id.
    pub fn agent_pid(&self) -> i32 {
        let child = self.agent.as_ref().expect("an agent that runs");
        i32::try_from(child.id()).expect("a process id")
    }

    /// Kills the agent, nothing else.
    pub fn kill_agent(&mut self) {
        if let Some(mut child) = self.agent.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Sends a signal to the agent.
    pub fn signal_agent(&self, signal: Signal) {
        processes::send(self.agent_pid(), signal);
    }

    /// Waits for the agent to end by itself.
    pub async fn agent_end(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.agent.take().expect("an agent that was started");
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                return status;
            }
            if Instant::now() >= until {
                self.agent = Some(child);
                panic!("the agent of {} did not end within {limit:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells the agent to stop (SIGTERM) and waits for its end.
    pub async fn stop_agent(&mut self, limit: Duration) -> ExitStatus {
        self.signal_agent(Signal::TERM);
        self.agent_end(limit).await
    }

    /// Returns the file with the superuser's password; of a witness, none that is there.
    pub fn superuser_file(&self) -> PathBuf {
        let file = self.config.get("postgres.superuser_password_file");
        file.map(PathBuf::from).unwrap_or_default()
    }

    /// Returns what the guard last wrote.
    pub fn guard_status(&self) -> Option<GuardStatus> {
        let text = fs::read_to_string(self.permit_dir.join(STATUS_FILE)).ok()?;
        GuardStatus::decode(&text).ok()
    }

    /// Returns the guard's process id, if it lives.
    pub fn guard_pid(&self) -> Option<i32> {
        self.guard_status().map(|status| status.guard_pid).filter(|pid| processes::is_alive(*pid))
    }

    /// Returns the postmaster's process id, if it lives.
    pub fn postmaster(&self) -> Option<i32> {
        self.guard_status()?.postmaster.filter(|pid| processes::is_alive(*pid))
    }

    /// Returns the permit on disk.
    pub fn permit(&self) -> Option<Permit> {
        Permit::decode(&fs::read_to_string(self.permit_dir.join(PERMIT_FILE)).ok()?).ok()
    }

    /// Replaces the permit, as the agent would.
    pub fn put_permit(&self, text: &str) {
        let scratch = self.permit_dir.join("permit.test");
        fs::write(&scratch, text).expect("a writable directory");
        fs::rename(scratch, self.permit_dir.join(PERMIT_FILE)).expect("a writable directory");
    }

    /// Returns every living process of this node but the agent's.
    pub fn database_processes(&self) -> Vec<processes::Process> {
        let mut found = processes::under(&self.dir);
        found.retain(|process| process.program != "ha-agent");
        found
    }

    /// Kills everything of this node at once, as a power cut would.
    pub fn kill_everything(&mut self) {
        let mut pids: Vec<i32> = self.database_processes().iter().map(|p| p.pid).collect();
        if self.agent.is_some() {
            pids.insert(0, self.agent_pid());
        }
        for pid in pids {
            processes::send(pid, Signal::KILL);
        }
        self.kill_agent();
        // Whatever was being started in that moment.
        for _ in 0..200 {
            let left = self.database_processes();
            if left.is_empty() {
                return;
            }
            for process in left {
                processes::send(process.pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("processes of {} do not die: {:?}", self.name, self.database_processes());
    }

    /// Returns the process that receives WAL on this node: a witness's `pg_receivewal`, a standby's WAL
    /// receiver.
    pub fn receiver(&self) -> Option<i32> {
        if self.is_data {
            let all = self.database_processes();
            let found = all.iter().find(|process| process.command.contains("walreceiver"));
            return found.map(|process| process.pid);
        }
        processes::marked(&self.wal_dir(), "pg_receivewal").first().copied()
    }

    /// Waits for the process that receives WAL on this node.
    pub async fn await_receiver(&self, limit: Duration) -> i32 {
        let what = format!("{} receives WAL", self.name);
        eventually(&what, limit, async || self.receiver()).await
    }

    /// Freezes everything of this node at once, as a host does that is paused.
    pub fn freeze(&self) {
        for _ in 0..200 {
            let mut awake: Vec<i32> = self.database_processes().iter().map(|p| p.pid).collect();
            awake.extend(self.agent.as_ref().map(|_| self.agent_pid()));
            awake.retain(|pid| processes::is_alive(*pid) && processes::state(*pid) != Some('T'));
            if awake.is_empty() {
                return;
            }
            for pid in awake {
                processes::send(pid, Signal::STOP);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("processes of {} do not stop: {:?}", self.name, self.database_processes());
    }

    /// Thaws everything of this node, in the order that is worst for the fence: sessions first, who
    /// would end them last.
    pub fn thaw(&self) {
        self.thaw_server();
        for process in self.database_processes() {
            processes::send(process.pid, Signal::CONT);
        }
        if self.agent.is_some() {
            self.signal_agent(Signal::CONT);
        }
    }

    /// Thaws the server's processes and nobody who would end them.
    pub fn thaw_server(&self) {
        for process in self.database_processes().iter().filter(|p| p.program == "postgres") {
            processes::send(process.pid, Signal::CONT);
        }
    }

    /// Opens a session as the superuser.
    ///
    /// # Errors
    /// What the server or the network says.
    pub async fn session(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        self.session_as("postgres", &superuser_password(&self.superuser_file())).await
    }

    /// Opens a session.
    ///
    /// # Errors
    /// What the server or the network says.
    pub async fn session_as(
        &self,
        user: &str,
        password: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.address).port(POSTGRES_PORT).user(user).password(password);
        config.dbname("postgres").connect_timeout(Duration::from_secs(1));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs one statement in a new session and returns its first value as text.
    ///
    /// # Errors
    /// What the server or the network says, or that it took too long.
    pub async fn sql(&self, statement: &str) -> Result<String, String> {
        let run = async {
            let session = self.session().await.map_err(|error| said(&error))?;
            first_value(&session, statement).await
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, run).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    /// Returns the cluster's status as this agent sees it.
    pub async fn status(&self) -> Option<ha_proto::v1::StatusReply> {
        status::status(&self.grpc()).await
    }
}

/// Runs one statement and returns its first value as text; nothing for no rows.
///
/// # Errors
/// What the server or the network says.
pub async fn first_value(
    session: &tokio_postgres::Client,
    statement: &str,
) -> Result<String, String> {
    use tokio_postgres::SimpleQueryMessage::Row;
    let rows = session.simple_query(statement).await.map_err(|error| said(&error))?;
    let value = rows.iter().find_map(|message| match message {
        Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(value.unwrap_or_default())
}

/// Returns the server's own message, not only that there was one.
pub fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned())
}

/// Reads the superuser's password: it may have been changed.
pub fn superuser_password(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_else(|_| SUPERUSER_PASSWORD.to_owned());
    text.trim_end().to_owned()
}

fn make_dir(path: &Path) {
    fs::create_dir_all(path).expect("a writable directory");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).expect("a directory of ours");
}

/// Returns user and group that run the server; `None` if they are our own.
pub fn postgres_user() -> Option<(u32, u32)> {
    rustix::process::geteuid().is_root().then(|| {
        let passwd = fs::read_to_string("/etc/passwd").expect("users");
        let line = passwd.lines().find(|line| line.starts_with("postgres:"));
        let fields: Vec<&str> = line.expect("a user postgres").split(':').collect();
        let id = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
        (id(2).expect("a user id"), id(3).expect("a group id"))
    })
}

/// Gives a file or directory to the user that runs the server.
pub fn chown(path: &Path) {
    if let Some((uid, gid)) = postgres_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("a file of ours");
    }
}
