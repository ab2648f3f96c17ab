//! A PostgreSQL server, as far as failover depends on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ha_core::permit::StopMode;
use ha_core::wal_quorum::Quorum;

use super::event::{Event, ServerEvent, Streamed};
use super::guard::{Action, Guard};
use super::kernel::MS;
use super::mutation::Mutation;
use super::state::World;
use super::wal::{Record, Wal, lsn};

/// What `pg_control` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    InProduction,
    ShutDown,
    InRecovery,
}

/// What an interrupted tool leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Rewind,
    Clone,
}

/// `synchronous_standby_names`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Synchronous {
    /// Commits wait for nobody.
    Nobody,
    /// Commits wait for a name that nobody has.
    Closed,
    /// Commits wait for that many of them.
    Any(u32, BTreeSet<usize>),
}

/// A data directory.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    pub(crate) wal: Wal,
    pub(crate) control: Control,
    pub(crate) standby_signal: bool,
    pub(crate) half: Option<Half>,
    /// `postgresql.conf` and its like.
    pub(crate) sync: Synchronous,
    pub(crate) upstream: Option<usize>,
    pub(crate) admits: bool,
    /// The timeline of the latest checkpoint.
    pub(crate) checkpoint: u32,
}

/// A walsender: who receives, and how far it has flushed.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) connection: u64,
    pub(crate) sent: usize,
    pub(crate) flushed: usize,
    /// The setting that this process goes by; a reload takes a moment to arrive.
    pub(crate) sync: Synchronous,
}

/// A commit that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) write: u64,
    pub(crate) connection: u64,
    /// The end of its record.
    pub(crate) end: usize,
}

/// One run of a server.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a server can be each of these beside the others"
)]
pub(crate) struct Server {
    pub(crate) run: u64,
    pub(crate) up: bool,
    pub(crate) recovery: bool,
    pub(crate) promoting: bool,
    pub(crate) stopping: bool,
    /// Its shutdown checkpoint ends there; it ends once its receivers have it.
    pub(crate) last: Option<usize>,
    pub(crate) flushing: bool,
    pub(crate) receiver: Option<(u64, usize)>,
    pub(crate) senders: BTreeMap<usize, Sender>,
    pub(crate) sync: Synchronous,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) sessions: BTreeSet<u64>,
    pub(crate) admits: bool,
}

/// A node's server, its data and its guard.
#[derive(Debug, Clone)]
pub(crate) struct Pg {
    pub(crate) data: Data,
    pub(crate) guard: Guard,
    pub(crate) server: Option<Server>,
}

impl Pg {
    pub(crate) fn new(wal: Wal) -> Self {
        let data = Data {
            wal,
            control: Control::ShutDown,
            standby_signal: false,
            half: None,
            sync: Synchronous::Nobody,
            upstream: None,
            admits: true,
            checkpoint: 1,
        };
        Self { data, guard: Guard::after(0), server: None }
    }

    /// Returns whether the server accepts writes.
    pub(crate) fn is_writable(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.up && !server.recovery)
    }
}

impl World {
    pub(crate) fn pg(&mut self, host: usize) -> &mut Pg {
        self.hosts[host].pg.as_mut().expect("a data node")
    }

    pub(crate) fn server(&mut self, host: usize) -> Option<&mut Server> {
        self.hosts[host].pg.as_mut()?.server.as_mut()
    }

    fn later(&mut self, host: usize, span: u64, what: ServerEvent) {
        let Some(run) = self.server(host).map(|server| server.run) else { return };
        let boots = self.hosts[host].boots;
        self.after(span, Event::Server { host, run, boots, what });
    }

    /// The guard of a host looks, and acts until nothing is left to do.
    pub(crate) fn guard_looks(&mut self, host: usize) {
        if self.hosts[host].pg.is_none() {
            return;
        }
        let margin = self.policy.margin;
        let now = self.now;
        let at = self.hosts[host].clock.read(now).boottime;
        let permit = self.hosts[host].permit;
        if self.mutation == Some(Mutation::GuardOff) {
            // It still starts and stops as it is told.
            self.guard_acts(host, |guard, seen| {
                guard.decide(permit, seen, (ha_core::BootNanos(0), now), margin)
            });
            return;
        }
        self.guard_acts(host, |guard, seen| guard.decide(permit, seen, (at, now), margin));
        let pg = self.pg(host);
        // What is being killed needs no further look before it is gone, and a guard that is gone has none.
        let killing = matches!(pg.guard.phase, super::guard::Phase::Killing { .. });
        let right = pg.guard.right.filter(|_| pg.guard.alive && pg.guard.is_busy() && !killing);
        // Killed late, because it stood still, it is judged by what it does until it is gone.
        self.hosts[host].tainted &= killing;
        if let Some((_, deadline)) = right {
            let boots = self.hosts[host].boots;
            let span = self.hosts[host].clock.until(now, deadline.before(margin));
            self.after(span.max(1), Event::Guard { host, boots });
        }
    }

