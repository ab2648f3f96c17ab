//! What is on disk: named rightly, changed in whole steps only, never deleted.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::support::{Node, bin_dir, soon, until};
use ha_core::permit::StopMode;
use ha_postgres::driver::{ActionError, DataDir, HalfMade, PostgresDriver};
use tokio::process::Command;

#[tokio::test]
async fn missing_empty_unreadable_and_half_made_are_four_different_answers() {
    let node = Node::new("n1");
    let data = node.data().to_owned();
    assert_eq!(node.driver.inspect(soon(5)).await, DataDir::Missing);
    std::fs::create_dir(&data).unwrap();
    assert_eq!(node.driver.inspect(soon(5)).await, DataDir::Empty);
    assert!(node.driver.free_bytes().unwrap() > 1 << 20);
    std::fs::write(data.join("something"), "").unwrap();
    let foreign = node.driver.inspect(soon(5)).await;
    assert!(matches!(foreign, DataDir::Unreadable(_)), "{foreign:?}");
    let refused = node.driver.initdb(soon(60)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    assert!(data.join("something").exists());
    std::fs::remove_file(data.join("something")).unwrap();

    // An initdb that was cut off is marked, refused for anything else, and begun anew.
    let began = tokio::select! {
        done = node.driver.initdb(soon(60)) => Some(done),
        () = until("it has begun", async || data.join("base").exists().then_some(())) => None,
    };
    assert_eq!(began, None, "too quick");
    assert!(!node.dir.path().join("data.haclt/initdb.pw").exists(), "the password stayed");
    assert_eq!(node.driver.inspect(soon(5)).await, DataDir::HalfMade(HalfMade::Initdb));
    let refused = node.driver.prepare_standby(None, soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    node.driver.initdb(soon(60)).await.unwrap();
    assert!(matches!(node.driver.inspect(soon(5)).await, DataDir::Present(_)));
    let refused = node.driver.initdb(soon(60)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");

    // A damaged control file.
    let control = data.join("global/pg_control");
    let mut bytes = std::fs::read(&control).unwrap();
    bytes[40] ^= 0xff;
    std::fs::write(&control, bytes).unwrap();
    let damaged = node.driver.inspect(soon(5)).await;
    assert!(matches!(damaged, DataDir::Unreadable(_)), "{damaged:?}");
    let refused = node.driver.end_of_wal(soon(5)).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn a_directory_without_permission_is_unreadable() {
    let node = Node::new("n1");
    node.driver.initdb(soon(60)).await.unwrap();
    let global = node.data().join("global");
    std::fs::set_permissions(&global, std::fs::Permissions::from_mode(0o000)).unwrap();
    let seen = node.driver.inspect(soon(5)).await;
    std::fs::set_permissions(&global, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(seen, DataDir::Unreadable(_)), "{seen:?}");
    std::fs::remove_dir_all(node.data()).unwrap();
    std::fs::write(node.data(), "").unwrap();
    let seen = node.driver.inspect(soon(5)).await;
    assert!(matches!(seen, DataDir::Unreadable(_)), "{seen:?}");
}

#[tokio::test]
async fn what_is_moved_aside_is_kept_and_an_empty_directory_left() {
    let node = Node::new_primary("n1").await;
    let refused = node.driver.move_aside("x", soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Failed { .. })), "{refused:?}");
    node.stop(StopMode::Fast).await;
    let first = node.driver.move_aside("Epoch 7/diverged", soon(5)).await.unwrap();
    assert_eq!(first, node.dir.path().join("data.aside-0001-epoch-7-diverged"));
    assert!(first.join("PG_VERSION").exists());
    assert_eq!(node.driver.inspect(soon(5)).await, DataDir::Empty);
    node.become_primary().await;
    node.stop(StopMode::Fast).await;
    let second = node.driver.move_aside("x", soon(5)).await.unwrap();
    assert!(second.ends_with("data.aside-0002-x") || second.ends_with("data.aside-0001-x"));
    assert!(first.join("PG_VERSION").exists());
}

#[tokio::test]
async fn a_clone_that_was_cut_off_leaves_the_old_data_and_the_next_one_succeeds() {
    let n1 = Node::new_primary("n1").await;
    n1.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) FROM generate_series(1, 100000) i");
    let n2 = Node::new_primary("n2").await;
    n2.stop(StopMode::Fast).await;
    let before = n2.driver.inspect(soon(5)).await;
    let cloning = n2.dir.path().join("data.cloning");
    let upstream = n1.upstream();
    let done = tokio::select! {
        done = n2.driver.clone_from(&upstream, &|_, _| {}, soon(60)) => Some(done),
        () = until("it copies", async || cloning.join("base").exists().then_some(())) => None,
    };
    assert_eq!(done, None, "too quick");
    // No child of pg_basebackup goes on receiving WAL.
    until("nobody is attached", async || {
        (n1.sql("SELECT count(*) FROM pg_stat_replication") == "0").then_some(())
    })
    .await;
    assert_eq!(n2.driver.inspect(soon(5)).await, before);

    // A tool that an agent before us left behind goes too.
    let mut orphan = Command::new(bin_dir().join("pg_receivewal"))
        .args(["--dbname", &format!("host=127.0.0.1 port={} user=x", n2.port), "-D", "/tmp"])
        .env("HACLT_DATA_DIR", n2.data())
        .env("HACLT_STARTED_BY", "1:1")
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    n2.driver.clone_from(&upstream, &|_, _| {}, soon(60)).await.unwrap();
    assert!(!orphan.wait().await.unwrap().success());
    assert!(!cloning.exists());
    assert!(n2.dir.path().join("data.aside-0001-reclone/PG_VERSION").exists());
    n2.start().await;
    n2.catches_up_with(&n1).await;
    assert_eq!(n2.sql("SELECT count(*) FROM t"), "100000");
}

#[tokio::test]
async fn a_rewind_without_the_wal_it_needs_fails_and_a_clone_mends_it() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    n2.catches_up_with(&n1).await;
    n2.driver.follow(None, soon(5)).await.unwrap();
    until("it streams no more", async || {
        n2.driver.probe(soon(5)).await.ok().filter(|probe| !probe.streaming)
    })
    .await;
    n2.right(2);
    n2.promote().await;
    n2.driver.checkpoint(soon(10)).await.unwrap();
    // The old primary goes on for long enough to lose the WAL of the time before the fork.
    n1.sql("ALTER SYSTEM SET wal_keep_size = 0");
    n1.sql("ALTER SYSTEM SET max_slot_wal_keep_size = 0");
    n1.sql("SELECT pg_drop_replication_slot('n2'), pg_reload_conf()");
    for _ in 0..3 {
        n1.sql("SELECT pg_switch_wal(); CHECKPOINT; CREATE TABLE t (); DROP TABLE t; CHECKPOINT");
    }
    n1.stop(StopMode::Fast).await;
    let refused = n1.driver.rewind(&n2.upstream(), soon(30)).await;
    let said = format!("{refused:?}");
    assert!(
        matches!(refused, Err(ActionError::Failed { .. } | ActionError::Cannot { .. })),
        "{said}"
    );
    assert_eq!(n1.driver.inspect(soon(5)).await, DataDir::HalfMade(HalfMade::Rewind), "{said}");
    let refused = n1.driver.prepare_standby(Some(&n2.upstream()), soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    n1.driver.clone_from(&n2.upstream(), &|_, _| {}, soon(60)).await.unwrap();
    n1.start().await;
    n1.catches_up_with(&n2).await;
}
