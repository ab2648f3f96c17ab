//! The fault suite: `jepsen run`, `jepsen suite`, `jepsen analyze`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ha_tests::compose::fixed::GATEWAY;
use ha_tests::engine::Engine;
use jepsen::disk;
use jepsen::env::resolver::{Names, Resolver};
use jepsen::env::world::{self, World};
use jepsen::env::{self, Durability, Ground, Kind, containers};
use jepsen::harness::{Harness, Trying as _};
use jepsen::nemesis::{Fault, fault};
use jepsen::report::table;
use jepsen::run::verdict::Verdict;
use jepsen::run::{self, Options, Stop};
use jepsen::workload::{Level, Workload};
use jepsen::{sabotage, suite};

/// The exit code of a suite that failed itself.
const HARNESS_FAILED: u8 = 2;

/// Hurt real agents and real PostgreSQL, and check what clients saw
///
/// Exit codes: 0 nothing forbidden was seen, 1 something was, 2 the suite itself failed, 3 it could not be
/// decided.
#[derive(Debug, Parser)]
#[command(name = "jepsen", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make one run: a cluster, clients, faults, a verdict
    Run(Run),
    /// Make many runs, one after the other
    Suite(Suite),
    /// Take one safety away at a time and see that a run finds it: programs with the feature `sabotage`
    ///
    /// Each run must be valid with the safety, and not without it. Exit codes: 0 every one was caught, 1 one
    /// was not, or a run with the safety was not valid, 2 the suite itself failed.
    Sabotage(Sabotage),
    /// Print all runs that are kept as a table in Markdown
    Table {
        /// Where runs are kept
        stores: Vec<PathBuf>,
    },
    /// Check the history of a run once more
    Analyze {
        /// Directory of the run
        dir: PathBuf,
    },
    /// Serve a disk that can be slow, full, or lose power; runs start these themselves
    ///
    /// Orders come on standard input, each answered by `ok` or `error`: `slow SYNC_MS WRITE_MS`, `full on|off`,
    /// `lying on|off`, `lose all`, `lose SEED`, `state`. It ends at the end of standard input.
    Disk {
        /// Directory in which the contents lie; made if it is not there
        #[arg(long)]
        backing: PathBuf,
        /// Directory on which they are shown
        #[arg(long)]
        mount: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Where the nodes run
    #[arg(long, value_enum, default_value = "process")]
    env: Kind,
    /// What clients do
    #[arg(long, value_enum, default_value = "set")]
    workload: Workload,
    /// Faults to draw from: names and groups, separated by commas
    ///
    /// Groups: kill, pause, partition, network, clock, orders, disk, container, engine, members, all, none.
    #[arg(long, default_value = "none")]
    nemesis: String,
    /// Faults and their times, instead of drawing them: FAULT[@TARGET]:SECOND+SECONDS, separated by commas
    #[arg(long, conflicts_with = "nemesis")]
    script: Option<String>,
    /// How long faults are made
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Calls in a second, all clients together
    #[arg(long, default_value_t = 60)]
    rate: u64,
    /// What everything is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where runs are kept
    #[arg(long, default_value = "store")]
    store: PathBuf,
    /// Level of transactions
    #[arg(long, value_enum, default_value = "serializable")]
    level: Level,
    /// What commits wait for
    ///
    /// With `async` acknowledged writes are lost when a primary is: a run that must not be valid.
    #[arg(long, value_enum, default_value = "quorum")]
    durability: Durability,
    /// The witness keeps no WAL: it only votes
    #[arg(long)]
    bare_witness: bool,
    /// Disks under databases, and under the witness's WAL, say that they synced and do not, once the tables are made
    ///
    /// After power cuts acknowledged writes may be lost then: a run that must not be valid.
    #[arg(long)]
    lying_disks: bool,
    /// With `--env compose`: containers live on while the Docker engine is away
    #[arg(long)]
    live_restore: bool,
    /// With `--env compose`: whether the engine's name server answers for names that nobody has
    ///
    /// The name of a container that is down is such a name.
    #[arg(long, value_enum, default_value = "answered")]
    names: Names,
}

#[derive(Debug, Args)]
struct Sabotage {
    /// Where runs are kept
    #[arg(long, default_value = "store")]
    store: PathBuf,
    /// Only these safeties, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each may be tried before it counts as not caught
    #[arg(long, default_value_t = 6)]
    tries: u64,
}

