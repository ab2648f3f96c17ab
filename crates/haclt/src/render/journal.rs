//! What happened, for people.

use crate::render::grid::grid;
use crate::render::units;
use crate::reply::journal::{Event, EventReport, Promotion};
use crate::reply::schedule::Scheduled;

const EVENTS: [&str; 6] = ["ID", "TIME", "EPOCH", "EVENT", "NODE", "WHAT"];
const HISTORY: [&str; 7] = ["EPOCH", "NODE", "TIMELINE", "BEGAN AT", "TIME", "WHY", "ENDED"];
const SCHEDULE: [&str; 4] = ["ID", "DUE", "TO", "BY"];

/// Returns a line for each event, or says that there is none.
#[must_use]
pub fn events(events: &[Event]) -> String {
    if events.is_empty() {
        return "no event is remembered\n".to_owned();
    }
    let rows: Vec<_> = events.iter().map(cells).collect();
    grid(EVENTS, &[0, 2], &rows)
}

/// Returns one event on a line of its own.
#[must_use]
pub fn line(event: &Event) -> String {
    cells(event).join("  ").trim_end().to_owned()
}

fn cells(event: &Event) -> [String; 6] {
    let star = if event.logged { "*" } else { "" };
    [
        format!("{star}{}", event.id),
        units::utc(event.at_unix_ms),
        event.epoch.to_string(),
        event.kind.clone(),
        event.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        what(event),
    ]
}

fn what(event: &Event) -> String {
    let mut text = event.text.clone().unwrap_or_default();
    let mut add = |more: String| {
        let between = if text.is_empty() { "" } else { ", " };
        text.push_str(between);
        text.push_str(&more);
    };
    if let Some(lsn) = &event.lsn {
        let timeline = event.timeline.map_or_else(String::new, |it| format!("@{it}"));
        add(format!("at {lsn}{timeline}"));
    }
    if let Some(took) = event.took_ms {
        add(format!("took {took} ms"));
    }
    if let Some(by) = &event.by {
        add(format!("by {by}"));
    }
    text
}

/// Returns one event and the log of it.
#[must_use]
pub fn report(report: &EventReport) -> String {
    let mut text = format!("{}\n", line(&report.event));
    for line in &report.lines {
        text.extend([line, "\n"]);
    }
    match &report.note {
        Some(note) => text.extend(["note: ", note, "\n"]),
        None if report.lines.is_empty() => text.push_str("note: no log is kept of it\n"),
        None => {}
    }
    text
}

/// Returns a line for each promotion, or says that there is none.
#[must_use]
pub fn history(promotions: &[Promotion]) -> String {
    if promotions.is_empty() {
        return "no promotion is remembered\n".to_owned();
    }
    let rows: Vec<_> = promotions
        .iter()
        .map(|promotion| {
            [
                promotion.epoch.to_string(),
                promotion.node.to_string(),
                promotion.timeline.to_string(),
                promotion.lsn.to_string(),
                units::utc(promotion.at_unix_ms),
                promotion.why.clone().unwrap_or_default(),
                promotion.ended.clone().unwrap_or_default(),
            ]
        })
        .collect();
    grid(HISTORY, &[0, 2], &rows)
}

/// Returns a line for each switchover to come, or says that there is none.
#[must_use]
pub fn schedule(scheduled: &[Scheduled]) -> String {
    if scheduled.is_empty() {
        return "no switchover is scheduled\n".to_owned();
    }
    let rows: Vec<_> = scheduled
        .iter()
        .map(|entry| {
            let to = entry.to.as_ref().map_or("the fittest standby", |to| to.as_str());
            [entry.id.to_string(), units::utc(entry.due_unix_ms), to.to_owned(), entry.by.clone()]
        })
        .collect();
    grid(SCHEDULE, &[0], &rows)
}
