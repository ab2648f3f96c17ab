//! The trait's implementation over a [`FakeWorld`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_core::ancestry::{Relation, TimelineSwitch, compare};
use ha_core::permit::{ExitHow, GuardStatus, Permit, RunState};
use ha_core::{Epoch, Lsn, NodeId, TimelineId, WalPosition};
use tokio::time::{Instant, sleep, sleep_until};

use super::control::control;
use super::{
    CLONE_BYTES, Data, FIRST_LSN, FakeWorld, Presence, STEP, Server, SetUp, World, boot, boot_now,
};
use crate::attempt::Attempt;
use crate::diverged::{Diverged, SUMMARY_FILE};
use crate::driver::{
    ActionError, Checkup, ClusterApplied, ClusterConf, ControlFile, DataDir, Detached, Effect,
    GuardSeen, HalfMade, Knock, PostgresDriver, Probe, ProbeError, Receivers, Reloaded, Survey,
    Synchronous, Upstream, UpstreamHistory, Verdict,
};
use crate::wal::files::Tip;

/// Runs one node of a [`FakeWorld`].
#[derive(Debug, Clone)]
pub struct FakeDriver {
    pub(super) world: FakeWorld,
    pub(super) node: NodeId,
}

impl FakeDriver {
    pub(super) const fn new(world: FakeWorld, node: NodeId) -> Self {
        Self { world, node }
    }

    /// Looks at or changes this node after letting the world run on.
    pub(super) fn here<T>(&self, act: impl FnOnce(&mut Server) -> T) -> T {
        let mut world = self.world.lock();
        world.tick();
        act(world.servers.get_mut(&self.node).expect("a driver's node is in its world"))
    }

    /// Waits as a frozen server makes one wait.
    pub(super) async fn answered(
        &self,
        during: &'static str,
        deadline: Instant,
    ) -> Result<(), ProbeError> {
        let began = Instant::now();
        if self.here(|server| server.running.is_none()) {
            return Err(ProbeError::Refused);
        }
        if self.here(|server| server.switches.frozen) {
            sleep_until(deadline).await;
            let waited_ms = ha_core::clock::millis(began.elapsed());
            return Err(ProbeError::TimedOut { during, waited_ms });
        }
        Ok(())
    }

    pub(super) async fn reached(&self, attempt: &Attempt) -> Result<(), ActionError> {
        self.answered("connecting", attempt.deadline()).await.map_err(|error| match error {
            ProbeError::TimedOut { .. } => attempt.timed_out(),
            error => attempt.refused(error),
        })
    }

    /// Changes the stopped data directory.
    fn change<T>(
        &self,
        attempt: &Attempt,
        act: impl FnOnce(&mut Server) -> Result<T, ActionError>,
    ) -> Result<T, ActionError> {
        self.here(|server| {
            if server.running.is_some() {
                return Err(attempt.refused("a process runs on the data directory"));
            }
            act(server)
        })
    }

    /// Returns the data of a reachable upstream, and whether it accepts writes.
    pub(super) fn source(
        &self,
        upstream: &Upstream,
        attempt: &Attempt,
    ) -> Result<(Data, bool), ActionError> {
        let mut world = self.world.lock();
        world.tick();
        let world: &World = &world;
        let node = world.addresses.get(&(upstream.host.clone(), upstream.port));
        let server = node.and_then(|node| world.reachable(&self.node, node));
        let server = server.ok_or_else(|| attempt.refused("connection refused"))?;
        Ok((server.data.clone(), server.running.is_some_and(|running| !running.in_recovery)))
    }

    fn prepare(
        &self,
        standby: bool,
        upstream: Option<&Upstream>,
        admit: bool,
    ) -> Result<(), ActionError> {
        let attempt = Attempt::new("prepare the start", Instant::now());
        self.change(&attempt, |server| {
            if server.data.presence != Presence::Present {
                return Err(attempt.cannot(format!("the data is {:?}", server.data.presence)));
            }
            server.set_up = Some(set_up(standby, upstream));
            server.admits = admit;
            Ok(())
        })
    }

