//! Changes of several keys at once: checked, recorded under the version they are meant for, and waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ha_core::state::{Command, Outcome, Refused, State};
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{
    ConfigChangeReply, ConfigChangeRequest, ConfigDifference, ConfigSetReply, ConfigSetRequest,
    ParametersReport,
};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::{DURABILITY, check, durability, founded};
use crate::admin::orders::asker;
use crate::agent::{Agent, SubmitError};
use crate::parameters::Key;
use crate::report;

/// How long recording a change may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(5);
/// How long one answer may be waited for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How often the nodes are asked whether they have it.
const POLL: Duration = Duration::from_millis(200);
/// How long a node may take to say that.
const REPORT_LIMIT: Duration = Duration::from_millis(800);

/// Changes one key, and waits until that is in force if it is asked to.
///
/// # Errors
/// As [`change`].
pub(in crate::admin) async fn set<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &ConfigSetRequest,
) -> Result<ConfigSetReply, Status> {
    if request.key == DURABILITY {
        return durability::set(agent, request).await;
    }
    let difference = ConfigDifference {
        key: request.key.clone(),
        after: Some(request.value.clone()),
        ..ConfigDifference::default()
    };
    let all = ConfigChangeRequest {
        cluster: request.cluster.clone(),
        version: None,
        changes: vec![difference],
        check_only: false,
        wait: request.wait,
        wait_ms: request.wait_ms,
        by: request.by.clone(),
    };
    let reply = change(agent, &all).await?;
    let before = match reply.changes.into_iter().next() {
        Some(changed) => changed.before.unwrap_or_default(),
        None => request.value.clone(),
    };
    let ConfigChangeReply { outcome, detail, version, .. } = reply;
    Ok(ConfigSetReply { outcome, detail, before, version })
}

/// Changes keys, or says what would become of that.
///
/// # Errors
/// `InvalidArgument` for keys and values that are none, `FailedPrecondition` for what a rule refuses, `Aborted`
/// if the configuration has another version than the changes are meant for, `Unavailable` if nobody could be
/// asked or nobody took it, `DeadlineExceeded` if that is not known.
pub(in crate::admin) async fn change<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &ConfigChangeRequest,
) -> Result<ConfigChangeReply, Status> {
    let state = founded(agent)?;
    let wanted = parsed(request)?;
    let set = |key: &Key| state.settings.get(&key.to_string());
    let changes: BTreeMap<Key, Option<String>> =
        wanted.into_iter().filter(|(key, value)| set(key) != value.as_ref()).collect();
    let version = state.config_version;
    // Before the version: an answer may have been lost, and it was asked again.
    if changes.is_empty() {
        let outcome = if request.check_only { "possible" } else { "unchanged" };
        let (outcome, detail) = (outcome.to_owned(), "it is so already".to_owned());
        return Ok(ConfigChangeReply { outcome, detail, version, changes: Vec::new() });
    }
    if let Some(asked) = request.version.filter(|asked| *asked != state.config_version) {
        let now = state.config_version;
        return Err(Status::aborted(format!(
            "somebody else changed the configuration: it has version {now}, the change is meant for \
             version {asked}"
        )));
    }
    let needs = check::needs(agent, &state, &changes).await?;
    let differences: Vec<ConfigDifference> = changes
        .iter()
        .map(|(key, after)| ConfigDifference {
            key: key.to_string(),
            before: set(key).cloned(),
            after: after.clone(),
            needs: needs.get(key).cloned().unwrap_or_else(|| "nothing".to_owned()),
        })
        .collect();
    if request.check_only {
        let (outcome, detail) = ("possible".to_owned(), String::new());
        return Ok(ConfigChangeReply { outcome, detail, version, changes: differences });
    }
    let version = record(agent, &state, &changes, &request.by).await?;
    let limit = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
    let until = Instant::now() + if request.wait { limit } else { Duration::ZERO };
    let name = |key: &Key| match key {
        Key::Parameter { name, .. } => Some(name.clone()),
        Key::Rule(_) => None,
    };
    let names = changes.keys().filter_map(name).collect();
    let (done, detail) = await_applied(agent, version, &names, until).await;
    let outcome = if done { "done" } else { "accepted" }.to_owned();
    Ok(ConfigChangeReply { outcome, detail, version, changes: differences })
}

/// Takes keys apart, and tells of all that are none.
fn parsed(request: &ConfigChangeRequest) -> Result<BTreeMap<Key, Option<String>>, Status> {
    let mut wanted = BTreeMap::new();
    let mut faults = Vec::new();
    for change in &request.changes {
        if change.key == DURABILITY {
            faults.push(format!("{DURABILITY} is changed by itself: haclt config set"));
            continue;
        }
        match change.key.parse::<Key>() {
            Ok(key) => {
                if wanted.insert(key, change.after.clone()).is_some() {
                    faults.push(format!("{} is named twice", change.key));
                }
            }
            Err(why) => faults.push(why),
        }
    }
    if faults.is_empty() { Ok(wanted) } else { Err(Status::invalid_argument(faults.join("; "))) }
}

