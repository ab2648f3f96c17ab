//! Orders and questions of an operator, as `haclt` sends them.

use std::time::Duration;

use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::agent_client::AgentClient;
use ha_proto::v1::{
    ConfigChangeReply, ConfigChangeRequest, ConfigDifference, ConfigSetReply, ConfigSetRequest,
    ConfigShowReply, ConfigShowRequest, DivergedDropReply, DivergedDropRequest, DivergedListReply,
    DivergedListRequest, DivergedShowReply, DivergedShowRequest, DoctorReply, DoctorRequest,
    ProposeRequest, RestartReply, RestartRequest, SwitchoverReply, SwitchoverRequest,
};
use tonic::Response;
use tonic::transport::Channel;

use crate::status::channel;

/// How long an agent may take beyond what it was asked to wait.
const LIMIT: Duration = Duration::from_secs(5);

fn client(address: &str) -> AdminClient<Channel> {
    AdminClient::new(channel(address))
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Sets a key of the replicated configuration and waits for that to be in force.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn config_set(
    address: &str,
    key: &str,
    value: &str,
    wait: Duration,
) -> Result<ConfigSetReply, String> {
    let request = ConfigSetRequest {
        cluster: String::new(),
        key: key.to_owned(),
        value: value.to_owned(),
        wait: !wait.is_zero(),
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        by: String::new(),
    };
    within(LIMIT + wait, client(address).config_set(request)).await
}

/// Changes a key of the replicated configuration, or unsets it, if it has that version still.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn config_change(
    address: &str,
    version: Option<u64>,
    key: &str,
    value: Option<&str>,
) -> Result<ConfigChangeReply, String> {
    let change = ConfigDifference {
        key: key.to_owned(),
        after: value.map(str::to_owned),
        ..ConfigDifference::default()
    };
    let request = ConfigChangeRequest { version, changes: vec![change], ..Default::default() };
    within(LIMIT, client(address).config_change(request)).await
}

/// Asks for the replicated configuration.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn config_show(address: &str) -> Result<ConfigShowReply, String> {
    let request = ConfigShowRequest { cluster: String::new() };
    within(LIMIT, client(address).config_show(request)).await
}

/// Asks which diverged WAL is known.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn diverged_list(address: &str) -> Result<DivergedListReply, String> {
    let request = DivergedListRequest { cluster: String::new() };
    within(LIMIT, client(address).diverged_list(request)).await
}

/// Asks what is in a piece of diverged WAL.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn diverged_show(address: &str, id: u64) -> Result<DivergedShowReply, String> {
    let request = DivergedShowRequest { cluster: String::new(), id };
    within(LIMIT, client(address).diverged_show(request)).await
}

/// Removes the copy of a piece of diverged WAL.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn diverged_drop(address: &str, id: u64) -> Result<DivergedDropReply, String> {
    let request = DivergedDropRequest { cluster: String::new(), id };
    within(LIMIT, client(address).diverged_drop(request)).await
}

/// Orders a switchover, and waits for its end for that long.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn switchover(
    address: &str,
    from: &str,
    to: &str,
    epoch: u64,
    wait: Duration,
) -> Result<SwitchoverReply, String> {
    let request = SwitchoverRequest {
        cluster: String::new(),
        from: from.to_owned(),
        to: to.to_owned(),
        epoch,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        known_steps: u32::MAX,
        number: epoch,
        by: String::new(),
    };
    within(LIMIT + wait, client(address).switchover(request)).await
}

/// Orders a restart of that run, and waits for its end for that long.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn restart(
    address: &str,
    node: &str,
    run: u64,
    wait: Duration,
) -> Result<RestartReply, String> {
    let request = RestartRequest {
        cluster: String::new(),
        node: node.to_owned(),
        run,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        by: String::new(),
    };
    within(LIMIT + wait, client(address).restart(request)).await
}

/// Has every node examined.
///
/// # Errors
/// What the agent says, or that it does not answer.
pub async fn doctor(address: &str) -> Result<DoctorReply, String> {
    let request = DoctorRequest::default();
    within(LIMIT + LIMIT, client(address).doctor(request)).await
}

/// Hands a command to an agent, as node n1 would; only the Raft leader takes it.
pub async fn propose(address: &str, cluster: &str, command: &[u8]) {
    let mut agent = AgentClient::new(channel(address));
    let request = ProposeRequest {
        cluster: cluster.to_owned(),
        from: "n1".to_owned(),
        command: command.to_vec(),
    };
    drop(tokio::time::timeout(Duration::from_secs(2), agent.propose(request)).await);
}
