//! Full disks: under a database, under both, under an agent.

use std::fs;
use std::path::PathBuf;

use ha_proto::v1::StatusReply;
use ha_tests::compose::Compose;
use ha_tests::mount::SmallDisk;
use ha_tests::{admin, status, within};

use super::{MAJOR, story_of};

/// Room for a database, what WAL it keeps for others, and a little more.
const DATABASE_MIB: u32 = 512;
/// Room for a Raft store, and for the WAL of a diverged database: 16 MiB and 64 to spare.
const AGENT_MIB: u32 = 160;

/// Runs a story on a cluster with volumes on disks of their own.
fn story(volumes: &[&str], mib: u32, body: impl AsyncFnOnce(&mut Compose, &[SmallDisk])) {
    let prepare = || {
        let mut cluster = Compose::prepare(MAJOR, None);
        let disks = cluster.small(volumes, mib);
        (cluster, disks)
    };
    story_of(prepare, async |c, disks| body(c, disks.as_slice()).await);
}

fn says(status: &StatusReply, node: &str, what: &[&str]) -> bool {
    let troubles = &status::node(status, node).troubles;
    troubles.iter().any(|trouble| what.iter().any(|what| trouble.contains(what)))
}

/// What a status says of a database without room.
const NO_ROOM: [&str; 2] = ["bytes are free", "No space left"];

/// Fills the disk of a node, and waits until the status says so.
async fn fill(c: &mut Compose, node: &str, disk: &SmallDisk) -> PathBuf {
    let ballast = disk.fill();
    let named = c.await_status("the full disk is named", within(30), |s| says(s, node, &NO_ROOM));
    let named = named.await;
    let troubles = status::node(&named, node).troubles.join("; ");
    c.say(&format!("{node}: {troubles}"));
    ballast
}

const DATABASES: [&str; 2] = ["n1-postgres", "n2-postgres"];

fn index(node: &str) -> usize {
    usize::from(node == "n2")
}

#[test]
fn a_primary_without_room_hands_over_and_comes_back_once_there_is_room() {
    story(&DATABASES, DATABASE_MIB, async |c, disks| {
        let (primary, standby) = (c.primary().await, c.standby().await);
        let writer = c.write().await;
        let ballast = fill(c, &primary, &disks[index(&primary)]).await;
        c.writes_on(&writer, &standby, within(60)).await;
        // It has no room to be made a standby of, either: that stays in sight.
        tokio::time::sleep(within(10)).await;
        let now = c.await_status("somebody answers", within(10), |_| true).await;
        assert_ne!(now.state, "healthy", "{}", status::brief(&now));
        c.say(&format!("meanwhile {}", status::brief(&now)));
        fs::remove_file(ballast).expect("the ballast");
        c.told("the primary's disk full by a file", writer).await;
    });
}

#[test]
fn a_primary_that_filled_its_disk_by_writes_loses_nothing() {
    story(&DATABASES, DATABASE_MIB, async |c, disks| {
        let primary = c.primary().await;
        let writer = c.write().await;
        // So little room that the standby has plenty when it is used up.
        let ballast = disks[index(&primary)].fill_but(96);
        // Rows that are just short enough not to be compressed.
        let fat = "insert into writes select 900000000 + g, repeat('f', 1900) \
                   from generate_series(1, 100000) g";
        let full = c.sql(&primary, fat).await.expect_err("there is no room for it");
        c.say(&format!("{primary}: {full}"));
        c.await_status("the full disk is named", within(30), |s| {
            s.state != "healthy" && ["n1", "n2"].iter().any(|node| says(s, node, &NO_ROOM))
        })
        .await;
        tokio::time::sleep(within(10)).await;
        fs::remove_file(ballast).expect("the ballast");
        c.told("the primary's disk full by writes", writer).await;
    });
}

/// Rule 107: failing over to an equally full node helps nobody.
#[test]
fn two_full_disks_move_nobody_and_are_named_rule_107() {
    story(&DATABASES, DATABASE_MIB, async |c, disks| {
        let (primary, standby) = (c.primary().await, c.standby().await);
        let before = c.healthy(within(30)).await;
        let writer = c.write().await;
        let second = fill(c, &standby, &disks[index(&standby)]).await;
        let first = fill(c, &primary, &disks[index(&primary)]).await;
        tokio::time::sleep(within(10)).await;
        let now = c.await_status("somebody answers", within(10), |_| true).await;
        c.say(&format!("meanwhile {}", status::brief(&now)));
        assert_eq!(status::holder(&now), status::holder(&before), "{}", status::brief(&now));
        // The primary's first: a full primary beside a standby with room would rightly move.
        fs::remove_file(first).expect("the ballast");
        fs::remove_file(second).expect("the ballast");
        c.told("both disks full", writer).await;
    });
}

#[test]
fn an_agent_without_room_ends_with_its_reason_and_comes_back_once_there_is_room() {
    story(&["n1-agent", "n2-agent"], AGENT_MIB, async |c, disks| {
        let (primary, standby) = (c.primary().await, c.standby().await);
        let writer = c.write().await;
        let ballast = disks[index(&primary)].fill();
        // Commands that are refused take room in the log all the same.
        let cluster = "x".repeat(20_000);
        let found = format!(r#"{{"found":{{"cluster":"{cluster}","cluster_id":1,"nodes":{{}}}}}}"#);
        let starts = |c: &Compose| -> u32 {
            let asked = ["inspect", "-f", "{{.RestartCount}}", &c.container(&primary)];
            c.docker(&asked).trim().parse().expect("a number")
        };
        let before = starts(c);
        for _ in 0..2_000 {
            for at in c.grpc() {
                admin::propose(&at, "orders", found.as_bytes()).await;
            }
            if starts(c) > before {
                break;
            }
        }
        assert!(starts(c) > before, "the agent did not notice");
        c.writes_on(&writer, &standby, within(30)).await;
        // The engine starts it again and again, more and more seldom.
        let (first, span) = (starts(c), within(20));
        tokio::time::sleep(span).await;
        let again = starts(c) - first;
        let log = c.log(&primary);
        let why = log.lines().rfind(|line| line.contains("error:")).unwrap_or_default().to_owned();
        c.say(&format!("{again} starts in {} s: {why}", span.as_secs()));
        assert!(why.contains("No space left"), "it names what is wrong: {why:?}");
        assert!(again <= 12, "a storm of restarts: {again} in {} s", span.as_secs());
        fs::remove_file(ballast).expect("the ballast");
        c.told("the disk of the primary's agent full", writer).await;
    });
}