/// Records the changes. Returns the version that they led to.
async fn record<D: PostgresDriver>(
    agent: &Agent<D>,
    before: &State,
    changes: &BTreeMap<Key, Option<String>>,
    by: &str,
) -> Result<u64, Status> {
    let changes: BTreeMap<String, Option<String>> =
        changes.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    let (version, by) = (before.config_version, asker(by));
    let command = Command::Configure { version, changes: changes.clone(), by: by.clone() };
    match agent.submit(command, SUBMIT_LIMIT).await {
        Ok(Outcome::Applied) => {}
        Ok(Outcome::Refused(why @ Refused::StaleVersion { .. })) => {
            // The first answer may have been lost, and it was sent again.
            let state = agent.state();
            let ours = state.config_log.iter().find(|logged| logged.version == version + 1);
            let same = ours.is_some_and(|logged| {
                let after = logged.changes.iter().map(|(key, (_, after))| (key, after));
                logged.by == by && after.eq(changes.iter())
            });
            if !same {
                let why = format!("somebody else changed the configuration: {why}");
                return Err(Status::aborted(why));
            }
        }
        Ok(Outcome::Refused(why)) => return Err(Status::failed_precondition(why.to_string())),
        Err(SubmitError::NotTaken(why)) => return Err(Status::unavailable(why)),
        Err(SubmitError::Unknown(why)) => return Err(Status::deadline_exceeded(why)),
    }
    Ok(version + 1)
}

/// Waits until every data node's server has that version, as far as it can without a restart. Returns whether
/// all have, and in words which have not and what waits for a restart.
async fn await_applied<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    version: u64,
    names: &BTreeSet<String>,
    until: Instant,
) -> (bool, String) {
    let state = agent.state();
    let data = state.nodes.iter().filter(|(_, is)| is.kind == NodeKind::Data);
    let data: Vec<NodeId> = data.map(|(node, _)| node.clone()).collect();
    loop {
        let all = join_all(data.iter().map(|node| applied(agent, node))).await;
        let (mut there, mut missing, mut away) = (Vec::new(), Vec::new(), Vec::new());
        let mut words = Vec::new();
        for (node, has) in data.iter().zip(all) {
            match has {
                Has::Applied(report) if report.version >= version => {
                    if !report.pending.is_empty() {
                        let names = report.pending.join(", ");
                        words.push(format!("node {node} waits for a restart ({names})"));
                    }
                    let own = report.own.iter().filter(|name| names.contains(name.as_str()));
                    let own: Vec<&str> = own.map(String::as_str).collect();
                    if !own.is_empty() {
                        let own = own.join(", ");
                        words
                            .push(format!("node {node} has {own} of its own, in its agent's file"));
                    }
                    if report.fallen_back.is_empty() {
                        there.push(node.as_str());
                    } else {
                        let why = report.fallen_back;
                        words.push(format!("node {node} runs with what it had before: {why}"));
                    }
                }
                Has::Applied(_) | Has::NotYet => missing.push(node.as_str()),
                Has::Nothing => away.push(node.as_str()),
            }
        }
        if missing.is_empty() || Instant::now() >= until {
            let mut say = |what: &str, nodes: &[&str]| {
                if !nodes.is_empty() {
                    words.insert(0, format!("{what} {}", nodes.join(", ")));
                }
            };
            say("once its server runs on", &away);
            say("not yet on", &missing);
            say("on", &there);
            return (missing.is_empty(), words.join("; "));
        }
        sleep(POLL).await;
    }
}

/// What a data node has of the configuration.
enum Has {
    Applied(ParametersReport),
    /// Its server runs, and was not looked at yet.
    NotYet,
    /// Its server does not run, or nobody knows: it is started with the configuration of then.
    Nothing,
}

async fn applied<D: PostgresDriver>(agent: &Arc<Agent<D>>, node: &NodeId) -> Has {
    let report = if node == agent.node() {
        report::local(agent)
    } else {
        let request = report::request(agent, false);
        match agent.peers.report(node, request, REPORT_LIMIT).await {
            Ok(report) => report,
            Err(_) => return Has::Nothing,
        }
    };
    let answers = report.postgres.is_some_and(|postgres| postgres.answering);
    match report.parameters.filter(|_| answers) {
        Some(parameters) => Has::Applied(parameters),
        None if answers => Has::NotYet,
        None => Has::Nothing,
    }
}
