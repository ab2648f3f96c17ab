//! The guard as the driver sees it: absent, reporting, frozen; and what runs although none does.

use crate::kind::DOCKER;
use crate::support::{Node, boot_id, soon, until};
use ha_core::permit::{Order, PERMIT_FILE, Permit, RunState};
use ha_core::{BootId, Epoch};
use ha_postgres::driver::{ActionError, DataDir, GuardSeen, PostgresDriver};
use rustix::process::Signal;

#[tokio::test]
async fn is_absent_then_alive_then_silent_then_alive_again() {
    let node = Node::new("n1");
    assert_eq!(node.driver.guard(), GuardSeen::Absent);
    let (one, two) =
        tokio::join!(node.driver.ensure_guard(soon(10)), node.driver.ensure_guard(soon(10)));
    one.unwrap();
    two.unwrap();
    let status = node.status().unwrap();
    assert_eq!(status.state, RunState::Idle);
    node.signal(status.guard_pid, Signal::STOP);
    let silent = until("it is silent", async || match node.driver.guard() {
        GuardSeen::Silent { silent_ms, last } => Some((silent_ms, last)),
        GuardSeen::Alive(_) | GuardSeen::Absent => None,
    })
    .await;
    assert!(silent.0 >= 1500 && silent.1.is_some(), "{silent:?}");
    let refused = node.driver.ensure_guard(soon(1)).await;
    assert!(refused.is_err(), "{refused:?}");
    let refused = node.driver.kill_orphans(soon(1)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    node.signal(status.guard_pid, Signal::CONT);
    until("it reports", async || matches!(node.driver.guard(), GuardSeen::Alive(_)).then_some(()))
        .await;
    node.signal(status.guard_pid, Signal::KILL);
    until("it is noticed", async || (node.driver.guard() == GuardSeen::Absent).then_some(())).await;
    node.driver.ensure_guard(soon(10)).await.unwrap();
    assert!(node.status().unwrap().heartbeat > status.heartbeat);
}

#[tokio::test]
async fn reads_permits_that_are_whole_and_of_this_boot_only() {
    let node = Node::new("n1");
    let permit = |boot| Permit { boot, run: 7, burnt: Epoch(3), order: Order::Standby };
    assert_eq!(node.driver.read_permit(), Ok(None));
    node.driver.write_permit(&permit(boot_id())).unwrap();
    assert_eq!(node.driver.read_permit(), Ok(Some(permit(boot_id()))));
    node.driver.write_permit(&permit(BootId(1))).unwrap();
    assert_eq!(node.driver.read_permit(), Ok(None));
    let file = node.driver.config().permit_dir.join(PERMIT_FILE);
    std::fs::write(&file, "haclt permit 1\nboot").unwrap();
    assert!(node.driver.read_permit().is_err());
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_dir(&node.driver.config().permit_dir).unwrap();
    assert!(node.driver.write_permit(&permit(boot_id())).is_err());
}

#[tokio::test]
async fn orphans_of_a_killed_guard_are_killed_and_nothing_else_is() {
    let node = Node::new_primary("n1").await;
    let refused = node.driver.kill_orphans(soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    for change in [
        node.driver.prepare_standby(None, soon(5)).await,
        node.driver.end_of_wal(soon(5)).await.map(drop),
        node.driver.rewind(&node.upstream(), soon(5)).await,
    ] {
        let error = change.unwrap_err().to_string();
        assert!(error.contains("runs on"), "{error}");
    }
    // A backend that computes does not notice that its postmaster is dead.
    let client = std::process::Command::new(crate::support::bin_dir().join("psql"))
        .args(["-X", "-q", "-h", "127.0.0.1", "-p", &node.port.to_string(), "-U", "postgres"])
        .args(["-d", "postgres", "-c"])
        .arg("DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$")
        .env("PGPASSWORD", crate::support::SUPERUSER_PASSWORD)
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut client = client.unwrap();
    until("it computes", async || {
        (node.driver.probe(soon(5)).await.unwrap().busy_clients == 1).then_some(())
    })
    .await;
    let mut bystander =
        std::process::Command::new("sleep").arg("600").current_dir(node.data()).spawn().unwrap();
    let status = node.status().unwrap();
    node.signal(status.guard_pid, Signal::KILL);
    until("it is gone", async || (node.driver.guard() == GuardSeen::Absent).then_some(())).await;
    // With a container's first process all others end.
    if !DOCKER {
        let refused = node.driver.move_aside("x", soon(5)).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    node.driver.kill_orphans(soon(5)).await.unwrap();
    assert_eq!(bystander.try_wait().unwrap(), None);
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(!client.wait().unwrap().success());
    assert!(matches!(node.driver.inspect(soon(5)).await, DataDir::Present(_)));
    node.driver.end_of_wal(soon(10)).await.unwrap();
    node.driver.prepare_standby(None, soon(10)).await.unwrap();
    node.start().await;
}
