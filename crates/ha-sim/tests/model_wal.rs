//! The model of the WAL quorum: nothing is lost within its bounds, and every mistake loses something.

#![expect(clippy::print_stderr, reason = "how many states there are is worth knowing")]

use ha_sim::model::wal::{Bounds, CLEAN, COVERED, Mistake, NAMES, NOTHING_LOST, WalQuorum};
use ha_sim::model::{Explored, explore};

fn told(name: &str, found: &Explored) {
    let Explored { states, generated, depth, took, broken, .. } = found;
    let broken: Vec<&str> = broken.iter().map(|(name, _)| *name).collect();
    eprintln!("{name}: {states} states, {generated} steps, depth {depth}, {took:.1?} {broken:?}");
}

fn clean(name: &str, bounds: Bounds) -> Explored {
    let found = explore(WalQuorum { bounds, mistake: None }, 1, None);
    told(name, &found);
    assert!(found.complete && found.broken.is_empty(), "{name}: {:#?}", found.broken);
    found
}

#[test]
fn nothing_is_lost_within_the_bounds() {
    for (name, bounds) in CLEAN {
        let found = clean(name, bounds);
        // A world in which nothing happens proves nothing.
        assert!(found.unreached.is_empty(), "{name}: {:?}", found.unreached);
    }
}

#[test]
fn nothing_is_lost_within_the_bounds_of_the_mistakes() {
    let mut seen = Vec::new();
    for (_, name, bounds) in NAMES {
        if !seen.contains(&bounds) {
            clean(name, bounds);
            seen.push(bounds);
        }
    }
}

#[test]
fn every_mistake_loses_an_acknowledged_write() {
    for (mistake, name, bounds) in NAMES {
        let model = WalQuorum { bounds, mistake: Some(mistake) };
        let found = explore(model, 1, Some(NOTHING_LOST));
        told(name, &found);
        assert!(found.way_to(NOTHING_LOST).is_some(), "{mistake:?} was not found");
        // Those that have the server go by what elections do not look for are seen before anything is lost.
        let uncovered = matches!(
            mistake,
            Mistake::ShrunkBeforeRecorded | Mistake::GrownUnproven | Mistake::QuorumUnconfirmed
        );
        assert_eq!(found.way_to(COVERED).is_some(), uncovered, "{mistake:?}");
    }
}
