//! The WAL quorum: who may acknowledge commits, how many of them must, and what that asks of an
//! election.
//!
//! On paper. A commit that was acknowledged is flushed on the primary and on at least `required` of
//! `members`. An election is safe if whoever it asks includes, for every such commit, one node that
//! has it: the primary itself, or `members − required + 1` of the members, since those can miss at
//! most `required − 1`. Three things follow.
//!
//! 1. The *recorded* quorum (replicated, what elections go by) and the *live* one (what `PostgreSQL`
//!    waits for) differ while one of them changes. At every moment each acknowledgement that the live
//!    one makes possible has to be found by every election that the recorded one makes possible:
//!    [`Quorum::covered_by`]. So a change that demands more of elections is recorded first, and one
//!    that demands less is recorded last (rules 71 and 74).
//! 2. Commits of the past count too. What is recorded last must first be true of *them*: the members
//!    have to have passed the position up to which other acknowledgements were possible (rule 72).
//! 3. The same at a change of primary: what was acknowledged before the election is on the winner, and
//!    perhaps on nobody else of the new quorum. Earlier quorums therefore keep their say
//!    ([`crate::state::State::unsettled`]) until enough members of the new one have everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::node::{NodeId, NodeKind};
use crate::policy::Durability;

/// Who may acknowledge a commit beside the primary, and how many of them must.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Quorum {
    /// The acknowledgers; never the primary itself.
    pub members: BTreeSet<NodeId>,
    /// How many of them a commit needs, at most as many as there are.
    pub required: u32,
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.members.iter().map(NodeId::as_str).collect();
        if names.is_empty() {
            return f.write_str("nobody acknowledges commits but the primary");
        }
        write!(f, "{} of {}", self.required, names.join(", "))
    }
}

/// The quorum that elections go by, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Under which grant.
    pub epoch: Epoch,
    /// Whose commits they are: it has all of them itself.
    pub primary: NodeId,
    /// What was promised to clients.
    pub mode: Durability,
    /// Who acknowledges.
    pub quorum: Quorum,
}

/// What the primary knows of a node that could acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledger {
    /// What it is for.
    pub kind: NodeKind,
    /// Whether it can keep WAL, and commits may wait for it: a witness without the client programs cannot.
    pub keeps_wal: bool,
    /// Whether it receives now, or was lost only a moment ago, and is not far behind.
    pub present: bool,
}

/// What is known of the setting that the running primary goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// What it was last told, and a new session saw.
    pub set: Option<Quorum>,
    /// What alone is in force in every process that releases commits, if that was proven.
    pub proven: Option<Quorum>,
}

/// The next step of a change of the quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Everything is as it should be.
    Nothing,
    /// Have the server wait for this; elections allow for it already.
    Set(Quorum),
    /// Prove that this, and nothing older, is in force (rule 100).
    Settle(Quorum),
    /// Record this; then the server may be told.
    Record(Quorum),
    /// Prove that this alone is in force, wait until it is true of every earlier commit, record it.
    Grow(Quorum),
}

impl Quorum {
    /// The primary alone.
    #[must_use]
    pub fn alone() -> Self {
        Self::default()
    }

    /// Makes a quorum; `required` is cut to the number of members, and nobody is a member where nobody
    /// is required.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = NodeId>, required: u32) -> Self {
        let members: BTreeSet<NodeId> = members.into_iter().collect();
        let required = required.min(u32::try_from(members.len()).unwrap_or(u32::MAX));
        if required == 0 { Self::alone() } else { Self { members, required } }
    }

    /// Returns whether the primary acknowledges alone.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.required == 0
    }

    /// Returns how many members an election must hear if it does not hear the primary: `None` if only
    /// the primary can tell.
    #[must_use]
    pub fn reports_needed(&self) -> Option<usize> {
        let required = usize::try_from(self.required).ok().filter(|required| *required > 0)?;
        Some((self.members.len() + 1).saturating_sub(required))
    }

    /// Returns whether every commit that `live` lets pass, or that is known to be on `required` of
    /// `live`'s members, is found by every election that goes by `self`.
    ///
    /// Of `live.required` holders at most those count that `self` asks; an election misses at most
    /// `required − 1` members.
    #[must_use]
    pub fn covered_by(&self, live: &Self) -> bool {
        let strangers = live.members.difference(&self.members).count();
        let known = usize::try_from(live.required).unwrap_or(usize::MAX).saturating_sub(strangers);
        usize::try_from(self.required).is_ok_and(|required| required <= known)
    }
}

/// Returns the quorum that a primary should have.
///
/// `others` are all nodes but the primary, `voters` counts it. In `quorum` mode as many nodes hold a
/// commit as make a Raft majority, so that a failover that is possible is also lossless, and absent
/// members are left in: the others acknowledge. Only where there is nobody to spare (no witness that
/// keeps WAL) an absent member is dropped, or its loss would block every commit.
#[must_use]
pub fn target(mode: Durability, voters: usize, others: &BTreeMap<NodeId, Acknowledger>) -> Quorum {
    let names = |wanted: &dyn Fn(&Acknowledger) -> bool| -> Vec<NodeId> {
        others.iter().filter(|(_, is)| wanted(is)).map(|(node, _)| node.clone()).collect()
    };
    match mode {
        Durability::Async => Quorum::alone(),
        // Never empty while writes are allowed (rule 75): if nobody wants to be waited for, all are.
        Durability::StrictStandby => {
            let able = names(&|is| is.kind == NodeKind::Data && is.keeps_wal);
            let all = names(&|is| is.kind == NodeKind::Data);
            Quorum::new(if able.is_empty() { all } else { able }, 1)
        }
        Durability::Quorum => {
            let majority = u32::try_from(voters / 2).unwrap_or(u32::MAX);
            let able = names(&|is| is.keeps_wal);
            if u32::try_from(able.len()).is_ok_and(|able| able > majority) {
                Quorum::new(able, majority)
            } else {
                Quorum::new(names(&|is| is.keeps_wal && is.present), majority)
            }
        }
    }
}

/// Returns the next step from the recorded and the live quorum to the wanted one.
///
/// Each step may be the last one for a while: the agent can die between any two, and whatever the
/// server may have been told is covered by what is recorded.
#[must_use]
pub fn next(recorded: &Quorum, live: &Live, wanted: &Quorum) -> Change {
    if recorded == wanted {
        return if live.set.as_ref() == Some(wanted) {
            Change::Nothing
        } else {
            Change::Set(wanted.clone())
        };
    }
    if wanted.covered_by(recorded) {
        return record_first(recorded, live, wanted.clone());
    }
    if recorded.covered_by(wanted) {
        return Change::Grow(wanted.clone());
    }
    // Neither order is safe at once: first to what both have in common.
    let common = recorded.members.intersection(&wanted.members).cloned();
    let gone = recorded.members.difference(&wanted.members).count();
    let new = wanted.members.difference(&recorded.members).count();
    let less =
        |required: u32, by: usize| required.saturating_sub(u32::try_from(by).unwrap_or(u32::MAX));
    let required = less(recorded.required, gone).min(less(wanted.required, new));
    record_first(recorded, live, Quorum::new(common, required))
}

fn record_first(recorded: &Quorum, live: &Live, to: Quorum) -> Change {
    if live.proven.as_ref().is_some_and(|proven| to.covered_by(proven)) {
        Change::Record(to)
    } else {
        Change::Settle(recorded.clone())
    }
}

#[cfg(test)]
mod tests;
