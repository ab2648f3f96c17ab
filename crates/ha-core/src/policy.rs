//! Settings that decisions depend on, and the inequalities between them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lease::Drift;

/// Who has to have a commit before its client is told so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// As many nodes as make a majority, witnesses that keep WAL included: no single failure blocks a
    /// commit or loses one that was acknowledged.
    #[default]
    Quorum,
    /// The primary and at least one standby; losing the last standby blocks writes.
    StrictStandby,
    /// The primary alone; loss is bounded by [`Policy::lag_bytes_max`].
    Async,
}

impl Durability {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Quorum, Self::StrictStandby, Self::Async];

    /// Returns the mode's name, as in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::StrictStandby => "strict-standby",
            Self::Async => "async",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no durability mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("durability mode {0:?} is unknown: expected \"quorum\", \"strict-standby\" or \"async\"")]
pub struct ParseDurabilityError(String);

impl FromStr for Durability {
    type Err = ParseDurabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| ParseDurabilityError(text.to_owned()))
    }
}

/// What an agent does with a crashed primary database whose standby lacks some of its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashPolicy {
    /// How many crash restarts in place may follow each other within [`CrashPolicy::window`].
    pub restarts_max: u32,
    /// Crashes older than this are forgotten.
    pub window: Duration,
    /// How long crash recovery in place may take while a fit standby exists.
    pub recovery_max: Duration,
}

/// When a database that does not answer is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthPolicy {
    /// How often a new connection is tried.
    pub interval: Duration,
    /// How long one try may take.
    pub limit: Duration,
    /// How many tries in a row must fail: never one (rule 105).
    pub failures: u32,
    /// Free space under the data directory below which the node is not fit to be promoted, bytes.
    pub free_bytes_min: u64,
}

/// All settings that decisions depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long a confirmed renewal is good for.
    pub ttl: Duration,
    /// How often the holder renews.
    pub renew_interval: Duration,
    /// How long before the end of the right the guard begins to kill.
    pub margin: Duration,
    /// How far two machines' clock rates may differ.
    pub drift: Drift,
    /// Raft: how often the leader shows that it is there.
    pub heartbeat: Duration,
    /// Raft: shortest random part of the wait before a campaign.
    pub election_min: Duration,
    /// Raft: longest random part, and how long a follower trusts a silent leader.
    pub election_max: Duration,
    /// Who has to have a commit in a cluster that is yet to be founded; after that the replicated
    /// state says ([`crate::state::State::durability`]).
    pub durability: Durability,
    /// `async`: how far behind the primary's last known position a standby may be promoted, bytes.
    pub lag_bytes_max: u64,
    /// What follows a crash of the primary database.
    pub crash: CrashPolicy,
    /// When a silent database is given up.
    pub health: HealthPolicy,
    /// How long a stopped data node waits for a new primary before it starts as a standby of nobody, in
    /// order to be electable itself.
    pub vacant_grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(3),
            renew_interval: Duration::from_millis(400),
            margin: Duration::from_millis(500),
            drift: Drift::DEFAULT,
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            durability: Durability::Quorum,
            lag_bytes_max: 16 << 20,
            crash: CrashPolicy {
                restarts_max: 2,
                window: Duration::from_secs(60),
                recovery_max: Duration::from_secs(30),
            },
            health: HealthPolicy {
                interval: Duration::from_secs(1),
                limit: Duration::from_secs(3),
                failures: 4,
                free_bytes_min: 64 << 20,
            },
            vacant_grace: Duration::from_secs(1),
        }
    }
}

/// The worst kill of a whole PostgreSQL process tree that was measured; see `ARCHITECTURE.md`.
const WORST_KILL: Duration = Duration::from_millis(100);

impl Policy {
    /// Returns how long it may take, at worst, until a new Raft leader confirms renewals.
    ///
    /// openraft campaigns after `election_max + random(min..max)` since the last message; measured over
    /// 200 seeds the worst case is that plus a tenth.
    #[must_use]
    pub fn new_leader_worst(&self) -> Duration {
        let sum = self.election_max.saturating_add(self.election_max);
        sum.saturating_add(sum / 10)
    }

    /// Checks every inequality between the timings, and returns all that are broken, one line each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut demand = |holds: bool, text: String| {
            if !holds {
                faults.push(text);
            }
        };
        let right = self.drift.shortened(self.ttl);
        // Losing the Raft leader must never demote a healthy primary: the renewal that was lost, the
        // next leader, one retry, and the guard's margin have to fit into the right.
        let gap = self
            .renew_interval
            .saturating_add(self.new_leader_worst())
            .saturating_add(self.renew_interval)
            .saturating_add(self.margin);
        demand(
            gap <= right,
            format!(
                "lease.ttl {:?} is too short: renew_interval + new Raft leader (worst {:?}) + one retry \
                 + margin = {gap:?} must not exceed ttl less clock drift = {right:?}",
                self.ttl,
                self.new_leader_worst()
            ),
        );
        demand(
            self.margin >= WORST_KILL.saturating_mul(4),
            format!(
                "lease.margin {:?} is too short: it must be at least four times the worst kill seen \
                 ({WORST_KILL:?})",
                self.margin
            ),
        );
        demand(
            self.election_min < self.election_max,
            format!(
                "raft.election_min {:?} must be below raft.election_max {:?}",
                self.election_min, self.election_max
            ),
        );
        demand(
            self.heartbeat.saturating_mul(3) <= self.election_min,
            format!(
                "raft.heartbeat {:?} is too long: three must fit into raft.election_min {:?}",
                self.heartbeat, self.election_min
            ),
        );
        demand(
            self.heartbeat >= Duration::from_millis(20),
            format!("raft.heartbeat {:?} is too short: at least 20 ms", self.heartbeat),
        );
        demand(
            self.renew_interval >= Duration::from_millis(50),
            format!("lease.renew_interval {:?} is too short: at least 50 ms", self.renew_interval),
        );
        demand(
            (1..=200).contains(&self.drift.per_mille),
            format!("lease.drift_per_mille {} must be between 1 and 200", self.drift.per_mille),
        );
        demand(
            self.health.failures >= 2,
            "health.failures must be at least 2: one miss never demotes".to_owned(),
        );
        demand(
            !self.health.limit.is_zero() && !self.health.interval.is_zero(),
            "health.interval and health.limit must be above zero".to_owned(),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_keep_every_inequality() {
        assert_eq!(Policy::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn a_broken_inequality_is_named() {
        let ms = Duration::from_millis;
        let base = Policy::default();
        let table = [
            (Policy { ttl: ms(2000), ..base }, "lease.ttl"),
            (Policy { margin: ms(399), ..base }, "lease.margin"),
            (Policy { election_min: ms(600), ..base }, "raft.election_min"),
            (Policy { heartbeat: ms(101), ..base }, "raft.heartbeat"),
            (Policy { heartbeat: ms(1), ..base }, "raft.heartbeat"),
            (Policy { renew_interval: ms(10), ..base }, "lease.renew_interval"),
            (Policy { drift: Drift { per_mille: 0 }, ..base }, "lease.drift_per_mille"),
        ];
        for (policy, name) in table {
            let faults = policy.faults();
            assert!(faults.len() == 1 && faults[0].starts_with(name), "{name}: {faults:?}");
        }
    }
}
