//! The cluster that `make up` runs on loopback, below `./.haclt`.

pub(crate) mod down;
pub(crate) mod up;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::account::{self, Account};
use crate::cluster::{Cluster, Means, Mode, Ports, Roots, prepare};
use crate::failure::{Doing as _, Failure, Outcome};
use crate::paths::{self, Postgres};

/// Ports unless the environment says otherwise. None is one that the kernel hands to outgoing
/// connections: a client that keeps trying a server of its own machine that is down would sooner or
/// later get the server's own port, connect to itself, and keep the server from starting.
const DEFAULT_PORTS: Ports = Ports { grpc: 7401, http: 8401, postgres: 15432 };
/// How many ports each row has.
const ROW: u16 = 3;

/// What was decided when the cluster was first made, and cannot change without losing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    ports: Ports,
    postgres_root: PathBuf,
    permit_root: PathBuf,
}

/// Returns the directory of the local cluster.
pub(crate) fn root() -> PathBuf {
    paths::workspace().join(".haclt")
}

impl Record {
    /// Reads the record of an earlier `up`; `None` if there is none.
    pub(crate) fn read() -> Outcome<Option<Self>> {
        let path = root().join("cluster.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::new(format!("could not read {}: {error}", path.display())));
            }
        };
        Self::parse(&text).map(Some).ok_or_else(|| {
            Failure::new(format!("cannot understand {}", path.display()))
                .hint("Run `make down PURGE=1`: it removes the cluster and all its data.")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let port = |name: &str| value[name].as_u64().and_then(|port| u16::try_from(port).ok());
        let path = |name: &str| value[name].as_str().map(PathBuf::from);
        Some(Self {
            ports: Ports { grpc: port("grpc")?, http: port("http")?, postgres: port("postgres")? },
            postgres_root: path("postgres_root")?,
            permit_root: path("permit_root")?,
        })
    }

    fn json(&self) -> Value {
        json!({
            "grpc": self.ports.grpc, "http": self.ports.http, "postgres": self.ports.postgres,
            "postgres_root": self.postgres_root.to_string_lossy(),
            "permit_root": self.permit_root.to_string_lossy(),
        })
    }

    /// Writes the record.
    fn write(&self) -> Outcome<()> {
        account::folder(&root(), 0o755)?;
        prepare::write(&root().join("cluster.json"), &format!("{:#}\n", self.json()), 0o644)
    }

    /// Decides what a new cluster is to be like.
    fn decide(account: Option<&Account>) -> Outcome<Self> {
        let root = root();
        account::folder(&root, 0o755)?;
        let reachable = account.is_none_or(|account| account.can_enter(&root));
        Ok(Self {
            ports: ports_from(&|name| std::env::var(name).ok(), DEFAULT_PORTS)?,
            postgres_root: if reachable { root.clone() } else { elsewhere(&root) },
            permit_root: permit_root(&root),
        })
    }

    /// Refuses if the environment asks for other ports than those the cluster was made with.
    fn agrees_with_environment(&self) -> Outcome<()> {
        let asked = ports_from(&|name| std::env::var(name).ok(), self.ports)?;
        if asked == self.ports {
            return Ok(());
        }
        Err(Failure::new(format!(
            "cannot change the ports of a cluster that exists: it has {} (gRPC), {} (HTTP), {} \
             (PostgreSQL)",
            self.ports.grpc, self.ports.http, self.ports.postgres
        ))
        .hint("Run `make down PURGE=1` first: it removes the cluster and all its data."))
    }

    /// Returns all directories that belong to the cluster, to find its processes and to purge.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        vec![root(), self.postgres_root.clone(), self.permit_root.clone()]
    }

    /// Returns the cluster.
    pub(crate) fn cluster(&self, means: Means) -> Cluster {
        let roots = Roots {
            root: root(),
            postgres: self.postgres_root.clone(),
            permits: self.permit_root.clone(),
        };
        Cluster::on_loopback("local", roots, self.ports, means)
    }
}

/// Finds out with which programs and under which account the cluster is to run.
pub(crate) fn means(guard: PathBuf, account: Option<&Account>) -> Outcome<Means> {
    let run_as = account.map(|account| account.name.clone());
    Ok(Means { postgres: Postgres::find()?, guard, run_as, mode: Mode::Quorum })
}

/// Where the data directories go if PostgreSQL's account cannot get below the checkout.
fn elsewhere(root: &Path) -> PathBuf {
    PathBuf::from(format!("/var/lib/haclt-{}", tag(root)))
}

/// Where permits go: memory if there is a place for that, so that they do not survive a boot.
fn permit_root(root: &Path) -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let uid = rustix::process::getuid().as_raw();
        memory.join(format!("haclt-{uid}-{}", tag(root)))
    } else {
        root.join("permits")
    }
}

/// A short name for a path, the same every time (FNV-1a).
fn tag(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:010x}", hash >> 24)
}

fn ports_from(environment: &dyn Fn(&str) -> Option<String>, absent: Ports) -> Outcome<Ports> {
    let port = |name: &str, absent: u16| match environment(name) {
        None => Ok(absent),
        Some(text) => {
            text.parse::<u16>().ok().filter(|port| *port >= 1024 && *port <= u16::MAX - ROW).doing(
                || format!("cannot use {name}={text}: not a port from 1024 to {}", 65535 - ROW),
            )
        }
    };
    let ports = Ports {
        grpc: port("HACLT_GRPC_PORT", absent.grpc)?,
        http: port("HACLT_HTTP_PORT", absent.http)?,
        postgres: port("HACLT_POSTGRES_PORT", absent.postgres)?,
    };
    let rows = [ports.grpc, ports.http, ports.postgres];
    let overlap = [(0, 1), (0, 2), (1, 2)].iter().any(|&(a, b)| rows[a].abs_diff(rows[b]) < ROW);
    if overlap {
        return Err(Failure::new(format!(
            "cannot use ports {}, {} and {}: each is the first of a row of {ROW}, and the rows \
             overlap",
            rows[0], rows[1], rows[2]
        )));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Outcome<Ports> {
        let find = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        ports_from(&find, DEFAULT_PORTS)
    }

    #[test]
    fn ports_come_from_the_environment_where_it_names_them() {
        assert_eq!(asked(&[]), Ok(DEFAULT_PORTS));
        let got = asked(&[("HACLT_POSTGRES_PORT", "60000")]).unwrap();
        assert_eq!((got.grpc, got.postgres), (7401, 60000));
    }

    #[test]
    fn impossible_ports_are_named() {
        for (value, said) in [("x", "HACLT_GRPC_PORT=x"), ("80", "1024"), ("65535", "1024")] {
            let text = asked(&[("HACLT_GRPC_PORT", value)]).unwrap_err().to_string();
            assert!(text.contains(said), "{text}");
        }
        let text = asked(&[("HACLT_GRPC_PORT", "8402")]).unwrap_err().to_string();
        assert!(text.contains("overlap"), "{text}");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record {
            ports: DEFAULT_PORTS,
            postgres_root: "/a b".into(),
            permit_root: "/dev/shm/haclt-0-1".into(),
        };
        assert_eq!(Record::parse(&record.json().to_string()), Some(record));
        assert_eq!(Record::parse("{}"), None);
    }

    #[test]
    fn two_checkouts_get_two_tags() {
        assert_ne!(tag(Path::new("/a/.haclt")), tag(Path::new("/b/.haclt")));
        assert_eq!(tag(Path::new("/a")).len(), 10);
    }
}
