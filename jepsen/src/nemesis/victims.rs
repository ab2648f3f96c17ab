//! Processes that faults are made to.

use std::time::{Duration, Instant};

use ha_tests::processes::{self, Process};
use rustix::process::Signal;

use super::Fault;
use crate::env::place::{Place, Role};
use crate::random::Random;

/// How long all processes of a node may take to stand still.
const FREEZE_LIMIT: Duration = Duration::from_secs(3);

/// Returns the one process that a fault is made to, of a node.
///
/// # Errors
/// Why there is none.
pub fn find(
    fault: Fault,
    place: &mut Place,
    name: &str,
    random: &mut Random,
) -> Result<i32, String> {
    let mut one_of = |wanted| one_of(&place.database_processes(name), random, wanted);
    let found = match fault {
        Fault::KillAgent | Fault::PauseAgent => place.process(name, Role::Agent),
        Fault::KillGuard | Fault::PauseGuard => place.process(name, Role::Guard),
        Fault::KillPostmaster | Fault::PausePostmaster => place.process(name, Role::Postmaster),
        Fault::KillBackend | Fault::PauseBackend => one_of(is_client),
        Fault::KillWalsender | Fault::PauseWalsender => {
            one_of(|process| process.command.contains("walsender"))
        }
        Fault::KillReceiver | Fault::PauseReceiver => place.process(name, Role::Receiver),
        other => return Err(format!("{} is not made to one process", other.name())),
    };
    found.ok_or_else(|| format!("{name} has no such process"))
}

fn one_of(all: &[Process], random: &mut Random, wanted: fn(&Process) -> bool) -> Option<i32> {
    let mut found: Vec<i32> = all.iter().filter(|p| wanted(p)).map(|p| p.pid).collect();
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
pub fn freeze(place: &mut Place, name: &str) -> Result<usize, String> {
    let began = Instant::now();
    let agent = place.process(name, Role::Agent);
    loop {
        let mut all: Vec<i32> = place.database_processes(name).iter().map(|p| p.pid).collect();
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