    /// Puts the upstream's data in place, as a clone and a rewind do.
    async fn take_over(
        &self,
        upstream: &Upstream,
        kind: HalfMade,
        attempt: &Attempt,
    ) -> Result<(), ActionError> {
        self.change(attempt, |server| {
            server.data.presence = Presence::HalfMade(kind);
            Ok(())
        })?;
        sleep(STEP).await;
        if attempt.left().is_zero() {
            return Err(attempt.timed_out());
        }
        let (data, _) = self.source(upstream, attempt)?;
        self.change(attempt, |server| {
            server.data = data;
            server.set_up = Some(set_up(true, Some(upstream)));
            Ok(())
        })
    }
}

fn set_up(standby: bool, upstream: Option<&Upstream>) -> SetUp {
    SetUp { standby, upstream: upstream.map(|it| (it.host.clone(), it.port)) }
}

impl PostgresDriver for FakeDriver {
    fn guard(&self) -> GuardSeen {
        self.here(|server| match &server.guard {
            None => GuardSeen::Absent,
            Some(last) if server.switches.guard_frozen => {
                let silent_ms = ha_core::clock::millis(boot_now().since(last.heartbeat));
                GuardSeen::Silent { silent_ms, last: Some(last.clone()) }
            }
            Some(status) => GuardSeen::Alive(status.clone()),
        })
    }

    async fn ensure_guard(&self, _deadline: Instant) -> Result<(), ActionError> {
        self.here(|server| {
            server.guard.get_or_insert_with(|| GuardStatus {
                boot: boot(),
                guard_pid: 4710,
                heartbeat: boot_now(),
                run: 0,
                state: RunState::Idle,
                postmaster: None,
                exit: None,
                primary_epoch: Epoch::NONE,
                realtime: false,
                margin: Some(server.margin),
                deadline: None,
                reason: String::new(),
            });
        });
        Ok(())
    }

    fn read_permit(&self) -> Result<Option<Permit>, ActionError> {
        Ok(self.here(|server| server.permit.filter(|permit| permit.boot == boot())))
    }

    fn write_permit(&self, permit: &Permit) -> Result<(), ActionError> {
        self.here(|server| server.permit = Some(*permit));
        self.here(|_| ());
        Ok(())
    }

    async fn kill_guard(&self, _deadline: Instant) -> Result<(), ActionError> {
        self.here(|server| {
            if server.switches.guard_frozen {
                server.end(RunState::Exited, ExitHow::Signal(9), "");
                server.guard = None;
                server.switches.guard_frozen = false;
            }
        });
        Ok(())
    }

    async fn stop_guard(&self, _deadline: Instant) -> Result<(), ActionError> {
        self.here(|server| {
            server.guard.take_if(|status| status.state.is_gone());
        });
        Ok(())
    }

    async fn end_tools(&self, _deadline: Instant) {}

    async fn kill_orphans(&self, _deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new("kill orphaned processes", Instant::now());
        match self.guard() {
            GuardSeen::Absent => Ok(()),
            _ => Err(attempt.cannot("a guard holds the lock: it alone may kill")),
        }
    }

    async fn inspect(&self, _deadline: Instant) -> DataDir {
        self.here(|server| match server.data.presence {
            _ if server.switches.mount_gone => DataDir::Missing,
            Presence::Empty => DataDir::Empty,
            Presence::HalfMade(kind) => DataDir::HalfMade(kind),
            Presence::Present => DataDir::Present(control(server)),
        })
    }

    async fn probe(&self, deadline: Instant) -> Result<Probe, ProbeError> {
        self.answered("reading the state", deadline).await?;
        let mut world = self.world.lock();
        world.tick();
        let source = world.source_of(&self.node);
        let attached = world.receivers_of(&self.node).into_iter();
        let attached = attached.map(|(node, flushed)| (node.to_string(), flushed)).collect();
        let upstream_end = source.as_ref().and_then(|source| world.servers.get(source));
        let upstream_end = upstream_end.map_or(Lsn::ZERO, |server| server.data.flushed);
        let server = world.servers.get(&self.node).ok_or(ProbeError::Refused)?;
        let in_recovery = server.running.ok_or(ProbeError::Refused)?.in_recovery;
        let data = &server.data;
        Ok(Probe {
            in_recovery,
            system_identifier: data.system_identifier,
            version_num: 150_000,
            timeline: data.timeline,
            flushed: data.flushed,
            replayed: data.replayed,
            streaming: source.is_some(),
            upstream_end,
            pending_restart: false,
            attached,
            busy_clients: 0,
            synchronous: server.synchronous.setting(),
            wal_receiver: source.is_some(),
            checkpoint_on_timeline: !in_recovery && data.checkpointed == data.timeline,
        })
    }

