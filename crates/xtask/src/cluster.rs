//! A cluster of three agents on this machine: where its files are and what its agents are told.

pub(crate) mod account;
pub(crate) mod prepare;
pub(crate) mod process;
pub(crate) mod status;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::paths::Postgres;

/// The name of the superuser that `initdb` makes.
pub(crate) const SUPERUSER: &str = "postgres";

/// Whether a node has a PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has one.
    Data,
    /// It has a vote and no PostgreSQL.
    Witness,
}

impl Kind {
    /// Returns the word for the configuration file.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Witness => "witness",
        }
    }
}

/// Who has to have a commit before its client is told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// As many nodes as make a majority, the witness included
    Quorum,
    /// The primary and a standby
    StrictStandby,
    /// The primary alone
    Async,
}

impl Mode {
    /// Returns the word for the configuration file.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::StrictStandby => "strict-standby",
            Self::Async => "async",
        }
    }
}

/// One node: addresses and directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Permanent name.
    pub(crate) name: String,
    /// With or without PostgreSQL.
    pub(crate) kind: Kind,
    /// Where the agents talk.
    pub(crate) grpc: SocketAddr,
    /// Health and metrics.
    pub(crate) http: SocketAddr,
    /// Clients; meaningless for a witness.
    pub(crate) postgres: SocketAddr,
    /// `agent.toml`, `agent.log`, `agent.pid` and the agent's own state.
    pub(crate) home: PathBuf,
    /// Parent of the data directory; belongs to the account PostgreSQL runs under.
    pub(crate) postgres_home: PathBuf,
    /// Shared by agent and guard, on tmpfs where there is one.
    pub(crate) permits: PathBuf,
}

impl Node {
    /// Returns the path of the agent's configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.home.join("agent.toml")
    }

    /// Returns the path of the agent's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.home.join("agent.log")
    }

    /// Returns the path of the file with the agent's process id.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.home.join("agent.pid")
    }

    /// Returns the agent's own directory: Raft log, pledges, diverged WAL.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Returns PostgreSQL's data directory.
    pub(crate) fn pgdata(&self) -> PathBuf {
        self.postgres_home.join("data")
    }
}

/// A whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: String,
    /// Everything but the data directories and the permits is below.
    pub(crate) root: PathBuf,
    /// The data directories are below; the same as `root` where PostgreSQL's account can get there.
    pub(crate) postgres_root: PathBuf,
    /// The permits are below.
    pub(crate) permit_root: PathBuf,
    /// n1 and n2 with PostgreSQL, n3 as the witness.
    pub(crate) nodes: Vec<Node>,
    /// PostgreSQL's programs.
    pub(crate) bin_dir: PathBuf,
    /// The guard.
    pub(crate) guard: PathBuf,
    /// Account PostgreSQL runs under, if we are root.
    pub(crate) run_as: Option<String>,
    /// What clients of a new cluster are promised.
    pub(crate) mode: Mode,
}

/// First ports of three rows: each node takes the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Where the agents talk.
    pub(crate) grpc: u16,
    /// Health and metrics.
    pub(crate) http: u16,
    /// Clients of PostgreSQL.
    pub(crate) postgres: u16,
}

/// Where the parts of a cluster are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roots {
    /// See [`Cluster::root`].
    pub(crate) root: PathBuf,
    /// See [`Cluster::postgres_root`].
    pub(crate) postgres: PathBuf,
    /// See [`Cluster::permit_root`].
    pub(crate) permits: PathBuf,
}

impl Cluster {
    /// Returns the cluster as it is to be on loopback: one address, a row of ports of each sort.
    pub(crate) fn on_loopback(name: &str, roots: Roots, ports: Ports, means: Means) -> Self {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let at = |base: u16, index: u16| SocketAddr::new(loopback, base + index);
        Self::new(name, roots, means, |index| {
            (at(ports.grpc, index), at(ports.http, index), at(ports.postgres, index))
        })
    }

    /// Returns the cluster as it is to be on hosts of their own: one address each, the same ports.
    pub(crate) fn on_hosts(
        name: &str,
        roots: Roots,
        host: impl Fn(u16) -> IpAddr,
        means: Means,
    ) -> Self {
        Self::new(name, roots, means, |index| {
            let at = |port| SocketAddr::new(host(index), port);
            (at(7400), at(8008), at(5432))
        })
    }

