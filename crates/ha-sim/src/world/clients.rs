//! Clients that write, keep their sessions across faults, and note what became of each write.

use super::event::{Event, Streamed};
use super::kernel::{MS, Time};
use super::state::World;

/// How long a client waits for its commit before it calls it unknown.
const PATIENCE: u64 = 1500 * MS;

/// One client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Whether it stays with a session whose server does not answer.
    pub(crate) stubborn: bool,
    session: Option<(u64, usize)>,
    waits_for: Option<(u64, Time)>,
    next_host: usize,
    turn: u64,
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    /// When the latest write succeeded.
    pub(crate) last_ok: Time,
}

impl Client {
    pub(crate) fn new(stubborn: bool) -> Self {
        Self { stubborn, ..Self::default() }
    }
}

impl World {
    fn next_turn(&mut self, index: usize, span: u64) {
        let client = &mut self.clients[index];
        client.turn += 1;
        let turn = client.turn;
        self.after(span, Event::Client { index, turn });
    }

    /// A client does its next thing.
    pub(crate) fn client_turn(&mut self, index: usize, turn: u64) {
        if self.clients[index].turn != turn {
            return;
        }
        let now = self.now;
        let client = &mut self.clients[index];
        if let Some((_, since)) = client.waits_for {
            if now - since < PATIENCE {
                self.next_turn(index, PATIENCE - (now - since));
                return;
            }
            // It gave up waiting: the write may be there or not.
            client.unknown += 1;
            client.waits_for = None;
            if !client.stubborn || self.rng.chance(500) {
                self.leave_session(index);
            }
        }
        if self.clients[index].session.is_none() && !self.open_session(index) {
            let span = self.rng.range(20, 60) * MS;
            self.next_turn(index, span);
            return;
        }
        let write = self.next_id();
        let here = self.hosts.len();
        let client = &mut self.clients[index];
        client.waits_for = Some((write, now));
        if let Some((connection, _)) = client.session {
            self.stream(connection, here, Streamed::Commit { write });
        }
        self.next_turn(index, PATIENCE);
    }

    fn leave_session(&mut self, index: usize) {
        let here = self.hosts.len();
        if let Some((connection, _)) = self.clients[index].session.take() {
            self.hang_up(connection, here);
        }
    }

    /// Tries the next node: only one that accepts writes lets it in.
    fn open_session(&mut self, index: usize) -> bool {
        let nodes = self.hosts.len();
        let client = &mut self.clients[index];
        client.next_host = (client.next_host + 1) % nodes;
        let host = client.next_host;
        if !self.reaches(nodes, host) {
            return false;
        }
        let Some(server) = self.server(host) else { return false };
        if !server.up || server.recovery || server.stopping || !server.admits {
            return false;
        }
        let connection = self.connect(host, nodes);
        if let Some(server) = self.server(host) {
            server.sessions.insert(connection);
        }
        self.clients[index].session = Some((connection, host));
        true
    }

    /// A client hears from its server.
    pub(crate) fn client_hears(&mut self, connection: u64, body: &Streamed) {
        let found =
            self.clients.iter().position(|c| c.session.is_some_and(|(own, _)| own == connection));
        let Some(index) = found else { return };
        let now = self.now;
        let client = &mut self.clients[index];
        let waited = client.waits_for.map(|(write, _)| write);
        match body {
            Streamed::Committed { write } if waited == Some(*write) => {
                client.ok += 1;
                client.last_ok = now;
                client.waits_for = None;
            }
            Streamed::Rejected { write } if waited == Some(*write) => {
                client.failed += 1;
                client.waits_for = None;
                self.leave_session(index);
            }
            Streamed::Closed => {
                client.unknown += u64::from(waited.is_some());
                client.waits_for = None;
                self.leave_session(index);
            }
            _ => return,
        }
        let span = self.rng.range(30, 250) * MS;
        self.next_turn(index, span);
    }
}
