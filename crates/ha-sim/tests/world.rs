//! The simulated world: seeds, their digests, and the mistakes that seeds must find.

#![expect(clippy::print_stderr, reason = "how many seeds a mistake took is worth knowing")]

use std::sync::Mutex;
use std::time::Instant;

use ha_sim::world::{Ended, Mutation, Outcome, Plan, run, search, shrink};

/// Ten thousand seeds, in parts that each take less than a test may, also on busy cores.
const SEEDS: u64 = 2500;

fn nothing_breaks_and_the_cluster_is_well_again(from: u64) {
    let began = Instant::now();
    let sums = Mutex::new((0_u64, [0_u64; 3], 0_u64));
    let failed = search(from, SEEDS, 2, Plan::of_seed, |_, outcome| {
        let mut sums = sums.lock().expect("no run panicked");
        sums.0 += outcome.promotions;
        sums.2 += outcome.virtual_ms;
        for (sum, more) in sums.1.iter_mut().zip(outcome.writes) {
            *sum += more;
        }
    });
    if let Some((seed, outcome)) = failed {
        let small = shrink(&Plan::of_seed(seed));
        let trace = run(&small, true).trace.join("\n");
        panic!("seed {seed}: {:?}\nmade small:\n{small}\n{trace}", outcome.ended);
    }
    let (promotions, [done, _, unknown], virtual_ms) = *sums.lock().expect("no run panicked");
    let hours = f64::from(u32::try_from(virtual_ms / 1000).expect("less than a century")) / 3600.0;
    let seconds = began.elapsed().as_secs_f64();
    let rate = hours / seconds;
    eprintln!("{SEEDS} seeds in {seconds:.0} s: {hours:.1} simulated hours, {rate:.2} a second");
    // A world in which nothing happens proves nothing.
    assert!(promotions > SEEDS, "{promotions} promotions");
    assert!(done > 50 * SEEDS && unknown > SEEDS / 10, "{done} writes done, {unknown} unknown");
}

#[test]
fn seeds_0_to_2499_break_nothing_and_the_cluster_is_well_again_after_each() {
    nothing_breaks_and_the_cluster_is_well_again(0);
}

#[test]
fn seeds_2500_to_4999_break_nothing_and_the_cluster_is_well_again_after_each() {
    nothing_breaks_and_the_cluster_is_well_again(2500);
}

#[test]
fn seeds_5000_to_7499_break_nothing_and_the_cluster_is_well_again_after_each() {
    nothing_breaks_and_the_cluster_is_well_again(5000);
}

#[test]
fn seeds_7500_to_9999_break_nothing_and_the_cluster_is_well_again_after_each() {
    nothing_breaks_and_the_cluster_is_well_again(7500);
}

#[test]
fn a_seed_gives_the_same_world_each_time_traced_or_not() {
    for seed in 0..25 {
        let plan = Plan::of_seed(seed);
        let (first, again, traced) = (run(&plan, false), run(&plan, false), run(&plan, true));
        assert_eq!(first, again, "seed {seed}");
        assert_eq!((first.digest, first.events), (traced.digest, traced.events), "seed {seed}");
    }
}

/// Mistakes, and within how many seeds each must be found. `docs/simulation.md` has all that were measured.
const FOUND_WITHIN: &[(Mutation, u64)] = &[
    (Mutation::GuardOff, 400),
    (Mutation::NewLeaderDoesNotWait, 400),
    (Mutation::CachedConfirmation, 1000),
    (Mutation::TooFewReports, 1000),
    (Mutation::ReleaseBeforeStop, 400),
    (Mutation::CatchUpSkipped, 400),
];

#[test]
fn seeds_find_mistakes_that_are_made_on_purpose() {
    let mut missed = Vec::new();
    for (mutation, within) in FOUND_WITHIN {
        let plan = |seed| Plan::of_seed(seed).with(*mutation);
        match search(0, *within, 2, plan, |_, _| ()) {
            Some((seed, Outcome { ended: Ended::Violated(what), .. })) => {
                eprintln!("{}: {} seeds, {what}", mutation.name(), seed + 1);
            }
            Some((seed, outcome)) => {
                missed.push(format!("{mutation:?}: {seed}: {:?}", outcome.ended));
            }
            None => missed.push(format!("{mutation:?}: not within {within} seeds")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_failure_is_made_small() {
    let plan = |seed| Plan::of_seed(seed).with(Mutation::GuardOff);
    let (seed, _) = search(0, 400, 2, plan, |_, _| ()).expect("it is found");
    let small = shrink(&plan(seed));
    assert!(matches!(run(&small, false).ended, Ended::Violated(_)), "{small}");
    let faults = small.to_string().lines().count() - 1;
    assert!((1..=2).contains(&faults), "one mistake and one fault should do: {small}");
}

/// The seed that found it: an agent that was killed came back cut off, knew an older quorum, and went by it.
#[test]
fn a_quorum_that_is_not_known_to_be_the_current_one_is_told_to_no_server() {
    let plan = Plan::of_seed(8217);
    let now = run(&plan, false);
    assert!(matches!(now.ended, Ended::Well), "{:?}", now.ended);
    let before = run(&plan.with(Mutation::QuorumUnconfirmed), false);
    let Ended::Violated(what) = before.ended else { panic!("{:?}", before.ended) };
    assert!(what.contains("begins to serve without 45 acknowledged writes"), "{what}");
}

/// A primary that was away for two promotions begins a timeline of a number that is taken, at the same place.
#[test]
fn a_timeline_of_a_number_that_is_taken_is_told_from_the_other() {
    let plan = Plan::of_seed(9228);
    let now = run(&plan, false);
    assert!(matches!(now.ended, Ended::Well), "{:?}", now.ended);
    let before = run(&plan.with(Mutation::SharedNumberTrusted), false);
    let Ended::Violated(what) = before.ended else { panic!("{:?}", before.ended) };
    assert!(what.contains("n3 receives although it has WAL that the other lacks"), "{what}");
}
