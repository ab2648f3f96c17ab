//! The configuration that the driver generates: texts only, no files.
//!
//! Three layers: what must hold whatever anybody does is on the server's command line, where
//! `ALTER SYSTEM` cannot reach it (rule 66); the rest of ours is in `haclt.conf`, included at the
//! end of the user's `postgresql.conf`; and what would override either is taken out of
//! `postgresql.auto.conf` while the server is stopped (rule 64).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use super::directory::{Layout, server_log_dir};
use super::{InstanceConfig, Role};
use crate::Secret;
use crate::driver::{Synchronous, Upstream};
use crate::sql::APPLICATION_NAME;

/// Our file with settings, in the data directory.
pub(super) const CONF_FILE: &str = "haclt.conf";
/// Our file with rules who may log in, in the data directory.
pub(super) const HBA_FILE: &str = "haclt_hba.conf";
/// The user's settings of an adopted database that would not be in force otherwise. They replace our
/// defaults, and the configuration's `parameters` replace them.
pub(crate) const USER_FILE: &str = "haclt_user.conf";
/// The user's rules who may log in, of an adopted database; in force unless `hba` is configured.
pub(crate) const USER_HBA_FILE: &str = "haclt_user_hba.conf";
/// What the cluster's configuration sets, in the data directory. It replaces our defaults and the user's
/// files, and the configuration's `parameters` replace it.
pub(super) const CLUSTER_FILE: &str = "haclt_cluster.conf";
/// In our `pg_hba` file while ordinary clients are kept out.
pub(super) const CLOSED: &str = "# Ordinary clients are kept out until the quorum has caught up.";
/// How many lines of our `pg_hba` file come before the cluster's rules.
pub(super) const OWN_RULES: usize = 5;

/// A path to a socket is at most that long, `.s.PGSQL.65535` and its lock included.
const SOCKET_DIR_BYTES_MAX: usize = 107 - "/.s.PGSQL.65535.lock".len();

/// Recovery settings: nobody but haclt gives them a value (rule 64).
pub(crate) const RECOVERY: [&str; 15] = [
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "promote_trigger_file",
];

/// Other settings that nobody but haclt may set.
pub(crate) const MANAGED: [&str; 12] = [
    "config_file",
    "data_directory",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "listen_addresses",
    "log_directory",
    "logging_collector",
    "port",
    SYNCHRONOUS,
    "wal_log_hints",
];

/// Sessions that ours may have at once while clients fill all others.
pub(crate) const RESERVED: &str = "6";
/// The setting that says who must acknowledge commits.
pub(super) const SYNCHRONOUS: &str = "synchronous_standby_names";
/// The setting that says whom to stream from.
pub(super) const CONNINFO: &str = "primary_conninfo";

/// What `haclt.conf` says beyond the configuration.
#[derive(Debug, Default)]
pub(super) struct Settings<'a> {
    /// Major version of the server.
    pub(super) major: u32,
    /// Whom to stream from.
    pub(super) upstream: Option<&'a Upstream>,
    /// Settings raised to what the data asks of a standby (rule 65).
    pub(super) raised: BTreeMap<&'static str, u64>,
}

