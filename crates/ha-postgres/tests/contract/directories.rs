//! What is on disk: named rightly, changed in whole steps only, never deleted.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{LeftBehind, Node, driver, soon, until};
use ha_core::permit::StopMode;
use ha_postgres::driver::{ActionError, ControlState, DataDir, HalfMade, PostgresDriver};

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

/// Reads a field of what `pg_controldata` prints.
fn field<T: std::str::FromStr>(text: &str, label: &str) -> T {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| *name == label).expect(label);
    value.trim().parse().ok().expect(label)
}

#[tokio::test]
async fn what_is_read_of_the_control_file_is_what_pg_controldata_says() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    n1.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
    n1.driver.checkpoint(soon(20)).await.unwrap();
    n2.catches_up_with(&n1).await;
    n2.driver.checkpoint(soon(20)).await.unwrap();
    n1.crash().await;
    n2.stop(StopMode::Fast).await;
    for (node, state) in
        [(&n1, ControlState::InProduction), (&n2, ControlState::ShutDownInRecovery)]
    {
        let seen = node.driver.inspect(soon(5)).await;
        let DataDir::Present(control) = seen else { panic!("{seen:?}") };
        let said = node.tool("pg_controldata", &[node.data().to_str().unwrap()]);
        assert_eq!(control.state, state);
        assert_eq!(control.system_identifier, field::<u64>(&said, "Database system identifier"));
        assert_eq!(control.checkpoint.lsn, field(&said, "Latest checkpoint location"));
        let timeline = control.checkpoint.timeline.0;
        assert_eq!(timeline, field::<u32>(&said, "Latest checkpoint's TimeLineID"));
        assert_eq!(control.redo, field(&said, "Latest checkpoint's REDO location"));
        let min_recovery = control.min_recovery_end;
        assert_eq!(min_recovery.lsn, field(&said, "Minimum recovery ending location"));
        let timeline = min_recovery.timeline.0;
        assert_eq!(timeline, field::<u32>(&said, "Min recovery ending loc's timeline"));
        assert_eq!(control.checksums, field::<u32>(&said, "Data page checksum version") != 0);
    }
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
        done = n2.driver.clone_from(&upstream, None, &|_, _| {}, soon(60)) => Some(done),
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
    let nowhere = format!("host=127.0.0.1 port={} user=x", n2.port);
    let left = LeftBehind::start(&n2, "pg_receivewal", &["--dbname", &nowhere, "-D", "/tmp"]);
    let later = driver(n2.driver.config().clone());
    later.clone_from(&upstream, None, &|_, _| {}, soon(60)).await.unwrap();
    left.ends().await;
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
    n1.driver.clone_from(&n2.upstream(), None, &|_, _| {}, soon(60)).await.unwrap();
    n1.start().await;
    n1.catches_up_with(&n2).await;
}
