//! A failover by order, for people.

use std::fmt::Write as _;

use crate::render::units;
use crate::reply::failover::FailoverPlan;

const INFALLIBLE: &str = "writing to a string cannot fail";

/// Returns who would become primary, why, and at which cost.
#[must_use]
pub fn plan(plan: &FailoverPlan) -> String {
    let holder = match &plan.holder {
        Some(holder) if plan.serving => format!("{holder}, which serves: use haclt switchover"),
        Some(holder) => format!("{holder}, which does not serve"),
        None => "nobody".to_owned(),
    };
    let mut text = format!("lease     {holder}\n");
    let mut add = |name: &str, what: &str| {
        writeln!(text, "{name:<9} {what}").expect(INFALLIBLE);
    };
    match &plan.winner {
        Some(winner) => {
            add("winner", winner.as_str());
            add("why", plan.evidence.as_deref().unwrap_or_default());
            add("expected", &format!("writes again after {}", units::seconds(plan.expected_ms)));
        }
        None => add("winner", "nobody"),
    }
    add("lost", plan.lost.as_deref().unwrap_or("unknown"));
    for refusal in &plan.refusals {
        add("refused", refusal);
    }
    text
}
