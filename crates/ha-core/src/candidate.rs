//! The election: which data node, if any, may be given the vacant lease.
//!
//! Where commits were promised to be on several nodes, an election first proves that every one that was
//! acknowledged is at hand (`candidate::proof`); otherwise the loss is bounded.
//!
//! Everyone who is refused is refused by name, and an election without a winner says what is missing.

mod forced;
mod proof;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::ancestry::TimelineSwitch;
use crate::epoch::{Epoch, Incarnation};
use crate::lease::CatchUp;
use crate::lsn::{Lsn, WalPosition};
use crate::node::{NodeId, NodeKind};
use crate::policy::Policy;
use crate::state::{State, VacateReason};

/// What a node reported when the election asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The start of the agent that answered: the grant is made to it.
    pub incarnation: Incarnation,
    /// The epoch of a primary permit that has not ended on that node, by its own count.
    pub primary_epoch: Option<Epoch>,
    /// Its database; `None` on a witness.
    pub database: Option<Database>,
    /// Up to which epoch it has pledged to acknowledge no WAL any more. What it reports of its WAL is
    /// final for those.
    pub pledged: Epoch,
    /// The WAL that is safe on its disk; `None` if it has none, or it could not be read in time.
    pub wal: Option<Tip>,
}

/// Where a node's WAL ends and begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// End of the last complete record: whoever has these bytes can replay up to here. No acknowledged
    /// commit that the node holds ends later.
    pub end: WalPosition,
    /// Where each earlier timeline ended, oldest first.
    pub history: Vec<TimelineSwitch>,
    /// From where on it can hand WAL to others without a gap; the end if it cannot.
    pub oldest: Lsn,
}

/// What a node's data directory was seen to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory {
    /// Nobody has looked since the agent began.
    Unseen,
    /// It exists, can be read, and is empty.
    Empty,
    /// Anything else: a database, whole or not, or nothing that can be used.
    Other,
}

/// What a data node reported of its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Identity of what is on disk; `None` if there is nothing, or it cannot be read.
    pub system_identifier: Option<u64>,
    /// What its data directory was seen to be.
    pub directory: Directory,
    /// Whether the server answered a probe just now, as a standby.
    pub standby: bool,
    /// Timeline and end of the WAL that is safe on its disk.
    pub flushed: WalPosition,
    /// End of the primary's WAL as this node last heard of it.
    pub upstream_end: Lsn,
    /// Why the node must not be promoted now, in its own words.
    pub unfit: Option<String>,
    /// Whether the operator allows it to be promoted.
    pub promotable: bool,
    /// Preferred among equals; higher first.
    pub priority: i32,
}

