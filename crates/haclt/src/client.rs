//! Asks agents over gRPC: one endpoint after the other, each for a bounded time.

use std::time::Duration;

use ha_proto::v1;
use ha_proto::v1::admin_client::AdminClient as Wire;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use crate::client::calls::Kind;
use crate::client::failure::{Setback, broken, sort};
use crate::endpoint::Endpoint;
use crate::error::CliError;
use crate::reply::{ClusterStatus, Explanation};

mod calls;
mod change;
mod drill;
mod failure;
mod orders;
mod support;

pub use crate::client::calls::SwitchoverOrder;
pub use crate::client::change::Change;
pub use crate::client::drill::DrillWish;
pub use crate::client::failure::{Failure, FailureReason};
pub use crate::client::orders::Remake;
pub use crate::client::support::{NodeFile, NodeFiles};

/// How long one endpoint may take to accept a connection: a machine that is gone answers nothing.
const CONNECT: Duration = Duration::from_millis(700);

/// How often a connection is tried while an answer is awaited, and how long that may take: an
/// agent that froze must not use up the time that is left for the others.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

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
    /// The cluster it is about.
    pub cluster: String,
    /// Whether that agent knows a leader with a quorum, and so what the majority knows.
    pub informed: bool,
    /// Who was asked and gave no useful answer.
    pub failures: Vec<Failure>,
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

    /// Waits for at most `patience` in all from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
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
        let (cluster, informed) = (reply.cluster.clone(), reply.is_informed());
        Ok(Answer { reply, endpoint, cluster, informed, failures })
    }

    /// Asks why the cluster is as it is, the agent that [`Self::status`] would believe.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn explain(&mut self) -> Result<Answer<Explanation>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.explain(v1::ExplainRequest { cluster }).await
        })
        .await
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
            let cluster = best.as_ref().map(|best| best.status.cluster.as_str());
            match self.ask(endpoint, share, cluster).await {
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

    /// Asks one endpoint for its view; it must be of this `cluster`, if one is given.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        share: Duration,
        cluster: Option<&str>,
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
        if cluster.is_some_and(|cluster| cluster != status.cluster) {
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
        .map_err(|error| FailureReason::Unreachable(error.to_string()))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    match timeout(patience, address.connect()).await {
        Ok(Ok(channel)) => Ok(Wire::new(channel)),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(FailureReason::NotConnected { waited_ms: millis(patience) }),
    }
}

/// Returns a wait in milliseconds, to the nearest: people read it.
fn millis(wait: Duration) -> u64 {
    u64::try_from((wait.as_micros() + 500) / 1000).unwrap_or(u64::MAX)
}
