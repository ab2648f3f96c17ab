//! Nodes come and go at an operator's order.
//!
//! In: the group first, then the nodes that quorums are made of. Out: no new quorum counts the node, the ones that have
//! a say do without it, then the group, then the nodes. An order that was cut short is given again and goes on.

use std::sync::Arc;
use std::time::Duration;

use ha_core::state::membership::NODES_MAX;
use ha_core::state::{Command, Node};
use ha_core::{NodeId, NodeKind};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{HelloReply, NodeAddRequest, NodeRemoveRequest, OrderReply};
use ha_raft::MemberInfo;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::nodes::{HELLO_LIMIT, REPLACE_LIMITS, expect_a_primary};
use super::orders::{asker, record};
use crate::agent::{Agent, lock};
use crate::founding;
use crate::granter;

/// The fewest nodes: with less, none may be lost.
const NODES_MIN: usize = 3;
/// How often it is looked whether the quorum does without a node, or somebody else leads.
const POLL: Duration = Duration::from_millis(100);
/// How long another node may take to lead.
const LEAD_LIMIT: Duration = Duration::from_secs(3);

/// Takes a node in. The leader does.
///
/// # Errors
/// `InvalidArgument` for a name or an address that is none, `FailedPrecondition` if a rule refuses,
/// `DeadlineExceeded` if it was begun and did not end: given again, the order goes on.
pub(super) async fn add<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &NodeAddRequest,
) -> Result<OrderReply, Status> {
    let node: NodeId = request.node.parse().map_err(|error| {
        Status::invalid_argument(format!("node {:?} cannot be a name: {error}", request.node))
    })?;
    let refused = |why: String| Err(Status::failed_precondition(why));
    let (state, status) = (agent.state(), agent.raft.status());
    let by = asker(&request.by);
    let votes = status.voters.contains(&node) && !status.is_joint;
    if let Some(is) = state.nodes.get(&node).filter(|_| votes) {
        let stays = state.is_leaving(&node);
        if stays {
            let command = Command::Join { node: node.clone(), is: is.clone(), by };
            record(agent, command, |_| false).await?;
        }
        return Ok(settled(stays, format!("node {node} is part of the cluster, and votes")));
    }
    // A change that was cut short half-way is finished first.
    if let Some(member) = status.members.get(&node).filter(|_| status.is_joint) {
        let limit = bounded(request.wait_ms);
        let finished = agent.raft.replace(&node, member.clone(), limit).await;
        finished.map_err(|error| unfinished(&error))?;
        return Err(Status::unavailable(format!(
            "a change of the group that was cut short is finished: give the order about node {node} again"
        )));
    }
    if state.nodes.contains_key(&node) && status.members.contains_key(&node) {
        return refused(format!("node {node} is known and has no vote: haclt node replace {node}"));
    }
    if !state.nodes.contains_key(&node) && state.nodes.len() >= NODES_MAX {
        return refused(format!("a cluster has at most {NODES_MAX} nodes"));
    }
    if request.grpc.is_empty() {
        let why = format!("node {node} is new: say where its agent listens, HOST:PORT");
        return Err(Status::invalid_argument(why));
    }
    agent.peers.know(&node, &request.grpc).map_err(Status::invalid_argument)?;
    let hello = agent.peers.hello(&node, founding::hello(agent, &node), HELLO_LIMIT).await;
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) => {
            return refused(format!(
                "the agent of node {node} at {} cannot be taken in: {error}; start it with join = true, \
                 an empty data_dir, and the agents that there are under peers",
                request.grpc
            ));
        }
    };
    let store = u128::from_str_radix(&hello.store, 16)
        .map_err(|_| Status::internal(format!("node {node} has a malformed store identity")))?;
    let begun = status.members.get(&node).is_some_and(|member| member.store_id == store);
    let ours = founding::cluster_text(&state);
    if let Some(why) = unfit(&node, &hello, begun, &ours, state.generation, agent.postgres_major) {
        return refused(why);
    }
    let kind = if hello.kind == "data" { NodeKind::Data } else { NodeKind::Witness };
    let (postgres, keeps_wal, sync) =
        (hello.postgres_address, hello.keeps_wal, !hello.asynchronous);
    let is = Node { kind, grpc: request.grpc.clone(), postgres, keeps_wal, sync };
    let limit = bounded(request.wait_ms);
    // It goes on if whoever asked is gone.
    let adding = {
        let (agent, node) = (Arc::clone(agent), node.clone());
        tokio::spawn(async move {
            let member = MemberInfo { grpc: is.grpc.clone(), store_id: store };
            agent.raft.replace(&node, member, limit).await.map_err(|error| unfinished(&error))?;
            record(&agent, Command::Join { node, is, by }, |_| false).await
        })
    };
    adding.await.map_err(|panic| Status::internal(panic.to_string()))??;
    Ok(settled(
        true,
        format!("node {node} is part of the cluster, and votes; haclt status shows the rest"),
    ))
}

