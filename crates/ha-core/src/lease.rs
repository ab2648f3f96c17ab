//! The primary lease as the replicated state holds it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Incarnation};
use crate::lsn::WalPosition;
use crate::node::NodeId;

/// Who has the right to be primary, as agreed by the cluster.
///
/// It carries no time: the holder counts from before it sent a renewal ([`crate::holder`]), the
/// granter from when it confirmed one ([`crate::granter`]), each on its own clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lease {
    /// Nobody may be primary.
    #[default]
    Vacant,
    /// One node may be primary, for as long as it can prove it.
    Held(Grant),
}

/// One grant of the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The node that may be primary.
    pub holder: NodeId,
    /// The start of the holder's agent that the grant was made to.
    pub incarnation: Incarnation,
    /// The fencing token of this grant.
    pub epoch: Epoch,
    /// How long a confirmed renewal is good for. A change of the setting takes effect with the next
    /// grant, so that both sides always count the same span.
    pub ttl: Duration,
    /// What the holder must have replayed before it may accept writes; `None` if it has everything.
    #[serde(default)]
    pub catch_up: Option<CatchUp>,
}

/// WAL that a future primary lacks: acknowledged commits may be in it (rule 96).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    /// Who has it.
    pub from: NodeId,
    /// Up to where; the end of the last complete record there.
    pub to: WalPosition,
}

impl Lease {
    /// Returns the grant, if the lease is held.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Held(grant) => Some(grant),
            Self::Vacant => None,
        }
    }

    /// Returns the holder, if there is one.
    #[must_use]
    pub fn holder(&self) -> Option<&NodeId> {
        self.grant().map(|grant| &grant.holder)
    }
}

/// The share of a span by which two machines' clock rates may differ, each way.
///
/// Real crystals stay below 0.02 %; NTP slewing is excluded by reading `CLOCK_MONOTONIC_RAW` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Drift {
    /// Parts per thousand.
    pub per_mille: u32,
}

impl Drift {
    /// 1 %.
    pub const DEFAULT: Self = Self { per_mille: 10 };

    /// Returns `ttl·(1−δ)`: what the holder may count on.
    #[must_use]
    pub fn shortened(self, ttl: Duration) -> Duration {
        ttl.saturating_sub(self.of(ttl))
    }

    /// Returns `ttl·(1+δ)`: what the granter must wait.
    #[must_use]
    pub fn lengthened(self, ttl: Duration) -> Duration {
        ttl.saturating_add(self.of(ttl))
    }

    fn of(self, span: Duration) -> Duration {
        // Rounded up: both sides lose by it, never the cluster.
        span.saturating_mul(self.per_mille).div_ceil_thousand()
    }
}

trait DivCeilThousand {
    fn div_ceil_thousand(self) -> Self;
}

impl DivCeilThousand for Duration {
    fn div_ceil_thousand(self) -> Self {
        let nanos = self.as_nanos().div_ceil(1000);
        Self::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_shortens_for_the_holder_and_lengthens_for_the_granter() {
        let ttl = Duration::from_secs(3);
        assert_eq!(Drift::DEFAULT.shortened(ttl), Duration::from_millis(2970));
        assert_eq!(Drift::DEFAULT.lengthened(ttl), Duration::from_millis(3030));
        let odd = Duration::from_nanos(1);
        assert_eq!(Drift::DEFAULT.shortened(odd), Duration::ZERO);
        assert_eq!(Drift::DEFAULT.lengthened(odd), Duration::from_nanos(2));
    }
}