/// Returns everything that is wrong with a configuration.
pub(super) fn faults(config: &InstanceConfig) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |wrong: bool, text: &dyn Fn() -> String| {
        if wrong {
            faults.push(text());
        }
    };
    let unprintable = |text: &str| text.is_empty() || text.chars().any(char::is_control);
    for path in [&config.data_dir, &config.permit_dir, &config.log_dir] {
        fault(!path.is_absolute(), &|| format!("path {} is not absolute", path.display()));
    }
    if let Some(why) = unusable_in_shell(&config.data_dir) {
        fault(true, &|| why.clone());
    }
    for Role { name, password } in [&config.superuser, &config.replication] {
        let bad = unprintable(name) || name.contains('"') || name.len() > 63;
        fault(bad, &|| format!("user name {name:?} is not usable"));
        fault(unprintable(password.preferred().expose()), &|| {
            format!("the password of {name} is not usable")
        });
    }
    let same = config.superuser.name == config.replication.name;
    fault(same, &|| "the superuser and the replication user are the same".to_owned());
    fault(config.run_as.is_some_and(|who| who.uid == 0), &|| {
        "PostgreSQL cannot run as root".into()
    });
    for (name, value) in &config.parameters {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        let bad = name.is_empty() || !name.chars().all(plain);
        fault(bad || value.contains(['\n', '\r', '\0']), &|| {
            format!("setting {name:?} is unreadable")
        });
        let key = name.to_lowercase();
        let managed = RECOVERY.contains(&key.as_str()) || MANAGED.contains(&key.as_str());
        fault(managed, &|| format!("setting {name} is managed by haclt"));
        fault(key == "wal_level" && !matches!(value.as_str(), "replica" | "logical"), &|| {
            format!("setting wal_level is {value}: expected replica or logical")
        });
    }
    for line in &config.hba {
        fault(line.contains(['\n', '\r', '\0']), &|| format!("pg_hba line {line:?} is unreadable"));
    }
    faults
}

/// Returns why WAL cannot be restored from a directory of that path: the shell would read it
/// otherwise than we do.
pub(super) fn unusable_in_shell(path: &Path) -> Option<String> {
    let strange = |c: char| c.is_control() || matches!(c, '"' | '$' | '`' | '\\');
    let usable = path.to_str().is_some_and(|text| !text.contains(strange));
    let text = path.to_string_lossy();
    (!usable).then(|| format!("path {text:?} has characters that a shell would not leave alone"))
}

/// Returns how the server restores a WAL file that it lacks: from the spool, if it is there.
///
/// # Sources
/// PostgreSQL manual, "Archive Recovery", `restore_command`: `%%` is a percent sign.
fn restore_command(layout: &Layout) -> String {
    let spool = layout.spool().display().to_string().replace('%', "%%");
    format!("test -f \"{spool}/%f\" && cp \"{spool}/%f\" \"%p\"")
}

/// Returns the arguments of the server that nothing in a file can override.
pub(crate) fn server_args(config: &InstanceConfig, layout: &Layout, major: u32) -> Vec<String> {
    let file = |name: &str| layout.in_data(name).display().to_string();
    let mut forced = vec![
        ("config_file", file("postgresql.conf")),
        ("hba_file", file(HBA_FILE)),
        ("data_directory", layout.data_dir.display().to_string()),
        ("listen_addresses", config.listen_addresses.join(",")),
        ("port", config.port.to_string()),
        ("hot_standby", "on".to_owned()),
        ("wal_level", wal_level(config).to_owned()),
        ("wal_log_hints", "on".to_owned()),
        ("fsync", "on".to_owned()),
        ("full_page_writes", "on".to_owned()),
        ("primary_slot_name", config.node.to_string()),
        ("recovery_target_timeline", "latest".to_owned()),
        ("recovery_min_apply_delay", "0".to_owned()),
        ("restore_command", restore_command(layout)),
    ];
    let blank = |name: &&str| {
        name.starts_with("recovery_target_") && !name.ends_with("_timeline")
            || ["recovery_target", "recovery_end_command"].contains(name)
            || *name == "promote_trigger_file" && major < 16
    };
    // These two have no blank value, and mean nothing without a target.
    let idle = ["recovery_target_action", "recovery_target_inclusive"];
    let blanks = RECOVERY.into_iter().filter(blank).filter(|name| !idle.contains(name));
    forced.extend(blanks.map(|name| (name, String::new())));
    let mut args = vec!["-D".to_owned(), layout.data_dir.display().to_string()];
    args.extend(forced.iter().flat_map(|(k, v)| ["-c".to_owned(), format!("{k}={v}")]));
    args
}

