//! A real PgBouncer in front of a cluster, and load through it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio_postgres::NoTls;

use crate::cluster::Cluster;
use crate::node::{SUPERUSER_PASSWORD, chown, postgres_user};
use crate::wait::{eventually, within};
use crate::{logs, processes, programs};

/// Where the first one listens, on the first node's address.
const PORT: u16 = 6431;
/// The user of its console, and that user's password.
const ADMIN: &str = "haclt_admin";
const ADMIN_PASSWORD: &str = "c0nsole-Secret-of-tests";

/// A PgBouncer in transaction pooling mode; killed when this is dropped.
#[derive(Debug)]
pub struct Bouncer {
    dir: PathBuf,
    host: String,
    port: u16,
    child: Option<Child>,
}

impl Bouncer {
    /// Makes its files, and has every agent of the cluster know it, beside those that were made before.
    /// `auth` is how it asks for passwords, `more` what else agents are told of it.
    pub fn new(cluster: &mut Cluster, auth: &str, more: &str) -> Self {
        let sections = cluster.nodes().first().and_then(|node| node.config.get("pgbouncer"));
        let sections = sections.map(|text| text.trim_matches(['[', ']']).to_owned());
        let before = sections.as_ref().map_or(0, |text| text.matches('{').count());
        let dir = cluster.base.join(format!("bouncer{before}"));
        let port = PORT + u16::try_from(before).expect("a few");
        fs::create_dir(&dir).expect("a writable directory");
        let first = cluster.nodes().first().expect("a node").postgres();
        let host = first.rsplit_once(':').expect("host and port").0.to_owned();
        let at = dir.display();
        let ini = format!(
            "[databases]\n%include {at}/databases.ini\n[pgbouncer]\nlisten_addr = {host}\n\
             listen_port = {port}\nunix_socket_dir = {at}\nauth_type = {auth}\n\
             auth_file = {at}/users.txt\nadmin_users = {ADMIN}\npool_mode = transaction\n\
             default_pool_size = 12\nmax_client_conn = 100\nlogfile = {at}/log\n\
             pidfile = {at}/pid\n"
        );
        let users =
            format!("\"postgres\" \"{SUPERUSER_PASSWORD}\"\n\"{ADMIN}\" \"{ADMIN_PASSWORD}\"\n");
        let files =
            [("main.ini", ini.as_str()), ("users.txt", &users), ("databases.ini", "* = port=1\n")];
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("a writable directory");
            chown(&dir.join(name));
        }
        chown(&dir);
        fs::write(dir.join("password"), ADMIN_PASSWORD).expect("a writable directory");
        let section = format!(
            "[{}{{ admin = \"{host}:{port}\", user = \"{ADMIN}\", password_file = \"{at}/password\", \
             databases_file = \"{at}/databases.ini\", {more} }}]",
            sections.map(|text| text + ", ").unwrap_or_default()
        );
        for node in cluster.nodes_mut() {
            node.config.set("pgbouncer", section.clone());
        }
        Self { dir, host, port, child: None }
    }

    /// Starts it.
    pub async fn start(&mut self) {
        let mut command = Command::new(program());
        command.arg(self.dir.join("main.ini")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = postgres_user() {
            command.uid(uid).gid(gid);
        }
        self.child = Some(command.spawn().expect("pgbouncer can be started"));
        eventually("pgbouncer listens", within(10), async || {
            tokio::net::TcpStream::connect((self.host.as_str(), self.port)).await.ok()
        })
        .await;
    }

    /// Opens a session through it; only simple queries go through.
    ///
    /// # Errors
    /// What it says.
    pub async fn session(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user("postgres").password(SUPERUSER_PASSWORD);
        config.dbname("postgres").connect_timeout(Duration::from_secs(2));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Waits until a write through it is done.
    pub async fn writes(&self, limit: Duration) {
        eventually("a write through PgBouncer", limit, async || {
            let write = async {
                let session = self.session().await.ok()?;
                session
                    .simple_query("create temporary table through (x int) on commit drop")
                    .await
                    .ok()
            };
            tokio::time::timeout(limit, write).await.ok()?
        })
        .await;
    }

    /// Returns its list of databases.
    pub fn databases(&self) -> String {
        fs::read_to_string(self.dir.join("databases.ini")).expect("a readable file")
    }

    /// Returns how often a text occurs in its log.
    pub fn logged(&self, text: &str) -> usize {
        logs::count(&self.dir.join("log"), text)
    }

    /// Begins to load the primary through it; the tables have to be there.
    pub fn load(&self, clients: u32, seconds: u32) -> Load {
        let logs = self.dir.join("pgbench");
        fs::create_dir(&logs).expect("a writable directory");
        let child = pgbench()
            .args(["-n", "-l", "-j", "2", "-c", &clients.to_string(), "-T", &seconds.to_string()])
            .args(["-h", &self.host, "-p", &self.port.to_string(), "-U", "postgres", "postgres"])
            .current_dir(&logs)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pgbench can be started");
        Load { child: Some(child), logs }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }
}

/// Makes pgbench's tables on a primary.
pub fn prepare(host_and_port: &str) {
    let (host, port) = host_and_port.rsplit_once(':').expect("host and port");
    let made = pgbench()
        .args(["-i", "-q", "-s", "2", "-h", host, "-p", port, "-U", "postgres", "postgres"])
        .output()
        .expect("pgbench can be started");
    assert!(made.status.success(), "{}", programs::said(&made));
}

fn pgbench() -> Command {
    let mut command = Command::new(programs::postgres_dir().join("pgbench"));
    command.env("PGPASSWORD", SUPERUSER_PASSWORD).stdin(Stdio::null());
    command
}

fn program() -> PathBuf {
    let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].map(Path::new);
    let found = places.into_iter().find(|place| place.exists());
    found.expect("pgbouncer is installed: deploy/install-deps.sh does it").to_owned()
}

