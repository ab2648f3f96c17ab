//! The nodes of the cluster, and the one whose store was lost.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ha_core::decide::Rule;
use ha_core::state::journal::{EventKind, Note};
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{HelloReply, NodeEntry, NodeListReply, NodeReplaceRequest, OrderReply};
use ha_raft::MemberInfo;
use tonic::Status;

use super::orders::asker;
use crate::agent::Agent;
use crate::founding;
use crate::hand_over;
use crate::notes;

/// How long a node may take to say who it is.
pub(super) const HELLO_LIMIT: Duration = Duration::from_millis(900);
/// How long a change of the group may take, a store that catches up included, at least and at most.
pub(super) const REPLACE_LIMITS: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(600));

/// Returns every node, and its place among the voters.
pub(super) async fn list<D: PostgresDriver>(agent: &Agent<D>) -> NodeListReply {
    let status = agent.raft.status();
    let state = agent.state();
    let members = agent.members();
    let entries = members.iter().map(|(node, address)| {
        let known = state.nodes.get(node);
        let member = status.members.get(node);
        let store = member.map(|member| founding::store_text(member.store_id));
        let raft = match member {
            Some(_) if state.is_leaving(node) => "leaving",
            Some(_) if status.voters.contains(node) => "voter",
            Some(_) => "learner",
            None => "none",
        };
        let entry = NodeEntry {
            name: node.to_string(),
            kind: known.map(|known| known.kind.to_string()).unwrap_or_default(),
            grpc: known.map_or_else(|| address.clone(), |known| known.grpc.clone()),
            postgres: known.map(|known| known.postgres.clone()).unwrap_or_default(),
            raft: raft.to_owned(),
            leads: status.leader.as_ref() == Some(node),
            store: store.clone().unwrap_or_default(),
            ..NodeEntry::default()
        };
        async move {
            if node == agent.node() {
                return NodeEntry { reachable: true, tags: founding::tags(agent), ..entry };
            }
            let hello = agent.peers.hello(node, founding::hello(agent, node), HELLO_LIMIT).await;
            let Ok(hello) = hello else { return entry };
            let other = Some(&hello.store) != store.as_ref();
            let other_store = if other { hello.store } else { String::new() };
            NodeEntry { reachable: true, other_store, tags: hello.tags, ..entry }
        }
    });
    NodeListReply { nodes: join_all(entries).await }
}

/// Takes a node in whose Raft store was lost and made anew. The leader does.
///
/// # Errors
/// `InvalidArgument` for a name that is none, `FailedPrecondition` if a rule refuses, `DeadlineExceeded` if it
/// was begun and did not end: given again, the order goes on.
pub(super) async fn replace<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &NodeReplaceRequest,
) -> Result<OrderReply, Status> {
    let state = agent.state();
    let found = state.nodes.iter().find(|(node, _)| node.as_str() == request.node);
    let Some((node, known)) = found else {
        let why = format!("node {:?} is not a node of this cluster", request.node);
        return Err(Status::invalid_argument(why));
    };
    let refused = |why: String| Err(Status::failed_precondition(why));
    if node == agent.node() {
        return refused(format!("node {node} leads the agents: its store is at work"));
    }
    let hello = agent.peers.hello(node, founding::hello(agent, node), HELLO_LIMIT).await;
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) => {
            return refused(format!(
                "the new agent of node {node} does not answer ({error}): start it with an empty data_dir, \
                 at the address that the others have under peers"
            ));
        }
    };
    let store = u128::from_str_radix(&hello.store, 16)
        .map_err(|_| Status::internal(format!("node {node} has a malformed store identity")))?;
    let member = agent.raft.status().members.get(node).map(|member| member.store_id);
    let voter = agent.raft.status().voters.contains(node);
    if member == Some(store) && voter {
        let detail = format!("node {node} votes with the store that it has");
        return Ok(OrderReply { outcome: "unchanged".to_owned(), detail });
    }
    if let Some(why) = unfit(node, known.kind, &hello, member == Some(store)) {
        return refused(why);
    }
    expect_a_primary(agent, node).await?;
    let wait = Duration::from_millis(request.wait_ms);
    let limit = wait.clamp(REPLACE_LIMITS.0, REPLACE_LIMITS.1);
    let grpc = agent.members().remove(node).unwrap_or_default();
    // It goes on if whoever asked is gone.
    let replacing = {
        let (agent, node, by) = (Arc::clone(agent), node.clone(), asker(&request.by));
        tokio::spawn(async move {
            let member = MemberInfo { grpc, store_id: store };
            let replaced = agent.raft.replace(&node, member, limit).await;
            if replaced.is_ok() {
                let text = "it votes with a new store".to_owned();
                let note = Note::new(EventKind::Replaced, text).about(&node).asked_by(&by);
                notes::tell(&agent, note);
            }
            replaced
        })
    };
    match replacing.await {
        Ok(Ok(())) => {
            let detail =
                format!("node {node} votes with its new store; haclt status shows the rest");
            Ok(OrderReply { outcome: "done".to_owned(), detail })
        }
        Ok(Err(error)) => {
            let why = format!("{error}; given again, the order goes on where it ended");
            Err(Status::deadline_exceeded(why))
        }
        Err(panic) => Err(Status::internal(panic.to_string())),
    }
}

/// Why the agent that answers is not the one to take in.
fn unfit(node: &NodeId, kind: NodeKind, hello: &HelloReply, begun: bool) -> Option<String> {
    if hello.kind != kind.to_string() {
        return Some(format!(
            "node {node} is a {kind} node, its new agent is a {} one",
            hello.kind
        ));
    }
    (hello.initialized && !begun).then(|| {
        format!(
            "the store of node {node} has been part of a group: stop its agent and empty the store"
        )
    })
}

/// While one serves, everything that was acknowledged is at hand without the lost store, and the election that
/// it may have helped is over.
pub(super) async fn expect_a_primary<D: PostgresDriver>(
    agent: &Agent<D>,
    node: &NodeId,
) -> Result<(), Status> {
    let refused = |why: String| Err(Status::failed_precondition(why));
    let state = agent.state();
    let Some(holder) = state.lease.holder() else {
        return refused(format!("nobody is primary: what node {node} had may be needed first"));
    };
    if holder == node {
        return refused(format!("node {node} holds the lease: wait until another node is primary"));
    }
    let serves = if holder == agent.node() {
        agent.database.as_ref().is_some_and(|database| {
            database.facts().rule().is_some_and(|(rule, _)| rule == Rule::Serving)
        })
    } else {
        let report = hand_over::ask(agent, holder).await;
        report.is_some_and(|report| report.rule == Rule::Serving.name())
    };
    if serves {
        Ok(())
    } else {
        refused(format!("node {holder} holds the lease and does not serve: haclt explain says why"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_store_of_the_same_kind_is_taken_in() {
        let hello = |kind: &str, initialized| HelloReply {
            kind: kind.to_owned(),
            initialized,
            ..HelloReply::default()
        };
        let node: NodeId = "n3".parse().expect("a valid name");
        #[rustfmt::skip]
        let table = [
            ("witness", false, false, true),
            ("data",    false, false, false),
            // It voted once: an old host that came back.
            ("witness", true,  false, false),
            // The order was given before and cut short.
            ("witness", true,  true,  true),
        ];
        for (kind, initialized, begun, fit) in table {
            let why = unfit(&node, NodeKind::Witness, &hello(kind, initialized), begun);
            assert_eq!(why.is_none(), fit, "{kind} {initialized} {begun}: {why:?}");
        }
    }
}
