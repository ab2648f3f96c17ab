//! A node that wrote what the cluster does not have: kept, described, rewound or cloned, whatever dies
//! on the way.

#![expect(clippy::print_stdout, reason = "figures for people, shown with --nocapture")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kind::DOCKER;
use crate::support::{LeftBehind, Node, driver, engine, run_as, soon, until};
use ha_core::permit::StopMode;
use ha_core::{TimelineId, WalPosition};
use ha_postgres::InstanceConfig;
use ha_postgres::diverged::{Diverged, DivergedTransaction};
use ha_postgres::driver::{ActionError, DataDir, HalfMade, PostgresDriver, missing_wal};
use rustix::process::{Pid, Signal, kill_process};

const NOW: &str = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', \
                   'YYYY-MM-DD HH24:MI:SS.US') || ' UTC'";
/// About 300 MB of WAL.
const MUCH: &str = "INSERT INTO t SELECT i, repeat('x', 900) FROM generate_series(1, 290000) i";

/// Nothing commits but what a test lets commit.
fn quiet(config: &mut InstanceConfig) {
    let more = [("autovacuum", "off"), ("max_prepared_transactions", "5"), ("max_wal_size", "4GB")];
    config.parameters.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// A primary with a table.
async fn primary(change: impl FnOnce(&mut InstanceConfig)) -> Node {
    let node = Node::with("n1", |config| {
        quiet(config);
        change(config);
    });
    node.become_primary().await;
    node.sql("CREATE TABLE t (i int, x text); CREATE TABLE u (i int); CREATE TABLE v (i int)");
    node
}

async fn standby(name: &str, of: &Node) -> Node {
    let node = Node::with(name, quiet);
    node.driver.clone_from(&of.upstream(), None, &|_, _| {}, soon(60)).await.unwrap();
    node.start().await;
    node.catches_up_with(of).await;
    node
}

/// Cuts the standby off and promotes it; the old primary goes on. Returns where they part.
async fn part(standby: &Node, epoch: u64) -> WalPosition {
    standby.driver.follow(None, soon(5)).await.unwrap();
    until("it streams no more", async || {
        standby.driver.probe(soon(5)).await.ok().filter(|probe| !probe.streaming)
    })
    .await;
    standby.right(epoch);
    standby.promote().await;
    standby.driver.checkpoint(soon(30)).await.unwrap();
    let switch = *standby.driver.local_history().unwrap().last().unwrap();
    WalPosition { timeline: switch.timeline, lsn: switch.end }
}

/// Two servers that have both written since they parted.
async fn parted() -> (Node, Node, WalPosition) {
    let n1 = primary(|_| {}).await;
    let n2 = standby("n2", &n1).await;
    // The slot of n2 keeps the WAL from here on, and a rewind wants it from the last checkpoint.
    n1.driver.checkpoint(soon(30)).await.unwrap();
    n2.catches_up_with(&n1).await;
    let fork = part(&n2, 2).await;
    n2.sql("INSERT INTO u VALUES (2)");
    (n1, n2, fork)
}

fn file_of(node: &Node, table: &str) -> String {
    let ask = format!(
        "SELECT '1663/' || oid || '/' || pg_relation_filenode('{table}') FROM pg_database \
         WHERE datname = current_database()"
    );
    node.sql(&ask)
}

async fn kept(node: &Node, fork: WalPosition, into: &Path) -> Diverged {
    let end = node.driver.end_of_wal(soon(60)).await.unwrap();
    let kept = node.driver.keep_diverged(fork, end, into, soon(120)).await.unwrap();
    assert_eq!((kept.fork, kept.end, kept.bytes), (fork, end, end.lsn.0 - fork.lsn.0));
    kept
}

fn xids(kept: &Diverged) -> Vec<u64> {
    kept.transactions.iter().map(|transaction| transaction.xid).collect()
}

fn last_number(text: &str) -> u64 {
    text.lines().last().unwrap().parse().unwrap()
}

/// The directory is a standby of `upstream` that has its data.
async fn follows(node: &Node, upstream: &Node) {
    assert!(matches!(node.driver.inspect(soon(5)).await, DataDir::Present(_)));
    node.driver.prepare_standby(Some(&upstream.upstream()), soon(10)).await.unwrap();
    node.start().await;
    node.catches_up_with(upstream).await;
    for table in ["t", "u"] {
        let sum = format!("SELECT count(*), sum(i), sum(length({table}::text)) FROM {table}");
        assert_eq!(node.sql(&sum), upstream.sql(&sum), "{table}");
    }
}

#[tokio::test]
async fn what_committed_after_the_fork_is_listed_and_nothing_else() {
    let (n1, _n2, fork) = parted().await;
    let [t, u, v] = ["t", "u", "v"].map(|table| file_of(&n1, table));
    let before = n1.sql(NOW);
    let tiny = last_number(&n1.sql("INSERT INTO t VALUES (1); SELECT pg_current_xact_id()"));
    n1.sql("BEGIN; INSERT INTO t VALUES (2); ROLLBACK");
    let nested = last_number(&n1.sql(
        "BEGIN; INSERT INTO t VALUES (3); SAVEPOINT a; INSERT INTO u VALUES (3); RELEASE a; \
         SAVEPOINT b; INSERT INTO v VALUES (3); ROLLBACK TO b; SELECT pg_current_xact_id(); COMMIT",
    ));
    let prepared = last_number(&n1.sql(
        "BEGIN; INSERT INTO v VALUES (4); SELECT pg_current_xact_id(); PREPARE TRANSACTION 'COMMIT'",
    ));
    n1.sql("BEGIN; INSERT INTO v VALUES (5); PREPARE TRANSACTION 'never ended'");
    n1.sql("COMMIT PREPARED 'COMMIT'");
    let created = last_number(&n1.sql("CREATE TABLE w (i int); SELECT pg_current_xact_id()"));
    let w = file_of(&n1, "w");
    let after = n1.sql(NOW);
    let into = n1.dir.path().join("diverged/7-2-500");
    let refused = n1.driver.keep_diverged(fork, fork, &into, soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    let later = WalPosition { lsn: ha_core::Lsn(fork.lsn.0 + 8), ..fork };
    let refused = n1.driver.keep_diverged(fork, later, &into, soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Failed { .. })), "a server runs: {refused:?}");
    n1.crash().await;

    let kept = kept(&n1, fork, &into).await;
    assert_eq!(xids(&kept), [tiny, nested, prepared, created], "{kept:?}");
    assert_eq!((kept.transactions_total, kept.truncated), (4, false));
    assert_eq!(kept.note, None);
    let relations: Vec<&[String]> =
        kept.transactions.iter().map(|transaction| &transaction.relations[..]).collect();
    assert_eq!(relations[0], std::slice::from_ref(&t));
    assert_eq!(relations[1], [t, u]);
    assert_eq!(relations[2], [v]);
    assert!(relations[3].contains(&w) && relations[3].contains(&"catalog".to_owned()), "{kept:?}");
    for DivergedTransaction { committed_at, commit_lsn, records, .. } in &kept.transactions {
        assert!(
            *committed_at >= before && *committed_at <= after,
            "{before} {committed_at} {after}"
        );
        assert!(*commit_lsn >= fork.lsn && *commit_lsn < kept.end.lsn && *records >= 2, "{kept:?}");
    }

    // It is there already: nothing is read again.
    let segment = into.join(format!("{:08X}{:016X}", fork.timeline.0, fork.lsn.0 >> 24));
    assert_eq!(std::fs::metadata(&segment).unwrap().len(), 16 << 20);
    let end = kept.end;
    let pg_wal = n1.data().join("pg_wal");
    let hidden = n1.dir.path().join("hidden");
    std::fs::rename(&pg_wal, &hidden).unwrap();
    assert_eq!(n1.driver.keep_diverged(fork, end, &into, soon(5)).await.as_ref(), Ok(&kept));
    // Another one's place is not overwritten.
    let refused = n1.driver.keep_diverged(later, end, &into, soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    std::fs::rename(&hidden, &pg_wal).unwrap();
    // Killed in the middle of a copy: it ends the same.
    std::fs::remove_file(into.join("summary.json")).unwrap();
    std::fs::write(&segment, "half").unwrap();
    std::fs::write(into.join("000000010000000000000099"), "of another attempt").unwrap();
    std::fs::write(into.join("summary.json.new"), "{").unwrap();
    assert_eq!(n1.driver.keep_diverged(fork, end, &into, soon(60)).await.as_ref(), Ok(&kept));
    let source = pg_wal.join(segment.file_name().unwrap());
    assert_eq!(std::fs::read(&segment).unwrap(), std::fs::read(source).unwrap());
    assert!(!into.join("000000010000000000000099").exists());
}

#[tokio::test]
async fn much_is_summed_up_and_the_rewind_after_it_succeeds() {
    let (n1, n2, fork) = parted().await;
    let many =
        "DO $$ BEGIN FOR i IN 1..1500 LOOP INSERT INTO u VALUES (i); COMMIT; END LOOP; END $$";
    n1.sql(many);
    n1.sql(MUCH);
    n1.stop(StopMode::Fast).await;
    let into = n1.dir.path().join("kept");
    let began = std::time::Instant::now();
    let seen = kept(&n1, fork, &into).await;
    println!("{} bytes kept and read in {:?}", seen.bytes, began.elapsed());
    assert!(seen.bytes > 280_000_000, "{}", seen.bytes);
    assert!(seen.copied_bytes >= seen.bytes && seen.copied_bytes < seen.bytes + (64 << 20));
    assert_eq!((seen.transactions.len(), seen.transactions_total), (1000, 1501));
    assert!(seen.truncated && seen.note.is_none(), "{:?}", seen.note);
    n1.driver.rewind(&n2.upstream(), soon(120)).await.unwrap();
    // The WAL of its own is gone from the directory; what was kept is still told.
    assert_eq!(n1.driver.keep_diverged(fork, seen.end, &into, soon(5)).await, Ok(seen));
    follows(&n1, &n2).await;
}

#[tokio::test]
async fn over_two_promotions_of_the_others_and_of_its_own() {
    // It archives nothing, but the server renames the last segment of the timeline that it leaves.
    let n1 = primary(|config| {
        let more = [("archive_mode", "on"), ("archive_command", "false")];
        config.parameters.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
    })
    .await;
    let n2 = standby("n2", &n1).await;
    let n3 = standby("n3", &n2).await;
    let fork = part(&n2, 2).await;
    n3.catches_up_with(&n2).await;
    part(&n3, 3).await;
    n3.sql("INSERT INTO u VALUES (3)");
    n3.driver.checkpoint(soon(30)).await.unwrap();
    assert_eq!(n3.driver.probe(soon(5)).await.unwrap().timeline, TimelineId(4));

    let insert = "INSERT INTO t VALUES (1); SELECT pg_current_xact_id()";
    let first = last_number(&n1.sql(insert));
    n1.sql("BEGIN; INSERT INTO t VALUES (2); ROLLBACK");
    n1.crash().await;
    let alone = kept(&n1, fork, &n1.dir.path().join("alone")).await;
    assert_eq!((alone.end.timeline, xids(&alone)), (TimelineId(2), vec![first]));

    // And then it went on, on a timeline of its own.
    n1.driver.prepare_standby(None, soon(10)).await.unwrap();
    n1.start().await;
    n1.right(1);
    n1.promote().await;
    let second = last_number(&n1.sql(insert));
    n1.stop(StopMode::Fast).await;
    let into = n1.dir.path().join("both");
    let both = kept(&n1, fork, &into).await;
    assert_eq!((both.end.timeline, xids(&both)), (TimelineId(3), vec![first, second]));
    assert_eq!(both.note, None);
    let names: Vec<String> = std::fs::read_dir(&into)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.contains(&"00000003.history".to_owned()), "{names:?}");
    assert!(names.iter().any(|name| name.ends_with(".partial")), "{names:?}");
    // Timeline 3 is here and there, each time another one; the other's newest is 4.
    n1.driver.rewind(&n3.upstream(), soon(60)).await.unwrap();
    follows(&n1, &n3).await;
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Finds the tool at work on the directory.
fn tool_on(data_dir: &Path, name: &str) -> Option<i32> {
    if DOCKER {
        let container = engine::tools_on(data_dir, name).pop()?;
        let pid = engine::try_docker(&["inspect", "--format", "{{.State.Pid}}", &container]);
        return pid.ok()?.parse().ok().filter(|pid| *pid != 0);
    }
    let marked = format!("HACLT_DATA_DIR={}", data_dir.display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let is = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        is("comm") == format!("{name}\n").into_bytes()
            && is("environ").split(|byte| *byte == 0).any(|entry| entry == marked.as_bytes())
    })
}

