//! A node's life: made, started, promoted, cloned, followed, rewound.

mod support;

use std::time::Duration;

use ha_core::permit::StopMode;
use ha_core::{Lsn, TimelineId};
use ha_postgres::driver::{ControlState, DataDir, PostgresDriver};
use support::{Node, soon, until};
use tokio::time::Instant;

#[tokio::test]
async fn a_new_cluster_starts_as_a_standby_and_becomes_primary_by_promotion_alone() {
    let node = Node::new("n1");
    assert_eq!(node.driver.inspect(soon(5)).await, DataDir::Missing);
    let began = Instant::now();
    let control = node.driver.initdb(soon(60)).await.unwrap();
    eprintln!("initdb {:?}", began.elapsed());
    assert!(control.checksums && control.standby_signal);
    assert_eq!(control.state, ControlState::ShutDown);
    let began = Instant::now();
    let probe = node.start().await;
    eprintln!("start {:?}", began.elapsed());
    assert!(probe.in_recovery && !probe.streaming);
    assert_eq!(probe.timeline, TimelineId(1));
    assert_eq!(probe.system_identifier, control.system_identifier);
    node.right(1);
    let began = Instant::now();
    let begin = node.driver.promote(soon(10)).await.unwrap();
    eprintln!("promote {:?}", began.elapsed());
    assert_eq!(begin.timeline, TimelineId(2));
    assert!(begin.lsn >= control.checkpoint.lsn);
    let began = Instant::now();
    let probe = node.driver.probe(soon(5)).await.unwrap();
    eprintln!("probe {:?}", began.elapsed());
    assert!(!probe.in_recovery);
    assert_eq!(probe.timeline, TimelineId(2));
    assert!(probe.flushed > begin.lsn);
    let began = Instant::now();
    node.driver.probe_write(soon(5)).await.unwrap();
    eprintln!("probe_write {:?}", began.elapsed());
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
    let began = Instant::now();
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |done, total| seen.lock().unwrap().push((done, total));
    n2.driver.clone_from(&n1.upstream(), &progress, soon(60)).await.unwrap();
    eprintln!("clone {:?}", began.elapsed());
    let (done, total) = seen.lock().unwrap().last().copied().unwrap();
    assert!(done > 1 << 20 && total.is_some_and(|total| total >= done), "{done} of {total:?}");
    n2.start().await;
    n2.streams().await;
    let n3 = Node::new_standby("n3", &n1).await;
    n2.catches_up_with(&n1).await;
    n3.catches_up_with(&n1).await;
    let attached = n1.driver.probe(soon(5)).await.unwrap().attached;
    assert_eq!(attached.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["n2", "n3"]);

    n1.stop(StopMode::Fast).await;
    n2.right(2);
    let began = Instant::now();
    let begin = n2.driver.promote(soon(10)).await.unwrap();
    eprintln!("promote {:?}", began.elapsed());
    let began = Instant::now();
    n3.driver.follow(Some(&n2.upstream()), soon(10)).await.unwrap();
    eprintln!("follow {:?}", began.elapsed());
    n2.driver.keep_slots(&[n1.name.clone(), n3.name.clone()], &[], soon(5)).await.unwrap();
    n2.sql("INSERT INTO t VALUES (0)");
    let caught = n3.catches_up_with(&n2).await;
    eprintln!("followed {:?}", began.elapsed());
    assert_eq!(caught.timeline, begin.timeline);
    assert_eq!(n3.sql("SELECT count(*) FROM t"), "1001");
    n3.driver.follow(Some(&n2.upstream()), soon(10)).await.unwrap();

    // The old primary stopped cleanly and has nothing of its own: it may just follow.
    let end = n1.driver.end_of_wal(soon(10)).await.unwrap();
    assert_eq!(end.lsn, begin.lsn);
    n1.driver.prepare_standby(Some(&n2.upstream()), soon(10)).await.unwrap();
    n1.start().await;
    n1.catches_up_with(&n2).await;
    assert_eq!(n1.sql("SELECT count(*) FROM t"), "1001");
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
    let flushed = n1.driver.probe(soon(5)).await.unwrap().flushed;
    n1.crash().await;
    n2.right(2);
    let begin = n2.driver.promote(soon(10)).await.unwrap();
    n2.sql("INSERT INTO t VALUES (0)");

    let end = n1.driver.end_of_wal(soon(10)).await.unwrap();
    assert_eq!(end.timeline, TimelineId(2));
    assert!(end.lsn >= flushed && begin.lsn < end.lsn, "{end}, {flushed}, {begin}");
    let upstream = n2.upstream();
    let (rewound, checkpointed) = tokio::join!(
        async {
            let began = Instant::now();
            let rewound = n1.driver.rewind(&upstream, soon(30)).await;
            eprintln!("rewind {:?}", began.elapsed());
            rewound
        },
        async {
            // The rewind waits for that (rule 59).
            tokio::time::sleep(Duration::from_millis(300)).await;
            n2.driver.checkpoint(soon(10)).await
        }
    );
    checkpointed.unwrap();
    rewound.unwrap();
    n1.start().await;
    n1.catches_up_with(&n2).await;
    assert_eq!(n1.sql("SELECT count(*) FROM t"), "1001");
    assert!(Lsn::ZERO < begin.lsn);
}
