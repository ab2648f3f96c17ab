//! Orders and questions about operations: pauses, fences, failovers, what happened.

use std::time::Duration;

use ha_core::NodeId;
use ha_proto::v1;
use ha_proto::v1::admin_client::AdminClient as Wire;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::asker::asker;
use crate::client::calls::{HEADROOM, Kind};
use crate::client::{AdminClient, Answer, millis};
use crate::confirm::Confirmed;
use crate::error::CliError;
use crate::reply::credentials::Credentials;
use crate::reply::failover::FailoverPlan;
use crate::reply::journal::{EventReport, Events, History};
use crate::reply::nodes::Nodes;
use crate::reply::order::Ordered;
use crate::reply::schedule::Schedule;

/// How a node's data directory is to be made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remake {
    /// Cloned, from that node or from the primary, at most at that rate.
    Clone {
        /// From whom; none for the primary.
        from: Option<NodeId>,
        /// KiB a second; none for no bound.
        max_rate_kib: Option<u32>,
    },
    /// Rewound although its agent leaves that to the operator.
    Rejoin,
    /// Not at all: the order is taken back.
    Cancel,
}

/// How much longer an agent may wait for news than it is given to answer.
fn wait_ms(left: Duration) -> u64 {
    millis(left.saturating_sub(HEADROOM))
}