    fn guard_acts(
        &mut self,
        host: usize,
        mut decide: impl FnMut(&mut Guard, (bool, bool)) -> Action,
    ) {
        for _ in 0..4 {
            let pg = self.pg(host);
            if !pg.guard.alive {
                return;
            }
            let seen = (pg.server.is_none(), pg.data.standby_signal);
            match decide(&mut pg.guard, seen) {
                Action::Stay => return,
                Action::Start => self.start_server(host),
                Action::Stop(mode) => {
                    self.tell(host, &format!("guard stops the server, {mode:?}"));
                    self.stop_server(host, mode);
                    let boots = self.hosts[host].boots;
                    self.after(2_001 * MS, Event::Guard { host, boots });
                }
                Action::Kill => {
                    self.tell(host, "guard kills the server: its right has ended");
                    let span = self.rng.range(1, 60) * MS;
                    self.later(host, span, ServerEvent::Gone);
                }
            }
        }
    }

    fn start_server(&mut self, host: usize) {
        let pg = self.pg(host);
        let recovery = pg.data.standby_signal;
        // The server syncs its directory before it recovers: what was written is durable now.
        pg.data.wal.flushed = pg.data.wal.len();
        pg.server = Some(Server {
            run: pg.guard.run,
            up: false,
            recovery,
            promoting: false,
            stopping: false,
            last: None,
            flushing: false,
            receiver: None,
            senders: BTreeMap::new(),
            sync: pg.data.sync.clone(),
            waiting: VecDeque::new(),
            sessions: BTreeSet::new(),
            admits: pg.data.admits,
        });
        let how = if recovery { "as a standby" } else { "as a primary, in place" };
        self.tell(host, &format!("server starts {how}"));
        let slow = if self.rng.chance(50) { 2_000 } else { 150 };
        let span = self.rng.range(20, slow) * MS;
        self.later(host, span, ServerEvent::Up);
    }

    fn stop_server(&mut self, host: usize, mode: StopMode) {
        let Some(server) = self.server(host) else { return };
        let fresh = !std::mem::replace(&mut server.stopping, true);
        let in_order = mode == StopMode::Fast && server.up;
        let recovery = server.recovery;
        if in_order && fresh {
            self.drop_sessions(host);
            let span = self.rng.range(10, 40) * MS;
            let what = if recovery { ServerEvent::Gone } else { ServerEvent::ShutDown };
            if recovery {
                self.pg(host).data.control = Control::InRecovery;
            }
            self.later(host, span, what);
        } else if !in_order {
            let span = self.rng.range(2, 40) * MS;
            self.later(host, span, ServerEvent::Gone);
        }
    }

    /// Clients are disconnected; what waited is written, and nobody knows whether it counts.
    fn drop_sessions(&mut self, host: usize) {
        let Some(server) = self.server(host) else { return };
        let sessions = std::mem::take(&mut server.sessions);
        server.waiting.clear();
        for connection in sessions {
            self.hang_up(connection, host);
        }
    }

    /// Something about a run happens.
    pub(crate) fn server_event(&mut self, host: usize, what: ServerEvent) {
        match what {
            ServerEvent::Up => {
                let pg = self.pg(host);
                let Some(server) = pg.server.as_mut() else { return };
                if std::mem::replace(&mut server.up, true) {
                    return;
                }
                pg.data.control =
                    if server.recovery { Control::InRecovery } else { Control::InProduction };
                if !server.recovery {
                    let timeline = pg.data.wal.timeline_at(pg.data.wal.len()).0;
                    pg.data.checkpoint = timeline;
                    self.write_record(host, timeline);
                    self.goes_on_to_serve(host);
                }
                self.tell(host, "server is up");
            }
            ServerEvent::Flushed(to) => self.flushed(host, to),
            ServerEvent::Promoted => self.promoted(host),
            ServerEvent::ShutDown => {
                let timeline = {
                    let wal = &self.pg(host).data.wal;
                    wal.timeline_at(wal.len()).0
                };
                self.write_record(host, timeline);
                let last = self.pg(host).data.wal.len();
                if let Some(server) = self.server(host) {
                    server.last = Some(last);
                }
                self.end_if_shut_down(host);
            }
            ServerEvent::Gone => self.server_gone(host, "server is gone"),
            ServerEvent::Reloaded => {
                let Some(server) = self.server(host) else { return };
                let sync = server.sync.clone();
                for sender in server.senders.values_mut() {
                    sender.sync = sync.clone();
                }
                if sync == Synchronous::Nobody {
                    self.release(host, usize::MAX);
                }
            }
        }
    }

