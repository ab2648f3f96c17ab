//! Deliberate mistakes in the simulated agent, guard or disk: with each, seeds must find a violation.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// The guard does not kill at the deadline.
    GuardOff,
    /// The holder counts its right from the answer, not from before the request.
    DeadlineFromAnswer,
    /// A new Raft leader does not wait for a ttl before it lets the lease expire.
    NewLeaderDoesNotWait,
    /// A renewal is confirmed without asking a majority.
    CachedConfirmation,
    /// An election believes reports without a pledge, and has nobody stop receiving.
    RevokeSkipped,
    /// A pledge is made and answered, but receiving goes on.
    ReceiversNotStopped,
    /// A pledge is answered before it is on disk.
    PledgeNotSynced,
    /// The primary waits for another quorum before, or without that, it is recorded.
    QuorumNotRecorded,
    /// An agent that was started goes by the quorum that it knows, current or not.
    QuorumUnconfirmed,
    /// An election takes silent members for members that have what the others have.
    TooFewReports,
    /// A node that comes back follows without comparing histories.
    RejoinNotCompared,
    /// Histories that began timelines of one number at one position are taken for one.
    SharedNumberTrusted,
    /// Raft's votes and entries are answered before they are on disk.
    RaftNotSynced,
    /// The lease is handed over while the database is still being stopped.
    ReleaseBeforeStop,
    /// A planned change does not wait until the standby has everything.
    SwitchoverUnproven,
    /// The winner is promoted without what its grant demands.
    CatchUpSkipped,
    /// What a granter noted of renewals is kept when it leads again in a later term.
    RecordKeptPerNode,
    /// A renewal is confirmed although the decision to vacate was made.
    RenewedWhileVacating,
    /// Neither side allows for drift.
    NoDriftMargin,
    /// The holder acts on the grant, and counts from when it learnt of it.
    ActsOnTheGrant,
    /// A decision to vacate is carried out in a later term.
    VacateNotBoundToTerm,
    /// A leader answers before its first entry is applied.
    AnsweredBeforeFirstEntry,
    /// An epoch is used again after its release was sent.
    EpochUsedAgain,
    /// An answer counts for the newest request.
    AnswerOfAnotherRequest,
    /// The leader looks at lease and record before the round, and not after it.
    CheckedBeforeTheRoundOnly,
    /// A node that rebooted renews what it may have given back.
    RebootForgetsRelease,
    /// A leader that is deposed forgets that it has decided to vacate.
    VacatingForgotten,
    /// A leader whose agent was started anew leads on in the same term.
    LeaderRestored,
    /// The server is told of a weaker quorum before that is recorded.
    ShrunkBeforeRecorded,
    /// A stronger quorum is recorded before enough members have what was acknowledged without them.
    GrownTooEarly,
    /// A stronger quorum is recorded before it is proven that nothing weaker is in force.
    GrownUnproven,
    /// A pledge is forgotten with the agent.
    PledgeNotPersisted,
    /// A grant forgets the quorums of earlier epochs.
    EarlierQuorumForgotten,
}

impl Mutation {
    /// Every mistake that seeds or plans find, with its name on the command line.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::GuardOff, "guard-off"),
        (Self::DeadlineFromAnswer, "deadline-from-answer"),
        (Self::NewLeaderDoesNotWait, "new-leader-does-not-wait"),
        (Self::CachedConfirmation, "cached-confirmation"),
        (Self::RevokeSkipped, "revoke-skipped"),
        (Self::ReceiversNotStopped, "receivers-not-stopped"),
        (Self::PledgeNotSynced, "pledge-not-synced"),
        (Self::QuorumNotRecorded, "quorum-not-recorded"),
        (Self::QuorumUnconfirmed, "quorum-unconfirmed"),
        (Self::TooFewReports, "too-few-reports"),
        (Self::RejoinNotCompared, "rejoin-not-compared"),
        (Self::SharedNumberTrusted, "shared-number-trusted"),
        (Self::RaftNotSynced, "raft-not-synced"),
        (Self::ReleaseBeforeStop, "release-before-stop"),
        (Self::SwitchoverUnproven, "switchover-unproven"),
        (Self::CatchUpSkipped, "catch-up-skipped"),
    ];

    /// Every other one: those are found where a way of the model is replayed.
    pub const REPLAYED: [(Self, &'static str); 17] = [
        (Self::RecordKeptPerNode, "record-kept-per-node"),
        (Self::RenewedWhileVacating, "renewed-while-vacating"),
        (Self::NoDriftMargin, "no-drift-margin"),
        (Self::ActsOnTheGrant, "acts-on-the-grant"),
        (Self::VacateNotBoundToTerm, "vacate-not-bound-to-term"),
        (Self::AnsweredBeforeFirstEntry, "answered-before-first-entry"),
        (Self::EpochUsedAgain, "epoch-used-again"),
        (Self::AnswerOfAnotherRequest, "answer-of-another-request"),
        (Self::CheckedBeforeTheRoundOnly, "checked-before-the-round-only"),
        (Self::RebootForgetsRelease, "reboot-forgets-release"),
        (Self::VacatingForgotten, "vacating-forgotten"),
        (Self::LeaderRestored, "leader-restored"),
        (Self::ShrunkBeforeRecorded, "shrunk-before-recorded"),
        (Self::GrownTooEarly, "grown-too-early"),
        (Self::GrownUnproven, "grown-unproven"),
        (Self::PledgeNotPersisted, "pledge-not-persisted"),
        (Self::EarlierQuorumForgotten, "earlier-quorum-forgotten"),
    ];

    fn every() -> impl Iterator<Item = (Self, &'static str)> {
        Self::ALL.into_iter().chain(Self::REPLAYED)
    }

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::every().find(|(mutation, _)| *mutation == self).map_or("", |(_, name)| name)
    }

    /// Returns the mistake of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::every().find(|(_, known)| *known == name).map(|(mutation, _)| mutation)
    }
}
