//! Moments that seeds hit too seldom, aimed at: each finds the mistakes that matter there, and nothing else.

#![expect(clippy::print_stderr, reason = "how many plans a mistake took is worth knowing")]

use ha_sim::world::{Aim, Ended, Mutation, Outcome, Plan, search};

/// How many plans are aimed at each moment.
const PLANS: u64 = 150;

/// Mistakes, and where each must be found.
const FOUND_AT: &[(Mutation, Aim)] = &[
    (Mutation::DeadlineFromAnswer, Aim::AnswerIsLate),
    (Mutation::RevokeSkipped, Aim::RightOutlives),
    (Mutation::ReceiversNotStopped, Aim::RightOutlives),
    (Mutation::PledgeNotSynced, Aim::PledgeIsLost),
];

#[test]
fn every_moment_passes_without_harm() {
    for (aim, name) in Aim::ALL {
        let failed = search(0, PLANS, 2, |seed| Plan::aimed(aim, seed), |_, _| ());
        assert!(failed.is_none(), "{name}: {failed:?}");
    }
}

#[test]
fn mistakes_are_found_where_they_matter() {
    let mut missed = Vec::new();
    for (mutation, aim) in FOUND_AT {
        let plan = |seed| Plan::aimed(*aim, seed).with(*mutation);
        match search(0, PLANS, 2, plan, |_, _| ()) {
            Some((seed, Outcome { ended: Ended::Violated(what), .. })) => {
                eprintln!("{}: {} plans, {what}", mutation.name(), seed + 1);
            }
            Some((seed, outcome)) => {
                missed.push(format!("{mutation:?}: {seed}: {:?}", outcome.ended));
            }
            None => missed.push(format!("{mutation:?}: not within {PLANS} plans")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