#[derive(Debug, Args)]
struct Suite {
    /// Which list of runs
    #[arg(value_enum)]
    list: suite::List,
    /// Where runs are kept; those that it has already are not made again
    #[arg(long, default_value = "store")]
    store: PathBuf,
    /// Seed of the first run; each next run has the next one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only runs whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// How many runs at once
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=8))]
    jobs: usize,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(run) => make(run),
        Command::Suite(Suite { list, store, seed, only, jobs }) => {
            let asked = suite::Asked { list, store: &store, seed, only: &only, jobs };
            suite::all(&asked, &mut say)
        }
        Command::Sabotage(Sabotage { store, only, tries }) => {
            sabotage::all(&store, &only, tries, &mut say)
        }
        Command::Table { stores } => table(&stores),
        Command::Analyze { dir } => analyze(&dir),
        Command::Disk { backing, mount } => disk::serve(&backing, &mount, &mut say).map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("HARNESS  {error}"));
            ExitCode::from(HARNESS_FAILED)
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // If standard output is closed there is nobody to tell.
    drop(writeln!(out, "{line}"));
}

fn make(arguments: Run) -> Result<u8, Harness> {
    let faults: Vec<Fault> = fault::parse_list(&arguments.nemesis).map_err(Harness::new)?;
    let Run { env, workload, script, seconds, rate, seed, store, level, durability, .. } =
        arguments;
    let options = Options {
        env,
        workload,
        faults,
        script,
        seconds,
        rate,
        seed,
        store,
        level,
        durability,
        bare_witness: arguments.bare_witness,
        lying_disks: arguments.lying_disks,
        live_restore: arguments.live_restore,
        names: arguments.names,
    };
    let of_engines = options.live_restore || options.names == Names::Unanswered;
    if of_engines && env != Kind::Compose {
        return Err(Harness::new("--live-restore and --names are for --env compose"));
    }
    let places = env::places(options.plan()?.any(Fault::changes_members));
    let dir = options.directory()?;
    // While there is one thread: all others are where the clients are then.
    let ground = ground(&options, places)?;
    say(&format!("{} seed {seed}, kept in {}", options.name(), dir.display()));
    let verdict = on_runtime(&options, ground, &dir)?;
    for check in &verdict.0 {
        say(&check.to_string());
    }
    say(&format!("{}: {seconds} s, seed {seed}", verdict.word().name()));
    Ok(verdict.word().exit_code())
}

fn ground(options: &Options, places: u8) -> Result<Ground, Harness> {
    match options.env {
        Kind::Process => Ok(Ground::Loopback),
        Kind::Netns => {
            if let Some(missing) = world::missing() {
                return Err(Harness::new(format!("cannot make networks: {missing}")));
            }
            let world = World::create(places)?;
            world.enter_clients()?;
            Ok(Ground::Networks(world))
        }
        Kind::Compose => {
            if let Some(missing) = containers::missing() {
                return Err(Harness::new(format!("cannot make containers: {missing}")));
            }
            let answered = options.names == Names::Answered;
            let engine = Engine::start_asking(options.live_restore, answered.then_some(GATEWAY));
            let resolver = answered.then(Resolver::start).transpose()?;
            Ok(Ground::Engine(Box::new(engine), resolver))
        }
    }
}

fn on_runtime(options: &Options, ground: Ground, dir: &Path) -> Result<Verdict, Harness> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.trying(|| "start a runtime".to_owned())?;
    let stop = Stop::default();
    let asked = stop.clone();
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            asked.ask();
        }
    });
    let running = || runtime.block_on(run::run(options, ground, dir, &stop));
    // Whatever panics there is a fault of the suite: it asserts what it needs.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(running));
    // What still runs there are clients who wait for answers.
    runtime.shutdown_background();
    ended.unwrap_or_else(|_| Err(Harness::new("the suite panicked: standard error says where")))
}

fn table(stores: &[PathBuf]) -> Result<u8, Harness> {
    say(table::HEAD);
    for store in stores {
        for run in table::runs(store).trying(|| format!("list {}", store.display()))? {
            say(&table::row(&run).trying(|| format!("read the run {}", run.display()))?);
        }
    }
    Ok(0)
}

fn analyze(dir: &Path) -> Result<u8, Harness> {
    let verdict = Verdict(run::analysis::again(dir)?);
    for check in &verdict.0 {
        say(&check.to_string());
    }
    Ok(verdict.word().exit_code())
}