    fn new(
        name: &str,
        roots: Roots,
        means: Means,
        addresses: impl Fn(u16) -> (SocketAddr, SocketAddr, SocketAddr),
    ) -> Self {
        let kinds = [("n1", Kind::Data), ("n2", Kind::Data), ("n3", Kind::Witness)];
        let nodes = (0u16..)
            .zip(kinds)
            .map(|(index, (name, kind))| {
                let (grpc, http, postgres) = addresses(index);
                Node {
                    name: name.to_owned(),
                    kind,
                    grpc,
                    http,
                    postgres,
                    home: roots.root.join(name),
                    postgres_home: roots.postgres.join(name).join("postgres"),
                    permits: roots.permits.join(name),
                }
            })
            .collect();
        let Means { postgres, guard, run_as, mode } = means;
        Self {
            name: name.to_owned(),
            root: roots.root,
            postgres_root: roots.postgres,
            permit_root: roots.permits,
            nodes,
            bin_dir: postgres.bin_dir,
            guard,
            run_as,
            mode,
        }
    }

    /// Returns the nodes with a PostgreSQL.
    pub(crate) fn data_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.kind == Kind::Data)
    }

    /// Returns the node of this name.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Returns the list of addresses for `haclt --endpoint`.
    pub(crate) fn endpoints(&self) -> String {
        self.nodes.iter().map(|node| node.grpc.to_string()).collect::<Vec<_>>().join(",")
    }

    /// Returns the file with a secret.
    pub(crate) fn secret(&self, name: &str) -> PathBuf {
        self.root.join("secrets").join(name)
    }

    /// Returns the connection string of the primary, whichever it is, for `psql` and libpq.
    pub(crate) fn dsn(&self) -> String {
        let list = |part: fn(&SocketAddr) -> String| {
            self.data_nodes().map(|node| part(&node.postgres)).collect::<Vec<_>>().join(",")
        };
        format!(
            "host={} port={} user={SUPERUSER} dbname=postgres target_session_attrs=read-write \
             passfile={}",
            list(|address| address.ip().to_string()),
            list(|address| address.port().to_string()),
            libpq_word(&self.secret("pgpass")),
        )
    }

    /// Returns the configuration of a node's agent.
    pub(crate) fn agent_toml(&self, node: &Node) -> String {
        let mut out = String::new();
        let mut put = |line: &str| {
            out.push_str(line);
            out.push('\n');
        };
        put("# Written by `cargo xtask`; deploy/agent.example.toml explains the keys.");
        put(&pair("cluster", &self.name));
        put(&pair("node", &node.name));
        put(&pair("kind", node.kind.word()));
        put(&pair("data_dir", &text(&node.state())));
        put("\n[listen]");
        put(&pair("grpc", &node.grpc.to_string()));
        put(&pair("http", &node.http.to_string()));
        put("\n[peers]");
        for peer in &self.nodes {
            put(&pair(&peer.name, &peer.grpc.to_string()));
        }
        if node.kind == Kind::Data {
            put("\n[postgres]");
            put(&pair("driver", "process"));
            put(&pair("bin_dir", &text(&self.bin_dir)));
            put(&pair("data_dir", &text(&node.pgdata())));
            put(&pair("listen", &node.postgres.to_string()));
            put(&pair("superuser", SUPERUSER));
            put(&pair("superuser_password_file", &text(&self.secret("superuser"))));
            put(&pair("replication_password_file", &text(&self.secret("replication"))));
            put(&pair("guard", &text(&self.guard)));
            put(&pair("permit_dir", &text(&node.permits)));
            put(&pair("log_dir", &text(&node.postgres_home.join("log"))));
            if let Some(account) = &self.run_as {
                put(&pair("run_as", account));
            }
        }
        if node.kind == Kind::Witness {
            put("\n[witness]");
            put(&pair("bin_dir", &text(&self.bin_dir)));
            put(&pair("replication_password_file", &text(&self.secret("replication"))));
        }
        put("\n[durability]");
        put(&pair("mode", self.mode.word()));
        out
    }

    /// Returns the password file for clients, in libpq's format.
    pub(crate) fn pgpass(&self, password: &str) -> String {
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        self.data_nodes().fold(String::new(), |mut file, node| {
            let at = node.postgres;
            let _ = writeln!(file, "{}:{}:*:{SUPERUSER}:{escaped}", at.ip(), at.port());
            file
        })
    }
}

