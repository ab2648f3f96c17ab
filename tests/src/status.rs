//! What the cluster says of itself, over gRPC.

use std::time::Duration;

use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::agent_client::AgentClient;
use ha_proto::v1::{
    ExplainReply, ExplainRequest, NodeStatus, ReportReply, ReportRequest, StatusReply,
    StatusRequest,
};
use tonic::transport::{Channel, Endpoint};

/// How long an agent may take to answer a test.
const LIMIT: Duration = Duration::from_secs(3);

/// Returns a channel to an agent that connects when used.
pub fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("a valid address")
        .connect_timeout(Duration::from_millis(500))
        .connect_lazy()
}

/// Asks an agent for the cluster's status.
pub async fn status(address: &str) -> Option<StatusReply> {
    let mut client = AdminClient::new(channel(address));
    let call = client.status(StatusRequest { cluster: String::new() });
    Some(tokio::time::timeout(LIMIT, call).await.ok()?.ok()?.into_inner())
}

/// Asks an agent for its explanation.
pub async fn explain(address: &str) -> Option<ExplainReply> {
    let mut client = AdminClient::new(channel(address));
    let call = client.explain(ExplainRequest { cluster: String::new() });
    Some(tokio::time::timeout(LIMIT, call).await.ok()?.ok()?.into_inner())
}

/// Asks an agent for its own report, as another node would.
pub async fn report(address: &str, cluster: &str, from: &str) -> Option<ReportReply> {
    let mut client = AgentClient::new(channel(address));
    let request = ReportRequest { cluster: cluster.to_owned(), from: from.to_owned(), fresh: true };
    Some(tokio::time::timeout(LIMIT, client.report(request)).await.ok()?.ok()?.into_inner())
}

/// Returns what a status says of one node.
pub fn node<'a>(status: &'a StatusReply, name: &str) -> &'a NodeStatus {
    status.nodes.iter().find(|node| node.name == name).expect("a node of the cluster")
}

/// Returns the holder of the lease; empty if it is vacant.
pub fn holder(status: &StatusReply) -> &str {
    status.lease.as_ref().map_or("", |lease| &lease.holder)
}

/// Returns whether there is a primary, and every other data node streams.
pub fn all_follow(status: &StatusReply) -> bool {
    let follows = |node: &NodeStatus| match node.role.as_str() {
        "standby" => node.state == "streaming",
        role => role == "primary" || role == "witness",
    };
    status.nodes.iter().any(|node| node.role == "primary") && status.nodes.iter().all(follows)
}

/// Returns whether commits wait for a quorum of so many acknowledgements that all nodes make, and all receive WAL.
pub fn everybody_acknowledges(status: &StatusReply, required: u32) -> bool {
    let Some(quorum) = &status.wal_quorum else { return false };
    let everybody = quorum.members.iter().all(|m| quorum.acknowledging.contains(m));
    quorum.required == required && quorum.members.len() + 1 == status.nodes.len() && everybody
}

/// Returns whether a standby streams and has everything that the primary has.
pub fn streams(status: &StatusReply, name: &str) -> bool {
    let node = node(status, name);
    node.role == "standby" && node.state == "streaming"
}

/// Returns a status as a few lines, for messages.
pub fn brief(status: &StatusReply) -> String {
    let nodes: Vec<String> = status
        .nodes
        .iter()
        .map(|n| {
            format!(
                "  {} {} {} rule={} timeline={} flushed={} {}",
                n.name,
                n.role,
                n.state,
                n.rule,
                n.timeline,
                n.flushed_lsn,
                n.troubles.join("; ")
            )
        })
        .collect();
    format!(
        "by {}: {} ({}) epoch {} lease {:?}\n{}",
        status.answered_by,
        status.state,
        status.reason,
        status.epoch,
        holder(status),
        nodes.join("\n")
    )
}
