//! The table: what a data node does, and the rule that says so.

use std::fmt;

use crate::node::NodeId;
use crate::step::Step;
use crate::view::{
    CatchUp, Crash, Grace, Health, Instance, Job, LeaseView, Order, Relation, Starting, Stopped,
    Upstream, View,
};

/// One decision: what to do, and the rule that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Why.
    pub rule: Rule,
    /// What.
    pub step: Step,
}

macro_rules! rules {
    ($($name:ident, $text:literal, $why:literal, $awaits:literal;)*) => {
        /// The name of a decision: logs, `haclt explain` and tests use it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $why] $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the rule's name, as in logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Returns why the node does what it does, in a sentence.
            #[must_use]
            pub const fn why(self) -> &'static str {
                match self { $(Self::$name => $why,)* }
            }

            /// Returns what has to happen for this to change; empty if nothing is awaited.
            #[must_use]
            pub const fn awaits(self) -> &'static str {
                match self { $(Self::$name => $awaits,)* }
            }
        }
    };
}

rules! {
    Serving, "serving", "It holds the lease, proves it in time, and its database accepts writes.", "";
    Granted, "granted", "It was granted the lease and has proven it: it ends recovery.", "the promotion";
    FastForwarding, "fast_forwarding", "It was granted the lease, and another node has WAL that it lacks: it fetches and replays that first.", "the other node's WAL";
    CannotCatchUp, "cannot_catch_up", "It was granted the lease but could not get the WAL that acknowledged commits are in: it gives the lease back.", "another node's election";
    AwaitingProof, "awaiting_proof", "It was granted the lease, and may act once a majority has confirmed a renewal.", "a confirmed renewal";
    Promoting, "promoting", "It is ending recovery under its lease.", "the end of recovery";
    Recovering, "recovering", "Its database crashed and is recovering in place under the same lease.", "the end of crash recovery";
    RecoveringTooLong, "recovering_too_long", "Crash recovery in place takes longer than allowed and another node is fit: it gives up.", "the other node's promotion";
    Crashed, "crashed", "Its database crashed under its lease: it finds out whether the standby has every byte.", "the standby's position";
    CrashedReplaceable, "crashed_replaceable", "Its database crashed; a fit standby has every byte, or restarting was tried too often: it gives the lease back.", "the other node's promotion";
    CrashedAlone, "crashed_alone", "Its database crashed and no standby has every byte: it recovers in place, which loses nothing.", "the end of crash recovery";
    Sick, "sick", "Its database does not do its work and another node is fit: it stops it and gives the lease back.", "the other node's promotion";
    SickAlone, "sick_alone", "Its database does not do its work, but no other node is fit: moving would not help.", "the database, or a fit standby";
    CannotServe, "cannot_serve", "It was granted the lease but has no database that could serve: it gives the lease back.", "another node's election";
    HandingOver, "handing_over", "Its agent is leaving: it hands the primary role over.", "the standby";
    NoProof, "no_proof", "Its right to be primary has ended, or ends within the guard's margin, without a confirmed renewal.", "a majority of the agents";
    StalePrimary, "stale_primary", "Its database may accept writes although it does not hold the lease: it is stopped at once.", "the end of its database";
    Forfeited, "forfeited", "It gave the lease of this epoch up for good: it is vacated.", "a majority of the agents";
    LeaseVacant, "lease_vacant", "Nobody holds the lease; this standby can be elected.", "an election";
    AwaitingPrimary, "awaiting_primary", "Nobody holds the lease; its database is down and it waits a moment for a new primary to follow.", "a primary";
    BecomeElectable, "become_electable", "Nobody holds the lease: it starts its database as a standby of nobody, so that it can be elected.", "its database to start";
    Following, "following", "Another node is primary and this one follows it.", "";
    FollowNew, "follow_new", "Another node is primary now: it streams from there.", "";
    Starved, "starved", "The primary has removed WAL that this standby needs: it is fetched from another node, or the standby is cloned.", "the WAL, or a clone";
    NotStreaming, "not_streaming", "Nothing arrives from the primary: it compares histories.", "the primary's answer";
    Comparing, "comparing", "Its database is down: before it starts, its WAL is compared with the primary's history.", "the primary's answer";
    Rejoining, "rejoining", "Its WAL is part of the primary's history: it starts as a standby.", "its database to start";
    Diverged, "diverged", "It has WAL that the primary's history lacks: it is rewound.", "the rewind";
    Recloning, "recloning", "It cannot be rewound, or has no database: it is cloned from the primary.", "the clone";
    DivergedManual, "diverged_manual", "It has WAL that the primary's history lacks, and rejoin = \"manual\" leaves it to you.", "you: rewind or reclone it, or change postgres.rejoin";
    Starting, "starting", "Its database is starting.", "its database to accept connections";
    Stopping, "stopping", "Its database is being stopped.", "its last process to end";
    Working, "working", "A job is under way on its data directory.", "the end of the job";
    Bootstrapping, "bootstrapping", "It was chosen to make the database cluster.", "initdb";
    NoDatabase, "no_database", "It has no database, and there is no primary to clone.", "a primary";
    DataBroken, "data_broken", "Its data directory is missing, unreadable, or of another database cluster: nothing is touched.", "you: mend the data directory, or empty it to have it cloned";
    Paused, "paused", "The cluster is paused: its database is left alone.", "you: haclt resume";
    FencedByOrder, "fenced_by_order", "An operator has fenced it: its database is to be down.", "you: haclt unfence";
    Leaving, "leaving", "It is being taken out of the cluster: its database is to be down.", "the quorum to do without it";
    CatchingUp, "catching_up", "Its agent has not caught up with the cluster yet; the guard watches the permit meanwhile.", "the Raft leader";
    Unseen, "unseen", "It has not seen its guard or its data directory yet.", "the guard";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Returns the one step this data node should take now, and the rule that says so.
#[must_use]
pub fn decide(view: &View) -> Decision {
    use Instance as I;
    use LeaseView as L;
    let epoch = view.epoch;
    let (rule, step) = match (view.lease, view.instance) {
        (_, I::Unseen) => (Rule::Unseen, Step::Stay),
        (_, I::Stopping) => (Rule::Stopping, Step::Stay),
        // Its own hand-over decides by itself when to stop and to release.
        (_, I::Working(Job::HandOver)) => (Rule::HandingOver, Step::Stay),

        (L::Unknown, _) => (Rule::CatchingUp, Step::Stay),

        // Whatever may accept writes without the lease is stopped, whoever holds it.
        (
            L::Vacant | L::Theirs | L::Granted | L::Lapsed | L::Forfeited,
            I::Primary(_)
            | I::Starting(Starting::InPlace | Starting::InPlaceTooLong)
            | I::Working(Job::Promote),
        ) => (stale(view.lease), Step::Fence),

        // Nothing is promoted, started, stopped or restarted; what serves goes on.
        (L::Ours, I::Primary(_)) if view.order == Order::Paused => (Rule::Serving, Step::Stay),
        (L::Theirs, I::Standby(Upstream::Right)) if view.order == Order::Paused => {
            (Rule::Following, Step::Stay)
        }
        (_, _) if view.order == Order::Paused => (Rule::Paused, Step::Stay),

        (L::Vacant | L::Theirs, instance) if view.order == Order::Fenced => {
            kept_down(Rule::FencedByOrder, instance)
        }
        (L::Vacant | L::Theirs, instance) if view.order == Order::Leave => {
            kept_down(Rule::Leaving, instance)
        }

        (L::Ours, instance) => under_lease(view, instance),

        (L::Granted | L::Lapsed, I::Standby(_) | I::Starting(Starting::Standby)) => {
            (Rule::AwaitingProof, Step::Stay)
        }
        (
            L::Granted | L::Lapsed,
            I::Empty | I::HalfMade | I::Broken | I::Stopped(_) | I::Working(_),
        ) => (Rule::CannotServe, Step::Release { epoch }),
        (
            L::Forfeited,
            I::Empty
            | I::HalfMade
            | I::Broken
            | I::Stopped(_)
            | I::Standby(_)
            | I::Starting(Starting::Standby)
            | I::Working(_),
        ) => (Rule::Forfeited, Step::Release { epoch }),

        (L::Vacant, instance) => without_primary(view, instance),
        (L::Theirs, instance) => match &view.holder {
            Some(primary) => beside_primary(primary, instance),
            None => (Rule::CatchingUp, Step::Stay),
        },
    };
    Decision { rule, step }
}

/// An operator wants its database down. Whatever is under way on it ends first.
const fn kept_down(rule: Rule, instance: Instance) -> (Rule, Step) {
    let step = match instance {
        Instance::Standby(_) | Instance::Starting(_) => Step::StopStandby,
        Instance::Unseen
        | Instance::Empty
        | Instance::HalfMade
        | Instance::Broken
        | Instance::Stopped(_)
        | Instance::Stopping
        | Instance::Primary(_)
        | Instance::Working(_) => Step::Stay,
    };
    (rule, step)
}

const fn stale(lease: LeaseView) -> Rule {
    match lease {
        LeaseView::Lapsed => Rule::NoProof,
        LeaseView::Unknown
        | LeaseView::Vacant
        | LeaseView::Theirs
        | LeaseView::Granted
        | LeaseView::Ours
        | LeaseView::Forfeited => Rule::StalePrimary,
    }
}

/// The lease is ours, and proven.
fn under_lease(view: &View, instance: Instance) -> (Rule, Step) {
    use Instance as I;
    let epoch = view.epoch;
    match instance {
        I::Primary(Health::Fine) => (Rule::Serving, Step::Stay),
        I::Primary(Health::SickReplaceable) => (Rule::Sick, Step::Fence),
        I::Primary(Health::SickAlone) => (Rule::SickAlone, Step::Stay),
        I::Standby(_) => match view.catch_up {
            CatchUp::Done => (Rule::Granted, Step::Promote { epoch }),
            CatchUp::Needed => (Rule::FastForwarding, Step::FastForward { epoch }),
            CatchUp::Failed => (Rule::CannotCatchUp, Step::Release { epoch }),
        },
        I::Starting(Starting::InPlace) => (Rule::Recovering, Step::Stay),
        I::Starting(Starting::InPlaceTooLong) => (Rule::RecoveringTooLong, Step::Fence),
        I::Starting(Starting::Standby) => (Rule::Starting, Step::Stay),
        I::Stopped(Stopped { crash, .. }) => match crash {
            Crash::Unassessed => (Rule::Crashed, Step::AssessCrash { epoch }),
            Crash::FailOver => (Rule::CrashedReplaceable, Step::Release { epoch }),
            Crash::RestartInPlace => (Rule::CrashedAlone, Step::RestartInPlace { epoch }),
            Crash::None => (Rule::CannotServe, Step::Release { epoch }),
        },
        I::Working(Job::Promote) => (Rule::Promoting, Step::Stay),
        I::Working(Job::Prepare) => (Rule::Crashed, Step::Stay),
        I::Working(Job::HandOver) => (Rule::HandingOver, Step::Stay),
        I::Empty | I::HalfMade | I::Broken | I::Working(Job::Initdb | Job::Clone | Job::Rewind) => {
            (Rule::CannotServe, Step::Release { epoch })
        }
        I::Unseen => (Rule::Unseen, Step::Stay),
        I::Stopping => (Rule::Stopping, Step::Stay),
    }
}

/// Nobody holds the lease; nothing here can accept writes.
fn without_primary(view: &View, instance: Instance) -> (Rule, Step) {
    use Instance as I;
    match (instance, view.bootstrap) {
        (I::Empty | I::HalfMade | I::Stopped(_), Some(attempt)) => {
            (Rule::Bootstrapping, Step::Bootstrap { attempt })
        }
        (I::Working(Job::Initdb), _) => (Rule::Bootstrapping, Step::Stay),
        (I::Empty | I::HalfMade, None) => (Rule::NoDatabase, Step::Stay),
        (I::Stopped(Stopped { grace: Grace::Waiting, .. }), None) => {
            (Rule::AwaitingPrimary, Step::Stay)
        }
        (I::Stopped(Stopped { grace: Grace::Over, .. }), None) => {
            (Rule::BecomeElectable, Step::StartStandby { primary: None })
        }
        (I::Broken, _) => (Rule::DataBroken, Step::Stay),
        (I::Standby(_), _) => (Rule::LeaseVacant, Step::Stay),
        (I::Starting(_), _) => (Rule::Starting, Step::Stay),
        (I::Working(_), _) => (Rule::Working, Step::Stay),
        (I::Stopping, _) => (Rule::Stopping, Step::Stay),
        (I::Unseen | I::Primary(_), _) => (Rule::Unseen, Step::Stay),
    }
}

/// Another node holds the lease; nothing here can accept writes.
fn beside_primary(primary: &NodeId, instance: Instance) -> (Rule, Step) {
    use Instance as I;
    let primary = primary.clone();
    match instance {
        I::Standby(Upstream::Right) => (Rule::Following, Step::Stay),
        I::Standby(Upstream::Wrong) => (Rule::FollowNew, Step::Follow { primary }),
        I::Standby(Upstream::Stuck) => (Rule::NotStreaming, Step::Compare { primary }),
        I::Standby(Upstream::Starved) => (Rule::Starved, Step::Refill { primary }),
        I::Standby(Upstream::Diverged) => (Rule::Diverged, Step::StopStandby),
        I::Stopped(Stopped { relation, .. }) => match relation {
            Relation::Uncompared => (Rule::Comparing, Step::Compare { primary }),
            Relation::Ancestor => (Rule::Rejoining, Step::StartStandby { primary: Some(primary) }),
            Relation::Diverged => (Rule::Diverged, Step::Rewind { primary }),
            Relation::CloneOnly => (Rule::Recloning, Step::Clone { primary }),
            Relation::Manual => (Rule::DivergedManual, Step::Stay),
        },
        I::Empty | I::HalfMade => (Rule::Recloning, Step::Clone { primary }),
        I::Broken => (Rule::DataBroken, Step::Stay),
        I::Starting(_) => (Rule::Starting, Step::Stay),
        I::Working(Job::Rewind) => (Rule::Diverged, Step::Stay),
        I::Working(Job::Clone) => (Rule::Recloning, Step::Stay),
        I::Working(_) => (Rule::Working, Step::Stay),
        I::Stopping => (Rule::Stopping, Step::Stay),
        I::Unseen | I::Primary(_) => (Rule::Unseen, Step::Stay),
    }
}

#[cfg(test)]
mod tests;
