//! What a bench found, as a table for people and as JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::faults::Fault;
use crate::bench::floor::Floor;
use crate::bench::idle::Cost;
use crate::bench::run::Run;
use crate::bench::soak::Soak;
use crate::bench::stats::{Spread, spread};
use crate::bench::subject::Driver;
use crate::bench::throughput::Round;
use crate::bench::{sequences, stall, throughput};
use crate::cluster::Mode;
use crate::exec;
use crate::failure::Outcome;

/// Largest PSS of an idle agent and size of the guard (issue 2, "Bars").
const AGENT_PSS_KIB: u64 = 25 * 1024;
const GUARD_BYTES: u64 = 1024 * 1024;
/// From reachable to streaming.
const REJOIN_MS: f64 = 10_000.0;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) machine: String,
    /// How the cluster was run.
    pub(crate) driver: Driver,
    pub(crate) ttl: Duration,
    pub(crate) guard_bytes: u64,
    pub(crate) start_seconds: Option<f64>,
    pub(crate) floor: Vec<Floor>,
    pub(crate) runs: Vec<Run>,
    pub(crate) idle: Vec<Cost>,
    pub(crate) idle_seconds: u64,
    pub(crate) soak: Option<Soak>,
    /// What clients are promised.
    pub(crate) durability: Option<Mode>,
    pub(crate) sequences: Vec<sequences::Run>,
    pub(crate) stalls: Vec<stall::Run>,
    pub(crate) throughput: Vec<Round>,
    /// Why measuring ended early, if it did.
    pub(crate) ended_early: Option<String>,
}