    /// No process of the run is left.
    pub(crate) fn server_gone(&mut self, host: usize, text: &str) {
        let Some(pg) = self.hosts[host].pg.as_mut() else { return };
        let Some(server) = pg.server.take() else { return };
        self.hosts[host].tainted = false;
        let receivers = server.senders.values().map(|sender| sender.connection);
        let connections: Vec<u64> = receivers
            .chain(server.receiver.map(|(connection, _)| connection))
            .chain(server.sessions.iter().copied())
            .collect();
        for connection in connections {
            self.hang_up(connection, host);
        }
        self.tell(host, text);
        let boots = self.hosts[host].boots;
        let span = self.polled();
        self.after(span, Event::Guard { host, boots });
        self.wake_agent(host);
    }

    fn write_record(&mut self, host: usize, timeline: u32) -> usize {
        let id = self.next_id();
        let wal = &mut self.pg(host).data.wal;
        wal.push(Record { id, timeline });
        let end = wal.len();
        self.flush(host);
        end
    }

    /// Has everything that was written flushed, unless that is under way.
    fn flush(&mut self, host: usize) {
        let to = self.pg(host).data.wal.len();
        let Some(server) = self.server(host) else { return };
        if !std::mem::replace(&mut server.flushing, true) {
            let span = self.disk_takes(host);
            self.later(host, span, ServerEvent::Flushed(to));
        }
    }

    fn flushed(&mut self, host: usize, to: usize) {
        if self.hosts[host].disk.full > 0 {
            self.server_gone(host, "server panics: no space left for WAL");
            return;
        }
        let pg = self.pg(host);
        let Some(server) = pg.server.as_mut() else { return };
        server.flushing = false;
        let to = to.min(pg.data.wal.len());
        pg.data.wal.flushed = pg.data.wal.flushed.max(to);
        let more = pg.data.wal.len() > pg.data.wal.flushed;
        let told = server.receiver.filter(|_| server.recovery);
        let alone = !server.recovery && server.sync == Synchronous::Nobody;
        if let Some((connection, _)) = told {
            let flushed = self.pg(host).data.wal.flushed;
            self.stream(connection, host, Streamed::Flushed(flushed));
        }
        if alone {
            self.release(host, usize::MAX);
        }
        self.send_wal(host);
        self.end_if_shut_down(host);
        if more {
            self.flush(host);
        }
    }

    /// Every receiver is sent what was flushed since.
    pub(crate) fn send_wal(&mut self, host: usize) {
        let pg = self.pg(host);
        let Some(server) = pg.server.as_mut() else { return };
        let mut out = Vec::new();
        for sender in server.senders.values_mut() {
            if sender.sent < pg.data.wal.flushed {
                let records = pg.data.wal.slice(sender.sent, pg.data.wal.flushed);
                out.push((sender.connection, Streamed::Wal { from: sender.sent, records }));
                sender.sent = pg.data.wal.flushed;
            }
        }
        for (connection, body) in out {
            self.stream(connection, host, body);
        }
    }

    /// A receiver has flushed: its walsender lets go what that is enough for.
    pub(crate) fn receiver_flushed(&mut self, host: usize, by: usize, connection: u64, to: usize) {
        let Some(server) = self.server(host) else { return };
        let Some(sender) = server.senders.get_mut(&by).filter(|s| s.connection == connection)
        else {
            return;
        };
        sender.flushed = sender.flushed.max(to);
        let released = match sender.sync.clone() {
            Synchronous::Any(required, members) if members.contains(&by) => {
                let mut all: Vec<usize> = members
                    .iter()
                    .filter_map(|member| server.senders.get(member))
                    .map(|sender| sender.flushed)
                    .collect();
                all.sort_unstable_by(|a, b| b.cmp(a));
                let needed = usize::try_from(required).expect("few nodes");
                needed.checked_sub(1).and_then(|at| all.get(at).copied())
            }
            Synchronous::Any(..) | Synchronous::Nobody | Synchronous::Closed => None,
        };
        if let Some(released) = released {
            self.release(host, released);
        }
        self.end_if_shut_down(host);
    }

