//! The old server while it still runs: what it says of itself, and the account that haclt needs in it.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::password::scram_sha_256;
use serde::{Deserialize, Deserializer};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::Secret;
use crate::attempt::one_line;
use crate::docker::engine::Engine;
use crate::instance::{Role, RunAs};
use crate::sql::{identifier, literal};

/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// How long a checkpoint may take: with much to write, minutes.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);

/// Logs in over the server's own socket, with the password that the image was given, if any.
const IN_CONTAINER: &str = "\
p=${POSTGRES_PASSWORD:-}; [ -z \"${POSTGRES_PASSWORD_FILE:-}\" ] || p=$(cat \"$POSTGRES_PASSWORD_FILE\"); \
PGPASSWORD=$p exec psql -XAtq -v ON_ERROR_STOP=1 -U \"$1\" -d \"$2\" -f -";

/// Everything at once, as one JSON document.
const ASK: &str = "\
SELECT json_build_object(
 'version', current_setting('server_version_num')::int,
 'recovery', pg_is_in_recovery(),
 'data_directory', current_setting('data_directory'),
 'config_file', current_setting('config_file'),
 'hba_file', current_setting('hba_file'),
 'ident_file', current_setting('ident_file'),
 'conf', pg_read_file(current_setting('config_file')),
 'hba', pg_read_file(current_setting('hba_file')),
 'ident', pg_read_file(current_setting('ident_file')),
 'hba_faults', (SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL),
 'wal_level', current_setting('wal_level'),
 'library_dir', (SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'),
 'preloaded', current_setting('shared_preload_libraries'),
 'settings', coalesce((SELECT json_agg(json_build_object('name', name,
   'value', current_setting(name), 'source', source, 'file', sourcefile) ORDER BY name)
   FROM pg_settings WHERE source IN ('configuration file', 'command line')), '[]'),
 'databases', coalesce((SELECT json_agg(datname ORDER BY datname) FROM pg_database
   WHERE datallowconn), '[]'),
 'tablespaces', coalesce((SELECT json_agg(spcname ORDER BY spcname) FROM pg_tablespace
   WHERE spcname NOT IN ('pg_default', 'pg_global')), '[]'),
 'slots', coalesce((SELECT json_agg(json_build_object('name', slot_name, 'kind', slot_type)
   ORDER BY slot_name) FROM pg_replication_slots), '[]'),
 'standbys', coalesce((SELECT json_agg(application_name) FROM pg_stat_replication), '[]'),
 'roles', coalesce((SELECT json_agg(json_build_object('name', rolname, 'superuser', rolsuper,
   'login', rolcanlogin, 'password', rolpassword)) FROM pg_authid
   WHERE rolname IN (@roles@)), '[]'));";

/// Where the libraries of functions are, in one database.
const LIBRARIES: &str = "\
SELECT DISTINCT substr(probin, 9) FROM pg_proc WHERE probin LIKE '$libdir/%' ORDER BY 1;";

/// How statements reach the old server.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    /// By `psql` in its container.
    Container { engine: Arc<Engine>, id: String, superuser: String },
    /// By `psql` of this machine, over its socket.
    Local { psql: PathBuf, host: String, port: String, superuser: String, run_as: Option<RunAs> },
}

/// What the old server says of itself.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Told {
    pub(crate) version: u32,
    pub(crate) recovery: bool,
    pub(crate) data_directory: PathBuf,
    pub(crate) config_file: PathBuf,
    pub(crate) hba_file: PathBuf,
    pub(crate) ident_file: PathBuf,
    pub(crate) conf: String,
    pub(crate) hba: String,
    pub(crate) ident: String,
    pub(crate) hba_faults: u32,
    pub(crate) wal_level: String,
    pub(crate) library_dir: PathBuf,
    pub(crate) preloaded: String,
    pub(crate) settings: Vec<ToldSetting>,
    pub(crate) databases: Vec<String>,
    pub(crate) tablespaces: Vec<String>,
    pub(crate) slots: Vec<ToldSlot>,
    pub(crate) standbys: Vec<String>,
    pub(crate) roles: Vec<ToldRole>,
    /// Libraries of functions, of all databases.
    #[serde(default)]
    pub(crate) libraries: Vec<String>,
}

/// A setting that a file or the command line gave a value.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ToldSetting {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) source: String,
    pub(crate) file: Option<PathBuf>,
}

/// A replication slot.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ToldSlot {
    pub(crate) name: String,
    pub(crate) kind: String,
}

/// A role that haclt is to have.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ToldRole {
    pub(crate) name: String,
    pub(crate) superuser: bool,
    pub(crate) login: bool,
    #[serde(deserialize_with = "hidden")]
    pub(crate) password: Option<Secret>,
}

fn hidden<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Secret::new))
}

