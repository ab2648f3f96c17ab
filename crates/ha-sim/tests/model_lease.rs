//! The model of the lease: nothing breaks within its bounds, and every mistake is found.

#![expect(clippy::print_stderr, reason = "how many states there are is worth knowing")]

use ha_sim::model::lease::{
    Bounds, CLEAN, Lease, Mistake, NAMES, NOT_VACATED, RECOVERS, STOPPED, breaks,
};
use ha_sim::model::{Explored, explore};

fn told(name: &str, found: &Explored) {
    let Explored { states, generated, depth, took, broken, .. } = found;
    let broken: Vec<&str> = broken.iter().map(|(name, _)| *name).collect();
    eprintln!("{name}: {states} states, {generated} steps, depth {depth}, {took:.1?} {broken:?}");
}

fn clean(name: &str, bounds: Bounds) -> Explored {
    let found = explore(Lease { bounds, mistake: None }, 1, None);
    told(name, &found);
    assert!(found.complete && found.broken.is_empty(), "{name}: {:#?}", found.broken);
    found
}

#[test]
fn nothing_breaks_within_the_bounds() {
    for (name, bounds) in CLEAN {
        let found = clean(name, bounds);
        // A world in which nothing happens proves nothing.
        assert!(found.unreached.is_empty(), "{name}: {:?}", found.unreached);
    }
}

#[test]
fn nothing_breaks_within_the_bounds_of_the_mistakes() {
    let mut seen = Vec::new();
    for (_, letter, _, bounds) in NAMES {
        if !seen.contains(&bounds) {
            clean(letter, bounds);
            seen.push(bounds);
        }
    }
}

#[test]
fn every_mistake_is_found() {
    for (mistake, letter, _, bounds) in NAMES {
        let found = explore(Lease { bounds, mistake: Some(mistake) }, 1, Some(breaks(mistake)));
        told(letter, &found);
        assert!(found.way_to(breaks(mistake)).is_some(), "{mistake:?} was not found");
        // Two primaries are the end of it; on the way there, one is active under an epoch that is over.
        let mut expected = vec![NOT_VACATED];
        match mistake {
            Mistake::ReleaseBeforeStop
            | Mistake::EpochUsedAgain
            | Mistake::RebootForgetsRelease => expected.push(STOPPED),
            Mistake::CountsFromGrantsOnly => expected = vec![],
            _ => {}
        }
        expected.push(breaks(mistake));
        let mut broken: Vec<&str> = found.broken.iter().map(|(name, _)| *name).collect();
        expected.sort_unstable();
        broken.sort_unstable();
        assert_eq!(broken, expected, "{mistake:?}");
    }
}

#[test]
fn the_way_to_what_breaks_is_told_step_by_step() {
    let known = NAMES.into_iter().find(|(mistake, ..)| *mistake == Mistake::CountsFromGrantsOnly);
    let (mistake, _, _, bounds) = known.expect("it is in the table");
    let model = Lease { bounds, mistake: Some(mistake) };
    let way = ha_sim::model::shortest(&model, 1, RECOVERS).expect("it is found");
    // The holder gives its lease back, which nobody hears; then another leads, and never counts it.
    assert_eq!(way.len(), 2, "{way:#?}");
    let begins = |line: usize, with: &str| way[line].starts_with(with);
    assert!(way.iter().any(|line| line.starts_with("n0 gives its lease back")), "{way:#?}");
    assert!(begins(0, "n0 gives") || begins(1, "n0 gives"), "{way:#?}");
}
