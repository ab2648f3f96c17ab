//! The order to change passwords, as the node that took it carries it out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha_core::NodeId;
use ha_core::clock::millis;
use ha_core::state::journal::{EventKind, Note};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{CredentialFacts, CredentialsRotateRequest, OrderReply};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::plan::{Plan, plan, takes};
use super::{Survey, call, data_nodes, request, short, survey};
use crate::admin::orders::asker;
use crate::agent::Agent;
use crate::clock;
use crate::crash_point;
use crate::notes;
use crate::oplog::OperationLog;

/// How long the servers of all nodes may be waited for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How often they are asked.
const POLL: Duration = Duration::from_millis(300);

/// How the change of one password ended.
enum End {
    /// Nothing was changed.
    Refused(String),
    /// It is to be ordered again.
    HalfWay(String),
}

/// Changes the passwords of one user or of all, one after the other.
///
/// # Errors
/// `InvalidArgument` for a user that is none, `FailedPrecondition` if nothing was changed, `DeadlineExceeded` if
/// it is half-way.
pub(in crate::admin) async fn rotate<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: CredentialsRotateRequest,
) -> Result<OrderReply, Status> {
    let Ok(leading) = Arc::clone(&agent.rotating).try_lock_owned() else {
        let why = "passwords are being changed already, by another order";
        return Err(Status::failed_precondition(why));
    };
    let agent = Arc::clone(agent);
    // It goes on if whoever asked is gone.
    let work = tokio::spawn(async move {
        let done = all(&agent, &request).await;
        drop(leading);
        done
    });
    work.await.unwrap_or_else(|ended| Err(Status::internal(ended.to_string())))
}

async fn all<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &CredentialsRotateRequest,
) -> Result<OrderReply, Status> {
    let until = Instant::now() + Duration::from_millis(request.wait_ms).min(WAIT_MAX);
    let known = survey(agent, "files", clock::random_bytes()).await.users();
    let users = match request.user.as_str() {
        "" if known.is_empty() => {
            return Err(Status::failed_precondition("no node has passwords of internal users"));
        }
        "" => known,
        user if known.iter().any(|known| known == user) => vec![user.to_owned()],
        user => {
            let why = format!("{user:?} is no internal user; these are: {}", known.join(", "));
            return Err(Status::invalid_argument(why));
        }
    };
    let mut said = Vec::new();
    for user in &users {
        let look = survey(agent, "look", clock::random_bytes()).await;
        let change = Change { agent, user, key: look.key, until };
        let planned = plan(user, &look.of(user, &data_nodes(agent)));
        let before = if said.is_empty() { String::new() } else { format!("{}; ", said.join("; ")) };
        // What was done for another user before is no "nothing was changed".
        let planned = planned.map_err(|why| {
            if said.is_empty() || request.dry_run {
                Status::failed_precondition(format!("{before}{user}: {why}; nothing was changed"))
            } else {
                Status::deadline_exceeded(format!(
                    "{before}{user}: {why}; that one was not changed"
                ))
            }
        })?;
        if request.dry_run {
            said.push(change.described(&look, &planned));
            continue;
        }
        match change.recorded(&look, planned, &asker(&request.by)).await {
            Ok(done) => said.push(done),
            Err(End::Refused(why)) => {
                let why = format!("{before}{user}: {why}; no server was told anything");
                return Err(if said.is_empty() {
                    Status::failed_precondition(why)
                } else {
                    Status::deadline_exceeded(why)
                });
            }
            Err(End::HalfWay(why)) => {
                let why = format!(
                    "{before}{user}: half-way: {why}; nobody is locked out, the old password or both \
                     are tried; given again, the order goes on where it ended"
                );
                return Err(Status::deadline_exceeded(why));
            }
        }
    }
    if request.dry_run {
        said.push("nothing was changed".to_owned());
    }
    Ok(OrderReply { outcome: "done".to_owned(), detail: said.join("; ") })
}

/// The change of one password.
struct Change<'a, D> {
    agent: &'a Arc<Agent<D>>,
    user: &'a str,
    key: [u8; 32],
    until: Instant,
}

