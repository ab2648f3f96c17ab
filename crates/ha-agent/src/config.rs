//! The agent's configuration: one TOML file, environment overrides, all faults at once.

mod fencing;
mod hooks;
mod peers;
mod pgbouncer;
pub(crate) mod reader;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_core::policy::{Durability, Policy};
use ha_core::{NodeId, NodeKind};
use ha_postgres::PeerAddress;
use reader::Reader;

pub use hooks::{HookKind, HookSettings};
pub use pgbouncer::BouncerSettings;

/// Every key of the file that has a section, for environment overrides.
const SECTIONS: [&str; 14] = [
    "listen",
    "peers",
    "postgres",
    "durability",
    "lease",
    "raft",
    "health",
    "crash",
    "log",
    "failover",
    "witness",
    "diverged",
    "fencing",
    "hooks",
];

/// The whole configuration of one agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster's name.
    pub cluster: String,
    /// This node's permanent name.
    pub node: NodeId,
    /// What this node is for.
    pub kind: NodeKind,
    /// Where the agent keeps its Raft store and what else must survive; not inside PGDATA.
    pub data_dir: PathBuf,
    /// Address and port to serve gRPC on.
    pub listen_grpc: String,
    /// What others use to reach that: `listen.advertise_grpc`, else this node's entry in `peers`.
    pub advertise_grpc: String,
    /// Every voter's agent, this one included, `host:port`.
    pub peers: BTreeMap<NodeId, String>,
    /// Whether the agent waits to be taken into a cluster that exists, instead of founding one with its peers.
    pub join: bool,
    /// The database; `None` on a witness.
    pub postgres: Option<PostgresSettings>,
    /// How WAL is kept; `None` on a data node.
    pub witness: Option<WitnessSettings>,
    /// How much diverged WAL is kept.
    pub diverged: DivergedSettings,
    /// How a holder that is not heard of is killed from outside.
    pub fencing: FencingSettings,
    /// Programs of the operator, run when something has happened.
    pub hooks: HookSettings,
    /// PgBouncers that follow the primary.
    pub bouncers: Vec<BouncerSettings>,
    /// What decisions depend on.
    pub policy: Policy,
    /// Log lines as JSON instead of text.
    pub log_json: bool,
    /// Filter of log lines, as `tracing_subscriber`'s `EnvFilter` reads it.
    pub log_filter: String,
    /// Keys that are understood but not served by this version, one line each.
    pub notes: Vec<String>,
}

/// What happens to a database that has WAL which the primary lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejoin {
    /// Rewind, and clone if that fails.
    Auto,
    /// Rewind only.
    Rewind,
    /// Nothing: the operator decides.
    Manual,
}

/// The `[witness]` section.
#[derive(Debug, Clone)]
pub struct WitnessSettings {
    /// Where `pg_receivewal` is; `None` to look in the usual places.
    pub bin_dir: Option<PathBuf>,
    /// Where WAL is kept.
    pub wal_dir: PathBuf,
    /// How much of it, bytes.
    pub wal_bytes_max: u64,
    /// The internal user for replication.
    pub replication_user: String,
    /// File with its password; without it no WAL is kept.
    pub replication_password_file: Option<PathBuf>,
}

/// The `[diverged]` section: what is kept of former primaries' WAL that left the history.
#[derive(Debug, Clone, Copy)]
pub struct DivergedSettings {
    /// How many pieces of WAL, and how many whole data directories moved aside.
    pub keep_max: usize,
    /// How much diverged WAL in all, bytes.
    pub bytes_max: u64,
}

/// The `[fencing]` section: engines through which other nodes' containers can be killed.
#[derive(Debug, Clone)]
pub struct FencingSettings {
    /// How long a holder is not heard of before that is done.
    pub after: Duration,
    /// By node.
    pub peers: BTreeMap<NodeId, FencingPeer>,
}