/// Takes a node out. The leader does, if it is another one.
///
/// # Errors
/// As [`add`].
pub(super) async fn remove<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: &NodeRemoveRequest,
) -> Result<OrderReply, Status> {
    let members = agent.members();
    let Some(node) = members.keys().find(|node| node.as_str() == request.node).cloned() else {
        let why = format!("node {:?} is not a node of this cluster", request.node);
        return Err(Status::invalid_argument(why));
    };
    let refused = |why: String| Err(Status::failed_precondition(why));
    let state = agent.state();
    let staying: Vec<&NodeId> =
        members.keys().filter(|other| **other != node && !state.is_leaving(other)).collect();
    if staying.len() < NODES_MIN {
        return refused(format!(
            "{} nodes would be left, and none of them could be lost: add another one first",
            staying.len()
        ));
    }
    let answers = {
        let sightings = lock(&agent.sightings);
        let answers = |other: &&&NodeId| {
            **other == agent.node()
                || sightings.get(**other).is_some_and(|seen| seen.error.is_none())
        };
        staying.iter().filter(answers).count()
    };
    if answers <= staying.len() / 2 {
        return refused(format!(
            "only {answers} of the {} nodes that would be left answer: haclt status",
            staying.len()
        ));
    }
    if state.is_paused() {
        return refused("the cluster is paused: haclt resume ends that".to_owned());
    }
    expect_a_primary(agent, &node).await?;
    let is_data =
        |other: &NodeId| state.nodes.get(other).is_some_and(|is| is.kind == NodeKind::Data);
    if is_data(&node) && staying.iter().filter(|other| is_data(other)).count() < 2 {
        return refused(format!(
            "without node {node} there is no standby to fail over to: add another data node first"
        ));
    }
    if state.nodes.contains_key(&node) {
        let command = Command::Retire { node: node.clone(), by: asker(&request.by) };
        record(agent, command, |_| false).await?;
    }
    let limit = bounded(request.wait_ms);
    // It goes on if whoever asked is gone.
    let removing = {
        let (agent, node) = (Arc::clone(agent), node.clone());
        tokio::spawn(async move { take_out(&agent, &node, limit).await })
    };
    removing.await.map_err(|panic| Status::internal(panic.to_string()))??;
    Ok(settled(true, format!("node {node} is out: stop its agent, its files are left alone")))
}

async fn take_out<D: PostgresDriver>(
    agent: &Agent<D>,
    node: &NodeId,
    limit: Duration,
) -> Result<(), Status> {
    let until = Instant::now() + limit;
    while agent.state().is_needed(node) {
        if Instant::now() >= until {
            return Err(Status::deadline_exceeded(format!(
                "node {node} is leaving, and commits that it acknowledged are not on enough others yet: \
                 haclt explain says what they wait for; given again, the order goes on"
            )));
        }
        sleep(POLL).await;
    }
    if !agent.state().is_leaving(node) && agent.state().nodes.contains_key(node) {
        return Err(Status::failed_precondition(format!(
            "node {node} stays: somebody took it back"
        )));
    }
    let left = until.saturating_duration_since(Instant::now()).max(REPLACE_LIMITS.0);
    agent.raft.remove(node, left).await.map_err(|error| unfinished(&error))?;
    if agent.state().nodes.contains_key(node) {
        record(agent, Command::Leave { node: node.clone() }, |_| false).await?;
    }
    Ok(())
}

