//! What is checked before anything is started: files, binaries, users.

use std::path::Path;
use std::process::Command;

use ha_postgres::credentials::with_next;
use ha_postgres::driver::ActionError;
use ha_postgres::{
    DockerConfig, Examined, Instance, InstanceConfig, Password, ProcessConfig, Role, RunAs, Secret,
};

use crate::config::{Config, DriverSettings, PostgresSettings};

/// Where the Postgres container is remembered, in the agent's own directory.
const CONTAINER_FILE: &str = "container.json";

/// Majors that the generated configuration was written for.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// What a data node's driver needs, checked.
#[derive(Debug)]
pub struct Checked {
    /// The driver's configuration.
    pub instance: InstanceConfig,
    /// What its programs run in.
    pub driver: CheckedDriver,
    /// Major version of the programs.
    pub major: u32,
    /// What is not well and yet no reason not to start, one line each.
    pub notes: Vec<String>,
}

/// What PostgreSQL's programs run in, checked.
#[derive(Debug)]
pub enum CheckedDriver {
    /// Processes of this machine.
    Process(ProcessConfig),
    /// A container.
    Docker(DockerConfig, Box<Examined>),
}

impl Checked {
    /// Makes the driver. To be called within a Tokio runtime, where a container's engine is watched.
    ///
    /// # Errors
    /// [`ActionError`] if its directories cannot be made.
    pub fn into_driver(self) -> Result<(Instance, u32), ActionError> {
        let driver = match self.driver {
            CheckedDriver::Process(process) => Instance::on_processes(self.instance, process)?,
            CheckedDriver::Docker(docker, examined) => {
                Instance::on_docker(self.instance, docker, *examined)?
            }
        };
        Ok((driver, self.major))
    }
}

/// Checks everything that a data node needs, without changing anything but what is remembered of a
/// container.
///
/// # Errors
/// All faults, one line each.
pub fn check(config: &Config) -> Result<Option<Checked>, Vec<String>> {
    let mut faults = Vec::new();
    for (node, peer) in &config.fencing.peers {
        faults.extend(peer.engine.check().err().map(|why| format!("fencing.peers.{node}: {why}")));
    }
    let Some(settings) = &config.postgres else {
        return if faults.is_empty() { Ok(None) } else { Err(faults) };
    };
    let (mut instance, more) = with_secrets(config, settings);
    faults.extend(more);
    let checked = match &settings.driver {
        DriverSettings::Process { bin_dir, guard, run_as } => processes(bin_dir, guard, run_as)
            .map(|(process, run_as, major)| {
                instance.run_as = run_as;
                (CheckedDriver::Process(process), major, None)
            }),
        DriverSettings::Docker { container, socket } => {
            let (container, socket) = (container.clone(), socket.clone());
            let memory = config.data_dir.join(CONTAINER_FILE);
            docker(DockerConfig { container, socket, memory }, &instance)
        }
    };
    let checked = checked.map_err(|more| faults.extend(more)).ok();
    faults.extend(instance.faults());
    match checked {
        Some((driver, major, trouble)) if faults.is_empty() => {
            Ok(Some(Checked { instance, driver, major, notes: trouble.into_iter().collect() }))
        }
        _ => Err(faults),
    }
}

/// Checks what hooks and PgBouncers need. A cluster does without them, so an agent starts all the same.
#[must_use]
pub fn beside(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    for (kind, command) in &config.hooks.commands {
        let program = command.first().map(Path::new);
        let found = program.map(|program| executable(&format!("hooks.{kind}"), program));
        faults.extend(found.and_then(Result::err));
    }
    for bouncer in &config.bouncers {
        let name = format!("pgbouncer {}", bouncer.admin);
        if let Some(file) = &bouncer.password_file {
            faults.extend(secret("its console's", file).err().map(|why| format!("{name}: {why}")));
        }
        let dir = bouncer.databases_file.as_ref().and_then(|file| file.parent());
        if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
            faults.push(format!("{name}: databases_file: there is no directory {}", dir.display()));
        }
    }
    faults
}

/// Returns how this node's PostgreSQL will be run, without looking at the programs that will run it.
///
/// # Errors
/// All faults, one line each.
pub(crate) fn instance_of(
    config: &Config,
    settings: &PostgresSettings,
) -> Result<InstanceConfig, Vec<String>> {
    let (instance, faults) = with_secrets(config, settings);
    if faults.is_empty() { Ok(instance) } else { Err(faults) }
}

fn with_secrets(config: &Config, settings: &PostgresSettings) -> (InstanceConfig, Vec<String>) {
    let mut faults = Vec::new();
    let mut password = |what, file| {
        let current = secret(what, file).map(|current| with_next(current, file));
        current.unwrap_or_else(|fault| {
            faults.push(fault);
            // Stands for what is missing, so that everything else is checked all the same.
            Secret::new("missing").into()
        })
    };
    let superuser = password("superuser", &settings.superuser_password_file);
    let replication = password("replication", &settings.replication_password_file);
    (instance(config, settings, superuser, replication), faults)
}