/// How another node's database is killed.
#[derive(Debug, Clone)]
pub struct FencingPeer {
    /// Name of its Postgres container.
    pub container: String,
    /// The Docker engine of its host.
    pub engine: PeerAddress,
}

/// What PostgreSQL's programs run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverSettings {
    /// Processes of this machine.
    Process {
        /// Where `postgres`, `pg_ctl` and the tools are.
        bin_dir: PathBuf,
        /// The guard's program.
        guard: PathBuf,
        /// The system user that runs the server when the agent is root.
        run_as: String,
    },
    /// Containers.
    Docker {
        /// Name or id of the Postgres container.
        container: String,
        /// The engine's socket.
        socket: String,
    },
}

/// Where an engine listens if nothing else is said.
const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";

/// The `[postgres]` section.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// What its programs run in.
    pub driver: DriverSettings,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// Where the server listens, host and port.
    pub listen: (String, u16),
    /// What others use to reach it, host and port.
    pub advertise: (String, u16),
    /// The database superuser.
    pub superuser: String,
    /// File with the superuser's password.
    pub superuser_password_file: PathBuf,
    /// The internal user for replication, rewinding and cloning.
    pub replication_user: String,
    /// File with its password.
    pub replication_password_file: PathBuf,
    /// Directory shared with the guard: on tmpfs, or an idle cluster writes to a disk.
    pub permit_dir: PathBuf,
    /// Where server and guard log.
    pub log_dir: PathBuf,
    /// What happens to a diverged database.
    pub rejoin: Rejoin,
    /// Whether this node may become primary.
    pub promotable: bool,
    /// Whether commits may wait for this node.
    pub sync: bool,
    /// Whether reads are welcome here while it is a standby: said to whoever routes them.
    pub read: bool,
    /// Preferred among equals; higher first.
    pub priority: i32,
    /// Whether the server keeps running (as long as its permit lasts) when the agent is told to stop.
    pub leave_running: bool,
    /// Further server parameters.
    pub parameters: BTreeMap<String, String>,
    /// Further lines of `pg_hba.conf`, after the internal ones.
    pub hba: Vec<String>,
    /// How long a fast stop may take before an immediate one.
    pub fast_stop: Duration,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("cannot read configuration {path}: {why}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line and reason, on one line.
        why: String,
    },
    /// Its values do not make sense; each line names one key.
    #[error("configuration {path} has {} fault(s): {}", faults.len(), faults.join("; "))]
    Faults {
        /// The file.
        path: PathBuf,
        /// One line each.
        faults: Vec<String>,
    },
}

