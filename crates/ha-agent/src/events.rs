//! What an operator may search the log for: one struct for each, named noun and participle.

use std::time::Duration;

use ha_core::clock::millis;
use ha_core::decide::Decision;
use ha_core::policy::Durability;
use ha_core::{Epoch, NodeId, WalPosition};
use ha_postgres::pgbouncer::Address;
use tracing::{info, warn};

/// The agent is up.
#[derive(Debug)]
pub struct AgentStarted<'a> {
    /// Its node.
    pub node: &'a NodeId,
    /// The cluster it serves.
    pub cluster: &'a str,
    /// Where it serves gRPC.
    pub grpc: &'a str,
}

impl AgentStarted<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, cluster, grpc } = self;
        let version = env!("CARGO_PKG_VERSION");
        info!(
            target: "ha::event", event = "agent_started", %node, cluster, grpc, version,
            "agent started"
        );
    }
}

/// Another rule or step than before decides.
#[derive(Debug)]
pub struct DecisionChanged<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// The epoch in force.
    pub epoch: Epoch,
    /// What was decided.
    pub decision: &'a Decision,
}

impl DecisionChanged<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, epoch, decision } = self;
        info!(
            target: "ha::event", event = "decision_changed", %node, %epoch,
            rule = decision.rule.name(), step = decision.step.name(), "decision changed"
        );
    }
}

/// Who acknowledges commits has changed, as elections see it.
#[derive(Debug)]
pub struct QuorumChanged<'a> {
    /// The primary.
    pub node: &'a NodeId,
    /// The epoch in force.
    pub epoch: Epoch,
    /// What clients are promised.
    pub mode: Durability,
    /// Who acknowledges, in words.
    pub members: &'a str,
}

impl QuorumChanged<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, epoch, mode, members } = self;
        info!(
            target: "ha::event", event = "quorum_changed", %node, %epoch, %mode, members,
            "quorum changed"
        );
    }
}

/// WAL was found that is not part of the cluster's history.
#[derive(Debug)]
pub struct WalDiverged<'a> {
    /// Whose.
    pub node: &'a NodeId,
    /// The last shared position.
    pub fork: WalPosition,
    /// Where it ends.
    pub end: WalPosition,
    /// Where it is kept.
    pub kept: &'a str,
}

impl WalDiverged<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, fork, end, kept } = self;
        let bytes = end.lsn.bytes_after(fork.lsn);
        warn!(
            target: "ha::event", event = "wal_diverged", %node, %fork, %end, bytes, kept,
            "diverged WAL was kept aside"
        );
    }
}

/// The granter gave the lease to a node.
#[derive(Debug)]
pub struct LeaseGranted<'a> {
    /// The new epoch.
    pub epoch: Epoch,
    /// To whom.
    pub to: &'a NodeId,
    /// Why that one.
    pub evidence: &'a str,
    /// How long the election took.
    pub took: Duration,
}

impl LeaseGranted<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { epoch, to, evidence, took } = self;
        info!(
            target: "ha::event", event = "lease_granted", %epoch, %to, evidence,
            took_ms = millis(*took), "lease granted"
        );
    }
}

/// Nobody renewed the lease for a whole ttl.
#[derive(Debug)]
pub struct LeaseExpired<'a> {
    /// The epoch that ends.
    pub epoch: Epoch,
    /// Who held it.
    pub holder: &'a NodeId,
}

impl LeaseExpired<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { epoch, holder } = self;
        warn!(target: "ha::event", event = "lease_expired", %epoch, %holder, "lease expired");
    }
}

/// The container that the holder's guard ran in was killed from outside, and is dead.
#[derive(Debug)]
pub struct HolderKilled<'a> {
    /// The epoch that ends.
    pub epoch: Epoch,
    /// Who held it.
    pub holder: &'a NodeId,
    /// The container's id.
    pub container: &'a str,
    /// How long it took.
    pub took: Duration,
}

impl HolderKilled<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { epoch, holder, container, took } = self;
        warn!(
            target: "ha::event", event = "holder_killed", %epoch, %holder, container,
            took_ms = millis(*took), "holder's container is dead, the lease is over"
        );
    }
}

/// The primary role was handed over because an operator wanted it.
#[derive(Debug)]
pub struct SwitchedOver<'a> {
    /// The old primary.
    pub from: &'a NodeId,
    /// The new one.
    pub to: &'a NodeId,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// How long it took, the checkpoint included.
    pub took: Duration,
}

