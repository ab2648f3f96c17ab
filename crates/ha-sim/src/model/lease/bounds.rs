//! How far the lease is explored, and what may be done wrong.

use super::{ONE_PRIMARY, RECOVERS};

/// How far a model is explored. Everything within is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a kind of step that is tried or not")]
pub struct Bounds {
    /// How much true time passes, in ticks.
    pub ticks: u8,
    /// How long a log gets, in entries, at most 6.
    pub entries: u8,
    /// How many Raft terms there are, at most 4.
    pub terms: u8,
    /// How often the lease is granted, the first time included; at most 3.
    pub epochs: u8,
    /// What a lease is good for, in ticks.
    pub ttl: u8,
    /// How fast the three clocks run, in tenths of the true rate: each vector is tried.
    pub rates: &'static [[u8; 3]],
    /// Who leads at first: each is tried.
    pub leaders: &'static [u8],
    /// Whether a follower's answer may be lost: it has the entry, and its leader does not know.
    pub losses: bool,
    /// Whether it begins with empty logs and no leader instead.
    pub empty: bool,
    /// Whether holders give their lease back.
    pub releases: bool,
    /// Whether databases crash, and are started again in place.
    pub restarts_in_place: bool,
    /// How many agents crash.
    pub crashes: u8,
    /// How many data nodes reboot.
    pub reboots: u8,
    /// How many renewals are under way at once: 1 or 2.
    pub slots: u8,
    /// Whether it is asked of each state that a schedule without faults leads to a primary.
    pub recovers: bool,
}

/// The holder's clock is as slow, the others' as fast as allowed.
const SLOW_HOLDER: &[[u8; 3]] = &[[9, 11, 11]];
/// The same for either data node, and clocks that are true.
const THREE_RATES: &[[u8; 3]] = &[[9, 11, 11], [11, 9, 10], [10, 10, 10]];

impl Bounds {
    const BASE: Self = Self {
        ticks: 4,
        entries: 5,
        terms: 2,
        epochs: 2,
        ttl: 2,
        rates: SLOW_HOLDER,
        leaders: &[2],
        losses: true,
        empty: false,
        releases: false,
        restarts_in_place: false,
        crashes: 0,
        reboots: 0,
        slots: 1,
        recovers: false,
    };
    /// As good as none, for the way back to a primary.
    pub(super) const FREE: Self =
        Self { ticks: u8::MAX, entries: u8::MAX, terms: u8::MAX, ..Self::BASE };
}

/// What may be done wrong: each gives two primaries, or none for ever. The letters are those of `docs/model.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// a: the holder's right counts from the answer, not from before the request.
    DeadlineFromAnswer,
    /// b: a new leader takes the lease for expired at once.
    NewLeaderDoesNotWait,
    /// b2: what a granter noted of renewals is kept when it leads again in a later term.
    RecordKeptPerNode,
    /// c: a leader goes by the majority that it had earlier.
    CachedConfirmation,
    /// d: a renewal is confirmed although the decision to vacate was made.
    RenewedWhileVacating,
    /// e: neither side allows for drift.
    NoDriftMargin,
    /// f: the lease is given back before the database has stopped.
    ReleaseBeforeStop,
    /// g: the holder acts on the grant, and counts from when it learnt of it.
    ActsOnTheGrant,
    /// h: a decision to vacate is carried out in a later term.
    VacateNotBoundToTerm,
    /// i: a leader answers before its first entry is applied.
    AnsweredBeforeFirstEntry,
    /// j: an epoch is used again after its release was sent.
    EpochUsedAgain,
    /// k: an answer counts for the newest request.
    AnswerOfAnotherRequest,
    /// l: the leader looks at lease and record before the round, and not after it.
    CheckedBeforeTheRoundOnly,
    /// m: a node that rebooted renews what it may have given back.
    RebootForgetsRelease,
    /// n: a leader that is deposed forgets that it has decided to vacate.
    VacatingForgotten,
    /// o: a leader whose agent was started anew leads on in the same term.
    LeaderRestored,
    /// p: the time of a lease is counted only by the leader that granted it.
    CountsFromGrantsOnly,
}

