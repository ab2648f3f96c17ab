//! Who acknowledges commits, who may log in, and standbys that are detached, in a [`FakeWorld`].

use ha_core::Lsn;
use ha_core::NodeId;
use tokio::time::Instant;

use super::{FakeDriver, FakeWorld, World};
use crate::attempt::Attempt;
use crate::driver::{ActionError, Detached, ProbeError, Receiver, Receivers, Synchronous};

impl FakeWorld {
    /// Returns up to where the commits of a running primary are acknowledged; none if every one waits.
    #[must_use]
    pub fn acknowledged(&self, node: &NodeId) -> Option<Lsn> {
        let mut world = self.lock();
        world.tick();
        let server = world.servers.get(node)?;
        server.running.filter(|running| !running.in_recovery)?;
        match &server.synchronous {
            Synchronous::Closed => None,
            to if to.setting().is_empty() => Some(server.data.flushed),
            Synchronous::Nobody => Some(server.data.flushed),
            Synchronous::Any { required, members } => {
                let receivers = world.receivers_of(node);
                let mut flushed: Vec<Lsn> = receivers
                    .into_iter()
                    .filter(|(name, _)| members.contains(name))
                    .map(|(_, flushed)| flushed)
                    .collect();
                flushed.sort_unstable();
                let enough = usize::try_from(*required).ok()?;
                flushed.len().checked_sub(enough).and_then(|at| flushed.get(at)).copied()
            }
        }
    }

    /// Returns whether ordinary clients are let in by a node's server.
    #[must_use]
    pub fn admits(&self, node: &NodeId) -> bool {
        self.lock().servers.get(node).is_some_and(|server| server.admits)
    }
}

impl World {
    /// Returns who streams from `node` now, and what they have flushed.
    pub(super) fn receivers_of(&self, node: &NodeId) -> Vec<(NodeId, Lsn)> {
        self.servers
            .iter()
            .filter(|(name, _)| self.source_of(name).as_ref() == Some(node))
            .map(|(name, server)| (name.clone(), server.data.flushed))
            .collect()
    }
}

impl FakeDriver {
    pub(super) async fn say_synchronous(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> Result<(), ActionError> {
        self.reached(&Attempt::new("change synchronous_standby_names", deadline)).await?;
        self.here(|server| server.synchronous = to.clone());
        Ok(())
    }

    pub(super) async fn settle(
        &self,
        to: &Synchronous,
        deadline: Instant,
    ) -> Result<Lsn, ActionError> {
        let attempt = Attempt::new("settle synchronous_standby_names", deadline);
        self.reached(&attempt).await?;
        self.here(|server| {
            if server.running.is_none_or(|running| running.in_recovery) {
                return Err(attempt.refused("the server is in recovery"));
            }
            server.synchronous = to.clone();
            Ok(server.data.flushed)
        })
    }

    pub(super) async fn look_at_receivers(
        &self,
        deadline: Instant,
    ) -> Result<Receivers, ProbeError> {
        self.answered("looking at receivers", deadline).await?;
        let mut world = self.world.lock();
        world.tick();
        let server = world.servers.get(&self.node).ok_or(ProbeError::Refused)?;
        let in_recovery = server.running.ok_or(ProbeError::Refused)?.in_recovery;
        let setting = server.synchronous.setting();
        let receivers = world.receivers_of(&self.node).into_iter().zip(1..);
        let rows = receivers.map(|((name, flushed), at)| Receiver {
            priority: i32::from(setting.contains(&format!("\"{name}\""))),
            name: name.to_string(),
            pid: 4800 + at,
            flushed,
            state: "streaming".to_owned(),
        });
        let rows = rows.collect();
        let (flushed, timeline) = (server.data.flushed, server.data.timeline);
        let (waiting, longest_wait_ms) = (0, 0);
        Ok(Receivers { setting, flushed, timeline, in_recovery, waiting, longest_wait_ms, rows })
    }

    pub(super) async fn let_in(&self, admit: bool, deadline: Instant) -> Result<(), ActionError> {
        let what = if admit { "let clients in" } else { "keep clients out" };
        self.reached(&Attempt::new(what, deadline)).await?;
        self.here(|server| server.admits = admit);
        Ok(())
    }

    pub(super) async fn stop_receiving(&self, deadline: Instant) -> Result<Detached, ActionError> {
        let attempt = Attempt::new("stop receiving WAL", deadline);
        self.reached(&attempt).await?;
        self.here(|server| {
            if server.running.is_none_or(|running| !running.in_recovery) {
                return Err(attempt.refused("the server is not in recovery"));
            }
            if let Some(set_up) = &mut server.set_up {
                set_up.upstream = None;
            }
            let (timeline, flushed) = (server.data.timeline, server.data.flushed);
            let replayed = server.data.replayed;
            Ok(Detached { timeline, flushed, replayed, replay_timeline: timeline, exhausted: true })
        })
    }
}
