//! The simulation's program: runs seeds, replays one, makes a failure small.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ha_sim::world::{Aim, Ended, Mutation, Outcome, Plan, run, search, shrink};

const USAGE: &str = "\
usage: ha-world seeds [--from N] [--count N] [--threads N] [--mutation NAME]
       ha-world replay SEED [--trace] [--mutation NAME]
       ha-world shrink SEED [--mutation NAME]
       ha-world script FILE
       ha-world long --minutes N [--from N] [--threads N]
       ha-world aimed MOMENT [--from N] [--count N] [--threads N] [--mutation NAME]
       ha-world aimed MOMENT --replay SEED [--mutation NAME]
       ha-world mutations [--count N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    command(&arguments).unwrap_or_else(|| {
        println!("{USAGE}");
        ExitCode::from(2)
    })
}

fn command(arguments: &[String]) -> Option<ExitCode> {
    let number = |name: &str, otherwise: u64| option(arguments, name, otherwise);
    let mutation = match value(arguments, "--mutation") {
        Some(name) => Some(Mutation::named(name)?),
        None => None,
    };
    let threads = usize::try_from(number("--threads", 2)?).ok()?;
    let seed = || arguments.get(1)?.parse::<u64>().ok();
    match arguments.first()?.as_str() {
        "seeds" => {
            let (from, count) = (number("--from", 0)?, number("--count", 10_000)?);
            Some(seeds(from, count, threads, |seed| plan(seed, mutation)))
        }
        "aimed" => {
            let aim = Aim::named(arguments.get(1)?)?;
            let plan = |seed| with(Plan::aimed(aim, seed), mutation);
            if value(arguments, "--replay").is_some() {
                return Some(replay(&plan(number("--replay", 0)?), true));
            }
            Some(seeds(number("--from", 0)?, number("--count", 1000)?, threads, plan))
        }
        "replay" => {
            let tracing = arguments.iter().any(|argument| argument == "--trace");
            Some(replay(&plan(seed()?, mutation), tracing))
        }
        "shrink" => {
            let plan = shrink(&plan(seed()?, mutation));
            Some(replay(&plan, true))
        }
        "script" => {
            let text = std::fs::read_to_string(arguments.get(1)?).ok()?;
            Some(replay(&Plan::of_script(&text).ok()?, true))
        }
        "long" => Some(long(number("--minutes", 10)?, number("--from", 1_000_000)?, threads)),
        "mutations" => Some(mutations(number("--count", 10_000)?, threads)),
        _ => None,
    }
}

fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

fn option(arguments: &[String], name: &str, otherwise: u64) -> Option<u64> {
    value(arguments, name).map_or(Some(otherwise), |text| text.parse().ok())
}

fn plan(seed: u64, mutation: Option<Mutation>) -> Plan {
    with(Plan::of_seed(seed), mutation)
}

fn with(plan: Plan, mutation: Option<Mutation>) -> Plan {
    match mutation {
        Some(mutation) => plan.with(mutation),
        None => plan,
    }
}

/// Sums over runs.
#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    virtual_ms: u64,
    events: u64,
    writes: [u64; 3],
    promotions: u64,
    converged_ms: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.virtual_ms += outcome.virtual_ms;
        self.events += outcome.events;
        self.promotions += outcome.promotions;
        self.converged_ms = self.converged_ms.max(outcome.converged_ms);
        for (sum, more) in self.writes.iter_mut().zip(outcome.writes) {
            *sum += more;
        }
    }

    fn print(&self, took: Duration) {
        let seconds = took.as_secs_f64().max(0.001);
        let per_second = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
        println!(
            "{} seeds in {seconds:.1} s: {:.0} a second, {:.1} simulated hours a second",
            self.runs,
            per_second(self.runs),
            per_second(self.virtual_ms / 1000) / 3600.0,
        );
        println!(
            "{} events, {} promotions; writes: {} done, {} refused, {} unknown; slowest to be well \
             again: {} ms",
            self.events,
            self.promotions,
            self.writes[0],
            self.writes[1],
            self.writes[2],
            self.converged_ms
        );
    }
}

fn seeds(from: u64, count: u64, threads: usize, plan: impl Fn(u64) -> Plan + Sync) -> ExitCode {
    let began = Instant::now();
    let sum = Mutex::new(Sum::default());
    let failed = search(from, count, threads, plan, |_, outcome| {
        if let Ok(mut sum) = sum.lock() {
            sum.add(outcome);
        }
    });
    if let Ok(sum) = sum.lock() {
        sum.print(began.elapsed());
    }
    match failed {
        None => ExitCode::SUCCESS,
        Some((seed, outcome)) => {
            println!("seed {seed} fails: {:?}", outcome.ended);
            println!(
                "see it: ha-world replay {seed} --trace, or aimed MOMENT --replay {seed}; make it \
                 small: ha-world shrink {seed}"
            );
            ExitCode::FAILURE
        }
    }
}

fn replay(plan: &Plan, tracing: bool) -> ExitCode {
    println!("{plan}");
    let outcome = run(plan, tracing);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{:?} after {} ms, digest {:016x}", outcome.ended, outcome.virtual_ms, outcome.digest);
    let [done, refused, unknown] = outcome.writes;
    println!(
        "writes: {done} done, {refused} refused, {unknown} unknown; {} events",
        outcome.events
    );
    if outcome.ended == Ended::Well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn long(minutes: u64, mut from: u64, threads: usize) -> ExitCode {
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    while Instant::now() < until {
        println!("seeds from {from}");
        if seeds(from, 5_000, threads, Plan::of_seed) == ExitCode::FAILURE {
            return ExitCode::FAILURE;
        }
        from += 5_000;
    }
    ExitCode::SUCCESS
}

fn mutations(count: u64, threads: usize) -> ExitCode {
    let mut all = true;
    for (mutation, name) in Mutation::ALL {
        let found = search(0, count, threads, |seed| Plan::of_seed(seed).with(mutation), |_, _| ());
        match &found {
            Some((seed, outcome)) => println!("{name}: {} seeds, {:?}", seed + 1, outcome.ended),
            None => println!("{name}: not found within {count} seeds"),
        }
        let mut seen = matches!(found, Some((_, Outcome { ended: Ended::Violated(_), .. })));
        for (aim, moment) in Aim::ALL.into_iter().filter(|_| found.is_none()) {
            let plan = |seed| Plan::aimed(aim, seed).with(mutation);
            if let Some((seed, outcome)) = search(0, 1000, threads, plan, |_, _| ()) {
                println!("{name}: {} plans aimed at {moment}, {:?}", seed + 1, outcome.ended);
                seen |= matches!(outcome.ended, Ended::Violated(_));
            }
        }
        all &= seen;
    }
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
