//! What the store keeps when the process is killed, the power fails, the disk fills up or a bit
//! flips.
//!
//! Some of it needs a process of its own: this binary then runs itself with [`child::MODE`] set.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "figures and skipped tests are printed for the record")]

mod bit_flips;
mod child;
mod full_disk;
mod journal;
mod kill;
mod power;
mod size;
mod trace;

/// Numbers that look random and are the same in every run of one seed.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    /// Returns dice for a test; `HA_RAFT_SEED` chooses another run.
    fn new(salt: u64) -> Self {
        let seed = number("HA_RAFT_SEED", 1);
        eprintln!("seed: HA_RAFT_SEED={seed}");
        Self((seed ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// Returns an index below `end`.
    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    /// Returns true `percent` times of a hundred.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Returns a number from the environment: nightly runs ask for more.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}
