//! What an idle cluster costs: memory, processor, bytes written, of every agent and guard.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::stop;
use crate::bench::subject::Subject;
use crate::cluster::process::Process;
use crate::failure::{Doing as _, Outcome};

/// Ticks of `utime` and `stime` per second: `USER_HZ`, fixed at 100 on all our platforms.
const TICKS_PER_SECOND: f64 = 100.0;

/// One process's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sample {
    pss_kib: u64,
    rss_kib: u64,
    ticks: u64,
    write_bytes: u64,
    wchar: u64,
}

/// What one process cost over a while.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cost {
    pub(crate) node: String,
    pub(crate) program: String,
    pub(crate) pss_kib: u64,
    pub(crate) rss_kib: u64,
    pub(crate) cpu_percent: f64,
    /// Bytes that went to a disk.
    pub(crate) write_bytes: u64,
    /// Bytes given to `write`, tmpfs and sockets included.
    pub(crate) wchar: u64,
}

impl Cost {
    /// Returns the raw numbers.
    pub(crate) fn json(&self) -> Value {
        json!({
            "node": self.node, "program": self.program, "pss_kib": self.pss_kib,
            "rss_kib": self.rss_kib, "cpu_percent": self.cpu_percent,
            "write_bytes": self.write_bytes, "wchar": self.wchar,
        })
    }
}

/// Watches all agents and guards for a while, with nobody using the cluster.
pub(crate) fn measure(subject: &impl Subject, time: Duration) -> Outcome<Vec<Cost>> {
    subject.wait_healthy()?;
    // What becoming healthy still has to write is not the cost of being idle.
    stop::pause(Duration::from_secs(10))?;
    let processes = subject.daemons()?;
    let began = Instant::now();
    let before: Vec<Sample> =
        processes.iter().map(|(_, process)| sample(process)).collect::<Outcome<_>>()?;
    stop::pause(time)?;
    let seconds = began.elapsed().as_secs_f64();
    processes
        .into_iter()
        .zip(before)
        .map(|((node, process), before)| {
            let after = sample(&process)?;
            Ok(Cost {
                node,
                program: process.program,
                pss_kib: after.pss_kib,
                rss_kib: after.rss_kib,
                cpu_percent: cpu_percent(after.ticks - before.ticks, seconds),
                write_bytes: after.write_bytes - before.write_bytes,
                wchar: after.wchar - before.wchar,
            })
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a minute has far fewer ticks than 2^52")]
fn cpu_percent(ticks: u64, seconds: f64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND / seconds * 100.0
}

fn sample(process: &Process) -> Outcome<Sample> {
    let read = |file: &str| {
        let path = format!("/proc/{}/{file}", process.pid);
        fs::read_to_string(&path).doing(|| format!("could not read {path}"))
    };
    let memory = read("smaps_rollup")?;
    let io = read("io")?;
    Ok(Sample {
        pss_kib: number(&memory, "Pss:").unwrap_or(0),
        rss_kib: number(&memory, "Rss:").unwrap_or(0),
        ticks: ticks(&read("stat")?).unwrap_or(0),
        write_bytes: number(&io, "write_bytes:").unwrap_or(0),
        wchar: number(&io, "wchar:").unwrap_or(0),
    })
}

/// Finds the number behind a key at the beginning of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Adds up `utime` and `stime` of a `stat` line.
fn ticks(stat: &str) -> Option<u64> {
    let after = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = after.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLUP: &str = "\
55d0c0a0-7ffd00 ---p 00000000 00:00 0                          [rollup]
Rss:               20480 kB
Pss:               10240 kB
Pss_Dirty:          4096 kB
";

    #[test]
    fn pss_is_read_and_not_one_of_its_parts() {
        assert_eq!(number(ROLLUP, "Pss:"), Some(10240));
        assert_eq!(number(ROLLUP, "Rss:"), Some(20480));
        assert_eq!(number(ROLLUP, "Swap:"), None);
    }

    #[test]
    fn bytes_written_are_read_and_not_those_taken_back() {
        let io = "wchar: 12\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!((number(io, "write_bytes:"), number(io, "wchar:")), (Some(4096), Some(12)));
    }

    #[test]
    fn processor_time_is_found_behind_a_strange_name() {
        let stat = "9 (a) b) S 1 1 1 0 -1 0 0 0 0 0 70 30 0 0 20 0 1 0 4711";
        assert_eq!(ticks(stat), Some(100));
        assert!((cpu_percent(100, 50.0) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn our_own_process_can_be_sampled() {
        let own = Process::look(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(sample(&own).unwrap().pss_kib > 0);
    }
}
