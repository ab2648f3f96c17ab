//! Who held the lease, and whose server may have accepted writes, as the guards say while all goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ha_core::clock::nanos;
use ha_core::permit::{GuardStatus, RunState, STATUS_FILE};
use serde_json::json;
use tokio::sync::watch;

use crate::env::Env;
use crate::journal::Journal;

/// How often the guards' files are read.
const EVERY: Duration = Duration::from_millis(50);
/// A word of a guard that is older says nothing of now: it is dead or frozen.
const FRESH: Duration = Duration::from_millis(400);

/// A span in which a node's server ran with a right to accept writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// The node.
    pub node: String,
    /// The epoch of its right.
    pub epoch: u64,
    /// When its guard first said so, in the journal's time.
    pub from: Duration,
    /// When it last did.
    pub to: Duration,
}

impl Interval {
    /// Returns it as JSON.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "node": self.node,
            "epoch": self.epoch,
            "from_ns": nanos(self.from),
            "to_ns": nanos(self.to),
        })
    }
}

/// Where the guards write.
#[derive(Debug, Clone)]
pub struct Guards(Vec<(String, PathBuf)>);

impl Guards {
    /// Returns those of an environment.
    pub fn of(env: &Env) -> Self {
        let file = |dir: &Path| dir.join(STATUS_FILE);
        let there = env.place.data_nodes().into_iter();
        let there = there.map(|name| (name.clone(), file(&env.place.permit_dir(&name))));
        let spares = env.spares.iter().filter(|node| node.is_data);
        let spares = spares.map(|node| (node.name.clone(), file(node.permit_dir())));
        Self(there.chain(spares).collect())
    }

    /// Returns the epoch under which a node's server may accept writes now; none if it may not, or if its guard
    /// does not say so just now.
    pub fn epoch(&self, node: &str) -> Option<u64> {
        self.right(node).map(|(epoch, _)| epoch)
    }

    /// The same, and how long ago the guard said so.
    fn right(&self, node: &str) -> Option<(u64, Duration)> {
        let (_, file) = self.0.iter().find(|(name, _)| name == node)?;
        let status = GuardStatus::decode(&std::fs::read_to_string(file).ok()?).ok()?;
        let now = ha_agent::clock::now().boottime;
        let age = now.0.saturating_sub(status.heartbeat.0);
        let says = status.state == RunState::Running && age <= nanos(FRESH);
        let epoch = Some(status.primary_epoch.0).filter(|epoch| says && *epoch > 0)?;
        Some((epoch, Duration::from_nanos(age)))
    }

    /// Follows all guards until told to stop, and returns what was seen.
    pub async fn follow(
        self,
        journal: Arc<Journal>,
        stopped: watch::Receiver<bool>,
    ) -> Vec<Interval> {
        let mut seen: Vec<Interval> = Vec::new();
        while !*stopped.borrow() {
            for (node, _) in &self.0 {
                let Some((epoch, ago)) = self.right(node) else { continue };
                let now = journal.now().saturating_sub(ago);
                let last = seen.iter_mut().rev().find(|i| i.node == *node && i.epoch == epoch);
                if let Some(interval) = last {
                    interval.to = now;
                } else {
                    let node = node.clone();
                    seen.push(Interval { node, epoch, from: now, to: now });
                }
            }
            tokio::time::sleep(EVERY).await;
        }
        seen
    }
}