fn wal_level(config: &InstanceConfig) -> &str {
    config.parameters.get("wal_level").map_or("replica", String::as_str)
}

/// Returns the text of `haclt.conf`.
pub(super) fn conf(config: &InstanceConfig, layout: &Layout, settings: &Settings<'_>) -> String {
    let sockets = layout.run_dir.display().to_string();
    let sockets = if sockets.len() > SOCKET_DIR_BYTES_MAX { String::new() } else { sockets };
    let mut text = String::from("# Generated by haclt. Changes made here are lost.\n");
    let mut defaults: BTreeMap<&str, String> = defaults();
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    values.insert("unix_socket_directories", sockets);
    values.insert("wal_level", wal_level(config).to_owned());
    values.insert("cluster_name", config.node.to_string());
    let connections = config.parameters.get("max_connections");
    if connections.is_none_or(|value| value.parse().is_ok_and(|number: u32| number > 20)) {
        // A barrier, a probe, and who looks at receivers, all at once.
        defaults.insert("superuser_reserved_connections", RESERVED.to_owned());
    }
    for (name, value) in &config.parameters {
        values.insert(name, value.clone());
    }
    for (name, value) in &settings.raised {
        values.insert(name, value.to_string());
    }
    let managed = [
        ("listen_addresses", config.listen_addresses.join(",")),
        ("port", config.port.to_string()),
        ("hba_file", layout.in_data(HBA_FILE).display().to_string()),
        ("hot_standby", "on".to_owned()),
        ("wal_log_hints", "on".to_owned()),
        ("logging_collector", "on".to_owned()),
        ("log_directory", server_log_dir(config).display().to_string()),
        (
            "primary_conninfo",
            settings
                .upstream
                .map_or_else(String::new, |upstream| standby_conninfo(config, layout, upstream)),
        ),
        ("primary_slot_name", config.node.to_string()),
        ("recovery_target_timeline", "latest".to_owned()),
        ("restore_command", restore_command(layout)),
        // Of a server about to start, of whatever kind: the cluster says later who acknowledges.
        (SYNCHRONOUS, Synchronous::Closed.setting()),
    ];
    values.extend(managed);
    defaults.retain(|name, _| !values.contains_key(name));
    set(&mut text, &defaults);
    for file in [USER_FILE, CLUSTER_FILE] {
        writeln!(text, "include_if_exists '{file}'").expect("writing to a String cannot fail");
    }
    set(&mut text, &values);
    if settings.major < 16 {
        text.push_str("promote_trigger_file = ''\n");
    }
    text
}

fn set(text: &mut String, values: &BTreeMap<&str, String>) {
    for (name, value) in values {
        writeln!(text, "{name} = {}", quoted(value)).expect("writing to a String cannot fail");
    }
}

/// How long a base backup may take to answer: PostgreSQL's own default.
const CLONE_PATIENCE: &str = "60s";

