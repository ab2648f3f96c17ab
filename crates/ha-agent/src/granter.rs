//! The Raft leader's duties: confirm renewals, let the lease expire, elect, keep leadership away from
//! the primary's node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ha_core::candidate::{BootstrapChoice, Report, choose_bootstrap, elect, worth_waiting_for};
use ha_core::decide::Rule;
use ha_core::granter::{Granter, RenewRefused};
use ha_core::state::{Command, Outcome, State, VacateReason};
use ha_core::{Epoch, NodeId, NodeKind, WalPosition};
use ha_postgres::driver::PostgresDriver;
use ha_proto::v1::RevokeRequest;
use ha_raft::ConfirmError;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::agent::{Agent, lock};
use crate::clock;
use crate::events;
use crate::founding;
use crate::report;
use crate::revoke;

/// How often the leader looks at the lease.
const TICK: Duration = Duration::from_millis(50);
/// How long a majority may take to confirm leadership for one renewal.
const CONFIRM_LIMIT: Duration = Duration::from_millis(1000);
/// How long a command of the leader may take.
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long a node may take to report in an election.
const REPORT_LIMIT: Duration = Duration::from_millis(500);
/// The same for a node that did not answer the last time.
const SILENT_LIMIT: Duration = Duration::from_millis(100);
/// How long a node may take to pledge, stop receiving and read what it has.
const REVOKE_LIMIT: Duration = Duration::from_millis(1200);
/// How long an election without a winner waits before the next.
const ELECTION_PAUSE: Duration = Duration::from_millis(200);
/// How long an election waits for the last primary when that answers and its database is down: its
/// WAL may be ahead of everybody's, and it needs `vacant_grace` and a start to be electable.
const LAST_PRIMARY_PATIENCE: Duration = Duration::from_secs(4);
/// The same before the first grant: nobody waits for a database yet, and what loses is replaced.
const FIRST_START_PATIENCE: Duration = Duration::from_secs(30);
/// How long this node must lead beside the primary before it hands leadership over, and how long it
/// then waits before it tries again.
const TRANSFER_AFTER: Duration = Duration::from_millis(700);
const TRANSFER_PAUSE: Duration = Duration::from_secs(5);

/// Why a renewal was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The granter's own rules.
    #[error(transparent)]
    Refused(#[from] RenewRefused),
    /// No majority confirmed that this node leads.
    #[error("{0}")]
    Unconfirmed(#[from] ConfirmError),
}

/// What a holder tells with a renewal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Its end of WAL.
    pub flushed: Option<WalPosition>,
    /// The container that its guard runs in, if it runs in one.
    pub container: Option<String>,
}

/// Confirms one renewal: by a majority round that begins after it arrived. Returns the number of the pause that
/// is in force and not to end, 0 for none.
///
/// # Errors
/// [`RenewError`]: then nothing was noted.
pub async fn renew<D: PostgresDriver>(
    agent: &Agent<D>,
    holder: &NodeId,
    epoch: Epoch,
    told: Told,
) -> Result<u64, RenewError> {
    let (noted, _) = observe(agent)?;
    let confirmed = agent.raft.confirm_leadership(CONFIRM_LIMIT).await?;
    // In one step, without an await: state and clock are read anew, and *under the lock*. A state read
    // before it could be older than what another task has observed meanwhile, and would bring a vacated
    // epoch's record back to life.
    let mut granter = lock(&agent.granter);
    let state = agent.state();
    look(&mut granter, agent, &state);
    if state.lease.holder() != Some(holder) {
        return Err(RenewRefused::NotHeld.into());
    }
    granter.confirm(noted, confirmed.term, epoch, &state.lease, clock::now())?;
    granter.runs_in(epoch, told.container);
    drop(granter);
    if let Some(flushed) = told.flushed {
        lock(&agent.last_known).replace((epoch, flushed));
    }
    let pause = state.pause.as_ref().filter(|pause| !pause.ending);
    Ok(pause.map_or(0, |_| state.pauses))
}

fn leading<D>(agent: &Agent<D>) -> Option<u64> {
    let status = agent.raft.status();
    status.is_leader.then_some(status.term)
}

