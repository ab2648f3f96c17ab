//! The replicated state of a cluster, and the commands that change it.
//!
//! [`State::apply`] is total and deterministic: every voter applies the same commands in the same
//! order and gets the same state. Commands are compare-and-swap on an epoch or an attempt number; a
//! command that comes too late is refused by name and changes nothing. LSNs and health are not
//! here: they travel with renewals and reports, so that an idle cluster writes nothing to disk.

mod command;
pub mod journal;
pub mod membership;
pub mod operator;
mod recovery;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Incarnation};
use crate::lease::{CatchUp, Grant, Lease};
use crate::lsn::WalPosition;
use crate::node::{NodeId, NodeKind};
use crate::policy::Durability;
use crate::wal_quorum::{self, Acknowledger, Quorum, Recorded};

use journal::Event;
use membership::Leaving;
use operator::{ConfigChange, Drill, FencedByOrder, Pause, Scheduled};

pub use command::{Command, Outcome, Refused};

/// Version of the serialised form of [`State`] and [`Command`].
///
/// 2: durability modes, the WAL quorum, diverged WAL. 3: events, pauses, fences, schedules, settings,
/// nodes that come and go.
/// What an earlier format lacks is read as its default.
pub const STATE_FORMAT: u32 = 3;

/// How many promotions are remembered. Divergence is looked up among them; a node that was away for
/// longer is cloned anew.
pub const HISTORY_MAX: usize = 256;

/// How many kept pieces of diverged WAL are remembered.
pub const DIVERGED_MAX: usize = 64;

/// How many quorums of earlier epochs may have a say at once: more are never needed, since equal ones
/// count once, and a node has few.
const UNSETTLED_MAX: usize = 64;

/// Everything the cluster agrees on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_FORMAT`] of the agent that founded the cluster; 0 before that.
    pub format: u32,
    /// The cluster's name, empty before it is founded.
    pub cluster: String,
    /// Random identity of the cluster: two clusters of one name are still two.
    pub cluster_id: u128,
    /// How often the cluster was made anew from one survivor: agents of an earlier generation have to end.
    #[serde(default)]
    pub generation: u64,
    /// Every node of the cluster.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Identity of the database cluster, once there is one.
    pub system_identifier: Option<u64>,
    /// Who may make the database cluster, while there is none.
    pub bootstrap: Option<Bootstrap>,
    /// How many bootstraps were assigned so far.
    pub bootstraps: u64,
    /// The right to be primary.
    pub lease: Lease,
    /// The epoch of the latest grant.
    pub last_epoch: Epoch,
    /// Why the lease is vacant; `None` while it is held or was never granted.
    pub vacated: Option<VacateReason>,
    /// The promotions of the past, oldest first, at most [`HISTORY_MAX`].
    pub history: Vec<Promotion>,
    /// What clients are promised, and what the quorum is therefore changed to.
    #[serde(default = "async_mode")]
    pub durability: Durability,
    /// Counts the changes of the configuration: a change that comes too late is refused.
    #[serde(default)]
    pub config_version: u64,
    /// The WAL quorum of the latest grant: elections go by it. `None` before the first one.
    #[serde(default)]
    pub recorded: Option<Recorded>,
    /// Quorums of earlier grants whose commits may not be on enough members of the latest one yet:
    /// elections go by them too.
    #[serde(default)]
    pub unsettled: Vec<Recorded>,
    /// Counts the changes of `recorded` and `unsettled`.
    #[serde(default)]
    pub quorum_version: u64,
    /// Diverged WAL that was found, oldest first, at most [`DIVERGED_MAX`].
    #[serde(default)]
    pub diverged: Vec<Divergence>,
    /// How often WAL diverged so far.
    #[serde(default)]
    pub divergences: u64,
    /// Whether the agents have to leave the databases alone.
    #[serde(default)]
    pub pause: Option<Pause>,
    /// How often that was ordered so far.
    #[serde(default)]
    pub pauses: u64,
    /// The nodes whose databases are down by order.
    #[serde(default)]
    pub fenced: BTreeMap<NodeId, FencedByOrder>,
    /// The nodes that are being taken out.
    #[serde(default)]
    pub leaving: BTreeMap<NodeId, Leaving>,
    /// The nodes that were taken out and did not come back, at most [`membership::GONE_MAX`].
    #[serde(default)]
    pub gone: Vec<NodeId>,
    /// Switchovers that are to come, in the order in which they were ordered.
    #[serde(default)]
    pub scheduled: Vec<Scheduled>,
    /// How many were scheduled so far.
    #[serde(default)]
    pub schedules: u64,
    /// The latest drill that nobody has ended.
    #[serde(default)]
    pub drill: Option<Drill>,
    /// The settings that all nodes share, by key; those that have fields of their own are not here.
    #[serde(default)]
    pub settings: Arc<BTreeMap<String, String>>,
    /// The changes of the configuration, oldest first, at most [`operator::CONFIG_LOG_MAX`].
    #[serde(default)]
    pub config_log: Arc<Vec<ConfigChange>>,
    /// What happened, oldest first, at most [`journal::EVENTS_MAX`].
    #[serde(default)]
    pub events: Arc<Vec<Event>>,
    /// How much happened so far.
    #[serde(default)]
    pub event_count: u64,
}