    /// Commits up to a position are acknowledged, as far as they are flushed here.
    fn release(&mut self, host: usize, to: usize) {
        let pg = self.pg(host);
        let to = to.min(pg.data.wal.flushed);
        let Some(server) = pg.server.as_mut().filter(|server| !server.recovery) else { return };
        let mut done = Vec::new();
        while let Some(first) = server.waiting.front().filter(|waiting| waiting.end <= to) {
            done.push(*first);
            server.waiting.pop_front();
        }
        for Waiting { write, connection, end } in done {
            self.acknowledged(host, write, end);
            self.stream(connection, host, Streamed::Committed { write });
        }
    }

    /// A client commits on a connection.
    pub(crate) fn commit(&mut self, host: usize, connection: u64, write: u64) {
        let pg = self.pg(host);
        let can = pg.server.as_ref().is_some_and(|server| {
            server.up
                && !server.recovery
                && !server.stopping
                && server.sessions.contains(&connection)
        });
        if !can {
            self.stream(connection, host, Streamed::Rejected { write });
            return;
        }
        let pg = self.pg(host);
        let timeline = pg.data.wal.timeline_at(pg.data.wal.len()).0;
        let end = self.write_record(host, timeline);
        let id = self.pg(host).data.wal.get(end - 1).map_or(0, |record| record.id);
        self.oracle.written(write, id, end);
        if let Some(server) = self.server(host) {
            server.waiting.push_back(Waiting { write, connection, end });
        }
    }

    /// WAL arrives at a standby.
    pub(crate) fn received(&mut self, host: usize, connection: u64, from: usize, new: &[Record]) {
        let pg = self.pg(host);
        let streams = pg.server.as_ref().is_some_and(|server| {
            server.recovery && server.receiver.is_some_and(|(own, _)| own == connection)
        });
        if !streams || from != pg.data.wal.len() {
            return;
        }
        for record in new {
            pg.data.wal.push(*record);
        }
        self.flush(host);
    }

    /// Ends recovery: takes a moment, and begins a timeline.
    pub(crate) fn begin_promotion(&mut self, host: usize) -> bool {
        let Some(server) = self.server(host) else { return false };
        if !server.up || !server.recovery || server.stopping {
            return false;
        }
        if !std::mem::replace(&mut server.promoting, true) {
            let span = self.rng.range(30, 110) * MS;
            self.later(host, span, ServerEvent::Promoted);
        }
        true
    }

    fn promoted(&mut self, host: usize) {
        self.stop_receiving(host);
        let pg = self.pg(host);
        let Some(server) = pg.server.as_mut().filter(|server| server.recovery) else { return };
        server.recovery = false;
        pg.data.standby_signal = false;
        pg.data.control = Control::InProduction;
        pg.data.wal.flushed = pg.data.wal.len();
        let timeline = pg.data.wal.timeline_at(pg.data.wal.len()).0 + 1;
        let at = lsn(pg.data.wal.len());
        self.write_record(host, timeline);
        self.tell(host, &format!("promoted: timeline {timeline} begins at {at}"));
        self.begins_to_serve(host);
    }

    /// A standby stops receiving; what it has is flushed.
    pub(crate) fn stop_receiving(&mut self, host: usize) {
        let Some(server) = self.server(host) else { return };
        if let Some((connection, _)) = server.receiver.take() {
            self.hang_up(connection, host);
        }
    }

    fn end_if_shut_down(&mut self, host: usize) {
        let pg = self.pg(host);
        let Some(server) = pg.server.as_ref() else { return };
        let Some(last) = server.last else { return };
        let sent = server.senders.values().all(|sender| sender.flushed >= last);
        if pg.data.wal.flushed >= last && sent {
            pg.data.control = Control::ShutDown;
            self.server_gone(host, "server has shut down in order");
        }
    }

    /// The setting is changed and read: by the server at once, by its walsenders a moment later.
    pub(crate) fn set_synchronous(&mut self, host: usize, sync: &Synchronous) {
        self.pg(host).data.sync = sync.clone();
        if self.reads_late(host) {
            return;
        }
        let Some(server) = self.server(host) else { return };
        server.sync = sync.clone();
        let span = self.rng.range(1, 30) * MS;
        self.later(host, span, ServerEvent::Reloaded);
    }

    /// What a quorum means to a server.
    pub(crate) fn synchronous(&self, quorum: &Quorum) -> Synchronous {
        if quorum.is_alone() {
            return Synchronous::Nobody;
        }
        let index = |node: &ha_core::NodeId| self.hosts.iter().position(|h| h.name == *node);
        Synchronous::Any(quorum.required, quorum.members.iter().filter_map(index).collect())
    }
}
