use proptest::prelude::*;

use super::*;

fn id(index: u32) -> NodeId {
    format!("n{}", index + 2).parse().expect("a valid name")
}

/// The nodes of a bit mask: bit 0 is n2.
fn nodes(mask: u32) -> BTreeSet<NodeId> {
    (0..4).filter(|bit| mask >> bit & 1 == 1).map(id).collect()
}

fn quorums() -> Vec<Quorum> {
    let mut all: Vec<Quorum> =
        (0..16).flat_map(|mask| (0..=4).map(move |k| Quorum::new(nodes(mask), k))).collect();
    all.sort();
    all.dedup();
    all
}

/// Whether a commit that these nodes hold is found by every election that goes by `recorded`.
fn is_found(recorded: &Quorum, holders: &BTreeSet<NodeId>) -> bool {
    let Some(needed) = recorded.reports_needed() else { return true };
    (0..16u32)
        .map(nodes)
        .filter(|asked| asked.is_subset(&recorded.members) && asked.len() >= needed)
        .all(|asked| !asked.is_disjoint(holders))
}

/// Whether the live setting lets a commit pass once these nodes have it.
fn lets_pass(live: &Quorum, holders: &BTreeSet<NodeId>) -> bool {
    live.members.intersection(holders).count() >= live.required as usize
}

#[test]
fn covered_means_that_every_election_finds_every_commit_rule_74() {
    for recorded in quorums() {
        for live in quorums() {
            let found = (0..16).map(nodes).filter(|has| lets_pass(&live, has));
            let all_found = found.into_iter().all(|has| is_found(&recorded, &has));
            assert_eq!(recorded.covered_by(&live), all_found, "{recorded:?} and {live:?}");
        }
    }
}

#[test]
fn an_election_needs_members_less_required_plus_one() {
    #[rustfmt::skip]
    let table = [
        // members, required, reports
        (0b0011, 1, Some(2)), // three voters
        (0b0001, 1, Some(1)),
        (0b1111, 2, Some(3)), // five voters
        (0b0111, 2, Some(2)),
        (0b0011, 0, None),    // only the primary can tell
        (0b0000, 1, None),
    ];
    for (members, required, reports) in table {
        assert_eq!(Quorum::new(nodes(members), required).reports_needed(), reports);
    }
}

#[test]
fn a_quorum_is_as_large_as_a_raft_majority_and_drops_nobody_it_can_do_without() {
    use NodeKind::{Data, Witness};
    let is = |kind, keeps_wal, present| Acknowledger { kind, keeps_wal, present };
    let (here, gone) = (is(Data, true, true), is(Data, true, false));
    let (keeper, mute) = (is(Witness, true, true), is(Witness, false, false));
    let lost_keeper = is(Witness, true, false);
    let modes = (Durability::Quorum, Durability::StrictStandby, Durability::Async);
    #[rustfmt::skip]
    let table: &[(Durability, &[Acknowledger], u32, u32)] = &[
        // mode    others                          members, required
        (modes.0, &[here, keeper],                  0b0011, 1),
        (modes.0, &[gone, keeper],                  0b0011, 1),
        (modes.0, &[here, lost_keeper],             0b0011, 1),
        (modes.0, &[gone, lost_keeper],             0b0011, 1),
        (modes.0, &[here, mute],                    0b0001, 1),
        (modes.0, &[gone, mute],                    0b0000, 0),
        (modes.0, &[gone, gone, keeper, keeper],    0b1111, 2),
        (modes.0, &[here, gone, keeper, mute],      0b0111, 2),
        (modes.0, &[here, gone, mute, mute],        0b0001, 1),
        (modes.0, &[],                              0b0000, 0),
        (modes.1, &[here, keeper],                  0b0001, 1),
        (modes.1, &[gone, keeper],                  0b0001, 1),
        (modes.1, &[here, gone, keeper, keeper],    0b0011, 1),
        (modes.2, &[here, keeper],                  0b0000, 0),
    ];
    for (mode, others, members, required) in table {
        let named = (0..).map(id).zip(others.iter().copied()).collect();
        let got = target(*mode, others.len() + 1, &named);
        assert_eq!(got, Quorum::new(nodes(*members), *required), "{mode}, {others:?}");
    }
}

/// A primary, what is recorded of it, and everything that may be in force on it.
#[derive(Debug, Clone)]
struct World {
    recorded: Quorum,
    live: Live,
    in_force: BTreeSet<Quorum>,
    /// Holders of each commit that was acknowledged so far.
    commits: BTreeSet<BTreeSet<NodeId>>,
}

