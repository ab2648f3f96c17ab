//! The network: datagrams that are lost, doubled and overtaken; connections that only stall.

use super::event::{Body, Event, Message, Streamed};
use super::kernel::{MS, Time};
use super::state::World;

/// What is wrong between the machines at the moment. The clients are one more place, the last.
#[derive(Debug)]
pub(crate) struct Net {
    /// How many faults cut the way from one to the other.
    cuts: Vec<Vec<u32>>,
    /// Datagrams lost, of a thousand.
    pub(crate) loss: u64,
    /// The longest delay of a slow network, milliseconds; 0 if it is not slow.
    pub(crate) slow: u64,
}

impl Net {
    pub(crate) fn new(hosts: usize) -> Self {
        Self { cuts: vec![vec![0; hosts + 1]; hosts + 1], loss: 0, slow: 0 }
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to] > 0
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from][to] += 1;
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
    }
}

/// A connection between two processes. Each side counts what it sent and what it took in.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [usize; 2],
    sent: [u64; 2],
    taken: [u64; 2],
    last: [Time; 2],
    /// When each side was last heard by the other.
    pub(crate) heard: Time,
    /// An end that is gone: what arrives there is lost.
    pub(crate) closed: [bool; 2],
}

impl World {
    fn delay(&mut self) -> u64 {
        if self.director.is_some() {
            return super::directed::WAY;
        }
        let slow = self.net.slow;
        if slow > 0 {
            return self.rng.range(1, slow) * MS;
        }
        if self.rng.chance(15) {
            self.rng.range(5, 60) * MS
        } else {
            self.rng.range(100, 1500) * 1000
        }
    }

    /// Sends a datagram.
    pub(crate) fn send(&mut self, from: usize, to: usize, body: Body) {
        let Some(body) = self.directed(from, to, body) else { return };
        let loss = self.net.loss;
        if loss > 0 && self.rng.chance(loss) {
            return;
        }
        let span = self.delay();
        if self.director.is_none() && self.rng.chance(3) {
            let twice = self.delay();
            let again = Message { from, to, body: body.clone() };
            self.after(span + twice, Event::Message(Box::new(again)));
        }
        self.after(span, Event::Message(Box::new(Message { from, to, body })));
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) -> u64 {
        let id = self.next_id();
        let connection = Connection {
            ends: [a, b],
            sent: [0; 2],
            taken: [0; 2],
            last: [0; 2],
            heard: self.now,
            closed: [false; 2],
        };
        self.connections.insert(id, connection);
        id
    }

    /// Sends something on a connection, from the end at that host.
    pub(crate) fn stream(&mut self, connection: u64, from: usize, body: Streamed) {
        let span = self.delay();
        let now = self.now;
        let Some(known) = self.connections.get_mut(&connection) else { return };
        let side = usize::from(known.ends[1] == from);
        let number = known.sent[side];
        known.sent[side] += 1;
        known.last[side] = known.last[side].max(now + span);
        let at = known.last[side];
        self.at(at, Event::Stream { connection, side, number, body });
    }

    /// A process closes its end, or died with its machine alive: the other end is told.
    pub(crate) fn hang_up(&mut self, connection: u64, host: usize) {
        let Some(known) = self.connections.get_mut(&connection) else { return };
        let side = usize::from(known.ends[1] == host);
        if std::mem::replace(&mut known.closed[side], true) {
            return;
        }
        if known.closed == [true; 2] {
            self.connections.remove(&connection);
            return;
        }
        if self.hosts.get(host).is_none_or(|host| host.up) {
            self.stream(connection, host, Streamed::Closed);
        }
    }

    /// Returns what arrives now, and where, if it does.
    pub(crate) fn arrives(
        &mut self,
        connection: u64,
        side: usize,
        number: u64,
        body: Streamed,
    ) -> Option<(usize, usize, Streamed)> {
        let known = self.connections.get_mut(&connection)?;
        let (from, to) = (known.ends[side], known.ends[1 - side]);
        if known.closed[1 - side] {
            return None;
        }
        // TCP tries again, and gives nothing to the process out of order.
        if self.net.is_cut(from, to) || known.taken[side] != number {
            let span = if known.taken[side] == number { 100 } else { 5 };
            self.after(span * MS, Event::Stream { connection, side, number, body });
            return None;
        }
        known.taken[side] += 1;
        known.heard = self.now;
        Some((from, to, body))
    }

    /// Returns whether a packet gets there and back now.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        let stands = |at: usize| self.hosts.get(at).is_none_or(|h| h.up && h.frozen.is_none());
        stands(from) && stands(to) && !self.net.is_cut(from, to) && !self.net.is_cut(to, from)
    }
}
