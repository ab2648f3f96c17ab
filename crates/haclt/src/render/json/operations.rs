//! Orders and what happened, for programs.

use ha_core::NodeId;
use serde::Serialize;

use super::{Layout, object};
use crate::reply::failover::FailoverPlan;
use crate::reply::journal::{self, EventReport, Promotion};
use crate::reply::order::Ordered;
use crate::reply::schedule::Scheduled;

#[derive(Serialize)]
struct Order<'a> {
    outcome: &'a str,
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct Events<'a> {
    events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    id: u64,
    at_unix_ms: u64,
    epoch: u64,
    kind: &'a str,
    node: Option<&'a NodeId>,
    by: Option<&'a str>,
    text: Option<&'a str>,
    timeline: Option<u32>,
    lsn: Option<&'a str>,
    took_ms: Option<u64>,
    logged: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    event: Event<'a>,
    log: &'a [String],
    note: Option<&'a str>,
}

#[derive(Serialize)]
struct History<'a> {
    promotions: Vec<Promoted<'a>>,
}

#[derive(Serialize)]
struct Promoted<'a> {
    epoch: u64,
    node: &'a NodeId,
    timeline: u32,
    lsn: String,
    at_unix_ms: u64,
    why: Option<&'a str>,
    ended: Option<&'a str>,
}

#[derive(Serialize)]
struct Plan<'a> {
    holder: Option<&'a NodeId>,
    serving: bool,
    winner: Option<&'a NodeId>,
    evidence: Option<&'a str>,
    proven: bool,
    lost_bytes: Option<u64>,
    lost: Option<&'a str>,
    refusals: &'a [String],
    expected_ms: u64,
    epoch: u64,
}

#[derive(Serialize)]
struct Schedule<'a> {
    scheduled: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: u64,
    due_unix_ms: u64,
    to: Option<&'a NodeId>,
    by: &'a str,
}

fn shown(event: &journal::Event) -> Event<'_> {
    Event {
        id: event.id,
        at_unix_ms: event.at_unix_ms,
        epoch: event.epoch.0,
        kind: &event.kind,
        node: event.node.as_ref(),
        by: event.by.as_deref(),
        text: event.text.as_deref(),
        timeline: event.timeline.map(|timeline| timeline.0),
        lsn: event.lsn.as_deref(),
        took_ms: event.took_ms,
        logged: event.logged,
    }
}

/// Returns what became of an order as one JSON object and a line feed.
#[must_use]
pub fn ordered(ordered: &Ordered, layout: Layout) -> String {
    let (outcome, detail) = (ordered.outcome.word(), ordered.detail.as_deref());
    object(&Order { outcome, detail }, layout)
}

/// Returns events as one JSON object and a line feed.
#[must_use]
pub fn events(events: &[journal::Event], layout: Layout) -> String {
    object(&Events { events: events.iter().map(shown).collect() }, layout)
}

/// Returns one event as one JSON object and a line feed.
#[must_use]
pub fn event(event: &journal::Event, layout: Layout) -> String {
    object(&shown(event), layout)
}

/// Returns one event and its log as one JSON object and a line feed.
#[must_use]
pub fn event_report(report: &EventReport, layout: Layout) -> String {
    let event = shown(&report.event);
    object(&Report { event, log: &report.lines, note: report.note.as_deref() }, layout)
}

/// Returns the promotions as one JSON object and a line feed.
#[must_use]
pub fn history(promotions: &[Promotion], layout: Layout) -> String {
    let promotions = promotions.iter().map(|promotion| Promoted {
        epoch: promotion.epoch.0,
        node: &promotion.node,
        timeline: promotion.timeline.0,
        lsn: promotion.lsn.to_string(),
        at_unix_ms: promotion.at_unix_ms,
        why: promotion.why.as_deref(),
        ended: promotion.ended.as_deref(),
    });
    object(&History { promotions: promotions.collect() }, layout)
}

/// Returns the plan of a failover as one JSON object and a line feed.
#[must_use]
pub fn failover_plan(plan: &FailoverPlan, layout: Layout) -> String {
    let shown = Plan {
        holder: plan.holder.as_ref(),
        serving: plan.serving,
        winner: plan.winner.as_ref(),
        evidence: plan.evidence.as_deref(),
        proven: plan.proven,
        lost_bytes: plan.lost_bytes,
        lost: plan.lost.as_deref(),
        refusals: &plan.refusals,
        expected_ms: plan.expected_ms,
        epoch: plan.epoch.0,
    };
    object(&shown, layout)
}

/// Returns the switchovers to come as one JSON object and a line feed.
#[must_use]
pub fn schedule(scheduled: &[Scheduled], layout: Layout) -> String {
    let scheduled = scheduled.iter().map(|entry| Entry {
        id: entry.id,
        due_unix_ms: entry.due_unix_ms,
        to: entry.to.as_ref(),
        by: &entry.by,
    });
    object(&Schedule { scheduled: scheduled.collect() }, layout)
}
