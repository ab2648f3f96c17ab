//! The files of one node for a support bundle: this one's, or another's through its agent.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::{SupportBundleRequest, SupportChunk};
use tonic::Status;

use crate::agent::Agent;
use crate::support;

/// How long another agent may take until its first word.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The stream of a node's files.
pub(super) type Chunks =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<SupportChunk, Status>> + Send + 'static>>;

/// Begins to send a node's files.
///
/// # Errors
/// `InvalidArgument` for a node that is none, `ResourceExhausted` while others are being sent, and whatever the
/// other agent says.
pub(super) async fn answer<D: PostgresDriver>(
    agent: &Arc<Agent<D>>,
    request: SupportBundleRequest,
) -> Result<Chunks, Status> {
    if request.node.is_empty() || request.node == agent.node().as_str() {
        return Ok(Box::pin(support::send(agent, request.since_unix_ms)?));
    }
    if request.local {
        let (own, meant) = (agent.node(), request.node);
        return Err(Status::failed_precondition(format!("this is node {own}, not {meant:?}")));
    }
    let members = agent.members();
    let Some(node) = members.keys().find(|node| node.as_str() == request.node) else {
        let node = request.node;
        return Err(Status::invalid_argument(format!(
            "node {node:?} is not a node of this cluster"
        )));
    };
    let cluster = agent.config.cluster.clone();
    let request = SupportBundleRequest { cluster, local: true, ..request };
    let call = |mut admin: super::Other| async move { admin.support_bundle(request).await };
    let files = agent.peers.forward(node, ANSWER_LIMIT, call).await?;
    Ok(Box::pin(files))
}
