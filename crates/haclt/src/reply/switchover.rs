//! A switchover: what would come of it, and how far it is.

use std::time::Duration;

use ha_core::{Epoch, NodeId};
use ha_proto::v1;

use super::{MalformedReply, name, optional_name, plain, text};

/// What would come of a switchover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverPlan {
    /// The primary.
    pub from: NodeId,
    /// Who would take over; none if nobody can.
    pub to: Option<NodeId>,
    /// The grant that would end.
    pub epoch: Epoch,
    /// What speaks against it, or is to be known.
    pub findings: Vec<Finding>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub text: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Only to be known.
    Note,
    /// Somebody may be hurt.
    Warning,
    /// It is not done.
    Refusal,
}

impl Severity {
    /// Returns the word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Refusal => "refusal",
        }
    }
}

impl From<&v1::Finding> for Finding {
    fn from(wire: &v1::Finding) -> Self {
        // What we do not know is not taken lightly.
        let known = [Severity::Note, Severity::Warning];
        let severity = known.into_iter().find(|known| known.word() == wire.severity);
        Self { severity: severity.unwrap_or(Severity::Refusal), text: plain(&wire.text) }
    }
}

/// Returns what forbids an operation, if anything does.
#[must_use]
pub fn refusal(findings: &[Finding]) -> Option<String> {
    let refusals = findings.iter().filter(|finding| finding.severity == Severity::Refusal);
    let texts: Vec<&str> = refusals.map(|finding| finding.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

impl SwitchoverPlan {
    /// Returns why it is not done, if it is not.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        refusal(&self.findings)
    }
}

/// How far a switchover is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switchover {
    /// How it ended, if it has.
    pub outcome: SwitchoverOutcome,
    /// Why it ended so, or what is awaited.
    pub why: Option<String>,
    /// Who holds the lease now.
    pub primary: Option<NodeId>,
    /// Under which epoch; the latest one if nobody holds it.
    pub epoch: Epoch,
    /// What was done so far.
    pub steps: Vec<SwitchoverStep>,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchoverStep {
    /// Its name.
    pub name: String,
    /// More.
    pub detail: Option<String>,
    /// When, since the order was taken.
    pub at: Duration,
}

/// How a switchover ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchoverOutcome {
    /// It has not.
    Running,
    /// The other node is primary.
    Done,
    /// The old primary still is, under the grant that it had.
    NotDone,
    /// It went another way.
    Elsewhere,
}

impl SwitchoverOutcome {
    const ALL: [Self; 4] = [Self::Running, Self::Done, Self::NotDone, Self::Elsewhere];

    /// Returns the word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::NotDone => "not_done",
            Self::Elsewhere => "elsewhere",
        }
    }
}

impl TryFrom<v1::SwitchoverPlanReply> for SwitchoverPlan {
    type Error = MalformedReply;

    fn try_from(wire: v1::SwitchoverPlanReply) -> Result<Self, MalformedReply> {
        let v1::SwitchoverPlanReply { from, to, epoch, findings } = wire;
        let findings = findings.into_iter().map(|finding| {
            // What we do not know is not taken lightly.
            let known = [Severity::Note, Severity::Warning];
            let severity = known.into_iter().find(|known| known.word() == finding.severity);
            Finding { severity: severity.unwrap_or(Severity::Refusal), text: plain(&finding.text) }
        });
        Ok(Self {
            from: name(&from)?,
            to: optional_name(&to)?,
            epoch: Epoch(epoch),
            findings: findings.collect(),
        })
    }
}

impl TryFrom<v1::SwitchoverReply> for Switchover {
    type Error = MalformedReply;

    fn try_from(wire: v1::SwitchoverReply) -> Result<Self, MalformedReply> {
        let v1::SwitchoverReply { outcome, why, primary, epoch, steps } = wire;
        let outcome = SwitchoverOutcome::ALL
            .into_iter()
            .find(|known| known.word() == outcome)
            .ok_or(MalformedReply::Outcome { text: outcome })?;
        let steps = steps.into_iter().map(|step| SwitchoverStep {
            name: plain(&step.name),
            detail: text(&step.detail),
            at: Duration::from_millis(step.at_ms),
        });
        Ok(Self {
            outcome,
            why: text(&why),
            primary: optional_name(&primary)?,
            epoch: Epoch(epoch),
            steps: steps.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_of_an_unknown_severity_is_a_refusal() {
        let finding = |severity: &str| v1::Finding { severity: severity.into(), text: "x".into() };
        let plan = |severity: &str| {
            let findings = vec![finding("note"), finding(severity)];
            let wire = v1::SwitchoverPlanReply {
                from: "n1".into(),
                findings,
                ..v1::SwitchoverPlanReply::default()
            };
            SwitchoverPlan::try_from(wire).unwrap().refusal()
        };
        assert_eq!(plan("warning"), None);
        assert_eq!(plan("refusal"), Some("x".to_owned()));
        assert_eq!(plan("disaster"), Some("x".to_owned()));
    }
}
