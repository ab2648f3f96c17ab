//! The guard beside this node's database.

use std::time::Duration;

use ha_core::clock::millis;
use ha_postgres::driver::GuardSeen;

use super::finding::Finding;

/// Judges the guard; `ours_to_see` says whether its process is one of this machine's, under that number.
pub(super) fn judge(seen: &GuardSeen, margin: Duration, ours_to_see: bool) -> Vec<Finding> {
    let status = match seen {
        GuardSeen::Alive(status) => status,
        GuardSeen::Absent => {
            return vec![Finding::critical(
                "guard-silent",
                "no guard runs: the database is down and stays down",
                "the agent starts one by itself; its log, or guard.log in postgres.log_dir, says why not",
            )];
        }
        GuardSeen::Silent { silent_ms, .. } => {
            return vec![Finding::critical(
                "guard-silent",
                format!("the guard has not reported for {silent_ms} ms"),
                "the host may be overloaded or the guard frozen: the agent kills it by itself in the end",
            )];
        }
    };
    let pid = status.guard_pid;
    let mut findings = vec![Finding::ok("guard-silent", format!("guard {pid} reports"))];
    let seen = if ours_to_see { details(pid) } else { None };
    let seen = seen.map(|text| format!(": {text}")).unwrap_or_default();
    findings.push(if status.realtime {
        Finding::ok(
            "guard-not-real-time",
            format!("guard {pid} has real-time priority and locked memory{seen}"),
        )
    } else {
        Finding::warning(
            "guard-not-real-time",
            format!("guard {pid} lacks real-time priority or locked memory{seen}"),
            "systemd: LimitRTPRIO=99, LimitMEMLOCK=infinity; containers: cap_add SYS_NICE and IPC_LOCK, \
             ulimits rtprio and memlock; then stop the node's agent, whose guard ends with it, and start it",
        )
    });
    findings.push(match status.margin {
        Some(told) if told < margin => Finding::critical(
            "guard-margin-differs",
            format!(
                "the guard has a margin of {} ms, lease.margin is {} ms",
                millis(told),
                millis(margin)
            ),
            "stop the node's agent, whose guard ends with it, and start it; the primary's after a switchover",
        ),
        Some(told) => Finding::ok(
            "guard-margin-differs",
            format!("the guard has a margin of {} ms", millis(told)),
        ),
        None => Finding::ok("guard-margin-differs", "the guard was told no margin yet"),
    });
    findings
}

/// Returns what the kernel says of a process: how it is scheduled, how much of its memory is locked.
///
/// # Sources
/// proc(5): field 41 of `/proc/PID/stat` is the policy, 18 the priority; `VmLck` of `/proc/PID/status`.
fn details(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    described(&stat, &status)
}

fn described(stat: &str, status: &str) -> Option<String> {
    // The name of the program may hold anything; what follows its last bracket may not.
    let (_, fields) = stat.rsplit_once(") ")?;
    let policy = match fields.split(' ').nth(38)? {
        "0" => "SCHED_OTHER",
        "1" => "SCHED_FIFO",
        "2" => "SCHED_RR",
        other => other,
    };
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
    let locked = locked.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(format!("{policy}, {locked} locked"))
}

#[cfg(test)]
mod tests {
    use ha_core::permit::{GuardStatus, RunState};
    use ha_core::{BootNanos, Epoch};

    use super::super::finding::Severity::{self, Critical, Ok as Fine, Warning};
    use super::*;

    fn alive(realtime: bool, margin_ms: Option<u64>) -> GuardSeen {
        GuardSeen::Alive(GuardStatus {
            boot: "00000000-0000-4000-8000-000000000001".parse().expect("a boot id"),
            guard_pid: 7,
            heartbeat: BootNanos(1),
            run: 1,
            state: RunState::Running,
            postmaster: Some(8),
            exit: None,
            primary_epoch: Epoch::NONE,
            realtime,
            margin: margin_ms.map(Duration::from_millis),
            deadline: None,
            reason: String::new(),
        })
    }

    #[test]
    fn a_guard_must_report_and_be_steady_and_as_quick_as_is_counted_on() {
        let (silent, steady, margin) =
            ("guard-silent", "guard-not-real-time", "guard-margin-differs");
        let last = None;
        #[rustfmt::skip]
        let table: [(_, Vec<(&str, Severity)>); 6] = [
            (GuardSeen::Absent,                           vec![(silent, Critical)]),
            (GuardSeen::Silent { silent_ms: 900, last },  vec![(silent, Critical)]),
            (alive(true, Some(500)),   vec![(silent, Fine), (steady, Fine), (margin, Fine)]),
            (alive(false, Some(600)),  vec![(silent, Fine), (steady, Warning), (margin, Fine)]),
            (alive(true, Some(499)),   vec![(silent, Fine), (steady, Fine), (margin, Critical)]),
            (alive(true, None),        vec![(silent, Fine), (steady, Fine), (margin, Fine)]),
        ];
        for (seen, expected) in table {
            let found = judge(&seen, Duration::from_millis(500), false);
            let found: Vec<_> = found.iter().map(|f| (f.id, f.severity)).collect();
            assert_eq!(found, expected, "{seen:?}");
        }
    }

    #[test]
    fn the_kernel_says_how_a_process_is_scheduled() {
        let zeros = "0 ".repeat(35);
        let stat = format!("7 (a) b (c)) S 1 1 {zeros}1 0 0");
        assert_eq!(
            described(&stat, "Name:\tx\nVmLck:\t    2048 kB\n").as_deref(),
            Some("SCHED_FIFO, 2048 kB locked")
        );
        assert_eq!(described("", ""), None);
    }
}
