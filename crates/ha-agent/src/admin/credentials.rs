//! Passwords of the internal users: what every node has of them, and the order to change them.

mod plan;
mod rotate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{
    CredentialEntry, CredentialFacts, CredentialsReply, CredentialsRequest, CredentialsShowReply,
};
use tonic::Status;

use crate::agent::Agent;
use crate::clock;
use crate::credentials;
use crate::doctor::finding::Finding;

pub(super) use rotate::rotate;

/// How long one node may take for a step.
const STEP_LIMIT: Duration = Duration::from_secs(8);
/// How long one node may take to tell what it has: less than `haclt` waits if nothing is said.
const LOOK_LIMIT: Duration = Duration::from_millis(3500);

/// What every node has, by one key.
struct Survey {
    key: [u8; 32],
    nodes: BTreeMap<NodeId, Result<Vec<CredentialFacts>, String>>,
}

/// Asks every node, with its server (`look`) or without (`files`).
async fn survey<D: PostgresDriver>(agent: &Arc<Agent<D>>, step: &str, key: [u8; 32]) -> Survey {
    let members = agent.members();
    let asked = members.keys().map(|node| async move {
        let request = request(agent, step, "", &key);
        let answer = call(agent, node, request).await;
        (node.clone(), answer.map(|reply| reply.users).map_err(|no| no.message().to_owned()))
    });
    Survey { key, nodes: join_all(asked).await.into_iter().collect() }
}

fn request<D>(agent: &Agent<D>, step: &str, user: &str, key: &[u8]) -> CredentialsRequest {
    CredentialsRequest {
        cluster: agent.config.cluster.clone(),
        from: agent.node().to_string(),
        step: step.to_owned(),
        user: user.to_owned(),
        key: key.to_vec(),
        ..CredentialsRequest::default()
    }
}

async fn call<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    node: &NodeId,
    request: CredentialsRequest,
) -> Result<CredentialsReply, Status> {
    if node == agent.node() {
        credentials::answer(agent, &request).await
    } else {
        let looks = ["look", "files"].contains(&request.step.as_str());
        let limit = if looks { LOOK_LIMIT } else { STEP_LIMIT };
        agent.peers.credentials(node, request, limit).await
    }
}

/// Returns the data nodes.
fn data_nodes<D>(agent: &Agent<D>) -> BTreeSet<NodeId> {
    let state = agent.state();
    let data = state.nodes.iter().filter(|(_, is)| is.kind == NodeKind::Data);
    data.map(|(node, _)| node.clone()).collect()
}

impl Survey {
    /// Returns the users, the superuser first.
    fn users(&self) -> Vec<String> {
        let facts = self.nodes.values().flatten().flatten();
        // "superuser" comes after "replication".
        let users: BTreeSet<_> =
            facts.map(|facts| (facts.purpose != "superuser", facts.user.clone())).collect();
        users.into_iter().map(|(_, user)| user).collect()
    }

    /// Returns what each node that is concerned said of a user: every data node is, and whoever else has it.
    fn of(
        &self,
        user: &str,
        data: &BTreeSet<NodeId>,
    ) -> BTreeMap<NodeId, Result<CredentialFacts, String>> {
        let found = self.nodes.iter().filter_map(|(node, answer)| {
            let facts = match answer {
                Err(why) => Err(format!("node {node} does not answer: {}", short(node, why))),
                Ok(users) => match users.iter().find(|facts| facts.user == user) {
                    Some(facts) => Ok(facts.clone()),
                    None if data.contains(node) => {
                        Err(format!("node {node} knows no role {user:?}: its agent's file differs"))
                    }
                    None => return None,
                },
            };
            Some((node.clone(), facts))
        });
        found.collect()
    }
}

/// What a node said begins with its name at times.
fn short<'a>(node: &NodeId, why: &'a str) -> &'a str {
    why.strip_prefix(&format!("node {node}: ")).unwrap_or(why)
}

/// Tells what every node has.
pub(super) async fn show<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> CredentialsShowReply {
    let survey = survey(agent, "look", clock::random_bytes()).await;
    let holder = agent.state().lease.holder().cloned();
    CredentialsShowReply { entries: entries(&survey, holder.as_ref(), &data_nodes(agent)) }
}

fn entries(
    survey: &Survey,
    primary: Option<&NodeId>,
    data: &BTreeSet<NodeId>,
) -> Vec<CredentialEntry> {
    let mut entries = Vec::new();
    for user in survey.users() {
        let all = survey.of(&user, data);
        let purpose = all.values().flatten().map(|facts| facts.purpose.clone()).next();
        let purpose = purpose.unwrap_or_default();
        let reference = reference(&all, primary);
        for (node, facts) in all {
            entries.push(match facts {
                Err(trouble) => CredentialEntry {
                    user: user.clone(),
                    purpose: purpose.clone(),
                    node: node.to_string(),
                    takes: "unknown".to_owned(),
                    agrees: "unknown".to_owned(),
                    trouble,
                    ..CredentialEntry::default()
                },
                Ok(facts) => CredentialEntry {
                    agrees: agrees(&facts, reference.as_ref()).to_owned(),
                    user: facts.user,
                    purpose: facts.purpose,
                    node: node.to_string(),
                    file: facts.file,
                    age_s: facts.age_s,
                    half_way: !facts.next.is_empty(),
                    takes: facts.takes,
                    trouble: facts.trouble,
                },
            });
        }
    }
    entries
}

