//! What is checked before anything is started: files, binaries, users.

use std::path::Path;
use std::process::Command;

use ha_postgres::Secret;
use ha_postgres::{InstanceConfig, ProcessConfig, Role, RunAs};

use crate::config::{Config, PostgresSettings};

/// Majors that the generated configuration was written for.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// What a data node's driver needs, checked.
#[derive(Debug)]
pub struct Checked {
    /// The driver's configuration.
    pub instance: InstanceConfig,
    /// Where its programs are.
    pub process: ProcessConfig,
    /// Major version of the binaries.
    pub major: u32,
}

/// Checks everything that a data node needs, without changing anything.
///
/// # Errors
/// All faults, one line each.
pub fn check(config: &Config) -> Result<Option<Checked>, Vec<String>> {
    let Some(settings) = &config.postgres else { return Ok(None) };
    let mut faults = Vec::new();
    let mut note = |result: Result<_, String>| result.map_err(|fault| faults.push(fault)).ok();
    let superuser = note(secret("superuser", &settings.superuser_password_file));
    let replication = note(secret("replication", &settings.replication_password_file));
    let mut fault_of = |result: Result<(), String>| {
        if let Err(fault) = result {
            faults.push(fault);
        }
    };
    fault_of(executable("postgres.guard", &settings.guard));
    for tool in ["postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_waldump"]
    {
        fault_of(executable("postgres.bin_dir", &settings.bin_dir.join(tool)));
    }
    let major = match major(&settings.bin_dir) {
        Ok(major) => Some(major),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    let run_as = match run_as(&settings.run_as) {
        Ok(run_as) => run_as,
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    match (superuser, replication, major) {
        (Some(superuser), Some(replication), Some(major)) if faults.is_empty() => {
            let instance = instance(config, settings, superuser, replication, run_as);
            let (bin_dir, guard) = (settings.bin_dir.clone(), settings.guard.clone());
            let process = ProcessConfig { bin_dir, guard };
            let mut faults = instance.faults();
            faults.extend(process.faults());
            if faults.is_empty() {
                Ok(Some(Checked { instance, process, major }))
            } else {
                Err(faults)
            }
        }
        _ => Err(faults),
    }
}

fn instance(
    config: &Config,
    settings: &PostgresSettings,
    superuser: Secret,
    replication: Secret,
    run_as: Option<RunAs>,
) -> InstanceConfig {
    let any = ["0.0.0.0", "::", "*"].contains(&settings.listen.0.as_str());
    let probe_host = if any { "127.0.0.1".to_owned() } else { settings.listen.0.clone() };
    InstanceConfig {
        node: config.node.clone(),
        data_dir: settings.data_dir.clone(),
        permit_dir: settings.permit_dir.clone(),
        log_dir: settings.log_dir.clone(),
        listen_addresses: vec![settings.listen.0.clone()],
        port: settings.listen.1,
        probe_host,
        superuser: Role { name: settings.superuser.clone(), password: superuser },
        replication: Role { name: settings.replication_user.clone(), password: replication },
        run_as,
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

fn major(bin_dir: &Path) -> Result<u32, String> {
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
fn run_as(name: &str) -> Result<Option<RunAs>, String> {
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
