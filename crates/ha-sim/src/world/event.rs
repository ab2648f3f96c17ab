//! What can happen, and what travels.

use std::rc::Rc;

use ha_core::Epoch;
use ha_core::WalPosition;
use ha_core::state::{Command, Outcome};

use super::raft::{Hard, Outbox, RaftMessage};
use super::report::{Reported, Revoked};
use super::wal::Record;

/// Something that happens at one moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// A task goes on.
    Wake(u64),
    /// A datagram arrives.
    Message(Box<Message>),
    /// Something arrives on a connection.
    Stream { connection: u64, side: usize, number: u64, body: Streamed },
    /// What an agent wrote is on its disk; then its messages leave.
    Durable { host: usize, life: u64, image: Option<Box<Hard>>, out: Outbox },
    /// An agent ends by itself: its disk takes nothing.
    AgentEnds { host: usize, life: u64 },
    /// A guard looks.
    Guard { host: usize, boots: u64 },
    /// Something about one run of a server.
    Server { host: usize, run: u64, boots: u64, what: ServerEvent },
    /// A witness's receiver has flushed.
    KeptFlushed { host: usize, boots: u64, to: usize },
    /// Connections are made and looked after.
    Tick,
    /// A machine, or its agent, comes back.
    Start { host: usize, agent_only: bool },
    /// A fault begins or ends.
    Fault { index: usize, ends: bool },
    /// A client does its next thing.
    Client { index: usize, turn: u64 },
}

/// What happens to one run of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerEvent {
    /// It accepts connections.
    Up,
    /// Its WAL is on disk up to there.
    Flushed(usize),
    /// It ended recovery.
    Promoted,
    /// It wrote its shutdown checkpoint and can end once its receivers have it.
    ShutDown,
    /// Nothing of it is left.
    Gone,
    /// A walsender, or the whole server, has read its settings anew.
    Reloaded,
}

/// A datagram.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) body: Body,
}

/// What is in it.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Raft(RaftMessage),
    Ask { id: u64, life: u64, request: Request },
    Answer { id: u64, life: u64, reply: Reply },
}

/// What agents ask each other.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Renew {
        epoch: Epoch,
        id: u64,
        flushed: Option<WalPosition>,
    },
    Report,
    Revoke {
        epoch: Epoch,
    },
    Propose(Box<Command>),
    /// WAL from one position to another.
    Fetch {
        from: usize,
        to: WalPosition,
    },
    /// What a primary says of its history: asked of its server.
    Switchover {
        epoch: Epoch,
        to: usize,
    },
}

/// And answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Renewed { id: u64 },
    NotRenewed { leader: Option<usize>, current: Epoch },
    Reported(Box<Reported>),
    Revoked(Box<Revoked>),
    Proposed(Proposed),
    Fetched { before: Option<Record>, records: Rc<[Record]> },
    Nothing,
}

/// What became of a proposal.
#[derive(Debug, Clone)]
pub(crate) enum Proposed {
    Done(Outcome),
    NotTaken,
    Unknown,
}

/// What travels on a connection, in order.
#[derive(Debug, Clone)]
pub(crate) enum Streamed {
    /// WAL, from a position on.
    Wal { from: usize, records: Rc<[Record]> },
    /// A receiver has flushed up to there.
    Flushed(usize),
    /// A client commits.
    Commit { write: u64 },
    /// The server says that it is done.
    Committed { write: u64 },
    /// It will not be done: nothing was written.
    Rejected { write: u64 },
    /// The other end is gone.
    Closed,
}
