//! The fuzz targets: each takes any bytes and panics if a promise of the code that reads them is broken.
//!
//! `fuzz/` makes a program of each for cargo-fuzz, `tests/fuzz_corpus.rs` runs each over its kept inputs with an
//! ordinary compiler. `docs/fuzzing.md` says how.

mod agent;
mod core;
mod postgres;
mod raft;
mod redaction;
mod state;
mod wal;
mod wire;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its program and of its folder of inputs.
    pub name: &'static str,
    /// Panics if a promise is broken.
    pub run: fn(&[u8]),
}

/// All targets.
#[rustfmt::skip]
pub const TARGETS: [Target; 17] = [
    Target { name: "permit",          run: core::permit },
    Target { name: "texts",           run: core::texts },
    Target { name: "redact",          run: redaction::redact },
    Target { name: "redact_time",     run: redaction::redact_time },
    Target { name: "control_file",    run: postgres::control_file },
    Target { name: "wal_names",       run: postgres::wal_names },
    Target { name: "history",         run: postgres::history },
    Target { name: "server_files",    run: postgres::server_files },
    Target { name: "parameters",      run: postgres::parameters },
    Target { name: "wal_pages",       run: wal::pages },
    Target { name: "wal_directory",   run: wal::directory },
    Target { name: "raft_records",    run: raft::records },
    Target { name: "raft_messages",   run: raft::messages },
    Target { name: "state",           run: state::commands },
    Target { name: "agent_files",     run: agent::files },
    Target { name: "command_line",    run: agent::command_line },
    Target { name: "wire",            run: wire::messages },
];

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target =
        TARGETS.iter().find(|target| target.name == name).expect("a name out of `TARGETS`");
    (target.run)(data);
}

/// Takes the first byte off, which chooses what the rest is read as.
fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}
