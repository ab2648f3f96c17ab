//! What has to be alike on all nodes: versions, settings, the agents' own configurations.

use std::collections::{BTreeMap, BTreeSet};

use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::Checkup;
use sha2::{Digest as _, Sha256};

use super::finding::{Finding, Severity};
use crate::config::{Config, PostgresSettings};

/// What one node says of itself, by key.
pub type Facts = BTreeMap<String, String>;

const KIND: &str = "kind";
const AGENT: &str = "agent.version";
const VERSION: &str = "version_num";
/// Before keys of the configuration, and of the server's settings.
const CONFIG: &str = "config.";
const SETTING: &str = "setting.";
/// A key of a database: it may be missing on a witness.
const OF_DATA: &str = "config.postgres.";
const UNSET: &str = "(not set)";

/// Returns what of an agent's configuration has to be alike everywhere. Nothing of it is a secret.
pub(super) fn configured(config: &Config) -> Facts {
    let policy = &config.policy;
    let mut facts = Facts::from([
        (KIND.to_owned(), config.kind.to_string()),
        (AGENT.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    let mut fact = |key: &str, value: String| facts.insert(format!("{CONFIG}{key}"), value);
    fact("cluster", config.cluster.clone());
    for (node, address) in &config.peers {
        fact(&format!("peers.{node}"), address.clone());
    }
    fact("durability.mode", policy.durability.to_string());
    fact("durability.lag_bytes_max", policy.lag_bytes_max.to_string());
    for (key, value) in [
        ("lease.ttl", policy.ttl),
        ("lease.renew_interval", policy.renew_interval),
        ("lease.margin", policy.margin),
        ("raft.heartbeat", policy.heartbeat),
        ("raft.election_min", policy.election_min),
        ("raft.election_max", policy.election_max),
        ("health.interval", policy.health.interval),
        ("health.limit", policy.health.limit),
        ("crash.window", policy.crash.window),
        ("crash.recovery_max", policy.crash.recovery_max),
        ("fencing.after", config.fencing.after),
    ] {
        fact(key, format!("{value:?}"));
    }
    fact("lease.drift_per_mille", policy.drift.per_mille.to_string());
    fact("health.failures", policy.health.failures.to_string());
    fact("health.free_bytes_min", policy.health.free_bytes_min.to_string());
    fact("crash.restarts_max", policy.crash.restarts_max.to_string());
    if let Some(postgres) = &config.postgres {
        for (key, value) in of_postgres(postgres) {
            fact(&format!("postgres.{key}"), value);
        }
    }
    facts
}

fn of_postgres(postgres: &PostgresSettings) -> Facts {
    let mut facts = Facts::from([
        ("superuser".to_owned(), postgres.superuser.clone()),
        ("replication_user".to_owned(), postgres.replication_user.clone()),
        ("fast_stop".to_owned(), format!("{:?}", postgres.fast_stop)),
        ("rejoin".to_owned(), format!("{:?}", postgres.rejoin).to_lowercase()),
        ("hba".to_owned(), digest(&postgres.hba.join("\n"))),
    ]);
    for (name, value) in &postgres.parameters {
        let name = name.to_lowercase();
        let shown = if may_be_secret(&name, value) { digest(value) } else { value.clone() };
        facts.insert(format!("parameters.{name}"), shown);
    }
    facts
}

/// Commands and connection strings hold passwords at times, and so do the settings of extensions.
fn may_be_secret(name: &str, value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%' | ' ');
    name.contains('.')
        || name.ends_with("_command")
        || name.ends_with("_conninfo")
        || value.len() > 16
        || !value.chars().all(plain)
}

/// Returns a text of which nothing can be read but whether it is the same.
fn digest(text: &str) -> String {
    let bytes = Sha256::digest(text.as_bytes());
    let hex: Vec<String> = bytes.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

/// Returns what of a server's settings has to be alike everywhere.
pub(super) fn of_server(checkup: &Checkup) -> Facts {
    let Ok(settings) = &checkup.settings else { return Facts::new() };
    let mut facts = Facts::new();
    for (name, value) in settings {
        match name.as_str() {
            "server_version_num" => drop(facts.insert(VERSION.to_owned(), value.clone())),
            // Says the same once more, and the distribution's name.
            "server_version" => {}
            _ => drop(facts.insert(format!("{SETTING}{name}"), value.clone())),
        }
    }
    facts
}

/// Compares the facts of all nodes that gave some. A finding is of the node that differs from most.
#[must_use]
pub fn judge(all: &BTreeMap<NodeId, Facts>) -> Vec<(NodeId, Finding)> {
    let keys: BTreeSet<&str> = all.values().flat_map(|f| f.keys().map(String::as_str)).collect();
    let mut findings = Vec::new();
    let mut compared: BTreeMap<&'static str, usize> = BTreeMap::new();
    for key in keys.into_iter().filter(|key| *key != KIND) {
        let values = values(all, key);
        let Some(usual) = usual(&values) else { continue };
        *compared.entry(check_of(key)).or_default() += 1;
        for (node, value) in values.iter().filter(|(_, value)| *value != usual) {
            let others: Vec<&str> =
                values.iter().filter(|(_, v)| v == &usual).map(|(node, _)| node.as_str()).collect();
            findings.push(((*node).clone(), differs(key, value, usual, &others.join(", "))));
        }
    }
    let ids = |id: &str| findings.iter().any(|(_, finding): &(NodeId, Finding)| finding.id == id);
    let fine: Vec<(&'static str, usize)> =
        compared.into_iter().filter(|(id, _)| !ids(id)).collect();
    // Of no node in particular: the first one's.
    if let Some(node) = all.keys().next() {
        let evidence = |keys| format!("{keys} compared, alike on {} nodes", all.len());
        let fine = fine.into_iter().map(|(id, keys)| Finding::ok(id, evidence(keys)));
        findings.extend(fine.map(|finding| (node.clone(), finding)));
    }
    findings
}

/// Returns who says what of a key, if it is for more than one node to say.
fn values<'a>(all: &'a BTreeMap<NodeId, Facts>, key: &str) -> Vec<(&'a NodeId, &'a str)> {
    let is_data = |facts: &Facts| facts.get(KIND).is_some_and(|k| *k == NodeKind::Data.to_string());
    let said = all.iter().filter_map(|(node, facts)| match facts.get(key) {
        Some(value) => Some((node, value.as_str())),
        // What an agent left out has a default; what a database did not say is not known.
        None if key.starts_with(OF_DATA) && is_data(facts) => Some((node, UNSET)),
        None if key.starts_with(CONFIG) && !key.starts_with(OF_DATA) => Some((node, UNSET)),
        None => None,
    });
    said.collect()
}

/// Returns the most frequent value; among equals the first node's.
fn usual<'a>(values: &[(&NodeId, &'a str)]) -> Option<&'a str> {
    let count = |value: &str| values.iter().filter(|(_, other)| *other == value).count();
    let most = values.iter().map(|(_, value)| count(value)).max()?;
    values.iter().map(|(_, value)| *value).find(|value| count(value) == most)
}