/// Returns whose passwords count: the primary's, else the first node's that has any.
fn reference(
    all: &BTreeMap<NodeId, Result<CredentialFacts, String>>,
    primary: Option<&NodeId>,
) -> Option<CredentialFacts> {
    let known = |facts: &&CredentialFacts| !facts.current.is_empty();
    let of = |node: &NodeId| all.get(node)?.as_ref().ok().filter(known);
    primary.and_then(of).or_else(|| all.values().flatten().find(known)).cloned()
}

fn agrees(facts: &CredentialFacts, reference: Option<&CredentialFacts>) -> &'static str {
    let Some(reference) = reference.filter(|_| !facts.current.is_empty()) else {
        return "unknown";
    };
    let theirs = [&reference.current, &reference.next];
    let shared = |one: &Vec<u8>| !one.is_empty() && theirs.contains(&one);
    if shared(&facts.current) || shared(&facts.next) { "yes" } else { "no" }
}

/// Judges for an examination whether the nodes have the same passwords.
pub(super) async fn compared<D: PostgresDriver>(agent: &Arc<Agent<D>>) -> Vec<(NodeId, Finding)> {
    let survey = survey(agent, "files", clock::random_bytes()).await;
    let holder = agent.state().lease.holder().cloned();
    let entries = entries(&survey, holder.as_ref(), &data_nodes(agent));
    entries.iter().filter_map(|entry| Some((entry.node.parse().ok()?, judge(entry)?))).collect()
}

/// An agent that is silent is another check's.
fn judge(entry: &CredentialEntry) -> Option<Finding> {
    let id = "credentials-differ";
    let CredentialEntry { user, file, agrees, trouble, .. } = entry;
    match agrees.as_str() {
        "yes" => Some(Finding::ok(id, format!("it has the password of {user} that others have"))),
        "no" => Some(Finding::critical(
            id,
            format!("{file} has another password of {user} than the primary's node"),
            format!("put the primary's password of {user} into {file}, then restart the agent"),
        )),
        _ if file.is_empty() => None,
        _ => Some(Finding::unchecked(id, trouble)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(current: u8, next: u8) -> CredentialFacts {
        let print = |number: u8| if number == 0 { Vec::new() } else { vec![number] };
        CredentialFacts {
            user: "u".to_owned(),
            purpose: "replication".to_owned(),
            file: "/f".to_owned(),
            current: print(current),
            next: print(next),
            ..CredentialFacts::default()
        }
    }

    #[test]
    fn a_node_agrees_if_it_can_offer_one_of_the_primarys_passwords() {
        #[rustfmt::skip]
        let table = [
            // its own     the primary's  agrees
            (facts(1, 0),  facts(1, 0),   "yes"),
            (facts(1, 2),  facts(2, 0),   "yes"),
            (facts(2, 0),  facts(1, 2),   "yes"),
            (facts(3, 0),  facts(1, 2),   "no"),
            (facts(0, 0),  facts(1, 0),   "unknown"),
        ];
        for (own, primary, expected) in table {
            assert_eq!(agrees(&own, Some(&primary)), expected, "{own:?} {primary:?}");
        }
        assert_eq!(agrees(&facts(1, 0), None), "unknown");
    }

    #[test]
    fn a_node_with_another_password_is_found_and_one_that_is_silent_is_listed() {
        let node = |name: &str| name.parse::<NodeId>().expect("a name");
        let nodes = BTreeMap::from([
            (node("n1"), Ok(vec![facts(1, 0)])),
            (node("n2"), Ok(vec![facts(2, 0)])),
            (node("n3"), Err("node n3: no answer".to_owned())),
            (node("n4"), Ok(Vec::new())),
        ]);
        let survey = Survey { key: [0; 32], nodes };
        let data = BTreeSet::from([node("n1"), node("n2")]);
        let found = entries(&survey, Some(&node("n2")), &data);
        let seen: Vec<_> = found.iter().map(|e| (e.node.as_str(), e.agrees.as_str())).collect();
        assert_eq!(seen, [("n1", "no"), ("n2", "yes"), ("n3", "unknown")]);
        assert_eq!(found[2].trouble, "node n3 does not answer: no answer");
        let judged = found.iter().map(|entry| judge(entry).map(|f| f.severity.word()));
        let judged: Vec<_> = judged.collect();
        assert_eq!(judged, [Some("critical"), Some("ok"), None]);
    }
}
