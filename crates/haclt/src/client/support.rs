//! The files of one node, for a support bundle.

use std::time::Duration;

use ha_core::NodeId;
use ha_proto::v1;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use crate::client::failure::{Failure, FailureReason, Setback, sort};
use crate::client::{AdminClient, CONNECT, connect, millis};
use crate::endpoint::Endpoint;

/// How long an agent may take until its first word, and between two parts.
const WORD_LIMIT: Duration = Duration::from_secs(20);
/// More than any agent sends.
const BYTES_MAX: usize = 80 << 20;
const FILES_MAX: usize = 2000;
const NAME_BYTES_MAX: usize = 200;

/// What a node has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFiles {
    /// In the order in which they came.
    pub files: Vec<NodeFile>,
    /// Which agent was asked for them.
    pub endpoint: Endpoint,
    /// Why there are not more; none if the node has sent everything.
    pub broken: Option<String>,
}

/// One file of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFile {
    /// Its name below the node's directory, of harmless characters.
    pub name: String,
    /// Where it comes from.
    pub origin: String,
    /// What of it was left out, and why; empty if nothing was.
    pub left_out: String,
    /// Whether there is no such file.
    pub absent: bool,
    /// What is in it.
    pub data: Vec<u8>,
}

impl AdminClient {
    /// Asks for a node's files: each agent in turn, until one can send them. Any agent asks the others.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// What went wrong at each agent.
    pub async fn node_files(
        &self,
        node: &NodeId,
        cluster: &str,
        since_unix_ms: u64,
        limit: Duration,
    ) -> Result<NodeFiles, Vec<Failure>> {
        let deadline = Instant::now() + limit;
        let mut failures = Vec::new();
        for endpoint in &self.endpoints {
            let request = v1::SupportBundleRequest {
                cluster: cluster.to_owned(),
                node: node.to_string(),
                since_unix_ms,
                local: false,
            };
            match begin(endpoint, request, deadline).await {
                Ok(parts) => return Ok(receive(parts, endpoint, deadline).await),
                Err(reason) => failures.push(Failure { endpoint: endpoint.clone(), reason }),
            }
        }
        Err(failures)
    }
}

async fn begin(
    endpoint: &Endpoint,
    request: v1::SupportBundleRequest,
    deadline: Instant,
) -> Result<Streaming<v1::SupportChunk>, FailureReason> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut wire = connect(endpoint, left.min(CONNECT)).await?;
    let share = deadline.saturating_duration_since(Instant::now()).min(WORD_LIMIT);
    match timeout(share, wire.support_bundle(request)).await {
        Err(_) => Err(FailureReason::Silent { waited_ms: millis(share) }),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(match sort(endpoint, &status) {
            Setback::Local(reason) => reason,
            Setback::Final(error) => FailureReason::Said(error.said()),
        }),
    }
}

async fn receive(
    mut parts: Streaming<v1::SupportChunk>,
    endpoint: &Endpoint,
    deadline: Instant,
) -> NodeFiles {
    let mut files: Vec<NodeFile> = Vec::new();
    let mut bytes = 0;
    let broken = loop {
        let share = deadline.saturating_duration_since(Instant::now()).min(WORD_LIMIT);
        let part = match timeout(share, parts.message()).await {
            Err(_) => break Some("it did not go on in time".to_owned()),
            Ok(Err(status)) => break Some(crate::reply::plain(status.message())),
            Ok(Ok(None)) => break None,
            Ok(Ok(Some(part))) => part,
        };
        if !is_plain(&part.file) {
            break Some(format!("it sent a file of the name {:?}", part.file));
        }
        bytes += part.data.len() + part.origin.len() + part.left_out.len();
        if bytes > BYTES_MAX || files.len() > FILES_MAX {
            break Some("it sent more than any agent does".to_owned());
        }
        match files.last_mut() {
            Some(last) if last.name == part.file && !part.absent => last.data.extend(part.data),
            Some(_) | None => files.push(NodeFile {
                name: part.file,
                origin: crate::reply::plain(&part.origin),
                left_out: crate::reply::plain(&part.left_out),
                absent: part.absent,
                data: part.data,
            }),
        }
    };
    NodeFiles { files, endpoint: endpoint.clone(), broken }
}

/// Returns whether a name leads nowhere else when it is unpacked.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
    name.len() <= NAME_BYTES_MAX && name.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["agent/log.txt", "a", "postgres/log/postgresql-2026_1.log", "x..y"] {
            assert!(is_plain(name), "{name}");
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "/etc/x", "../x", "a/../b", "a//b", "a/", ".", "a b", "a\n", "ä", &long] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