    async fn probe_write(&self, deadline: Instant) -> Result<(), ProbeError> {
        self.answered("writing", deadline).await?;
        if self.here(|server| server.switches.disk_full) {
            return Err(ProbeError::CannotWrite("no space left on device".to_owned()));
        }
        let written = self.world.write(&self.node, 64);
        written.map(drop).ok_or_else(|| ProbeError::Other("it is in recovery".to_owned()))
    }

    async fn initdb(&self, _deadline: Instant) -> Result<ControlFile, ActionError> {
        let attempt = Attempt::new("initialise a database cluster", Instant::now());
        sleep(STEP).await;
        let identifier = {
            let mut world = self.world.lock();
            world.clusters_made += 1;
            7_000_000 + world.clusters_made
        };
        self.change(&attempt, |server| {
            if server.data.presence == Presence::Present {
                return Err(attempt.cannot("the data directory is not empty"));
            }
            server.data = Server::new(server.margin).data;
            server.data.presence = Presence::Present;
            server.data.system_identifier = identifier;
            server.data.flushed = Lsn(FIRST_LSN.0 + 0x0050_0000);
            server.data.replayed = server.data.flushed;
            server.set_up = Some(set_up(true, None));
            Ok(control(server))
        })
    }

    async fn clone_from(
        &self,
        upstream: &Upstream,
        _max_rate_kib: Option<u32>,
        progress: &(dyn Fn(u64, Option<u64>) + Send + Sync),
        deadline: Instant,
    ) -> Result<(), ActionError> {
        let attempt = Attempt::new(format!("clone from {}", upstream.node), deadline);
        self.source(upstream, &attempt)?;
        progress(0, Some(CLONE_BYTES));
        self.take_over(upstream, HalfMade::Clone, &attempt).await?;
        progress(CLONE_BYTES, Some(CLONE_BYTES));
        Ok(())
    }

    async fn reload(&self, _deadline: Instant) -> Result<Reloaded, ActionError> {
        Ok(Reloaded::default())
    }

    fn want(&self, _conf: Option<ClusterConf>) {}

    async fn apply_cluster(
        &self,
        _standby: bool,
        _deadline: Instant,
    ) -> Result<ClusterApplied, ActionError> {
        Ok(ClusterApplied::default())
    }

    fn condemn_cluster(&self) -> Result<bool, ActionError> {
        Ok(false)
    }

    async fn check_parameters(
        &self,
        values: &BTreeMap<String, String>,
        _deadline: Instant,
    ) -> Result<BTreeMap<String, Verdict>, ActionError> {
        Ok(values.keys().map(|name| (name.clone(), Verdict::Reload)).collect())
    }

    async fn rewind(&self, upstream: &Upstream, deadline: Instant) -> Result<(), ActionError> {
        let attempt = Attempt::new(format!("rewind to follow {}", upstream.node), deadline);
        loop {
            let (data, writable) = self.source(upstream, &attempt)?;
            if writable && data.checkpointed == data.timeline {
                break;
            }
            if attempt.left().is_zero() {
                return Err(attempt.timed_out());
            }
            sleep(STEP).await;
        }
        let (source, _) = self.source(upstream, &attempt)?;
        let ours = self.here(|server| server.data.clone());
        if source.system_identifier != ours.system_identifier {
            return Err(attempt.cannot("it is another database cluster"));
        }
        let (timeline, flushed) = (source.timeline, source.flushed);
        match compare(ours.end(), &ours.history, timeline, &source.history, flushed) {
            Relation::Ancestor => return self.prepare(true, Some(upstream), true),
            Relation::Unrelated => return Err(attempt.cannot("the histories share nothing")),
            Relation::Diverged { .. } if ours.timeline == source.timeline => {
                return Err(attempt.cannot("both wrote the same timeline"));
            }
            Relation::Diverged { .. } => {}
        }
        if self.here(|server| server.switches.rewind_fails) {
            self.here(|server| server.data.presence = Presence::HalfMade(HalfMade::Rewind));
            return Err(attempt.failed("pg_rewind: could not find WAL", Effect::Unknown));
        }
        self.take_over(upstream, HalfMade::Rewind, &attempt).await
    }