fn look<D>(granter: &mut Granter, agent: &Agent<D>, state: &State) {
    let now = clock::now();
    granter.observe(leading(agent), &state.lease, now);
    granter.observe_pause(state.pauses, state.is_paused(), now);
}

/// Brings the granter up to date; returns the term this node leads and the state that was seen.
pub(crate) fn observe<D>(agent: &Agent<D>) -> Result<(u64, State), RenewRefused> {
    let mut granter = lock(&agent.granter);
    let state = agent.state();
    look(&mut granter, agent, &state);
    Ok((granter.arrived()?, state))
}

/// Does the leader's duties, while this node leads, until the agent ends.
pub async fn run<D: PostgresDriver>(agent: Arc<Agent<D>>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changed = agent.raft.state();
    let mut duty = Duty::default();
    loop {
        tokio::select! {
            biased;
            _ = changed.changed() => {}
            _ = tick.tick() => {}
        }
        duty.once(&agent).await;
    }
}

/// What the leader remembers between ticks; none of it is needed for safety.
#[derive(Debug, Default)]
struct Duty {
    pause_until: Option<Instant>,
    vacant_since: Option<Instant>,
    beside_primary_since: Option<Instant>,
    transfer_after: Option<Instant>,
    told: Option<String>,
    /// The expiry that was told, by term and epoch: without a majority it is tried again and again.
    expired: Option<(u64, Epoch)>,
}

impl Duty {
    async fn once<D: PostgresDriver>(&mut self, agent: &Agent<D>) {
        let Ok((term, state)) = observe(agent) else {
            *self = Self { transfer_after: self.transfer_after, ..Self::default() };
            return;
        };
        self.expire(agent, &state).await;
        self.stay_away_from_primary(agent, &state).await;
        if state.lease.grant().is_some() {
            self.told = None;
            self.vacant_since = None;
            return;
        }
        if state.is_paused() {
            return;
        }
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        if !state.is_founded() {
            founding::found(agent, term).await;
        } else if state.system_identifier.is_none() {
            self.bootstrap(agent, &state, term).await;
        } else {
            self.elect(agent, &state, term).await;
            return;
        }
        self.pause_until = Some(Instant::now() + ELECTION_PAUSE);
    }

    async fn expire<D: PostgresDriver>(&mut self, agent: &Agent<D>, state: &State) {
        let expiry = lock(&agent.granter).expire(&state.lease, clock::now());
        let Some(expiry) = expiry else { return };
        let Some(grant) = state.lease.grant() else { return };
        let reason = if expiry.killed { VacateReason::Killed } else { VacateReason::Expired };
        let is_news =
            self.expired.replace((expiry.term, expiry.epoch)) != Some((expiry.term, expiry.epoch));
        if is_news && !expiry.killed {
            events::LeaseExpired { epoch: expiry.epoch, holder: &grant.holder }.emit();
        }
        let vacate = Command::Vacate { epoch: expiry.epoch, reason, pauses: expiry.pauses };
        // Bound to the term in which it was decided: never forwarded, never tried in another one.
        if let Err(error) = agent.raft.propose(vacate, Some(expiry.term), PROPOSE_LIMIT).await {
            if is_news {
                warn!(epoch = %expiry.epoch, %error, "could not vacate the expired lease yet");
            } else {
                debug!(epoch = %expiry.epoch, %error, "could not vacate the expired lease yet");
            }
        }
    }