impl Config {
    /// Reads the file and the environment's overrides.
    ///
    /// `environment` are the process's variables; `HA_<SECTION>_<KEY>` overrides a key.
    ///
    /// # Errors
    /// [`ConfigError`], with *all* faults of the file.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_text(path, &text, environment)
    }

    /// As [`Config::load`], of a text; `path` is for messages.
    pub(crate) fn from_text(
        path: &Path,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| {
                text.get(..span.start).map_or(0, |before| before.matches('\n').count()) + 1
            });
            let why = format!("line {line}: {}", error.message().replace('\n', " "));
            ConfigError::Syntax { path: path.to_owned(), why }
        })?;
        let mut reader = Reader::new(table);
        for (name, value) in environment {
            if let Some(key) = override_key(&name) {
                reader.set(&key, value);
            }
        }
        Self::from_reader(reader)
            .map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })
    }

    fn from_reader(mut reader: Reader) -> Result<Self, Vec<String>> {
        let r = &mut reader;
        let cluster = r.required("cluster");
        if cluster.len() > 63 || cluster.chars().any(char::is_control) {
            r.fault("cluster: a name has at most 63 printable characters");
        }
        let node = named_node(r);
        let kind = match r.required("kind").as_str() {
            "data" => NodeKind::Data,
            "witness" => NodeKind::Witness,
            "" => NodeKind::Witness,
            other => {
                r.fault(format!("kind: {other:?} is neither \"data\" nor \"witness\""));
                NodeKind::Witness
            }
        };
        let data_dir = absolute(r, "data_dir", None);
        let listen_grpc = r.required("listen.grpc");
        check_address(r, "listen.grpc", &listen_grpc);
        let join = r.flag("join").unwrap_or(false);
        let peers = peers::voters(r, &node, join);
        let advertise_grpc = r
            .text("listen.advertise_grpc")
            .or_else(|| peers.get(&node).cloned())
            .unwrap_or_else(|| listen_grpc.clone());
        let mut notes = Vec::new();
        for key in ["listen.http", "listen.rw", "listen.ro"] {
            if let Some(address) = r.text(key) {
                check_address(r, key, &address);
                notes.push(format!("{key} = {address}: not served by this version"));
            }
        }
        let policy = policy(r);
        let postgres = match kind {
            NodeKind::Data => Some(postgres(r, &data_dir, &cluster, &node)),
            NodeKind::Witness => {
                if !r.table("postgres").is_empty() {
                    r.fault("section postgres: a witness has no Postgres");
                }
                None
            }
        };
        let witness = match kind {
            NodeKind::Witness => Some(witness(r, &data_dir)),
            NodeKind::Data => {
                if !r.table("witness").is_empty() {
                    r.fault("section witness: this is a data node");
                }
                None
            }
        };
        let diverged = DivergedSettings {
            keep_max: r.count("diverged.keep_max").unwrap_or(8) as usize,
            bytes_max: r.bytes("diverged.bytes_max").unwrap_or(4 << 30),
        };
        let fencing = fencing::settings(r, &node, &peers, &policy);
        let hooks = hooks::settings(r, kind);
        let bouncers = pgbouncer::settings(r);
        let log_json = match r.text("log.format").as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => {
                r.fault(format!("log.format: {other:?} is neither \"text\" nor \"json\""));
                false
            }
        };
        let log_filter =
            r.text("log.filter").unwrap_or_else(|| "info,openraft=error,sled=error".to_owned());
        let faults = reader.finish();
        if faults.is_empty() {
            Ok(Self {
                cluster,
                node,
                kind,
                data_dir,
                listen_grpc,
                advertise_grpc,
                peers,
                join,
                postgres,
                witness,
                diverged,
                fencing,
                hooks,
                bouncers,
                policy,
                log_json,
                log_filter,
                notes,
            })
        } else {
            Err(faults)
        }
    }
}

/// Returns the dotted key that an environment variable overrides.
fn override_key(name: &str) -> Option<String> {
    let rest = name.strip_prefix("HA_")?.to_ascii_lowercase();
    // `HA_FENCING_PEERS_N1_DOCKER`; names of nodes may hold underscores.
    if let Some((name, key)) = rest.strip_prefix("fencing_peers_").and_then(|r| r.rsplit_once('_'))
    {
        return Some(format!("fencing.peers.{name}.{key}"));
    }
    let section = SECTIONS.iter().find(|s| rest.starts_with(&format!("{s}_")));
    match section {
        Some(section) => Some(format!("{section}.{}", rest.get(section.len() + 1..)?)),
        None if ["cluster", "node", "kind", "data_dir"].contains(&rest.as_str()) => Some(rest),
        None => None,
    }
}

fn named_node(r: &mut Reader) -> NodeId {
    let placeholder = || "unnamed".parse().expect("a valid name");
    let text = r.required("node");
    if text.is_empty() {
        return placeholder();
    }
    text.parse().unwrap_or_else(|error| {
        r.fault(format!("node: {error}"));
        placeholder()
    })
}