impl Report {
    /// Returns the table.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from("# Bench\n\n");
        let _ = writeln!(
            out,
            "{}; {}, durability {}, ttl {} ms.",
            self.machine,
            self.driver.title(),
            self.mode(),
            self.ttl.as_millis()
        );
        if let Some(seconds) = self.start_seconds {
            let _ = writeln!(out, "Empty directories to a healthy cluster: {seconds:.1} s.");
        }
        if let Some(why) = &self.ended_early {
            let _ = writeln!(out, "\n**Ended early: {why}**");
        }
        self.faults(&mut out);
        self.idle(&mut out);
        if let Some(soak) = &self.soak {
            soak_lines(soak, &mut out);
        }
        if !self.sequences.is_empty() {
            out.push_str(&sequences::table(&self.sequences));
        }
        if !self.stalls.is_empty() {
            out.push_str(&stall::table(&self.stalls));
        }
        if !self.throughput.is_empty() {
            out.push_str(&throughput::table(&self.throughput));
        }
        out
    }

    const fn mode(&self) -> &'static str {
        match self.durability {
            Some(mode) => mode.word(),
            None => "unknown",
        }
    }

    fn faults(&self, out: &mut String) {
        if self.runs.is_empty() && self.floor.is_empty() {
            return;
        }
        out.push_str(
            "\nThe application holds a session to each node and tries every 20 ms; two more clients \
             sit on the old primary's host. Write gap: longest time between two acknowledgements \
             to the application. Lost: acknowledged and not there afterwards, application + pinned \
             clients. Margin: last acknowledgement of the old node to first \
             of the new one, smallest. All times min / median / max.\n\n\
             | fault | runs | write gap ms | bar | usual gap ms | lost | overlaps | margin ms | old node streams again ms | healthy again ms | epochs |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        if !self.floor.is_empty() {
            let gaps = shown(spread(self.floor.iter().map(|floor| floor.gap_ms)));
            let promote = shown(spread(self.floor.iter().map(|floor| floor.promote_ms)));
            let count = self.floor.len();
            let _ = writeln!(
                out,
                "| floor: postmaster SIGKILL, `pg_ctl promote` by hand ({promote} of it) | {count} \
                 | {gaps} | - | - | - | - | - | - | - | - |"
            );
        }
        for fault in Fault::ALL {
            let runs: Vec<&Run> = self.runs.iter().filter(|run| run.fault == fault).collect();
            if !runs.is_empty() {
                out.push_str(&self.fault_line(fault, &runs));
            }
        }
    }

    fn fault_line(&self, fault: Fault, runs: &[&Run]) -> String {
        let of = |value: fn(&Run) -> f64| spread(runs.iter().map(|run| value(run)));
        let gap = of(|run| run.gap_ms);
        let usual = of(|run| run.usual_ms);
        let rejoin = of(|run| run.rejoin_ms);
        let usual_max = usual.map_or(0.0, |usual| usual.max);
        let bar = fault.bar(self.ttl, Duration::from_secs_f64(usual_max / 1000.0));
        let bar = bar + self.driver.slack();
        let bar_ms = bar.as_secs_f64() * 1000.0;
        let met = gap.is_some_and(|gap| gap.median <= bar_ms);
        let streams = rejoin.is_some_and(|rejoin| rejoin.median <= REJOIN_MS);
        let lost = |part: fn(&Run) -> usize| runs.iter().map(|run| part(run)).sum::<usize>();
        let acked: usize = runs.iter().map(|run| run.acked.0 + run.acked.1).sum();
        let overlaps = runs.iter().filter(|run| run.overlaps()).count();
        let margin = spread(runs.iter().filter_map(|run| run.margin_ms));
        let moved: Vec<String> =
            runs.iter().map(|run| format!("{}→{}", run.epochs.0, run.epochs.1)).collect();
        format!(
            "| {} | {} | {} | ≤ {bar_ms:.0} {} | {} | {} + {} of {acked} | {overlaps} | {} | {} {} | {} | {} |\n",
            fault.title(),
            runs.len(),
            shown(gap),
            mark(met),
            shown(usual),
            lost(|run| run.lost.0),
            lost(|run| run.lost.1),
            margin.map_or("-".to_owned(), |margin| format!("{:.0}", margin.min)),
            shown(rejoin),
            mark(streams),
            shown(of(|run| run.healthy_ms)),
            moved.join(", "),
        )
    }

    fn idle(&self, out: &mut String) {
        if self.guard_bytes > 0 {
            let ok = mark(self.guard_bytes <= GUARD_BYTES);
            let _ = writeln!(out, "\nGuard: {} bytes on disk {ok}.", self.guard_bytes);
        }
        if self.idle.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "\nIdle cluster over {} s:\n\n\
             | node | process | PSS KiB | RSS KiB | CPU % of one core | bytes to disk | bytes written at all |\n\
             |---|---|---|---|---|---|---|\n",
            self.idle_seconds
        );
        for cost in &self.idle {
            let limit = if cost.program == "ha-agent" { AGENT_PSS_KIB } else { GUARD_BYTES / 1024 };
            let _ = writeln!(
                out,
                "| {} | {} | {} {} | {} | {:.2} | {} | {} |",
                cost.node,
                cost.program,
                cost.pss_kib,
                mark(cost.pss_kib <= limit),
                cost.rss_kib,
                cost.cpu_percent,
                cost.write_bytes,
                cost.wchar
            );
        }
    }

    /// Returns all numbers.
    pub(crate) fn json(&self) -> Value {
        json!({
            "machine": self.machine,
            "driver": self.driver.title(),
            "ttl_ms": u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            "guard_bytes": self.guard_bytes,
            "start_seconds": self.start_seconds,
            "ended_early": self.ended_early,
            "floor": self.floor.iter().map(Floor::json).collect::<Vec<_>>(),
            "runs": self.runs.iter().map(Run::json).collect::<Vec<_>>(),
            "idle": self.idle.iter().map(Cost::json).collect::<Vec<_>>(),
            "idle_seconds": self.idle_seconds,
            "soak": self.soak.as_ref().map(Soak::json),
            "durability": self.mode(),
            "sequences": self.sequences.iter().map(sequences::Run::json).collect::<Vec<_>>(),
            "stalls": self.stalls.iter().map(stall::Run::json).collect::<Vec<_>>(),
            "throughput": self.throughput.iter().map(Round::json).collect::<Vec<_>>(),
        })
    }

    /// Returns what unsafe thing was seen, if any: no median excuses that.
    pub(crate) fn harm(&self) -> Option<String> {
        let overlaps = self.runs.iter().filter(|run| run.overlaps()).count()
            + self.sequences.iter().filter(|run| run.overlaps > 0).count();
        let may_lose = self.durability == Some(Mode::Async);
        let of_faults: usize = self.runs.iter().map(|run| run.lost.0 + run.lost.1).sum();
        let lost = if may_lose { 0 } else { of_faults }
            + self.sequences.iter().map(|run| run.lost).sum::<usize>()
            + self.stalls.iter().map(|run| run.lost).sum::<usize>();
        match (overlaps, lost) {
            (0, 0) => None,
            (0, lost) => Some(format!("{lost} acknowledged writes were lost")),
            (runs, 0) => {
                Some(format!("two nodes acknowledged writes at the same time in {runs} runs"))
            }
            (runs, lost) => Some(format!(
                "{lost} acknowledged writes were lost, and two nodes acknowledged at the same time in \
                 {runs} runs"
            )),
        }
    }
}