impl<D: PostgresDriver> Change<'_, D> {
    fn described(&self, look: &Survey, plan: &Plan) -> String {
        let user = self.user;
        let nodes = names(look.of(user, &data_nodes(self.agent)).keys());
        match plan {
            Plan::Begin => format!("{user}: would be given a new password, on {nodes}"),
            Plan::GoOn { stage, .. } if stage.is_empty() => {
                format!("{user}: the new password that {nodes} have would be put in use")
            }
            Plan::GoOn { stage, .. } => format!(
                "{user}: the new password that was begun would be put on {}, then in use",
                names(stage.iter())
            ),
        }
    }

    /// Carries it out, with a log and an event of it.
    async fn recorded(&self, look: &Survey, plan: Plan, by: &str) -> Result<String, End> {
        let (agent, user, began) = (self.agent, self.user, Instant::now());
        let what = format!("new password of {user}");
        let log = OperationLog::begin(&agent.config.data_dir, "credentials", &what);
        let nodes: Vec<NodeId> = look.of(user, &data_nodes(agent)).into_keys().collect();
        let done = self.carry_out(&nodes, plan, &log).await;
        let text = match &done {
            Ok(()) => format!("{user} has a new password, on {}", names(nodes.iter())),
            Err(End::Refused(why)) => format!("{user}: not begun: {why}"),
            Err(End::HalfWay(why)) => format!("{user}: half-way: {why}"),
        };
        log.line(&text);
        let note = Note::new(EventKind::CredentialsRotated, text.clone()).about(agent.node());
        let note = note.asked_by(by).lasting(millis(began.elapsed())).logged_in(log.name());
        notes::tell(agent, note);
        done.map(|()| text)
    }

    async fn carry_out(&self, nodes: &[NodeId], plan: Plan, log: &OperationLog) -> Result<(), End> {
        let next = self.stage(nodes, plan, log).await?;
        crash_point::reached("credentials:all-staged");
        let half_way = |why: String| End::HalfWay(why);
        let (data, seen) = (data_nodes(self.agent), self.look().await);
        let seen = all_answer(seen).map_err(half_way)?;
        if let Some((node, _)) =
            seen.iter().find(|(_, facts)| facts.next != next && facts.current != next)
        {
            return Err(End::HalfWay(format!("node {node} lost the new password")));
        }
        let state = self.agent.state();
        let primary = state.lease.holder().filter(|holder| data.contains(*holder));
        let primary = primary.ok_or_else(|| half_way("nobody is primary".to_owned()))?;
        let told = seen.get(primary).is_some_and(|facts| takes(facts, &next));
        if !told {
            self.step("alter", primary, &[], &next).await.map_err(half_way)?;
        }
        log.line(&format!("the primary, {primary}, takes the new password"));
        crash_point::reached("credentials:told");
        self.await_servers(&next).await.map_err(half_way)?;
        log.line("every server takes it");
        crash_point::reached("credentials:taken");
        if data_nodes(self.agent) != data {
            return Err(half_way("the cluster has other nodes than at the beginning".to_owned()));
        }
        let mut done: Vec<&str> = Vec::new();
        for node in nodes {
            if let Err(why) = self.step("promote", node, &[], &next).await {
                let there = if done.is_empty() { "no node".to_owned() } else { done.join(", ") };
                return Err(End::HalfWay(format!("in use alone on {there}; {why}")));
            }
            done.push(node.as_str());
            log.line(&format!("node {node} has forgotten the old one"));
        }
        Ok(())
    }

    /// Sees to it that every node has the new password beside the old one, durably. Returns its fingerprint.
    async fn stage(
        &self,
        nodes: &[NodeId],
        plan: Plan,
        log: &OperationLog,
    ) -> Result<Vec<u8>, End> {
        let (mut next, salt, stage) = match plan {
            Plan::Begin => {
                (Vec::new(), clock::random_bytes().to_vec(), nodes.iter().cloned().collect())
            }
            Plan::GoOn { next, salt, stage, discard } => {
                log.line("an earlier order was not finished: this one goes on");
                for node in &discard {
                    let dropped = self.step("discard", node, &[], &next).await;
                    dropped.map_err(End::HalfWay)?;
                    log.line(&format!("node {node} has forgotten another new one"));
                }
                (next, salt, stage)
            }
        };
        let mut there = Vec::new();
        for node in &stage {
            match self.step("stage", node, &salt, &next).await {
                Ok(facts) => {
                    next = facts.next;
                    there.push(node.as_str());
                    log.line(&format!("node {node} has the new password beside the old one"));
                }
                Err(why) if there.is_empty() && next.is_empty() => return Err(End::Refused(why)),
                Err(why) => {
                    let there = there.join(", ");
                    let why = format!("{why}; only {there} got the new one, no server was told");
                    return Err(End::HalfWay(why));
                }
            }
        }
        Ok(next)
    }

    async fn look(&self) -> BTreeMap<NodeId, Result<CredentialFacts, String>> {
        let data = data_nodes(self.agent);
        survey(self.agent, "look", self.key).await.of(self.user, &data)
    }

    /// Waits until the server of every data node takes it: then no failover brings the old one back.
    async fn await_servers(&self, next: &[u8]) -> Result<(), String> {
        loop {
            let seen = self.look().await;
            let mut missing = seen.iter().filter_map(|(node, facts)| match facts {
                Ok(facts) if takes(facts, next) => None,
                Ok(_) => Some(format!("the server of node {node} does not take the new one yet")),
                Err(why) => Some(why.clone()),
            });
            let Some(why) = missing.next() else { return Ok(()) };
            if Instant::now() >= self.until {
                return Err(why);
            }
            sleep(POLL).await;
        }
    }

    /// Has a node take a step; returns what it has then.
    async fn step(
        &self,
        step: &str,
        node: &NodeId,
        salt: &[u8],
        expected: &[u8],
    ) -> Result<CredentialFacts, String> {
        let mut request = request(self.agent, step, self.user, &self.key);
        request.salt = salt.to_vec();
        request.expected = expected.to_vec();
        let reply = call(self.agent, node, request).await;
        let reply =
            reply.map_err(|status| format!("node {node}: {}", short(node, status.message())))?;
        let facts = reply.users.into_iter().find(|facts| facts.user == self.user);
        facts.ok_or_else(|| format!("node {node} knows no role {:?}", self.user))
    }
}

fn all_answer(
    seen: BTreeMap<NodeId, Result<CredentialFacts, String>>,
) -> Result<BTreeMap<NodeId, CredentialFacts>, String> {
    seen.into_iter().map(|(node, facts)| Ok((node, facts?))).collect()
}

fn names<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> String {
    nodes.map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}
