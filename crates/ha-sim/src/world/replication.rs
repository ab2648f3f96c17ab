//! Streaming: who may follow whom, and how connections end.

use super::event::{Event, Streamed};
use super::kernel::MS;
use super::pg::Sender;
use super::state::World;
use super::wal::{Wal, lsn};

/// How often connections are made and looked after.
const TICK: u64 = 100 * MS;
/// How long nothing may be heard on a connection.
const SILENT_MAX: u64 = 6000 * MS;
/// How many records before the end an empty store begins: a segment begins before what is written now.
const SEGMENT: usize = 20;

impl World {
    /// Standbys connect to whom they follow; connections that are dead end.
    pub(crate) fn tick(&mut self) {
        self.after(TICK, Event::Tick);
        for host in 0..self.hosts.len() {
            let here = &self.hosts[host];
            if !here.up || here.frozen.is_some() {
                continue;
            }
            let Some(pg) = &here.pg else { continue };
            let Some(server) = &pg.server else { continue };
            let idle = server.receiver.is_none() && !server.promoting && !server.stopping;
            if server.up
                && server.recovery
                && idle
                && let Some(from) = pg.data.upstream
            {
                self.follow(host, from);
            }
        }
        self.end_silent();
    }

    fn end_silent(&mut self) {
        let now = self.now;
        let nodes = self.hosts.len();
        let all: Vec<(u64, [usize; 2], u64)> = self
            .connections
            .iter()
            .map(|(id, connection)| (*id, connection.ends, connection.heard))
            .collect();
        for (id, ends, heard) in all {
            if ends.contains(&nodes) {
                continue;
            }
            let gone = self.connections.get(&id).is_some_and(|it| it.closed.contains(&true));
            if self.reaches(ends[0], ends[1]) && !gone {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.heard = now;
                }
            } else if gone && self.reaches(ends[0], ends[1]) {
                // A packet to a process that is not there is refused.
                for end in ends {
                    self.hang_up(id, end);
                    self.connection_ended(id, end);
                }
            } else if now - heard > SILENT_MAX {
                // A process that stands still notices when it runs again.
                for end in ends {
                    if self.hosts[end].frozen.is_none() {
                        self.hang_up(id, end);
                        self.connection_ended(id, end);
                    }
                }
            }
        }
    }

    /// One end of a replication connection learns that it is over.
    pub(crate) fn connection_ended(&mut self, id: u64, at: usize) {
        if let Some(server) = self.server(at) {
            server.senders.retain(|_, sender| sender.connection != id);
            server.receiver = server.receiver.filter(|(own, _)| *own != id);
        }
        if let Some(kept) = &mut self.hosts[at].kept {
            kept.receiver = kept.receiver.filter(|(own, _)| *own != id);
        }
    }

    /// Whether a server can send what comes after that WAL: it is on a timeline of its history, and not
    /// ahead of it.
    ///
    /// # Sources
    /// PostgreSQL, `walsender.c: StartReplication`.
    fn can_continue(theirs: &Wal, ours: &Wal) -> bool {
        let end = ours.len();
        let timeline = ours.timeline_at(end);
        if timeline == theirs.timeline_at(theirs.flushed) {
            return end <= theirs.flushed;
        }
        let history = theirs.history_at(theirs.flushed);
        history.iter().any(|switch| switch.timeline == timeline && lsn(end) <= switch.end)
    }

    fn follow(&mut self, host: usize, from: usize) {
        if !self.reaches(host, from) {
            return;
        }
        let up = self.server(from).is_some_and(|server| server.up && server.last.is_none());
        let (Some(ours), Some(theirs)) = (self.hosts[host].wal(), self.hosts[from].wal()) else {
            return;
        };
        if !up || !Self::can_continue(theirs, ours) {
            return;
        }
        if !ours.is_prefix_of(theirs) {
            let name = self.hosts[host].name.clone();
            self.violated(format!("{name} follows although it has WAL that the other lacks"));
            return;
        }
        let (sent, flushed) = (ours.len(), ours.flushed);
        let connection = self.connect(host, from);
        if let Some(server) = self.server(host) {
            server.receiver = Some((connection, from));
        }
        self.begin_to_send(from, host, connection, sent);
        self.stream(connection, host, Streamed::Flushed(flushed));
        self.tell(host, "streams");
    }

    fn begin_to_send(&mut self, from: usize, to: usize, connection: u64, sent: usize) {
        let Some(server) = self.server(from) else { return };
        let sync = server.sync.clone();
        let sender = Sender { connection, sent, flushed: 0, sync };
        if let Some(old) = server.senders.insert(to, sender) {
            self.hang_up(old.connection, from);
        }
        self.send_wal(from);
    }

    /// A witness begins to receive. Returns whether it does.
    pub(crate) fn begin_to_receive(&mut self, host: usize, from: usize) -> bool {
        let writable = self.hosts[from].pg.as_ref().is_some_and(super::pg::Pg::is_writable);
        if !self.reaches(host, from) || !writable {
            return false;
        }
        let theirs = self.pg(from).data.wal.clone();
        let kept = self.hosts[host].kept.as_mut().expect("a witness that keeps WAL");
        if kept.wal.len() == 0 {
            let base = theirs.flushed.saturating_sub(SEGMENT);
            kept.wal = Wal::from(base, &theirs.history_at(theirs.flushed));
        }
        if !Self::can_continue(&theirs, &kept.wal) {
            return false;
        }
        if !kept.wal.is_prefix_of(&theirs) {
            let name = self.hosts[host].name.clone();
            self.violated(format!("{name} receives although it has WAL that the other lacks"));
            return false;
        }
        let (sent, flushed) = (kept.wal.len(), kept.wal.flushed);
        let connection = self.connect(host, from);
        let kept = self.hosts[host].kept.as_mut().expect("a witness that keeps WAL");
        kept.receiver = Some((connection, from));
        kept.flushing = false;
        self.begin_to_send(from, host, connection, sent);
        self.stream(connection, host, Streamed::Flushed(flushed));
        self.tell(host, "receives");
        true
    }

    /// WAL arrives at a witness.
    fn kept_received(
        &mut self,
        host: usize,
        connection: u64,
        from: usize,
        new: &[super::wal::Record],
    ) {
        let Some(kept) = &mut self.hosts[host].kept else { return };
        let own = kept.receiver.is_some_and(|(own, _)| own == connection);
        if !own || from != kept.wal.len() {
            return;
        }
        for record in new {
            kept.wal.push(*record);
        }
        if !std::mem::replace(&mut kept.flushing, true) {
            self.flush_kept(host);
        }
    }

    fn flush_kept(&mut self, host: usize) {
        let to = self.hosts[host].kept.as_ref().map_or(0, |kept| kept.wal.len());
        let boots = self.hosts[host].boots;
        let span = self.disk_takes(host);
        self.after(span, Event::KeptFlushed { host, boots, to });
    }

    /// What a witness received is on its disk.
    pub(crate) fn kept_flushed(&mut self, host: usize, to: usize) {
        let Some(kept) = &mut self.hosts[host].kept else { return };
        kept.flushing = false;
        let Some((connection, _)) = kept.receiver else { return };
        kept.wal.flushed = kept.wal.flushed.max(to.min(kept.wal.len()));
        let more = kept.wal.len() > kept.wal.flushed;
        kept.flushing = more;
        let flushed = kept.wal.flushed;
        self.stream(connection, host, Streamed::Flushed(flushed));
        if more {
            self.flush_kept(host);
        }
    }

    /// Something arrives on a connection.
    pub(crate) fn streamed(&mut self, connection: u64, from: usize, to: usize, body: Streamed) {
        if to == self.hosts.len() {
            self.client_hears(connection, &body);
            return;
        }
        match body {
            Streamed::Wal { from: at, records } => {
                if self.hosts[to].pg.is_some() {
                    self.received(to, connection, at, &records);
                } else {
                    self.kept_received(to, connection, at, &records);
                }
            }
            Streamed::Flushed(at) => self.receiver_flushed(to, from, connection, at),
            Streamed::Commit { write } => self.commit(to, connection, write),
            Streamed::Closed => {
                self.hang_up(connection, to);
                self.connection_ended(connection, to);
                if let Some(server) = self.server(to) {
                    server.sessions.remove(&connection);
                    server.waiting.retain(|waiting| waiting.connection != connection);
                }
            }
            Streamed::Committed { .. } | Streamed::Rejected { .. } => {}
        }
    }
}
