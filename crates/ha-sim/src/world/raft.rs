//! A small Raft: elections with Pre-Vote, replication, confirmation rounds. No I/O, no clock.
//!
//! Whoever drives it writes [`Hard`] to a disk when [`Raft::dirty`] says so, and lets messages leave
//! only after that. Left out: snapshots, changes of the membership.
//!
//! # Sources
//! Ongaro, "Consensus: Bridging Theory and Practice", chapters 3, 6.4 and 9.6.

use std::collections::BTreeSet;
use std::rc::Rc;

use ha_core::state::Command;

/// One log entry. Its number is unique in a world.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The term that it was made in.
    pub(crate) term: u64,
    /// Its number.
    pub(crate) id: u64,
    /// What it says; nothing for the first of a term.
    pub(crate) command: Option<Command>,
}

/// What has to be on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hard {
    /// The latest term seen.
    pub(crate) term: u64,
    /// Whom this node voted for in it.
    pub(crate) vote: Option<usize>,
    /// The log; index 1 is at 0.
    pub(crate) log: Vec<Rc<Entry>>,
    /// How much of it was known to be committed; may be behind.
    pub(crate) committed: usize,
}

/// What a node is in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It follows whoever leads.
    Follower,
    /// It asks whether it could win.
    PreCandidate,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
}

/// What nodes tell each other.
#[derive(Debug, Clone)]
pub(crate) enum RaftMessage {
    /// Would you vote for me, or do you?
    Vote { pre: bool, term: u64, last: (u64, usize), forced: bool },
    /// The answer.
    Voted { pre: bool, term: u64, granted: bool },
    /// Entries, or none.
    Append { term: u64, before: (u64, usize), entries: Rc<[Rc<Entry>]>, commit: usize, round: u64 },
    /// The answer: up to where both logs are known to agree, or where to try.
    Appended { term: u64, ok: bool, matched: usize, round: u64 },
    /// Campaign at once.
    TakeOver { term: u64 },
}

/// Sent messages, by receiver.
pub(crate) type Outbox = Vec<(usize, RaftMessage)>;

/// One node's part.
#[derive(Debug)]
pub(crate) struct Raft {
    me: usize,
    nodes: usize,
    /// What has to be on disk.
    pub(crate) hard: Hard,
    /// Set when it changed; whoever writes it clears it.
    pub(crate) dirty: bool,
    /// What it is.
    pub(crate) role: Role,
    /// Whom it believes to lead.
    pub(crate) leader: Option<usize>,
    /// Up to where it knows that entries are committed.
    pub(crate) commit: usize,
    /// Index of the first entry of its own term, if it leads.
    pub(crate) first_own: usize,
    /// Set when somebody who leads was heard, or a vote given; whoever keeps the time clears it.
    pub(crate) heard: bool,
    next: Vec<usize>,
    matched: Vec<usize>,
    acked: Vec<u64>,
    round: u64,
    votes: BTreeSet<usize>,
}

impl Raft {
    /// Starts from what is on disk.
    pub(crate) fn new(me: usize, nodes: usize, hard: Hard) -> Self {
        let commit = hard.committed.min(hard.log.len());
        Self {
            me,
            nodes,
            hard,
            dirty: false,
            role: Role::Follower,
            leader: None,
            commit,
            first_own: 0,
            heard: true,
            next: vec![1; nodes],
            matched: vec![0; nodes],
            acked: vec![0; nodes],
            round: 0,
            votes: BTreeSet::new(),
        }
    }

    /// Returns the term it leads, if it does.
    pub(crate) fn leads(&self) -> Option<u64> {
        (self.role == Role::Leader).then_some(self.hard.term)
    }

    const fn majority(&self) -> usize {
        self.nodes / 2 + 1
    }