/// A pgbench that runs; killed when this is dropped.
#[derive(Debug)]
pub struct Load {
    child: Option<Child>,
    logs: PathBuf,
}

/// What a client saw.
#[derive(Debug)]
pub struct Seen {
    /// Transactions that were done.
    pub transactions: u64,
    /// The longest one, the wait for a new primary included.
    pub slowest: Duration,
    /// All that pgbench said.
    pub said: String,
}

impl Load {
    /// Waits for its end, and panics if any client saw an error.
    pub async fn end_without_error(mut self) -> Seen {
        let child = self.child.take().expect("it runs");
        let pid = i32::try_from(child.id()).expect("a process id");
        let output = tokio::task::spawn_blocking(move || child.wait_with_output());
        let output = tokio::time::timeout(within(120), output).await;
        if output.is_err() {
            processes::send(pid, Signal::KILL);
        }
        let output = output.expect("pgbench ends").expect("no panic").expect("our own child");
        let said = programs::said(&output);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("aborted") && !said.contains("rror:"), "{said}");
        let value = |key: &str| {
            let rest = said.lines().find_map(|line| line.strip_prefix(key))?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        };
        assert_eq!(value("number of failed transactions: "), Some(0), "{said}");
        let transactions = value("number of transactions actually processed: ");
        Seen { transactions: transactions.expect("a number"), slowest: self.slowest(), said }
    }

    /// The third column of its logs is a transaction's time in microseconds.
    fn slowest(&self) -> Duration {
        let files = fs::read_dir(&self.logs).expect("a directory of ours");
        let texts = files.map(|file| logs::read(&file.expect("an entry").path()));
        let micros = texts.flat_map(|text| {
            let third = |line: &str| line.split(' ').nth(2)?.parse::<u64>().ok();
            text.lines().filter_map(third).collect::<Vec<_>>()
        });
        Duration::from_micros(micros.max().unwrap_or_default())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }
}
