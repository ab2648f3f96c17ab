//! Questions and orders beyond the status: to the agent that knows most, then to the others.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use ha_core::{Epoch, NodeId};
use ha_proto::v1;
use ha_proto::v1::admin_client::AdminClient as Wire;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::asker::asker;
use crate::client::change::Change;
use crate::client::failure::{Failure, FailureReason, Setback, may_be_done, sort};
use crate::client::{AdminClient, Answer, Contact, millis};
use crate::confirm::Confirmed;
use crate::endpoint::Endpoint;
use crate::error::CliError;
use crate::reply::MalformedReply;
use crate::reply::config::{ConfigChanged, ConfigChanges, ConfigHistory, Configuration};
use crate::reply::diverged::{DivergedDropped, DivergedList, DivergedReport};
use crate::reply::doctor::Examination;
use crate::reply::restart::{RestartPlan, Restarted};
use crate::reply::switchover::{Switchover, SwitchoverPlan};

/// How long an order looks for the agent to give it to, at most: the rest is for the order.
const FINDING: Duration = Duration::from_secs(5);

/// How much earlier than we give up an agent is to say how far it got.
pub(super) const HEADROOM: Duration = Duration::from_secs(1);

/// A switchover: from whom, to whom, and which grant it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverOrder {
    /// The primary.
    pub from: NodeId,
    /// Who takes over.
    pub to: NodeId,
    /// The grant that ends: an order that comes too late is none.
    pub epoch: Epoch,
    /// Drawn at random: asked about again, it is the same order.
    pub number: u64,
}

impl SwitchoverOrder {
    /// Returns the order that carries a plan out.
    ///
    /// # Errors
    /// [`CliError::SwitchoverRefused`] if anything speaks against it.
    pub fn of(plan: &SwitchoverPlan) -> Result<Self, CliError> {
        let refused = |why: String| Err(CliError::SwitchoverRefused { why });
        match (&plan.to, plan.refusal()) {
            (_, Some(why)) => refused(why),
            (None, None) => refused("no standby is fit to take over".to_owned()),
            (Some(to), None) => {
                // Each of them is seeded at random.
                let number = RandomState::new().build_hasher().finish();
                Ok(Self { from: plan.from.clone(), to: to.clone(), epoch: plan.epoch, number })
            }
        }
    }
}

/// What is asked for: knowledge, or a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing.
    Question,
    /// It changes something. Done twice, it has the effect of once.
    Order,
}

/// One call that brought no answer.
struct Missed {
    setback: Setback,
    /// Whether the agent may have done what it was asked for all the same.
    in_doubt: bool,
}

