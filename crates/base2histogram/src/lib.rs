//! Stands in for the crate `base2histogram` 0.2.3, which openraft names as a dependency.
//!
//! openraft records the size of each replication batch in one such histogram and, with its feature
//! `runtime-stats` off as here, never reads it. The registry's crate builds lookup tables for sixteen
//! scales, 26 MB, the moment the first histogram is made: more than the rest of an idle agent. This
//! one counts and sums, in 16 bytes. It goes away when the registry's crate builds the one table that
//! is used.

use std::fmt;
use std::marker::PhantomData;

/// How many values were recorded, and their sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    sum: u64,
    slots: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { samples: 0, sum: 0, slots: PhantomData }
    }
}

impl<T> Histogram<T> {
    /// Returns an empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records one value several times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        self.samples = self.samples.saturating_add(times);
        self.sum = self.sum.saturating_add(value.saturating_mul(times));
    }

    /// Returns how many values were recorded.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.samples
    }

    /// Returns the mean of all values, rounded down; 0 if there are none.
    #[must_use]
    pub const fn mean(&self) -> u64 {
        match self.sum.checked_div(self.samples) {
            Some(mean) => mean,
            None => 0,
        }
    }

    /// Returns the number of samples, and the mean in place of each percentile.
    #[must_use]
    pub const fn percentile_stats(&self) -> PercentileStats {
        let mean = self.mean();
        PercentileStats {
            samples: self.samples,
            p0_1: mean,
            p1: mean,
            p5: mean,
            p10: mean,
            p50: mean,
            p90: mean,
            p99: mean,
            p99_9: mean,
        }
    }
}

/// Numbers of samples below which a share of them lies. This stand-in knows their mean alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    /// The mean, for want of the 0.1th percentile; so are all others.
    pub p0_1: u64,
    /// The mean.
    pub p1: u64,
    /// The mean.
    pub p5: u64,
    /// The mean.
    pub p10: u64,
    /// The mean.
    pub p50: u64,
    /// The mean.
    pub p90: u64,
    /// The mean.
    pub p99: u64,
    /// The mean.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}, mean: {}]", self.samples, self.p50)
    }
}

/// Histograms under their names, to be shown as a list.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// Returns an empty chart.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one histogram.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.rows.push((name.to_owned(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|(name, h)| writeln!(f, "{name}: {}", h.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_and_sums() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!((histogram.total(), histogram.mean()), (0, 0));
        histogram.record(2);
        histogram.record(5);
        assert_eq!((histogram.total(), histogram.mean()), (2, 3));
    }
}
