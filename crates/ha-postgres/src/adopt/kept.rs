//! Which of the user's settings stay, which become others, and why: texts only.

use std::fmt::Write as _;
use std::path::Path;

use super::journal::NewFile;
use super::plan::Change;
use super::server::{Told, ToldSetting};
use crate::instance::InstanceConfig;
use crate::instance::settings::{
    MANAGED, RECOVERY, RESERVED, USER_FILE, USER_HBA_FILE, defaults, is_managed, quoted,
    setting_name,
};

/// Defaults of ours that hold even if the user had another value.
const FIRM: [&str; 5] = [
    "synchronous_commit",
    "wal_receiver_status_interval",
    "wal_receiver_timeout",
    "wal_retrieve_retry_interval",
    "wal_sender_timeout",
];
/// Defaults of ours that hold if the user had less.
const AT_LEAST: [&str; 3] =
    ["max_replication_slots", "max_wal_senders", "superuser_reserved_connections"];
/// Settings that name places and that the new place of the files answers.
const PLACES: [&str; 5] =
    ["config_file", "data_directory", "external_pid_file", "hba_file", "ident_file"];

/// What becomes of settings and rules.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Files for the data directory.
    pub(super) files: Vec<NewFile>,
    /// What will differ.
    pub(super) changes: Vec<Change>,
    /// Names of settings that stay.
    pub(super) stays: Vec<String>,
    /// What people have to know.
    pub(super) notes: Vec<String>,
}

/// Decides about every setting that the user gave a value.
pub(super) fn keep(told: &Told, config: &InstanceConfig) -> Kept {
    let mut kept = Kept::default();
    let own_conf = needs_own_conf(told);
    let (mut conf, mut user) = (String::new(), String::new());
    let ours = defaults();
    for setting in &told.settings {
        let ToldSetting { name, value, source, .. } = setting;
        let line = format!("{name} = {}\n", quoted(value));
        let replaced = replaced(name, value, config);
        if in_auto_conf(setting) && !is_managed(name) {
            // Nothing in a file wins over `ALTER SYSTEM`.
            if let Some((Some(to), why)) = replaced.filter(|(to, _)| to.as_ref() != Some(value)) {
                kept.notes.push(format!(
                    "{name} = {value} was set by ALTER SYSTEM and stays; it should be {to} ({why}): \
                     ALTER SYSTEM RESET {name}"
                ));
            }
            kept.stays.push(name.clone());
            continue;
        }
        if let Some((to, why)) = replaced {
            if to.as_deref() != Some(value.as_str()) {
                let to = to.unwrap_or_else(|| "haclt's".to_owned());
                kept.changes.push(Change::setting(name, value, &to, why));
            }
            continue;
        }
        kept.stays.push(name.clone());
        if source == "command line"
            || ours.contains_key(name.as_str())
            || AT_LEAST.contains(&&**name)
        {
            user.push_str(&line);
        } else if own_conf {
            conf.push_str(&line);
        }
    }
    let also: Vec<String> = ours
        .iter()
        .filter(|(name, _)| !told.settings.iter().any(|setting| setting.name == **name))
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    let why =
        "haclt's defaults, where you had set nothing; [postgres.parameters] may say otherwise";
    kept.changes.push(Change::of("settings", "PostgreSQL's defaults", &also.join(", "), why));
    if own_conf {
        let text = format!(
            "# Found by `haclt adopt`, as it was in force, in {}.\n{conf}",
            told.config_file.display()
        );
        kept.files.push(NewFile { name: "postgresql.conf".to_owned(), text });
        let why = "it is not in the data directory, or names files elsewhere: its settings are \
                   copied, so that they travel with clones";
        kept.changes.push(Change::of(
            "file",
            &told.config_file.display().to_string(),
            "postgresql.conf in the data directory",
            why,
        ));
    }
    if !user.is_empty() {
        let text = format!(
            "# Found by `haclt adopt`: settings that would not be in force otherwise. They are yours \
             to change.\n{user}"
        );
        kept.files.push(NewFile { name: USER_FILE.to_owned(), text });
    }
    rules(told, config, &mut kept);
    kept
}

