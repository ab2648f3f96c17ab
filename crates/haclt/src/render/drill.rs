//! Drills, for people.

pub mod picture;

use std::fmt::Write as _;

use crate::render::grid::grid;
use crate::render::switchover::findings_of;
use crate::reply::drill::{DrillPlan, Measured, Seen, Sight, Writes};

/// How many columns a timeline has at most.
const COLUMNS: u64 = 72;
/// The spans that a column may stand for, milliseconds.
const STEPS_MS: [u64; 8] = [100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// Returns what would happen and what speaks against it, a line each.
#[must_use]
pub fn plan(plan: &DrillPlan) -> String {
    let to = plan.to.as_ref().map_or("nobody", |to| to.as_str());
    let mut text = format!(
        "drill: {}, epoch {}, durability {}\nwould take over: {to}\nmeasured by: {}\n",
        plan.what(),
        plan.epoch,
        plan.durability,
        plan.measured_by
    );
    text.push_str("what happens:\n");
    for line in &plan.happens {
        text.extend(["  - ", line, "\n"]);
    }
    text + &findings_of(&plan.findings)
}

/// What a node is at one moment, as one character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Primary,
    Following,
    Standby,
    Witness,
    Silent,
    Down,
}

impl Look {
    pub(crate) const ALL: [Self; 6] =
        [Self::Primary, Self::Following, Self::Standby, Self::Witness, Self::Silent, Self::Down];

    pub(crate) fn of(sight: &Sight) -> Self {
        match (sight.role.as_str(), sight.state.as_str()) {
            (_, "unreachable") => Self::Silent,
            ("primary", _) => Self::Primary,
            ("standby", "streaming") => Self::Following,
            ("standby", _) => Self::Standby,
            ("witness", _) => Self::Witness,
            (_, _) => Self::Down,
        }
    }

    const fn glyph(self) -> char {
        match self {
            Self::Primary => '#',
            Self::Following => '=',
            Self::Standby => '-',
            Self::Witness => '~',
            Self::Silent => '?',
            Self::Down => '.',
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Following => "standby, streaming",
            Self::Standby => "standby, not streaming",
            Self::Witness => "witness",
            Self::Silent => "does not answer",
            Self::Down => "no database in service",
        }
    }
}

/// Returns a moment counted from the fault, with its sign.
pub(crate) fn offset(at_ms: u64, struck_ms: u64) -> String {
    if at_ms < struck_ms {
        format!("-{} ms", struck_ms - at_ms)
    } else {
        format!("+{} ms", at_ms - struck_ms)
    }
}

/// Returns the names and values of the report's first part.
pub(crate) fn figures(result: &Measured) -> Vec<(&'static str, String)> {
    let struck = result.struck_ms;
    let gap_to = result.gap_from_ms + result.gap_ms;
    let (from, to) = (offset(result.gap_from_ms, struck), offset(gap_to, struck));
    let lost = result.lost.map_or("not known".to_owned(), |lost| lost.to_string());
    let gap = if result.resumed {
        format!("{} ms, from {from} to {to}", result.gap_ms)
    } else {
        format!("{} ms, and none since", result.gap_ms)
    };
    let there = if result.unknown == 0 {
        String::new()
    } else {
        format!(", {} of them are there", result.surfaced)
    };
    let healthy = if result.healthy {
        offset(result.healthy_ms, struck)
    } else {
        format!("not yet: {}", result.awaited)
    };
    vec![
        ("write gap", gap),
        ("acknowledged", result.acknowledged.to_string()),
        ("lost", lost),
        ("failed", result.failed.to_string()),
        ("unknown", format!("{}{there}", result.unknown)),
        ("primary", format!("{} -> {}", result.primary_before, result.primary_after)),
        ("epoch", format!("{} -> {}", result.epoch_before, result.epoch_after)),
        ("healthy again", healthy),
    ]
}

/// Returns the report: figures, who noticed what when, and the timeline.
#[must_use]
pub fn report(plan: &DrillPlan, seen: &Seen, result: &Measured) -> String {
    let mut text = format!("{}, durability {}\n", plan.what(), plan.durability);
    for (name, value) in figures(result) {
        writeln!(text, "  {name:<14}{value}").ok();
    }
    if !result.cleaned && !result.trouble.is_empty() {
        writeln!(text, "  {:<14}{}", "left behind", result.trouble).ok();
    }
    text.push('\n');
    let rows = seen.noticed.iter().map(|noticed| {
        let node = noticed.node.clone().unwrap_or_else(|| "-".to_owned());
        let at = offset(noticed.at_ms, result.struck_ms);
        [at, node, noticed.kind.clone(), noticed.text.clone()]
    });
    let rows: Vec<_> = rows.collect();
    text.push_str(&grid(["OFFSET", "NODE", "NOTICED", "MORE"], &[0], &rows));
    text.push('\n');
    text + &timeline(plan, seen, result)
}

