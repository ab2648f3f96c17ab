use ha_core::permit::StopMode;
use tokio::time::Instant;

use super::*;
use crate::driver::{GuardSeen, PostgresDriver as _, ProbeError, Synchronous, Upstream};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn upstream(name: &str) -> Upstream {
    Upstream { node: node(name), host: name.to_owned(), port: 5432 }
}

fn permit(driver: &FakeDriver, run: u64, order: Order) {
    driver.write_permit(&Permit { boot: boot(), run, burnt: Epoch::NONE, order }).unwrap();
}

fn right(epoch: u64, left: Duration) -> Order {
    Order::Primary { epoch: Epoch(epoch), deadline: boot_now().after(left) }
}

const LONG: Duration = Duration::from_secs(60);

async fn pair() -> (FakeWorld, FakeDriver, FakeDriver) {
    let world = FakeWorld::new();
    let [n1, n2] =
        ["n1", "n2"].map(|name| world.driver(&node(name), name, 5432, Duration::from_millis(20)));
    n1.initdb(soon()).await.unwrap();
    n1.ensure_guard(soon()).await.unwrap();
    permit(&n1, 1, Order::Standby);
    permit(&n1, 1, right(1, LONG));
    n1.promote(soon()).await.unwrap();
    n2.clone_from(&upstream("n1"), None, &|_, _| {}, soon()).await.unwrap();
    n2.ensure_guard(soon()).await.unwrap();
    permit(&n2, 1, Order::Standby);
    (world, n1, n2)
}

#[tokio::test]
async fn a_standby_streams_and_a_diverged_primary_must_be_rewound() {
    let (world, n1, n2) = pair().await;
    let end = world.write(&node("n1"), 1000).unwrap();
    let probe = n2.probe(soon()).await.unwrap();
    assert!(probe.streaming && probe.flushed == end);
    world.cut(&node("n1"), &node("n2"), true);
    world.write(&node("n1"), 50).unwrap();
    world.crash(&node("n1"));
    permit(&n2, 1, right(2, LONG));
    assert_eq!(n2.promote(soon()).await.unwrap().lsn, end);
    world.cut(&node("n1"), &node("n2"), false);
    n1.prepare_standby(Some(&upstream("n2")), soon()).await.unwrap();
    permit(&n1, 2, Order::Standby);
    assert!(!n1.probe(soon()).await.unwrap().streaming, "it is diverged");
    permit(&n1, 2, Order::Down { stop: StopMode::Fast });
    n2.checkpoint(soon()).await.unwrap();
    n1.rewind(&upstream("n2"), soon()).await.unwrap();
    permit(&n1, 3, Order::Standby);
    assert!(n1.probe(soon()).await.unwrap().streaming);
}

#[tokio::test]
async fn a_commit_is_acknowledged_by_whom_the_setting_names() {
    let (world, n1, n2) = pair().await;
    let acknowledged = || world.acknowledged(&node("n1"));
    let any = |name: &str| Synchronous::Any { required: 1, members: vec![node(name)] };
    assert_eq!(acknowledged(), None, "a start closes it");
    n1.settle_synchronous(&any("n2"), soon()).await.unwrap();
    let end = world.write(&node("n1"), 100).unwrap();
    assert_eq!(acknowledged(), Some(end));
    let seen = n1.receivers(soon()).await.unwrap();
    assert_eq!(seen.rows.iter().map(|row| row.priority).collect::<Vec<_>>(), [1]);
    assert_eq!(n2.detach(soon()).await.unwrap().flushed, end);
    world.write(&node("n1"), 100).unwrap();
    assert_eq!(acknowledged(), None);
    assert!(!n2.probe(soon()).await.unwrap().wal_receiver);
    n2.follow(Some(&upstream("n1")), soon()).await.unwrap();
    assert_eq!(acknowledged(), Some(Lsn(end.0 + 100)));
    n1.set_synchronous(&any("n3"), soon()).await.unwrap();
    assert_eq!(acknowledged(), None);
    n1.admit_clients(false, soon()).await.unwrap();
    assert!(!world.admits(&node("n1")) && world.admits(&node("n2")));
    assert!(n2.settle_synchronous(&any("n1"), soon()).await.is_err());
    assert!(n1.detach(soon()).await.is_err());
}

#[tokio::test]
async fn the_guard_kills_at_the_deadline_and_starts_nothing_twice() {
    let (world, n1, n2) = pair().await;
    permit(&n1, 1, right(1, Duration::from_millis(60)));
    assert_eq!(world.primaries(), [node("n1")]);
    while n1.probe(soon()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let GuardSeen::Alive(status) = n1.guard() else { panic!("no guard") };
    assert_eq!(status.state, RunState::KilledAtDeadline);
    assert_eq!(world.primaries(), []);
    permit(&n1, 1, right(1, LONG));
    assert_eq!(n1.probe(soon()).await, Err(ProbeError::Refused));
    // A restart in place needs the same epoch.
    n1.prepare_restart_in_place(true, soon()).await.unwrap();
    permit(&n1, 2, right(2, LONG));
    assert_eq!(n1.probe(soon()).await, Err(ProbeError::Refused));
    world.switch(&node("n2"), |switches| switches.frozen = true);
    let limit = Instant::now() + Duration::from_millis(20);
    assert!(matches!(n2.probe(limit).await, Err(ProbeError::TimedOut { .. })));
}
