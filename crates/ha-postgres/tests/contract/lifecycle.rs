//! A node's life: made, started, promoted, cloned, followed, rewound.

use std::time::Duration;

use crate::support::{Node, Stranger, soon, until};
use ha_core::TimelineId;
use ha_core::permit::StopMode;
use ha_postgres::driver::{ActionError, ControlState, DataDir, PostgresDriver};

#[tokio::test]
async fn a_new_cluster_starts_as_a_standby_and_becomes_primary_by_promotion_alone() {
    let node = Node::new("n1");
    assert_eq!(node.driver.inspect(soon(5)).await, DataDir::Missing);
    let control = node.driver.initdb(soon(60)).await.unwrap();
    assert!(control.checksums && control.standby_signal);
    assert_eq!(control.state, ControlState::ShutDown);
    let probe = node.start().await;
    assert!(probe.in_recovery && !probe.streaming);
    assert_eq!(probe.timeline, TimelineId(1));
    assert_eq!(probe.system_identifier, control.system_identifier);
    node.right(1);
    let begin = node.driver.promote(soon(10)).await.unwrap();
    assert_eq!(begin.timeline, TimelineId(2));
    assert!(begin.lsn >= control.checkpoint.lsn);
    let probe = node.driver.probe(soon(5)).await.unwrap();
    assert!(!probe.in_recovery);
    assert_eq!(probe.timeline, TimelineId(2));
    assert!(probe.flushed > begin.lsn);
    node.driver.probe_write(soon(5)).await.unwrap();
    node.driver.checkpoint(soon(10)).await.unwrap();
    assert!(node.driver.probe(soon(5)).await.unwrap().checkpoint_on_timeline);
    assert_eq!(node.driver.promote(soon(10)).await.unwrap(), begin, "promoting again is no error");
    assert_eq!(node.driver.local_history().unwrap().last().unwrap().end, begin.lsn);
}

#[tokio::test]
async fn a_clone_streams_and_follows_whoever_is_promoted() {
    let n1 = Node::new_primary("n1").await;
    n1.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let n2 = Node::new("n2");
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |done, total| seen.lock().unwrap().push((done, total));
    n2.driver.clone_from(&n1.upstream(), None, &progress, soon(60)).await.unwrap();
    let (done, total) = seen.lock().unwrap().last().copied().unwrap();
    assert!(done > 1 << 20 && total.is_some_and(|total| total >= done), "{done} of {total:?}");
    n2.start().await;
    n2.streams().await;
    let n3 = Node::new_standby("n3", &n1).await;
    n2.catches_up_with(&n1).await;
    n3.catches_up_with(&n1).await;
    until("both have reported what they flushed", async || {
        let attached = n1.driver.probe(soon(5)).await.unwrap().attached;
        let names: Vec<&str> = attached.iter().map(|(name, _)| name.as_str()).collect();
        (names == ["n2", "n3"]).then_some(())
    })
    .await;

    n1.stop(StopMode::Fast).await;
    n2.right(2);
    let begin = n2.promote().await;
    n3.driver.follow(Some(&n2.upstream()), soon(10)).await.unwrap();
    n2.driver.keep_slots(&[n1.name.clone(), n3.name.clone()], &[], &[], soon(5)).await.unwrap();
    n2.sql("INSERT INTO t VALUES (0)");
    let committed = n2.committed();
    let caught = n3.catches_up_with(&n2).await;
    assert_eq!(caught.timeline, begin.timeline);
    assert_eq!(n3.sql("SELECT count(*) FROM t"), "1001");
    n3.driver.follow(Some(&n2.upstream()), soon(10)).await.unwrap();
    // Its control file knows nothing of the new timeline yet.
    n3.crash().await;
    let end = n3.driver.end_of_wal(soon(10)).await.unwrap();
    assert_eq!(end.timeline, begin.timeline);
    assert!(end.lsn >= committed, "{end}, {committed}");
    assert_eq!(n3.driver.local_history().unwrap().last().unwrap().end, begin.lsn);

    // The old primary stopped cleanly and has nothing of its own: it may just follow.
    let end = n1.driver.end_of_wal(soon(10)).await.unwrap();
    assert_eq!(end.lsn, begin.lsn);
    n1.driver.prepare_standby(Some(&n2.upstream()), soon(10)).await.unwrap();
    n1.start().await;
    n1.catches_up_with(&n2).await;
    assert_eq!(n1.sql("SELECT count(*) FROM t"), "1001");
}

/// In a container ids begin anew: the one in the lock of the old socket is soon a child of the new server.
#[tokio::test]
async fn a_lock_that_a_killed_server_left_on_its_socket_keeps_nobody_from_starting_rule_48() {
    let node = Node::new_primary("n1").await;
    node.crash().await;
    let run_dir = node.data().with_extension("haclt");
    let lock = run_dir.join(format!(".s.PGSQL.{}.lock", node.port));
    assert!(lock.exists(), "a killed server leaves it");
    // Whoever has that number is alive, and of the server's own user.
    let stranger = Stranger::in_lock_file_of(&node);
    let text = std::fs::read_to_string(node.data().join("postmaster.pid")).unwrap();
    std::fs::write(&lock, text).unwrap();
    node.driver.prepare_standby(None, soon(10)).await.unwrap();
    assert!(!lock.exists());
    drop(stranger);
    assert!(node.start().await.in_recovery);
}