/// Why a node is not promoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its agent did not answer in time.
    #[error("its agent did not answer")]
    Unreachable,
    /// It says its Postgres may still accept writes.
    #[error("its permit to be primary under epoch {0} has not ended")]
    StillPrimary(Epoch),
    /// It could be promoted, but must wait for the permit of another node to end.
    #[error("it waits until no other node has a permit to be primary")]
    PermitElsewhere,
    /// Its data directory is empty, missing or unreadable.
    #[error("it has no database")]
    NoDatabase,
    /// Its data directory belongs to another database cluster.
    #[error("its database is another one: system identifier {found}, expected {expected}")]
    Foreign {
        /// What it has.
        found: u64,
        /// What the cluster registered.
        expected: u64,
    },
    /// Its Postgres is down, starting, or does not answer.
    #[error("its Postgres is not running as a standby")]
    NotRunning,
    /// An operator has fenced it.
    #[error("it is fenced by order")]
    Fenced,
    /// It is being taken out of the cluster.
    #[error("it is being taken out of the cluster")]
    Leaving,
    /// The operator said no.
    #[error("it is not promotable by configuration")]
    NotPromotable,
    /// The node itself says no.
    #[error("it is not fit: {0}")]
    Unfit(String),
    /// It has not received anything yet.
    #[error("it has no WAL yet")]
    NoWal,
    /// Another reachable node is on a newer timeline.
    #[error("it is on timeline {has}, {node} is on timeline {newest}")]
    OldTimeline {
        /// Its own.
        has: crate::TimelineId,
        /// The newest seen.
        newest: crate::TimelineId,
        /// Where it was seen.
        node: NodeId,
    },
    /// The last promotion that the cluster recorded is one it never followed.
    #[error("it is on timeline {has}, and never followed {holder}, who began timeline {newest}")]
    NeverFollowed {
        /// Its own.
        has: crate::TimelineId,
        /// The newest recorded.
        newest: crate::TimelineId,
        /// Who was promoted to it.
        holder: NodeId,
    },
    /// Nobody knows how far the last primary got, so the loss would have no bound.
    #[error("how far the last primary, {holder}, got is not known: it has to report first")]
    LossUnknown {
        /// The last primary.
        holder: NodeId,
    },
    /// Too many bytes would be lost.
    #[error("it lacks {lag_bytes} bytes of the last known WAL, at most {max} may be lost")]
    LagsTooFar {
        /// How many bytes it lacks.
        lag_bytes: u64,
        /// The configured bound.
        max: u64,
    },
    /// It has not said that it stopped receiving: more may be acknowledged while it is counted.
    #[error("it has not pledged to acknowledge nothing more of epoch {0}")]
    NotPledged(Epoch),
    /// Too few of those who may have acknowledged commits were heard.
    #[error(
        "commits that were acknowledged under epoch {epoch} may be missing: node {primary} has to report\
         {}", missing_text(*.need, .missing)
    )]
    Unproven {
        /// Whose commits.
        epoch: Epoch,
        /// The primary of then: it has all of them.
        primary: NodeId,
        /// How many more of `missing` would do.
        need: usize,
        /// The acknowledgers that were not heard.
        missing: Vec<NodeId>,
    },
    /// It has WAL that is not part of the history that has to go on.
    #[error("it has WAL past {fork} that is not part of the history of node {node}")]
    Diverged {
        /// The last shared position.
        fork: WalPosition,
        /// Who has what must not be lost.
        node: NodeId,
    },
    /// Others have WAL that it lacks, and nobody has all of it without a gap.
    #[error(
        "it has WAL up to {has}, acknowledged commits reach to {end}, and nobody has what is between"
    )]
    MissingWal {
        /// Where its own ends.
        has: WalPosition,
        /// What it would have to reach.
        end: WalPosition,
    },
    /// Another one is better; this one could do it too.
    #[error("{0} is preferred")]
    Outranked(NodeId),
}

fn missing_text(need: usize, missing: &[NodeId]) -> String {
    if need == 0 || missing.len() < need {
        return String::new();
    }
    let names: Vec<&str> = missing.iter().map(NodeId::as_str).collect();
    format!(", or {need} of {}", names.join(", "))
}

/// The outcome of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Who is to be given the lease, if anybody may.
    pub winner: Option<Winner>,
    /// Everyone else, and why not.
    pub refusals: BTreeMap<NodeId, Refusal>,
}

/// The node that is to be given the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Winner {
    /// Its name.
    pub node: NodeId,
    /// The start of its agent that reported.
    pub incarnation: Incarnation,
    /// Where its WAL ends.
    pub flushed: WalPosition,
    /// How many bytes of acknowledged commits would be lost: in `async` mode those of the primary's last
    /// known WAL that it lacks, `None` if nothing is known of that; otherwise none.
    pub lost_bytes: Option<u64>,
    /// What it has to fetch from another node before it accepts writes.
    pub catch_up: Option<CatchUp>,
    /// Who proved that every acknowledged commit is at hand; empty in `async` mode.
    pub proven_by: Vec<NodeId>,
}