fn policy(r: &mut Reader) -> Policy {
    let mut p = Policy::default();
    let mode = r.parsed::<Durability>("durability.mode");
    let set = |slot: &mut Duration, value: Option<Duration>| {
        if let Some(value) = value {
            *slot = value;
        }
    };
    p.durability = mode.unwrap_or(p.durability);
    p.lag_bytes_max = r.bytes("durability.lag_bytes_max").unwrap_or(p.lag_bytes_max);
    set(&mut p.ttl, r.duration("lease.ttl"));
    set(&mut p.renew_interval, r.duration("lease.renew_interval"));
    set(&mut p.margin, r.duration("lease.margin"));
    p.drift.per_mille = r.count("lease.drift_per_mille").unwrap_or(p.drift.per_mille);
    set(&mut p.heartbeat, r.duration("raft.heartbeat"));
    set(&mut p.election_min, r.duration("raft.election_min"));
    set(&mut p.election_max, r.duration("raft.election_max"));
    set(&mut p.health.interval, r.duration("health.interval"));
    set(&mut p.health.limit, r.duration("health.limit"));
    p.health.failures = r.count("health.failures").unwrap_or(p.health.failures);
    p.health.free_bytes_min = r.bytes("health.free_bytes_min").unwrap_or(p.health.free_bytes_min);
    p.crash.restarts_max = r.count("crash.restarts_max").unwrap_or(p.crash.restarts_max);
    set(&mut p.crash.window, r.duration("crash.window"));
    set(&mut p.crash.recovery_max, r.duration("crash.recovery_max"));
    for fault in p.faults() {
        r.fault(fault);
    }
    p
}

fn postgres(r: &mut Reader, data_dir: &Path, cluster: &str, node: &NodeId) -> PostgresSettings {
    let driver = driver(r);
    let pgdata = absolute(r, "postgres.data_dir", None);
    if !pgdata.as_os_str().is_empty() && data_dir.starts_with(&pgdata) {
        r.fault(format!(
            "data_dir {} must not lie inside postgres.data_dir {}",
            data_dir.display(),
            pgdata.display()
        ));
    }
    let listen_text = r.required("postgres.listen");
    let listen = check_address(r, "postgres.listen", &listen_text);
    let advertise = if let Some(text) = r.text("postgres.advertise") {
        check_address(r, "postgres.advertise", &text)
    } else {
        if ["0.0.0.0", "::", "*"].contains(&listen.0.as_str()) {
            r.fault("postgres.advertise is missing: postgres.listen is no address for others");
        }
        listen.clone()
    };
    let rejoin = match r.text("postgres.rejoin").as_deref() {
        None | Some("auto") => Rejoin::Auto,
        Some("rewind") => Rejoin::Rewind,
        Some("manual") => Rejoin::Manual,
        Some(other) => {
            r.fault(format!("postgres.rejoin: {other:?} is none of auto, rewind, manual"));
            Rejoin::Manual
        }
    };
    let leave_running = match r.text("postgres.on_agent_stop").as_deref() {
        None | Some("stop") => false,
        Some("leave") => true,
        Some(other) => {
            r.fault(format!("postgres.on_agent_stop: {other:?} is neither \"stop\" nor \"leave\""));
            false
        }
    };
    let parameters = r
        .table("postgres.parameters")
        .into_iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name, text)
        })
        .collect();
    let priority = r.number("postgres.priority").unwrap_or(0);
    let default_permits = PathBuf::from(format!("/run/haclt/{cluster}-{node}"));
    PostgresSettings {
        driver,
        data_dir: pgdata,
        listen,
        advertise,
        superuser: r.text("postgres.superuser").unwrap_or_else(|| "postgres".to_owned()),
        superuser_password_file: absolute(r, "postgres.superuser_password_file", None),
        replication_user: r
            .text("postgres.replication_user")
            .unwrap_or_else(|| "haclt_replication".to_owned()),
        replication_password_file: absolute(r, "postgres.replication_password_file", None),
        permit_dir: absolute(r, "postgres.permit_dir", Some(default_permits)),
        log_dir: absolute(r, "postgres.log_dir", Some(data_dir.join("log"))),
        rejoin,
        promotable: r.flag("postgres.promotable").unwrap_or(true),
        sync: r.flag("postgres.sync").unwrap_or(true),
        read: r.flag("postgres.read").unwrap_or(true),
        priority: i32::try_from(priority).unwrap_or_else(|_| {
            r.fault(format!("postgres.priority = {priority} is out of range"));
            0
        }),
        leave_running,
        parameters,
        hba: r.texts("postgres.hba").unwrap_or_default(),
        fast_stop: r.duration("postgres.fast_stop").unwrap_or(Duration::from_secs(30)),
    }
}

