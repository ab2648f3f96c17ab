//! Faults of disks.

use super::Fault;
use super::inflict::{Active, Undo};
use crate::disk::Loss;
use crate::env::Env;
use crate::env::disks::{Ill, Use};
use crate::env::place::Place;
use crate::harness::Harness;
use crate::nemesis::Outcome;
use crate::random::Random;

/// How long a sync takes on a slow disk, in milliseconds: from an old disk that has much to do to one that fails.
const SLOW_MS: (u64, u64) = (40, 500);

/// Returns what is wrong with which disk; none if that is no fault of one disk.
pub const fn illness(fault: Fault) -> Option<(Use, Ill)> {
    match fault {
        Fault::SlowDiskData => Some((Use::Data, Ill::Slow)),
        Fault::SlowDiskRaft => Some((Use::Raft, Ill::Slow)),
        Fault::FullDiskData => Some((Use::Data, Ill::Full)),
        Fault::FullDiskRaft => Some((Use::Raft, Ill::Full)),
        _ => None,
    }
}

/// Makes a fault of a node's disks.
///
/// # Errors
/// If a disk does not obey.
pub fn hurt(
    env: &mut Env,
    fault: Fault,
    name: &str,
    random: &mut Random,
) -> Result<(Outcome, Option<Active>), Harness> {
    let (Some(disks), Place::Processes(cluster)) = (&mut env.disks, &mut env.place) else {
        let why = crate::env::disks::missing().unwrap_or("the nodes have no disks of their own");
        return Ok((Outcome::Skipped(why.to_owned()), None));
    };
    let (done, undo) = if let Some((used, ill)) = illness(fault) {
        let sync_ms = random.between(SLOW_MS.0, SLOW_MS.1);
        (disks.hurt((name, used), ill, sync_ms)?, Undo::Mend(name.to_owned(), used, ill))
    } else {
        cluster.node_mut(name).kill_everything();
        // A loss of all is what most programs are made for; of some, what most disks do.
        let loss = if random.percent(30) { Loss::All } else { Loss::Some(random.draw()) };
        (Ok(disks.lose(name, &loss)?), Undo::StartAgent(name.to_owned()))
    };
    Ok(match done {
        Err(why) => (Outcome::Skipped(why), None),
        Ok(said) => {
            let active = Active { fault, node: Some(name.to_owned()), undo };
            (Outcome::Installed(format!("{name}: {said}")), Some(active))
        }
    })
}

/// Ends a fault of a disk.
///
/// # Errors
/// If the disk does not obey.
pub fn mend(env: &mut Env, name: &str, used: Use, ill: Ill) -> Result<Outcome, Harness> {
    let Some(disks) = &mut env.disks else {
        return Err(Harness::new(format!("{name} had disks, and has none")));
    };
    Ok(Outcome::Installed(format!("{name}: {}", disks.mend((name, used), ill)?)))
}
