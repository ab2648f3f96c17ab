//! What a run is made from: the machines, their clocks, and what goes wrong.

use std::collections::BTreeMap;
use std::fmt;

use ha_core::policy::Durability;
use ha_core::state::{Command, Node, State};
use ha_core::{NodeId, NodeKind};
use std::rc::Rc;

use super::faults::{self, Fault, Kind};
use super::host::{Clock, Disk, File, Freeze, Host, Kept, Store};
use super::mutation::Mutation;
use super::pg::Pg;
use super::raft::{Entry, Hard};
use super::report::SYSTEM;
use super::rng::Rng;
use super::wal::{Record, Wal};

/// When the faults of a seed begin, and until when they do, milliseconds.
const FAULTS_FROM: u64 = 4500;
const FAULTS_TO: u64 = 18_000;

/// A script that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    line: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read the line {:?} of a script", self.line)
    }
}

impl std::error::Error for ScriptError {}

/// One run, before it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) seed: u64,
    pub(crate) kinds: Vec<(NodeKind, bool)>,
    pub(crate) durability: Durability,
    pub(crate) faults: Vec<Fault>,
    /// How many clients write.
    pub(crate) clients: usize,
    pub(crate) mutation: Option<Mutation>,
}

impl Plan {
    /// Returns the plan of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 2);
        let data = (NodeKind::Data, true);
        let kinds = match rng.below(20) {
            0..=11 => vec![data, data, (NodeKind::Witness, true)],
            12..=15 => vec![data, data, (NodeKind::Witness, false)],
            16..=18 => vec![data, data, data],
            _ => vec![data, data, data, (NodeKind::Witness, true), (NodeKind::Witness, true)],
        };
        let durability = match rng.below(20) {
            0 => Durability::Async,
            1 => Durability::StrictStandby,
            _ => Durability::Quorum,
        };
        let faults = faults::schedule(&mut rng, kinds.len(), FAULTS_FROM, FAULTS_TO);
        Self { seed, kinds, durability, faults, clients: 3, mutation: None }
    }

    /// Returns the same with a mistake in it.
    #[must_use]
    pub fn with(self, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..self }
    }

    /// Returns the plan of a script: lines such as `crash host n1 at 5000 for 4000`, the seed of
    /// everything else in a line `seed 7`, other machines than two with data and a witness in a line
    /// `nodes data data data witness witness`, another promise in a line `mode strict-standby`; empty lines
    /// and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// [`ScriptError`] with the first line that cannot be read.
    pub fn of_script(text: &str) -> Result<Self, ScriptError> {
        let mut plan = Self { faults: Vec::new(), ..Self::of_seed(0) };
        plan.kinds =
            vec![(NodeKind::Data, true), (NodeKind::Data, true), (NodeKind::Witness, true)];
        plan.durability = Durability::Quorum;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let error = || ScriptError { line: line.to_owned() };
            if let Some(seed) = line.strip_prefix("seed ") {
                plan.seed = seed.trim().parse().map_err(|_| error())?;
                continue;
            }
            if let Some(mode) = line.strip_prefix("mode ") {
                plan.durability = mode.trim().parse().map_err(|_| error())?;
                continue;
            }
            if let Some(all) = line.strip_prefix("nodes ") {
                plan.kinds = kinds(all).ok_or_else(error)?;
                continue;
            }
            plan.faults.push(fault(line).ok_or_else(error)?);
        }
        Ok(plan)
    }

    /// When the last fault has ended, milliseconds.
    pub(crate) fn healed_ms(&self) -> u64 {
        let ends = self.faults.iter().map(|fault| fault.at_ms + fault.for_ms);
        ends.max().unwrap_or(FAULTS_FROM)
    }

    /// Makes the machines: a founded cluster whose databases are copies of one another, all down.
    pub(crate) fn hosts(&self) -> Vec<Host> {
        let mut rng = Rng::new(self.seed, 3);
        let extreme = rng.chance(300);
        let log = self.log();
        let mut database = Wal::default();
        for id in 1..=8 {
            // Numbers that no world gives out.
            database.push(Record { id: u64::MAX - id, timeline: 1 });
        }
        database.flushed = database.len();
        let all = self.kinds.iter().zip(1..);
        all.map(|((kind, keeps_wal), number)| {
            let mut ppm = || {
                let most = if extreme { 9_900 } else { 200 };
                i64::try_from(rng.range(0, 2 * most)).expect("small")
                    - i64::try_from(most).expect("small")
            };
            let clock = Clock {
                boottime_ppm: ppm(),
                raw_ppm: ppm(),
                since: 0,
                boottime_lost: 0,
                raw_lost: 0,
            };
            let hard = Hard { term: 1, vote: None, log: log.clone(), committed: log.len() };
            let raft = File { written: hard.clone(), synced: hard };
            Host {
                name: name(number),
                kind: *kind,
                keeps_wal: *keeps_wal,
                up: true,
                frozen: None,
                boots: 0,
                clock,
                disk: Disk::default(),
                store: Store { raft, ..Store::default() },
                permit: None,
                agent: None,
                lives: 0,
                led: None,
                agent_frozen: 0,
                pg: (*kind == NodeKind::Data).then(|| {
                    let mut pg = Pg::new(database.clone());
                    pg.guard.alive = false;
                    pg
                }),
                kept: (*kind == NodeKind::Witness).then(Kept::default),
                stalled: Vec::new(),
                tainted: false,
                unproven: None,
            }
        })
        .collect()
    }

    /// What was agreed before the world begins.
    fn log(&self) -> Vec<Rc<Entry>> {
        let nodes: BTreeMap<NodeId, Node> = self
            .kinds
            .iter()
            .zip(1..)
            .map(|((kind, keeps_wal), number)| {
                let (grpc, postgres) = (String::new(), String::new());
                let node = Node { kind: *kind, grpc, postgres, keeps_wal: *keeps_wal, sync: true };
                (name(number), node)
            })
            .collect();
        let found = Command::Found {
            cluster: "orders".to_owned(),
            cluster_id: 1,
            nodes,
            durability: self.durability,
        };
        let commands = [
            found,
            Command::AssignBootstrap { to: name(1), attempt: 1 },
            Command::RegisterSystem { attempt: 1, system_identifier: SYSTEM },
        ];
        debug_assert!(
            {
                let mut state = State::default();
                commands.iter().all(|c| state.apply(c) == ha_core::state::Outcome::Applied)
            },
            "a cluster can be founded so"
        );
        let entry = |(command, at): (Command, u64)| {
            Rc::new(Entry { term: 1, id: u64::MAX - at, command: Some(command) })
        };
        commands.into_iter().zip(1..).map(entry).collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {}", self.seed, self.durability)?;
        for ((kind, keeps_wal), number) in self.kinds.iter().zip(1..) {
            let plain = if *keeps_wal { "" } else { " without WAL" };
            write!(f, ", {} {kind}{plain}", name(number))?;
        }
        for fault in &self.faults {
            write!(f, "\n{fault}")?;
        }
        Ok(())
    }
}