/// Waits until a tool has written so much, and returns its process.
async fn tool_that_wrote(data_dir: &Path, name: &str, bytes: u64) -> i32 {
    until("the tool is at work", async || {
        let pid = tool_on(data_dir, name)?;
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: "))?;
        (written.parse::<u64>().ok()? >= bytes).then_some(pid)
    })
    .await
}

#[tokio::test]
async fn a_rewind_killed_again_and_again_ends_as_a_standby_or_asks_for_a_clone() {
    let (n1, n2, _) = parted().await;
    n1.sql(MUCH);
    n2.sql(MUCH);
    n2.driver.checkpoint(soon(60)).await.unwrap();
    n1.crash().await;
    let upstream = n2.upstream();
    for bytes in [0, 4 << 20, 100 << 20, 200 << 20] {
        let (data, rewinding) = (n1.data(), n1.driver.rewind(&upstream, soon(120)));
        let killing = async {
            kill(tool_that_wrote(data, "pg_rewind", bytes).await);
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = rewinding => ended,
            () = killing => unreachable!("it waits for ever"),
        };
        println!("killed after {bytes} bytes: {ended:?}");
        assert_eq!(n1.driver.inspect(soon(5)).await, DataDir::HalfMade(HalfMade::Rewind));
        let refused = n1.driver.prepare_standby(Some(&upstream), soon(5)).await;
        assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
        // Once it has changed something, the next run may find that it cannot begin again.
        match ended {
            Err(ActionError::Failed { .. }) => {}
            Err(ActionError::Cannot { .. }) if bytes > 4 << 20 => break,
            _ => panic!("{ended:?}"),
        }
    }
    let again = n1.driver.rewind(&upstream, soon(120)).await;
    println!("again: {again:?}");
    if again.is_err() {
        assert!(matches!(again, Err(ActionError::Cannot { .. })), "{again:?}");
        assert_eq!(n1.driver.inspect(soon(5)).await, DataDir::HalfMade(HalfMade::Rewind));
        n1.driver.clone_from(&upstream, None, &|_, _| {}, soon(120)).await.unwrap();
    }
    follows(&n1, &n2).await;
}