fn check_of(key: &str) -> &'static str {
    match key {
        AGENT => "agent-version-differs",
        VERSION => "postgres-version-differs",
        _ if key.starts_with(SETTING) => "postgres-settings-differ",
        _ => "configuration-differs",
    }
}

fn differs(key: &str, value: &str, usual: &str, others: &str) -> Finding {
    let id = check_of(key);
    let name = key.strip_prefix(CONFIG).or_else(|| key.strip_prefix(SETTING)).unwrap_or(key);
    let evidence = format!("{name} is {value} here, {usual} on {others}");
    match id {
        "agent-version-differs" => {
            Finding::warning(id, evidence, "upgrade the agents to one version")
        }
        "postgres-version-differs" => version(value, usual, others),
        "postgres-settings-differ" if name == "collation_version" => Finding::critical(
            id,
            format!("{evidence}: indexes on text are wrong after a failover"),
            "bring all nodes to the same operating system or C library, then REINDEX",
        ),
        "postgres-settings-differ" => {
            let mend =
                format!("set {name} alike in postgres.parameters of all nodes, then restart");
            Finding::warning(id, evidence, mend)
        }
        // Only the founding of the cluster reads it.
        _ if name == "durability.mode" => {
            Finding::note(id, evidence, "`haclt config show` has the mode in force")
        }
        _ => {
            let mend =
                format!("set {name} alike in the configuration of all agents, then restart them");
            Finding::warning(id, evidence, mend)
        }
    }
}

