//! Replication slots of the peers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::{Node, soon};
use ha_core::{Lsn, NodeId};
use ha_postgres::driver::PostgresDriver;

fn slots(node: &Node) -> String {
    node.sql("SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots")
}

fn restart(node: &Node, slot: &str) -> Lsn {
    let ask = format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    node.sql(&ask).parse().unwrap()
}

#[tokio::test]
async fn are_made_on_both_sides_advanced_within_what_is_replayed_and_mended() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let peers: Vec<NodeId> = ["n1", "n2", "n3"].iter().map(|name| name.parse().unwrap()).collect();
    n1.sql("SELECT pg_create_physical_replication_slot('foreign_one')");
    n1.driver.keep_slots(&peers, &[], &[], soon(5)).await.unwrap();
    n2.driver.keep_slots(&peers, &[], &[], soon(5)).await.unwrap();
    assert_eq!(slots(&n1), "foreign_one,n2,n3");
    assert_eq!(slots(&n2), "n1,n3");
    n1.sql("CREATE TABLE t AS SELECT generate_series(1, 10000)");
    let replayed = n2.catches_up_with(&n1).await.replayed;
    let before = restart(&n2, "n3");
    let at = |lsn| [("n3".parse().unwrap(), lsn)];
    // Forward only, and never past what is replayed here.
    n2.driver.keep_slots(&peers, &at(Lsn(before.0 + 1)), &[], soon(5)).await.unwrap();
    assert_eq!(restart(&n2, "n3"), Lsn(before.0 + 1));
    n2.driver.keep_slots(&peers, &at(Lsn(1)), &[], soon(5)).await.unwrap();
    assert_eq!(restart(&n2, "n3"), Lsn(before.0 + 1));
    n2.driver.keep_slots(&peers, &at(Lsn(u64::MAX)), &[], soon(5)).await.unwrap();
    assert!(restart(&n2, "n3") >= replayed);
    // On a primary the peer's own connection moves it.
    let kept = restart(&n1, "n3");
    n1.driver.keep_slots(&peers, &at(replayed), &[], soon(5)).await.unwrap();
    assert_eq!(restart(&n1, "n3"), kept);
    // One that lost its WAL is made anew.
    n1.sql("ALTER SYSTEM SET max_slot_wal_keep_size = 0");
    n1.sql("ALTER SYSTEM SET wal_keep_size = 0");
    n1.sql("SELECT pg_reload_conf()");
    for _ in 0..3 {
        n1.sql("SELECT pg_switch_wal()");
        n1.sql("CREATE TABLE u (); DROP TABLE u; CHECKPOINT");
    }
    let lost = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'n3'";
    assert_eq!(n1.sql(lost), "lost");
    n1.sql("ALTER SYSTEM RESET ALL");
    n1.sql("SELECT pg_reload_conf()");
    let remade = n1.driver.keep_slots(&peers, &[], &[], soon(5)).await.unwrap();
    assert_eq!(remade, ["n3".parse().unwrap()]);
    assert_eq!(n1.sql(lost), "reserved");
    assert_eq!(n1.driver.keep_slots(&peers, &[], &[], soon(5)).await.unwrap(), []);
    assert_eq!(slots(&n1), "foreign_one,n2,n3");
    // Of nodes that are gone, those go that nobody uses.
    n1.driver.keep_slots(&[], &[], &peers, soon(5)).await.unwrap();
    assert_eq!(slots(&n1), "foreign_one,n2");
}
