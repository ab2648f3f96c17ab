//! What the world is at a moment, and what may happen next.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::log::{Applied, Command, Log};

/// Every node.
pub(super) const NODES: [u8; 3] = [0, 1, 2];
/// Those with a database.
pub(super) const DATA: [u8; 2] = [0, 1];
/// "Long ago", as a tick.
pub(super) const LONG_AGO: u8 = u8::MAX;
/// As good as later than any tick.
pub(super) const NEVER: u8 = u8::MAX - 1;

/// How far a renewal got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none, or it was lost.
    #[default]
    Free,
    /// The holder has noted the time and sent it.
    Sent,
    /// A leader has it, and asks the others whether it leads.
    Asking,
    /// One of them said yes: that is a majority.
    Acked,
    /// The leader confirmed it; the answer is on its way.
    Yes,
}

/// A renewal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub phase: Phase,
    pub from: u8,
    pub epoch: u8,
    /// When, in ticks.
    pub sent: u8,
    pub leader: u8,
    /// The term that its record was of when the renewal arrived.
    pub term: u8,
    /// How many entries must be applied before it may be answered.
    pub need: u8,
}

/// A node: its log, its part as leader, and its part as holder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub term: u8,
    pub leads: bool,
    pub alive: bool,
    /// How often its agent was started anew.
    pub start: u8,
    /// How many entries it knows to be committed; it has applied them.
    pub commit: u8,
    pub log: Log,
    /// The granter's record: of which term (0: none), of which epoch, counted from when, and whether it is over.
    pub record_term: u8,
    pub record_epoch: u8,
    pub renewed: u8,
    pub vacating: bool,
    /// The permit: for which epoch, and until when by this node's clock.
    pub permit: u8,
    pub deadline: u8,
    /// Up to which epoch it gave up every right.
    pub burnt: u8,
    /// The epoch under which its database accepts writes; 0: it does not.
    pub active: u8,
    /// The latest release that it sent: any leader may get it, at any time.
    pub released: u8,
    /// When it sent its latest renewal: of use to one mistake only.
    pub sent: u8,
}

/// The whole world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub(super) tick: u8,
    /// Which of the rate vectors its clocks go by.
    pub(super) rates: u8,
    pub(super) crashes: u8,
    pub(super) reboots: u8,
    /// An expired epoch whose `Vacate` any leader may append: of use to one mistake only.
    pub(super) stray: u8,
    pub(super) nodes: [Node; 3],
    pub(super) slots: [Slot; 2],
}

impl State {
    /// Node 0 holds epoch 1 since just now, and `leader` leads in term 1.
    pub(super) fn with_leader(rates: u8, leader: u8) -> Self {
        let mut state = Self::nothing(rates);
        for node in NODES {
            let leads = node == leader;
            let it = state.node_mut(node);
            it.log.push(1, Command::Grant { to: 0, epoch: 1, start: 0 });
            (it.term, it.commit, it.leads) = (1, 1, leads);
            if leads {
                (it.record_term, it.record_epoch) = (1, 1);
            }
        }
        state
    }

    /// Empty logs, and nobody leads.
    pub(super) fn empty(rate_vectors: usize) -> Vec<Self> {
        (0..u8::try_from(rate_vectors).unwrap_or(u8::MAX)).map(Self::nothing).collect()
    }

    fn nothing(rates: u8) -> Self {
        let node = Node { alive: true, ..Node::default() };
        let (nodes, slots) = ([node; 3], [Slot::default(); 2]);
        Self { tick: 0, rates, crashes: 0, reboots: 0, stray: 0, nodes, slots }
    }

    pub(super) fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    pub(super) fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// The lease as this node has applied it.
    pub(super) fn lease(&self, node: u8) -> Applied {
        let it = self.node(node);
        it.log.applied(it.commit)
    }

    /// Who accepts writes, and under which epoch.
    pub(super) fn active(&self) -> impl Iterator<Item = (u8, u8)> {
        let all = DATA.into_iter().map(|node| (node, self.node(node).active));
        all.filter(|(_, epoch)| *epoch > 0)
    }

    pub(super) fn logs_agree(&self) -> bool {
        let agree = |one: &Node, other: &Node| {
            let both = one.commit.min(other.commit);
            one.log.first(both) == other.log.first(both)
        };
        let [a, b, c] = &self.nodes;
        agree(a, b) && agree(b, c) && agree(a, c)
    }

    pub(super) fn epochs_are_in_order(&self) -> bool {
        let counts_up =
            |node: &Node| committed(node).zip(1..).all(|((epoch, _), expected)| epoch == expected);
        let one_holder = |one: &Node, other: &Node| {
            committed(one).all(|(e, h)| committed(other).all(|(f, i)| e != f || h == i))
        };
        // An agent that was started anew may not know yet what is committed; then its log has it all the same.
        let granted = |active: (u8, u8)| {
            let all =
                |node: &Node| node.log.grants(node.log.len()).any(|(e, h, _)| (h, e) == active);
            self.nodes.iter().any(all)
        };
        let [a, b, c] = &self.nodes;
        self.nodes.iter().all(counts_up)
            && one_holder(a, b)
            && one_holder(b, c)
            && one_holder(a, c)
            && self.active().all(granted)
    }

