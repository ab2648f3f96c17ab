//! Readings of the two clocks that a lease may be counted on.
//!
//! Never the wall clock, which steps, and never Rust's `Instant`, which stands still in suspend
//! (rust-lang/rust#87906). `CLOCK_BOOTTIME` counts suspend but is slewed by NTP;
//! `CLOCK_MONOTONIC_RAW` is not slewed but stands still in suspend. Whoever *loses* by counting too
//! little time takes the larger of the two differences, whoever loses by counting too much takes
//! the smaller.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment on `CLOCK_BOOTTIME`, in nanoseconds since boot. Comparable within one boot only.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootNanos(pub u64);

impl BootNanos {
    /// Returns the moment `span` later; stays at the end of time instead of wrapping.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// Returns the moment `span` earlier; stays at boot instead of wrapping.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks of one machine, read together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ClockReading {
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub boottime: BootNanos,
    /// `CLOCK_MONOTONIC_RAW`, nanoseconds.
    pub monotonic_raw: u64,
}

impl ClockReading {
    /// Returns the larger of the two differences: how long ago `earlier` was *at least as far as the
    /// holder of a right must assume*.
    #[must_use]
    pub fn longest_since(self, earlier: Self) -> Duration {
        let raw = Duration::from_nanos(self.monotonic_raw.saturating_sub(earlier.monotonic_raw));
        self.boottime.since(earlier.boottime).max(raw)
    }

    /// Returns the smaller of the two differences: how much time the granter may be sure of.
    #[must_use]
    pub fn shortest_since(self, earlier: Self) -> Duration {
        let raw = Duration::from_nanos(self.monotonic_raw.saturating_sub(earlier.monotonic_raw));
        self.boottime.since(earlier.boottime).min(raw)
    }
}

/// Returns a span in whole nanoseconds; 2^64 − 1 for anything longer than 584 years.
#[must_use]
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a span in whole milliseconds, rounded down.
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(boottime: u64, monotonic_raw: u64) -> ClockReading {
        ClockReading { boottime: BootNanos(boottime), monotonic_raw }
    }

    #[test]
    fn each_side_takes_the_difference_that_can_only_hurt_itself() {
        // Suspended for 90: only boot time counted it.
        assert_eq!(at(200, 110).longest_since(at(100, 100)), Duration::from_nanos(100));
        assert_eq!(at(200, 110).shortest_since(at(100, 100)), Duration::from_nanos(10));
    }

    #[test]
    fn a_clock_that_ran_backwards_counts_as_no_time() {
        assert_eq!(at(50, 50).longest_since(at(100, 100)), Duration::ZERO);
    }
}
