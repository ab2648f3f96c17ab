//! `bench`: how long writes are gone after each fault, what is lost, what idling costs.

mod containers;
mod faults;
mod floor;
mod idle;
mod report;
mod rig;
mod run;
mod sequences;
mod soak;
mod stall;
mod stats;
mod stop;
mod subject;
mod supervisor;
mod throughput;
mod world;
mod writer;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::binaries::{self, Programs};
use crate::cluster::Mode;
use crate::exec;
use crate::failure::{Failure, Outcome};
use crate::{data, note, paths};
use containers::Containers;
use faults::Fault;
use report::Report;
use rig::Rig;
use sequences::Sequence;
use subject::{Driver, Subject};
use writer::Journal;

/// What the measurements of the WAL quorum leave out.
const MEASURES: [&str; 3] = ["faults", "soak", "floor_only"];

/// Measurements of the WAL quorum; if any is asked for, nothing else is measured.
#[derive(Debug, clap::Args)]
struct Quorum {
    /// Only run sequences of faults, each `--runs` times: all, or those named
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SEQUENCE,…")]
    #[arg(num_args = 0.., require_equals = true, conflicts_with_all = MEASURES)]
    sequences: Option<Vec<Sequence>>,
    /// How long a sequence freezes the primary
    #[arg(long, default_value_t = 30, value_name = "SECONDS", requires = "sequences")]
    freeze: u64,
    /// Only measure the slowest commit while standby or witness is lost, `--runs` times each
    #[arg(long, conflicts_with_all = MEASURES)]
    stall: bool,
    /// Only compare pgbench with that on plain PostgreSQL, `--runs` rounds
    #[arg(long, conflicts_with_all = MEASURES)]
    throughput: bool,
}

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
    /// What clients of the cluster are promised
    #[arg(long, value_enum, default_value_t = Mode::Quorum)]
    mode: Mode,
    /// How the cluster is run; containers have no floor and no measurements of the WAL quorum
    #[arg(long, value_enum, default_value_t = Driver::Process)]
    driver: Driver,
    #[command(flatten)]
    quorum: Quorum,
    /// Only keep every core and the database busy for so long, and count failovers
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
}

/// Measures and writes the results.
pub(crate) fn bench(options: &Options) -> Outcome<()> {
    options.refuse()?;
    stop::listen();
    let out = match &options.out {
        Some(folder) => folder.clone(),
        None => paths::workspace().join("bench-results").join(now()?),
    };
    let below = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let reuse = options.no_build || options.floor_only;
    let programs = if reuse { Programs::built()? } else { Programs::build()? };
    let guard_bytes = binaries::size(&programs.guard).unwrap_or(0);
    let mut report = Report { guard_bytes, driver: options.driver, ..Report::default() };
    let outcome = match options.driver {
        Driver::Process => measure(options, programs, &below, &out, &mut report),
        Driver::Compose => measure_containers(options, &programs, &out, &mut report),
    };
    report.ended_early = outcome.as_ref().err().map(ToString::to_string);
    report::write(&report, &out)?;
    data!("{}", report.markdown());
    note!("written to {}", out.display());
    outcome?;
    report.harm().map_or(Ok(()), |harm| Err(Failure::new(harm)))
}

fn measure(
    options: &Options,
    programs: Programs,
    below: &Path,
    out: &Path,
    report: &mut Report,
) -> Outcome<()> {
    let mut rig = Rig::create(programs, below, options.mode)?;
    report.durability = Some(options.mode);
    report.machine = report::machine(&rig.postgres.version, rig.folder());
    if !options.no_floor && options.soak.is_none() && !options.quorum.is_wanted() {
        let Rig { world, postgres, account, .. } = &rig;
        report.floor = floor::measure(world, postgres, account, rig.folder(), options.runs)?;
    }
    if options.floor_only {
        return Ok(());
    }
    let outcome = with_cluster(options, &mut rig, report);
    rig.stop();
    rig.keep_logs(out)?;
    note!("logs of agents and servers are in {}", out.join("logs").display());
    outcome
}