#[tokio::test]
async fn a_rewind_whose_upstream_dies_is_repeated_when_it_is_back() {
    let (n1, n2, _) = parted().await;
    n2.sql(MUCH);
    n2.driver.checkpoint(soon(60)).await.unwrap();
    n1.sql("INSERT INTO t VALUES (1)");
    n1.stop(StopMode::Fast).await;
    let upstream = n2.upstream();
    let (data, rewinding) = (n1.data(), n1.driver.rewind(&upstream, soon(60)));
    let killing = async {
        tool_that_wrote(data, "pg_rewind", 20 << 20).await;
        n2.crash().await;
    };
    let (ended, ()) = tokio::join!(rewinding, killing);
    println!("the upstream died: {ended:?}");
    assert!(matches!(ended, Err(ActionError::Failed { .. })), "{ended:?}");
    let refused = n1.driver.rewind(&upstream, soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Failed { .. })), "{refused:?}");
    n2.driver.prepare_standby(None, soon(10)).await.unwrap();
    n2.start().await;
    n2.right(3);
    n2.promote().await;
    n2.driver.checkpoint(soon(60)).await.unwrap();
    let again = n1.driver.rewind(&upstream, soon(60)).await;
    println!("again: {again:?}");
    if again.is_err() {
        assert!(matches!(again, Err(ActionError::Cannot { .. })), "{again:?}");
        n1.driver.clone_from(&upstream, None, &|_, _| {}, soon(60)).await.unwrap();
    }
    follows(&n1, &n2).await;
}