/// Settings that the user's `parameters` may replace.
pub(crate) fn defaults() -> BTreeMap<&'static str, String> {
    let values = [
        ("password_encryption", "scram-sha-256"),
        ("max_wal_senders", "16"),
        ("max_replication_slots", "16"),
        ("synchronous_commit", "on"),
        ("wal_keep_size", "256MB"),
        // A standby that stays away must not fill the primary's disk (rule 82).
        ("max_slot_wal_keep_size", "10GB"),
        ("wal_sender_timeout", "5s"),
        ("wal_receiver_timeout", "5s"),
        ("wal_receiver_status_interval", "1s"),
        // The default of 5 s would be the time to find a new primary after a failover.
        ("wal_retrieve_retry_interval", "200ms"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        ("log_filename", "postgresql-%a.log"),
        ("log_truncate_on_rotation", "on"),
        ("log_rotation_age", "1d"),
        ("log_rotation_size", "0"),
    ];
    values.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

/// Returns a value as `postgresql.conf` wants it.
pub(crate) fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Returns how the WAL receiver reaches its upstream: under the node's name, by which it counts as
/// the one who acknowledges commits (rule 70).
pub(super) fn standby_conninfo(
    config: &InstanceConfig,
    layout: &Layout,
    upstream: &Upstream,
) -> String {
    conninfo(config, layout, upstream, config.node.as_str())
}

/// Returns how our tools reach an upstream: not under the node's name, since what a base backup
/// receives is no acknowledgement by the node.
pub(super) fn tool_conninfo(
    config: &InstanceConfig,
    layout: &Layout,
    upstream: &Upstream,
) -> String {
    conninfo(config, layout, upstream, APPLICATION_NAME)
}

/// Returns how a base backup reaches an upstream. Nobody waits for what it receives, so that it need not
/// answer as soon as a standby must ([`defaults`]): while it fills a disk, one sync can take longer
/// than that, and a copy of hours would begin again from nothing.
pub(super) fn clone_conninfo(
    config: &InstanceConfig,
    layout: &Layout,
    upstream: &Upstream,
) -> String {
    let conninfo = tool_conninfo(config, layout, upstream);
    format!("{conninfo} options='-c wal_sender_timeout={CLONE_PATIENCE}'")
}

/// The password is in the pass file.
fn conninfo(
    config: &InstanceConfig,
    layout: &Layout,
    upstream: &Upstream,
    application: &str,
) -> String {
    connection(&config.replication.name, &layout.pass_file(), upstream, application)
}

/// Returns how whatever receives WAL connects to an upstream, as one conninfo string.
pub(crate) fn connection(
    user: &str,
    pass_file: &Path,
    upstream: &Upstream,
    application: &str,
) -> String {
    let words = [
        ("host", upstream.host.clone()),
        ("port", upstream.port.to_string()),
        ("user", user.to_owned()),
        ("application_name", application.to_owned()),
        ("passfile", pass_file.display().to_string()),
        ("sslmode", "prefer".to_owned()),
        ("connect_timeout", "3".to_owned()),
        ("keepalives_idle", "2".to_owned()),
        ("keepalives_interval", "1".to_owned()),
        ("keepalives_count", "3".to_owned()),
        ("tcp_user_timeout", "5000".to_owned()),
    ];
    let word = |(name, value): &(&str, String)| {
        format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Returns the text of the pass file: the replication user's password, for any host.
pub(super) fn pass_file(config: &InstanceConfig) -> String {
    pass_line(&config.replication, &config.replication.password.preferred())
}

/// Returns the line of a pass file for a user with that password, on any host.
pub(crate) fn pass_line(role: &Role, password: &Secret) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{}:{}\n", escaped(&role.name), escaped(password.expose()))
}

/// Returns the text of our `pg_hba.conf`: our own users first, then the cluster's rules, then the configured
/// lines, or those that an adopted database had; nobody else if ordinary clients are not let in (rule 99).
pub(super) fn hba(
    config: &InstanceConfig,
    cluster: &[String],
    adopted: Option<&str>,
    admit: bool,
) -> String {
    let user = |role: &Role| format!("\"{}\"", role.name);
    let (superuser, replication) = (user(&config.superuser), user(&config.replication));
    // Where the server has a network of its own the agent is a neighbour there.
    let near = if config.own_network { "samenet" } else { "samehost" };
    let from = if admit { "all" } else { near };
    let mut lines = vec!["# Generated by haclt. Changes made here are lost.".to_owned()];
    let ours = [("all", superuser, from), ("postgres,replication", replication, "all")];
    for (databases, who, from) in ours {
        lines.push(format!("local {databases} {who} scram-sha-256"));
        lines.push(format!("host {databases} {who} {from} scram-sha-256"));
    }
    if admit {
        lines.extend(cluster.iter().cloned());
    }
    if !admit {
        lines.push(CLOSED.to_owned());
        for databases in ["all", "replication"] {
            lines.push(format!("local {databases} all reject"));
            lines.push(format!("host {databases} all all reject"));
        }
    } else if !config.hba.is_empty() {
        lines.extend(config.hba.iter().cloned());
    } else if let Some(adopted) = adopted {
        lines.extend(adopted.lines().map(str::to_owned));
    } else {
        lines.push("local all all scram-sha-256".to_owned());
        lines.push("host all all all scram-sha-256".to_owned());
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Returns the text of `haclt.conf` with one setting replaced, or none if it says so already.
pub(super) fn with_setting(text: &str, name: &str, value: &str) -> Option<String> {
    let line = format!("{name} = {}\n", quoted(value));
    let mut there = text.split_inclusive('\n').filter(|old| setting_name(old) == name);
    if there.next() == Some(line.as_str()) && there.next().is_none() {
        return None;
    }
    let others = text.split_inclusive('\n').filter(|old| setting_name(old) != name);
    Some(others.chain([line.as_str()]).collect())
}

/// Returns the text of a `haclt.conf` of an earlier version, with the cluster's file where it belongs: behind
/// the user's one, before what is managed.
pub(super) fn with_cluster_file(text: &str) -> String {
    let ours = format!("include_if_exists '{CLUSTER_FILE}'\n");
    let users = format!("include_if_exists '{USER_FILE}'\n");
    match text.split_once(&users) {
        Some((before, after)) => format!("{before}{users}{ours}{after}"),
        None => format!("{ours}{text}"),
    }
}

/// Returns whether a configuration file sets the setting.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    text.lines().any(|line| setting_name(line) == name)
}

/// Returns the user's `postgresql.conf` with our line at its end, or none if it is there already.
pub(crate) fn with_include(text: &str) -> Option<String> {
    let last = text.lines().map(str::trim).rfind(|l| !l.is_empty() && !l.starts_with('#'));
    if last.is_some_and(|line| setting_name(line) == "include" && line.contains(CONF_FILE)) {
        return None;
    }
    // Somebody wrote below it: the line moves to the end again, because the last value counts.
    let ours = |line: &&str| !(setting_name(line) == "include" && line.contains(CONF_FILE));
    let mut text: String = text.split_inclusive('\n').filter(ours).collect();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    writeln!(text, "include '{CONF_FILE}'").expect("writing to a String cannot fail");
    Some(text)
}

/// Returns `postgresql.auto.conf` without what haclt manages, without what the cluster sets, and without
/// values below `lowest`, or none if nothing is to be taken out.
pub(crate) fn stripped(
    text: &str,
    lowest: &BTreeMap<&'static str, u64>,
    cluster: &BTreeSet<String>,
) -> Option<String> {
    let stays = |line: &&str| {
        let name = setting_name(line);
        let value = line.split_once('=').map_or("", |(_, value)| value);
        let value = value.trim().trim_matches('\'').parse::<u64>();
        let too_low = lowest.get(name.as_str()).is_some_and(|low| value.is_ok_and(|v| v < *low));
        !too_low && !is_managed(&name) && !cluster.contains(&name)
    };
    let kept: String = text.split_inclusive('\n').filter(stays).collect();
    (kept.len() != text.len()).then_some(kept)
}

pub(crate) fn is_managed(name: &str) -> bool {
    RECOVERY.contains(&name) || MANAGED.contains(&name)
}

/// Returns the name that a line of a configuration file sets, in lower case; empty for a comment.
pub(crate) fn setting_name(line: &str) -> String {
    let line = line.trim_start();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    line.chars().take_while(plain).collect::<String>().to_lowercase()
}

/// Returns where the server's configuration is, if it is in the data directory.
pub(super) fn config_file_arg(data_dir: &Path) -> String {
    format!("config_file={}", data_dir.join("postgresql.conf").display())
}

#[cfg(test)]
mod tests;