    fn last(&self) -> (u64, usize) {
        (self.hard.log.last().map_or(0, |entry| entry.term), self.hard.log.len())
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.nodes).filter(move |node| *node != me)
    }

    /// Nobody who leads was heard for too long.
    pub(crate) fn campaign(&mut self, forced: bool) -> Outbox {
        if self.role == Role::Leader {
            return Outbox::new();
        }
        self.leader = None;
        self.votes = BTreeSet::from([self.me]);
        if forced {
            return self.stand(true);
        }
        self.role = Role::PreCandidate;
        if self.votes.len() >= self.majority() {
            return self.stand(false);
        }
        let ask = |term, last| RaftMessage::Vote { pre: true, term, last, forced: false };
        let message = ask(self.hard.term + 1, self.last());
        self.others().map(|to| (to, message.clone())).collect()
    }

    fn stand(&mut self, forced: bool) -> Outbox {
        self.role = Role::Candidate;
        self.hard.term += 1;
        self.hard.vote = Some(self.me);
        self.dirty = true;
        self.votes = BTreeSet::from([self.me]);
        let (term, last) = (self.hard.term, self.last());
        let message = RaftMessage::Vote { pre: false, term, last, forced };
        self.others().map(|to| (to, message.clone())).collect()
    }

    /// It has the votes; `id` is for the first entry of its term. Its own vote must be on disk.
    fn lead(&mut self, id: u64) -> Outbox {
        self.role = Role::Leader;
        self.leader = Some(self.me);
        self.next = vec![self.hard.log.len() + 1; self.nodes];
        self.matched = vec![0; self.nodes];
        self.acked = vec![0; self.nodes];
        self.first_own = self.hard.log.len() + 1;
        self.append(None, id)
    }

    /// It goes on leading as if it had never stopped: nobody may do that.
    pub(crate) fn lead_on(&mut self) {
        let (term, len) = (self.hard.term, self.hard.log.len());
        self.role = Role::Leader;
        self.leader = Some(self.me);
        self.next = vec![len + 1; self.nodes];
        self.matched[self.me] = len;
        let before = self.hard.log.iter().take_while(|entry| entry.term < term).count();
        self.first_own = before + 1;
    }

    /// Adds an entry as leader and sends it. Its index is the log's new length.
    pub(crate) fn append(&mut self, command: Option<Command>, id: u64) -> Outbox {
        self.hard.log.push(Rc::new(Entry { term: self.hard.term, id, command }));
        self.dirty = true;
        self.broadcast()
    }

    /// Begins a confirmation round; also the heartbeat. Returns its number with the messages.
    pub(crate) fn begin_round(&mut self) -> (u64, Outbox) {
        self.round += 1;
        (self.round, self.broadcast())
    }

    /// Returns the number of the round that began last.
    pub(crate) const fn latest_round(&self) -> u64 {
        self.round
    }

    /// Returns whether a majority answered a round that began at or after that one.
    pub(crate) fn is_confirmed(&self, round: u64) -> bool {
        let others = self.others().filter(|node| self.acked[*node] >= round).count();
        self.role == Role::Leader && others + 1 >= self.majority()
    }

    fn broadcast(&self) -> Outbox {
        self.others().map(|to| (to, self.append_to(to))).collect()
    }

    /// What that node is to be told now.
    pub(crate) fn append_to(&self, to: usize) -> RaftMessage {
        let from = self.next[to].clamp(1, self.hard.log.len() + 1);
        let before = from - 1;
        let before_term = before.checked_sub(1).map_or(0, |at| self.hard.log[at].term);
        RaftMessage::Append {
            term: self.hard.term,
            before: (before_term, before),
            entries: self.hard.log[before..].into(),
            commit: self.commit,
            round: self.round,
        }
    }

    /// Has another node campaign at once, if it has everything.
    pub(crate) fn hand_over(&mut self, to: usize) -> Outbox {
        if self.role != Role::Leader || self.matched[to] < self.hard.log.len() {
            return Outbox::new();
        }
        vec![(to, RaftMessage::TakeOver { term: self.hard.term })]
    }

    /// What it wrote is on disk up to that index, as it was in that term.
    pub(crate) fn is_durable(&mut self, term: u64, index: usize, id: u64) -> Outbox {
        if term != self.hard.term {
            return Outbox::new();
        }
        if self.role == Role::Leader {
            self.matched[self.me] = self.matched[self.me].max(index);
            self.advance();
        } else if self.role == Role::Candidate && self.votes.len() >= self.majority() {
            return self.lead(id);
        }
        Outbox::new()
    }

    fn advance(&mut self) {
        let mut all = self.matched.clone();
        all.sort_unstable();
        let at = all[self.nodes - self.majority()];
        // Only an entry of the own term commits by counting (§3.6.2 there).
        if at > self.commit && self.hard.log[at - 1].term == self.hard.term {
            self.commit = at;
            self.hard.committed = at;
        }
    }

    fn step_down(&mut self, term: u64) {
        if term > self.hard.term {
            self.hard.term = term;
            self.hard.vote = None;
            self.dirty = true;
        }
        self.role = Role::Follower;
        self.leader = None;
    }

    /// Takes a message in. `trusting` says whether somebody who leads was heard a moment ago; `id` is
    /// unused so far.
    pub(crate) fn receive(
        &mut self,
        from: usize,
        message: RaftMessage,
        trusting: bool,
        id: u64,
    ) -> Outbox {
        match message {
            RaftMessage::Vote { pre, term, last, forced } => {
                vec![(from, self.answer_vote(from, pre, term, last, trusting && !forced))]
            }
            RaftMessage::Voted { pre, term, granted } => self.voted(from, pre, term, granted, id),
            RaftMessage::Append { term, before, entries, commit, round } => {
                if term < self.hard.term {
                    let term = self.hard.term;
                    return vec![(
                        from,
                        RaftMessage::Appended { term, ok: false, matched: 0, round },
                    )];
                }
                if term > self.hard.term || self.role != Role::Follower {
                    self.step_down(term);
                }
                self.leader = Some(from);
                self.heard = true;
                vec![(from, self.take_in(before, &entries, commit, round))]
            }
            RaftMessage::Appended { term, ok, matched, round } => {
                self.appended(from, term, ok, matched, round)
            }
            RaftMessage::TakeOver { term } if term == self.hard.term => self.campaign(true),
            RaftMessage::TakeOver { .. } => Outbox::new(),
        }
    }

    fn answer_vote(
        &mut self,
        from: usize,
        pre: bool,
        term: u64,
        last: (u64, usize),
        trusting: bool,
    ) -> RaftMessage {
        let up_to_date = last >= self.last();
        let refusal = RaftMessage::Voted { pre, term: self.hard.term, granted: false };
        if pre {
            let granted = term > self.hard.term && up_to_date && !trusting;
            return if granted { RaftMessage::Voted { pre, term, granted } } else { refusal };
        }
        // While somebody leads, terms are not raised by whoever cannot hear it.
        if term < self.hard.term || (trusting && term > self.hard.term) {
            return refusal;
        }
        if term > self.hard.term {
            self.step_down(term);
        }
        let free = self.hard.vote.is_none_or(|voted| voted == from);
        let granted = free && up_to_date && self.role == Role::Follower;
        if granted && self.hard.vote.is_none() {
            self.hard.vote = Some(from);
            self.dirty = true;
        }
        self.heard |= granted;
        RaftMessage::Voted { pre, term: self.hard.term, granted }
    }

    fn voted(&mut self, from: usize, pre: bool, term: u64, granted: bool, id: u64) -> Outbox {
        if !granted {
            if term > self.hard.term {
                self.step_down(term);
            }
            return Outbox::new();
        }
        if pre && self.role == Role::PreCandidate && term == self.hard.term + 1 {
            self.votes.insert(from);
            if self.votes.len() >= self.majority() {
                return self.stand(false);
            }
        } else if !pre && self.role == Role::Candidate && term == self.hard.term {
            self.votes.insert(from);
            if self.votes.len() >= self.majority() {
                return self.lead(id);
            }
        }
        Outbox::new()
    }

    fn take_in(
        &mut self,
        before: (u64, usize),
        entries: &[Rc<Entry>],
        commit: usize,
        round: u64,
    ) -> RaftMessage {
        let term = self.hard.term;
        let (before_term, at) = before;
        let known = at.checked_sub(1).map_or(Some(0), |i| self.hard.log.get(i).map(|e| e.term));
        if known != Some(before_term) {
            let hint = self.hard.log.len().min(at.saturating_sub(1));
            return RaftMessage::Appended { term, ok: false, matched: hint, round };
        }
        for (offset, entry) in entries.iter().enumerate() {
            let index = at + offset;
            match self.hard.log.get(index) {
                Some(ours) if ours.term == entry.term => {}
                Some(_) => {
                    self.hard.log.truncate(index);
                    self.hard.log.push(Rc::clone(entry));
                    self.dirty = true;
                }
                None => {
                    self.hard.log.push(Rc::clone(entry));
                    self.dirty = true;
                }
            }
        }
        let matched = at + entries.len();
        self.commit = self.commit.max(commit.min(matched));
        self.hard.committed = self.hard.committed.max(self.commit);
        RaftMessage::Appended { term, ok: true, matched, round }
    }

    fn appended(&mut self, from: usize, term: u64, ok: bool, matched: usize, round: u64) -> Outbox {
        if term > self.hard.term {
            self.step_down(term);
            return Outbox::new();
        }
        if term < self.hard.term || self.role != Role::Leader {
            return Outbox::new();
        }
        // It has not voted higher: that is what a round asks, whatever its log.
        self.acked[from] = self.acked[from].max(round);
        if ok {
            self.matched[from] = self.matched[from].max(matched);
            self.next[from] = self.next[from].max(matched + 1);
            self.advance();
            Outbox::new()
        } else {
            self.next[from] = (matched + 1).max(self.matched[from] + 1);
            vec![(from, self.append_to(from))]
        }
    }
}

#[cfg(test)]
mod tests;
