//! `bench`: how long writes are gone after each fault, what is lost, what idling costs.

mod faults;
mod floor;
mod idle;
mod report;
mod rig;
mod run;
mod soak;
mod stats;
mod stop;
mod supervisor;
mod world;
mod writer;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::binaries::{self, Programs};
use crate::exec;
use crate::failure::{Failure, Outcome};
use crate::{data, note, paths};
use faults::Fault;
use report::Report;
use rig::Rig;
use writer::Journal;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Runs of each fault
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT,…")]
    faults: Option<Vec<Fault>>,
    /// Where the results go; `bench-results/TIME` if absent
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where the cluster's files go while measuring; the directory for temporary files if absent
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave out the comparison with `pg_ctl promote` by hand
    #[arg(long)]
    no_floor: bool,
    /// Measure that comparison and nothing else
    #[arg(long, conflicts_with_all = ["no_floor", "soak", "faults"])]
    floor_only: bool,
    /// Seconds to watch the idle cluster; 0 leaves it out
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    idle: u64,
    /// Use the programs of the last build
    #[arg(long)]
    no_build: bool,
    /// Only keep every core and the database busy for so long, and count failovers
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
}

/// Measures and writes the results.
pub(crate) fn bench(options: &Options) -> Outcome<()> {
    stop::listen();
    let out = match &options.out {
        Some(folder) => folder.clone(),
        None => paths::workspace().join("bench-results").join(now()?),
    };
    let below = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let reuse = options.no_build || options.floor_only;
    let programs = if reuse { Programs::built()? } else { Programs::build()? };
    let guard_bytes = binaries::size(&programs.guard).unwrap_or(0);
    let mut report = Report { guard_bytes, ..Report::default() };
    let outcome = measure(options, programs, &below, &out, &mut report);
    report.ended_early = outcome.as_ref().err().map(ToString::to_string);
    report::write(&report, &out)?;
    data!("{}", report.markdown());
    note!("written to {}", out.display());
    outcome?;
    if report.is_unsafe() {
        return Err(Failure::new("two nodes acknowledged writes at the same time"));
    }
    Ok(())
}

fn measure(
    options: &Options,
    programs: Programs,
    below: &Path,
    out: &Path,
    report: &mut Report,
) -> Outcome<()> {
    let mut rig = Rig::create(programs, below)?;
    report.machine = report::machine(&rig.postgres, rig.folder());
    let faults = options.faults.clone().unwrap_or_else(|| Fault::ALL.to_vec());
    if !options.no_floor && options.soak.is_none() {
        let Rig { world, postgres, account, .. } = &rig;
        report.floor = floor::measure(world, postgres, account, rig.folder(), options.runs)?;
    }
    if options.floor_only {
        return Ok(());
    }
    let outcome = with_cluster(options, &mut rig, &faults, report);
    rig.stop();
    rig.keep_logs(out)?;
    note!("logs of agents and servers are in {}", out.join("logs").display());
    outcome
}

fn with_cluster(
    options: &Options,
    rig: &mut Rig,
    faults: &[Fault],
    report: &mut Report,
) -> Outcome<()> {
    note!("starting a cluster on three hosts of its own");
    let took = rig.start()?;
    report.start_seconds = Some(took.as_secs_f64());
    report.ttl = rig.status()?.ttl;
    note!("healthy after {:.1} s", took.as_secs_f64());
    let journal = Journal::new();
    if let Some(minutes) = options.soak {
        let time = Duration::try_from_secs_f64(minutes * 60.0)
            .map_err(|error| Failure::new(format!("cannot soak for {minutes} minutes: {error}")))?;
        report.soak = Some(soak::soak(rig, &journal, time)?);
        return Ok(());
    }
    if options.idle > 0 {
        note!("watching the idle cluster for {} s", options.idle);
        report.idle_seconds = options.idle;
        report.idle = idle::measure(rig, Duration::from_secs(options.idle))?;
    }
    for &fault in faults {
        for number in 1..=options.runs {
            let run = run::run(rig, &journal, fault, number, report.ttl)?;
            note!(
                "{} {number}/{}: {} → {}, gap {:.0} ms, lost {} + {}, margin {} ms, streams again \
                 after {:.0} ms, epoch {} → {}",
                fault.title(),
                options.runs,
                run.old,
                run.new,
                run.gap_ms,
                run.lost.0,
                run.lost.1,
                run.margin_ms.map_or("-".to_owned(), |margin| format!("{margin:.0}")),
                run.rejoin_ms,
                run.epochs.0,
                run.epochs.1
            );
            report.runs.push(run);
        }
    }
    Ok(())
}

fn now() -> Outcome<String> {
    let text =
        exec::output(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]), Duration::from_secs(10));
    text.map(|text| text.trim().to_owned())
}
