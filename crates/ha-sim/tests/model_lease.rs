//! The model of the lease: nothing breaks within its bounds, and every mistake is found.

#![expect(clippy::print_stderr, reason = "how many states there are is worth knowing")]

use ha_sim::model::lease::{Bounds, CLEAN, Lease, NAMES, breaks};
use ha_sim::model::{Explored, explore};

fn told(name: &str, found: &Explored) {
    let Explored { states, generated, depth, took, broken, .. } = found;
    let broken: Vec<&str> = broken.iter().map(|(name, _)| *name).collect();
    eprintln!("{name}: {states} states, {generated} steps, depth {depth}, {took:.1?} {broken:?}");
}

fn clean(name: &str, bounds: Bounds) -> Explored {
    let found = explore(Lease { bounds, mistake: None }, 1, None);
    told(name, &found);
    assert!(found.broken.is_empty(), "{name}: {:#?}", found.broken);
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
        let breaks = breaks(mistake);
        let found = explore(Lease { bounds, mistake: Some(mistake) }, 1, Some(breaks));
        told(letter, &found);
        assert!(found.way_to(breaks).is_some(), "{mistake:?} was not found");
    }
}
