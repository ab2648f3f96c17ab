//! Asks agents over gRPC: one endpoint after the other, each for a bounded time.

use std::error::Error;
use std::io;
use std::time::Duration;

use ha_proto::v1;
use ha_proto::v1::admin_client::AdminClient as Wire;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::endpoint::Endpoint;
use crate::error::CliError;
use crate::reply::{ClusterStatus, Explanation, MalformedReply, plain};

/// How long one endpoint may take to accept a connection: a machine that is gone answers nothing.
const CONNECT: Duration = Duration::from_millis(700);

/// Asks the agents of one cluster.
#[derive(Debug)]
pub struct AdminClient {
    endpoints: Vec<Endpoint>,
    by_default: bool,
    cluster: Option<String>,
    patience: Duration,
}

/// An answer, and what else came to light while asking for it.
#[derive(Debug)]
pub struct Answer<T> {
    /// The answer.
    pub reply: T,
    /// Who gave it.
    pub endpoint: Endpoint,
    /// Whether that agent knows a leader with a quorum, and so what the majority knows.
    pub informed: bool,
    /// Who was asked and gave no useful answer.
    pub failures: Vec<Failure>,
}

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
enum Setback {
    /// Another agent may do better.
    Local(FailureReason),
    /// Every agent would say the same.
    Final(CliError),
}

/// An agent that answered, and the connection to it.
struct Contact {
    status: ClusterStatus,
    endpoint: Endpoint,
    wire: Wire<Channel>,
}

impl AdminClient {
    /// Returns a client that asks `endpoints` in turn, for at most `patience` in all.
    ///
    /// `by_default` says that nobody named the endpoints. If `cluster` is given, an agent of any
    /// other cluster is refused.
    #[must_use]
    pub fn new(
        endpoints: Vec<Endpoint>,
        by_default: bool,
        cluster: Option<String>,
        patience: Duration,
    ) -> Self {
        Self { endpoints, by_default, cluster, patience }
    }

    /// Asks for the cluster's state.
    ///
    /// The first agent that knows a leader with a quorum is believed. If none does, the best view
    /// there is counts. May be dropped at any time.
    ///
    /// # Errors
    /// [`CliError::NoAnswer`] if nobody answered in time; [`CliError::Rejected`],
    /// [`CliError::Refused`] or [`CliError::OtherCluster`] if an agent did, with a no.
    pub async fn status(&mut self) -> Result<Answer<ClusterStatus>, CliError> {
        let (contact, failures) = self.find(Instant::now() + self.patience, 0).await?;
        let Contact { status: reply, endpoint, .. } = contact;
        Ok(Answer { informed: reply.is_informed(), reply, endpoint, failures })
    }

