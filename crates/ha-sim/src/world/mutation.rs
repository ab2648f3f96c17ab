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
}

impl Mutation {
    /// Every mistake, with its name on the command line.
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

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(mutation, _)| *mutation == self).map_or("", |(_, name)| name)
    }

    /// Returns the mistake of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(mutation, _)| *mutation)
    }
}