fn driver(r: &mut Reader) -> DriverSettings {
    let kind = r.text("postgres.driver").unwrap_or_else(|| "process".to_owned());
    let not_with = |r: &mut Reader, keys: &[&str], why: &str| {
        for key in keys {
            if r.text(key).is_some() {
                r.fault(format!("{key}: not with driver {kind:?}: {why}"));
            }
        }
    };
    match kind.as_str() {
        "docker" => {
            let keys = ["postgres.bin_dir", "postgres.guard", "postgres.run_as"];
            not_with(r, &keys, "programs and user are those of the image");
            let socket = r.text("postgres.docker").unwrap_or_else(|| DOCKER_SOCKET.to_owned());
            if socket.strip_prefix("unix://").is_none_or(|path| !Path::new(path).is_absolute()) {
                r.fault(format!(
                    "postgres.docker: {socket:?} is no socket such as {DOCKER_SOCKET}"
                ));
            }
            DriverSettings::Docker { container: r.required("postgres.container"), socket }
        }
        other => {
            if other != "process" {
                r.fault(format!(
                    "postgres.driver: {other:?} is neither \"process\" nor \"docker\""
                ));
            }
            not_with(r, &["postgres.container", "postgres.docker"], "there is no container");
            DriverSettings::Process {
                bin_dir: absolute(r, "postgres.bin_dir", None),
                guard: absolute(r, "postgres.guard", Some("/usr/lib/haclt/ha-guard".into())),
                run_as: r.text("postgres.run_as").unwrap_or_else(|| "postgres".to_owned()),
            }
        }
    }
}

/// With less than this a receiver would be stopped all the time.
const WAL_BYTES_MIN: u64 = 128 << 20;

fn witness(r: &mut Reader, data_dir: &Path) -> WitnessSettings {
    let optional = |r: &mut Reader, key: &str| {
        let path = absolute(r, key, Some(PathBuf::new()));
        (!path.as_os_str().is_empty()).then_some(path)
    };
    let wal_bytes_max = r.bytes("witness.wal_bytes_max").unwrap_or(10 << 30);
    if wal_bytes_max < WAL_BYTES_MIN {
        r.fault(format!(
            "witness.wal_bytes_max = {wal_bytes_max} is too small: at least {WAL_BYTES_MIN}"
        ));
    }
    WitnessSettings {
        bin_dir: optional(r, "witness.bin_dir"),
        wal_dir: absolute(r, "witness.wal_dir", Some(data_dir.join("wal"))),
        wal_bytes_max,
        replication_user: r
            .text("witness.replication_user")
            .unwrap_or_else(|| "haclt_replication".to_owned()),
        replication_password_file: optional(r, "witness.replication_password_file"),
    }
}

fn absolute(r: &mut Reader, key: &str, default: Option<PathBuf>) -> PathBuf {
    let path = match default {
        Some(default) => r.text(key).map_or(default, PathBuf::from),
        None => PathBuf::from(r.required(key)),
    };
    if !path.as_os_str().is_empty() && !path.is_absolute() {
        r.fault(format!("{key}: {} is not an absolute path", path.display()));
    }
    path
}

/// Splits `host:port`; IPv6 addresses stand in brackets.
fn check_address(r: &mut Reader, key: &str, text: &str) -> (String, u16) {
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
        (!host.is_empty() && !host.contains(char::is_whitespace)).then(|| (host.to_owned(), port))
    });
    parts.unwrap_or_else(|| {
        if !text.is_empty() {
            r.fault(format!("{key}: {text:?} is no host:port"));
        }
        (String::new(), 0)
    })
}

#[cfg(test)]
mod tests;