fn version(value: &str, usual: &str, others: &str) -> Finding {
    let id = "postgres-version-differs";
    let (Ok(ours), Ok(theirs)) = (value.parse::<u32>(), usual.parse::<u32>()) else {
        return Finding::unchecked(id, format!("versions {value:?} and {usual:?}"));
    };
    let (major, minor) = (|v: u32| v / 10_000, |v: u32| v % 10_000);
    let severity = if major(ours) == major(theirs) { Severity::Note } else { Severity::Critical };
    let show = |v: u32| format!("{}.{}", major(v), minor(v));
    let evidence = format!("PostgreSQL is {} here, {} on {others}", show(ours), show(theirs));
    match severity {
        Severity::Note => {
            Finding::note(id, evidence, "upgrade the standby first, then switch over")
        }
        _ => Finding::critical(id, evidence, "replication needs the same major on all nodes"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity::{Critical, Note, Ok as Fine, Warning};
    use super::*;

    fn facts(kind: &str, pairs: &[(&str, &str)]) -> Facts {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let mut facts: Facts = pairs.iter().map(own).collect();
        facts.insert(KIND.to_owned(), kind.to_owned());
        facts
    }

    /// The findings for one key with these values on n1, n2 (data) and n3 (witness).
    fn of(key: &str, values: [Option<&str>; 3]) -> Vec<(String, &'static str, Severity)> {
        let kinds = ["data", "data", "witness"];
        let names = ["n1", "n2", "n3"];
        let all = names.into_iter().zip(kinds).zip(values).map(|((name, kind), value)| {
            let pairs: Vec<_> = value.map(|value| (key, value)).into_iter().collect();
            (name.parse().expect("a name"), facts(kind, &pairs))
        });
        let found = judge(&all.collect());
        found.into_iter().map(|(node, f)| (node.to_string(), f.id, f.severity)).collect()
    }

    #[test]
    fn the_node_that_differs_from_most_is_named() {
        let (agent, config) = ("agent-version-differs", "configuration-differs");
        let (version, settings) = ("postgres-version-differs", "postgres-settings-differ");
        #[rustfmt::skip]
        let table = [
            (AGENT,                 [Some("1"), Some("1"), Some("1")],    "n1", agent,    Fine),
            (AGENT,                 [Some("1"), Some("1"), Some("2")],    "n3", agent,    Warning),
            (AGENT,                 [Some("2"), Some("1"), Some("1")],    "n1", agent,    Warning),
            ("config.lease.ttl",    [Some("3s"), Some("4s"), Some("3s")], "n2", config,   Warning),
            ("config.peers.n4",     [Some("x"), Some("x"), None],         "n3", config,   Warning),
            ("config.durability.mode", [Some("async"), Some("quorum"), Some("quorum")], "n1", config, Note),
            ("config.postgres.hba", [Some("a"), Some("a"), None],         "n1", config,   Fine),
            ("config.postgres.parameters.x", [Some("a"), None, None],     "n2", config,   Warning),
            (VERSION,               [Some("150004"), Some("150005"), None], "n2", version, Note),
            (VERSION,               [Some("150004"), Some("160001"), None], "n2", version, Critical),
            (VERSION,               [Some("150004"), None, None],         "n1", version,  Fine),
            ("setting.wal_level",   [Some("a"), Some("b"), None],         "n2", settings, Warning),
            ("setting.collation_version", [Some("a"), Some("b"), None],   "n2", settings, Critical),
        ];
        for (key, values, node, id, severity) in table {
            let expected = [(node.to_owned(), id, severity)];
            assert_eq!(of(key, values), expected, "{key} {values:?}");
        }
        assert_eq!(judge(&BTreeMap::new()), []);
    }

    #[test]
    fn what_may_be_a_secret_leaves_as_a_digest_only() {
        #[rustfmt::skip]
        let table = [
            ("shared_buffers",   "16MB",               false),
            ("wal_level",        "logical",            false),
            ("archive_command",  "cp",                 true),
            ("ext.key",          "hunter2",            true),
            ("some_setting",     "postgres://u:p@h/d", true),
            ("search_path",      "a/b",                true),
        ];
        for (name, value, expected) in table {
            assert_eq!(may_be_secret(name, value), expected, "{name}");
        }
        assert_eq!(digest("a"), digest("a"));
        assert_ne!(digest("a"), digest("b"));
        assert_eq!(digest("a"), "sha256:ca978112ca1b");
    }
}
