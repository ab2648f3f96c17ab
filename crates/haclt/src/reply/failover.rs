//! A failover by order: who would become primary, and at which cost.

use ha_core::{Epoch, NodeId};
use ha_proto::v1;

use super::{MalformedReply, optional_name, text, texts};

/// Who would become primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverPlan {
    /// Who holds the lease now.
    pub holder: Option<NodeId>,
    /// Whether its database serves.
    pub serving: bool,
    /// Who would; none if nobody can be chosen.
    pub winner: Option<NodeId>,
    /// Why that one.
    pub evidence: Option<String>,
    /// The others, and why not.
    pub refusals: Vec<String>,
    /// Bytes of WAL that are known and would be lost.
    pub lost_bytes: Option<u64>,
    /// What that means.
    pub lost: Option<String>,
    /// Expected time until writes are accepted, milliseconds.
    pub expected_ms: u64,
    /// The latest epoch.
    pub epoch: Epoch,
    /// Whether it would be so without accepting a loss.
    pub proven: bool,
}

impl TryFrom<v1::FailoverPlanReply> for FailoverPlan {
    type Error = MalformedReply;

    fn try_from(wire: v1::FailoverPlanReply) -> Result<Self, MalformedReply> {
        Ok(Self {
            holder: optional_name(&wire.holder)?,
            serving: wire.serving,
            winner: optional_name(&wire.winner)?,
            evidence: text(&wire.evidence),
            refusals: texts(&wire.refusals),
            lost_bytes: wire.lost_bytes,
            lost: text(&wire.lost),
            expected_ms: wire.expected_ms,
            epoch: Epoch(wire.epoch),
            proven: wire.proven,
        })
    }
}