    async fn elect<D: PostgresDriver>(&mut self, agent: &Agent<D>, state: &State, term: u64) {
        let began = Instant::now();
        let promised = state.demands().next().is_some();
        let reports =
            if promised { prepare(agent, state.last_epoch).await } else { collect(agent).await };
        let election = elect(state, &reports, known_end(agent, state), &agent.config.policy);
        // What is proven needs no patience: what only the last primary has was never acknowledged.
        let hasty = promised && election.winner.is_some();
        if let Some(node) = self.awaited(state, &reports).filter(|_| !hasty) {
            self.tell(format!("waiting for {node}"), |_| {
                info!(%node, "waiting for the last primary: it answers, and may have more WAL");
            });
            self.pause_until = Some(Instant::now() + ELECTION_PAUSE);
            return;
        }
        let Some(winner) = election.winner else {
            let refusals: Vec<String> =
                election.refusals.iter().map(|(node, why)| format!("{node}: {why}")).collect();
            self.tell(refusals.join("; "), |text| {
                info!(epoch = %state.last_epoch, refusals = text, "nobody can be elected");
            });
            lock(&agent.last_refusals).clone_from(&election.refusals);
            self.pause_until = Some(Instant::now() + ELECTION_PAUSE);
            return;
        };
        let grant = Command::Grant {
            to: winner.node.clone(),
            incarnation: winner.incarnation,
            epoch: state.last_epoch.next(),
            ttl: agent.config.policy.ttl,
            catch_up: winner.catch_up.clone(),
            evidence: winner.evidence(),
        };
        match agent.raft.propose(grant, Some(term), PROPOSE_LIMIT).await {
            Ok(Outcome::Applied) => events::LeaseGranted {
                epoch: state.last_epoch.next(),
                to: &winner.node,
                evidence: &winner.evidence(),
                took: began.elapsed(),
            }
            .emit(),
            Ok(Outcome::Refused(why)) => debug!(%why, "grant refused"),
            Err(error) => {
                warn!(to = %winner.node, %error, "could not grant the lease");
                self.pause_until = Some(Instant::now() + ELECTION_PAUSE);
            }
        }
    }

    async fn bootstrap<D: PostgresDriver>(&mut self, agent: &Agent<D>, state: &State, term: u64) {
        if let Some(bootstrap) = &state.bootstrap {
            // Its holder does the work, or says that it failed. If its agent started anew, it goes on.
            self.tell(format!("{bootstrap:?}"), |_| {
                info!(node = %bootstrap.node, attempt = bootstrap.attempt, "bootstrap is under way");
            });
            return;
        }
        let to = match choose_bootstrap(state, &collect(agent).await) {
            BootstrapChoice::Assign(to) => to,
            BootstrapChoice::WaitFor(nodes) => {
                self.tell(format!("bootstrap waits for {}", names(&nodes)), |text| {
                    info!(reason = text, "cannot make the database yet");
                });
                return;
            }
            BootstrapChoice::Conflict(found) => {
                let list: Vec<String> =
                    found.iter().map(|(node, id)| format!("{node} has {id}")).collect();
                self.tell(list.join(", "), |text| {
                    warn!(found = text, "cannot choose a database: the nodes have different ones");
                });
                return;
            }
            BootstrapChoice::Unusable(nodes) => {
                self.tell(names(&nodes), |text| {
                    warn!(nodes = text, "cannot make the database: unusable data directories");
                });
                return;
            }
        };
        let command = Command::AssignBootstrap { to, attempt: state.bootstraps + 1 };
        if let Err(error) = agent.raft.propose(command, Some(term), PROPOSE_LIMIT).await {
            debug!(%error, "could not assign the bootstrap yet");
        }
    }

    /// Losing the primary's host must not cost a Raft election on top of the ttl.
    async fn stay_away_from_primary<D: PostgresDriver>(&mut self, agent: &Agent<D>, state: &State) {
        let now = Instant::now();
        if state.lease.holder() != Some(agent.node()) {
            self.beside_primary_since = None;
            return;
        }
        let since = *self.beside_primary_since.get_or_insert(now);
        let paused = self.transfer_after.is_some_and(|after| now < after);
        if paused || now.duration_since(since) < TRANSFER_AFTER {
            return;
        }
        let Some(to) = transfer_target(agent, state) else { return };
        self.transfer_after = Some(now + TRANSFER_PAUSE);
        match agent.raft.transfer_leader(&to).await {
            Ok(()) => info!(%to, "handed Raft leadership away from the primary's node"),
            Err(error) => warn!(%to, %error, "could not hand Raft leadership over"),
        }
    }

    /// The last primary's node, for as long as the election waits for its database to start.
    fn awaited(&mut self, state: &State, reports: &BTreeMap<NodeId, Report>) -> Option<NodeId> {
        let since = *self.vacant_since.get_or_insert_with(Instant::now);
        let first = state.last_epoch == Epoch::NONE;
        let patience = if first { FIRST_START_PATIENCE } else { LAST_PRIMARY_PATIENCE };
        worth_waiting_for(state, reports).filter(|_| since.elapsed() < patience).cloned()
    }

