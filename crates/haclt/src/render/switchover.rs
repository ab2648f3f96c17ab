//! Switchovers, for people.

use crate::reply::switchover::{Finding, Severity, Switchover, SwitchoverPlan, SwitchoverStep};

/// Returns who would hand over to whom, and what is to be known before; a line each.
#[must_use]
pub fn plan(plan: &SwitchoverPlan) -> String {
    let SwitchoverPlan { from, to, epoch, findings } = plan;
    let to = to.as_ref().map_or("nobody", |to| to.as_str());
    format!("{from} -> {to}, epoch {epoch}\n{}", findings_of(findings))
}

/// Returns a line for each finding, the worst first.
#[must_use]
pub fn findings_of(findings: &[Finding]) -> String {
    let mut text = String::new();
    for severity in [Severity::Refusal, Severity::Warning, Severity::Note] {
        for finding in findings.iter().filter(|finding| finding.severity == severity) {
            text.extend([severity.word(), ": ", &finding.text, "\n"]);
        }
    }
    text
}

/// Returns a line for a step.
#[must_use]
pub fn step(step: &SwitchoverStep) -> String {
    let at = step.at.as_secs_f64();
    match &step.detail {
        Some(detail) => format!("{at:>6.2} s  {}: {detail}", step.name),
        None => format!("{at:>6.2} s  {}", step.name),
    }
}

/// Returns how it ended.
#[must_use]
pub fn done(switchover: &Switchover) -> String {
    let primary = switchover.primary.as_ref().map_or("nobody", |node| node.as_str());
    format!("done: {primary} is primary, epoch {}\n", switchover.epoch)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ha_core::Epoch;

    use super::*;

    #[test]
    fn what_forbids_it_comes_first() {
        let finding = |severity, text: &str| Finding { severity, text: text.to_owned() };
        let shown = plan(&SwitchoverPlan {
            from: "n1".parse().unwrap(),
            to: None,
            epoch: Epoch(7),
            findings: vec![
                finding(Severity::Note, "c"),
                finding(Severity::Warning, "b"),
                finding(Severity::Refusal, "a"),
            ],
        });
        assert_eq!(shown, "n1 -> nobody, epoch 7\nrefusal: a\nwarning: b\nnote: c\n");
    }

    #[test]
    fn a_step_says_when_it_was_done() {
        let at = Duration::from_millis(1234);
        let with = |detail: Option<&str>| {
            step(&SwitchoverStep { name: "stop".into(), detail: detail.map(str::to_owned), at })
        };
        assert_eq!(with(None), "  1.23 s  stop");
        assert_eq!(with(Some("now")), "  1.23 s  stop: now");
    }
}