/// The programs and the account a cluster is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Means {
    /// PostgreSQL's programs.
    pub(crate) postgres: Postgres,
    /// The guard.
    pub(crate) guard: PathBuf,
    /// Account PostgreSQL runs under, if we are root.
    pub(crate) run_as: Option<String>,
    /// What clients of a new cluster are promised.
    pub(crate) mode: Mode,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn pair(key: &str, value: &str) -> String {
    format!("{key} = {}", toml::Value::String(value.to_owned()))
}

/// Quotes a value for a libpq connection string, if it needs that.
fn libpq_word(path: &Path) -> String {
    let word = text(path);
    if word.contains([' ', '\'', '\\']) {
        format!("'{}'", word.replace('\\', "\\\\").replace('\'', "\\'"))
    } else {
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(root: &str, run_as: Option<&str>) -> Cluster {
        let roots =
            Roots { root: root.into(), postgres: "/srv/pg".into(), permits: "/dev/shm/x".into() };
        let ports = Ports { grpc: 7401, http: 8401, postgres: 54321 };
        let postgres = Postgres { bin_dir: "/pg/bin".into(), version: "15".into() };
        let run_as = run_as.map(str::to_owned);
        Cluster::on_loopback(
            "local",
            roots,
            ports,
            Means { postgres, guard: "/g".into(), run_as, mode: Mode::Quorum },
        )
    }

    fn parsed(cluster: &Cluster, node: &str) -> toml::Table {
        let node = cluster.node(node).expect("the sample has this node");
        cluster.agent_toml(node).parse().expect("the configuration is TOML")
    }

    #[test]
    fn a_data_node_is_told_everything_about_its_postgres() {
        let table = parsed(&sample("/home of/it's", Some("postgres")), "n2");
        let of = |section: &str, key: &str| table[section][key].as_str().unwrap().to_owned();
        assert_eq!(table["data_dir"].as_str(), Some("/home of/it's/n2/state"));
        assert_eq!(of("listen", "grpc"), "127.0.0.1:7402");
        assert_eq!(of("postgres", "listen"), "127.0.0.1:54322");
        assert_eq!(of("postgres", "data_dir"), "/srv/pg/n2/postgres/data");
        assert_eq!(of("postgres", "permit_dir"), "/dev/shm/x/n2");
        assert_eq!(of("postgres", "run_as"), "postgres");
        assert_eq!(of("peers", "n3"), "127.0.0.1:7403");
    }

    #[test]
    fn a_witness_is_told_of_no_postgres_and_of_what_it_needs_to_keep_wal() {
        let table = parsed(&sample("/r", Some("postgres")), "n3");
        assert_eq!(table["kind"].as_str(), Some("witness"));
        assert!(!table.contains_key("postgres"));
        assert_eq!(table["witness"]["bin_dir"].as_str(), Some("/pg/bin"));
        let secret = table["witness"]["replication_password_file"].as_str();
        assert_eq!(secret, Some("/r/secrets/replication"));
        assert_eq!(table["durability"]["mode"].as_str(), Some("quorum"));
    }

    #[test]
    fn without_root_no_other_account_is_named() {
        let table = parsed(&sample("/r", None), "n1");
        assert!(table["postgres"].get("run_as").is_none());
    }

    #[test]
    fn the_connection_string_names_both_servers_and_survives_odd_paths() {
        assert_eq!(
            sample("/a b/it's", None).dsn(),
            "host=127.0.0.1,127.0.0.1 port=54321,54322 user=postgres dbname=postgres \
             target_session_attrs=read-write passfile='/a b/it\\'s/secrets/pgpass'"
        );
    }

    #[test]
    fn the_password_file_escapes_what_would_end_a_field() {
        let file = sample("/r", None).pgpass(r"a:b\c");
        assert_eq!(file.lines().next(), Some(r"127.0.0.1:54321:*:postgres:a\:b\\c"));
        assert_eq!(file.lines().count(), 2);
    }

    #[test]
    fn nodes_on_hosts_of_their_own_share_port_numbers() {
        let cluster = Cluster::on_hosts(
            "bench",
            Roots { root: "/r".into(), postgres: "/r".into(), permits: "/p".into() },
            |index| IpAddr::from([10, 77, 0, u8::try_from(index).unwrap() + 1]),
            Means {
                postgres: Postgres { bin_dir: "/pg".into(), version: "17".into() },
                guard: "/g".into(),
                run_as: None,
                mode: Mode::Async,
            },
        );
        assert_eq!(cluster.endpoints(), "10.77.0.1:7400,10.77.0.2:7400,10.77.0.3:7400");
        assert_eq!(cluster.data_nodes().count(), 2);
    }
}