#[tokio::test]
async fn a_diverged_primary_is_rewound_and_its_end_of_wal_was_right_to_the_byte() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    n1.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    n2.catches_up_with(&n1).await;
    // Cut off, the primary goes on alone; the other is promoted without that.
    n2.driver.follow(None, soon(5)).await.unwrap();
    until("it streams no more", async || {
        n2.driver.probe(soon(5)).await.ok().filter(|probe| !probe.streaming)
    })
    .await;
    n1.sql("INSERT INTO t SELECT generate_series(1, 5000)");
    let committed = n1.committed();
    n1.crash().await;
    n2.right(2);
    let begin = n2.promote().await;
    n2.sql("INSERT INTO t VALUES (0)");

    let end = n1.driver.end_of_wal(soon(10)).await.unwrap();
    assert_eq!(end.timeline, TimelineId(2));
    assert!(end.lsn >= committed && begin.lsn < end.lsn, "{end}, {committed}, {begin}");
    // The number in its lock file belongs to a stranger of the same user by now (rule 48).
    let stranger = Stranger::in_lock_file_of(&n1);
    let upstream = n2.upstream();
    let mut rewind = Box::pin(n1.driver.rewind(&upstream, soon(30)));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut rewind).await;
    assert!(early.is_err(), "it waits for the new primary's checkpoint (rule 59): {early:?}");
    let (rewound, checkpointed) = tokio::join!(rewind, n2.driver.checkpoint(soon(10)));
    checkpointed.unwrap();
    rewound.unwrap();
    drop(stranger);
    n1.start().await;
    n1.catches_up_with(&n2).await;
    assert_eq!(n1.sql("SELECT count(*) FROM t"), "1001");
}

#[tokio::test]
async fn a_standby_that_only_received_diverged_wal_is_rewound_too() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let n3 = Node::new_standby("n3", &n1).await;
    n1.sql("CREATE TABLE t (i int)");
    n2.catches_up_with(&n1).await;
    n3.catches_up_with(&n1).await;
    n2.driver.follow(None, soon(5)).await.unwrap();
    until("it streams no more", async || {
        n2.driver.probe(soon(5)).await.ok().filter(|probe| !probe.streaming)
    })
    .await;
    n3.sql("SELECT pg_wal_replay_pause()");
    n1.sql("INSERT INTO t SELECT generate_series(1, 5000)");
    let committed = n1.committed();
    until("it has received all", async || {
        let seen = n3.driver.probe(soon(5)).await.unwrap();
        (seen.flushed >= committed && seen.replayed < committed).then_some(())
    })
    .await;
    n1.crash().await;
    n3.stop(StopMode::Fast).await;
    n2.right(2);
    n2.promote().await;
    n2.driver.checkpoint(soon(10)).await.unwrap();
    n2.sql("INSERT INTO t VALUES (0)");
    n3.driver.rewind(&n2.upstream(), soon(30)).await.unwrap();
    n3.start().await;
    n3.catches_up_with(&n2).await;
    assert_eq!(n3.sql("SELECT count(*) FROM t"), "1");
}

#[tokio::test]
async fn two_timelines_of_one_number_and_foreign_clusters_are_no_case_for_a_rewind() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let n3 = Node::new_standby("n3", &n1).await;
    // The third leaves earlier: its timeline 3 begins elsewhere.
    n3.driver.follow(None, soon(5)).await.unwrap();
    until("it streams no more", async || {
        n3.driver.probe(soon(5)).await.ok().filter(|probe| !probe.streaming)
    })
    .await;
    n1.sql("CREATE TABLE u (i int)");
    n2.catches_up_with(&n1).await;
    n1.stop(StopMode::Fast).await;
    for node in [&n2, &n3] {
        node.right(2);
        node.promote().await;
        node.driver.checkpoint(soon(10)).await.unwrap();
        node.sql("CREATE TABLE t (i int)");
    }
    let theirs = n1.driver.upstream_history(&n2.upstream(), soon(5)).await.unwrap();
    assert_eq!(theirs.timeline, TimelineId(3));
    assert!(theirs.writable && theirs.checkpoint_on_timeline && theirs.switches.len() == 2);
    n3.stop(StopMode::Fast).await;
    let before = n3.driver.inspect(soon(5)).await;
    let refused = n3.driver.rewind(&n2.upstream(), soon(10)).await;
    let Err(ActionError::Cannot { why, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(why, "both wrote a timeline 3");
    // Nothing was lost by the old primary: it has nothing to rewind.
    n1.driver.rewind(&n2.upstream(), soon(10)).await.unwrap();
    n1.start().await;
    n1.catches_up_with(&n2).await;

    let stranger = Node::new_primary("n4").await;
    let refused = n3.driver.rewind(&stranger.upstream(), soon(10)).await;
    let Err(ActionError::Cannot { why, .. }) = refused else { panic!("{refused:?}") };
    assert!(why.starts_with("it is another database cluster"), "{why}");
    assert_eq!(n3.driver.inspect(soon(5)).await, before);
}