    /// Logs something once, until it changes.
    fn tell(&mut self, text: String, log: impl FnOnce(&str)) {
        if self.told.as_ref() != Some(&text) {
            log(&text);
            self.told = Some(text);
        }
    }
}

/// The primary's end of WAL as its renewals told this node, if they are of the grant that wrote last.
pub fn known_end<D>(agent: &Agent<D>, state: &State) -> Option<WalPosition> {
    let wrote = state.latest_promotion().map_or(Epoch::NONE, |promotion| promotion.epoch);
    lock(&agent.last_known).filter(|(epoch, _)| *epoch >= wrote).map(|(_, position)| position)
}

/// A witness first, then a standby; only a voter that answered just now and takes part.
pub fn transfer_target<D>(agent: &Agent<D>, state: &State) -> Option<NodeId> {
    let sightings = lock(&agent.sightings);
    let voters = agent.raft.status().voters;
    // Whoever knows no leader takes no part: its store may have been lost.
    let takes_part = |report: &ha_proto::v1::ReportReply| !report.raft_leader.is_empty();
    let answers = |node: &NodeId| {
        let report = sightings.get(node).and_then(|seen| seen.current());
        voters.contains(node) && report.is_some_and(takes_part)
    };
    let mut others: Vec<(&NodeId, NodeKind)> = state
        .nodes
        .iter()
        .filter(|(node, _)| *node != agent.node() && answers(node) && !state.is_leaving(node))
        .map(|(node, is)| (node, is.kind))
        .collect();
    others.sort_by_key(|(node, kind)| (*kind != NodeKind::Witness, (*node).clone()));
    others.first().map(|(node, _)| (*node).clone())
}

/// Asks every node for its report, in parallel; a silent one does not hold the others up.
pub async fn collect<D: PostgresDriver>(agent: &Agent<D>) -> BTreeMap<NodeId, Report> {
    let members = agent.members();
    let asked = members.keys().map(|node| async move {
        let reply = if node == agent.node() {
            Some(report::fresh(agent).await)
        } else {
            let silent =
                lock(&agent.sightings).get(node).is_some_and(|sighting| sighting.error.is_some());
            let limit = if silent { SILENT_LIMIT } else { REPORT_LIMIT };
            let request = report::request(agent, true);
            agent.peers.report(node, request, limit).await.ok()
        };
        Some((node.clone(), report::to_core(&reply?)))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Asks every node to acknowledge nothing more of `epoch` and for what it has, in parallel.
pub async fn prepare<D: PostgresDriver>(
    agent: &Agent<D>,
    epoch: Epoch,
) -> BTreeMap<NodeId, Report> {
    let members = agent.members();
    let asked = members.keys().map(|node| async move {
        let reply = if node == agent.node() {
            revoke::answer_whole(agent, epoch).await
        } else {
            let silent =
                lock(&agent.sightings).get(node).is_some_and(|sighting| sighting.error.is_some());
            let limit = if silent { SILENT_LIMIT } else { REVOKE_LIMIT };
            let (cluster, from) = (agent.config.cluster.clone(), agent.node().to_string());
            let request = RevokeRequest { cluster, from, epoch: epoch.0 };
            agent.peers.revoke(node, request, limit).await.ok()?
        };
        let mut report = report::to_core(reply.report.as_ref()?);
        report.pledged = Epoch(reply.pledged);
        report.wal = reply.tip.as_ref().map(revoke::from_wire);
        if !reply.why.is_empty() {
            debug!(%node, why = reply.why, "not counted in the election");
        }
        Some((node.clone(), report))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

/// Returns whether a report says that the node could take over at once.
#[must_use]
pub fn fit(report: &ha_proto::v1::ReportReply) -> bool {
    let following = report.rule == Rule::Following.name();
    report.postgres.as_ref().is_some_and(|p| {
        following && p.answering && p.in_recovery && p.promotable && p.unfit.is_empty()
    })
}