impl AdminClient {
    /// Has the agents leave the databases alone.
    ///
    /// # Errors
    /// As [`Self::status`]; [`CliError::OutcomeUnknown`] if it may have been taken.
    pub async fn pause(&mut self, why: &str) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (by, why) = (asker(), why.to_owned());
            wire.pause(v1::PauseRequest { cluster, by, why, wait_ms: wait_ms(left) }).await
        })
        .await
    }

    /// Ends that; `without` is the holder whose word is not waited for.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn resume(
        &mut self,
        without: Option<(&NodeId, Confirmed)>,
    ) -> Result<Answer<Ordered>, CliError> {
        let (without, confirmed) = match without {
            Some((node, confirmed)) => (node.to_string(), Some(confirmed)),
            None => (String::new(), None),
        };
        self.mean(confirmed);
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (by, without) = (asker(), without.clone());
            wire.resume(v1::ResumeRequest { cluster, by, without, wait_ms: wait_ms(left) }).await
        })
        .await
    }

    /// Has a node's database stopped, and kept down.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn fence(&mut self, node: &NodeId, why: &str) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (node, by, why) = (node.to_string(), asker(), why.to_owned());
            wire.fence(v1::FenceRequest { cluster, node, by, why, wait_ms: wait_ms(left) }).await
        })
        .await
    }

    /// Ends that.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn unfence(&mut self, node: &NodeId) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (node, by) = (node.to_string(), asker());
            wire.unfence(v1::UnfenceRequest { cluster, node, by, wait_ms: wait_ms(left) }).await
        })
        .await
    }

    /// Asks what happened after the event of that number; waits for something if `follow` says so.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn events(
        &mut self,
        after: u64,
        limit: u32,
        follow: bool,
    ) -> Result<Answer<Events>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, left| {
            let wait_ms = if follow { millis(left / 2) } else { 0 };
            wire.events(v1::EventsRequest { cluster, after, limit, wait_ms }).await
        })
        .await
    }

    /// Asks for one event and the log of it.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`]; [`CliError::NotFound`] if there is none of that number.
    pub async fn event(&mut self, id: u64) -> Result<Answer<EventReport>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.event_show(v1::EventShowRequest { cluster, id, log: String::new() }).await
        })
        .await
    }

    /// Asks for the promotions that are remembered.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn history(&mut self) -> Result<Answer<History>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.history(v1::HistoryRequest { cluster }).await
        })
        .await
    }

    /// Asks who would become primary by order.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn failover_plan(
        &mut self,
        to: Option<&NodeId>,
        accept_data_loss: bool,
    ) -> Result<Answer<FailoverPlan>, CliError> {
        let to = to.map(ToString::to_string).unwrap_or_default();
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            let to = to.clone();
            wire.failover_plan(v1::FailoverPlanRequest { cluster, to, accept_data_loss }).await
        })
        .await
    }

    /// Has the vacant lease given to a node, as it was planned.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn failover(
        &mut self,
        plan: &FailoverPlan,
        to: Option<&NodeId>,
        confirmed: Option<Confirmed>,
    ) -> Result<Answer<Ordered>, CliError> {
        let accept_data_loss = confirmed.is_some();
        self.mean(confirmed);
        let (to, epoch) = (to.map(ToString::to_string).unwrap_or_default(), plan.epoch.0);
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (to, by) = (to.clone(), asker());
            let wait_ms = wait_ms(left);
            let request = v1::FailoverRequest { cluster, to, accept_data_loss, epoch, by, wait_ms };
            wire.failover(request).await
        })
        .await
    }

    /// Has a node's data directory made anew, or says how far the order of that number is; answers within
    /// a quarter of the time.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn remake(
        &mut self,
        node: &NodeId,
        how: &Remake,
        number: u64,
    ) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (what, from, rate) = match how {
                Remake::Clone { from, max_rate_kib } => ("clone", from.as_ref(), *max_rate_kib),
                Remake::Rejoin => ("rejoin", None, None),
                Remake::Cancel => ("cancel", None, None),
            };
            let request = v1::RecloneRequest {
                cluster,
                node: node.to_string(),
                what: what.to_owned(),
                from: from.map(ToString::to_string).unwrap_or_default(),
                max_rate_kib: rate.unwrap_or_default(),
                by: asker(),
                wait_ms: millis(left / 4),
                number,
            };
            wire.reclone(request).await
        })
        .await
    }

    /// Has a node's configuration files read again.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn reload(&mut self, node: &NodeId) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, _| {
            let (node, by) = (node.to_string(), asker());
            wire.reload(v1::ReloadRequest { cluster, node, by }).await
        })
        .await
    }

    /// Asks for every node, and its place among the voters.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn nodes(&mut self) -> Result<Answer<Nodes>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.node_list(v1::NodeListRequest { cluster }).await
        })
        .await
    }

    /// Has a node taken in whose Raft store was lost and made anew.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn replace(&mut self, node: &NodeId) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (node, by, wait_ms) = (node.to_string(), asker(), wait_ms(left));
            wire.node_replace(v1::NodeReplaceRequest { cluster, node, by, wait_ms }).await
        })
        .await
    }

    /// Has a node taken in whose agent listens at that address; without one, a node that is leaving stays.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn add_node(
        &mut self,
        node: &NodeId,
        address: Option<&str>,
    ) -> Result<Answer<Ordered>, CliError> {
        let address = address.unwrap_or_default();
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (node, grpc) = (node.to_string(), address.to_owned());
            let (by, wait_ms) = (asker(), wait_ms(left));
            wire.node_add(v1::NodeAddRequest { cluster, node, grpc, by, wait_ms }).await
        })
        .await
    }

    /// Has a node taken out.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn remove_node(&mut self, node: &NodeId) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (node, by, wait_ms) = (node.to_string(), asker(), wait_ms(left));
            wire.node_remove(v1::NodeRemoveRequest { cluster, node, by, wait_ms }).await
        })
        .await
    }

    /// Asks for the internal users, and what every node has of their passwords.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn credentials(&mut self) -> Result<Answer<Credentials>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.credentials_show(v1::CredentialsShowRequest { cluster }).await
        })
        .await
    }

    /// Has the password of an internal user changed, or of all, or only says what would be done.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn rotate_credentials(
        &mut self,
        user: Option<&str>,
        dry_run: bool,
    ) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (user, by) = (user.unwrap_or_default().to_owned(), asker());
            let wait_ms = wait_ms(left);
            let request = v1::CredentialsRotateRequest { cluster, user, dry_run, wait_ms, by };
            wire.credentials_rotate(request).await
        })
        .await
    }

    /// Asks which switchovers are to come.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn schedule(&mut self) -> Result<Answer<Schedule>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.schedule_list(v1::ScheduleListRequest { cluster }).await
        })
        .await
    }

    /// Schedules a switchover.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn schedule_add(
        &mut self,
        due_unix_ms: u64,
        to: Option<&NodeId>,
    ) -> Result<Answer<Ordered>, CliError> {
        let to = to.map(ToString::to_string).unwrap_or_default();
        self.order(async |mut wire: Wire<Channel>, cluster, _| {
            let (to, by) = (to.clone(), asker());
            wire.schedule_add(v1::ScheduleAddRequest { cluster, due_unix_ms, to, by }).await
        })
        .await
    }

    /// Cancels one.
    ///
    /// # Errors
    /// As [`Self::pause`]; [`CliError::NotFound`] if there is none of that number.
    pub async fn schedule_cancel(&mut self, id: u64) -> Result<Answer<Ordered>, CliError> {
        self.order(async |mut wire: Wire<Channel>, cluster, _| {
            wire.schedule_cancel(v1::ScheduleCancelRequest { cluster, id, by: asker() }).await
        })
        .await
    }

    async fn order(
        &self,
        call: impl AsyncFn(Wire<Channel>, String, Duration) -> Result<Response<v1::OrderReply>, Status>,
    ) -> Result<Answer<Ordered>, CliError> {
        self.ask_in_turn(Kind::Order, call).await
    }
}
