//! Switchovers, for programs.

use ha_core::NodeId;
use ha_core::clock::millis;
use serde::Serialize;

use super::{Layout, object};
use crate::reply::switchover::{Switchover, SwitchoverPlan};

#[derive(Serialize)]
struct Plan<'a> {
    from: &'a NodeId,
    to: Option<&'a NodeId>,
    epoch: u64,
    possible: bool,
    findings: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    severity: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
struct Ended<'a> {
    from: &'a NodeId,
    to: &'a NodeId,
    outcome: &'a str,
    why: Option<&'a str>,
    primary: Option<&'a NodeId>,
    epoch: u64,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    name: &'a str,
    detail: Option<&'a str>,
    at_ms: u64,
}

/// Returns a plan as one JSON object and a line feed.
#[must_use]
pub fn switchover_plan(plan: &SwitchoverPlan, layout: Layout) -> String {
    let findings = plan.findings.iter();
    let shown = Plan {
        from: &plan.from,
        to: plan.to.as_ref(),
        epoch: plan.epoch.0,
        possible: plan.to.is_some() && plan.refusal().is_none(),
        findings: findings
            .map(|finding| Finding { severity: finding.severity.word(), text: &finding.text })
            .collect(),
    };
    object(&shown, layout)
}

/// Returns how a switchover ended as one JSON object and a line feed.
#[must_use]
pub fn switchover(from: &NodeId, to: &NodeId, ended: &Switchover, layout: Layout) -> String {
    let steps = ended.steps.iter().map(|step| Step {
        name: &step.name,
        detail: step.detail.as_deref(),
        at_ms: millis(step.at),
    });
    let shown = Ended {
        from,
        to,
        outcome: ended.outcome.word(),
        why: ended.why.as_deref(),
        primary: ended.primary.as_ref(),
        epoch: ended.epoch.0,
        steps: steps.collect(),
    };
    object(&shown, layout)
}
