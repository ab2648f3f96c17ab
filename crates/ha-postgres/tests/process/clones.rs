//! Base backups onto slow disks.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use ha_core::permit::StopMode;
use ha_postgres::driver::PostgresDriver;

use crate::support::{Node, soon, until};

/// For how long nothing is taken in: longer than `wal_sender_timeout` lets a standby.
const STALL: Duration = Duration::from_secs(8);
/// Slow enough that the backup is still under way afterwards, fast enough for a test, in KiB in a second.
const RATE: u32 = 4096;

#[tokio::test]
async fn that_stall_for_longer_than_a_standby_may_are_not_cut_off() {
    let n1 = Node::new_primary("n1").await;
    assert_eq!(n1.sql("SHOW wal_sender_timeout"), "5s");
    let n2 = Node::new_primary("n2").await;
    n2.stop(StopMode::Fast).await;
    let cloning = n2.dir.path().join("data.cloning");
    let upstream = n1.upstream();
    let stalls = async {
        // One for the files, one for the WAL.
        let tools = until("it copies", async || {
            let found = tools_at(&cloning);
            (cloning.join("base").exists() && found.len() == 2).then_some(found)
        });
        let tools = tools.await;
        send(&tools, Signal::STOP);
        tokio::time::sleep(STALL).await;
        send(&tools, Signal::CONT);
    };
    let clone = n2.driver.clone_from(&upstream, Some(RATE), &|_, _| {}, soon(90));
    let (done, ()) = tokio::join!(clone, stalls);
    done.unwrap();
    n2.start().await;
    n2.catches_up_with(&n1).await;
}

fn send(tools: &[Pid], signal: Signal) {
    for pid in tools {
        kill_process(*pid, signal).expect("a process of ours");
    }
}

/// Returns the processes that write a base backup there.
fn tools_at(cloning: &Path) -> Vec<Pid> {
    let wanted = format!("--pgdata={}", cloning.display());
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let is_wanted = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        line.unwrap_or_default().split(|byte| *byte == 0).any(|word| word == wanted.as_bytes())
    };
    let pids =
        processes.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(is_wanted).collect()
}
