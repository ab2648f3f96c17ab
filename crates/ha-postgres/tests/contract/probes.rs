//! What a probe says of servers that are well, frozen, absent, starting or hostile to us.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use crate::support::{Node, soon, until};
use ha_core::permit::{Order, StopMode};
use ha_postgres::Secret;
use ha_postgres::driver::{ActionError, Effect, PostgresDriver, ProbeError};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

#[tokio::test]
async fn a_frozen_postmaster_gives_no_answer_although_its_port_still_listens() {
    let node = Node::new_primary("n1").await;
    node.signal(node.postmaster(), Signal::STOP);
    let began = Instant::now();
    let limit = Duration::from_millis(300);
    let seen = node.driver.probe(Instant::now() + limit).await;
    assert!(matches!(seen, Err(ProbeError::TimedOut { .. })), "{seen:?}");
    assert!(began.elapsed() < limit * 3, "{:?}", began.elapsed());
    let seen = node.driver.probe_write(Instant::now() + limit).await;
    assert!(matches!(seen, Err(ProbeError::TimedOut { .. })), "{seen:?}");
    node.signal(node.postmaster(), Signal::CONT);
    node.driver.probe_write(soon(10)).await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_refuses_and_a_wrong_password_is_named_as_such() {
    let node = Node::new("n1");
    assert_eq!(node.driver.probe(soon(5)).await, Err(ProbeError::Refused));
    node.become_primary().await;
    let mut config = node.driver.config().clone();
    config.superuser.password = Secret::new("another").into();
    let stranger = crate::support::driver(config);
    let seen = stranger.probe(soon(5)).await;
    assert!(matches!(&seen, Err(ProbeError::Authentication(_))), "{seen:?}");
    assert!(!format!("{seen:?}").contains("another"));
    let promoted = stranger.promote(soon(5)).await.unwrap_err();
    assert_eq!(promoted.effect(), Effect::None, "{promoted}");
    node.stop(StopMode::Fast).await;
    assert_eq!(node.driver.probe(soon(5)).await, Err(ProbeError::Refused));
    let promoted = node.driver.promote(soon(5)).await.unwrap_err();
    assert_eq!(promoted.to_string(), "could not promote: connection refused");
    assert_eq!(promoted.effect(), Effect::None);
}

#[tokio::test]
async fn a_server_that_is_starting_is_alive_but_not_ready() {
    let primary = Node::new_primary("n1").await;
    let node = Node::new("n2");
    node.driver.clone_from(&primary.upstream(), None, &|_, _| {}, soon(60)).await.unwrap();
    // Without the WAL of the backup it cannot become consistent, and there is nobody to ask for it.
    for file in std::fs::read_dir(node.data().join("pg_wal")).unwrap() {
        let file = file.unwrap().path();
        if file.is_file() && file.extension().is_none() {
            std::fs::remove_file(file).unwrap();
        }
    }
    primary.stop(StopMode::Fast).await;
    node.driver.ensure_guard(soon(10)).await.unwrap();
    node.permit(node.next_run(), Order::Standby);
    let seen = until("it says something", async || match node.driver.probe(soon(5)).await {
        Err(ProbeError::Refused) => None,
        other => Some(other),
    });
    let seen = seen.await;
    assert!(matches!(&seen, Err(ProbeError::NotReady(_))), "{seen:?}");
    let refused = node.driver.promote(soon(5)).await;
    assert!(
        matches!(refused, Err(ActionError::Failed { effect: Effect::None, .. })),
        "{refused:?}"
    );
    // It takes a new upstream all the same.
    node.driver.follow(None, soon(5)).await.unwrap();
}

#[tokio::test]
async fn a_full_server_still_has_room_for_us() {
    let node = Node::with("n1", |config| {
        config.parameters.insert("max_connections".to_owned(), "5".to_owned());
    });
    node.become_primary().await;
    node.sql("CREATE ROLE app LOGIN PASSWORD 'app'");
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(psql_in_background(&node, "app"));
    }
    until("both are at work", async || {
        let seen = node.driver.probe(soon(5)).await.unwrap();
        (seen.busy_clients == 2).then_some(())
    })
    .await;
    let refused = node.psql("app", "app", "SELECT 1");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("connection slots"), "{refused:?}");
    node.driver.probe(soon(5)).await.unwrap();
    node.driver.probe_write(soon(5)).await.unwrap();
    for mut client in clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

fn psql_in_background(node: &Node, user: &str) -> std::process::Child {
    std::process::Command::new(crate::support::bin_dir().join("psql"))
        .args(["-X", "-q", "-h", "127.0.0.1", "-p", &node.port.to_string(), "-U", user])
        .args(["-d", "postgres", "-c", "SELECT pg_sleep(600)"])
        .env("PGPASSWORD", user)
        .current_dir("/")
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_server_that_is_no_postgresql_server_is_an_error_and_gets_no_password() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = Node::with("n1", |config| config.port = port);
    // Wants the password in clear; then garbage; then an endless message; then hangs up.
    let answers: [&[u8]; 4] =
        [b"R\0\0\0\x08\0\0\0\x03", b"HTTP/1.1 400 no\r\n\r\n", b"R\x7f\xff\xff\xff", b""];
    for answer in answers {
        let (seen, ()) = tokio::join!(node.driver.probe(soon(5)), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        assert!(matches!(&seen, Err(ProbeError::Other(_))), "{answer:?}: {seen:?}");
    }
}
