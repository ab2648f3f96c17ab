//! Nodes that come and go while the cluster works.
//!
//! On paper. Nothing here takes part in who may be primary: that is the lease's business, and its right is proven by
//! the Raft group whatever its members are. What a change of nodes could lose is a commit: an election finds it by
//! asking those that acknowledged it ([`State::demands`]). So a node is out only once no quorum that has a say names
//! it, and it comes in before any quorum does. In between it is *leaving*: nobody's next quorum counts it, it is
//! granted nothing, and its database is down.

use serde::{Deserialize, Serialize};

use super::{Node, Refused, State};
use crate::node::{NodeId, NodeKind};

/// How many nodes a cluster may have.
pub const NODES_MAX: usize = 9;

/// How many nodes that were taken out are remembered: their slots are dropped.
pub const GONE_MAX: usize = 16;

/// A node that is being taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Who wanted it.
    pub by: String,
    /// Since when, milliseconds of Unix time: for people only.
    pub since_unix_ms: u64,
}

impl State {
    /// Returns whether a node is being taken out.
    #[must_use]
    pub fn is_leaving(&self, node: &NodeId) -> bool {
        self.leaving.contains_key(node)
    }

    /// Returns whether a node's database is to be down whatever else is true.
    #[must_use]
    pub fn is_kept_down(&self, node: &NodeId) -> bool {
        self.fenced.contains_key(node) || self.is_leaving(node)
    }

    /// Returns whether an election may have to hear that node: it holds the lease, was the last to, or belongs to a
    /// quorum that has a say.
    #[must_use]
    pub fn is_needed(&self, node: &NodeId) -> bool {
        let mut quorums = self.recorded.iter().chain(&self.unsettled);
        self.lease.holder() == Some(node)
            || quorums.any(|known| known.primary == *node || known.quorum.members.contains(node))
    }

    pub(super) fn join(&mut self, node: &NodeId, is: &Node) -> Result<(), Refused> {
        if !self.is_founded() {
            return Err(Refused::NotFounded);
        }
        match self.nodes.get(node) {
            Some(known) if known.kind != is.kind => return Err(Refused::KindChanged(node.clone())),
            None if self.nodes.len() >= NODES_MAX => {
                return Err(Refused::TooMany { what: "nodes".to_owned(), max: NODES_MAX });
            }
            Some(_) | None => {}
        }
        self.nodes.insert(node.clone(), is.clone());
        self.leaving.remove(node);
        self.gone.retain(|gone| gone != node);
        Ok(())
    }

    pub(super) fn retire(
        &mut self,
        node: &NodeId,
        by: &str,
        at_unix_ms: u64,
    ) -> Result<(), Refused> {
        if !self.nodes.contains_key(node) {
            return Err(Refused::UnknownNode(node.clone()));
        }
        if self.lease.holder() == Some(node) {
            return Err(Refused::LeaseHeld(node.clone()));
        }
        if self.bootstrap.as_ref().is_some_and(|bootstrap| bootstrap.node == *node) {
            return Err(Refused::Bootstraps(node.clone()));
        }
        if self.is_leaving(node) {
            return Ok(());
        }
        // A quorum that was decided before this may name the node: it is decided again.
        self.quorum_version += 1;
        let leaving = Leaving { by: by.to_owned(), since_unix_ms: at_unix_ms };
        self.leaving.insert(node.clone(), leaving);
        if !self.staying().any(|(_, is)| is.kind == NodeKind::Data) {
            return Err(Refused::LastDataNode(node.clone()));
        }
        self.expect_possible(self.durability)
    }

    pub(super) fn leave(&mut self, node: &NodeId) -> Result<(), Refused> {
        if !self.nodes.contains_key(node) {
            return Err(Refused::UnknownNode(node.clone()));
        }
        if !self.is_leaving(node) {
            return Err(Refused::NotLeaving(node.clone()));
        }
        if self.is_needed(node) {
            return Err(Refused::StillNeeded(node.clone()));
        }
        self.nodes.remove(node);
        self.leaving.remove(node);
        self.fenced.remove(node);
        self.gone.push(node.clone());
        let surplus = self.gone.len().saturating_sub(GONE_MAX);
        self.gone.drain(..surplus);
        self.scheduled.retain(|scheduled| scheduled.to.as_ref() != Some(node));
        Ok(())
    }

    /// Returns the nodes that are not being taken out.
    pub(super) fn staying(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter().filter(|(node, _)| !self.is_leaving(node))
    }
}
