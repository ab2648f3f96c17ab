//! What the world is at a moment, and what may happen next.

use std::fmt;

use super::bounds::Wish;
use super::core::{Entry, Few, InForce, Raft, Wal};

/// Every node.
pub(super) const NODES: [u8; 3] = [0, 1, 2];
/// Those with a database.
pub(super) const DATA: [u8; 2] = [0, 1];

/// What an agent knows of the recorded quorum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Known {
    pub version: u8,
    pub quorum: Few,
    /// Whether earlier quorums have a say.
    pub open: bool,
}

/// What the agent of a primary remembers of its quorum (`ha_agent::quorum_keeper`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Keeper {
    pub known: Known,
    /// What it will know after a restart.
    pub saved: Known,
    pub wanted: Few,
    pub set: Option<Few>,
    pub proven: Option<Few>,
    /// A quorum that alone is in force, and up to where others could acknowledge.
    pub grown: Option<(Few, u8)>,
    /// Where it began to look.
    pub began_at: u8,
    /// The version that is known to be the current one; 0: none is.
    pub confirmed: u8,
    /// The version that its latest order made, if it heard so; 0: it did not.
    pub heard: u8,
    /// Whether it waits for an order to be carried out.
    pub waits: bool,
}

/// A node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub wal: Wal,
    /// Up to which epoch it acknowledges nothing any more, and what of that is on its disk.
    pub pledged: u8,
    pub saved_pledge: u8,
    /// The epoch whose primary it receives from; 0: it does not.
    pub follows: u8,
    /// The latest epoch that it followed.
    pub seen: u8,
    /// What it said in the election that is under way.
    pub said: Option<Wal>,
    /// The epoch under which its server accepts writes; 0: it does not.
    pub serving: u8,
    /// What its server may go by.
    pub in_force: InForce,
    pub keeper: Keeper,
}

/// An order of a primary's agent that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ordered {
    pub by: u8,
    /// Whether that start of the agent still waits for it.
    pub awaited: bool,
    pub epoch: u8,
    pub version: u8,
    pub quorum: Few,
    pub settled: bool,
}

/// A grant whose holder has not begun yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Promise {
    pub to: u8,
    pub from: Option<u8>,
    /// What it must have first.
    pub need: Wal,
}

/// The whole world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) raft: Raft,
    pub(super) nodes: [Node; 3],
    pub(super) order: Option<Ordered>,
    pub(super) promise: Option<Promise>,
    /// The longest WAL of which every record is acknowledged.
    pub(super) acked: Wal,
    /// Whether something was acknowledged that is no part of what was acknowledged before, nor goes on from it.
    pub(super) two_histories: bool,
    pub(super) changes: u8,
    pub(super) crashes: u8,
}

impl State {
    /// Node 0 is primary under epoch 1, and acknowledges by `quorum`; the others receive.
    pub(super) fn first(quorum: Few) -> Self {
        let wal = Wal::default().with(1);
        let recorded = Entry { epoch: 1, primary: 0, quorum };
        let raft = Raft { last_epoch: 1, holder: Some(0), recorded, version: 1, ..Raft::default() };
        let known = Known { version: 1, quorum, open: false };
        let keeper = Keeper {
            known,
            saved: known,
            wanted: quorum,
            set: Some(quorum),
            proven: Some(quorum),
            began_at: 1,
            confirmed: 1,
            ..Keeper::default()
        };
        let receiver = Node { wal, follows: 1, seen: 1, ..Node::default() };
        let in_force = InForce::only(quorum);
        let primary = Node { wal, serving: 1, seen: 1, in_force, keeper, ..Node::default() };
        Self {
            raft,
            nodes: [primary, receiver, receiver],
            order: None,
            promise: None,
            acked: wal,
            two_histories: false,
            changes: 0,
            crashes: 0,
        }
    }

    pub(super) fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    pub(super) fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// The node that serves under that epoch.
    pub(super) fn server_of(&self, epoch: u8) -> Option<u8> {
        DATA.into_iter().find(|node| epoch > 0 && self.node(*node).serving == epoch)
    }

    /// How many of the quorum's members receive from this primary and have `len` records.
    pub(super) fn have(&self, primary: u8, quorum: Few, len: u8) -> u8 {
        let epoch = self.node(primary).serving;
        let has = |node: &u8| {
            let it = self.node(*node);
            quorum.has(*node) && it.follows == epoch && it.wal.len() >= len
        };
        u8::try_from(NODES.into_iter().filter(has).count()).unwrap_or(u8::MAX)
    }

    /// Whether everything that a server may go by is covered by what is recorded of its epoch.
    pub(super) fn is_covered(&self) -> bool {
        let recorded = self.raft.recorded;
        let covered = |node: u8| {
            let mut all = self.node(node).in_force.all();
            all.all(|quorum| recorded.quorum.covered_by(quorum))
        };
        self.server_of(recorded.epoch).is_none_or(covered)
    }
}

/// One step of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each variant is told in a line by `Display`, and in docs/model.md"
)]
pub enum Action {
    Write { node: u8 },
    Receive { node: u8 },
    Acknowledge { node: u8 },
    Follow { node: u8, epoch: u8 },
    Want { node: u8, wish: Wish },
    Keep { node: u8, whole: bool },
    CarryOut { heard: bool },
    GiveUpWaiting { node: u8 },
    Learn { node: u8, saved: bool },
    AgentCrash { node: u8 },
    Kill { node: u8 },
    Vacate,
    Pledge { node: u8 },
    Report { node: u8 },
    Elect,
    Promote { node: u8 },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Write { node } => write!(f, "a client writes on n{node}"),
            Self::Receive { node } => write!(f, "n{node} receives a record"),
            Self::Acknowledge { node } => write!(f, "n{node} acknowledges what it may"),
            Self::Follow { node, epoch } => {
                write!(f, "n{node} follows the primary of epoch {epoch}")
            }
            Self::Want { node, wish } => write!(f, "n{node} wants {}", wish.of(node)),
            Self::Keep { node, whole: true } => write!(f, "n{node}'s keeper takes its next step"),
            Self::Keep { node, whole: false } => write!(f, "n{node}'s keeper takes half a step"),
            Self::CarryOut { heard: true } => write!(f, "the order is carried out"),
            Self::CarryOut { heard: false } => write!(f, "the order is carried out, nobody hears"),
            Self::GiveUpWaiting { node } => write!(f, "n{node}'s keeper waits no more"),
            Self::Learn { node, saved: true } => {
                write!(f, "n{node} learns the record, and keeps it")
            }
            Self::Learn { node, saved: false } => write!(f, "n{node} learns the record"),
            Self::AgentCrash { node } => write!(f, "n{node}'s agent dies and starts again"),
            Self::Kill { node } => write!(f, "n{node}'s server is killed"),
            Self::Vacate => write!(f, "the lease is vacated"),
            Self::Pledge { node } => write!(f, "n{node} pledges"),
            Self::Report { node } => write!(f, "n{node} stops receiving, and reports"),
            Self::Elect => write!(f, "the election has a winner: the lease is granted"),
            Self::Promote { node } => write!(f, "n{node} is promoted"),
        }
    }
}
