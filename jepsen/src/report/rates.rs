//! Latency and rate over time, with the faults.

use std::collections::{BTreeMap, BTreeSet};

use super::markup::{LEFT, PLOT, Picture};
use crate::checker::recovery::windows;
use crate::history::{History, Kind, Process};

const TOP: u64 = 80;
const BOTTOM: u64 = 380;
const HEIGHT: u64 = 430;

/// A client's operation that ended: its end in nanoseconds, how long it took, and how it ended.
fn ends(history: &History) -> impl Iterator<Item = (u64, u64, Kind)> {
    history.pairs().into_iter().filter(|pair| pair.invoke.process != Process::Nemesis).filter_map(
        |pair| {
            let end = pair.completion?;
            Some((end.time_ns, end.time_ns - pair.invoke.time_ns, end.kind))
        },
    )
}

/// Returns how high a latency is in the picture: a factor of ten is the same everywhere, from 0.1 ms
/// up to 100 s. Whole numbers only, so that the picture is the same on every machine.
fn height(latency_ns: u64) -> u64 {
    let (mut decade, mut low) = (0, 100_000_u64);
    while decade < 5 && latency_ns >= low * 10 {
        low *= 10;
        decade += 1;
    }
    let band = (BOTTOM - TOP) / 6;
    // Within a decade the scale is straight.
    let share = latency_ns.clamp(low, low * 10) - low;
    BOTTOM - decade * band - band * share / (low * 9)
}

/// Draws when each operation ended and how long it took.
#[must_use]
pub fn latency(history: &History) -> String {
    let mut picture = Picture::new("latency", history.end_ns(), HEIGHT);
    for (label, latency_ns) in [
        ("0.1 ms", 100_000),
        ("1 ms", 1_000_000),
        ("10 ms", 10_000_000),
        ("100 ms", 100_000_000),
        ("1 s", 1_000_000_000),
        ("10 s", 10_000_000_000),
    ] {
        let y = height(latency_ns);
        picture.shape(format_args!("<path d=\"M{LEFT} {y}h{PLOT}\" class=\"grid\"/>"));
        picture.text(30, y + 4, "small", label);
    }
    picture.faults(&windows(history), TOP, BOTTOM);
    // What would lie on the same spot is drawn once.
    let spots: BTreeSet<(Kind, u64, u64)> = ends(history)
        .map(|(end_ns, latency_ns, kind)| (kind, picture.x(end_ns), height(latency_ns)))
        .collect();
    for (kind, x, y) in spots {
        let class = kind.word();
        picture.shape(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"1.5\" class=\"{class}\"/>"));
    }
    legend(&mut picture);
    picture.seconds(BOTTOM);
    picture.finish()
}

/// Draws how many operations ended each second, and how.
#[must_use]
pub fn rate(history: &History) -> String {
    let until_ns = history.end_ns().max(1);
    let mut picture = Picture::new("operations per second", until_ns, HEIGHT);
    // At least a second, and at most so many steps as can be told apart.
    let step_ns = (until_ns / 300).max(1_000_000_000);
    let steps = until_ns / step_ns + 1;
    let mut counts: BTreeMap<(Kind, u64), u64> = BTreeMap::new();
    for (end_ns, _, kind) in ends(history) {
        *counts.entry((kind, end_ns / step_ns)).or_default() += 1;
    }
    let per_second = |count: u64| count * 1_000_000_000 / step_ns;
    let most = counts.values().copied().map(per_second).max().unwrap_or(0).max(1);
    let y = |rate: u64| BOTTOM - (BOTTOM - TOP) * rate / most;
    for part in [most, most / 2] {
        let at = y(part);
        picture.shape(format_args!("<path d=\"M{LEFT} {at}h{PLOT}\" class=\"grid\"/>"));
        picture.text(30, at + 4, "small", &part.to_string());
    }
    picture.faults(&windows(history), TOP, BOTTOM);
    for kind in [Kind::Ok, Kind::Fail, Kind::Info] {
        let point = |step: u64| {
            let count = counts.get(&(kind, step)).copied().unwrap_or(0);
            // In the middle of its step.
            format!("{},{}", picture.x(step * step_ns + step_ns / 2), y(per_second(count)))
        };
        let points: Vec<String> = (0..steps).map(point).collect();
        let (points, class) = (points.join(" "), kind.word());
        picture.shape(format_args!(
            "<polyline points=\"{points}\" class=\"{class} line\" style=\"fill:none\"/>"
        ));
    }
    legend(&mut picture);
    picture.seconds(BOTTOM);
    picture.finish()
}

fn legend(picture: &mut Picture) {
    for (place, (kind, word)) in
        [(Kind::Ok, "ok"), (Kind::Fail, "fail"), (Kind::Info, "info")].into_iter().enumerate()
    {
        let x = LEFT + 70 * place as u64;
        let class = kind.word();
        picture.shape(format_args!(
            "<rect x=\"{x}\" y=\"408\" width=\"10\" height=\"10\" class=\"{class}\"/>"
        ));
        picture.text(x + 14, 418, "small", word);
    }
}
