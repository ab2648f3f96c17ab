//! From what was found to what will be done: pure.

use std::path::PathBuf;

use serde::Serialize;

use super::container::Seen;
use super::journal::{NewFile, Origin};
use super::kept;
use super::server::Told;
use super::verifier::{Stored, compare};
use crate::control_file::ControlData;
use crate::driver::ControlState;
use crate::instance::{InstanceConfig, Role};

/// Something that will be different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What kind of thing: `directory`, `server`, `file`, `setting`, `role`, `container`.
    pub what: String,
    /// What it is now.
    pub from: String,
    /// What it will be.
    pub to: String,
    /// Why.
    pub why: String,
}

impl Change {
    pub(super) fn of(what: &str, from: &str, to: &str, why: &str) -> Self {
        let [what, from, to, why] = [what, from, to, why].map(str::to_owned);
        Self { what, from, to, why }
    }

    pub(super) fn setting(name: &str, from: &str, to: &str, why: &str) -> Self {
        // A connection string may have a password in it.
        let hidden = name.ends_with("conninfo") || name.ends_with("_command");
        let from = if hidden { "(not shown)" } else { from };
        Self::of("setting", &format!("{name} = {from}"), &format!("{name} = {to}"), why)
    }
}

/// A reason not to adopt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// One line that names the object.
    pub what: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// What is known before anything is done.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) told: Told,
    pub(crate) control: ControlData,
    pub(crate) data_major: u32,
    pub(crate) agent_major: u32,
    /// Where the data is and goes, as this process sees it.
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    pub(crate) same_mount: bool,
    /// What is in the way at the new place.
    pub(crate) in_the_way: Option<String>,
    /// Links in the data directory that lead out of it.
    pub(crate) links: Vec<String>,
    pub(crate) owner: (u32, u32),
    pub(crate) new_owner: (u32, u32),
    pub(crate) container: Option<Seen>,
    /// Operating systems of the old image and of haclt's: name and version.
    pub(crate) systems: Option<[(String, String); 2]>,
    /// The unit of systemd that runs the server, and whether it starts with the machine.
    pub(crate) unit: Option<(String, bool)>,
    /// Debian's `start.conf`.
    pub(crate) start_conf: Option<PathBuf>,
    /// Who else may write to the directory.
    pub(crate) busy: Vec<String>,
    /// Whether an agent answers where this node's is configured.
    pub(crate) agent_runs: bool,
    pub(crate) missing_libraries: Vec<String>,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What is adopted, in one line.
    pub summary: String,
    /// What the server is.
    pub origin: Origin,
    /// Why it cannot be adopted; empty if it can.
    pub faults: Vec<Fault>,
    /// What will be different.
    pub changes: Vec<Change>,
    /// Names of settings that stay as they are.
    pub kept_settings: Vec<String>,
    /// What is left for people to do, and to know.
    pub yours: Vec<String>,
    /// How long writes stop.
    pub downtime: String,
    /// How to go back.
    pub way_back: String,
    #[serde(skip)]
    pub(crate) files: Vec<NewFile>,
    #[serde(skip)]
    pub(crate) makes_superuser: bool,
}

/// Decides what is to be done.
pub(crate) fn plan(facts: &Facts, config: &InstanceConfig) -> Plan {
    let told = &facts.told;
    let origin = if told.recovery { Origin::Standby } else { Origin::Primary };
    let kept = kept::keep(told, config);
    let (role, mut faults) = superuser(told, &config.superuser, origin);
    faults.extend(directory_faults(facts));
    faults.extend(server_faults(facts, config));
    faults.extend(surroundings(facts));
    let mut changes = directory_changes(facts);
    changes.extend(server_changes(facts));
    changes.extend(role.clone());
    changes.extend(kept.changes);
    let taken = kept::taken_out(told);
    if !taken.is_empty() {
        let why = "ALTER SYSTEM would win over what haclt decides";
        changes.push(Change::of(
            "file",
            "postgresql.auto.conf",
            &format!("without {}", taken.join(", ")),
            why,
        ));
    }
    Plan {
        summary: summary(facts, origin),
        origin,
        faults,
        changes,
        kept_settings: kept.stays,
        yours: yours(facts, config).into_iter().chain(kept.notes).collect(),
        downtime: downtime(origin),
        way_back:
            "stop haclt's containers or service on all nodes, the primary's last, then: haclt \
                   adopt --undo (the same --config)"
                .to_owned(),
        files: kept.files,
        makes_superuser: role.is_some(),
    }
}