/// Returns the value that a setting will have and why, if it is not the user's; no value if it depends.
fn replaced(
    name: &str,
    value: &str,
    config: &InstanceConfig,
) -> Option<(Option<String>, &'static str)> {
    let listen = "the agent's configuration says where the server listens (postgres.listen)";
    let port = config.port.to_string();
    let managed = match name {
        "listen_addresses" => Some((Some(config.listen_addresses.join(",")), listen)),
        "port" => Some((Some(port), listen)),
        "config_file" | "data_directory" | "external_pid_file" | "ident_file" => {
            Some((None, "it lies in the data directory"))
        }
        "hba_file" => Some((None, "haclt's accounts come first, your rules follow")),
        "fsync" | "full_page_writes" => {
            Some((Some("on".to_owned()), "what is acknowledged must survive a crash"))
        }
        "hot_standby" => Some((Some("on".to_owned()), "a standby is watched by asking it")),
        "wal_log_hints" => Some((Some("on".to_owned()), "a former primary is rewound")),
        "wal_level" => {
            let level = config.parameters.get(name).map_or("replica", String::as_str);
            Some((Some(level.to_owned()), "a standby needs it"))
        }
        "logging_collector" => {
            Some((Some("on".to_owned()), "the server writes its own log (postgres.log_dir)"))
        }
        "log_directory" => Some((None, "it is below postgres.log_dir")),
        "unix_socket_directories" if !config.parameters.contains_key(name) => {
            Some((None, "it is beside the data directory, unless [postgres.parameters] names one"))
        }
        "cluster_name" if !config.parameters.contains_key(name) => {
            Some((Some(config.node.to_string()), "it is the node's name"))
        }
        "synchronous_standby_names" => Some((None, "the cluster says who acknowledges commits")),
        _ if RECOVERY.contains(&name) => Some((None, "the cluster says whom a standby follows")),
        _ if MANAGED.contains(&name) => Some((None, "haclt sets it")),
        _ => None,
    };
    if managed.is_some() {
        return managed;
    }
    if let Some(configured) = config.parameters.get(name) {
        let why = "[postgres.parameters] of the agent's configuration says so: take the line out to \
                   keep yours";
        return Some((Some(configured.clone()), why));
    }
    let ours = defaults();
    let ours = if name == "superuser_reserved_connections" {
        RESERVED.to_owned()
    } else {
        ours.get(name)?.clone()
    };
    if name == "synchronous_commit" {
        let weaker = !["on", "remote_apply"].contains(&value);
        let why =
            "with less a failover may lose what was acknowledged; roles and sessions may set it";
        return weaker.then_some((Some(ours), why));
    }
    if FIRM.contains(&name) {
        return Some((Some(ours), "a lost standby has to be noticed within seconds"));
    }
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    let too_low = AT_LEAST.contains(&name) && number(value) < number(&ours);
    too_low.then_some((Some(ours), "haclt and the other nodes need some themselves"))
}

fn in_auto_conf(setting: &ToldSetting) -> bool {
    let name = setting.file.as_ref().and_then(|file| file.file_name());
    name.is_some_and(|name| name == "postgresql.auto.conf")
}

/// Returns whether the user's `postgresql.conf` cannot be used where it is going to be.
fn needs_own_conf(told: &Told) -> bool {
    let here = |path: &Path| path.starts_with(&told.data_directory);
    let outside = |setting: &ToldSetting| setting.file.as_ref().is_some_and(|file| !here(file));
    let names_place = |setting: &ToldSetting| {
        PLACES.contains(&setting.name.as_str()) && setting.source == "configuration file"
    };
    // An absolute path leads nowhere, or elsewhere, once the directory has moved.
    let absolute = told.conf.lines().any(|line| {
        let path = line.trim_start().split(['\'', ' ', '=']).find(|word| word.starts_with('/'));
        setting_name(line).starts_with("include") && path.is_some()
    });
    told.config_file.parent() != Some(&told.data_directory)
        || absolute
        || told.settings.iter().any(|setting| outside(setting) || names_place(setting))
}

/// The rules who may log in, and the maps of names that they use.
fn rules(told: &Told, config: &InstanceConfig, kept: &mut Kept) {
    let mut text = String::new();
    let is_rule = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    for line in told.hba.lines().filter(is_rule) {
        writeln!(text, "{line}").expect("writing to a String cannot fail");
    }
    let lines = text.lines().count();
    if config.hba.is_empty() {
        let text = format!(
            "# Found by `haclt adopt` in {}. They are yours to change.\n{text}",
            told.hba_file.display()
        );
        kept.files.push(NewFile { name: USER_HBA_FILE.to_owned(), text });
    }
    let to = if config.hba.is_empty() {
        format!("the same {lines} rules, after those of haclt's two accounts ({USER_HBA_FILE})")
    } else {
        "the lines of postgres.hba in the agent's configuration".to_owned()
    };
    let why = "haclt's accounts must get in whatever else is refused";
    kept.changes.push(Change::of("file", &told.hba_file.display().to_string(), &to, why));
    let maps = told.ident.lines().filter(is_rule).count();
    if maps > 0 && told.ident_file.parent() != Some(&told.data_directory) {
        let (name, text) = ("pg_ident.conf".to_owned(), told.ident.clone());
        kept.files.push(NewFile { name, text });
    }
}

/// Returns what of the rules would mean something else in another directory.
pub(super) fn rules_elsewhere(told: &Told) -> Option<&str> {
    let moves = told.hba_file.parent() != Some(&told.data_directory);
    let refers = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with('#') && (line.starts_with("include") || line.contains('@'))
    };
    told.hba.lines().find(|line| moves && refers(line))
}

/// Returns the managed settings of `postgresql.auto.conf`, which haclt takes out of it.
pub(super) fn taken_out(told: &Told) -> Vec<String> {
    let managed = told.settings.iter().filter(|s| in_auto_conf(s) && is_managed(&s.name));
    managed.map(|setting| setting.name.clone()).collect()
}
