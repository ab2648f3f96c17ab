//! What the orders of operators have in common: recorded first, then waited for.

use std::time::Duration;

use ha_core::NodeId;
use ha_core::NodeKind;
use ha_core::state::{Command, Outcome, Refused};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::OrderReply;
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use crate::agent::{Agent, SubmitError};

/// How long recording an order may take.
const SUBMIT_LIMIT: Duration = Duration::from_secs(5);
/// How long one answer may be waited for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(100);
/// What is recorded of an operator whose name did not come along.
const SOMEBODY: &str = "somebody";

/// Set on what one agent hands to another: it is not handed on once more.
const HANDED_ON: &str = "haclt-handed-on";

/// Returns who has to take an order in: the Raft leader. `None` if that is this node, and it knows by now
/// everything that was decided before: an agent that was started a moment ago does not, and would take
/// what it remembers for the truth.
///
/// # Errors
/// `Unavailable` without a leader that a majority confirms.
pub(super) async fn taker<D: PostgresDriver, T>(
    agent: &Agent<D>,
    request: &Request<T>,
) -> Result<Option<NodeId>, Status> {
    let until = Instant::now() + SUBMIT_LIMIT;
    // They may just be electing one.
    let leader = loop {
        if let Some(leader) = agent.raft.status().leader {
            break leader;
        }
        if Instant::now() >= until {
            return Err(Status::unavailable("the agents have no leader now"));
        }
        sleep(POLL).await;
    };
    if leader == *agent.node() {
        let confirmed = agent.raft.confirm_leadership(SUBMIT_LIMIT).await;
        return confirmed.map(|_| None).map_err(|why| Status::unavailable(why.to_string()));
    }
    if request.metadata().contains_key(HANDED_ON) {
        let why = format!("node {} does not lead any more: try again", agent.node());
        return Err(Status::unavailable(why));
    }
    Ok(Some(leader))
}

/// Returns the request as one agent hands it to another.
pub(super) fn handed_on<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HANDED_ON, MetadataValue::from_static("yes"));
    request
}

/// How long another agent may take to carry an order out.
pub(super) fn patience(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms).min(WAIT_MAX) + SUBMIT_LIMIT * 2
}

/// Records an order. Returns whether it changed anything: `so_already` knows the refusal that means that what
/// it asks for is so already, as after an answer that was lost.
///
/// # Errors
/// `FailedPrecondition` if a rule refuses, `Unavailable` if nobody took it, `DeadlineExceeded` if that is not
/// known.
pub(super) async fn record<D: PostgresDriver>(
    agent: &Agent<D>,
    command: Command,
    so_already: impl Fn(&Refused) -> bool,
) -> Result<bool, Status> {
    match agent.submit(command, SUBMIT_LIMIT).await {
        Ok(Outcome::Applied) => Ok(true),
        Ok(Outcome::Refused(why)) if so_already(&why) => Ok(false),
        Ok(Outcome::Refused(why)) => Err(Status::failed_precondition(why.to_string())),
        Err(SubmitError::NotTaken(why)) => Err(Status::unavailable(why)),
        Err(SubmitError::Unknown(why)) => Err(Status::deadline_exceeded(why)),
    }
}

/// Looks again and again until nothing is awaited any more, for that long at most. `look` says in words what is.
pub(super) async fn settled<F: Future<Output = Option<String>>>(
    wait_ms: u64,
    changed: bool,
    done: impl Into<String>,
    look: impl Fn() -> F,
) -> OrderReply {
    let until = Instant::now() + Duration::from_millis(wait_ms).min(WAIT_MAX);
    loop {
        let Some(awaited) = look().await else {
            let outcome = if changed { "done" } else { "unchanged" };
            return OrderReply { outcome: outcome.to_owned(), detail: done.into() };
        };
        if Instant::now() >= until {
            return OrderReply { outcome: "accepted".to_owned(), detail: awaited };
        }
        sleep(POLL).await;
    }
}

/// Returns who asks, as it is recorded.
pub(super) fn asker(by: &str) -> String {
    let by = by.trim();
    if by.is_empty() { SOMEBODY.to_owned() } else { by.to_owned() }
}

/// Returns the data node of that name.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn data_node<D: PostgresDriver>(agent: &Agent<D>, name: &str) -> Result<NodeId, Status> {
    let state = agent.state();
    match state.nodes.iter().find(|(node, _)| node.as_str() == name) {
        Some((node, is)) if is.kind == NodeKind::Data => Ok(node.clone()),
        Some(_) => {
            Err(Status::invalid_argument(format!("node {name} is a witness, it has no database")))
        }
        None => {
            Err(Status::invalid_argument(format!("node {name:?} is not a node of this cluster")))
        }
    }
}
