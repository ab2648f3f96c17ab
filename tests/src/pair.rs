//! A pair of containers as people have it without haclt: a primary and a streaming standby of the official
//! image, each with its volume, with settings and rules of their own.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::compose::{agent_image, bounded, docker};
use crate::programs::said;
use crate::wait::{eventually, within};

/// The password of the superuser `postgres`.
pub const SUPERUSER_PASSWORD: &str = "sup3r-Secret-of-the-pair";
/// The password of the account that applications use.
pub const APP_PASSWORD: &str = "app-Secret-of-the-pair";
const REPLICATION_PASSWORD: &str = "repl1ca-Secret-of-the-pair";
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The pair. Dropping it removes its containers, its network and its volumes.
#[derive(Debug)]
pub struct Pair {
    name: String,
    image: String,
}

impl Pair {
    /// Starts the pair and gives it some data.
    pub async fn start(major: u32) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("haclt-pair-{}-{number}", std::process::id());
        let pair = Self { name, image: format!("postgres:{major}") };
        // Makes the database's image, too, where that cannot be pulled.
        agent_image(major);
        docker(&["network", "create", &pair.name]);
        for volume in [pair.volume("primary"), pair.volume("standby")] {
            docker(&["volume", "create", &volume]);
        }
        pair.run("primary", &["postgres", "-c", "max_connections=77"]);
        // The server of the first start listens on no network.
        pair.ready("primary").await;
        pair.make_data();
        docker(&["restart", &pair.container("primary")]);
        pair.ready("primary").await;
        pair.clone_standby();
        pair.run("standby", &["postgres", "-c", "max_connections=77"]);
        pair.streaming().await;
        pair
    }

    /// Returns the name of a container: `primary` or `standby`.
    pub fn container(&self, which: &str) -> String {
        format!("{}-{which}", self.name)
    }

    /// Returns the name of its volume.
    pub fn volume(&self, which: &str) -> String {
        format!("{}-{which}-data", self.name)
    }

    fn run(&self, which: &str, command: &[&str]) {
        let (container, volume) = (self.container(which), self.volume(which));
        let mount = format!("{volume}:/var/lib/postgresql/data");
        let password = format!("POSTGRES_PASSWORD={SUPERUSER_PASSWORD}");
        let mut words = vec!["run", "--detach", "--name", &container, "--network", &self.name];
        words.extend(["--restart", "always", "--env", &password, "--volume", &mount, &self.image]);
        words.extend(command);
        docker(&words);
    }

    /// Settings, rules, an account and rows, as their owner would make them.
    fn make_data(&self) {
        let conf = "shared_buffers = 96MB\nwork_mem = 7MB\nlog_statement = ddl\nwal_keep_size = 320MB\nautovacuum = off\n";
        let rules =
            "host replication replicator all scram-sha-256\nhost app app all scram-sha-256\n";
        let place = "cd /var/lib/postgresql/data";
        let write = format!(
            "{place} && printf '{conf}' >>postgresql.conf && printf '{rules}' >pg_hba.new && \
                             cat pg_hba.conf >>pg_hba.new && cat pg_hba.new >pg_hba.conf && rm pg_hba.new"
        );
        self.exec("primary", &["sh", "-c", &write]);
        self.sql("primary", &format!("create role app login password '{APP_PASSWORD}'"));
        self.sql(
            "primary",
            &format!("create role replicator login replication password '{REPLICATION_PASSWORD}'"),
        );
        self.sql("primary", "create database app owner app");
        let rows = "set role app; create table orders (id int primary key, what text); \
                    insert into orders select n, 'order ' || n from generate_series(1, 1000) n";
        self.exec("primary", &["psql", "-XqU", "postgres", "-d", "app", "-c", rows]);
        self.sql("primary", "alter system set maintenance_work_mem = '80MB'");
    }

    fn clone_standby(&self) {
        let mount = format!("{}:/var/lib/postgresql/data", self.volume("standby"));
        let password = format!("PGPASSWORD={REPLICATION_PASSWORD}");
        let host = self.container("primary");
        let mut words = vec!["run", "--rm", "--network", &self.name, "--volume", &mount];
        words.extend(["--env", &password, "--user", "postgres", &self.image, "pg_basebackup"]);
        words.extend(["-h", &host, "-U", "replicator", "-D", "/var/lib/postgresql/data", "-R"]);
        docker(&words);
    }

    /// Runs a program in a container and returns what it wrote.
    pub fn exec(&self, which: &str, command: &[&str]) -> String {
        let container = self.container(which);
        docker(&[&["exec", "--user", "postgres", &container], command].concat())
    }

    /// Runs a statement as the superuser and returns what it says.
    pub fn sql(&self, which: &str, statement: &str) -> String {
        let words = ["psql", "-XAtqU", "postgres", "-c", statement];
        self.exec(which, &words).trim().to_owned()
    }

    /// Waits until the server of a container answers on the network.
    pub async fn ready(&self, which: &str) {
        let container = self.container(which);
        eventually(&format!("{container} is ready"), within(60), async || {
            let words = ["exec", &container, "pg_isready", "-q", "-h", "127.0.0.1"];
            bounded(Command::new("docker").args(words)).status.success().then_some(())
        })
        .await;
    }

    /// Waits until the standby streams.
    pub async fn streaming(&self) {
        self.ready("standby").await;
        eventually("the standby streams", within(60), async || {
            let state = self.sql("primary", "select state from pg_stat_replication");
            (state == "streaming").then_some(())
        })
        .await;
    }

    /// Returns a checksum of what does not change by itself in a data directory, and of every name.
    pub fn fingerprint(&self, which: &str) -> String {
        let look = "cd /var/lib/postgresql/data && find . | grep -v pg_wal | sort && \
                    find . -type f | grep -vE 'pg_wal|pg_control|pg_internal.init' | sort | xargs sha256sum";
        self.exec(which, &["sh", "-c", look])
    }

    /// Returns something of what the engine says of a container.
    pub fn inspect(&self, which: &str, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.container(which)]).trim().to_owned()
    }

    /// Starts a container that is not to start any more, and returns what it said in the end.
    pub async fn resurrect(&self, which: &str) -> String {
        let container = self.container(which);
        docker(&["start", &container]);
        eventually(&format!("{container} ends"), Duration::from_secs(30), async || {
            (self.inspect(which, "{{.State.Running}}") == "false").then_some(())
        })
        .await;
        said(&bounded(Command::new("docker").args(["logs", "--tail", "20", &container])))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for which in ["primary", "standby"] {
            if std::thread::panicking() {
                let words = ["logs", "--tail", "20", &self.container(which)];
                let log = said(&bounded(Command::new("docker").args(words)));
                drop(std::io::Write::write_all(&mut std::io::stderr(), log.as_bytes()));
            }
            let words = ["rm", "--force", "--volumes", &self.container(which)];
            drop(bounded(Command::new("docker").args(words)));
            drop(bounded(Command::new("docker").args(["volume", "rm", &self.volume(which)])));
        }
        drop(bounded(Command::new("docker").args(["network", "rm", &self.name])));
    }
}
