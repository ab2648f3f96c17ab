//! What goes wrong while agents are asked, and what it means.

use std::error::Error;
use std::io;

use tonic::{Code, Status};

use crate::endpoint::Endpoint;
use crate::error::CliError;
use crate::reply::{MalformedReply, plain};

/// An endpoint that gave no useful answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {reason}")]
pub struct Failure {
    /// Who was asked.
    pub endpoint: Endpoint,
    /// What happened.
    pub reason: FailureReason,
}

/// Why an endpoint gave no useful answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailureReason {
    /// No connection came about, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// No connection came about in time.
    #[error("no connection within {waited_ms} ms")]
    NotConnected {
        /// How long we waited.
        waited_ms: u64,
    },
    /// The connection stands, and nothing comes back.
    #[error("no answer within {waited_ms} ms")]
    Silent {
        /// How long we waited.
        waited_ms: u64,
    },
    /// Something answered that does not speak gRPC.
    #[error("what listens there does not speak gRPC")]
    AnotherService,
    /// It speaks gRPC, and does not know the request.
    #[error("what listens there does not know the request")]
    Unimplemented,
    /// The agent answered with an error.
    #[error("{0}")]
    Said(String),
    /// The agent's answer makes no sense.
    #[error("malformed reply: {0}")]
    Malformed(MalformedReply),
    /// The agent's answer cannot be decoded.
    #[error("malformed reply: it cannot be decoded")]
    Undecodable,
    /// The agent belongs to another cluster than the one that answered before it.
    #[error("it belongs to another cluster, {0}")]
    OtherCluster(String),
}

impl Failure {
    /// Returns whether something answered there.
    pub(crate) fn spoke(&self) -> bool {
        match self.reason {
            FailureReason::Unreachable(_)
            | FailureReason::NotConnected { .. }
            | FailureReason::Silent { .. } => false,
            FailureReason::AnotherService
            | FailureReason::Unimplemented
            | FailureReason::Said(_)
            | FailureReason::Malformed(_)
            | FailureReason::Undecodable
            | FailureReason::OtherCluster(_) => true,
        }
    }

    /// Returns whether what listens there is no agent.
    pub(crate) fn is_another_service(&self) -> bool {
        self.reason == FailureReason::AnotherService
    }

    /// Returns whether the agent and we do not understand each other.
    pub(crate) fn is_misunderstanding(&self) -> bool {
        match self.reason {
            FailureReason::Malformed(_)
            | FailureReason::Undecodable
            | FailureReason::Unimplemented => true,
            FailureReason::Unreachable(_)
            | FailureReason::NotConnected { .. }
            | FailureReason::Silent { .. }
            | FailureReason::AnotherService
            | FailureReason::Said(_)
            | FailureReason::OtherCluster(_) => false,
        }
    }
}

/// How asking one endpoint went wrong.
pub(crate) enum Setback {
    /// Another agent may do better.
    Local(FailureReason),
    /// Every agent would say the same.
    Final(CliError),
}

/// Returns what an agent's error means: for the user, or for the next endpoint.
///
/// # Sources
/// tonic 0.14: an error made on this side has a source, or one of the constant beginnings below;
/// one sent by an agent has neither. All of them are under test against real sockets.
pub(crate) fn sort(endpoint: &Endpoint, status: &Status) -> Setback {
    let endpoint = endpoint.clone();
    let message = plain(status.message());
    Setback::Local(match status.code() {
        Code::FailedPrecondition | Code::Aborted => {
            return Setback::Final(CliError::Refused { endpoint, message });
        }
        // What is not there is not elsewhere either: the list is the cluster's.
        Code::NotFound => return Setback::Final(CliError::NotFound { endpoint, message }),
        Code::InvalidArgument => return Setback::Final(CliError::Rejected { endpoint, message }),
        _ if message.starts_with("grpc-status header missing") => FailureReason::AnotherService,
        _ if message.starts_with("failed to decode") => FailureReason::Undecodable,
        _ if status.source().is_some() => broken(status),
        Code::Unimplemented => FailureReason::Unimplemented,
        code if message.is_empty() => FailureReason::Said(code.description().to_lowercase()),
        _ => FailureReason::Said(message),
    })
}

/// Returns whether an agent may have carried out an order that it answered with this error.
///
/// Once the order is on its way, a connection that breaks tells nothing.
pub(crate) fn may_be_done(status: &Status) -> bool {
    match status.code() {
        _ if status.source().is_some() => true,
        Code::Unavailable
        | Code::Unimplemented
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange => false,
        Code::Ok
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss => true,
    }
}

/// Returns what broke a connection, in the words of the last cause.
///
/// # Sources
/// h2 0.4 takes the first bytes of another protocol for the length of a frame, a huge one.
pub(crate) fn broken(error: &(dyn Error + 'static)) -> FailureReason {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = plain(&cause.to_string());
    if text.contains("frame with invalid size") {
        return FailureReason::AnotherService;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        // Without the number that the operating system has for it.
        Some(kind @ (io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable)) => {
            FailureReason::Unreachable(kind.to_string())
        }
        Some(_) | None => FailureReason::Unreachable(text),
    }
}