/// Bounds with the name that they go by.
pub type Named = (&'static str, Bounds);

/// Every mistake: its letter, its name on the command line, and bounds within which it is found.
pub const NAMES: [(Mistake, &str, &str, Bounds); 17] = {
    use Mistake as M;
    const ONE: Bounds = Bounds { ticks: 2, entries: 3, terms: 1, ..Bounds::BASE };
    const TWO: Bounds = Bounds { entries: 4, terms: 2, ..ONE };
    const THREE: Bounds = Bounds { entries: 5, terms: 3, losses: false, ..ONE };
    const RELEASES: Bounds = Bounds { ticks: 1, releases: true, ..ONE };
    const EARLY: Bounds = Bounds { ticks: 1, ..TWO };
    [
        (M::DeadlineFromAnswer, "a", "deadline-from-answer", ONE),
        (M::NewLeaderDoesNotWait, "b", "new-leader-does-not-wait", EARLY),
        (M::RecordKeptPerNode, "b2", "record-kept-per-node", THREE),
        (M::CachedConfirmation, "c", "cached-confirmation", TWO),
        (M::RenewedWhileVacating, "d", "renewed-while-vacating", ONE),
        (M::NoDriftMargin, "e", "no-drift-margin", ONE),
        (M::ReleaseBeforeStop, "f", "release-before-stop", RELEASES),
        (M::ActsOnTheGrant, "g", "acts-on-the-grant", ONE),
        (M::VacateNotBoundToTerm, "h", "vacate-not-bound-to-term", TWO),
        (M::AnsweredBeforeFirstEntry, "i", "answered-before-first-entry", TWO),
        (M::EpochUsedAgain, "j", "epoch-used-again", RELEASES),
        (M::AnswerOfAnotherRequest, "k", "answer-of-another-request", Bounds { slots: 2, ..ONE }),
        (M::CheckedBeforeTheRoundOnly, "l", "checked-before-the-round-only", ONE),
        (M::RebootForgetsRelease, "m", "reboot-forgets-release", Bounds { reboots: 1, ..RELEASES }),
        (M::VacatingForgotten, "n", "vacating-forgotten", TWO),
        (M::LeaderRestored, "o", "leader-restored", Bounds { crashes: 1, ..ONE }),
        (
            M::CountsFromGrantsOnly,
            "p",
            "counts-from-grants-only",
            Bounds { ticks: 0, entries: 3, releases: true, recovers: true, ..TWO },
        ),
    ]
};

/// The bounds in which the protocol itself is explored in every verification, beside those of the mistakes.
pub const CLEAN: [Named; 5] = {
    const B: Bounds = Bounds { ticks: 3, entries: 4, ..Bounds::BASE };
    [
        ("two terms", B),
        ("releases", Bounds { ticks: 2, entries: 3, releases: true, ..B }),
        ("crash", Bounds { ticks: 2, entries: 3, crashes: 1, ..B }),
        ("empty", Bounds { ticks: 2, terms: 1, empty: true, ..B }),
        (
            "recovers",
            Bounds { ticks: 1, terms: 1, crashes: 1, releases: true, recovers: true, ..B },
        ),
    ]
};

/// Larger ones, for the program alone.
pub const LARGE: [Named; 12] = {
    const B: Bounds = Bounds::BASE;
    const R: Bounds = Bounds { releases: true, ..B };
    [
        ("releases, few ticks", Bounds { ticks: 2, entries: 4, ..R }),
        (
            "recovers, one term",
            Bounds { ticks: 2, entries: 4, terms: 1, crashes: 1, recovers: true, ..R },
        ),
        ("three terms", Bounds { terms: 3, entries: 6, ..B }),
        ("releases, either leader", Bounds { leaders: &[2, 0], ..R }),
        ("reboot", Bounds { reboots: 1, ..R }),
        ("crash", Bounds { crashes: 1, ..B }),
        ("crash, restart in place", Bounds { ticks: 3, crashes: 1, restarts_in_place: true, ..R }),
        ("two renewals", Bounds { slots: 2, ..B }),
        ("ttl of 3 ticks", Bounds { ticks: 6, ttl: 3, rates: THREE_RATES, ..B }),
        ("empty", Bounds { empty: true, rates: THREE_RATES, ..B }),
        ("three rates", Bounds { ticks: 5, rates: THREE_RATES, ..R }),
        ("recovers", Bounds { crashes: 1, recovers: true, ..R }),
    ]
};

/// Returns the invariant that a mistake breaks in the end; others may break before.
#[must_use]
pub fn breaks(mistake: Mistake) -> &'static str {
    if mistake == Mistake::CountsFromGrantsOnly { RECOVERS } else { ONE_PRIMARY }
}