impl Winner {
    /// Returns the evidence to record with the grant.
    #[must_use]
    pub fn evidence(&self) -> String {
        let Self { node, flushed, lost_bytes, catch_up, proven_by, .. } = self;
        if !proven_by.is_empty() {
            let names: Vec<&str> = proven_by.iter().map(NodeId::as_str).collect();
            let fetch = catch_up.as_ref().map_or_else(String::new, |it| {
                format!(", fetches up to {} from {}", it.to, it.from)
            });
            let names = names.join(" and ");
            return format!("{node} has {flushed}{fetch}, every acknowledged commit by {names}");
        }
        match lost_bytes {
            Some(bytes) => {
                format!("{node} has {flushed}, {bytes} bytes short of the last known WAL")
            }
            None => format!("{node} has {flushed}"),
        }
    }
}

/// Chooses among the data nodes of `state`.
///
/// `reports` holds the answer of each node that gave one; `last_known` is the old primary's end of WAL
/// as far as this node heard of it.
#[must_use]
pub fn elect(
    state: &State,
    reports: &BTreeMap<NodeId, Report>,
    last_known: Option<WalPosition>,
    policy: &Policy,
) -> Election {
    let mut field = Field::of(state, reports);
    let winner = match proof::needed(state) {
        Some(demands) => proof::winner(state, reports, &demands, &mut field),
        None => bounded_winner(state, reports, last_known, policy, &mut field),
    };
    // The lease has ended, so no permit to be primary should be left anywhere. If a node says it has
    // one, clocks or code are wrong somewhere: wait, the permit ends by itself (rule 12).
    let permit_left =
        field.refusals.values().any(|refusal| matches!(refusal, Refusal::StillPrimary(_)));
    for (node, _, _) in field.fit {
        let refusal = match &winner {
            _ if permit_left => Refusal::PermitElsewhere,
            Some(winner) if winner.node == *node => continue,
            Some(winner) => Refusal::Outranked(winner.node.clone()),
            None => continue,
        };
        field.refusals.insert(node.clone(), refusal);
    }
    Election { winner: winner.filter(|_| !permit_left), refusals: field.refusals }
}

pub use forced::elect_by_order;

/// Who is still in the race, and why the others are not.
struct Field<'a> {
    fit: Vec<(&'a NodeId, &'a Report, &'a Database)>,
    refusals: BTreeMap<NodeId, Refusal>,
}

impl<'a> Field<'a> {
    fn of(state: &'a State, reports: &'a BTreeMap<NodeId, Report>) -> Self {
        let mut field = Self { fit: Vec::new(), refusals: BTreeMap::new() };
        for node in data_nodes(state) {
            match examine(state, node, reports.get(node)) {
                Ok((report, database)) => field.fit.push((node, report, database)),
                Err(refusal) => drop(field.refusals.insert(node.clone(), refusal)),
            }
        }
        field
    }

    /// Keeps whoever `keeps` has nothing against.
    fn sieve(&mut self, mut keeps: impl FnMut(&NodeId, &Report, &Database) -> Option<Refusal>) {
        let refusals = &mut self.refusals;
        self.fit.retain(|(node, report, database)| match keeps(node, report, database) {
            Some(refusal) => {
                refusals.insert((*node).clone(), refusal);
                false
            }
            None => true,
        });
    }
}

/// The winner where the loss is bounded, not excluded.
fn bounded_winner(
    state: &State,
    reports: &BTreeMap<NodeId, Report>,
    last_known: Option<WalPosition>,
    policy: &Policy,
    field: &mut Field<'_>,
) -> Option<Winner> {
    refuse_old_timelines(field);
    let known = last_known_end(state, reports, last_known);
    refuse_without_proof(state, field, known);
    refuse_laggards(field, known, policy);
    // Most WAL first, then what the operator prefers, then the name: the same everywhere.
    field.fit.sort_by_key(|(node, _, database)| {
        (Reverse(database.flushed.lsn), Reverse(database.priority), (*node).clone())
    });
    field.fit.first().map(|(node, report, database)| Winner {
        node: (*node).clone(),
        incarnation: report.incarnation,
        flushed: database.flushed,
        lost_bytes: known.map(|end| end.bytes_after(database.flushed.lsn)),
        catch_up: None,
        proven_by: Vec::new(),
    })
}

