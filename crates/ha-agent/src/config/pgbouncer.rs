//! The `[[pgbouncer]]` sections.

use std::path::PathBuf;
use std::time::Duration;

use ha_postgres::pgbouncer::Address;

use super::reader::Reader;
use super::{absolute, check_address};

/// How long transactions may take to end before a switchover is broken off.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(5);
/// PgBouncer itself lets clients wait for two minutes (`query_wait_timeout`).
const PAUSE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// One PgBouncer.
#[derive(Debug, Clone)]
pub struct BouncerSettings {
    /// Where its console listens.
    pub admin: Address,
    /// A user of its `admin_users`.
    pub user: String,
    /// File with that user's password; none is needed over a socket, or with `auth_type = trust`.
    pub password_file: Option<PathBuf>,
    /// Its list of databases, if this agent is to write that.
    pub databases_file: Option<PathBuf>,
    /// Which of its databases are the cluster's; all if that is empty.
    pub databases: Vec<String>,
    /// How long transactions may take to end before a switchover is broken off.
    pub pause_timeout: Duration,
}

pub(super) fn settings(r: &mut Reader) -> Vec<BouncerSettings> {
    let mut bouncers: Vec<BouncerSettings> = Vec::new();
    for (mut table, number) in r.list("pgbouncer").into_iter().zip(1..) {
        let bouncer = bouncer(&mut table);
        if bouncers.iter().any(|known| known.admin == bouncer.admin) {
            table.fault(format!("admin: {} is listed already", bouncer.admin));
        }
        r.absorb(&format!("pgbouncer {number}"), table);
        bouncers.push(bouncer);
    }
    bouncers
}

fn bouncer(r: &mut Reader) -> BouncerSettings {
    let text = r.required("admin");
    let admin = if text.starts_with('/') {
        Address::socket(&text).unwrap_or_else(|| {
            r.fault(format!("admin: {text} is no socket such as /run/pgbouncer/.s.PGSQL.6432"));
            Address::tcp("", 0)
        })
    } else {
        let (host, port) = check_address(r, "admin", &text);
        Address::tcp(&host, port)
    };
    let optional = |r: &mut Reader, key: &str| {
        let path = absolute(r, key, Some(PathBuf::new()));
        (!path.as_os_str().is_empty()).then_some(path)
    };
    let databases = r.texts("databases").unwrap_or_default();
    for name in &databases {
        if name.is_empty() || name == "*" || name.contains(char::is_control) {
            r.fault(format!("databases: {name:?} is no name of a database"));
        }
    }
    let pause_timeout = r.duration("pause_timeout").unwrap_or(PAUSE_TIMEOUT);
    if pause_timeout.is_zero() || pause_timeout > PAUSE_TIMEOUT_MAX {
        let max = PAUSE_TIMEOUT_MAX.as_secs();
        r.fault(format!("pause_timeout: not between 1ms and {max}s"));
    }
    BouncerSettings {
        admin,
        user: r.text("user").unwrap_or_else(|| "pgbouncer".to_owned()),
        password_file: optional(r, "password_file"),
        databases_file: optional(r, "databases_file"),
        databases,
        pause_timeout,
    }
}
