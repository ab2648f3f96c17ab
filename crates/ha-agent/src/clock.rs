//! The machine's clocks, and the only place that reads the wall clock.

use ha_core::{BootId, BootNanos, ClockReading};
use rustix::time::{ClockId, clock_gettime};

/// Reads `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC_RAW`. Read anew for each decision.
#[must_use]
pub fn now() -> ClockReading {
    ClockReading {
        boottime: BootNanos(nanos(ClockId::Boottime)),
        monotonic_raw: nanos(ClockId::MonotonicRaw),
    }
}

/// Returns milliseconds of Unix time by the wall clock: for people, never for a decision.
#[must_use]
pub fn wall_unix_ms() -> u64 {
    nanos(ClockId::Realtime) / 1_000_000
}

/// Reads the id of this boot.
///
/// # Errors
/// If the kernel does not tell.
pub fn boot_id() -> std::io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(std::io::Error::other)
}

/// Draws 64 random bits.
#[must_use]
pub fn random() -> u64 {
    let mut bytes = [0_u8; 8];
    // Fails only before the kernel's pool is ready, at the very beginning of a boot: then wait for it.
    while rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).is_err() {}
    u64::from_ne_bytes(bytes)
}

/// Draws random bytes, from the operating system.
#[must_use]
pub fn random_bytes() -> [u8; 32] {
    let mut bytes = [0_u8; 32];
    // As many bytes at once are never cut short by the kernel.
    while rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).is_err() {}
    bytes
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