/// Hands the leadership to somebody else, and returns to whom.
///
/// # Errors
/// `Unavailable` if nobody takes it in time.
pub(super) async fn step_aside<D: PostgresDriver>(agent: &Agent<D>) -> Result<NodeId, Status> {
    let unable = |why: String| {
        Status::unavailable(format!("node {} leads the agents, and {why}: try again", agent.node()))
    };
    let Some(to) = granter::transfer_target(agent, &agent.state()) else {
        return Err(unable("no other one can".to_owned()));
    };
    let handed = agent.raft.transfer_leader(&to).await;
    handed.map_err(|error| unable(format!("{to} does not take over ({error})")))?;
    let until = Instant::now() + LEAD_LIMIT;
    loop {
        match agent.raft.status().leader {
            Some(leader) if leader != *agent.node() => return Ok(leader),
            _ if Instant::now() >= until => return Err(unable(format!("{to} did not take over"))),
            _ => sleep(POLL).await,
        }
    }
}

/// Why the agent that answers is not one to take in.
///
/// A store of this very cluster, that of a node which was taken out, has lost nothing: it may come back as it is.
fn unfit(
    node: &NodeId,
    hello: &HelloReply,
    begun: bool,
    cluster_id: &str,
    generation: u64,
    major: Option<u32>,
) -> Option<String> {
    if hello.initialized && !begun && hello.cluster_id != cluster_id {
        return Some(format!(
            "the store of node {node} belongs to another group: stop its agent and empty its data_dir"
        ));
    }
    if generation > 0 && hello.has_database && hello.cluster_id != cluster_id {
        return Some(format!(
            "node {node} may have a database of before the cluster was made anew: empty its data directory, or make it"
        ));
    }
    let ours = major.filter(|ours| hello.postgres_major != 0 && *ours != hello.postgres_major)?;
    Some(format!("node {node} has PostgreSQL {}, the cluster {ours}", hello.postgres_major))
}

fn bounded(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms).clamp(REPLACE_LIMITS.0, REPLACE_LIMITS.1)
}

fn unfinished(error: &impl std::fmt::Display) -> Status {
    Status::deadline_exceeded(format!("{error}; given again, the order goes on where it ended"))
}

fn settled(changed: bool, detail: String) -> OrderReply {
    let outcome = if changed { "done" } else { "unchanged" };
    OrderReply { outcome: outcome.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_is_new_or_was_here_before_and_of_the_same_major_is_taken_in() {
        let node: NodeId = "n4".parse().expect("a valid name");
        #[rustfmt::skip]
        let table = [
            // initialized, begun, its cluster, has a database, generation, its major, ours
            (false, false, "",  true,  0, 17, Some(17), None),
            (false, false, "",  false, 1, 17, None,     None),
            (false, false, "",  false, 0, 0,  Some(17), None),
            // The order was given before and cut short.
            (true,  true,  "",  false, 0, 17, Some(17), None),
            // It was taken out before.
            (true,  false, "a", true,  1, 17, Some(17), None),
            (true,  false, "b", false, 0, 17, Some(17), Some("the store of node n4 belongs to another group")),
            (true,  false, "",  false, 0, 17, Some(17), Some("the store of node n4 belongs to another group")),
            (false, false, "",  true,  1, 17, Some(17), Some("node n4 may have a database of before")),
            (false, false, "",  false, 0, 15, Some(17), Some("node n4 has PostgreSQL 15, the cluster 17")),
        ];
        for (initialized, begun, id, has_database, generation, postgres_major, ours, expected) in
            table
        {
            let cluster_id = id.to_owned();
            let hello = HelloReply {
                initialized,
                postgres_major,
                cluster_id,
                has_database,
                ..HelloReply::default()
            };
            let why = unfit(&node, &hello, begun, "a", generation, ours);
            let fits = match expected {
                None => why.is_none(),
                Some(start) => why.as_ref().is_some_and(|why| why.starts_with(start)),
            };
            assert!(fits, "{hello:?} {begun}: {why:?}");
        }
    }
}
