//! Whether values are ones that the servers would take: asked of the primary's.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_core::state::State;
use ha_postgres::driver::{PostgresDriver, Verdict};
use ha_postgres::parameters::{check_own, check_rule, owned};
use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::{ConfigCheckReply, ConfigCheckRequest, ConfigVerdict};
use tokio::time::Instant;
use tonic::Status;

use crate::agent::Agent;
use crate::parameters::Key;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How long another agent may take beyond that.
const SLACK: Duration = Duration::from_secs(2);

/// Asks this node's own server. Changes nothing.
///
/// # Errors
/// `FailedPrecondition` for a node without a database, `Unavailable` if the server does not answer.
pub(in crate::admin) async fn check<D: PostgresDriver>(
    agent: &Agent<D>,
    request: &ConfigCheckRequest,
) -> Result<ConfigCheckReply, Status> {
    let Some(database) = &agent.database else {
        return Err(Status::failed_precondition("a witness has no server"));
    };
    let values = request.values.clone().into_iter().collect();
    let verdicts = database.driver.check_parameters(&values, Instant::now() + LIMIT).await;
    let verdicts = verdicts.map_err(|error| Status::unavailable(error.to_string()))?;
    let verdicts = verdicts.into_iter().map(|(name, verdict)| {
        let (needs, why) = match verdict {
            Verdict::Reload => ("reload", String::new()),
            Verdict::Restart => ("restart", String::new()),
            Verdict::Unchecked => ("unchecked", String::new()),
            Verdict::Refused(why) => ("refused", why),
        };
        ConfigVerdict { name, needs: needs.to_owned(), why }
    });
    Ok(ConfigCheckReply { verdicts: verdicts.collect() })
}

/// Returns what each change needs: `reload`, `restart`, `unchecked` or, of a rule, `reload`.
///
/// # Errors
/// `FailedPrecondition` for what is haclt's own, or without a primary to ask; `InvalidArgument` with all values
/// that are none; `Unavailable` if the primary does not answer.
pub(super) async fn needs<D: PostgresDriver>(
    agent: &Agent<D>,
    state: &State,
    changes: &BTreeMap<Key, Option<String>>,
) -> Result<BTreeMap<Key, String>, Status> {
    let mut faults = Vec::new();
    for (key, value) in changes {
        let (Key::Parameter { name, .. }, Some(_)) = (key, value) else { continue };
        if let Some(why) = owned(name) {
            faults.push(format!("{key} is not changed: {name} is managed by haclt: {why}"));
        }
    }
    if !faults.is_empty() {
        return Err(Status::failed_precondition(faults.join("; ")));
    }
    let mut needs = BTreeMap::new();
    // Each key's own value, asked at once as far as no two are for one parameter.
    let mut asked: Vec<(&Key, &str, String)> = Vec::new();
    for (key, value) in changes {
        match (key, value) {
            (Key::Rule(_), value) => {
                if let Some(why) = value.as_deref().and_then(|rule| check_rule(rule).err()) {
                    faults.push(format!("{key}: {why}"));
                }
                needs.insert(key.clone(), "reload".to_owned());
            }
            (Key::Parameter { name, .. }, Some(value)) => {
                if let Err(why) = check_own(name, value) {
                    faults.push(format!("{key}: {why}"));
                }
                asked.push((key, name, value.clone()));
            }
            // What was set says what taking it out needs.
            (Key::Parameter { name, .. }, None) => {
                if let Some(old) = state.settings.get(&key.to_string()) {
                    asked.push((key, name, old.clone()));
                }
            }
        }
    }
    while !asked.is_empty() && faults.is_empty() {
        let mut values = BTreeMap::new();
        let (now, later) = asked.into_iter().partition::<Vec<_>, _>(|(_, name, value)| {
            let new = !values.contains_key(*name);
            if new {
                values.insert((*name).to_owned(), value.clone());
            }
            new
        });
        asked = later;
        let verdicts = ask_primary(agent, state, values).await?;
        for (key, name, value) in now {
            let verdict = verdicts.iter().find(|verdict| verdict.name == name);
            let verdict = verdict.ok_or_else(|| Status::internal("the answer lacks a name"))?;
            let taken_out = changes.get(key).is_none_or(Option::is_none);
            if verdict.needs == "refused" && !taken_out {
                faults.push(format!("{key} = {value:?}: {}", verdict.why));
            }
            let needed =
                if taken_out && verdict.needs == "refused" { "reload" } else { &verdict.needs };
            needs.insert(key.clone(), needed.to_owned());
        }
    }
    if faults.is_empty() { Ok(needs) } else { Err(Status::invalid_argument(faults.join("; "))) }
}

async fn ask_primary<D: PostgresDriver>(
    agent: &Agent<D>,
    state: &State,
    values: BTreeMap<String, String>,
) -> Result<Vec<ConfigVerdict>, Status> {
    let cluster = agent.config.cluster.clone();
    let request = ConfigCheckRequest { cluster, values: values.into_iter().collect() };
    let Some(holder) = state.lease.holder() else {
        let why = "there is no primary now to ask whether it would take that: try again";
        return Err(Status::failed_precondition(why));
    };
    if holder == agent.node() {
        return check(agent, &request).await.map(|reply| reply.verdicts);
    }
    let call = |mut admin: AdminClient<_>| async move { admin.config_check(request).await };
    agent.peers.forward(holder, LIMIT + SLACK, call).await.map(|reply| reply.verdicts)
}