#[tokio::test]
async fn wal_that_a_rewind_lacks_is_named_adopted_and_the_rewind_succeeds() {
    let (n1, n2, fork) = parted().await;
    for i in 0..3 {
        n1.sql(&format!("INSERT INTO t VALUES ({i}); SELECT pg_switch_wal()"));
    }
    let segment =
        n1.data().join(format!("pg_wal/{:08X}{:016X}", fork.timeline.0, fork.lsn.0 >> 24));
    let refused = n1.driver.adopt_wal(std::slice::from_ref(&segment), soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Failed { .. })), "a server runs: {refused:?}");
    n1.stop(StopMode::Fast).await;
    // What is older than the checkpoint at the end goes, as if the server had removed it.
    let elsewhere = n1.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let last = n1.driver.end_of_wal(soon(10)).await.unwrap();
    let last = format!("{:08X}{:016X}", last.timeline.0, (last.lsn.0 - 1) >> 24);
    let mut moved = Vec::new();
    for entry in std::fs::read_dir(n1.data().join("pg_wal")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() && name.len() == 24 && name < last {
            std::fs::copy(&path, elsewhere.join(&name)).unwrap();
            std::fs::remove_file(&path).unwrap();
            moved.push(elsewhere.join(&name));
        }
    }
    assert!(moved.len() >= 3, "{moved:?}");
    let failed = n1.driver.rewind(&n2.upstream(), soon(30)).await.unwrap_err();
    println!("without its WAL: {failed}");
    assert!(missing_wal(&failed), "{failed}");
    assert!(failed.to_string().contains("pg_wal/"), "it names no segment: {failed}");
    // What is no whole segment of this cluster is refused, and nothing is copied.
    let name = moved[0].file_name().unwrap();
    let short = n1.dir.path().join("short").join(name);
    let foreign = n1.dir.path().join("foreign").join(name);
    let renamed = n1.dir.path().join("0000000200000000000000AA");
    let partial = n1.dir.path().join("000000020000000000000001.partial");
    let bytes = std::fs::read(&moved[0]).unwrap();
    for (file, bytes) in [
        (&short, &bytes[..1 << 20]),
        (&foreign, &vec![0; bytes.len()][..]),
        (&renamed, &bytes[..]),
        (&partial, &bytes[..]),
    ] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
        let files = [moved[1].clone(), file.clone()];
        let refused = n1.driver.adopt_wal(&files, soon(30)).await;
        assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
        assert!(!n1.data().join("pg_wal").join(moved[1].file_name().unwrap()).exists());
    }
    n1.driver.adopt_wal(&moved, soon(30)).await.unwrap();
    // Again, with a file that is there: it is not touched.
    n1.driver.adopt_wal(&moved, soon(30)).await.unwrap();
    n1.driver.rewind(&n2.upstream(), soon(60)).await.unwrap();
    follows(&n1, &n2).await;
}

