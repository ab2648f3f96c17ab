//! What happened, one line per event: the time, what each node is, and the event in words.

use std::fmt::Write as _;

use super::kernel::MS;
use super::raft::Role;
use super::state::World;

/// The lines of one run, and a digest of them.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    keep: bool,
    pub(crate) lines: Vec<String>,
    pub(crate) digest: u64,
}

impl Trace {
    pub(crate) const fn new(keep: bool) -> Self {
        Self { keep, lines: Vec::new(), digest: 0xCBF2_9CE4_8422_2325 }
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, world: &World, text: &str) {
        self.mix(&world.now.to_le_bytes());
        self.mix(text.as_bytes());
        if !self.keep {
            return;
        }
        let mut line = String::new();
        let (whole, part) = (world.now / (1000 * MS), world.now / MS % 1000);
        write!(line, "{whole:>4}.{part:03}").expect("a string takes everything");
        for host in 0..world.hosts.len() {
            write!(line, " | {:<12}", cell(world, host)).expect("a string takes everything");
        }
        write!(line, " | {text}").expect("a string takes everything");
        self.lines.push(line);
    }

    /// FNV-1a.
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

/// What a node is, in a few letters: `*` leads the agents, `P3` is primary under epoch 3, `S` a standby,
/// `W` a witness, `.` has no server; then its timeline, and how many records it has.
fn cell(world: &World, at: usize) -> String {
    let host = &world.hosts[at];
    if !host.up {
        return "off".to_owned();
    }
    if host.frozen.is_some() {
        return "frozen".to_owned();
    }
    let agent = match &host.agent {
        None => "x",
        Some(_) if host.agent_frozen > 0 => "z",
        Some(agent) if agent.raft.role == Role::Leader => "*",
        Some(_) => " ",
    };
    let what = match &host.pg {
        None => "W".to_owned(),
        Some(pg) => match &pg.server {
            None => ".".to_owned(),
            Some(server) if !server.up => "s".to_owned(),
            Some(server) if server.recovery => "S".to_owned(),
            Some(_) => format!("P{}", pg.guard.primary_epoch),
        },
    };
    let wal = host
        .wal()
        .map_or_else(String::new, |wal| format!(" {}:{}", wal.timeline_at(wal.len()), wal.flushed));
    format!("{agent}{what}{wal}")
}
