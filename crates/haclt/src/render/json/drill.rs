//! Drills, for programs.

use ha_core::NodeId;
use serde::Serialize;

use super::{Layout, object};
use crate::reply::drill::{DrillPlan, Measured, Seen};

#[derive(Serialize)]
struct Plan<'a> {
    kind: &'a str,
    node: &'a NodeId,
    to: Option<&'a NodeId>,
    epoch: u64,
    fault_ms: u128,
    durability: &'a str,
    measured_by: &'a NodeId,
    findings: Vec<Finding<'a>>,
    happens: &'a [String],
}

#[derive(Serialize)]
struct Finding<'a> {
    severity: &'a str,
    text: &'a str,
}

/// Returns what would happen, as one JSON object and a line feed.
#[must_use]
pub fn drill_plan(plan: &DrillPlan, layout: Layout) -> String {
    let findings = plan
        .findings
        .iter()
        .map(|found| Finding { severity: found.severity.word(), text: &found.text });
    let shown = Plan {
        kind: &plan.kind,
        node: &plan.node,
        to: plan.to.as_ref(),
        epoch: plan.epoch.0,
        fault_ms: plan.fault.as_millis(),
        durability: &plan.durability,
        measured_by: &plan.measured_by,
        findings: findings.collect(),
        happens: &plan.happens,
    };
    object(&shown, layout)
}

#[derive(Serialize)]
struct Report<'a> {
    kind: &'a str,
    node: &'a NodeId,
    fault_ms: u128,
    durability: &'a str,
    measured_by: &'a NodeId,
    gap_ms: u64,
    gap_from_ms: i64,
    resumed: bool,
    acknowledged: u64,
    lost: Option<u64>,
    failed: u64,
    unknown: u64,
    surfaced: u64,
    primary_before: &'a str,
    primary_after: Option<&'a str>,
    epoch_before: u64,
    epoch_after: u64,
    healthy: bool,
    healthy_after_ms: Option<i64>,
    awaited: Option<&'a str>,
    cleaned: bool,
    events: Vec<Event<'a>>,
    states: Vec<Sighted<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    at_ms: i64,
    kind: &'a str,
    node: Option<&'a str>,
    text: &'a str,
}

#[derive(Serialize)]
struct Sighted<'a> {
    at_ms: i64,
    node: &'a str,
    role: &'a str,
    state: &'a str,
}

/// Returns the report as one JSON object and a line feed; all moments are counted from the fault.
#[must_use]
pub fn drill(plan: &DrillPlan, seen: &Seen, result: &Measured, layout: Layout) -> String {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let since = |at_ms: u64| signed(at_ms).saturating_sub(signed(result.struck_ms));
    let events = seen.noticed.iter().map(|noticed| Event {
        at_ms: since(noticed.at_ms),
        kind: &noticed.kind,
        node: noticed.node.as_deref(),
        text: &noticed.text,
    });
    let states = seen.sights.iter().map(|sight| Sighted {
        at_ms: since(sight.at_ms),
        node: &sight.node,
        role: &sight.role,
        state: &sight.state,
    });
    let shown = Report {
        kind: &plan.kind,
        node: &plan.node,
        fault_ms: plan.fault.as_millis(),
        durability: &plan.durability,
        measured_by: &plan.measured_by,
        gap_ms: result.gap_ms,
        gap_from_ms: since(result.gap_from_ms),
        resumed: result.resumed,
        acknowledged: result.acknowledged,
        lost: result.lost,
        failed: result.failed,
        unknown: result.unknown,
        surfaced: result.surfaced,
        primary_before: &result.primary_before,
        primary_after: Some(result.primary_after.as_str()).filter(|name| !name.is_empty()),
        epoch_before: result.epoch_before,
        epoch_after: result.epoch_after,
        healthy: result.healthy,
        healthy_after_ms: result.healthy.then(|| since(result.healthy_ms)),
        awaited: Some(result.awaited.as_str()).filter(|text| !text.is_empty()),
        cleaned: result.cleaned,
        events: events.collect(),
        states: states.collect(),
    };
    object(&shown, layout)
}