impl Told {
    /// Asks the server.
    pub(crate) async fn ask(access: &Access, roles: [&Role; 2]) -> Result<Self, String> {
        let names = roles.map(|role| literal(&role.name)).join(", ");
        let text = access.run("postgres", &ASK.replace("@roles@", &names), ASK_LIMIT).await?;
        let mut told: Self = serde_json::from_str(text.trim())
            .map_err(|error| format!("the old server's answer is unreadable: {error}"))?;
        for database in told.databases.clone() {
            let found = access.run(&database, LIBRARIES, ASK_LIMIT).await?;
            told.libraries.extend(found.lines().map(str::to_owned));
        }
        told.libraries.extend(told.preloaded.split(',').filter_map(|name| {
            let name = name.trim().trim_matches('"').trim_start_matches("$libdir/");
            (!name.is_empty()).then(|| name.to_owned())
        }));
        told.libraries.sort();
        told.libraries.dedup();
        Ok(told)
    }
}

/// Makes the account, or gives it its password in the form that haclt uses. The password itself does
/// not leave this process.
pub(crate) async fn make_superuser(access: &Access, role: &Role) -> Result<(), String> {
    let verifier = literal(&scram_sha_256(role.password.preferred().expose().as_bytes()));
    let (name, user) = (literal(&role.name), identifier(&role.name));
    let mut sql = String::from(
        "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; \
         SET synchronous_commit = 'local';\n",
    );
    write!(
        sql,
        "DO $haclt$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {name}) \
         THEN CREATE ROLE {user} SUPERUSER; END IF; END $haclt$;\n\
         ALTER ROLE {user} LOGIN PASSWORD {verifier};\n"
    )
    .expect("writing to a String cannot fail");
    access.run("postgres", &sql, ASK_LIMIT).await.map(drop)
}

/// Writes out what a shutdown would have to, so that it is short.
pub(crate) async fn checkpoint(access: &Access) -> Result<(), String> {
    access.run("postgres", "CHECKPOINT;", CHECKPOINT_LIMIT).await.map(drop)
}

impl Access {
    async fn run(&self, database: &str, sql: &str, limit: Duration) -> Result<String, String> {
        let asked = async {
            match self {
                Self::Container { engine, id, superuser } => {
                    let words = ["sh", "-c", IN_CONTAINER, "sh", superuser, database];
                    let words = words.map(str::to_owned).to_vec();
                    super::container::exec(engine, id, words, sql.to_owned(), limit).await
                }
                Self::Local { psql, host, port, superuser, run_as } => {
                    let words = ["-XAtqw", "-v", "ON_ERROR_STOP=1", "-f", "-", "-h", host];
                    let mut command = Command::new(psql);
                    command.args(words).args(["-p", port, "-U", superuser, "-d", database]);
                    if let Some(RunAs { uid, gid }) = run_as {
                        command.as_std_mut().uid(*uid).gid(*gid);
                    }
                    run_local(command, sql).await
                }
            }
        };
        let (code, out, err) = timeout(limit, asked)
            .await
            .map_err(|_| format!("the old server did not answer within {} s", limit.as_secs()))??;
        if code == 0 {
            return Ok(out);
        }
        let why = if err.trim().is_empty() { out } else { err };
        Err(format!("could not ask the old server: {}", one_line(why.trim())))
    }
}

/// Exit code, standard output, standard error.
pub(crate) type Ran = (i64, String, String);

async fn run_local(mut command: Command, input: &str) -> Result<Ran, String> {
    command.current_dir("/").env("LC_ALL", "C").env("PGCONNECT_TIMEOUT", "5");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.kill_on_drop(true).spawn().map_err(|error| format!("cannot run psql: {error}"))?;
    let mut pipe = child.stdin.take().ok_or("cannot write to psql")?;
    let feed = async move {
        // It may end without reading all; its exit status says what that means.
        let _all_read = pipe.write_all(input.as_bytes()).await;
        drop(pipe);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(|error| format!("cannot wait for psql: {error}"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = i64::from(output.status.code().unwrap_or(-1));
    Ok((code, text(output.stdout), text(output.stderr)))
}

/// What `postmaster.pid` says.
///
/// # Sources
/// PostgreSQL, `miscadmin.h: LOCK_FILE_LINE_*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: i32,
    pub(crate) port: String,
    pub(crate) socket_dir: String,
}

/// Reads `postmaster.pid`; none if it is not there.
pub(crate) fn pid_file(data_dir: &Path) -> Option<PidFile> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let line = |at: usize| text.lines().nth(at).map(|line| line.trim().to_owned());
    let pid = line(0)?.trim_start_matches('-').parse().ok()?;
    let socket_dir = line(4).filter(|dir| !dir.is_empty());
    // Without a socket it listens on an address.
    let host = socket_dir.or_else(|| line(5)).filter(|host| !host.is_empty() && host != "*");
    let socket_dir = host.unwrap_or_else(|| "127.0.0.1".to_owned());
    Some(PidFile { pid, port: line(3)?, socket_dir })
}
