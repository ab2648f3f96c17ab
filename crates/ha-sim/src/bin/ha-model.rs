//! The models' program: explores one within bounds, or tells the way to what a mistake breaks.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::hash::Hash;
use std::process::ExitCode;

use ha_sim::model::lease::{self, Lease};
use ha_sim::model::wal::{self, WalQuorum};
use ha_sim::model::{Explored, Story, explore, shortest};

const USAGE: &str = "\
usage: ha-model lease|wal [--bounds small|large] [--only NAME] [--threads N]
       ha-model lease|wal --mistake NAME | --mistakes [--property TEXT] [--shortest] [--threads N]

Without a mistake, small bounds are those of the tests, those of every mistake included. A mistake's letter is a
name, too. --property names the invariant to break by a part of its text. A way is among the shortest; --shortest
makes sure of it, and takes several times as long.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    command(&arguments).unwrap_or_else(|| {
        println!("{USAGE}");
        ExitCode::from(2)
    })
}

fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

fn command(arguments: &[String]) -> Option<ExitCode> {
    let threads = value(arguments, "--threads").map_or(Some(1), |text| text.parse().ok())?;
    let only = |name: &str| value(arguments, "--only").is_none_or(|wanted| wanted == name);
    let large = match value(arguments, "--bounds") {
        None | Some("small") => false,
        Some("large") => true,
        Some(_) => return None,
    };
    let wanted = value(arguments, "--mistake");
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let all = flag("--mistakes");
    let part = value(arguments, "--property");
    let how = How { part, all, shortest: flag("--shortest"), threads };
    let chosen = |names: &[&str]| all || wanted.is_some_and(|wanted| names.contains(&wanted));
    match arguments.first()?.as_str() {
        "lease" if all || wanted.is_some() => {
            let known =
                lease::NAMES.into_iter().filter(|(_, letter, name, _)| chosen(&[letter, name]));
            let models = known.map(|(mistake, _, name, bounds)| {
                (name, Lease { bounds, mistake: Some(mistake) }, lease::breaks(mistake))
            });
            mistakes(models.collect(), &how)
        }
        "wal" if all || wanted.is_some() => {
            let known = wal::NAMES.into_iter().filter(|(_, name, _)| chosen(&[name]));
            let models = known.map(|(mistake, name, bounds)| {
                (name, WalQuorum { bounds, mistake: Some(mistake) }, wal::NOTHING_LOST)
            });
            mistakes(models.collect(), &how)
        }
        "lease" => {
            let of_mistakes = lease::NAMES.into_iter().map(|(_, _, name, bounds)| (name, bounds));
            let all: Vec<lease::Named> = if large {
                lease::LARGE.into()
            } else {
                lease::CLEAN.into_iter().chain(of_mistakes).collect()
            };
            let models = all.into_iter().filter(|(name, _)| only(name));
            Some(clean(
                models.map(|(name, bounds)| (name, Lease { bounds, mistake: None })),
                threads,
            ))
        }
        "wal" => {
            let of_mistakes = wal::NAMES.into_iter().map(|(_, name, bounds)| (name, bounds));
            let all: Vec<wal::Named> = if large {
                wal::LARGE.into()
            } else {
                wal::CLEAN.into_iter().chain(of_mistakes).collect()
            };
            let models = all.into_iter().filter(|(name, _)| only(name));
            Some(clean(
                models.map(|(name, bounds)| (name, WalQuorum { bounds, mistake: None })),
                threads,
            ))
        }
        _ => None,
    }
}

/// Explores each, and says what there is.
fn clean<M>(models: impl Iterator<Item = (&'static str, M)>, threads: usize) -> ExitCode
where
    M: Story + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let mut well = true;
    for (name, model) in models {
        let found = explore(model, threads, None);
        let Explored { states, generated, depth, took, complete, broken, unreached } = found;
        println!("{name}: {states} states, {generated} steps, depth {depth}, {took:.1?}");
        if !unreached.is_empty() {
            println!("  nowhere: {}", unreached.join("; "));
        }
        for (property, steps) in &broken {
            println!("  broken: {property}");
            for step in steps {
                println!("  {step}");
            }
        }
        well &= complete;
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How mistakes are looked for.
struct How<'a> {
    /// A part of the invariant's text; the usual one if there is none.
    part: Option<&'a str>,
    /// Whether all are looked for, and it is only told how long the ways are.
    all: bool,
    /// Whether it is made sure that no way is shorter.
    shortest: bool,
    threads: usize,
}

/// Tells the way to where each breaks.
fn mistakes<M>(models: Vec<(&'static str, M, &'static str)>, how: &How<'_>) -> Option<ExitCode>
where
    M: Story + Clone + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    if models.is_empty() {
        return None;
    }
    let mut found = true;
    for (name, model, usual) in models {
        let known: Vec<&'static str> = model.properties().iter().map(|it| it.name).collect();
        let named = how.part.map(|part| known.iter().copied().find(|name| name.contains(part)));
        let property = named.unwrap_or(Some(usual))?;
        let explored = explore(model.clone(), how.threads, Some(property));
        let Explored { states, took, .. } = &explored;
        let Some(mut steps) = explored.way_to(property).map(<[String]>::to_vec) else {
            println!("{name}: not found in {states} states, {took:.1?}");
            found = false;
            continue;
        };
        if how.shortest {
            steps = shortest(&model, how.threads, property).unwrap_or(steps);
        }
        let length = steps.len();
        println!("{name}: \"{property}\" breaks in {length} steps; {states} states, {took:.1?}");
        if !how.all {
            for step in &steps {
                println!("  {step}");
            }
        }
    }
    Some(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
