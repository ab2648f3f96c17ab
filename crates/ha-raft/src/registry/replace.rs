//! Members come, go, and get a new store under their old name when the old one was lost.
//!
//! The old store is taken out of the group before the new one comes in, so that it never has two votes: what a
//! voter has forgotten it cannot do again, because it is a voter again only once it has every entry up to those
//! that made it one, of a term in which its vote is given (`ARCHITECTURE.md`, "A lost store").

use std::collections::BTreeSet;
use std::time::Duration;

use ha_core::NodeId;
use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::{Instant, sleep, timeout_at};

use super::status::RaftStatus;
use super::{RaftHandle, ReplaceError, millis};
use crate::types::{Member, TypeConfig, VoterId};

/// How often it is looked whether the new store has caught up.
const POLL: Duration = Duration::from_millis(50);

impl RaftHandle {
    /// Replaces the store of a member. Only the leader can; a majority of the others has to be there. Given again,
    /// the same order goes on where the first one ended.
    ///
    /// If this future is dropped, what was begun may be carried out or not.
    ///
    /// # Errors
    /// [`ReplaceError`]: the old store may be out of the group all the same.
    pub async fn replace(
        &self,
        node: &NodeId,
        member: Member,
        limit: Duration,
    ) -> Result<(), ReplaceError> {
        let until = Instant::now() + limit;
        let status = self.leading()?;
        if node == self.node() {
            return Err(ReplaceError::Leads { node: node.clone() });
        }
        let id = VoterId(node.clone());
        let known = status.members.get(node).map(|known| known.store_id);
        if known.is_some_and(|known| known != member.store_id) {
            let out = BTreeSet::from([id.clone()]);
            let change = if status.voters.contains(node) {
                ChangeMembers::RemoveVoters(out)
            } else {
                ChangeMembers::RemoveNodes(out)
            };
            self.change("take out", node, change, until, limit).await?;
        }
        if known != Some(member.store_id) {
            let step = "take in";
            let adding = self.inner.raft.add_learner(id.clone(), member, false);
            let added = timeout_at(until, adding).await;
            let added = added.map_err(|_| timed_out(step, node, limit))?;
            added.map_err(|error| failed(step, node, &error))?;
        }
        let goal = self.leading()?.last_log;
        while self.leading()?.matched.get(node).copied().flatten() < goal {
            if Instant::now() >= until {
                return Err(timed_out("bring up to date", node, limit));
            }
            sleep(POLL).await;
        }
        let status = self.leading()?;
        if status.voters.contains(node) && !status.is_joint {
            return Ok(());
        }
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.change("give a vote to", node, voters, until, limit).await
    }

    /// Takes a member out of the group for good. Only the leader can; a majority of those that stay has to be
    /// there. Given again, the same order goes on where the first one ended.
    ///
    /// If this future is dropped, what was begun may be carried out or not.
    ///
    /// # Errors
    /// [`ReplaceError`]: the member may be out of the group all the same.
    pub async fn remove(&self, node: &NodeId, limit: Duration) -> Result<(), ReplaceError> {
        let until = Instant::now() + limit;
        if node == self.node() {
            return Err(ReplaceError::Leads { node: node.clone() });
        }
        let id = BTreeSet::from([VoterId(node.clone())]);
        let status = self.leading()?;
        // The second half of a change is this caller's: one that was cut short is finished by the same change.
        if status.voters.contains(node) || status.is_joint {
            let change = ChangeMembers::RemoveVoters(id.clone());
            self.change("take the vote from", node, change, until, limit).await?;
        }
        if self.leading()?.members.contains_key(node) {
            self.change("take out", node, ChangeMembers::RemoveNodes(id), until, limit).await?;
        }
        Ok(())
    }

    fn leading(&self) -> Result<RaftStatus, ReplaceError> {
        let status = self.status();
        if status.is_leader {
            Ok(status)
        } else {
            let leader = status.leader.filter(|leader| leader != self.node());
            Err(ReplaceError::NotLeader { leader })
        }
    }

    async fn change(
        &self,
        step: &'static str,
        node: &NodeId,
        change: ChangeMembers<VoterId, Member>,
        until: Instant,
        limit: Duration,
    ) -> Result<(), ReplaceError> {
        let changed = timeout_at(until, self.inner.raft.change_membership(change, false)).await;
        let changed = changed.map_err(|_| timed_out(step, node, limit))?;
        changed.map(drop).map_err(|error| failed(step, node, &error))
    }
}

fn timed_out(step: &'static str, node: &NodeId, limit: Duration) -> ReplaceError {
    ReplaceError::TimedOut { step, node: node.clone(), waited_ms: millis(limit) }
}

fn failed(
    step: &'static str,
    node: &NodeId,
    error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
) -> ReplaceError {
    ReplaceError::Failed { step, node: node.clone(), why: error.to_string() }
}
