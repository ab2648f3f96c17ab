//! Drills: planned by whoever answers, ordered from an agent that the fault does not strike.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use ha_core::NodeId;
use ha_proto::v1;
use ha_proto::v1::admin_client::AdminClient as Wire;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::asker::asker;
use crate::client::calls::Kind;
use crate::client::failure::{Failure, FailureReason, Setback, may_be_done, sort};
use crate::client::{AdminClient, Answer, CONNECT, connect, millis};
use crate::confirm::Confirmed;
use crate::endpoint::parse_endpoints;
use crate::error::CliError;
use crate::reply::drill::DrillPlan;

/// How long an agent may take to check once more, and to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// What an operator wants rehearsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillWish {
    /// `switchover`, `crash`, `freeze` or `partition`.
    pub kind: &'static str,
    /// Who must be the primary.
    pub node: Option<NodeId>,
    /// Who is to take over.
    pub to: Option<NodeId>,
    /// For how long; 0 for the agents' default.
    pub seconds: u32,
    /// Whether acknowledged commits may be lost.
    pub accept_data_loss: bool,
}

impl AdminClient {
    /// Asks what a drill would do, and what speaks against it.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn drill_plan(&mut self, wish: &DrillWish) -> Result<Answer<DrillPlan>, CliError> {
        let name = |node: &Option<NodeId>| node.clone().map(String::from).unwrap_or_default();
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            let request = v1::DrillPlanRequest {
                cluster,
                kind: wish.kind.to_owned(),
                node: name(&wish.node),
                to: name(&wish.to),
                seconds: wish.seconds,
                accept_data_loss: wish.accept_data_loss,
            };
            wire.drill_plan(request).await
        })
        .await
    }

    /// Orders a drill as it was planned. Returns what is told of it; dropping that ends the measuring, and the
    /// fault ends by itself.
    ///
    /// # Errors
    /// As [`Self::status`]; [`CliError::OutcomeUnknown`] if it may have begun.
    pub async fn drill(
        &mut self,
        plan: &DrillPlan,
        accept_data_loss: bool,
        cluster: &str,
        confirmed: Confirmed,
    ) -> Result<Streaming<v1::DrillNews>, CliError> {
        self.mean(Some(confirmed));
        let request = v1::DrillRequest {
            cluster: cluster.to_owned(),
            kind: plan.kind.clone(),
            node: plan.node.to_string(),
            // What was planned for one is not done to another.
            to: plan
                .to
                .clone()
                .filter(|_| plan.kind == "switchover")
                .map_or(String::new(), String::from),
            epoch: plan.epoch.0,
            fault_ms: millis(plan.fault),
            accept_data_loss,
            // Each of them is seeded at random.
            number: RandomState::new().hash_one(plan.epoch.0),
            by: asker(),
        };
        // The agent that measures may not be among the endpoints, and the only one that is may be the struck one.
        let beyond = parse_endpoints([plan.address.as_str()]).unwrap_or_default();
        let beyond: Vec<_> =
            beyond.into_iter().filter(|known| !self.endpoints.contains(known)).collect();
        let mut failures = Vec::new();
        for endpoint in self.endpoints.iter().chain(&beyond) {
            let mut failed = |reason| failures.push(Failure { endpoint: endpoint.clone(), reason });
            let mut wire = match connect(endpoint, CONNECT).await {
                Ok(wire) => wire,
                Err(reason) => {
                    failed(reason);
                    continue;
                }
            };
            match timeout(BEGIN, wire.drill(request.clone())).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => {
                    let in_doubt = may_be_done(&status);
                    match sort(endpoint, &status) {
                        Setback::Final(error) => return Err(error),
                        Setback::Local(reason) => failed(reason),
                    }
                    if in_doubt {
                        return Err(CliError::OutcomeUnknown { failures });
                    }
                }
                Err(_) => {
                    failed(FailureReason::Silent { waited_ms: millis(BEGIN) });
                    return Err(CliError::OutcomeUnknown { failures });
                }
            }
        }
        Err(self.no_answer(failures))
    }
}
