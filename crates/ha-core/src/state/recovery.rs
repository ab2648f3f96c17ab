//! A cluster that lost its majority for good is made anew from one survivor.
//!
//! On paper. The old group can decide nothing any more, and never may again: if enough of its nodes came back, they would
//! be a majority of their own and could grant a lease beside the new one. Nothing that a survivor writes can hinder
//! that while they cannot hear it, so an operator vouches that they are gone. What can be done is done: the new
//! cluster has an identity of its own, a higher *generation* that every agent of the old one ends for as soon as it
//! hears of it, and epochs that the old one did not reach. The old nodes' databases are not taken back: both sides
//! may have begun a timeline of the same number, and PostgreSQL could not tell them apart.

use super::journal::{EventKind, Note};
use super::{Lease, Node, Refused, State, VacateReason};
use crate::epoch::Epoch;
use crate::node::{NodeId, NodeKind};
use crate::policy::Durability;
use crate::wal_quorum::{Quorum, Recorded};

/// How many epochs are left out: more than the lost nodes can have granted since the survivor heard of them.
const EPOCHS_LEFT_OUT: u64 = 1_000_000;

impl State {
    /// Returns the state of a cluster that consists of this survivor alone, under a new identity.
    ///
    /// # Errors
    /// [`Refused`] if the cluster is not founded, the node is none of its data nodes, or there is no database yet.
    pub fn survived_by(
        &self,
        node: &NodeId,
        cluster_id: u128,
        by: &str,
        at_unix_ms: u64,
    ) -> Result<Self, Refused> {
        self.expect_data_node(node)?;
        if self.is_leaving(node) {
            return Err(Refused::Leaving(node.clone()));
        }
        if self.system_identifier.is_none() {
            return Err(Refused::NoSystem);
        }
        let is: Node =
            self.nodes.get(node).ok_or_else(|| Refused::UnknownNode(node.clone()))?.clone();
        debug_assert_eq!(is.kind, NodeKind::Data, "checked above");
        let last_epoch = Epoch(self.last_epoch.0 + EPOCHS_LEFT_OUT);
        // Commits that wait for a standby would wait for ever.
        let durability = match self.durability {
            Durability::StrictStandby => Durability::Quorum,
            mode @ (Durability::Quorum | Durability::Async) => mode,
        };
        let mut anew = Self {
            cluster_id,
            generation: self.generation + 1,
            nodes: [(node.clone(), is)].into(),
            lease: Lease::Vacant,
            last_epoch,
            vacated: Some(VacateReason::Expired),
            bootstrap: None,
            durability,
            // What counts from now on is what the survivor has.
            recorded: Some(Recorded {
                epoch: last_epoch,
                primary: node.clone(),
                mode: Durability::Quorum,
                quorum: Quorum::alone(),
            }),
            unsettled: Vec::new(),
            quorum_version: self.quorum_version + 1,
            pause: None,
            fenced: [].into(),
            leaving: [].into(),
            gone: self.nodes.keys().filter(|other| *other != node).cloned().collect(),
            scheduled: Vec::new(),
            ..self.clone()
        };
        let text = format!("generation {}, from node {node} alone", anew.generation);
        anew.remember(at_unix_ms, Note::new(EventKind::Refounded, text).about(node).asked_by(by));
        Ok(anew)
    }
}
