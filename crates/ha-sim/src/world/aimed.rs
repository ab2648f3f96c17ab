//! Plans aimed at a moment that a schedule drawn at random hits too seldom: a part of the cluster stands
//! still or is cut off just then, and how long before and after is drawn from the seed.

use ha_core::NodeKind;
use ha_core::policy::Durability;

use super::faults::{Fault, Kind};
use super::host::Freeze;
use super::plan::Plan;
use super::rng::Rng;

/// When the primary is hit, milliseconds. It is settled by then.
const FROM: u64 = 6500;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The holder's agent stands still between a renewal that is confirmed and its answer, and goes on cut off.
    AnswerIsLate,
    /// The lease ends for everybody but the primary, whose clocks stood still: it goes on writing to a
    /// witness that is asked to pledge.
    RightOutlives,
    /// The same, and the standby that the primary still reaches loses its power right after its pledge.
    PledgeIsLost,
}

impl Aim {
    /// Every moment, with its name on the command line.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::AnswerIsLate, "answer-is-late"),
        (Self::RightOutlives, "right-outlives"),
        (Self::PledgeIsLost, "pledge-is-lost"),
    ];

    /// Returns the moment of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(aim, _)| *aim)
    }
}

impl Plan {
    /// Returns a plan aimed at a moment.
    #[must_use]
    pub fn aimed(aim: Aim, seed: u64) -> Self {
        let mut rng = Rng::new(seed, 4);
        let (data, witness) = ((NodeKind::Data, true), (NodeKind::Witness, true));
        let (kinds, durability) = match aim {
            Aim::AnswerIsLate | Aim::RightOutlives => {
                (vec![data, data, witness], Durability::Quorum)
            }
            // Where one standby's acknowledgement is enough, and a majority does without that standby.
            Aim::PledgeIsLost => {
                (vec![data, data, data, witness, witness], Durability::StrictStandby)
            }
        };
        let faults = match aim {
            Aim::AnswerIsLate => answer_is_late(&mut rng),
            Aim::RightOutlives => right_outlives(&mut rng),
            Aim::PledgeIsLost => pledge_is_lost(&mut rng),
        };
        Self { seed, kinds, durability, faults, clients: 3, mutation: None }
    }
}

/// What the holder sends is lost from then on. What it is sent is not, or the answer would be lost too.
fn answer_is_late(rng: &mut Rng) -> Vec<Fault> {
    let at_ms = FROM + rng.range(0, 800);
    let still = rng.range(700, 2200);
    let cut = rng.range(300, still.min(900));
    let up_to_ms = rng.range(50, 300);
    let cut_to = |to| fault(Kind::CutOneWay { from: 0, to }, at_ms + cut, 8000);
    vec![
        // So that there is something between a question and its answer.
        fault(Kind::SlowNetwork { up_to_ms }, at_ms - 500, 500 + cut),
        fault(Kind::AgentFreeze { node: 0 }, at_ms, still),
        cut_to(1),
        cut_to(2),
    ]
}

/// The primary's machine is paused and goes on while its right is over for everybody else. Its agent
/// stands still all the time, or it would hear that at once.
fn paused_primary(rng: &mut Rng, at_ms: u64, paused_ms: (u64, u64)) -> Vec<Fault> {
    let pause = Kind::HostFreeze { node: 0, how: Freeze::Pause };
    vec![
        fault(Kind::AgentFreeze { node: 0 }, at_ms, 7000),
        fault(pause, at_ms, rng.range(paused_ms.0, paused_ms.1)),
    ]
}

fn right_outlives(rng: &mut Rng) -> Vec<Fault> {
    let at_ms = FROM + rng.range(0, 800);
    // After this the witness leads no more, half of the time: a leader learns first that a lease is over.
    let mut faults = vec![fault(Kind::Isolate { node: 2 }, 3500, 1200)];
    faults.extend(paused_primary(rng, at_ms, (1000, 2800)));
    faults.extend(cut_both_ways(0, &[1], at_ms, 7000));
    faults
}

fn pledge_is_lost(rng: &mut Rng) -> Vec<Fault> {
    let at_ms = FROM + rng.range(0, 800);
    // The lease ends 2.6 to 3.1 s after the pause begins: the primary goes on after that, or the standby
    // would have more than the others, and be elected.
    let lost_at = at_ms + rng.range(2700, 3150);
    let mut faults = paused_primary(rng, at_ms, (3100, 3700));
    faults.push(fault(Kind::HostCrash { node: 2 }, lost_at, rng.range(20, 200)));
    faults.extend(cut_both_ways(0, &[1, 3, 4], at_ms + 5, 7500));
    faults.extend(cut_both_ways(2, &[1, 3, 4], lost_at, 5000));
    faults
}

fn cut_both_ways(node: usize, others: &[usize], at_ms: u64, for_ms: u64) -> Vec<Fault> {
    let ways = others.iter().flat_map(|other| [(node, *other), (*other, node)]);
    ways.map(|(from, to)| fault(Kind::CutOneWay { from, to }, at_ms, for_ms)).collect()
}

const fn fault(kind: Kind, at_ms: u64, for_ms: u64) -> Fault {
    Fault { kind, at_ms, for_ms }
}