    /// Its WAL is but a number: only the summary is written, without transactions.
    async fn keep_diverged(
        &self,
        fork: WalPosition,
        end: WalPosition,
        into: &Path,
        deadline: Instant,
    ) -> Result<Diverged, ActionError> {
        let attempt = Attempt::new(format!("keep diverged WAL in {}", into.display()), deadline);
        let bytes = end.lsn.bytes_after(fork.lsn);
        if bytes == 0 {
            return Err(attempt.cannot(format!("{end} is not after {fork}")));
        }
        self.change(&attempt, |_| Ok(()))?;
        sleep(STEP).await;
        let kept = Diverged {
            fork,
            end,
            bytes,
            copied_bytes: bytes,
            transactions: Vec::new(),
            transactions_total: 0,
            truncated: false,
            note: Some("the server is not real".to_owned()),
        };
        let file = into.join(SUMMARY_FILE);
        let text = serde_json::to_string(&kept).map_err(|error| attempt.refused(error))?;
        let written = std::fs::create_dir_all(into).and_then(|()| std::fs::write(&file, text));
        written.map_err(|error| attempt.refused(format!("{}: {error}", file.display())))?;
        Ok(kept)
    }

    async fn adopt_wal(&self, _files: &[PathBuf], deadline: Instant) -> Result<(), ActionError> {
        self.change(&Attempt::new("adopt WAL", deadline), |_| Ok(()))
    }

    async fn prepare_standby(
        &self,
        upstream: Option<&Upstream>,
        _deadline: Instant,
    ) -> Result<(), ActionError> {
        self.prepare(true, upstream, true)
    }

    async fn prepare_restart_in_place(
        &self,
        admit: bool,
        _deadline: Instant,
    ) -> Result<(), ActionError> {
        self.prepare(false, None, admit)
    }

    async fn follow(
        &self,
        upstream: Option<&Upstream>,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        self.reached(&Attempt::new("follow", deadline)).await?;
        self.here(|server| server.set_up = Some(set_up(true, upstream)));
        Ok(())
    }

    async fn promote(&self, deadline: Instant) -> Result<WalPosition, ActionError> {
        let attempt = Attempt::new("promote", deadline);
        self.reached(&attempt).await?;
        sleep(STEP).await;
        self.here(|server| {
            let running = server.running.as_mut();
            let running = running.ok_or_else(|| attempt.failed("it ended", Effect::Unknown))?;
            if running.in_recovery {
                running.in_recovery = false;
                let Data { timeline, history, flushed, replayed, .. } = &mut server.data;
                history.push(TimelineSwitch { timeline: *timeline, end: *flushed });
                *timeline = TimelineId(timeline.0 + 1);
                flushed.0 += 42;
                *replayed = *flushed;
                server.set_up = Some(set_up(false, None));
            }
            let lsn = server.data.history.last().map_or(Lsn::ZERO, |switch| switch.end);
            Ok(WalPosition { timeline: server.data.timeline, lsn })
        })
    }

    async fn checkpoint(&self, deadline: Instant) -> Result<(), ActionError> {
        self.reached(&Attempt::new("checkpoint", deadline)).await?;
        self.here(|server| server.data.checkpointed = server.data.timeline);
        Ok(())
    }

    async fn keep_internal_user(&self, deadline: Instant) -> Result<bool, ActionError> {
        self.reached(&Attempt::new("keep the internal user", deadline)).await?;
        Ok(false)
    }

    async fn keep_slots(
        &self,
        peers: &[NodeId],
        positions: &[(NodeId, Lsn)],
        gone: &[NodeId],
        deadline: Instant,
    ) -> Result<Vec<NodeId>, ActionError> {
        self.reached(&Attempt::new("keep replication slots", deadline)).await?;
        self.here(|server| {
            let replayed = server.data.replayed;
            server.slots.retain(|peer, _| !gone.contains(peer));
            for peer in peers.iter().filter(|peer| **peer != self.node) {
                server.slots.entry(peer.clone()).or_insert(replayed);
            }
            for (peer, position) in positions {
                if let Some(slot) = server.slots.get_mut(peer) {
                    *slot = (*slot).max(replayed.min(*position));
                }
            }
        });
        Ok(Vec::new())
    }

