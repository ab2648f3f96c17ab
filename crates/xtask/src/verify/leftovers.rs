//! Processes that tests left behind: there may be none, and if there are they are ended here.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::process::{self, Process};
use crate::failure::{Failure, Outcome};
use crate::note;

/// The variable by which a test's processes, and all that these start, are known.
pub(crate) const VARIABLE: &str = "HACLT_VERIFY_RUN";

/// Fails if a process of the run with this marker is still there; ends it.
pub(crate) fn none(marker: &str, patience: Duration) -> Outcome<()> {
    let wanted = format!("{VARIABLE}={marker}");
    let list = || -> Vec<Process> {
        Process::all().into_iter().filter(|process| carries(process.pid, &wanted)).collect()
    };
    // What was asked to stop when the last test ended may need a moment.
    if process::wait_until(patience, || list().is_empty()) {
        return Ok(());
    }
    let left = list();
    for process in &left {
        note!("left running: pid {} {}", process.pid, process.command);
    }
    process::end(&[Signal::TERM], Duration::from_secs(5), list);
    Err(Failure::new(format!("tests left {} processes running", left.len())))
}

fn carries(pid: i32, wanted: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_tests_left_running_is_found_and_ended() {
        let marker = format!("unit-{}", std::process::id());
        assert!(none(&marker, Duration::from_millis(50)).is_ok());
        let mut child = Command::new("sleep")
            .arg("60")
            .env(VARIABLE, &marker)
            .spawn()
            .expect("sleep is installed");
        let text = none(&marker, Duration::from_millis(50)).map_err(|failure| failure.to_string());
        assert_eq!(text, Err("tests left 1 processes running".to_owned()));
        assert!(!child.wait().expect("the child was ours").success());
    }
}
