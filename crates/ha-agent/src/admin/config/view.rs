//! What is set, what of it is in force where, and who changed what.

use ha_core::NodeKind;
use ha_core::state::operator::ConfigChange;
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{
    ConfigDifference, ConfigHistoryEntry, ConfigHistoryReply, ConfigItem, ConfigNode,
    ConfigShowReply, ParametersReport,
};
use tonic::Status;

use super::{DURABILITY, founded};
use crate::admin::picture::Picture;
use crate::agent::Agent;
use crate::parameters::{Key, Scope};

/// Returns the configuration, and what each data node has of it.
///
/// # Errors
/// `FailedPrecondition` while there is no cluster.
pub(in crate::admin) async fn show<D: PostgresDriver>(
    agent: &Agent<D>,
) -> Result<ConfigShowReply, Status> {
    founded(agent)?;
    let Picture { state, reports, .. } = Picture::take(agent).await;
    let in_force = state.recorded.as_ref().map_or(state.durability, |recorded| recorded.mode);
    let changing = if in_force == state.durability { String::new() } else { in_force.to_string() };
    let mut items = vec![ConfigItem {
        key: DURABILITY.to_owned(),
        value: state.durability.to_string(),
        in_force: changing,
        about: "who must have a commit before its client is told: quorum | strict-standby | async"
            .to_owned(),
        awaited: String::new(),
    }];
    let data = state.nodes.iter().filter(|(_, is)| is.kind == NodeKind::Data);
    let nodes: Vec<Seen> = data
        .map(|(node, _)| {
            let report = reports.get(node).and_then(Option::as_ref);
            Seen {
                name: node.to_string(),
                role: report.map(|report| report.role.clone()).unwrap_or_default(),
                has: report.and_then(|report| report.parameters.clone()),
            }
        })
        .collect();
    items.extend(state.settings.iter().map(|(key, value)| ConfigItem {
        key: key.clone(),
        value: value.clone(),
        in_force: String::new(),
        about: about(key),
        awaited: awaited(key, &nodes),
    }));
    let nodes = nodes.into_iter().map(Seen::wire).collect();
    Ok(ConfigShowReply { version: state.config_version, items, nodes })
}

/// What a data node says of itself.
struct Seen {
    name: String,
    role: String,
    has: Option<ParametersReport>,
}

impl Seen {
    fn wire(self) -> ConfigNode {
        let version = self.has.as_ref().map(|has| has.version);
        let pending = self.has.map(|has| has.pending).unwrap_or_default();
        ConfigNode { name: self.name, version, pending }
    }
}

fn about(key: &str) -> String {
    let text = match key.parse() {
        Ok(Key::Parameter { scope: Scope::Everywhere, .. }) => "parameter of every server",
        Ok(Key::Parameter { scope: Scope::Primary, .. }) => "parameter of the primary",
        Ok(Key::Parameter { scope: Scope::Standby, .. }) => "parameter of a standby",
        Ok(Key::Rule(_)) => "rule of pg_hba.conf, on every server",
        Err(_) => "not known to this agent",
    };
    text.to_owned()
}

/// What a key waits for, in words.
fn awaited(key: &str, nodes: &[Seen]) -> String {
    let Ok(Key::Parameter { scope, name }) = key.parse() else { return String::new() };
    let concerned = |seen: &&Seen| match scope {
        Scope::Everywhere => true,
        Scope::Primary => seen.role == "primary",
        Scope::Standby => seen.role == "standby",
    };
    let listed = |what: &str, has: &dyn Fn(&ParametersReport) -> bool| {
        let some = nodes.iter().filter(concerned);
        let some = some.filter(|seen| seen.has.as_ref().is_some_and(has));
        let names: Vec<&str> = some.map(|seen| seen.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
    };
    let waits = listed("waits for a restart of", &|has| has.pending.contains(&name));
    let own = listed("set otherwise in the agent's file on", &|has| has.own.contains(&name));
    waits.into_iter().chain(own).collect::<Vec<_>>().join("; ")
}

/// Returns the changes that are remembered.
///
/// # Errors
/// As [`show`].
pub(in crate::admin) fn history<D: PostgresDriver>(
    agent: &Agent<D>,
) -> Result<ConfigHistoryReply, Status> {
    let state = founded(agent)?;
    Ok(ConfigHistoryReply { entries: state.config_log.iter().map(entry).collect() })
}

fn entry(change: &ConfigChange) -> ConfigHistoryEntry {
    let ConfigChange { version, at_unix_ms, by, changes } = change;
    let changes = changes.iter().map(|(key, (before, after))| ConfigDifference {
        key: key.clone(),
        before: before.clone(),
        after: after.clone(),
        needs: String::new(),
    });
    let (version, at_unix_ms, by) = (*version, *at_unix_ms, by.clone());
    ConfigHistoryEntry { version, at_unix_ms, by, changes: changes.collect() }
}