fn name(number: usize) -> NodeId {
    format!("n{number}").parse().expect("a valid name")
}

/// Reads what machines there are: data nodes, of which there are two at least, and witnesses that keep WAL.
fn kinds(text: &str) -> Option<Vec<(NodeKind, bool)>> {
    let kind = |word: &str| match word {
        "data" => Some((NodeKind::Data, true)),
        "witness" => Some((NodeKind::Witness, true)),
        _ => None,
    };
    let all: Option<Vec<_>> = text.split_whitespace().map(kind).collect();
    let data = |kinds: &Vec<(NodeKind, bool)>| {
        kinds.iter().filter(|(kind, _)| *kind == NodeKind::Data).count()
    };
    all.filter(|kinds| data(kinds) >= 2)
}

/// Reads a fault as it is shown.
fn fault(line: &str) -> Option<Fault> {
    let (what, when) = line.split_once(" at ")?;
    let (at, span) = when.split_once(" for ")?;
    let node = |text: &str| -> Option<usize> {
        text.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
    };
    let words: Vec<&str> = what.split(' ').collect();
    let kind = match words.as_slice() {
        ["cut", from, "to", to] => Kind::CutOneWay { from: node(from)?, to: node(to)? },
        ["isolate", at] => Kind::Isolate { node: node(at)? },
        ["loss", share, "per", "mille"] => Kind::Loss { per_mille: share.parse().ok()? },
        ["slow", "network", up_to, "ms"] => Kind::SlowNetwork { up_to_ms: up_to.parse().ok()? },
        ["crash", "agent", at] => Kind::AgentCrash { node: node(at)? },
        ["freeze", "agent", at] => Kind::AgentFreeze { node: node(at)? },
        ["crash", "server", at] => Kind::ServerCrash { node: node(at)? },
        ["crash", "guard", at] => Kind::GuardCrash { node: node(at)? },
        ["crash", "host", at] => Kind::HostCrash { node: node(at)? },
        ["suspend", at] => Kind::HostFreeze { node: node(at)?, how: Freeze::Suspend },
        ["pause", at] => Kind::HostFreeze { node: node(at)?, how: Freeze::Pause },
        ["slow", "disk", at] => Kind::SlowDisk { node: node(at)? },
        ["full", "disk", at] => Kind::FullDisk { node: node(at)? },
        ["switchover"] => Kind::Switchover,
        ["promise", mode] => Kind::Promise { mode: mode.parse().ok()? },
        _ => return None,
    };
    Some(Fault { kind, at_ms: at.parse().ok()?, for_ms: span.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_can_be_read_back_as_a_script() {
        for seed in 0..200 {
            let plan = Plan::of_seed(seed);
            let lines: Vec<String> = plan.faults.iter().map(ToString::to_string).collect();
            let read = Plan::of_script(&lines.join("\n")).expect("readable");
            assert_eq!(read.faults, plan.faults, "seed {seed}");
        }
    }

    #[test]
    fn a_script_names_its_machines_and_its_promise() {
        let plan = Plan::of_script("nodes data witness data\nmode async").expect("readable");
        let (data, witness) = ((NodeKind::Data, true), (NodeKind::Witness, true));
        assert_eq!(plan.kinds, [data, witness, data]);
        assert_eq!(plan.durability, Durability::Async);
        for unreadable in ["nodes data witness", "nodes data data judge", "mode eventually"] {
            let error = Plan::of_script(unreadable).expect_err("no such cluster");
            assert!(error.to_string().contains(unreadable), "{error}");
        }
    }

    #[test]
    fn a_line_that_means_nothing_is_named() {
        let error = Plan::of_script("seed 3\nexplode n1 at 5 for 6").expect_err("no such fault");
        assert!(error.to_string().contains("explode n1"));
    }
}