fn with_cluster(options: &Options, rig: &mut Rig, report: &mut Report) -> Outcome<()> {
    note!("starting a cluster on three hosts of its own");
    let took = rig.start()?;
    report.start_seconds = Some(took.as_secs_f64());
    report.ttl = rig.status()?.ttl;
    note!("healthy after {:.1} s", took.as_secs_f64());
    let journal = Journal::new();
    if options.quorum.is_wanted() {
        return quorum(options, rig, &journal, report);
    }
    if let Some(minutes) = options.soak {
        let time = Duration::try_from_secs_f64(minutes * 60.0)
            .map_err(|error| Failure::new(format!("cannot soak for {minutes} minutes: {error}")))?;
        report.soak = Some(soak::soak(rig, &journal, time)?);
        return Ok(());
    }
    every_fault(options, rig, &journal, report)
}

/// Measures the same on containers.
fn measure_containers(
    options: &Options,
    programs: &Programs,
    out: &Path,
    report: &mut Report,
) -> Outcome<()> {
    report.durability = Some(options.mode);
    note!("making the agent's image");
    let mut containers = Containers::create(programs)?;
    note!("starting a cluster in containers");
    let outcome = containers.start().and_then(|took| {
        report.start_seconds = Some(took.as_secs_f64());
        report.ttl = containers.status()?.ttl;
        report.machine = report::machine(&containers.version()?, &Containers::folder()?);
        note!("healthy after {:.1} s", took.as_secs_f64());
        every_fault(options, &mut containers, &Journal::new(), report)
    });
    containers.keep_logs(out)?;
    note!("logs of agents and guards are in {}", out.join("logs").display());
    outcome
}

/// Watches the idle cluster, then does each fault to it.
fn every_fault(
    options: &Options,
    subject: &mut impl Subject,
    journal: &Arc<Journal>,
    report: &mut Report,
) -> Outcome<()> {
    if options.idle > 0 {
        note!("watching the idle cluster for {} s", options.idle);
        report.idle_seconds = options.idle;
        report.idle = idle::measure(subject, Duration::from_secs(options.idle))?;
    }
    for fault in options.faults.clone().unwrap_or_else(|| Fault::ALL.to_vec()) {
        for number in 1..=options.runs {
            let run = run::run(subject, journal, fault, number, report.ttl)?;
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

/// Measures what the WAL quorum promises.
fn quorum(
    options: &Options,
    rig: &mut Rig,
    journal: &Arc<Journal>,
    report: &mut Report,
) -> Outcome<()> {
    let freeze = Duration::from_secs(options.quorum.freeze);
    let wanted = options.quorum.sequences.clone();
    let wanted = wanted.map(|some| if some.is_empty() { Sequence::ALL.to_vec() } else { some });
    for sequence in wanted.unwrap_or_default() {
        for number in 1..=options.runs {
            let run = sequences::run(rig, journal, sequence, number, freeze)?;
            note!(
                "{} {number}/{}: {} acknowledged, {} lost, {} overlaps, gap {:.0} ms, well again \
                 after {:.0} ms",
                sequence.title(),
                options.runs,
                run.acked,
                run.lost,
                run.overlaps,
                run.gap_ms,
                run.healthy_ms
            );
            report.sequences.push(run);
        }
    }
    if options.quorum.stall {
        for number in 1..=options.runs {
            note!("slowest commits, {number}/{}", options.runs);
            stall::measure(rig, journal, |run| {
                note!("{}", run.line());
                report.stalls.push(run);
            })?;
        }
    }
    if options.quorum.throughput {
        throughput::measure(rig, options.runs, |round| report.throughput.push(round))?;
    }
    Ok(())
}

impl Options {
    /// Fails if something is asked for that containers do not have.
    fn refuse(&self) -> Outcome<()> {
        let asked = [
            (self.quorum.is_wanted(), "the WAL quorum"),
            (self.soak.is_some(), "a soak"),
            (self.floor_only, "the floor"),
            (self.mode != Mode::Quorum, "another durability than quorum"),
            (self.dir.is_some(), "another directory"),
        ];
        let asked = asked.into_iter().find(|(asked, _)| *asked && self.driver == Driver::Compose);
        asked.map_or(Ok(()), |(_, what)| {
            Err(Failure::new(format!("cannot measure {what} in containers"))
                .hint("Use MODE=process, or leave it out."))
        })
    }
}

impl Quorum {
    /// Returns whether any of it is asked for.
    const fn is_wanted(&self) -> bool {
        self.sequences.is_some() || self.stall || self.throughput
    }
}

fn now() -> Outcome<String> {
    let text =
        exec::output(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]), Duration::from_secs(10));
    text.map(|text| text.trim().to_owned())
}
