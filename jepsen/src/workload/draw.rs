//! Which call comes next.

use std::sync::atomic::{AtomicI64, Ordering};

use super::Workload;
use super::call::{Call, Reading, Step};
use super::schema::ACCOUNTS;
use crate::random::Random;

/// Keys that are in use at a time.
const KEYS: i64 = 6;
/// After so many calls other keys are used: lists stay short, and registers can be checked.
const CALLS_PER_KEYS: i64 = 240;
/// Registers have values below this.
const VALUES: i64 = 5;
/// The longest that a transaction is left open, in milliseconds.
const OPEN_MS_MAX: u64 = 6000;

/// What all clients of a run draw from.
#[derive(Debug, Default)]
pub struct Source {
    calls: AtomicI64,
    values: AtomicI64,
}

impl Source {
    fn value(&self) -> i64 {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn key(&self, random: &mut Random) -> i64 {
        let window = self.calls.load(Ordering::Relaxed) / CALLS_PER_KEYS;
        window * KEYS + small(random, KEYS)
    }

    /// Draws a call. `slow` clients leave transactions open before they commit.
    pub fn draw(&self, workload: Workload, slow: bool, random: &mut Random) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match workload {
            Workload::Append => {
                let step = |random: &mut Random| {
                    let key = self.key(random);
                    if random.percent(50) {
                        Step::Append(key, self.value())
                    } else {
                        Step::Read(key)
                    }
                };
                let count = random.between(1, 4);
                Call::Lists((0..count).map(|_| step(random)).collect())
            }
            Workload::Register => {
                let key = self.key(random);
                let value = |random: &mut Random| small(random, VALUES);
                match random.below(10) {
                    0..=3 => Call::Read(key),
                    4..=7 => Call::Write(key, value(random)),
                    _ => Call::Cas(key, value(random), value(random)),
                }
            }
            Workload::Set if slow => Call::AddSlowly(self.value(), random.below(OPEN_MS_MAX)),
            Workload::Set => Call::Add(self.value()),
            Workload::Probe if slow => Call::ProbeSlowly(self.value(), random.below(OPEN_MS_MAX)),
            Workload::Probe => Call::Probe(self.value()),
            Workload::Bank => {
                let from = small(random, ACCOUNTS);
                let to = (from + 1 + small(random, ACCOUNTS - 1)) % ACCOUNTS;
                if random.percent(30) {
                    Call::Balances
                } else {
                    Call::Transfer(from, to, small(random, 20) + 1)
                }
            }
        }
    }

    /// Draws what is read from a standby; none for what says nothing of its age.
    pub fn draw_reading(&self, workload: Workload, random: &mut Random) -> Option<Call> {
        let reading = match workload {
            Workload::Append => {
                let count = random.between(1, 3);
                Reading::Lists((0..count).map(|_| self.key(random)).collect())
            }
            Workload::Set | Workload::Probe => Reading::Newest,
            Workload::Bank => Reading::Balances,
            // A value comes again and again: nobody knows which of its writes was read.
            Workload::Register => return None,
        };
        Some(Call::OnStandby(reading))
    }

    /// Returns the calls that read everything when the cluster is well again.
    pub fn last(&self, workload: Workload) -> Vec<Call> {
        let windows = self.calls.load(Ordering::Relaxed) / CALLS_PER_KEYS;
        let keys = 0..(windows + 1) * KEYS;
        match workload {
            Workload::Append => {
                let keys: Vec<i64> = keys.collect();
                let reads = |keys: &[i64]| keys.iter().map(|key| Step::Read(*key)).collect();
                keys.chunks(6).map(|keys| Call::Lists(reads(keys))).collect()
            }
            Workload::Register => keys.map(Call::Read).collect(),
            Workload::Set | Workload::Probe => vec![Call::ReadAll],
            Workload::Bank => vec![Call::Balances],
        }
    }
}

fn small(random: &mut Random, bound: i64) -> i64 {
    i64::try_from(random.below(bound.unsigned_abs().max(1))).unwrap_or_default()
}
