//! What a node says of its place in the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha_core::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, RaftMetrics, ServerState};
use tokio::sync::watch;

use crate::log_store::{LogStore, StoreStats};
use crate::state_machine::StateMachine;
use crate::types::{Member, TypeConfig};

pub(super) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(super) type Metrics = RaftMetrics<TypeConfig>;

/// Who leads, and whether this node still works. Two are equal if nothing of that has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The highest term this node has seen.
    pub term: u64,
    /// Whether this node is the leader of `term`. It may have been deposed without knowing.
    pub is_leader: bool,
    /// Why Raft has stopped on this node: the process must end and be started again.
    pub failure: Option<String>,
}

/// A node's place in the group, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftStatus {
    /// This node.
    pub node: NodeId,
    /// The leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The highest term this node has seen.
    pub term: u64,
    /// Whether this node is the leader of `term`. It may have been deposed without knowing.
    pub is_leader: bool,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Whether a change of the voters is half done: two majorities are needed until it is finished.
    pub is_joint: bool,
    /// Everyone in the group, with address and store.
    pub members: BTreeMap<NodeId, Member>,
    /// Index of the last entry in this node's log.
    pub last_log: Option<u64>,
    /// Index of the last entry applied here.
    pub last_applied: Option<u64>,
    /// Index of the last entry in this node's snapshot.
    pub snapshot: Option<u64>,
    /// How long ago what a majority has acknowledged last was sent; only the leader knows.
    pub quorum_acked_ago: Option<Duration>,
    /// Index of the last entry each member is known to have; only the leader knows.
    pub matched: BTreeMap<NodeId, Option<u64>>,
    /// How long ago what each member has acknowledged last was sent; only the leader knows.
    pub acked_ago: BTreeMap<NodeId, Option<Duration>>,
    /// What the disk has had to do.
    pub store: StoreStats,
    /// Why Raft has stopped on this node: the process must end and be started again.
    pub failure: Option<String>,
}

/// Returns a copy of openraft's metrics. Holding on to the original would stop openraft.
pub(super) fn metrics(raft: &Raft) -> Metrics {
    raft.metrics().borrow_watched().clone()
}

pub(super) fn leadership(metrics: &Metrics, store: &LogStore) -> Leadership {
    Leadership {
        leader: metrics.current_leader.as_ref().map(|id| id.0.clone()),
        term: metrics.current_term,
        is_leader: metrics.state == ServerState::Leader,
        failure: failure(metrics, store),
    }
}

pub(super) fn status(metrics: Metrics, store: &LogStore) -> RaftStatus {
    let Leadership { leader, term, is_leader, failure } = leadership(&metrics, store);
    let membership = metrics.membership_config.membership();
    let members = membership.nodes().map(|(id, member)| (id.0.clone(), member.clone()));
    let matched = metrics.replication.unwrap_or_default().into_iter();
    let acked = metrics.heartbeat.unwrap_or_default().into_iter();
    RaftStatus {
        leader,
        term,
        is_leader,
        failure,
        voters: membership.voter_ids().map(|id| id.0).collect(),
        is_joint: membership.get_joint_config().len() > 1,
        members: members.collect(),
        last_log: metrics.last_log_index,
        last_applied: metrics.last_applied.map(|id| id.index),
        snapshot: metrics.snapshot.map(|id| id.index),
        quorum_acked_ago: metrics.last_quorum_acked.map(|at| at.elapsed()),
        matched: matched.map(|(id, at)| (id.0, at.map(|at| at.index))).collect(),
        acked_ago: acked.map(|(id, at)| (id.0, at.map(|at| at.elapsed()))).collect(),
        store: store.stats(),
        node: metrics.id.0,
    }
}

fn failure(metrics: &Metrics, store: &LogStore) -> Option<String> {
    // The store's own words say more than what openraft makes of them.
    let store = store.failure().borrow().as_deref().map(str::to_owned);
    store.or_else(|| metrics.running_state.as_ref().err().map(ToString::to_string))
}

/// Publishes who leads, whenever that changes, until Raft has stopped.
pub(super) async fn watch_leadership(
    raft: Raft,
    store: LogStore,
    publish: Arc<watch::Sender<Leadership>>,
) {
    let mut metrics = raft.metrics();
    let mut failure = store.failure();
    loop {
        let seen = metrics.borrow_watched().clone();
        let now = leadership(&seen, &store);
        let stopped = now.failure.is_some();
        publish.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
        if stopped {
            // A leader that cannot write must not go on asking for heartbeats to be believed.
            stop(&raft).await;
            return;
        }
        let ended = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            // A store that ends while Raft runs has failed, whether it could say so or not.
            changed = failure.changed() => changed.is_err(),
        };
        if ended {
            publish.send_modify(|last| {
                last.is_leader = false;
                last.failure.get_or_insert_with(|| "it was shut down".to_owned());
            });
            stop(&raft).await;
            return;
        }
    }
}

async fn stop(raft: &Raft) {
    if let Err(e) = raft.shutdown().await {
        tracing::error!(error = %e, "could not stop Raft in order");
    }
}