impl SwitchedOver<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { from, to, epoch, took } = self;
        info!(
            target: "ha::event", event = "switched_over", %from, %to, %epoch,
            took_ms = millis(*took), "primary role handed over"
        );
    }
}

/// A program of the operator ended.
#[derive(Debug)]
pub struct HookEnded<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// Its name, such as `on_promote`.
    pub hook: &'a str,
    /// How it ended.
    pub outcome: &'a str,
    /// Whether that is a failure.
    pub failed: bool,
    /// How long it took.
    pub took: Duration,
}

impl HookEnded<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, hook, outcome, failed, took } = self;
        let took_ms = millis(*took);
        if *failed {
            warn!(
                target: "ha::event", event = "hook_ended", %node, hook, outcome, took_ms,
                "hook failed"
            );
        } else {
            info!(
                target: "ha::event", event = "hook_ended", %node, hook, outcome, took_ms,
                "hook ended"
            );
        }
    }
}

/// A PgBouncer sends sessions to the primary.
#[derive(Debug)]
pub struct BouncerPointed<'a> {
    /// Its console.
    pub admin: &'a Address,
    /// The primary.
    pub primary: &'a NodeId,
    /// Under which grant.
    pub epoch: Epoch,
}

impl BouncerPointed<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { admin, primary, epoch } = self;
        info!(
            target: "ha::event", event = "bouncer_pointed", pgbouncer = %admin, %primary, %epoch,
            "PgBouncer points at the primary"
        );
    }
}

/// The clients of a PgBouncer go on.
#[derive(Debug)]
pub struct BouncerResumed<'a> {
    /// Its console.
    pub admin: &'a Address,
    /// How long they may have waited.
    pub paused: Duration,
}

impl BouncerResumed<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { admin, paused } = self;
        info!(
            target: "ha::event", event = "bouncer_resumed", pgbouncer = %admin,
            paused_ms = millis(*paused), "PgBouncer resumed"
        );
    }
}

/// The holder gave the lease back.
#[derive(Debug)]
pub struct LeaseReleased<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// The rule that made it.
    pub why: &'a str,
}

impl LeaseReleased<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, epoch, why } = self;
        info!(target: "ha::event", event = "lease_released", %node, %epoch, why, "lease released");
    }
}

/// A standby became primary.
#[derive(Debug)]
pub struct NodePromoted<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// Under which grant.
    pub epoch: Epoch,
    /// Where its timeline begins.
    pub begin: WalPosition,
    /// How long it took.
    pub took: Duration,
}

impl NodePromoted<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, epoch, begin, took } = self;
        info!(
            target: "ha::event", event = "node_promoted", %node, %epoch,
            timeline = %begin.timeline, begin_lsn = %begin.lsn, took_ms = millis(*took),
            "node promoted"
        );
    }
}

/// Writes were made impossible on this node.
#[derive(Debug)]
pub struct NodeFenced<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// The epoch in force.
    pub epoch: Epoch,
    /// The rule that made it.
    pub why: &'a str,
}

impl NodeFenced<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, epoch, why } = self;
        warn!(target: "ha::event", event = "node_fenced", %node, %epoch, why, "node fenced");
    }
}

/// A step ended.
#[derive(Debug)]
pub struct StepDone<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// The step's name.
    pub step: &'a str,
    /// How long it took.
    pub took: Duration,
}

impl StepDone<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, step, took } = self;
        info!(
            target: "ha::event", event = "step_done", %node, step, took_ms = millis(*took),
            "step done"
        );
    }
}

/// A step failed, or waits; it is tried again.
#[derive(Debug)]
pub struct StepFailed<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// The step's name.
    pub step: &'a str,
    /// Why.
    pub error: &'a str,
    /// When it is tried again.
    pub retry_in: Duration,
    /// Whether it only waits for something ordinary.
    pub waits: bool,
}

impl StepFailed<'_> {
    /// Writes the log event.
    pub fn emit(&self) {
        let Self { node, step, error, retry_in, waits } = self;
        let retry_in_ms = millis(*retry_in);
        if *waits {
            info!(
                target: "ha::event", event = "step_waits", %node, step, reason = error,
                retry_in_ms, "step waits"
            );
        } else {
            warn!(
                target: "ha::event", event = "step_failed", %node, step, error, retry_in_ms,
                "step failed"
            );
        }
    }
}