impl World {
    /// Everything that could be acknowledged now has been, by the fewest holders.
    fn acknowledge(&mut self) {
        for live in &self.in_force {
            let passing = (0..16).map(nodes).filter(|has| lets_pass(live, has));
            self.commits.extend(passing.filter(|has| has.len() == live.required as usize));
        }
    }

    fn check(&self) {
        for holders in &self.commits {
            assert!(is_found(&self.recorded, holders), "{holders:?} in {self:#?}");
        }
    }

    fn tell(&mut self, quorum: &Quorum) {
        self.in_force.insert(quorum.clone());
        self.live.set = Some(quorum.clone());
        self.acknowledge();
        self.check();
    }

    fn prove(&mut self, quorum: &Quorum) {
        self.tell(quorum);
        self.in_force = BTreeSet::from([quorum.clone()]);
        self.live.proven = Some(quorum.clone());
    }

    /// Does one step; `dies` cuts it off half-way, and the agent forgets what it knew.
    fn step(&mut self, wanted: &Quorum, dies: bool) -> bool {
        let change = next(&self.recorded, &self.live, wanted);
        match &change {
            Change::Nothing => return true,
            Change::Set(quorum) => {
                self.tell(quorum);
                if self.live.proven.as_ref() != Some(quorum) {
                    self.live.proven = None;
                }
            }
            Change::Settle(quorum) if dies => self.tell(quorum),
            Change::Settle(quorum) => self.prove(quorum),
            Change::Record(quorum) => {
                self.recorded = quorum.clone();
                self.check();
            }
            Change::Grow(quorum) => {
                self.tell(quorum);
                if !dies {
                    self.prove(quorum);
                    // The members have passed every earlier position: whoever holds a commit now
                    // holds it on as many of them as are required, whichever those are.
                    let holders = |old: &BTreeSet<NodeId>| {
                        let more = quorum.members.iter().take(quorum.required as usize).cloned();
                        old.iter().cloned().chain(more).collect()
                    };
                    self.commits = self.commits.iter().map(holders).collect();
                    self.recorded = quorum.clone();
                    self.check();
                }
            }
        }
        if dies {
            self.live = Live::default();
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_the_quorum_loses_sight_of_a_commit_whenever_the_agent_dies(
        first in 0..64_usize,
        changes in prop::collection::vec((0..64_usize, prop::collection::vec(any::<bool>(), 1..6)), 1..6),
    ) {
        let all = quorums();
        let pick = |index: usize| all[index % all.len()].clone();
        let recorded = pick(first);
        let mut world = World {
            in_force: BTreeSet::from([recorded.clone()]),
            live: Live { set: Some(recorded.clone()), proven: Some(recorded.clone()) },
            recorded,
            commits: BTreeSet::new(),
        };
        world.acknowledge();
        world.check();
        for (wanted, deaths) in changes {
            for dies in deaths {
                world.step(&pick(wanted), dies);
            }
        }
    }

    #[test]
    fn every_change_of_the_quorum_comes_to_an_end(from in 0..64_usize, to in 0..64_usize) {
        let all = quorums();
        let (from, to) = (all[from % all.len()].clone(), all[to % all.len()].clone());
        let mut world = World {
            recorded: from.clone(),
            live: Live::default(),
            in_force: BTreeSet::from([from]),
            commits: BTreeSet::new(),
        };
        let ended = (0..8).any(|_| world.step(&to, false));
        prop_assert!(ended && world.recorded == to, "{world:?}");
    }
}

#[test]
fn shrinking_is_recorded_before_and_growing_after_the_setting_rule_71() {
    let (alone, both) = (Quorum::alone(), Quorum::new(nodes(1), 1));
    let proven = |q: &Quorum| Live { set: Some(q.clone()), proven: Some(q.clone()) };
    assert_eq!(next(&both, &proven(&both), &alone), Change::Record(alone.clone()));
    assert_eq!(next(&alone, &proven(&both), &alone), Change::Set(alone.clone()));
    assert_eq!(next(&alone, &proven(&alone), &both), Change::Grow(both.clone()));
    // An agent that does not know what is in force finds out before it records anything weaker.
    assert_eq!(next(&both, &Live::default(), &alone), Change::Settle(both.clone()));
    assert_eq!(next(&both, &proven(&both), &both), Change::Nothing);
    assert_eq!(next(&both, &Live::default(), &both), Change::Set(both));
}