/// Returns what the nodes were, and when writes were acknowledged, as a line of characters each.
fn timeline(plan: &DrillPlan, seen: &Seen, result: &Measured) -> String {
    let until = seen.until_ms.max(1);
    let fits = |step: &&u64| until.div_ceil(**step) <= COLUMNS;
    let step = STEPS_MS.iter().find(fits).copied().unwrap_or(until.div_ceil(COLUMNS));
    let columns = until.div_ceil(step);
    let width = plan.nodes.iter().map(|node| node.as_str().len()).max().unwrap_or(0).max(6);
    let mut text = format!("each column is {step} ms\n");
    let mut lane = |name: &str, glyph: &dyn Fn(u64, u64) -> char| {
        let cells: String = (0..columns).map(|c| glyph(c * step, (c + 1) * step)).collect();
        text.extend([&format!("{name:<width$}  "), cells.trim_end(), "\n"]);
    };
    let over = Some(result.over_ms).filter(|over| *over > result.struck_ms);
    lane("", &|from, to| {
        let within = |at: u64| from <= at && at < to;
        if within(result.struck_ms) {
            'v'
        } else if over.is_some_and(within) {
            '^'
        } else {
            ' '
        }
    });
    for node in &plan.nodes {
        lane(node.as_str(), &|_, to| {
            let sights = seen.sights.iter().rev();
            let latest = sights.filter(|sight| sight.node == node.as_str()).find(|s| s.at_ms < to);
            latest.map_or(' ', |sight| Look::of(sight).glyph())
        });
    }
    // Each count is of the time since the one before it.
    let since = std::iter::once(0).chain(seen.writes.iter().map(|writes| writes.at_ms));
    let counts: Vec<_> = since.zip(&seen.writes).collect();
    lane("writes", &|from, to| {
        let any = |of: &dyn Fn(&Writes) -> u64| {
            let within = |since: u64, writes: &Writes| since < to && writes.at_ms > from;
            counts.iter().any(|(since, writes)| within(*since, writes) && of(writes) > 0)
        };
        match (any(&|writes| writes.acknowledged), any(&|writes| writes.missed)) {
            (true, _) => '|',
            (false, true) => 'x',
            (false, false) => ' ',
        }
    });
    let legend = Look::ALL.map(|look| format!("{} {}", look.glyph(), look.word())).join("   ");
    text + &format!("v fault   ^ its end   | writes acknowledged   x none of them\n{legend}\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use ha_core::Epoch;

    use super::*;
    use crate::reply::drill::Noticed;

    pub(crate) fn sample() -> (DrillPlan, Seen, Measured) {
        let plan = DrillPlan {
            kind: "freeze".into(),
            node: "n1".parse().unwrap(),
            to: Some("n2".parse().unwrap()),
            epoch: Epoch(7),
            fault: Duration::from_secs(8),
            durability: "quorum".into(),
            measured_by: "n3".parse().unwrap(),
            address: "10.0.0.3:7400".into(),
            findings: Vec::new(),
            happens: vec!["the agent of n1 is stopped".into()],
            nodes: ["n1", "n2", "n3"].map(|node| node.parse().unwrap()).to_vec(),
        };
        let sight = |at_ms, node: &str, role: &str, state: &str| Sight {
            at_ms,
            node: node.into(),
            role: role.into(),
            state: state.into(),
        };
        let noticed = |at_ms, kind: &str, text: &str| Noticed {
            at_ms,
            kind: kind.into(),
            node: Some("n1".into()),
            text: text.into(),
        };
        let writes = |at_ms, acknowledged, missed| Writes { at_ms, acknowledged, missed };
        let seen = Seen {
            noticed: vec![
                noticed(1600, "silent", "does not answer n3"),
                noticed(4000, "vacated", "<nobody> renewed it & it \"expired\""),
            ],
            sights: vec![
                sight(0, "n1", "primary", "running"),
                sight(0, "n2", "standby", "streaming"),
                sight(0, "n3", "witness", "receiving"),
                sight(1500, "n1", "none", "unreachable"),
                sight(4000, "n2", "primary", "running"),
                sight(9000, "n1", "standby", "streaming"),
            ],
            writes: vec![
                writes(500, 20, 0),
                writes(1000, 20, 0),
                writes(3000, 0, 4),
                writes(4500, 9, 0),
            ],
            struck_ms: Some(1000),
            result: None,
            until_ms: 10_000,
        };
        let result = Measured {
            acknowledged: 412,
            failed: 120,
            unknown: 1,
            lost: Some(0),
            surfaced: 1,
            gap_ms: 3210,
            gap_from_ms: 990,
            resumed: true,
            struck_ms: 1000,
            over_ms: 9000,
            primary_before: "n1".into(),
            primary_after: "n2".into(),
            epoch_before: 7,
            epoch_after: 8,
            healthy: true,
            healthy_ms: 9500,
            cleaned: true,
            ..Measured::default()
        };
        (plan, seen, result)
    }

    #[test]
    fn the_report_says_what_it_cost_who_noticed_what_and_draws_it() {
        let (plan, seen, result) = sample();
        let expected = include_str!("drill/report.txt");
        let text = report(&plan, &seen, &result);
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn what_is_not_known_or_not_over_is_said_so() {
        let (plan, seen, result) = sample();
        let result = Measured {
            lost: None,
            resumed: false,
            healthy: false,
            awaited: "node n1 is rewinding".into(),
            cleaned: false,
            trouble: "there is no primary".into(),
            ..result
        };
        let text = report(&plan, &seen, &result);
        for part in ["3210 ms, and none since", "not known", "not yet: node n1 is rewinding"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("left behind   there is no primary"), "{text}");
    }

    #[test]
    fn a_long_drill_fits_into_a_line() {
        let (plan, seen, result) = sample();
        for until_ms in [1, 999, 3_600, 100_000, 9_999_999] {
            let seen = Seen { until_ms, ..seen.clone() };
            let text = timeline(&plan, &seen, &result);
            let longest = text.lines().take(6).map(str::len).max().unwrap_or(0);
            assert!(longest <= 80, "{until_ms}: {text}");
        }
    }
}