/// Clusters of format 1 had no other mode.
const fn async_mode() -> Durability {
    Durability::Async
}

/// Nodes of earlier versions had no say.
const fn yes() -> bool {
    true
}

/// WAL of a former primary that is not part of the cluster's history, kept aside on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Its number, counted from 1.
    pub id: u64,
    /// Whose it is, and where it is kept.
    pub node: NodeId,
    /// The epoch in which it was found.
    pub epoch: Epoch,
    /// The last position that the cluster's history shares.
    pub fork: WalPosition,
    /// Where it ends.
    pub end: WalPosition,
    /// When it was found, milliseconds of Unix time by the node's wall clock: for people only.
    pub at_unix_ms: u64,
}

/// What the cluster knows of one of its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is for.
    pub kind: NodeKind,
    /// Where its agent listens, `host:port`.
    pub grpc: String,
    /// Where its Postgres listens, `host:port`; empty for a witness.
    pub postgres: String,
    /// Whether it can acknowledge commits: any data node, and a witness with the client programs.
    #[serde(default)]
    pub keeps_wal: bool,
    /// Whether commits may wait for it: `postgres.sync` of its configuration. A data node that is far away says no.
    #[serde(default = "yes")]
    pub sync: bool,
}

/// The right to run `initdb`, or to name an existing data directory as the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The node that has it.
    pub node: NodeId,
    /// Its number, counted from 1: a late answer to an earlier attempt is refused.
    pub attempt: u64,
}

/// One grant that led to a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Under which grant.
    pub epoch: Epoch,
    /// Who was promoted.
    pub holder: NodeId,
    /// The timeline that began, and where.
    pub begin: WalPosition,
    /// The promotion that the timeline before it came from, if the promoted node knew it.
    #[serde(default)]
    pub follows: Option<Epoch>,
    /// When, milliseconds of Unix time by the promoted node's wall clock: for people only.
    pub at_unix_ms: u64,
}

/// Why a lease became vacant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VacateReason {
    /// The granter saw no confirmed renewal for a whole ttl.
    Expired,
    /// The container that the holder's guard ran in was killed from outside, seen to be dead.
    Killed,
    /// The holder gave it back; its Postgres is known to be down.
    Released {
        /// What the holder says: the rule that made it give up.
        why: String,
    },
}

