//! The end of WAL, to the byte: it is where crash recovery writes its first new record.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Stdio};

use crate::support::{Node, soon, until};
use ha_core::permit::StopMode;
use ha_core::{Lsn, TimelineId, WalPosition};
use ha_postgres::driver::PostgresDriver;
use ha_postgres::wal::files::segment_name;

fn as_server_user(node: &Node, program: &str) -> Command {
    let mut command = node.server_command(program);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// Lets crash recovery run, and returns whether its first record follows `end`, page headers aside.
fn recovery_ends_at(node: &Node, end: WalPosition) -> bool {
    let _standby = std::fs::remove_file(node.data().join("standby.signal"));
    let recovered = as_server_user(node, "postgres")
        .args(["--single", "-c", "logging_collector=off", "-D"])
        .arg(node.data())
        .arg("postgres")
        .stdout(Stdio::null())
        .status();
    assert!(recovered.unwrap().success());
    let output = as_server_user(node, "pg_waldump")
        .args([format!("--start={}", end.lsn), format!("--timeline={}", end.timeline)])
        .args(["--limit=1", "--path"])
        .arg(node.data().join("pg_wal"))
        .output()
        .unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let begin = [0, 24, 40].map(|header| Lsn(end.lsn.0 + header).0);
    let at = line.split("lsn: ").nth(1).unwrap_or_else(|| panic!("nothing at {end}: {line}"));
    let at: Lsn = at.split(',').next().unwrap().parse().unwrap();
    // A record that was not whole is overwritten from the next page on, and named.
    line.contains("CHECKPOINT_SHUTDOWN") && begin.contains(&at.0)
        || line.contains(&format!("OVERWRITE_CONTRECORD lsn {};", end.lsn))
}

#[tokio::test]
async fn of_a_crashed_primary() {
    let node = Node::new_primary("n1").await;
    let shapes = [
        "CREATE TABLE t (i int, t text)",
        "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 50000) i",
        "SELECT pg_switch_wal()",
        "SELECT pg_logical_emit_message(true, 'x', repeat('y', 20000000))",
        "INSERT INTO t VALUES (1); SELECT pg_switch_wal(); INSERT INTO t VALUES (2)",
    ];
    for shape in shapes {
        node.sql(shape);
        // Only after the first: the end of each shape itself is of interest.
        let committed = if shape.starts_with("CREATE") { node.committed() } else { Lsn::ZERO };
        node.crash().await;
        let end = node.driver.end_of_wal(soon(20)).await.unwrap();
        assert!(end.lsn >= committed, "{shape}: {end} is before {committed}");
        assert_eq!(end, node.driver.end_of_wal(soon(20)).await.unwrap(), "it changes nothing");
        assert!(recovery_ends_at(&node, end), "{shape}");
        // Cleanly shut down by that: the end is after the shutdown checkpoint.
        let clean = node.driver.end_of_wal(soon(20)).await.unwrap();
        assert!(clean.lsn > end.lsn, "{shape}");
        node.driver.prepare_standby(None, soon(10)).await.unwrap();
        node.start().await;
        node.right(1);
        node.promote().await;
    }
}

/// A server makes segments ahead of use: whole files of zeros, under names to come. `pg_waldump` takes
/// whichever file it finds first for the form of all.
#[tokio::test]
async fn with_segments_made_ahead_that_hold_nothing_yet() {
    let node = Node::new_primary("n1").await;
    node.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    node.crash().await;
    let end = node.driver.end_of_wal(soon(20)).await.unwrap();
    let pg_wal = node.data().join("pg_wal");
    for ahead in 1..=40 {
        let name = segment_name(end.timeline, end.lsn.0 / (16 << 20) + ahead, 16 << 20);
        let file = std::fs::File::create(pg_wal.join(name)).unwrap();
        file.set_len(16 << 20).unwrap();
    }
    assert_eq!(node.driver.end_of_wal(soon(20)).await, Ok(end));
    assert_eq!(node.driver.wal_tip(end).unwrap().end, end);
}

#[tokio::test]
async fn of_one_that_crashed_before_the_first_checkpoint_of_its_timeline() {
    let node = Node::new("n1");
    node.driver.initdb(soon(60)).await.unwrap();
    node.start().await;
    node.right(1);
    let begin = node.promote().await;
    node.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    node.crash().await;
    let end = node.driver.end_of_wal(soon(10)).await.unwrap();
    assert_eq!(end.timeline, TimelineId(2));
    assert!(end.lsn > begin.lsn);
    assert_eq!(node.driver.local_history().unwrap().len(), 1);
    assert!(recovery_ends_at(&node, end));
}

#[tokio::test]
async fn of_a_standby_that_received_more_than_it_replayed() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    n1.sql("CREATE TABLE t (i int)");
    n2.catches_up_with(&n1).await;
    n2.sql("SELECT pg_wal_replay_pause()");
    n1.sql("INSERT INTO t SELECT generate_series(1, 50000)");
    let committed = n1.committed();
    until("it has received all", async || {
        let seen = n2.driver.probe(soon(5)).await.unwrap();
        (seen.flushed >= committed && seen.replayed < committed).then_some(())
    })
    .await;
    n2.stop(StopMode::Fast).await;
    let end = n2.driver.end_of_wal(soon(10)).await.unwrap();
    assert_eq!(end, WalPosition { timeline: TimelineId(2), lsn: end.lsn });
    assert!(end.lsn >= committed, "{end} is before {committed}");
    // What it replays when it starts again, alone.
    n2.driver.prepare_standby(None, soon(10)).await.unwrap();
    n2.start().await;
    let seen = until("it has replayed all", async || {
        let seen = n2.driver.probe(soon(5)).await.unwrap();
        (seen.replayed >= end.lsn).then_some(seen)
    })
    .await;
    assert_eq!(seen.replayed, end.lsn);
}

#[tokio::test]
async fn without_the_segment_that_would_come_next() {
    let node = Node::new_primary("n1").await;
    node.sql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 40000000))");
    node.crash().await;
    let whole = node.driver.end_of_wal(soon(10)).await.unwrap();
    // The last segments vanish: the long record is not whole any more.
    let mut segments: Vec<_> = std::fs::read_dir(node.data().join("pg_wal"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_none())
        .collect();
    segments.sort();
    let held = format!("{:08X}{:016X}", whole.timeline.0, whole.lsn.0 >> 24);
    for segment in segments.iter().filter(|path| path.file_name().unwrap().to_str() >= Some(&held))
    {
        std::fs::remove_file(segment).unwrap();
    }
    let began = tokio::time::Instant::now();
    let end = node.driver.end_of_wal(soon(10)).await.unwrap();
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "it waited for the segment");
    assert!(end.lsn.0 + 40_000_000 < whole.lsn.0 + 8192, "{end} of {whole}");
    assert!(recovery_ends_at(&node, end));
}