impl AdminClient {
    /// Asks for the replicated configuration.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn configuration(&mut self) -> Result<Answer<Configuration>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.config_show(v1::ConfigShowRequest { cluster }).await
        })
        .await
    }

    /// Changes one key of the replicated configuration, and waits until that is in force if
    /// `wait` says so.
    ///
    /// An order that found no answer is given to the next agent: done twice, it changes nothing
    /// more. Dropped before the end, it may take effect or not.
    ///
    /// # Errors
    /// As [`Self::status`]; [`CliError::OutcomeUnknown`] if it may have taken effect.
    pub async fn change(
        &mut self,
        change: Change,
        wait: bool,
    ) -> Result<Answer<ConfigChanged>, CliError> {
        let Change { key, value, confirmed } = change;
        self.mean(confirmed);
        self.ask_in_turn(Kind::Order, async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (key, value) = (key.clone(), value.clone());
            let wait_ms =
                if wait { millis(left.saturating_sub(HEADROOM.min(left / 4))) } else { 0 };
            let by = asker();
            wire.config_set(v1::ConfigSetRequest { cluster, key, value, wait, wait_ms, by }).await
        })
        .await
    }

    /// Changes several keys at once, or asks what would become of that if `check_only` says so. The order is for
    /// that version of the configuration, if one is given: after another change it is refused.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn change_all(
        &mut self,
        changes: &[(String, Option<String>)],
        version: Option<u64>,
        check_only: bool,
    ) -> Result<Answer<ConfigChanges>, CliError> {
        let wire = |(key, after): &(String, Option<String>)| v1::ConfigDifference {
            key: key.clone(),
            after: after.clone(),
            ..v1::ConfigDifference::default()
        };
        let changes: Vec<v1::ConfigDifference> = changes.iter().map(wire).collect();
        let kind = if check_only { Kind::Question } else { Kind::Order };
        self.ask_in_turn(kind, async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let (by, changes) = (asker(), changes.clone());
            let wait_ms = millis(left.saturating_sub(HEADROOM.min(left / 4)));
            let wait = !check_only;
            let request = v1::ConfigChangeRequest {
                cluster,
                version,
                changes,
                check_only,
                wait,
                wait_ms,
                by,
            };
            wire.config_change(request).await
        })
        .await
    }

    /// Asks which changes of the configuration are remembered.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn config_history(&mut self) -> Result<Answer<ConfigHistory>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.config_history(v1::ConfigHistoryRequest { cluster }).await
        })
        .await
    }

    /// Asks which diverged WAL is known.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn diverged_list(&mut self) -> Result<Answer<DivergedList>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.diverged_list(v1::DivergedListRequest { cluster }).await
        })
        .await
    }

    /// Asks what is in one of them.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`]; [`CliError::NotFound`] if there is none of that number.
    pub async fn diverged_show(&mut self, id: u64) -> Result<Answer<DivergedReport>, CliError> {
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.diverged_show(v1::DivergedShowRequest { cluster, id }).await
        })
        .await
    }

    /// Removes the copy of one of them, for good.
    ///
    /// As with [`Self::change`], an order that found no answer is given to the next agent.
    ///
    /// # Errors
    /// As [`Self::diverged_show`]; [`CliError::OutcomeUnknown`] if it may have been removed.
    pub async fn diverged_drop(
        &mut self,
        id: u64,
        confirmed: Confirmed,
    ) -> Result<Answer<DivergedDropped>, CliError> {
        self.mean(Some(confirmed));
        self.ask_in_turn(Kind::Order, async |mut wire: Wire<Channel>, cluster, _| {
            wire.diverged_drop(v1::DivergedDropRequest { cluster, id }).await
        })
        .await
    }

    /// Asks what would come of a switchover to that node, or to the fittest one.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn switchover_plan(
        &mut self,
        to: Option<NodeId>,
    ) -> Result<Answer<SwitchoverPlan>, CliError> {
        let to = to.map(String::from).unwrap_or_default();
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.switchover_plan(v1::SwitchoverPlanRequest { cluster, to: to.clone() }).await
        })
        .await
    }

    /// Orders a switchover, and waits a moment for more than `known` steps of it, or for its end. Given
    /// again, the same order only waits.
    ///
    /// # Errors
    /// As [`Self::status`]; [`CliError::OutcomeUnknown`] if it may have been taken.
    pub async fn switchover(
        &mut self,
        order: &SwitchoverOrder,
        known: usize,
    ) -> Result<Answer<Switchover>, CliError> {
        self.ask_in_turn(Kind::Order, async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let request = v1::SwitchoverRequest {
                cluster,
                from: order.from.to_string(),
                to: order.to.to_string(),
                epoch: order.epoch.0,
                wait_ms: millis(left / 4),
                known_steps: u32::try_from(known).unwrap_or(u32::MAX),
                number: order.number,
                by: asker(),
            };
            wire.switchover(request).await
        })
        .await
    }

    /// Asks what a restart of a node's database would mean.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn restart_plan(&mut self, node: &NodeId) -> Result<Answer<RestartPlan>, CliError> {
        let node = node.to_string();
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            wire.restart_plan(v1::RestartPlanRequest { cluster, node: node.clone() }).await
        })
        .await
    }

    /// Ends that run of a node's database, and waits until the next one does its work.
    ///
    /// # Errors
    /// As [`Self::status`]; [`CliError::OutcomeUnknown`] if it may have been taken.
    pub async fn restart(
        &mut self,
        node: &NodeId,
        run: u64,
    ) -> Result<Answer<Restarted>, CliError> {
        let node = node.to_string();
        self.ask_in_turn(Kind::Order, async |mut wire: Wire<Channel>, cluster, left: Duration| {
            let wait_ms = millis(left.saturating_sub(HEADROOM.min(left / 4)));
            let (node, by) = (node.clone(), asker());
            wire.restart(v1::RestartRequest { cluster, node, run, wait_ms, by }).await
        })
        .await
    }

    /// Asks for an examination of every node, or of one.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn doctor(&mut self, node: Option<&NodeId>) -> Result<Answer<Examination>, CliError> {
        let node = node.map(NodeId::to_string).unwrap_or_default();
        self.ask_in_turn(Kind::Question, async |mut wire: Wire<Channel>, cluster, _| {
            let node = node.clone();
            let request = v1::DoctorRequest { cluster, node, ..v1::DoctorRequest::default() };
            wire.doctor(request).await
        })
        .await
    }

    /// From now on no other cluster is meant than the one that the user confirmed.
    pub(super) fn mean(&mut self, confirmed: Option<Confirmed>) {
        if let Some(cluster) = confirmed.and_then(Confirmed::into_cluster) {
            self.cluster = Some(cluster);
        }
    }

    /// Asks the agent that [`Self::status`] would believe; if that one fails, the others in turn.
    ///
    /// `call` is told the cluster that is meant and the time it has.
    pub(super) async fn ask_in_turn<W, R: TryFrom<W, Error = MalformedReply>>(
        &self,
        kind: Kind,
        call: impl AsyncFn(Wire<Channel>, String, Duration) -> Result<Response<W>, Status>,
    ) -> Result<Answer<R>, CliError> {
        let deadline = Instant::now() + self.patience;
        let finding = match kind {
            Kind::Question => self.patience,
            Kind::Order => self.patience.min(FINDING),
        };
        let (mut contact, mut failures) = self.find(Instant::now() + finding, 1).await?;
        let cluster = contact.status.cluster.clone();
        let mut others = self.not_asked(&contact.endpoint, &failures).into_iter();
        let mut in_doubt = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = match kind {
                Kind::Question => left / shares(others.len() + 1),
                // An order may take all the time there is: its agent has just answered.
                Kind::Order => left,
            };
            let endpoint = contact.endpoint.clone();
            let informed = contact.status.is_informed();
            let missed = match put(contact, share, &cluster, &call).await {
                Ok(reply) => return Ok(Answer { reply, endpoint, cluster, informed, failures }),
                Err(missed) => missed,
            };
            match missed.setback {
                Setback::Final(error) if !in_doubt => return Err(error),
                // Said of a second try: it does not tell how the first one ended.
                Setback::Final(error) => {
                    let reason = FailureReason::Said(error.said());
                    failures.push(Failure { endpoint, reason });
                    return Err(CliError::OutcomeUnknown { failures });
                }
                Setback::Local(reason) => failures.push(Failure { endpoint, reason }),
            }
            in_doubt |= kind == Kind::Order && missed.in_doubt;
            let next = self.next_contact(&mut others, deadline, &cluster, &mut failures).await;
            contact = match next {
                Some(contact) => contact,
                None if in_doubt => return Err(CliError::OutcomeUnknown { failures }),
                None => return Err(self.no_answer(failures)),
            };
        }
    }

    /// Returns the endpoints that may still be asked beside the `chosen` one.
    fn not_asked(&self, chosen: &Endpoint, failures: &[Failure]) -> Vec<Endpoint> {
        let useless = |one: &Endpoint| failures.iter().any(|failure| failure.endpoint == *one);
        let others = self.endpoints.iter().filter(|one| *one != chosen && !useless(one));
        others.cloned().collect()
    }

    /// Returns the next agent that answers, and notes those that do not.
    async fn next_contact(
        &self,
        others: &mut impl ExactSizeIterator<Item = Endpoint>,
        deadline: Instant,
        cluster: &str,
        failures: &mut Vec<Failure>,
    ) -> Option<Contact> {
        while let Some(endpoint) = others.next() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / shares(others.len() + 2);
            let reason = match self.ask(&endpoint, share, Some(cluster)).await {
                Ok(contact) => return Some(contact),
                Err(Setback::Local(reason)) => reason,
                Err(Setback::Final(error)) => FailureReason::Said(error.said()),
            };
            failures.push(Failure { endpoint, reason });
        }
        None
    }
}

/// Makes one call, for at most `share`.
async fn put<W, R: TryFrom<W, Error = MalformedReply>>(
    contact: Contact,
    share: Duration,
    cluster: &str,
    call: &impl AsyncFn(Wire<Channel>, String, Duration) -> Result<Response<W>, Status>,
) -> Result<R, Missed> {
    let Contact { endpoint, wire, .. } = contact;
    match timeout(share, call(wire, cluster.to_owned(), share)).await {
        Err(_) => {
            let setback = Setback::Local(FailureReason::Silent { waited_ms: millis(share) });
            Err(Missed { setback, in_doubt: true })
        }
        Ok(Err(status)) => {
            Err(Missed { setback: sort(&endpoint, &status), in_doubt: may_be_done(&status) })
        }
        Ok(Ok(reply)) => R::try_from(reply.into_inner()).map_err(|fault| Missed {
            setback: Setback::Local(FailureReason::Malformed(fault)),
            in_doubt: true,
        }),
    }
}

fn shares(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
