//! What a checkup measures, and what a login to another node's server comes to.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use ha_core::permit::StopMode;
use ha_postgres::Secret;
use ha_postgres::driver::{Knock, KnockError, PostgresDriver, ProbeError, Purpose};

use crate::support::{Node, soon};

fn refusal(knocks: &[Knock], purpose: Purpose) -> Option<&KnockError> {
    let knock = knocks.iter().find(|knock| knock.purpose == purpose).unwrap();
    knock.answer.as_ref().err()
}

#[tokio::test]
async fn every_part_is_measured_on_a_primary_and_on_a_standby() {
    let n1 = Node::new_primary("n1").await;
    assert_eq!(Node::new("n9").driver.checkup(soon(5)).await, Err(ProbeError::Refused));
    let n2 = Node::new_standby("n2", &n1).await;
    n1.sql("SELECT pg_create_physical_replication_slot('idle', true)");
    n2.catches_up_with(&n1).await;

    let seen = n1.driver.checkup(soon(10)).await.unwrap();
    assert!(!seen.in_recovery);
    let settings = seen.settings.unwrap();
    for (name, value) in [("fsync", "on"), ("wal_log_hints", "on"), ("data_checksums", "on")] {
        assert_eq!(settings.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(settings.contains_key("collation_version"), "{settings:?}");
    let slots = seen.slots.unwrap();
    let slots: Vec<_> = slots.iter().map(|s| (s.name.as_str(), s.active)).collect();
    assert_eq!(slots, [("idle", false), ("n2", true)]);
    let standbys = seen.standbys.unwrap();
    let standbys: Vec<_> = standbys.iter().map(|s| (s.name.as_str(), s.state.as_str())).collect();
    assert_eq!(standbys, [("n2", "streaming")]);
    assert!(seen.wal.unwrap().bytes >= 16 << 20);
    assert_eq!(seen.archiver, Ok(None));
    let transactions = seen.transactions.unwrap();
    assert_eq!((transactions.prepared, transactions.prepared_s), (0, 0));

    let seen = n2.driver.checkup(soon(10)).await.unwrap();
    assert!(seen.in_recovery);
    assert_eq!(seen.settings.unwrap(), settings, "alike on both");
    assert_eq!((seen.slots, seen.standbys), (Ok(vec![]), Ok(vec![])));
    assert!(seen.wal.is_ok() && seen.transactions.is_ok(), "{:?}", seen.wal);
}

#[tokio::test]
async fn a_login_is_let_in_refused_with_the_servers_words_or_not_answered() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    for (from, to) in [(&n1, &n2), (&n2, &n1)] {
        let knocks = from.driver.knock(&to.upstream(), soon(10)).await;
        assert_eq!(knocks.len(), 2);
        assert!(knocks.iter().all(|knock| knock.answer.is_ok()), "{knocks:?}");
    }
    let mut config = n2.driver.config().clone();
    config.replication.password = Secret::new("another").into();
    let stranger = crate::support::driver(config);
    let knocks = stranger.knock(&n1.upstream(), soon(10)).await;
    for purpose in [Purpose::Replication, Purpose::Rewind] {
        let refused = refusal(&knocks, purpose);
        let Some(KnockError::Refused(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("28P01") && !text.contains("another"), "{text}");
    }
    let user = &n2.driver.config().replication.name;
    n1.sql(&format!("REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM {user}"));
    let knocks = n2.driver.knock(&n1.upstream(), soon(10)).await;
    assert_eq!(refusal(&knocks, Purpose::Replication), None);
    let lacks = KnockError::Lacks("pg_read_binary_file(text)".to_owned());
    assert_eq!(refusal(&knocks, Purpose::Rewind), Some(&lacks));
    n1.stop(StopMode::Fast).await;
    let knocks = n2.driver.knock(&n1.upstream(), soon(10)).await;
    let refused = refusal(&knocks, Purpose::Replication);
    assert!(matches!(refused, Some(KnockError::Unreachable(_))), "{refused:?}");
}
