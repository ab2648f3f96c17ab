use std::collections::BTreeMap;

use super::super::rng::Rng;
use super::*;

/// Some nodes, messages between them in any order, and disks that lose what was not synced.
struct Group {
    nodes: Vec<Raft>,
    synced: Vec<Hard>,
    /// What is written, and the messages that wait for it.
    writing: Vec<Vec<(Hard, Outbox)>>,
    sent: Vec<(usize, usize, RaftMessage)>,
    /// By index: which entry, and the term whose leader committed it.
    committed: BTreeMap<usize, (u64, u64)>,
    leaders: BTreeMap<u64, usize>,
    ids: u64,
}

impl Group {
    fn new(count: usize) -> Self {
        Self {
            nodes: (0..count).map(|me| Raft::new(me, count, Hard::default())).collect(),
            synced: vec![Hard::default(); count],
            writing: vec![Vec::new(); count],
            sent: Vec::new(),
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            ids: 0,
        }
    }

    fn stepped(&mut self, at: usize, out: Outbox) {
        let node = &mut self.nodes[at];
        if std::mem::take(&mut node.dirty) || !self.writing[at].is_empty() {
            self.writing[at].push((node.hard.clone(), out));
        } else {
            self.sent.extend(out.into_iter().map(|(to, message)| (at, to, message)));
        }
        self.check(at);
    }

    fn check(&mut self, at: usize) {
        let node = &self.nodes[at];
        if let Some(term) = node.leads() {
            let known = *self.leaders.entry(term).or_insert_with(|| {
                // Whoever begins to lead has everything that was committed before.
                let before = self.committed.iter().filter(|(_, (_, by))| *by < term);
                for (index, (id, _)) in before {
                    let own = node.hard.log.get(index - 1).map(|entry| entry.id);
                    assert_eq!(own, Some(*id), "the leader of term {term} lacks {index}");
                }
                at
            });
            assert_eq!(known, at, "two leaders of term {term}");
        }
        for index in 1..=node.commit {
            let id = node.hard.log[index - 1].id;
            let (known, _) = *self.committed.entry(index).or_insert((id, node.hard.term));
            assert_eq!(known, id, "committed logs differ at {index}");
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        self.ids += 1;
        let (id, at) = (self.ids, rng.index(self.nodes.len()));
        match rng.below(100) {
            0 => {
                let forced = rng.chance(200);
                let out = self.nodes[at].campaign(forced);
                self.stepped(at, out);
            }
            1 => {
                // It loses power: what was not synced is gone.
                self.nodes[at] = Raft::new(at, self.nodes.len(), self.synced[at].clone());
                self.writing[at].clear();
            }
            2..=5 if self.nodes[at].leads().is_some() => {
                let out = self.nodes[at].append(None, id);
                self.stepped(at, out);
            }
            6..=9 if self.nodes[at].leads().is_some() => {
                let (_, out) = self.nodes[at].begin_round();
                self.stepped(at, out);
            }
            10..=40 if !self.writing[at].is_empty() => {
                let (image, out) = self.writing[at].remove(0);
                let (term, index) = (image.term, image.log.len());
                self.synced[at] = image;
                self.sent.extend(out.into_iter().map(|(to, message)| (at, to, message)));
                let more = self.nodes[at].is_durable(term, index, id);
                self.stepped(at, more);
            }
            _ if !self.sent.is_empty() => {
                let which = rng.index(self.sent.len());
                let (from, to, message) = self.sent.swap_remove(which);
                if rng.chance(100) {
                    self.sent.push((from, to, message.clone()));
                }
                if rng.chance(900) {
                    let out = self.nodes[to].receive(from, message, rng.chance(100), id);
                    self.stepped(to, out);
                }
            }
            _ => {}
        }
        // Nothing is delayed for ever: the oldest are lost.
        if self.sent.len() > 60 {
            self.sent.drain(..20);
        }
    }
}

#[test]
fn committed_logs_agree_whatever_gets_lost_doubled_or_forgotten() {
    let mut committed = 0;
    let mut terms = 0;
    for seed in 0..400 {
        let mut rng = Rng::new(seed, 9);
        let mut group = Group::new(if seed % 4 == 0 { 5 } else { 3 });
        for _ in 0..1500 {
            group.step(&mut rng);
        }
        committed += group.committed.len();
        terms += group.leaders.len();
    }
    let enough = committed > 1000 && terms > 600;
    assert!(enough, "{committed} entries, {terms} leaders: not much of a test");
}

#[test]
fn a_round_is_confirmed_only_by_answers_to_it_or_to_a_later_one() {
    let mut leader = Raft::new(0, 3, Hard::default());
    leader.campaign(true);
    leader.dirty = false;
    let voted = RaftMessage::Voted { pre: false, term: 1, granted: true };
    leader.receive(1, voted, false, 1);
    assert_eq!(leader.leads(), Some(1));
    let (round, _) = leader.begin_round();
    let answer = |round| RaftMessage::Appended { term: 1, ok: true, matched: 0, round };
    leader.receive(1, answer(round - 1), false, 2);
    assert!(!leader.is_confirmed(round), "an answer to an earlier round");
    leader.receive(2, answer(round), false, 3);
    assert!(leader.is_confirmed(round));
    let higher = RaftMessage::Appended { term: 2, ok: false, matched: 0, round };
    leader.receive(1, higher, false, 4);
    assert!(!leader.is_confirmed(round), "it does not lead any more");
}