    /// Asks why the cluster is as it is, the agent that [`Self::status`] would believe.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn explain(&mut self) -> Result<Answer<Explanation>, CliError> {
        let deadline = Instant::now() + self.patience;
        let (contact, mut failures) = self.find(deadline, 1).await?;
        let Contact { status, endpoint, mut wire } = contact;
        let informed = status.is_informed();
        let request = v1::ExplainRequest { cluster: self.cluster.clone().unwrap_or_default() };
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = match timeout(left, wire.explain(request)).await {
            Err(_) => {
                let waited_ms = millis(self.patience);
                Err(Setback::Local(FailureReason::Silent { waited_ms }))
            }
            Ok(Err(status)) => Err(sort(&endpoint, &status)),
            Ok(Ok(reply)) => {
                let checked = Explanation::try_from(reply.into_inner());
                checked.map_err(|fault| Setback::Local(FailureReason::Malformed(fault)))
            }
        };
        match answer {
            Ok(reply) => Ok(Answer { reply, endpoint, informed, failures }),
            Err(Setback::Final(error)) => Err(error),
            Err(Setback::Local(reason)) => {
                failures.push(Failure { endpoint, reason });
                Err(self.no_answer(failures))
            }
        }
    }

    /// Returns the agent whose view is the best, and the endpoints that were of no use.
    ///
    /// `more` requests are to follow before the deadline: a share of the time is left for each.
    async fn find(
        &self,
        deadline: Instant,
        more: usize,
    ) -> Result<(Contact, Vec<Failure>), CliError> {
        let mut best: Option<Contact> = None;
        let mut failures = Vec::new();
        for (asked, endpoint) in self.endpoints.iter().enumerate() {
            // A fair share of the time, so that one agent that hangs leaves some for the others.
            let shares = u32::try_from(self.endpoints.len() - asked + more).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / shares;
            match self.ask(endpoint, share, best.as_ref()).await {
                Ok(contact) => {
                    let informed = contact.status.is_informed();
                    let better = |best: &Contact| {
                        contact.status.authority() > best.status.authority() || informed
                    };
                    if best.as_ref().is_none_or(better) {
                        best = Some(contact);
                    }
                    if informed {
                        break;
                    }
                }
                Err(Setback::Local(reason)) => {
                    failures.push(Failure { endpoint: endpoint.clone(), reason });
                }
                Err(Setback::Final(error)) if best.is_none() => return Err(error),
                // There is a view to show: one agent's no does not take it away.
                Err(Setback::Final(error)) => {
                    let reason = FailureReason::Said(error.said());
                    failures.push(Failure { endpoint: endpoint.clone(), reason });
                }
            }
        }
        match best {
            Some(contact) => Ok((contact, failures)),
            None => Err(self.no_answer(failures)),
        }
    }

    /// Asks one endpoint for its view; it must be of the same cluster as the `best` one so far.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        share: Duration,
        best: Option<&Contact>,
    ) -> Result<Contact, Setback> {
        let started = Instant::now();
        let mut wire = connect(endpoint, share.min(CONNECT)).await.map_err(Setback::Local)?;
        let request = v1::StatusRequest { cluster: self.cluster.clone().unwrap_or_default() };
        let left = share.saturating_sub(started.elapsed());
        let reply = match timeout(left, wire.status(request)).await {
            Err(_) => {
                let waited_ms = millis(share);
                return Err(Setback::Local(FailureReason::Silent { waited_ms }));
            }
            Ok(Err(status)) => return Err(sort(endpoint, &status)),
            Ok(Ok(reply)) => reply.into_inner(),
        };
        let status = ClusterStatus::try_from(reply)
            .map_err(|fault| Setback::Local(FailureReason::Malformed(fault)))?;
        if let Some(wanted) = self.cluster.as_ref().filter(|wanted| **wanted != status.cluster) {
            return Err(Setback::Final(CliError::OtherCluster {
                endpoint: endpoint.clone(),
                theirs: status.cluster,
                wanted: wanted.clone(),
            }));
        }
        if best.is_some_and(|best| best.status.cluster != status.cluster) {
            return Err(Setback::Local(FailureReason::OtherCluster(status.cluster)));
        }
        Ok(Contact { status, endpoint: endpoint.clone(), wire })
    }

    fn no_answer(&self, failures: Vec<Failure>) -> CliError {
        CliError::NoAnswer { failures, by_default: self.by_default }
    }
}

async fn connect(endpoint: &Endpoint, patience: Duration) -> Result<Wire<Channel>, FailureReason> {
    let address = Channel::from_shared(endpoint.uri())
        .map_err(|error| FailureReason::Unreachable(error.to_string()))?;
    match timeout(patience, address.connect()).await {
        Ok(Ok(channel)) => Ok(Wire::new(channel)),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(FailureReason::NotConnected { waited_ms: millis(patience) }),
    }
}

/// Returns what an agent's error means: for the user, or for the next endpoint.
///
/// # Sources
/// tonic 0.14: an error made on this side has a source, or one of the constant beginnings below;
/// one sent by an agent has neither. All of them are under test against real sockets.
fn sort(endpoint: &Endpoint, status: &Status) -> Setback {
    let endpoint = endpoint.clone();
    let message = plain(status.message());
    Setback::Local(match status.code() {
        Code::FailedPrecondition => return Setback::Final(CliError::Refused { endpoint, message }),
        Code::InvalidArgument => return Setback::Final(CliError::Rejected { endpoint, message }),
        _ if message.starts_with("grpc-status header missing") => FailureReason::AnotherService,
        _ if message.starts_with("failed to decode") => FailureReason::Undecodable,
        _ if status.source().is_some() => broken(status),
        Code::Unimplemented => FailureReason::Unimplemented,
        code if message.is_empty() => FailureReason::Said(code.description().to_lowercase()),
        _ => FailureReason::Said(message),
    })
}

/// Returns what broke a connection, in the words of the last cause.
///
/// # Sources
/// h2 0.4 takes the first bytes of another protocol for the length of a frame, a huge one.
fn broken(error: &(dyn Error + 'static)) -> FailureReason {
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

/// Returns a wait in milliseconds, to the nearest: people read it.
fn millis(wait: Duration) -> u64 {
    u64::try_from((wait.as_micros() + 500) / 1000).unwrap_or(u64::MAX)
}
