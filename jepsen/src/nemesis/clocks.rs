//! Wall clocks that jump, run at another rate, or do not know what time it is.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ha_agent::clock::wall_unix_ms;
use ha_tests::{Cluster, logs};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::{Fault, Outcome};
use crate::env::busy::Held;
use crate::env::clocks::Clocks;
use crate::harness::Harness;
use crate::random::Random;
use crate::workload::client::Access;

/// How often a clock is put where it is to be.
const EVERY: Duration = Duration::from_millis(20);
/// How often servers are asked what time it is.
const ASK_EVERY: Duration = Duration::from_millis(400);
/// How long a server may take to say it.
const ASK_LIMIT: Duration = Duration::from_millis(800);
/// A clock is read in microseconds and written down in milliseconds.
const ROUNDING_MS: i64 = 5;
/// A log line is older than its file's time, and lies in a buffer for a moment.
const LINE_MS: i64 = 2000;
/// How far a clock jumps: from what an NTP client steps to a wrong time zone.
const JUMPS_MS: [i64; 6] = [150, 2_000, 20_000, 90_000, 600_000, 3_600_000];

/// How far off a clock is at which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Motion {
    /// By so many milliseconds, all the time.
    Step(i64),
    /// So many thousandths of the time that went by: it is too fast, or too slow.
    Rate(i64),
    /// Right and off by so many milliseconds in turn, each for so many milliseconds.
    Strobe(i64, i64),
}

impl Motion {
    fn draw(fault: Fault, random: &mut Random) -> Self {
        let ahead = |random: &mut Random| if random.percent(50) { 1 } else { -1 };
        let jump = random.pick(&JUMPS_MS).copied().unwrap_or(2000) * ahead(random);
        let signed = |n: u64| i64::try_from(n).unwrap_or_default();
        match fault {
            Fault::ClockSkew => Self::Rate(signed(random.between(10, 100)) * ahead(random)),
            Fault::ClockStrobe => Self::Strobe(jump, signed(random.between(40, 700))),
            _ => Self::Step(jump),
        }
    }

    /// Returns how many milliseconds the clock is ahead after so many.
    fn off_ms(self, after_ms: i64) -> i64 {
        match self {
            Self::Step(off) => off,
            Self::Rate(per_1000) => after_ms * per_1000 / 1000,
            Self::Strobe(off, every) => off * (1 - after_ms / every.max(1) % 2),
        }
    }

    fn said(self) -> String {
        match self {
            Self::Step(off) => format!("{off:+} ms"),
            Self::Rate(per_1000) => format!("{per_1000:+} ms in each second"),
            Self::Strobe(off, every) => format!("{off:+} ms and right, {every} ms each"),
        }
    }
}

/// Puts clocks off until told to stop, and right again then. Beside it the servers there are asked what time it
/// is: only what they say, or what an agent's log says, proves that there was a fault.
pub fn put_off(
    fault: Fault,
    (clocks, cluster, held): (&Clocks, &Cluster, Vec<Held>),
    nodes: &[String],
    access: &Access,
    random: &mut Random,
) -> (String, JoinHandle<Result<Outcome, Harness>>, watch::Sender<bool>) {
    let wrong: Vec<Wrong> = nodes
        .iter()
        .map(|name| Wrong {
            node: name.clone(),
            motion: Motion::draw(fault, random),
            now_ms: None,
            session: None,
            seen: None,
            log: cluster.node(name).log(),
            // What is in the log already says nothing.
            log_from: logs::read(&cluster.node(name).log()).len(),
        })
        .collect();
    let told: Vec<String> =
        wrong.iter().map(|wrong| format!("{}: {}", wrong.node, wrong.motion.said())).collect();
    let (stop, stopped) = watch::channel(false);
    let hold = Hold { clocks: clocks.clone(), access: access.clone(), wrong, _held: held };
    (told.join(", "), tokio::spawn(hold.until(stopped)), stop)
}

struct Hold {
    clocks: Clocks,
    access: Access,
    wrong: Vec<Wrong>,
    _held: Vec<Held>,
}

/// One clock, and what is known of it.
struct Wrong {
    node: String,
    motion: Motion,
    now_ms: Option<i64>,
    session: Option<Client>,
    /// The least and the most that the server was off.
    seen: Option<RangeInclusive<i64>>,
    log: PathBuf,
    log_from: usize,
}

impl Hold {
    async fn until(mut self, stopped: watch::Receiver<bool>) -> Result<Outcome, Harness> {
        let (began, began_ms) = (Instant::now(), wall_ms());
        let mut ask_at = Duration::ZERO;
        while !*stopped.borrow() {
            let elapsed = began.elapsed();
            for wrong in &mut self.wrong {
                wrong.put(&self.clocks, i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))?;
            }
            if elapsed >= ask_at {
                ask_at = elapsed + ASK_EVERY;
                for wrong in &mut self.wrong {
                    wrong.ask(&self.access).await?;
                }
            }
            tokio::time::sleep(EVERY).await;
        }
        for wrong in &self.wrong {
            self.clocks.set(&wrong.node, 0)?;
        }
        Ok(said(&self.wrong, began_ms..=wall_ms()))
    }
}

