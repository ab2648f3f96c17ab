//! An election that an operator has ordered, with or without the proof that nothing is lost (rules 20, 24
//! and 97).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{
    Election, Field, Refusal, Report, Winner, elect, last_known_end, refuse_old_timelines,
};
use crate::lsn::WalPosition;
use crate::node::NodeId;
use crate::policy::Policy;
use crate::state::State;

/// Chooses `to`, or the best one if that is `None`, although the proof that an election needs may be
/// missing: `accept_data_loss` is an operator's word that what cannot be proven may be lost.
///
/// What would make two primaries, or promote what is no standby of this database, is refused all the same.
#[must_use]
pub fn elect_by_order(
    state: &State,
    reports: &BTreeMap<NodeId, Report>,
    last_known: Option<WalPosition>,
    policy: &Policy,
    to: Option<&NodeId>,
    accept_data_loss: bool,
) -> Election {
    let proven = elect(state, reports, last_known, policy);
    let asked = |winner: &Winner| to.is_none_or(|to| *to == winner.node);
    if proven.winner.as_ref().is_some_and(asked) {
        return proven;
    }
    if !accept_data_loss {
        return match (proven.winner, to) {
            // The one that is wanted lost to a better one; it is told so in the refusals.
            (Some(better), Some(to)) => {
                let mut refusals = proven.refusals;
                refusals
                    .entry(to.clone())
                    .or_insert_with(|| Refusal::Outranked(better.node.clone()));
                Election { winner: None, refusals }
            }
            (winner, _) => Election { winner, refusals: proven.refusals },
        };
    }
    let mut field = Field::of(state, reports);
    refuse_old_timelines(&mut field);
    let permit_left =
        field.refusals.values().any(|refusal| matches!(refusal, Refusal::StillPrimary(_)));
    if permit_left {
        field.sieve(|_, _, _| Some(Refusal::PermitElsewhere));
    }
    // Nobody streams into it meanwhile: otherwise more could be acknowledged than it is counted with.
    let epoch = state.last_epoch;
    if state.demands().next().is_some() {
        field.sieve(|_, report, _| (report.pledged < epoch).then_some(Refusal::NotPledged(epoch)));
    }
    let known = last_known_end(state, reports, last_known);
    field.fit.sort_by_key(|(node, _, database)| {
        (Reverse(database.flushed.lsn), Reverse(database.priority), (*node).clone())
    });
    let chosen =
        field.fit.iter().find(|(node, _, _)| to.is_none_or(|to| to == *node)).map(|found| {
            let (node, report, database) = found;
            Winner {
                node: (*node).clone(),
                incarnation: report.incarnation,
                flushed: database.flushed,
                lost_bytes: known.map(|end| end.bytes_after(database.flushed.lsn)),
                catch_up: None,
                proven_by: Vec::new(),
            }
        });
    Election { winner: chosen, refusals: field.refusals }
}