/// Returns the data nodes of the cluster, by name.
pub fn data_nodes(state: &State) -> impl Iterator<Item = &NodeId> {
    state.nodes.iter().filter(|(_, node)| node.kind == NodeKind::Data).map(|(id, _)| id)
}

fn examine<'a>(
    state: &State,
    node: &NodeId,
    report: Option<&'a Report>,
) -> Result<(&'a Report, &'a Database), Refusal> {
    let report = report.ok_or(Refusal::Unreachable)?;
    if let Some(epoch) = report.primary_epoch {
        return Err(Refusal::StillPrimary(epoch));
    }
    if state.fenced.contains_key(node) {
        return Err(Refusal::Fenced);
    }
    if state.is_leaving(node) {
        return Err(Refusal::Leaving);
    }
    let database = report.database.as_ref().ok_or(Refusal::NoDatabase)?;
    let found = database.system_identifier.ok_or(Refusal::NoDatabase)?;
    match state.system_identifier {
        Some(expected) if expected == found => {}
        Some(expected) => return Err(Refusal::Foreign { found, expected }),
        None => return Err(Refusal::NoDatabase),
    }
    if !database.standby {
        return Err(Refusal::NotRunning);
    }
    if !database.promotable {
        return Err(Refusal::NotPromotable);
    }
    if let Some(why) = &database.unfit {
        return Err(Refusal::Unfit(why.clone()));
    }
    if database.flushed.lsn == Lsn::ZERO {
        return Err(Refusal::NoWal);
    }
    Ok((report, database))
}

fn refuse_old_timelines(field: &mut Field<'_>) {
    let Some((newest, node)) =
        field.fit.iter().map(|(node, _, d)| (d.flushed.timeline, (*node).clone())).max()
    else {
        return;
    };
    field.sieve(|_, _, database| {
        let has = database.flushed.timeline;
        (has < newest).then(|| Refusal::OldTimeline { has, newest, node: node.clone() })
    });
}

/// The end of the last primary's WAL as far as anybody heard: its renewals, its own database if that
/// answers again, or a standby that streamed from it.
fn last_known_end(
    state: &State,
    reports: &BTreeMap<NodeId, Report>,
    last_known: Option<WalPosition>,
) -> Option<Lsn> {
    let last = state.latest_promotion();
    let since = last.map_or(crate::TimelineId(0), |promotion| promotion.begin.timeline);
    let databases = reports.values().filter_map(|report| report.database.as_ref());
    let heard = databases
        .filter(|database| database.flushed.timeline >= since)
        .map(|database| database.upstream_end)
        .filter(|end| *end != Lsn::ZERO);
    let told = last_known.filter(|known| known.timeline >= since).map(|known| known.lsn);
    let own = last
        .and_then(|promotion| reports.get(&promotion.holder)?.database.as_ref())
        .filter(|database| database.standby && database.flushed.timeline >= since)
        .map(|database| database.flushed.lsn);
    heard.chain(told).chain(own).max()
}

/// Refuses whoever may lack more than anybody can say (rules 9 and 19): the replicated state knows the
/// last promotion, so a node that never followed it has an abandoned history, and a bound on the loss
/// needs a position to count from.
fn refuse_without_proof(state: &State, field: &mut Field<'_>, known: Option<Lsn>) {
    let Some(last) = state.latest_promotion() else { return };
    field.sieve(|name, _, database| {
        let has = database.flushed.timeline;
        let followed = has >= last.begin.timeline;
        // Behind the fork and not past it: what it lacks is counted like any other lag.
        let behind = database.flushed.lsn <= last.begin.lsn && known.is_some();
        if !followed && !behind {
            let (newest, holder) = (last.begin.timeline, last.holder.clone());
            return Some(Refusal::NeverFollowed { has, newest, holder });
        }
        let unbounded = known.is_none() && *name != last.holder;
        unbounded.then(|| Refusal::LossUnknown { holder: last.holder.clone() })
    });
}

