//! The machine that this node runs on.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use ha_postgres::driver::PostgresDriver;
use rustix::fs::statvfs;
use rustix::time::{ClockId, clock_gettime};

use crate::agent::Agent;
use crate::clock;

/// What the kernel tells of itself, one file each.
const KERNEL: [&str; 6] = [
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/io",
    "/proc/pressure/cpu",
    "/proc/pressure/memory",
    "/etc/os-release",
];

/// Returns what runs here, and of which versions.
pub(super) fn versions<D>(agent: &Agent<D>) -> String {
    let kernel = |name: &str| {
        let told = fs::read_to_string(format!("/proc/sys/kernel/{name}"));
        told.map_or_else(|error| error.to_string(), |text| text.trim().to_owned())
    };
    let mut text = format!(
        "node: {} ({}) of cluster {:?}\nagent: {}, protocol {}, process {}, start {:016x}\n",
        agent.node(),
        agent.config.kind,
        agent.config.cluster,
        env!("CARGO_PKG_VERSION"),
        ha_proto::PROTOCOL,
        std::process::id(),
        agent.incarnation.0,
    );
    let major = agent.postgres_major.map_or("none".to_owned(), |major| major.to_string());
    // Writing to a text cannot fail.
    writeln!(text, "postgres: major {major}").ok();
    writeln!(
        text,
        "uname: {} {} {} {} {}",
        kernel("ostype"),
        kernel("hostname"),
        kernel("osrelease"),
        kernel("version"),
        std::env::consts::ARCH,
    )
    .ok();
    text
}

/// Returns the clocks.
pub(super) fn clocks() -> String {
    let mut text = format!("wall clock, milliseconds of Unix time: {}\n", clock::wall_unix_ms());
    let clocks = [
        ("CLOCK_BOOTTIME", ClockId::Boottime),
        ("CLOCK_MONOTONIC", ClockId::Monotonic),
        ("CLOCK_MONOTONIC_RAW", ClockId::MonotonicRaw),
    ];
    for (name, id) in clocks {
        let now = clock_gettime(id);
        writeln!(text, "{name}: {}.{:09} s", now.tv_sec, now.tv_nsec).ok();
    }
    text
}

/// Returns how much room there is, and what the kernel tells of the machine.
pub(super) fn resources<D: PostgresDriver>(agent: &Agent<D>) -> String {
    let mut places: Vec<(&str, PathBuf)> = vec![("data_dir", agent.config.data_dir.clone())];
    if let (Some(settings), Some(database)) = (&agent.config.postgres, &agent.database) {
        places.push(("postgres.data_dir", settings.data_dir.clone()));
        places.push(("pg_wal", database.driver.wal_dir()));
        places.push(("postgres.log_dir", settings.log_dir.clone()));
        places.push(("postgres.permit_dir", settings.permit_dir.clone()));
    }
    if let Some(witness) = &agent.config.witness {
        places.push(("witness.wal_dir", witness.wal_dir.clone()));
    }
    let mut text = String::new();
    for (name, path) in places {
        let line = match statvfs(&path) {
            Ok(room) => format!(
                "{name} {}: {} of {} bytes free, {} of {} files",
                path.display(),
                room.f_bavail.saturating_mul(room.f_frsize),
                room.f_blocks.saturating_mul(room.f_frsize),
                room.f_favail,
                room.f_files,
            ),
            Err(error) => format!("{name} {}: {error}", path.display()),
        };
        writeln!(text, "{line}").ok();
    }
    for path in KERNEL {
        match fs::read_to_string(path) {
            Ok(found) => writeln!(text, "\n{path}\n{}", found.trim_end()).ok(),
            Err(error) => writeln!(text, "\n{path}: {error}").ok(),
        };
    }
    text
}

/// Returns the settings that the agent runs with, the environment's overrides included.
pub(super) fn settings<D>(agent: &Agent<D>) -> String {
    format!("{:#?}\n", agent.config)
}