fn aside(node: &Node) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(node.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("data.aside-"))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_clone_that_dies_in_any_way_leaves_the_old_data_and_the_next_one_succeeds() {
    let n1 = primary(|_| {}).await;
    n1.sql(MUCH);
    let n2 = Node::new_primary("n2").await;
    n2.stop(StopMode::Fast).await;
    let before = n2.driver.inspect(soon(5)).await;
    let upstream = n1.upstream();
    let cloning = n2.dir.path().join("data.cloning");

    // pg_basebackup is killed.
    let (data, copying) = (n2.data(), n2.driver.clone_from(&upstream, None, &|_, _| {}, soon(60)));
    let killing = async {
        kill(tool_that_wrote(data, "pg_basebackup", 20 << 20).await);
    };
    let (ended, ()) = tokio::join!(copying, killing);
    assert!(matches!(ended, Err(ActionError::Failed { .. })), "{ended:?}");
    assert_eq!(n2.driver.inspect(soon(5)).await, before);

    // The upstream is killed.
    let (data, copying) = (n2.data(), n2.driver.clone_from(&upstream, None, &|_, _| {}, soon(60)));
    let killing = async {
        tool_that_wrote(data, "pg_basebackup", 20 << 20).await;
        n1.crash().await;
    };
    let (ended, ()) = tokio::join!(copying, killing);
    assert!(matches!(ended, Err(ActionError::Failed { .. })), "{ended:?}");
    assert_eq!(n2.driver.inspect(soon(5)).await, before);
    n1.driver.prepare_standby(None, soon(10)).await.unwrap();
    n1.start().await;
    n1.right(2);
    n1.promote().await;

    // The agent is killed, and its pg_basebackup goes on.
    std::fs::remove_dir_all(&cloning).unwrap();
    if let Some(user) = run_as() {
        std::os::unix::fs::chown(n2.dir.path(), Some(user.uid), None).unwrap();
    }
    let (place, port) = (format!("--pgdata={}", cloning.display()), n1.port.to_string());
    let args = ["--checkpoint=fast", "--max-rate=1M", &place, "-h", "127.0.0.1", "-p", &port];
    let args = [&args[..], &["-U", "haclt_replication"]].concat();
    let left = LeftBehind::start(&n2, "pg_basebackup", &args);
    until("it copies", async || cloning.join("base").exists().then_some(())).await;
    let later = driver(n2.driver.config().clone());
    later.clone_from(&upstream, None, &|_, _| {}, soon(60)).await.unwrap();
    left.ends().await;
    assert!(aside(&n2).len() == 1 && aside(&n2)[0].join("PG_VERSION").exists());

    // Killed between putting it in place and configuring it: a copy that would start as a primary.
    for signal in ["standby.signal", "haclt.conf"] {
        std::fs::remove_file(n2.data().join(signal)).unwrap();
    }
    std::fs::write(n2.dir.path().join("data.half-made"), "clone").unwrap();
    assert_eq!(n2.driver.inspect(soon(5)).await, DataDir::HalfMade(HalfMade::Clone));
    let refused = n2.driver.prepare_standby(Some(&upstream), soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    n2.driver.clone_from(&upstream, None, &|_, _| {}, soon(60)).await.unwrap();
    assert_eq!(aside(&n2).len(), 1, "the half-made copy was kept");
    follows(&n2, &n1).await;
}

#[tokio::test]
async fn old_data_directories_are_deleted_but_for_the_newest() {
    let node = Node::new_primary("n1").await;
    for why in ["first", "second", "third"] {
        node.stop(StopMode::Fast).await;
        let place = node.driver.move_aside(why, soon(5)).await.unwrap();
        assert!(place.join("PG_VERSION").exists());
        node.become_primary().await;
    }
    let kept = aside(&node);
    assert_eq!(node.driver.prune_aside(3), Ok(Vec::new()));
    assert_eq!(node.driver.prune_aside(1), Ok(kept[..2].to_vec()));
    assert_eq!(aside(&node), kept[2..]);
    assert!(kept[2].join("global/pg_control").exists());
    assert!(node.driver.probe(soon(5)).await.is_ok(), "the server runs on");
    tokio::time::timeout(Duration::from_secs(60), node.stop(StopMode::Fast)).await.unwrap();
}
