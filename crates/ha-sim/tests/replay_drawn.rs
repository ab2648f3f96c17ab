//! Ways through the models that are drawn at random, taken step by step with the real code, which may refuse any
//! of them: nothing is violated, and the cluster is well afterwards.

#![expect(clippy::print_stderr, reason = "how far the ways went is worth knowing")]

use ha_sim::model::drawn;
use ha_sim::model::lease::{self, Lease};
use ha_sim::model::wal::{self, WalQuorum};
use ha_sim::world::{Ended, Mutation, Replayed, replay_lease, replay_wal};

/// How many steps there are, and how many were taken.
#[derive(Default)]
struct Sum {
    steps: usize,
    taken: usize,
}

impl Sum {
    fn add(&mut self, name: &str, seed: u64, replayed: &Replayed) {
        self.steps += replayed.steps.len();
        self.taken += replayed.steps.iter().filter(|step| step.taken).count();
        let trace = || replayed.trace.join("\n");
        assert_eq!(replayed.ended, Ended::Well, "{name}, way {seed}\n{}", trace());
    }

    /// Ways on which next to nothing is done prove nothing.
    fn expect_taken(&self, percent: usize) {
        eprintln!("{} of {} steps taken", self.taken, self.steps);
        assert!(self.taken * 100 > self.steps * percent, "{} of {}", self.taken, self.steps);
    }
}

/// The bounds that begin where the replay does.
fn bounds() -> impl Iterator<Item = lease::Named> {
    lease::LARGE.into_iter().filter(|(_, it)| {
        let plain = !it.empty && !it.recovers && it.ttl == 2;
        plain && it.leaders.len() == 1 && it.rates.len() == 1
    })
}

#[test]
fn ways_drawn_from_the_model_of_the_lease_break_nothing() {
    let mut sum = Sum::default();
    assert!(bounds().count() >= 5, "{}", bounds().count());
    for (name, bounds) in bounds() {
        let model = Lease { bounds, mistake: None };
        for seed in 1..=400 {
            sum.add(name, seed, &replay_lease(&drawn(&model, seed, 40), None));
        }
    }
    sum.expect_taken(75);
}

#[test]
fn ways_drawn_from_the_model_of_the_wal_quorum_break_nothing() {
    let mut sum = Sum::default();
    for (name, bounds) in wal::CLEAN.into_iter().chain(wal::LARGE) {
        let model = WalQuorum { bounds, mistake: None };
        for seed in 1..=60 {
            let way = drawn(&model, seed, 30);
            sum.add(name, seed, &replay_wal(&way, bounds.first[0], false, None));
        }
    }
    sum.expect_taken(55);
}

/// Such ways can find something: these mistakes need no story.
#[test]
fn ways_drawn_at_random_find_mistakes_that_are_made_on_purpose() {
    for wanted in ["new-leader-does-not-wait", "record-kept-per-node", "acts-on-the-grant"] {
        let known = lease::NAMES.into_iter().find(|(_, _, name, _)| *name == wanted);
        let (mistake, _, name, bounds) = known.expect("a mistake of the model");
        let model = Lease { bounds, mistake: Some(mistake) };
        let mutation = Mutation::named(name);
        let violated = |seed: &u64| {
            let replayed = replay_lease(&drawn(&model, *seed, 40), mutation);
            matches!(replayed.ended, Ended::Violated(_))
        };
        let first = (1..=200).find(violated);
        eprintln!("{name}: way {first:?}");
        assert!(first.is_some(), "{name}: on none of 200 ways");
    }
}