fn summary(facts: &Facts, origin: Origin) -> String {
    let told = &facts.told;
    let place = facts.container.as_ref().map_or_else(
        || format!("in {}", told.data_directory.display()),
        |old| format!("in container {} ({})", old.name, old.image),
    );
    let what = match origin {
        Origin::Primary => "a primary",
        Origin::Standby => "a standby",
    };
    let (major, minor) = (told.version / 10_000, told.version % 10_000);
    let id = facts.control.system_identifier;
    format!("PostgreSQL {major}.{minor} {place}: {what}, system identifier {id}")
}

fn downtime(origin: Origin) -> String {
    match origin {
        Origin::Primary => {
            "one stop: from the moment this stops the server until the cluster has started and elected \
             a primary, some 10 to 30 s if `up` follows at once"
        }
        Origin::Standby => "none for writes; this standby answers again once the cluster has started it",
    }
    .to_owned()
}

/// Returns what becomes of haclt's superuser.
fn superuser(told: &Told, role: &Role, origin: Origin) -> (Option<Change>, Vec<Fault>) {
    let name = &role.name;
    let Some(found) = told.roles.iter().find(|found| found.name == *name) else {
        if origin == Origin::Standby {
            let what = format!("role {name} is not there yet, and a standby cannot make it");
            return (None, vec![Fault::new(what, "Adopt the primary first.")]);
        }
        let why = "an account of haclt's own: none of yours changes";
        let to = format!("role {name}, superuser, with the password of superuser_password_file");
        return (Some(Change::of("role", &format!("no role {name}"), &to, why)), Vec::new());
    };
    let other_name = "Or name another role, such as \"haclt\", in postgres.superuser: it is made.";
    let mut faults = Vec::new();
    if !found.superuser {
        faults.push(Fault::new(format!("role {name} is no superuser"), other_name));
    }
    let stored = found.password.as_ref().map(crate::Secret::expose);
    let change = match (compare(stored, role), found.login) {
        (Stored::Same, true) => None,
        (Stored::Nothing, _) => Some(("no password", "nobody can be using it")),
        (Stored::SameByMd5, _) => Some(("an MD5 password", "haclt logs in by SCRAM-SHA-256")),
        (Stored::Same, false) => Some(("no login", "haclt logs in with it")),
        (Stored::Other, _) => {
            let hint =
                format!("Write its password to superuser_password_file, one line. {other_name}");
            let what = format!("role {name} has another password than superuser_password_file");
            faults.push(Fault::new(what, hint));
            None
        }
    };
    if change.is_some() && origin == Origin::Standby {
        let what = format!("role {name} has to be changed, which a standby cannot");
        faults.push(Fault::new(what, "Adopt the primary first."));
        return (None, faults);
    }
    let change = change.map(|(from, why)| {
        let from = format!("role {name} with {from}");
        Change::of(
            "role",
            &from,
            &format!("role {name} with the password of superuser_password_file"),
            why,
        )
    });
    (change, faults)
}