fn refuse_laggards(field: &mut Field<'_>, known: Option<Lsn>, policy: &Policy) {
    let Some(end) = known else { return };
    let max = policy.lag_bytes_max;
    field.sieve(|_, _, database| {
        let lag_bytes = end.bytes_after(database.flushed.lsn);
        (lag_bytes > max).then_some(Refusal::LagsTooFar { lag_bytes, max })
    });
}

/// Returns a node whose database only has to be started and may have WAL that nobody else has (rule 14),
/// so that an election does well to wait a moment: the last primary's; before the first grant any that
/// reaches further than those that run.
///
/// Not after a release: whoever gives the lease back has seen to that.
#[must_use]
pub fn worth_waiting_for<'a>(
    state: &'a State,
    reports: &BTreeMap<NodeId, Report>,
) -> Option<&'a NodeId> {
    let startable = |node: &NodeId| {
        let database = reports.get(node)?.database.as_ref()?;
        let ours = database.system_identifier == state.system_identifier;
        let able = database.promotable && database.unfit.is_none() && !database.standby;
        let able = able && !state.is_kept_down(node);
        (ours && able).then_some(database.flushed)
    };
    if state.last_epoch == Epoch::NONE {
        let running = reports.values().filter_map(|report| report.database.as_ref());
        let best = running.filter(|database| database.standby).map(|d| d.flushed).max();
        return data_nodes(state)
            .find(|node| startable(node).is_some_and(|at| best.is_some_and(|best| at > best)));
    }
    let last = state.latest_promotion()?;
    let expired = matches!(state.vacated, Some(VacateReason::Expired | VacateReason::Killed));
    (expired && startable(&last.holder).is_some()).then_some(&last.holder)
}

/// Who may make the database cluster, while none is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapChoice {
    /// This node: it has a data directory already, or all are empty and it is first by name.
    Assign(NodeId),
    /// Not all data nodes answered, or have looked: one of them may have the data.
    WaitFor(Vec<NodeId>),
    /// Two directories of different database clusters: somebody must say which one counts.
    Conflict(BTreeMap<NodeId, u64>),
    /// Directories that exist but cannot be used.
    Unusable(Vec<NodeId>),
}

/// Decides who may make the database cluster. Needs an answer of *every* data node.
#[must_use]
pub fn choose_bootstrap(state: &State, reports: &BTreeMap<NodeId, Report>) -> BootstrapChoice {
    let database = |node: &NodeId| reports.get(node).and_then(|r| r.database.as_ref());
    let silent: Vec<NodeId> = data_nodes(state)
        .filter(|node| !database(node).is_some_and(|d| d.directory != Directory::Unseen))
        .cloned()
        .collect();
    if !silent.is_empty() {
        return BootstrapChoice::WaitFor(silent);
    }
    let found: BTreeMap<NodeId, u64> = data_nodes(state)
        .filter_map(|node| Some((node.clone(), database(node)?.system_identifier?)))
        .collect();
    let mut kinds: Vec<u64> = found.values().copied().collect();
    kinds.sort_unstable();
    kinds.dedup();
    match (kinds.len(), found.keys().next()) {
        (0, _) => {}
        (1, Some(_)) => {
            // Several copies of one database: the one with most WAL is the cluster's.
            let best = found
                .keys()
                .max_by_key(|node| (database(node).map(|d| d.flushed), Reverse((*node).clone())));
            if let Some(best) = best {
                return BootstrapChoice::Assign(best.clone());
            }
        }
        _ => return BootstrapChoice::Conflict(found),
    }
    let unusable: Vec<NodeId> = data_nodes(state)
        .filter(|node| database(node).is_some_and(|d| d.directory != Directory::Empty))
        .cloned()
        .collect();
    match (unusable.is_empty(), data_nodes(state).next()) {
        (true, Some(first)) => BootstrapChoice::Assign(first.clone()),
        _ => BootstrapChoice::Unusable(unusable),
    }
}

#[cfg(test)]
mod tests;
