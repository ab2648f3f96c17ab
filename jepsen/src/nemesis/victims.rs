//! Processes that faults are made to.

use std::time::{Duration, Instant};

use ha_tests::processes::{self, Process};
use ha_tests::{Cluster, Node};
use rustix::process::Signal;

use super::Fault;
use crate::random::Random;

/// How long all processes of a node may take to stand still.
const FREEZE_LIMIT: Duration = Duration::from_secs(3);

/// Returns the one process that a fault is made to, of a node.
///
/// # Errors
/// Why there is none.
pub fn find(
    fault: Fault,
    cluster: &mut Cluster,
    name: &str,
    random: &mut Random,
) -> Result<i32, String> {
    let node = cluster.node_mut(name);
    let found = match fault {
        Fault::KillAgent | Fault::PauseAgent => node.agent_runs().then(|| node.agent_pid()),
        Fault::KillGuard | Fault::PauseGuard => node.guard_pid(),
        Fault::KillPostmaster | Fault::PausePostmaster => node.postmaster(),
        Fault::KillBackend | Fault::PauseBackend => one_of(node, random, is_client),
        Fault::KillWalsender | Fault::PauseWalsender => {
            one_of(node, random, |process| process.command.contains("walsender"))
        }
        Fault::KillReceiver | Fault::PauseReceiver => node.receiver(),
        other => return Err(format!("{} is not made to one process", other.name())),
    };
    found.ok_or_else(|| format!("{name} has no such process"))
}

fn one_of(node: &Node, random: &mut Random, wanted: fn(&Process) -> bool) -> Option<i32> {
    let mut found: Vec<i32> =
        node.database_processes().iter().filter(|p| wanted(p)).map(|p| p.pid).collect();
    found.sort_unstable();
    random.pick(&found).copied()
}

fn is_client(process: &Process) -> bool {
    // After the cluster's name: the user, the database.
    let user = format!(": {} postgres ", crate::workload::client::USER);
    process.program == "postgres" && process.command.contains(&user)
}

/// Freezes every process of a node.
///
/// # Errors
/// That some go on; the others stand still.
pub fn freeze(node: &mut Node) -> Result<usize, String> {
    let began = Instant::now();
    let agent = node.agent_runs().then(|| node.agent_pid());
    loop {
        let mut all: Vec<i32> = node.database_processes().iter().map(|p| p.pid).collect();
        all.extend(agent);
        let awake = all.iter().filter(|pid| {
            processes::is_alive(**pid) && !matches!(processes::state(**pid), Some('T' | 't'))
        });
        let awake: Vec<i32> = awake.copied().collect();
        if awake.is_empty() {
            return Ok(all.len());
        }
        if began.elapsed() > FREEZE_LIMIT {
            return Err(format!("{} of {} processes do not stand still", awake.len(), all.len()));
        }
        for pid in awake {
            processes::send(pid, Signal::STOP);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