    /// Whether somebody is active under an epoch whose predecessor ended like that.
    pub(super) fn took_over(&self, ended: impl Fn(Command) -> bool) -> bool {
        self.active().any(|(node, active)| {
            let it = self.node(node);
            it.log.grants(it.commit).any(|(epoch, _, by)| epoch == active && ended(by))
        })
    }
}

/// Who was given which epoch, as far as this node knows it to be committed.
fn committed(node: &Node) -> impl Iterator<Item = (u8, u8)> {
    node.log.grants(node.commit).map(|(epoch, holder, _)| (epoch, holder))
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut word = |bytes: [u8; 8]| hasher.write_u64(u64::from_le_bytes(bytes));
        word([self.tick, self.rates, self.crashes, self.reboots, self.stray, 0, 0, 0]);
        for node in &self.nodes {
            let flags =
                u8::from(node.leads) | u8::from(node.alive) << 1 | u8::from(node.vacating) << 2;
            word([
                node.term,
                flags,
                node.start,
                node.commit,
                node.record_term,
                node.record_epoch,
                node.renewed,
                node.sent,
            ]);
            let right = [node.permit, node.deadline, node.burnt, node.active, node.released];
            word([right[0], right[1], right[2], right[3], right[4], 0, 0, 0]);
            node.log.words().into_iter().for_each(|log| word(log.to_le_bytes()));
        }
        for slot in &self.slots {
            let Slot { phase, from, epoch, sent, leader, term, need } = *slot;
            word([phase as u8, from, epoch, sent, leader, term, need, 0]);
        }
    }
}

/// One step of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each variant is told in a line by `Display`, and in docs/model.md"
)]
pub enum Action {
    Tick,
    Elect { candidate: u8, voter: u8 },
    Replicate { from: u8, to: u8, acked: bool },
    Expire { leader: u8 },
    VacateLate { leader: u8 },
    Grant { leader: u8, to: u8 },
    TakeRelease { leader: u8, of: u8, transfer: bool },
    Send { slot: u8, from: u8 },
    Receive { slot: u8, leader: u8 },
    Acknowledge { slot: u8, by: u8 },
    Confirm { slot: u8 },
    Answer { slot: u8 },
    Lose { slot: u8 },
    Promote { node: u8 },
    GiveUp { node: u8 },
    Stop { node: u8 },
    DatabaseCrash { node: u8 },
    AgentCrash { node: u8, forgets: bool },
    AgentStart { node: u8 },
    Reboot { node: u8 },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tick => f.write_str("a tick passes, the guards look"),
            Self::Elect { candidate, voter } => write!(f, "n{candidate} is elected by n{voter}"),
            Self::Replicate { from, to, acked: true } => {
                write!(f, "n{to} has n{from}'s log, and says so")
            }
            Self::Replicate { from, to, acked: false } => {
                write!(f, "n{to} has n{from}'s log, its answer is lost")
            }
            Self::Expire { leader } => write!(f, "n{leader} appends Vacate"),
            Self::VacateLate { leader } => write!(f, "n{leader} appends another's Vacate"),
            Self::Grant { leader, to } => write!(f, "n{leader} appends Grant to n{to}"),
            Self::TakeRelease { leader, of, transfer: false } => {
                write!(f, "n{leader} appends the release of n{of}")
            }
            Self::TakeRelease { leader, of, transfer: true } => {
                write!(f, "n{leader} appends the transfer by n{of}")
            }
            Self::Send { slot, from } => write!(f, "n{from} sends renewal {slot}"),
            Self::Receive { slot, leader } => write!(f, "n{leader} gets renewal {slot}, asks"),
            Self::Acknowledge { slot, by } => write!(f, "n{by} acknowledges the round of {slot}"),
            Self::Confirm { slot } => write!(f, "renewal {slot} is confirmed"),
            Self::Answer { slot } => write!(f, "the answer to renewal {slot} arrives"),
            Self::Lose { slot } => write!(f, "renewal {slot} is lost"),
            Self::Promote { node } => write!(f, "n{node} begins to accept writes"),
            Self::GiveUp { node } => write!(f, "n{node} gives its lease back"),
            Self::Stop { node } => write!(f, "n{node} stops its database"),
            Self::DatabaseCrash { node } => write!(f, "n{node}'s database crashes"),
            Self::AgentCrash { node, forgets: true } => {
                write!(f, "n{node}'s agent dies, forgets what is committed")
            }
            Self::AgentCrash { node, forgets: false } => write!(f, "n{node}'s agent dies"),
            Self::AgentStart { node } => write!(f, "n{node}'s agent starts"),
            Self::Reboot { node } => write!(f, "n{node} reboots"),
        }
    }
}
