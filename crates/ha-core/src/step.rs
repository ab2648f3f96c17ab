//! What a data node is told to do.

use crate::epoch::Epoch;
use crate::node::NodeId;

/// One order. It leaves the executor no choice, is idempotent, and is refused once its epoch is past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Make writes impossible at once: permit down, immediate stop, epoch given up for good.
    Fence,
    /// Stop the standby in order; it has to be rewound or cloned.
    StopStandby,
    /// Give the lease of `epoch` back. The database is known to be down, or never was writable.
    Release {
        /// Which grant.
        epoch: Epoch,
    },
    /// End recovery.
    Promote {
        /// Under which grant.
        epoch: Epoch,
    },
    /// Fetch the WAL that the grant of `epoch` demands, and replay it.
    FastForward {
        /// Which grant.
        epoch: Epoch,
    },
    /// Fetch the WAL that `primary` has removed from whoever kept it; if nobody has, clone.
    Refill {
        /// Whom to follow afterwards.
        primary: NodeId,
    },
    /// Start in recovery, following `primary` or nobody.
    StartStandby {
        /// Whom to follow.
        primary: Option<NodeId>,
    },
    /// Point the running standby at `primary`.
    Follow {
        /// Whom to follow.
        primary: NodeId,
    },
    /// Compare the local history with that of `primary`.
    Compare {
        /// With whom.
        primary: NodeId,
    },
    /// `pg_rewind` from `primary`.
    Rewind {
        /// From whom.
        primary: NodeId,
    },
    /// A new base backup of `primary`; what is there is kept aside.
    Clone {
        /// From whom.
        primary: NodeId,
    },
    /// Make the database cluster, or register the one that is here.
    Bootstrap {
        /// Under which right.
        attempt: u64,
    },
    /// Find out whether a fit standby has everything that the crashed primary has.
    AssessCrash {
        /// Under which grant it crashed.
        epoch: Epoch,
    },
    /// Run crash recovery and go on as primary under the same grant.
    RestartInPlace {
        /// Under which grant.
        epoch: Epoch,
    },
}

impl Step {
    /// Returns the step's name, as in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Fence => "fence",
            Self::StopStandby => "stop_standby",
            Self::Release { .. } => "release",
            Self::Promote { .. } => "promote",
            Self::FastForward { .. } => "fast_forward",
            Self::Refill { .. } => "refill",
            Self::StartStandby { .. } => "start_standby",
            Self::Follow { .. } => "follow",
            Self::Compare { .. } => "compare",
            Self::Rewind { .. } => "rewind",
            Self::Clone { .. } => "clone",
            Self::Bootstrap { .. } => "bootstrap",
            Self::AssessCrash { .. } => "assess_crash",
            Self::RestartInPlace { .. } => "restart_in_place",
        }
    }
}
