//! Questions and orders beyond the status: to the agent that knows most, then to the others.

use std::time::Duration;

use ha_proto::v1;
use ha_proto::v1::admin_client::AdminClient as Wire;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::client::change::Change;
use crate::client::failure::{Failure, FailureReason, Setback, may_be_done, sort};
use crate::client::{AdminClient, Answer, Contact, millis};
use crate::confirm::Confirmed;
use crate::endpoint::Endpoint;
use crate::error::CliError;
use crate::reply::MalformedReply;
use crate::reply::config::{ConfigChanged, Configuration};
use crate::reply::diverged::{DivergedDropped, DivergedList, DivergedReport};

/// How long an order looks for the agent to give it to, at most: the rest is for the order.
const FINDING: Duration = Duration::from_secs(5);

/// How much earlier than we give up an agent is to say how far it got.
const HEADROOM: Duration = Duration::from_secs(1);

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
            wire.config_set(v1::ConfigSetRequest { cluster, key, value, wait, wait_ms }).await
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

    /// From now on no other cluster is meant than the one that the user confirmed.
    fn mean(&mut self, confirmed: Option<Confirmed>) {
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
