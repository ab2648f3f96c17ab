//! How far the WAL quorum is explored, and what may be done wrong.

use super::core::Few;

/// A quorum that a primary may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nobody beside the primary.
    Alone,
    /// The other database.
    Standby,
    /// One of the other two.
    OneOfTwo,
    /// Both of them.
    Both,
}

impl Wish {
    pub(super) fn of(self, primary: u8) -> Few {
        let others = 0b111 & !(1 << primary);
        match self {
            Self::Alone => Few::default(),
            Self::Standby => Few { members: others & 0b011, required: 1 },
            Self::OneOfTwo => Few { members: others, required: 1 },
            Self::Both => Few { members: others, required: 2 },
        }
    }
}

/// How far a model is explored. Everything within is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How many records there may be when a client writes another, that of the first promotion included.
    pub records: u8,
    /// How often the lease is granted, the first time included.
    pub epochs: u8,
    /// What is recorded, and gone by, at first: each is tried.
    pub first: &'static [Wish],
    /// What primaries may want.
    pub wishes: &'static [Wish],
    /// How often they change their mind.
    pub changes: u8,
    /// How often the record may change.
    pub versions: u8,
    /// How many agents crash.
    pub crashes: u8,
}

/// What may be done wrong: each loses an acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The server is told of a weaker quorum before that is recorded.
    ShrunkBeforeRecorded,
    /// A stronger quorum is recorded before enough members have what was acknowledged without them.
    GrownTooEarly,
    /// A stronger quorum is recorded before it is proven that nothing weaker is in force.
    GrownUnproven,
    /// A pledge is forgotten with the agent.
    PledgeNotPersisted,
    /// An election asks one member less.
    TooFewReports,
    /// A node reports its position, and goes on receiving.
    ReceiverNotStopped,
    /// The server is told what this start of the agent has not had recorded once more.
    QuorumUnconfirmed,
    /// A grant forgets the quorums of earlier epochs.
    EarlierQuorumForgotten,
    /// The winner begins without what others have.
    CatchUpSkipped,
}

/// Bounds with the name that they go by.
pub type Named = (&'static str, Bounds);

impl Bounds {
    const BASE: Self = Self {
        records: 2,
        epochs: 2,
        first: &[Wish::OneOfTwo],
        wishes: &[],
        changes: 0,
        versions: 3,
        crashes: 0,
    };
}

/// Every mistake: its name on the command line, and bounds within which it is found.
pub const NAMES: [(Mistake, &str, Bounds); 9] = {
    use Mistake as M;
    const B: Bounds = Bounds::BASE;
    const SHRINKS: Bounds =
        Bounds { first: &[Wish::OneOfTwo], wishes: &[Wish::Alone], changes: 1, ..B };
    const GROWS: Bounds =
        Bounds { first: &[Wish::Alone], wishes: &[Wish::Standby], changes: 1, ..B };
    const THREE: Bounds = Bounds { epochs: 3, ..B };
    [
        (M::ShrunkBeforeRecorded, "shrunk-before-recorded", SHRINKS),
        (M::GrownTooEarly, "grown-too-early", GROWS),
        (M::GrownUnproven, "grown-unproven", Bounds { records: 3, ..GROWS }),
        (M::PledgeNotPersisted, "pledge-not-persisted", Bounds { crashes: 1, ..B }),
        (M::TooFewReports, "too-few-reports", B),
        (M::ReceiverNotStopped, "receiver-not-stopped", B),
        (
            M::QuorumUnconfirmed,
            "quorum-unconfirmed",
            Bounds { crashes: 1, changes: 2, wishes: &[Wish::Standby, Wish::Alone], ..GROWS },
        ),
        (M::EarlierQuorumForgotten, "earlier-quorum-forgotten", THREE),
        (M::CatchUpSkipped, "catch-up-skipped", B),
    ]
};

/// The bounds in which the protocol itself is explored in every verification, beside those of the mistakes.
pub const CLEAN: [Named; 3] = {
    const B: Bounds = Bounds::BASE;
    [
        ("three epochs", Bounds { epochs: 3, ..B }),
        (
            "grows and shrinks",
            Bounds {
                first: &[Wish::Alone, Wish::Standby],
                wishes: &[Wish::Alone, Wish::Standby, Wish::OneOfTwo],
                changes: 2,
                ..B
            },
        ),
        ("crash", Bounds { records: 3, crashes: 1, ..B }),
    ]
};

/// Larger ones, for the program alone.
pub const LARGE: [Named; 4] = {
    const B: Bounds = Bounds::BASE;
    const ALL: &[Wish] = &[Wish::Alone, Wish::Standby, Wish::OneOfTwo, Wish::Both];
    [
        ("three epochs, crash", Bounds { epochs: 3, crashes: 1, ..B }),
        ("any quorum", Bounds { first: ALL, wishes: ALL, changes: 2, versions: 4, ..B }),
        (
            "any quorum, crash",
            Bounds { first: ALL, wishes: ALL, changes: 1, versions: 4, crashes: 1, ..B },
        ),
        ("two crashes", Bounds { records: 3, crashes: 2, ..B }),
    ]
};
