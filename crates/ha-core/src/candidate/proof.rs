//! The proof that every acknowledged commit is at hand (rules 20, 96, 97).
//!
//! A commit that was acknowledged under a recorded quorum is on its primary, and on `required` of its
//! members. So that primary's report proves the case, or those of `members − required + 1` members, if
//! each has pledged to acknowledge nothing more before it said what it has (rules 95 and 104). The
//! winner must have, or be able to fetch, everything that any of the nodes needed for the proof has.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Field, Refusal, Report, Tip, Winner};
use crate::ancestry::{self, Relation};
use crate::lease::CatchUp;
use crate::node::NodeId;
use crate::policy::Durability;
use crate::state::State;
use crate::wal_quorum::Recorded;

/// Returns what an election has to prove; `None` if nobody was promised anything.
pub(super) fn needed(state: &State) -> Option<Vec<&Recorded>> {
    let demands: Vec<&Recorded> = state.demands().collect();
    (!demands.is_empty()).then_some(demands)
}

/// Returns the node with most WAL that can have every acknowledged commit; refuses the others by name.
pub(super) fn winner(
    state: &State,
    reports: &BTreeMap<NodeId, Report>,
    demands: &[&Recorded],
    field: &mut Field<'_>,
) -> Option<Winner> {
    let epoch = state.last_epoch;
    field.sieve(|_, report, _| match &report.wal {
        _ if report.pledged < epoch => Some(Refusal::NotPledged(epoch)),
        Some(_) => None,
        None => Some(Refusal::NoWal),
    });
    let heard = heard(state, reports);
    let mut proven_by = BTreeSet::new();
    for demand in demands {
        match witnesses(demand, &heard) {
            Ok(nodes) => proven_by.extend(nodes),
            Err(refusal) => {
                field.sieve(|_, _, _| Some(refusal.clone()));
                return None;
            }
        }
    }
    let (keeper, best) = proven_by
        .iter()
        .filter_map(|node| Some((node, *heard.get(node)?)))
        .max_by_key(|(node, tip)| (tip.end, Reverse((*node).clone())))?;
    let mut fetches = BTreeMap::new();
    field.sieve(|node, _, _| match reach(node, keeper, best, &heard) {
        Ok(catch_up) => {
            fetches.insert(node.clone(), catch_up);
            None
        }
        Err(refusal) => Some(refusal),
    });
    let end = |node: &NodeId| heard.get(node).map(|tip| tip.end);
    // Most WAL first, then what the operator prefers, then the name: the same everywhere.
    field.fit.sort_by_key(|(node, _, database)| {
        (Reverse(end(node)), Reverse(database.priority), (*node).clone())
    });
    let (node, report, database) = field.fit.first()?;
    Some(Winner {
        node: (*node).clone(),
        incarnation: report.incarnation,
        flushed: database.flushed,
        // What an asynchronous primary acknowledged since is not part of the proof.
        lost_bytes: state
            .recorded
            .as_ref()
            .is_none_or(|r| r.mode != Durability::Async)
            .then_some(0),
        catch_up: fetches.remove(*node).flatten(),
        proven_by: proven_by.into_iter().collect(),
    })
}

/// Whose reports count: they are final, and say what the node has.
fn heard<'a>(
    state: &State,
    reports: &'a BTreeMap<NodeId, Report>,
) -> BTreeMap<&'a NodeId, &'a Tip> {
    let counts = |report: &Report| {
        let foreign = report
            .database
            .as_ref()
            .and_then(|database| database.system_identifier)
            .is_some_and(|found| Some(found) != state.system_identifier);
        report.pledged >= state.last_epoch && report.primary_epoch.is_none() && !foreign
    };
    reports
        .iter()
        .filter(|(_, report)| counts(report))
        .filter_map(|(node, report)| Some((node, report.wal.as_ref()?)))
        .collect()
}

/// Returns the nodes whose reports prove what became of the commits of one recorded quorum.
fn witnesses(
    demand: &Recorded,
    heard: &BTreeMap<&NodeId, &Tip>,
) -> Result<BTreeSet<NodeId>, Refusal> {
    let members = &demand.quorum.members;
    let (present, missing): (Vec<&NodeId>, Vec<&NodeId>) =
        members.iter().partition(|node| heard.contains_key(node));
    let needed = demand.quorum.reports_needed();
    // Rule 15: if the members prove it, what only the old primary has was never acknowledged.
    if needed.is_some_and(|needed| present.len() >= needed) {
        return Ok(present.into_iter().cloned().collect());
    }
    if heard.contains_key(&demand.primary) {
        return Ok(BTreeSet::from([demand.primary.clone()]));
    }
    Err(Refusal::Unproven {
        epoch: demand.epoch,
        primary: demand.primary.clone(),
        need: needed.map_or(0, |needed| needed - present.len()),
        missing: missing.into_iter().cloned().collect(),
    })
}

/// Finds out whether a node has, or can fetch, everything that `best` reaches to.
fn reach(
    node: &NodeId,
    keeper: &NodeId,
    best: &Tip,
    heard: &BTreeMap<&NodeId, &Tip>,
) -> Result<Option<CatchUp>, Refusal> {
    let Some(own) = heard.get(node) else { return Err(Refusal::NoWal) };
    let follows = |behind: &Tip, ahead: &Tip| {
        ancestry::compare(
            behind.end,
            &behind.history,
            ahead.end.timeline,
            &ahead.history,
            ahead.end.lsn,
        )
    };
    let is_part = |relation: &Relation| matches!(relation, Relation::Ancestor);
    if own.end >= best.end && is_part(&follows(best, own)) {
        return Ok(None);
    }
    match follows(own, best) {
        Relation::Ancestor => {}
        Relation::Diverged { fork } => {
            return Err(Refusal::Diverged { fork, node: keeper.clone() });
        }
        Relation::Unrelated => {
            return Err(Refusal::MissingWal { has: own.end, end: best.end });
        }
    }
    let has_it_all = |(_, tip): &(&&NodeId, &&Tip)| {
        tip.end >= best.end && tip.oldest <= own.end.lsn && is_part(&follows(best, tip))
    };
    // Whoever proved it first: others may have more than is needed.
    let keeper_first = heard.iter().filter(|(name, _)| **name == keeper);
    let source = keeper_first.chain(heard.iter()).find(has_it_all).map(|(name, _)| (*name).clone());
    match source {
        Some(from) => Ok(Some(CatchUp { from, to: best.end })),
        None => Err(Refusal::MissingWal { has: own.end, end: best.end }),
    }
}

#[cfg(test)]
mod tests;