/// Driver, major version, and what is not well.
type CheckedPrograms = (CheckedDriver, u32, Option<String>);

fn docker(docker: DockerConfig, instance: &InstanceConfig) -> Result<CheckedPrograms, Vec<String>> {
    if let Some(dir) = docker.memory.parent() {
        std::fs::create_dir_all(dir)
            .map_err(|error| vec![format!("data_dir: cannot make {}: {error}", dir.display())])?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| vec![format!("cannot start the runtime: {error}")])?;
    let examined = runtime.block_on(docker.examine(instance))?;
    let (major, trouble) = (examined.major(), examined.trouble.clone());
    Ok((CheckedDriver::Docker(docker, Box::new(examined)), major, trouble))
}

/// Checks the programs of this machine.
fn processes(
    bin_dir: &Path,
    guard: &Path,
    user: &str,
) -> Result<(ProcessConfig, Option<RunAs>, u32), Vec<String>> {
    let mut faults = Vec::new();
    let tools =
        ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_waldump"];
    let programs = tools.map(|tool| ("postgres.bin_dir", bin_dir.join(tool)));
    for (key, path) in [("postgres.guard", guard.to_owned())].into_iter().chain(programs) {
        faults.extend(executable(key, &path).err());
    }
    let major = major(bin_dir).map_err(|fault| faults.push(fault)).ok();
    let run_as = run_as(user).map_err(|fault| faults.push(fault)).ok();
    let process = ProcessConfig { bin_dir: bin_dir.to_owned(), guard: guard.to_owned() };
    faults.extend(process.faults());
    match (run_as, major) {
        (Some(run_as), Some(major)) if faults.is_empty() => Ok((process, run_as, major)),
        _ => Err(faults),
    }
}

fn instance(
    config: &Config,
    settings: &PostgresSettings,
    superuser: Password,
    replication: Password,
) -> InstanceConfig {
    let any = ["0.0.0.0", "::", "*"].contains(&settings.listen.0.as_str());
    let probe_host = match settings.driver {
        DriverSettings::Process { .. } if any => "127.0.0.1".to_owned(),
        // The server may have a network of its own: what others use is good for us.
        DriverSettings::Docker { .. } if any => settings.advertise.0.clone(),
        DriverSettings::Process { .. } | DriverSettings::Docker { .. } => settings.listen.0.clone(),
    };
    InstanceConfig {
        node: config.node.clone(),
        data_dir: settings.data_dir.clone(),
        permit_dir: settings.permit_dir.clone(),
        log_dir: settings.log_dir.clone(),
        listen_addresses: vec![settings.listen.0.clone()],
        port: settings.listen.1,
        probe_host,
        own_network: false,
        superuser: Role { name: settings.superuser.clone(), password: superuser },
        replication: Role { name: settings.replication_user.clone(), password: replication },
        run_as: None,
        margin: config.policy.margin,
        fast_stop: settings.fast_stop,
        immediate_stop: std::time::Duration::from_secs(5),
        parameters: settings.parameters.clone(),
        hba: settings.hba.clone(),
    }
}

fn secret(what: &str, path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {what} password file {}: {error}", path.display()))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() || text.contains('\n') {
        return Err(format!(
            "{what} password file {} must hold one line that is not empty",
            path.display()
        ));
    }
    Ok(Secret::new(text))
}

fn executable(key: &str, path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let found = std::fs::metadata(path)
        .map_err(|error| format!("{key}: cannot use {}: {error}", path.display()))?;
    if found.is_file() && found.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(format!("{key}: {} is not a program", path.display()))
    }
}

pub(crate) fn major(bin_dir: &Path) -> Result<u32, String> {
    let program = bin_dir.join("postgres");
    let run = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&run.stdout);
    let major = text
        .split_whitespace()
        .find_map(|word| word.split(['.', 'd', 'b', 'r']).next()?.parse::<u32>().ok())
        .ok_or_else(|| format!("{} does not say its version", program.display()))?;
    if MAJORS.contains(&major) {
        Ok(major)
    } else {
        Err(format!(
            "postgres.bin_dir: PostgreSQL {major} is not supported, versions {} to {} are",
            MAJORS.start(),
            MAJORS.end()
        ))
    }
}

/// The server refuses to run as root: then it runs as another user.
pub(crate) fn run_as(name: &str) -> Result<Option<RunAs>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")
        .map_err(|error| format!("cannot read /etc/passwd: {error}"))?;
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid = fields.get(2)?.parse().ok()?;
        let gid = fields.get(3)?.parse().ok()?;
        (fields.first() == Some(&name)).then_some(RunAs { uid, gid })
    });
    match entry {
        Some(RunAs { uid: 0, .. }) => {
            Err(format!("postgres.run_as: PostgreSQL cannot run as {name}, who is root"))
        }
        Some(run_as) => Ok(Some(run_as)),
        None => Err(format!("postgres.run_as: there is no user {name}")),
    }
}
