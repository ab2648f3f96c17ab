//! A saturated machine: all cores busy and a load on the database, for a long time. Nobody asked for
//! a failover, so there may be none.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::rig::Rig;
use crate::bench::stats;
use crate::bench::stop;
use crate::bench::subject::Subject as _;
use crate::bench::world::Place;
use crate::bench::writer::{Journal, Writers};
use crate::cluster::SUPERUSER;
use crate::exec;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::note;

/// What the soak showed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Soak {
    pub(crate) minutes: f64,
    pub(crate) epochs: (u64, u64),
    pub(crate) terms: (u64, u64),
    /// Seconds at which the cluster was seen in a state other than healthy, and that state.
    pub(crate) unwell: Vec<(u64, String)>,
    pub(crate) longest_gap_ms: f64,
    pub(crate) acked: usize,
    /// What pgbench said last.
    pub(crate) load: String,
}

impl Soak {
    /// Returns the raw numbers.
    pub(crate) fn json(&self) -> Value {
        json!({
            "minutes": self.minutes, "epoch_before": self.epochs.0, "epoch_after": self.epochs.1,
            "raft_term_before": self.terms.0, "raft_term_after": self.terms.1,
            "longest_gap_ms": self.longest_gap_ms, "acked": self.acked, "pgbench": self.load,
            "unwell": self.unwell.iter().map(|(at, line)| json!([at, line])).collect::<Vec<_>>(),
        })
    }
}

/// Keeps every core busy until dropped.
struct Burn(Arc<AtomicBool>);

impl Burn {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Burn {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs it.
pub(crate) fn soak(rig: &Rig, journal: &Arc<Journal>, time: Duration) -> Outcome<Soak> {
    let before = rig.wait_healthy()?;
    let primary = rig.primary(&before)?;
    let target = rig.targets()?[primary].clone();
    let pgbench = |arguments: &[&str]| {
        let mut command = rig.world.command(Place::Hub, &rig.postgres.program("pgbench"));
        command
            .args(arguments)
            .args(["-h", &target.address.ip().to_string()])
            .args(["-p", &target.address.port().to_string(), "-U", SUPERUSER, "postgres"])
            .env("PGPASSWORD", &target.password);
        command
    };
    exec::output(&mut pgbench(&["-i", "-q", "-s", "10"]), Duration::from_mins(5))?;
    journal.clear();
    let mut writers = Writers::none();
    writers.start_app(journal, rig.world.network(Place::Hub), &rig.targets()?);
    let burn = Burn::start();
    let seconds = time.as_secs().to_string();
    let mut load = pgbench(&["-c", "4", "-j", "2", "-n", "-T", &seconds]);
    let load = load.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let load = load.spawn().doing(|| "could not start pgbench".to_owned())?;
    let unwell = watch(rig, before.epoch, time)?;
    drop(burn);
    let said = load.wait_with_output().doing(|| "could not wait for pgbench".to_owned())?;
    writers.stop()?;
    let after = rig.wait_healthy()?;
    let acks = journal.acks();
    let gap = stats::longest_gap(&acks, Duration::ZERO, Duration::MAX).unwrap_or_default();
    let words = [said.stdout, said.stderr].concat();
    let words = String::from_utf8_lossy(&words).into_owned();
    let load = words.lines().find(|line| line.starts_with("tps")).or(words.lines().last());
    Ok(Soak {
        minutes: time.as_secs_f64() / 60.0,
        epochs: (before.epoch, after.epoch),
        terms: (before.term, after.term),
        unwell,
        longest_gap_ms: gap.as_secs_f64() * 1000.0,
        acked: acks.len(),
        load: load.unwrap_or("pgbench said nothing").to_owned(),
    })
}

/// Asks for the status every second; returns when it was not healthy, and how.
fn watch(rig: &Rig, epoch: u64, time: Duration) -> Outcome<Vec<(u64, String)>> {
    let began = Instant::now();
    let mut unwell: Vec<(u64, String)> = Vec::new();
    let mut minutes = 0;
    while began.elapsed() < time {
        stop::pause(Duration::from_secs(1))?;
        let line = match rig.status() {
            Ok(status) if status.is_healthy() && status.epoch == epoch => None,
            Ok(status) => Some(format!("epoch {}: {}", status.epoch, status.line())),
            Err(failure) => Some(failure.to_string()),
        };
        if let Some(line) = line
            && unwell.last().is_none_or(|(_, last)| *last != line)
        {
            note!("soak, {} s: {line}", began.elapsed().as_secs());
            unwell.push((began.elapsed().as_secs(), line));
            if unwell.len() > 1000 {
                return Err(Failure::new("the cluster does not come to rest"));
            }
        }
        if began.elapsed().as_secs() / 60 > minutes {
            minutes = began.elapsed().as_secs() / 60;
            note!("soak: {minutes} of {} minutes", time.as_secs() / 60);
        }
    }
    Ok(unwell)
}