fn soak_lines(soak: &Soak, out: &mut String) {
    let moved = soak.epochs.1.saturating_sub(soak.epochs.0);
    let _ = writeln!(
        out,
        "\nSoak: {:.0} minutes with every core busy and pgbench on the primary: {moved} failovers {}, \
         longest write gap {:.0} ms, {} writes acknowledged, Raft term {} → {}, {} times not \
         healthy. {}.",
        soak.minutes,
        mark(moved == 0),
        soak.longest_gap_ms,
        soak.acked,
        soak.terms.0,
        soak.terms.1,
        soak.unwell.len(),
        soak.load
    );
}

fn shown(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| spread.shown())
}

const fn mark(met: bool) -> &'static str {
    if met { "✓" } else { "✗" }
}

/// Describes the machine in one line.
pub(crate) fn machine(version: &str, folder: &Path) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        exec::output(command.args(arguments), Duration::from_secs(10))
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let kernel = said("uname", &["-r"]);
    let disk = said("stat", &["-f", "-c", "%T", &folder.to_string_lossy()]);
    let day = said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    format!("{day}: {cores} × {model}, Linux {kernel}, {disk}, PostgreSQL {version}")
}

/// Writes table and numbers into a directory.
pub(crate) fn write(report: &Report, out: &Path) -> Outcome<()> {
    crate::cluster::account::folder(out, 0o755)?;
    let put = |name: &str, text: &str| crate::cluster::prepare::write(&out.join(name), text, 0o644);
    put("bench.md", &report.markdown())?;
    put("bench.json", &format!("{:#}\n", report.json()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(fault: Fault, gap_ms: f64, margin_ms: Option<f64>) -> Run {
        Run {
            fault,
            number: 1,
            old: "n1".into(),
            new: "n2".into(),
            epochs: (1, 2),
            usual_ms: 21.0,
            gap_ms,
            margin_ms,
            acked: (100, 50),
            lost: (0, 3),
            rejoin_ms: 900.0,
            healthy_ms: 1000.0,
            restarts: 0,
        }
    }

    fn report(runs: Vec<Run>) -> Report {
        let durability = Some(Mode::Async);
        Report { ttl: Duration::from_secs(3), runs, durability, ..Report::default() }
    }

    #[test]
    fn a_line_shows_the_spread_and_whether_the_bar_is_met() {
        let runs = vec![
            run(Fault::Network, 3500.0, Some(300.0)),
            run(Fault::Network, 3900.0, Some(250.0)),
            run(Fault::Network, 3600.0, Some(500.0)),
        ];
        let text = report(runs).markdown();
        let line = text.lines().find(|line| line.starts_with("| network cut")).unwrap();
        assert!(line.contains("| 3500 / 3600 / 3900 | ≤ 3700 ✓ |"), "{line}");
        assert!(line.contains("| 0 + 9 of 450 | 0 | 250 |"), "{line}");
    }

    #[test]
    fn an_overlap_is_unsafe_whatever_the_median() {
        assert_eq!(report(vec![run(Fault::AgentStop, 1.0, Some(1.0))]).harm(), None);
        assert_eq!(report(vec![run(Fault::AgentKill, 1.0, None)]).harm(), None);
        let harm = report(vec![run(Fault::AgentStop, 1.0, Some(-1.0))]).harm();
        assert!(harm.is_some_and(|harm| harm.contains("in 1 runs")));
    }

    #[test]
    fn a_lost_write_is_harm_unless_the_mode_is_async() {
        let lossy = report(vec![run(Fault::Node, 1.0, None)]);
        assert_eq!(lossy.harm(), None);
        let quorum = Report { durability: Some(Mode::Quorum), ..lossy };
        assert_eq!(quorum.harm().as_deref(), Some("3 acknowledged writes were lost"));
    }

    #[test]
    fn containers_may_take_a_little_longer() {
        let driver = Driver::Compose;
        let text = Report { driver, ..report(vec![run(Fault::Network, 3900.0, None)]) }.markdown();
        assert!(text.contains("≤ 4000 ✓") && text.contains("containers"), "{text}");
    }

    #[test]
    fn a_missed_bar_is_marked() {
        let text = report(vec![run(Fault::Postmaster, 900.0, None)]).markdown();
        assert!(text.contains("≤ 800 ✗"), "{text}");
    }
}