fn directory_faults(facts: &Facts) -> Vec<Fault> {
    let (from, to) = (facts.from.display(), facts.to.display());
    let mut faults = Vec::new();
    if let Some(why) = &facts.in_the_way {
        faults.push(Fault::new(why, "haclt adopts into an empty directory only."));
    }
    if !facts.same_mount {
        let what =
            format!("{from} and {to} are not on the same mounted file system: nothing is copied");
        let hint = "Give haclt the old volume itself, or choose another postgres.data_dir.";
        faults.push(Fault::new(what, hint));
    }
    for link in &facts.links {
        let what = format!("{link} in {from} is a link to elsewhere");
        faults.push(Fault::new(
            what,
            "haclt clones and rewinds one directory: move it back into it.",
        ));
    }
    for name in &facts.told.tablespaces {
        let what = format!("tablespace {name} is not in the data directory");
        let hint = "haclt clones and rewinds one directory: move its tables to pg_default.";
        faults.push(Fault::new(what, hint));
    }
    faults
}

fn server_faults(facts: &Facts, config: &InstanceConfig) -> Vec<Fault> {
    let told = &facts.told;
    let mut faults = Vec::new();
    let server = told.version / 10_000;
    if facts.data_major != facts.agent_major || server != facts.agent_major {
        let what = format!(
            "the database is of PostgreSQL {}, the agent's programs of {}",
            facts.data_major, facts.agent_major
        );
        faults.push(Fault::new(what, "Use programs, or an image, of the same major version."));
    }
    if told.wal_level == "logical" && !config.parameters.contains_key("wal_level") {
        let what = "wal_level is logical, and would become replica: logical replication would end";
        let hint = "Write wal_level = \"logical\" under [postgres.parameters] of the agent's configuration.";
        faults.push(Fault::new(what, hint));
    }
    if told.hba_faults > 0 && config.hba.is_empty() {
        let what = format!("{} has lines that the server cannot read", told.hba_file.display());
        faults.push(Fault::new(what, "See pg_hba_file_rules."));
    }
    if let Some(line) = kept::rules_elsewhere(told).filter(|_| config.hba.is_empty()) {
        let what = format!("{}: the line {line:?} refers to another file", told.hba_file.display());
        faults.push(Fault::new(what, "Put what it refers to into the file itself."));
    }
    for name in &facts.missing_libraries {
        let what = format!("library {name} is in use, and is not in haclt's image or programs");
        faults.push(Fault::new(
            what,
            "Use an image that has it, the old one above all (HACLT_POSTGRES_IMAGE).",
        ));
    }
    if let Some([old, new]) = &facts.systems
        && old.0 != new.0
    {
        let what = format!(
            "the old image is made of {}, haclt's of {}: they sort texts differently",
            old.0, new.0
        );
        let hint =
            "Indexes would be wrong. Use the same variant of the image (HACLT_POSTGRES_IMAGE).";
        faults.push(Fault::new(what, hint));
    }
    faults
}

fn surroundings(facts: &Facts) -> Vec<Fault> {
    let mut faults = Vec::new();
    for name in &facts.busy {
        let what = format!("container {name} runs on the data directory too");
        faults.push(Fault::new(what, format!("Stop it: docker stop {name}")));
    }
    if facts.agent_runs {
        faults.push(Fault::new(
            "the agent of this node is running",
            "Stop it first, and its database.",
        ));
    }
    if let Some((unit, true)) = &facts.unit {
        let what = format!("the unit {unit} starts the old server with the machine");
        faults.push(Fault::new(
            what,
            format!("Run `systemctl disable {unit}`; the server goes on running."),
        ));
    }
    if facts.container.as_ref().is_some_and(|old| old.auto_remove) {
        let what =
            "the old container is removed when it stops (--rm), its anonymous volumes with it";
        faults.push(Fault::new(what, "Run it without --rm, on a named volume."));
    }
    faults
}

