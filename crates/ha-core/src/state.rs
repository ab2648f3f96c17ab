//! The replicated state of a cluster, and the commands that change it.
//!
//! [`State::apply`] is total and deterministic: every voter applies the same commands in the same
//! order and gets the same state. Commands are compare-and-swap on an epoch or an attempt number; a
//! command that comes too late is refused by name and changes nothing. LSNs and health are not
//! here: they travel with renewals and reports, so that an idle cluster writes nothing to disk.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Incarnation};
use crate::lease::{Grant, Lease};
use crate::lsn::WalPosition;
use crate::node::{NodeId, NodeKind};

/// Version of the serialised form of [`State`] and [`Command`].
pub const STATE_FORMAT: u32 = 1;

/// How many promotions are remembered. Divergence is looked up among them; a node that was away for
/// longer is cloned anew.
pub const HISTORY_MAX: usize = 256;

/// Everything the cluster agrees on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_FORMAT`] of the agent that founded the cluster; 0 before that.
    pub format: u32,
    /// The cluster's name, empty before it is founded.
    pub cluster: String,
    /// Random identity of the cluster: two clusters of one name are still two.
    pub cluster_id: u128,
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
    /// When, milliseconds of Unix time by the promoted node's wall clock: for people only.
    pub at_unix_ms: u64,
}

/// Why a lease became vacant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VacateReason {
    /// The granter saw no confirmed renewal for a whole ttl.
    Expired,
    /// The holder gave it back; its Postgres is known to be down.
    Released {
        /// What the holder says: the rule that made it give up.
        why: String,
    },
}

/// A change of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Founds the cluster; refused if there is one.
    Found {
        /// The cluster's name.
        cluster: String,
        /// Random identity, drawn by the proposer.
        cluster_id: u128,
        /// Every node.
        nodes: BTreeMap<NodeId, Node>,
    },
    /// A node of the cluster says where its services listen now.
    Describe {
        /// The node.
        node: NodeId,
        /// What is true now. Its kind cannot change.
        is: Node,
    },
    /// Gives a node the right to make the database cluster.
    AssignBootstrap {
        /// The node.
        to: NodeId,
        /// Must be one more than [`State::bootstraps`].
        attempt: u64,
    },
    /// Takes that right back: it failed, or its holder is gone.
    EndBootstrap {
        /// Which one.
        attempt: u64,
    },
    /// The bootstrap's holder has a database cluster of this identity: it is the cluster's for good.
    RegisterSystem {
        /// Under which right.
        attempt: u64,
        /// `pg_controldata`'s "Database system identifier".
        system_identifier: u64,
    },
    /// Grants the vacant lease.
    Grant {
        /// The future primary: a data node.
        to: NodeId,
        /// Its agent's current start.
        incarnation: Incarnation,
        /// Must be one more than [`State::last_epoch`].
        epoch: Epoch,
        /// For how long a renewal is good.
        ttl: Duration,
        /// Why this node, for people and the log.
        evidence: String,
    },
    /// Ends the grant of that epoch.
    Vacate {
        /// Which grant.
        epoch: Epoch,
        /// Why.
        reason: VacateReason,
    },
    /// Ends the grant of `epoch` and makes the next one, in one step.
    Transfer {
        /// Which grant ends.
        epoch: Epoch,
        /// The future primary: a data node.
        to: NodeId,
        /// Its agent's current start.
        incarnation: Incarnation,
        /// For how long a renewal is good.
        ttl: Duration,
        /// Why this node.
        evidence: String,
    },
    /// The holder of `epoch` has ended recovery on a new timeline.
    RecordPromotion {
        /// Under which grant.
        epoch: Epoch,
        /// Where the new timeline begins.
        begin: WalPosition,
        /// Wall clock of the promoted node, for people only.
        at_unix_ms: u64,
    },
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Applied,
    /// It changed nothing.
    Refused(Refused),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// There is a cluster already.
    #[error("the cluster is founded already")]
    AlreadyFounded,
    /// There is no cluster yet, or it has a name this agent does not serve.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// Not a node of this cluster.
    #[error("{0} is not a node of this cluster")]
    UnknownNode(NodeId),
    /// A witness cannot be primary or make a database.
    #[error("{0} is not a data node")]
    NotADataNode(NodeId),
    /// A node's kind is for ever.
    #[error("node {0} cannot change its kind")]
    KindChanged(NodeId),
    /// The compare-and-swap number is not the current one.
    #[error("it is for epoch {asked}, the latest epoch is {current}")]
    StaleEpoch {
        /// The command's.
        asked: Epoch,
        /// The state's.
        current: Epoch,
    },
    /// A grant needs a vacant lease.
    #[error("the lease is held by {0}")]
    LeaseHeld(NodeId),
    /// Vacating and promoting need a held one.
    #[error("the lease is vacant")]
    LeaseVacant,
    /// A ttl of zero is no right at all.
    #[error("a lease cannot have a ttl of zero")]
    ZeroTtl,
    /// The bootstrap of that number is not the current one.
    #[error("bootstrap {asked} is not the current one")]
    StaleBootstrap {
        /// The command's.
        asked: u64,
    },
    /// There is a database cluster already.
    #[error("the database cluster {0} is registered already")]
    SystemRegistered(u64),
    /// Nobody is primary of a database that does not exist.
    #[error("no database cluster is registered yet")]
    NoSystem,
    /// That epoch's promotion is recorded.
    #[error("the promotion of epoch {0} is recorded already")]
    AlreadyRecorded(Epoch),
}

