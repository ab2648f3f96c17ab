//! The lease and the WAL quorum as small models, explored without a gap within their bounds.
//!
//! [`world`](crate::world) draws schedules from seeds; here *every* schedule within the bounds is tried. What is
//! modelled, what is left out, and what was found is in `docs/model.md`.

pub mod lease;
pub mod wal;

use std::collections::BTreeSet;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::world::Rng;
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// A model whose steps can be told in a line each.
pub trait Story: Model {
    /// Returns what a step did, and what it led to.
    fn tell(&self, action: &Self::Action, after: &Self::State) -> String;
}

/// What an exploration came to.
#[derive(Debug, Clone)]
pub struct Explored {
    /// How many different states were reached.
    pub states: usize,
    /// How many steps were taken from them.
    pub generated: usize,
    /// The longest of the shortest ways to a state, in steps.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether nothing was left out: the checker had no limit, ended by itself, and not because of what it found.
    pub complete: bool,
    /// Every invariant that broke, with a way to that, a line for each step.
    pub broken: Vec<(&'static str, Vec<String>)>,
    /// What should have happened somewhere, and did nowhere.
    pub unreached: Vec<&'static str>,
}

impl Explored {
    /// Returns the way to where that invariant is broken.
    #[must_use]
    pub fn way_to(&self, property: &str) -> Option<&[String]> {
        let found = self.broken.iter().find(|(name, _)| *name == property);
        found.map(|(_, steps)| steps.as_slice())
    }
}

/// Explores everything, or until an invariant is broken: until `property` is, if one is named.
///
/// If nothing is broken every reachable state was visited: there is no limit but the bounds of the model itself.
/// States are told apart by 64 bits; of *n* states one is taken for another with a probability of about n² / 2⁶⁵.
pub fn explore<M>(model: M, threads: usize, property: Option<&'static str>) -> Explored
where
    M: Story + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    run(model, threads, property, None)
}

/// Returns the shortest way to where `property` is broken, a line for each step.
///
/// The checker names one of the last it saw before it stopped; so it is asked again for a shorter one until there
/// is none.
pub fn shortest<M>(model: &M, threads: usize, property: &'static str) -> Option<Vec<String>>
where
    M: Story + Clone + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let mut best = run(model.clone(), threads, Some(property), None).way_to(property)?.to_vec();
    loop {
        let shorter = run(model.clone(), threads, Some(property), Some(best.len()));
        match shorter.way_to(property) {
            Some(way) => best = way.to_vec(),
            None => return Some(best),
        }
    }
}

/// Returns a shortest way to where `property` is broken, step by step.
pub fn way<M>(model: &M, property: &'static str) -> Option<Vec<M::Action>>
where
    M: Story + Clone + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let found = |fewer_than: Option<usize>| {
        let until = HasDiscoveries::AllOf(BTreeSet::from([property]));
        let mut builder = model.clone().checker().threads(1).finish_when(until);
        if let Some(steps) = fewer_than {
            // Depth counts states, not steps, and those at the limit are not looked at.
            builder = builder.target_max_depth(steps + 1);
        }
        let states = builder.spawn_bfs().join().discovery(property)?.into_vec();
        let holds = model.property(property).condition;
        // The checker names one of the last states that it saw: what comes after the first wrong one is cut.
        let before = states.into_iter().take_while(|(state, _)| holds(model, state));
        Some(before.filter_map(|(_, action)| action).collect::<Vec<_>>())
    };
    let mut best = found(None)?;
    while let Some(shorter) = found(Some(best.len())) {
        best = shorter;
    }
    Some(best)
}

/// Returns a way that is drawn at random, as long as that unless nothing can happen any more.
#[must_use]
pub fn drawn<M>(model: &M, seed: u64, steps: usize) -> Vec<M::Action>
where
    M: Model,
    M::Action: Clone,
{
    let mut rng = Rng::new(seed, 5);
    let mut way = Vec::new();
    let first = model.init_states();
    let Some(mut now) = first.into_iter().next() else { return way };
    // Some of what is offered changes nothing.
    for _ in 0..steps * 4 {
        let mut offered = Vec::new();
        model.actions(&now, &mut offered);
        if offered.is_empty() || way.len() == steps {
            break;
        }
        let action = offered.swap_remove(rng.index(offered.len()));
        if let Some(next) = model.next_state(&now, action.clone()) {
            now = next;
            way.push(action);
        }
    }
    way
}

/// Returns which steps of a way cannot be taken, or change nothing, if each of the others is.
#[must_use]
pub fn refused<M>(model: &M, way: &[M::Action]) -> Vec<usize>
where
    M: Model,
    M::Action: Clone + PartialEq,
{
    let mut refused = Vec::new();
    let Some(mut now) = model.init_states().into_iter().next() else { return refused };
    for (at, action) in way.iter().enumerate() {
        let mut offered = Vec::new();
        model.actions(&now, &mut offered);
        let next = model.next_state(&now, action.clone()).filter(|_| offered.contains(action));
        match next {
            Some(next) => now = next,
            None => refused.push(at),
        }
    }
    refused
}

/// Returns the same way with every step that `is` so taken as early as it can be, if it still leads to where
/// `property` is broken.
#[must_use]
pub fn sooner<M>(
    model: &M,
    way: &[M::Action],
    property: &'static str,
    is: impl Fn(&M::Action) -> bool,
) -> Vec<M::Action>
where
    M: Model,
    M::State: Clone + PartialEq,
    M::Action: Clone + PartialEq,
{
    let mut best = way.to_vec();
    for at in 0..way.len() {
        if !is(&best[at]) {
            continue;
        }
        for earlier in 0..at {
            let mut other = best.clone();
            let step = other.remove(at);
            other.insert(earlier, step);
            if leads_to(model, &other, property) {
                best = other;
                break;
            }
        }
    }
    best
}

/// Whether a way can be taken, and the property is broken at its end and not before.
fn leads_to<M>(model: &M, way: &[M::Action], property: &'static str) -> bool
where
    M: Model,
    M::State: Clone + PartialEq,
    M::Action: Clone + PartialEq,
{
    let holds = model.property(property).condition;
    model.init_states().into_iter().any(|first| {
        let mut now = first;
        for action in way {
            let mut offered = Vec::new();
            model.actions(&now, &mut offered);
            if !holds(model, &now) || !offered.contains(action) {
                return false;
            }
            match model.next_state(&now, action.clone()) {
                Some(next) => now = next,
                None => return false,
            }
        }
        !holds(model, &now)
    })
}

fn run<M>(
    model: M,
    threads: usize,
    property: Option<&'static str>,
    fewer_than: Option<usize>,
) -> Explored
where
    M: Story + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let began = Instant::now();
    let until = property
        .map_or(HasDiscoveries::AnyFailures, |name| HasDiscoveries::AllOf(BTreeSet::from([name])));
    let mut builder = model.checker().threads(threads).finish_when(until);
    if let Some(steps) = fewer_than {
        // Depth counts states, not steps, and those at the limit are not looked at.
        builder = builder.target_max_depth(steps + 1);
    }
    let checker = builder.spawn_bfs().join();
    let took = began.elapsed();
    let discoveries = checker.discoveries();
    let (mut broken, mut unreached) = (Vec::new(), Vec::new());
    for property in checker.model().properties() {
        match (property.expectation, discoveries.get(property.name)) {
            (Expectation::Sometimes, None) => unreached.push(property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                let path = path.clone().into_vec();
                let steps = path.windows(2).filter_map(|pair| match pair {
                    [(_, Some(action)), (after, _)] => Some(checker.model().tell(action, after)),
                    _ => None,
                });
                broken.push((property.name, steps.collect()));
            }
        }
    }
    let complete = checker.is_done() && fewer_than.is_none() && broken.is_empty();
    Explored {
        complete,
        states: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth().saturating_sub(1),
        took,
        broken,
        unreached,
    }
}