    async fn set_synchronous(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        self.say_synchronous(to, deadline).await
    }

    async fn receivers(&self, deadline: Instant) -> Result<Receivers, ProbeError> {
        self.look_at_receivers(deadline).await
    }

    async fn settle_synchronous(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> Result<Lsn, ActionError> {
        self.settle(to, deadline).await
    }

    async fn admit_clients(&self, admit: bool, deadline: Instant) -> Result<(), ActionError> {
        self.let_in(admit, deadline).await
    }

    async fn detach(&self, deadline: Instant) -> Result<Detached, ActionError> {
        self.stop_receiving(deadline).await
    }

    fn spool(&self) -> PathBuf {
        format!("/fake/{}.haclt/spool", self.node).into()
    }

    fn clear_spool(&self) -> Result<(), ActionError> {
        Ok(())
    }

    fn wal_dir(&self) -> PathBuf {
        format!("/fake/{}/pg_wal", self.node).into()
    }

    async fn end_of_wal(&self, _deadline: Instant) -> Result<WalPosition, ActionError> {
        let attempt = Attempt::new("find the end of WAL", Instant::now());
        self.change(&attempt, |server| Ok(server.data.end()))
    }

    fn wal_tip(&self, position: WalPosition) -> Result<Tip, ActionError> {
        let (end, history, wal_scan) = self.here(|server| {
            (server.data.end(), server.data.history.clone(), server.switches.wal_scan)
        });
        let end = end.max(position);
        std::thread::sleep(wal_scan);
        Ok(Tip { end, written: end, history, oldest: end.lsn, damaged: None })
    }

    fn local_history(&self) -> Result<Vec<TimelineSwitch>, ActionError> {
        Ok(self.here(|server| server.data.history.clone()))
    }

    async fn upstream_history(
        &self,
        upstream: &Upstream,
        deadline: Instant,
    ) -> Result<UpstreamHistory, ActionError> {
        let attempt = Attempt::new(format!("read the history of {}", upstream.node), deadline);
        let (data, writable) = self.source(upstream, &attempt)?;
        Ok(UpstreamHistory {
            system_identifier: data.system_identifier,
            timeline: data.timeline,
            switches: data.history,
            flushed: data.flushed,
            writable,
            checkpoint_on_timeline: writable && data.checkpointed == data.timeline,
            kept_from: Some(Lsn(1)),
        })
    }

    async fn move_aside(&self, why: &str, deadline: Instant) -> Result<PathBuf, ActionError> {
        let attempt = Attempt::new("move the data directory aside", deadline);
        self.change(&attempt, |server| {
            server.moved_aside += 1;
            server.data = Server::new(server.margin).data;
            server.set_up = None;
            Ok(PathBuf::from(format!("/fake/aside-{:04}-{why}", server.moved_aside)))
        })
    }

    fn prune_aside(&self, keep: usize) -> Result<Vec<PathBuf>, ActionError> {
        Ok(self.here(|server| {
            let surplus =
                server.moved_aside.saturating_sub(u32::try_from(keep).unwrap_or(u32::MAX));
            server.moved_aside -= surplus;
            (1..=surplus).map(|number| format!("/fake/aside-{number:04}").into()).collect()
        }))
    }

    fn free_bytes(&self) -> Result<u64, ActionError> {
        Ok(if self.here(|server| server.switches.disk_full) { 0 } else { 1 << 40 })
    }

    fn margin(&self) -> Duration {
        self.here(|server| server.margin)
    }

    async fn survey(&self, _deadline: Instant) -> Result<Survey, ActionError> {
        Ok(Survey::default())
    }

    async fn checkup(&self, deadline: Instant) -> Result<Checkup, ProbeError> {
        self.measure(deadline).await
    }

    async fn knock(&self, at: &Upstream, deadline: Instant) -> Vec<Knock> {
        self.knock_at(at, &Attempt::new("log in", deadline))
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn container_id(&self) -> Option<String> {
        None
    }

    async fn changed(&self) {
        std::future::pending::<()>().await;
    }
}
