//! A restart of a node's database: what it would mean, and what became of it.

use ha_proto::v1;

use super::switchover::{Finding, refusal};
use super::{MalformedReply, filled, text, texts};

/// What a restart would mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartPlan {
    /// The role that the node has, and keeps.
    pub role: String,
    /// The run that would end.
    pub run: u64,
    /// Parameters that wait for a restart.
    pub pending: Vec<String>,
    /// What speaks against it, or is to be known.
    pub findings: Vec<Finding>,
    /// Those that a standby must have as much of as its primary, and that grow: standbys first.
    pub grows: Vec<String>,
    /// Those that shrink: the primary first.
    pub shrinks: Vec<String>,
}

impl RestartPlan {
    /// Returns why it is not done, if it is not.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        refusal(&self.findings)
    }
}

/// What became of a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    /// How far it got.
    pub outcome: RestartOutcome,
    /// What went wrong, or is awaited.
    pub why: Option<String>,
    /// The role that the node has now.
    pub role: String,
}

/// How far a restart got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartOutcome {
    /// The database does its work again.
    Done,
    /// It does not yet.
    Running,
    /// It did not in time, or was not stopped.
    Failed,
}

impl TryFrom<v1::RestartPlanReply> for RestartPlan {
    type Error = MalformedReply;

    fn try_from(wire: v1::RestartPlanReply) -> Result<Self, MalformedReply> {
        let v1::RestartPlanReply { role, run, pending, findings, grows, shrinks } = wire;
        Ok(Self {
            role: filled(&role, "role")?,
            run,
            pending: texts(&pending),
            findings: findings.iter().map(Finding::from).collect(),
            grows: texts(&grows),
            shrinks: texts(&shrinks),
        })
    }
}

impl TryFrom<v1::RestartReply> for Restarted {
    type Error = MalformedReply;

    fn try_from(wire: v1::RestartReply) -> Result<Self, MalformedReply> {
        let v1::RestartReply { outcome, why, role } = wire;
        let outcome = match outcome.as_str() {
            "done" => RestartOutcome::Done,
            "running" => RestartOutcome::Running,
            "failed" => RestartOutcome::Failed,
            _ => return Err(MalformedReply::Outcome { text: outcome }),
        };
        Ok(Self { outcome, why: text(&why), role: filled(&role, "role")? })
    }
}