/// A clock of which there is no proof may have been right.
fn said(wrong: &[Wrong], span: RangeInclusive<i64>) -> Outcome {
    let mut told = Vec::new();
    let mut proven = true;
    for wrong in wrong {
        let text = logs::read(&wrong.log);
        let lines = false_lines(text.get(wrong.log_from..).unwrap_or_default(), &span);
        let server = wrong.seen.as_ref().map_or_else(
            || "no server told the time".to_owned(),
            |seen| format!("its server was off by {:+} to {:+} ms", seen.start(), seen.end()),
        );
        proven &=
            lines > 0 || wrong.seen.as_ref().is_some_and(|s| (*s.start(), *s.end()) != (0, 0));
        let (node, motion) = (&wrong.node, wrong.motion.said());
        told.push(format!(
            "{node}: {motion}: {server}, {lines} log lines of its agent have a false time"
        ));
    }
    let text = told.join("; ");
    if proven { Outcome::Installed(text) } else { Outcome::Indeterminate(text) }
}

/// Returns how many lines of a log are from a time at which they cannot have been written.
fn false_lines(log: &str, span: &RangeInclusive<i64>) -> usize {
    let times = log.lines().filter_map(|line| {
        let time = line.split_whitespace().next()?;
        Some(chrono::DateTime::parse_from_rfc3339(time).ok()?.timestamp_millis())
    });
    let (first, last) = (span.start() - LINE_MS, span.end() + LINE_MS);
    times.filter(|time| *time < first || *time > last).count()
}

impl Wrong {
    fn put(&mut self, clocks: &Clocks, after_ms: i64) -> Result<(), Harness> {
        let off_ms = self.motion.off_ms(after_ms);
        if self.now_ms != Some(off_ms) {
            clocks.set(&self.node, off_ms)?;
            self.now_ms = Some(off_ms);
        }
        Ok(())
    }

    /// Asks the server what time it is, if there is one that answers.
    async fn ask(&mut self, access: &Access) -> Result<(), Harness> {
        let Some(database) = access.databases.iter().find(|db| db.node == self.node) else {
            return Ok(());
        };
        if self.session.as_ref().is_none_or(Client::is_closed) {
            let open = tokio::time::timeout(ASK_LIMIT, access.superuser(database)).await;
            self.session = open.ok().flatten();
        }
        let (Some(session), Some(off_ms)) = (&self.session, self.now_ms) else { return Ok(()) };
        let before = wall_ms();
        let asked = tokio::time::timeout(ASK_LIMIT, server_ms(session)).await;
        let after = wall_ms();
        let Ok(Some(server_ms)) = asked else {
            self.session = None;
            return Ok(());
        };
        let may_be = server_ms - after - ROUNDING_MS..=server_ms - before + ROUNDING_MS;
        if !may_be.contains(&off_ms) {
            let text = format!(
                "the clock of {} was put off by {off_ms} ms, but its server's is off by {may_be:?}",
                self.node
            );
            return Err(Harness::new(text));
        }
        let (least, most) = self.seen.clone().map_or((off_ms, off_ms), RangeInclusive::into_inner);
        self.seen = Some(least.min(off_ms)..=most.max(off_ms));
        Ok(())
    }
}

async fn server_ms(session: &Client) -> Option<i64> {
    let text = "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint";
    session.query_one(text, &[]).await.ok()?.try_get(0).ok()
}

fn wall_ms() -> i64 {
    i64::try_from(wall_unix_ms()).unwrap_or(i64::MAX)
}

/// Returns whose clocks are put off: the target's, or everybody's.
pub fn whose(clocks: &Clocks, target: &str, random: &mut Random) -> Vec<String> {
    if random.percent(25) { clocks.nodes() } else { vec![target.to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_stays_a_rate_grows_and_a_strobe_comes_and_goes() {
        let at = |motion: Motion| [0, 99, 100, 200].map(|ms| motion.off_ms(ms));
        assert_eq!(at(Motion::Step(-2000)), [-2000; 4]);
        assert_eq!(at(Motion::Rate(-100)), [0, -9, -10, -20]);
        assert_eq!(at(Motion::Strobe(50, 100)), [50, 50, 0, 50]);
    }

    #[test]
    fn every_motion_moves_and_none_by_more_than_an_hour_or_a_tenth() {
        let mut random = Random::new(3, 3);
        for _ in 0..500 {
            for fault in [Fault::ClockStep, Fault::ClockSkew, Fault::ClockStrobe] {
                match Motion::draw(fault, &mut random) {
                    Motion::Rate(per_1000) => assert!((10..=100).contains(&per_1000.abs())),
                    Motion::Step(off) | Motion::Strobe(off, _) => {
                        assert!((150..=3_600_000).contains(&off.abs()));
                    }
                }
            }
        }
    }

    #[test]
    fn lines_from_another_time_are_counted_and_others_are_not() {
        let log = "1970-01-01T00:01:40.5Z INFO then\n1970-01-01T01:01:40Z INFO ahead\nno time\n";
        assert_eq!(false_lines(log, &(100_000..=101_000)), 1);
        assert_eq!(false_lines(log, &(3_700_000..=3_701_000)), 1);
        assert_eq!(false_lines(log, &(100_000..=3_700_000)), 0);
    }

    #[test]
    fn a_fault_that_nobody_can_prove_is_indeterminate() {
        let wrong = |seen| Wrong {
            node: "n1".to_owned(),
            motion: Motion::Step(2000),
            now_ms: None,
            session: None,
            seen,
            log: PathBuf::from("/nowhere"),
            log_from: 0,
        };
        let name = |seen| said(&[wrong(seen)], 0..=1).name();
        assert_eq!(name(None), "indeterminate");
        assert_eq!(name(Some(0..=0)), "indeterminate");
        assert_eq!(name(Some(2000..=2000)), "installed");
    }
}