impl State {
    /// Carries out one command, or refuses it and changes nothing.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        match self.try_apply(command) {
            Ok(()) => Outcome::Applied,
            Err(refused) => Outcome::Refused(refused),
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

    fn try_apply(&mut self, command: &Command) -> Result<(), Refused> {
        match command {
            Command::Found { cluster, cluster_id, nodes } => {
                if self.is_founded() {
                    return Err(Refused::AlreadyFounded);
                }
                *self = Self {
                    format: STATE_FORMAT,
                    cluster: cluster.clone(),
                    cluster_id: *cluster_id,
                    nodes: nodes.clone(),
                    ..Self::default()
                };
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
            Command::Grant { to, incarnation, epoch, ttl, evidence: _ } => {
                if let Some(holder) = self.lease.holder() {
                    return Err(Refused::LeaseHeld(holder.clone()));
                }
                self.expect_epoch(*epoch, self.last_epoch.next())?;
                self.grant(to, *incarnation, *ttl)
            }
            Command::Vacate { epoch, reason } => {
                self.expect_held(*epoch)?;
                self.lease = Lease::Vacant;
                self.vacated = Some(reason.clone());
                Ok(())
            }
            Command::Transfer { epoch, to, incarnation, ttl, evidence: _ } => {
                self.expect_held(*epoch)?;
                self.grant(to, *incarnation, *ttl)
            }
            Command::RecordPromotion { epoch, begin, at_unix_ms } => {
                self.record_promotion(*epoch, *begin, *at_unix_ms)
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
    ) -> Result<(), Refused> {
        self.expect_data_node(to)?;
        if self.system_identifier.is_none() {
            return Err(Refused::NoSystem);
        }
        if ttl.is_zero() {
            return Err(Refused::ZeroTtl);
        }
        let epoch = self.last_epoch.next();
        self.last_epoch = epoch;
        self.vacated = None;
        self.lease = Lease::Held(Grant { holder: to.clone(), incarnation, epoch, ttl });
        Ok(())
    }

    fn record_promotion(
        &mut self,
        epoch: Epoch,
        begin: WalPosition,
        at_unix_ms: u64,
    ) -> Result<(), Refused> {
        self.expect_held(epoch)?;
        if self.history.iter().any(|p| p.epoch == epoch) {
            return Err(Refused::AlreadyRecorded(epoch));
        }
        let holder = self.lease.holder().ok_or(Refused::LeaseVacant)?.clone();
        self.history.push(Promotion { epoch, holder, begin, at_unix_ms });
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

#[cfg(test)]
mod tests;
