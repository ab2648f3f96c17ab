//! An engine that is gone, slow, or none: a state with a name, and never a dead database.

use std::time::Duration;

use ha_core::Epoch;
use ha_core::permit::{Order, RunState};
use ha_postgres::driver::{PostgresDriver, Synchronous};
use ha_postgres::{DockerConfig, Instance};

use crate::proxy::{Mood, Proxy};
use crate::support::engine::{docker_config, examine};
use crate::support::{Node, boot_now, soon, until};

/// A second driver of the same node that reaches the engine through a proxy.
fn through(node: &Node, proxy: &Proxy) -> (DockerConfig, Instance) {
    let config = node.driver.config().clone();
    let mut docker = docker_config(&config);
    let examined = examine(&docker, &config).unwrap();
    docker.socket = proxy.socket();
    (docker.clone(), Instance::on_docker(config, docker, examined).unwrap())
}

async fn says(driver: &Instance, words: &str) {
    let began = std::time::Instant::now();
    until(words, async || driver.trouble().filter(|trouble| trouble.contains(words)).map(drop))
        .await;
    eprintln!("{words}: seen after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_database_goes_on_whatever_becomes_of_its_engine() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let mut proxy = Proxy::new(n2.dir.path());
    let (_, driver) = through(&n2, &proxy);
    let mut primary_proxy = Proxy::new(n1.dir.path());
    let (_, primary) = through(&n1, &primary_proxy);
    until("all is well", async || (driver.trouble().is_none()).then_some(())).await;
    let status = n1.status().unwrap();
    for (mood, words) in [
        (None, "cannot be reached"),
        (Some(Mood::Stalled), "did not answer"),
        (Some(Mood::Nonsense), "cannot be reached"),
        (Some(Mood::OtherServer), "the Docker engine"),
    ] {
        for proxy in [&mut proxy, &mut primary_proxy] {
            match mood {
                None => proxy.is_gone(),
                Some(mood) => proxy.is(mood),
            }
        }
        says(&driver, words).await;
        // The right is renewed, the guard is seen, and the server is told what it must know.
        let deadline = boot_now().after(Duration::from_secs(600));
        let permit = primary.read_permit().unwrap().unwrap();
        let order = Order::Primary { epoch: Epoch(1), deadline };
        primary.write_permit(&ha_core::permit::Permit { order, ..permit }).unwrap();
        primary.probe_write(soon(5)).await.unwrap();
        let any = Synchronous::Any { required: 1, members: vec!["n2".parse().unwrap()] };
        primary.set_synchronous(&any, soon(5)).await.unwrap();
        primary.set_synchronous(&Synchronous::Nobody, soon(5)).await.unwrap();
        // The answer to an election: no engine is on its way.
        let began = std::time::Instant::now();
        driver.detach(soon(5)).await.unwrap();
        eprintln!("{words}: detached after {:?}", began.elapsed());
        driver.follow(Some(&n1.upstream()), soon(5)).await.unwrap();
        n2.streams().await;
        // What needs it says so, in time, and changes nothing.
        let refused = driver.checkpoint(soon(5)).await;
        assert!(refused.is_ok(), "{refused:?}");
        proxy.is(Mood::Well);
        primary_proxy.is(Mood::Well);
        until("all is well again", async || (driver.trouble().is_none()).then_some(())).await;
    }
    let now = n1.status().unwrap();
    assert_eq!((now.state, now.run, now.postmaster), (RunState::Running, 1, status.postmaster));
}

#[tokio::test]
async fn a_crash_is_handled_without_an_engine_and_tools_say_that_they_need_one() {
    let n1 = Node::new_primary("n1").await;
    let mut proxy = Proxy::new(n1.dir.path());
    let (docker, driver) = through(&n1, &proxy);
    // Nothing of earlier agents is left: known from now on.
    let refused = driver.prepare_standby(None, soon(5)).await.unwrap_err();
    assert!(refused.to_string().contains("runs on"), "{refused}");
    proxy.is_gone();
    n1.crash().await;
    let began = std::time::Instant::now();
    driver.end_of_wal(soon(5)).await.unwrap();
    assert!(matches!(driver.inspect(soon(5)).await, ha_postgres::driver::DataDir::Present(_)));
    driver.prepare_restart_in_place(true, soon(5)).await.unwrap();
    eprintln!("end of WAL, control file and configuration: {:?}", began.elapsed());
    n1.next_run();
    n1.right(1);
    assert!(!n1.answers().await.in_recovery);
    n1.crash().await;
    let failed = driver.prepare_standby(None, soon(20)).await.unwrap_err();
    assert!(failed.to_string().contains("cannot be reached"), "{failed}");
    // An agent that starts now goes by what is remembered.
    let examined = examine(&docker, driver.config()).unwrap();
    assert!(examined.trouble.is_some_and(|trouble| trouble.contains("cannot be reached")));
}