impl State {
    /// Carries out one command, or refuses it and changes nothing.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        // Entries of earlier versions carry no time.
        let (at_unix_ms, command) = match command {
            Command::At { at_unix_ms, command } => (*at_unix_ms, &**command),
            other => (0, other),
        };
        let before = self.clone();
        match self.try_apply(command, at_unix_ms) {
            Ok(()) => {
                if let Some(note) = self.note_of(&before, command) {
                    self.remember(at_unix_ms, note);
                }
                Outcome::Applied
            }
            Err(refused) => {
                *self = before;
                Outcome::Refused(refused)
            }
        }
    }

    /// Returns whether the cluster is founded.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.format != 0
    }

    /// Returns the latest promotion, if any was recorded.
    #[must_use]
    pub fn latest_promotion(&self) -> Option<&Promotion> {
        self.history.last()
    }

    fn try_apply(&mut self, command: &Command, at_unix_ms: u64) -> Result<(), Refused> {
        match command {
            Command::At { .. } => Err(Refused::TwoTimes),
            Command::Note { .. } if self.is_founded() => Ok(()),
            Command::Note { .. } => Err(Refused::NotFounded),
            Command::Pause { by, why } => self.pause(by, why, at_unix_ms),
            Command::EndPause { by: _, forced } => self.end_pause(*forced),
            Command::ConfirmResumed { epoch, pause } => self.confirm_resumed(*epoch, *pause),
            Command::Fence { node, by, why } => self.fence(node, by, why, at_unix_ms),
            Command::Unfence { node, by: _ } => self.unfence(node),
            Command::Join { node, is, by: _ } => self.join(node, is),
            Command::Retire { node, by } => self.retire(node, by, at_unix_ms),
            Command::Leave { node } => self.leave(node),
            Command::Schedule { due_unix_ms, to, by } => {
                self.schedule(*due_unix_ms, to.as_ref(), by)
            }
            Command::Unschedule { id, .. } => self.unschedule(*id),
            Command::BeginDrill { drill } => self.begin_drill(drill, at_unix_ms),
            Command::EndDrill { number, .. } => self.end_drill(*number),
            Command::Configure { version, changes, by } => {
                self.configure(*version, changes, by, at_unix_ms)
            }
            Command::Found { cluster, cluster_id, nodes, durability } => {
                if self.is_founded() {
                    return Err(Refused::AlreadyFounded);
                }
                let founded = Self {
                    format: STATE_FORMAT,
                    cluster: cluster.clone(),
                    cluster_id: *cluster_id,
                    nodes: nodes.clone(),
                    durability: *durability,
                    ..Self::default()
                };
                founded.expect_possible(*durability)?;
                *self = founded;
                Ok(())
            }
            Command::Describe { node, is } => self.describe(node, is),
            Command::AssignBootstrap { to, attempt } => self.assign_bootstrap(to, *attempt),
            Command::EndBootstrap { attempt } => {
                self.current_bootstrap(*attempt)?;
                self.bootstrap = None;
                Ok(())
            }
            Command::RegisterSystem { attempt, system_identifier } => {
                self.current_bootstrap(*attempt)?;
                self.system_identifier = Some(*system_identifier);
                self.bootstrap = None;
                Ok(())
            }
            Command::Grant { to, incarnation, epoch, ttl, catch_up, evidence: _ } => {
                if let Some(holder) = self.lease.holder() {
                    return Err(Refused::LeaseHeld(holder.clone()));
                }
                self.expect_epoch(*epoch, self.last_epoch.next())?;
                self.grant(to, *incarnation, *ttl, catch_up.clone())
            }
            Command::Vacate { epoch, reason, pauses } => {
                self.expect_held(*epoch)?;
                // What a granter decided before a pause is not carried out during it, nor after.
                if !matches!(reason, VacateReason::Released { .. }) {
                    self.expect_unpaused()?;
                    expect_version(*pauses, self.pauses)?;
                }
                self.lease = Lease::Vacant;
                self.vacated = Some(reason.clone());
                Ok(())
            }
            Command::Transfer { epoch, to, incarnation, ttl, evidence: _ } => {
                self.expect_held(*epoch)?;
                self.grant(to, *incarnation, *ttl, None)
            }
            Command::RecordPromotion { epoch, begin, follows, at_unix_ms } => {
                self.record_promotion(*epoch, *begin, *follows, *at_unix_ms)
            }
            Command::SetDurability { version, durability, by } => {
                expect_version(*version, self.config_version)?;
                self.expect_possible(*durability)?;
                let change = (Some(self.durability.to_string()), Some(durability.to_string()));
                self.durability = *durability;
                let changes = BTreeMap::from([("durability.mode".to_owned(), change)]);
                self.log_change(changes, by, at_unix_ms);
                Ok(())
            }
            Command::SetQuorum { epoch, version, mode, quorum, settled } => {
                self.set_quorum(*epoch, *version, *mode, quorum, *settled)
            }
            Command::RecordDivergence { node, fork, end, at_unix_ms } => {
                self.record_divergence(node, *fork, *end, *at_unix_ms)
            }
            Command::DropDivergence { id } => {
                let known = self.diverged.len();
                self.diverged.retain(|kept| kept.id != *id);
                if self.diverged.len() == known {
                    return Err(Refused::NoSuchDivergence(*id));
                }
                Ok(())
            }
        }
    }

    fn describe(&mut self, node: &NodeId, is: &Node) -> Result<(), Refused> {
        let known = self.nodes.get_mut(node).ok_or_else(|| Refused::UnknownNode(node.clone()))?;
        if known.kind != is.kind {
            return Err(Refused::KindChanged(node.clone()));
        }
        known.clone_from(is);
        Ok(())
    }

    fn assign_bootstrap(&mut self, to: &NodeId, attempt: u64) -> Result<(), Refused> {
        self.expect_data_node(to)?;
        if let Some(system) = self.system_identifier {
            return Err(Refused::SystemRegistered(system));
        }
        if self.bootstrap.is_some() || attempt != self.bootstraps + 1 {
            return Err(Refused::StaleBootstrap { asked: attempt });
        }
        self.bootstrap = Some(Bootstrap { node: to.clone(), attempt });
        self.bootstraps = attempt;
        Ok(())
    }

    fn current_bootstrap(&self, attempt: u64) -> Result<(), Refused> {
        match &self.bootstrap {
            Some(current) if current.attempt == attempt => Ok(()),
            _ => Err(Refused::StaleBootstrap { asked: attempt }),
        }
    }

    fn grant(
        &mut self,
        to: &NodeId,
        incarnation: Incarnation,
        ttl: Duration,
        catch_up: Option<CatchUp>,
    ) -> Result<(), Refused> {
        self.expect_data_node(to)?;
        self.expect_unpaused()?;
        self.expect_unfenced(to)?;
        if self.system_identifier.is_none() {
            return Err(Refused::NoSystem);
        }
        if ttl.is_zero() {
            return Err(Refused::ZeroTtl);
        }
        let epoch = self.last_epoch.next();
        self.last_epoch = epoch;
        self.vacated = None;
        self.open_quorum(to, epoch);
        self.lease = Lease::Held(Grant { holder: to.clone(), incarnation, epoch, ttl, catch_up });
        Ok(())
    }

    /// Records the quorum under which the new holder will accept writes, in the same step as the grant:
    /// there is no moment in which it could acknowledge what no election would look for. The quorum
    /// before it keeps its say until the holder has shown that it is not needed any more.
    fn open_quorum(&mut self, primary: &NodeId, epoch: Epoch) {
        let opening = Recorded {
            epoch,
            primary: primary.clone(),
            mode: self.durability,
            quorum: self.quorum_for(primary, |_| false),
        };
        if let Some(before) = self.recorded.replace(opening) {
            let same =
                |other: &Recorded| other.primary == before.primary && other.quorum == before.quorum;
            if before.mode != Durability::Async && !self.unsettled.iter().any(same) {
                self.unsettled.push(before);
            }
        }
        debug_assert!(self.unsettled.len() <= UNSETTLED_MAX, "equal quorums count once");
        self.quorum_version += 1;
    }

    /// Returns the quorum that this node should have as primary; `present` says who receives its WAL.
    pub fn quorum_for(&self, primary: &NodeId, present: impl Fn(&NodeId) -> bool) -> Quorum {
        let others = self.staying().filter(|(node, _)| *node != primary);
        let others: BTreeMap<NodeId, Acknowledger> = others
            .map(|(node, is)| {
                let keeps_wal = is.sync && (is.kind == NodeKind::Data || is.keeps_wal);
                let is = Acknowledger { kind: is.kind, keeps_wal, present: present(node) };
                (node.clone(), is)
            })
            .collect();
        wal_quorum::target(self.durability, self.staying().count(), &others)
    }

    /// Returns the quorums that an election has to satisfy: one for each primary whose acknowledged
    /// commits must be at hand. Empty if nobody was promised that.
    pub fn demands(&self) -> impl Iterator<Item = &Recorded> {
        let all = self.recorded.iter().chain(&self.unsettled);
        all.filter(|recorded| recorded.mode != Durability::Async)
    }

    fn set_quorum(
        &mut self,
        epoch: Epoch,
        version: u64,
        mode: Durability,
        quorum: &Quorum,
        settled: bool,
    ) -> Result<(), Refused> {
        self.expect_held(epoch)?;
        expect_version(version, self.quorum_version)?;
        let primary = self.lease.holder().ok_or(Refused::LeaseVacant)?.clone();
        let stranger = |node: &&NodeId| **node == primary || !self.nodes.contains_key(*node);
        if let Some(stranger) = quorum.members.iter().find(stranger) {
            return Err(Refused::NotAnAcknowledger(stranger.clone()));
        }
        let (required, members) = (quorum.required, quorum.members.len());
        if usize::try_from(required).map_or(true, |required| required > members) {
            return Err(Refused::ImpossibleQuorum { required, members });
        }
        self.recorded = Some(Recorded { epoch, primary, mode, quorum: quorum.clone() });
        if settled {
            self.unsettled.clear();
        }
        self.quorum_version += 1;
        Ok(())
    }

    fn record_divergence(
        &mut self,
        node: &NodeId,
        fork: WalPosition,
        end: WalPosition,
        at_unix_ms: u64,
    ) -> Result<(), Refused> {
        self.expect_data_node(node)?;
        let same =
            |known: &Divergence| known.node == *node && known.fork == fork && known.end == end;
        if self.diverged.iter().any(same) {
            return Ok(()); // Found again, by an agent that was cut short.
        }
        self.divergences += 1;
        let (id, epoch) = (self.divergences, self.last_epoch);
        self.diverged.push(Divergence { id, node: node.clone(), epoch, fork, end, at_unix_ms });
        let surplus = self.diverged.len().saturating_sub(DIVERGED_MAX);
        self.diverged.drain(..surplus);
        Ok(())
    }

    fn expect_possible(&self, durability: Durability) -> Result<(), Refused> {
        let data =
            self.staying().filter(|(_, node)| node.kind == NodeKind::Data && node.sync).count();
        if durability == Durability::StrictStandby && data < 2 {
            return Err(Refused::NoStandby(durability));
        }
        Ok(())
    }

    fn record_promotion(
        &mut self,
        epoch: Epoch,
        begin: WalPosition,
        follows: Option<Epoch>,
        at_unix_ms: u64,
    ) -> Result<(), Refused> {
        self.expect_held(epoch)?;
        if self.history.iter().any(|p| p.epoch == epoch) {
            return Err(Refused::AlreadyRecorded(epoch));
        }
        let holder = self.lease.holder().ok_or(Refused::LeaseVacant)?.clone();
        self.history.push(Promotion { epoch, holder, begin, follows, at_unix_ms });
        let surplus = self.history.len().saturating_sub(HISTORY_MAX);
        self.history.drain(..surplus);
        Ok(())
    }

    fn expect_data_node(&self, node: &NodeId) -> Result<(), Refused> {
        if !self.is_founded() {
            return Err(Refused::NotFounded);
        }
        match self.nodes.get(node).map(|n| n.kind) {
            Some(NodeKind::Data) => Ok(()),
            Some(NodeKind::Witness) => Err(Refused::NotADataNode(node.clone())),
            None => Err(Refused::UnknownNode(node.clone())),
        }
    }

    fn expect_held(&self, epoch: Epoch) -> Result<(), Refused> {
        let grant = self.lease.grant().ok_or(Refused::LeaseVacant)?;
        self.expect_epoch(epoch, grant.epoch)
    }

    fn expect_epoch(&self, asked: Epoch, expected: Epoch) -> Result<(), Refused> {
        if asked == expected {
            Ok(())
        } else {
            Err(Refused::StaleEpoch { asked, current: self.last_epoch })
        }
    }
}

fn expect_version(asked: u64, current: u64) -> Result<(), Refused> {
    if asked == current { Ok(()) } else { Err(Refused::StaleVersion { asked, current }) }
}

#[cfg(test)]
mod tests;