fn directory_changes(facts: &Facts) -> Vec<Change> {
    let mut changes = Vec::new();
    if facts.from != facts.to {
        let why = "by renaming, nothing is copied; clones and old data get a place beside it";
        let [from, to] = [&facts.from, &facts.to].map(|path| path.display().to_string());
        changes.push(Change::of("directory", &from, &to, why));
    }
    if facts.owner != facts.new_owner {
        let number = |(uid, gid): (u32, u32)| format!("files of {uid}:{gid}");
        let why = "the account postgres has that number where haclt runs it";
        changes.push(Change::of("directory", &number(facts.owner), &number(facts.new_owner), why));
    }
    changes
}

fn server_changes(facts: &Facts) -> Vec<Change> {
    let why = "nothing may start it beside haclt's; it stays as the way back";
    let mut changes = Vec::new();
    if let Some(old) = &facts.container {
        let restart = old.restart.as_ref().map_or("no", |restart| restart.name.as_str());
        let from = format!("{} runs, restart policy {restart}", old.name);
        let to = format!("{} is stopped in order, restart policy no", old.name);
        changes.push(Change::of("container", &from, &to, why));
    } else {
        let unit = facts.unit.as_ref().map(|(unit, _)| format!(" ({unit})")).unwrap_or_default();
        changes.push(Change::of(
            "server",
            &format!("it runs{unit}"),
            "it is stopped in order",
            why,
        ));
    }
    if let Some(path) = &facts.start_conf {
        changes.push(Change::of("file", &path.display().to_string(), "disabled", why));
    }
    changes
}

/// What is left for people.
fn yours(facts: &Facts, config: &InstanceConfig) -> Vec<String> {
    let told = &facts.told;
    let mut yours = Vec::new();
    if let Some(old) = &facts.container {
        for port in &old.ports {
            yours.push(format!(
                "port {port} was published by {}: publish it for this node's database instead, or let \
                 clients use both nodes",
                old.name
            ));
        }
        for (from, to) in old.mounts.iter().filter(|(_, to)| is_named(told, to)) {
            yours.push(format!(
                "settings name files below {to}: mount {from}:{to}:ro into the databases' containers"
            ));
        }
        if let Some((project, service)) = &old.compose {
            yours.push(format!(
                "take service {service} out of the Compose project {project}, or its `up` starts {} \
                 again: it would find no database there and stop",
                old.name
            ));
        }
    }
    yours.push(format!(
        "clients: host=<node 1>,<node 2> port={0},{0} target_session_attrs=read-write, instead of one host",
        config.port
    ));
    for slot in &told.slots {
        yours.push(match slot.kind.as_str() {
            "logical" => format!(
                "logical slot {} is kept on this node; a standby that is promoted does not have it",
                slot.name
            ),
            _ => format!(
                "slot {} keeps WAL that nobody fetches once its standby is haclt's: SELECT \
                 pg_drop_replication_slot('{}')",
                slot.name, slot.name
            ),
        });
    }
    if !told.standbys.is_empty() {
        yours.push(format!(
            "standbys of it: {}. Adopt each on its own node right after this one, or stop it for good: \
             haclt clones a node whose directory is empty",
            told.standbys.join(", ")
        ));
    }
    if let Some([old, new]) = &facts.systems
        && old.0 == new.0
        && old.1 != new.1
    {
        yours.push(format!(
            "the images are of {} {} and {}: run REINDEX if `SELECT datname FROM pg_database WHERE \
             datcollversion <> pg_database_collation_actual_version(oid)` finds any",
            old.0, old.1, new.1
        ));
    }
    if facts.control.state == ControlState::InRecovery && !told.recovery {
        yours.push(
            "the control file says that the server is in recovery: look at it again".to_owned(),
        );
    }
    yours
}

/// Returns whether a setting that stays has a path below a directory.
fn is_named(told: &Told, directory: &str) -> bool {
    let below = format!("{}/", directory.trim_end_matches('/'));
    told.settings.iter().any(|setting| {
        let managed = ["config_file", "hba_file", "ident_file", "data_directory"];
        !managed.contains(&setting.name.as_str()) && setting.value.contains(&below)
    })
}

#[cfg(test)]
mod tests;
