//! What happens to the Postgres container, and what may not happen after it.

use std::time::Duration;

use ha_core::Epoch;
use ha_core::permit::{GuardStatus, Order, RunState, StopMode};
use ha_postgres::InstanceConfig;
use ha_postgres::driver::{ActionError, GuardSeen, PostgresDriver, ProbeError};

use crate::support::engine::{
    TEST_LABEL, create_args, docker, docker_config, examine, image, try_docker,
};
use crate::support::{LeftBehind, Node, boot_now, driver, soon, until};

async fn absent(node: &Node) {
    until("no guard", async || (node.driver.guard() == GuardSeen::Absent).then_some(())).await;
}

#[tokio::test]
async fn a_restarted_container_starts_nothing_under_the_permit_of_before() {
    let n1 = Node::new_primary("n1").await;
    n1.sql("CREATE TABLE t AS SELECT 1");
    let container = n1.container();
    for action in [&["restart", "-t", "20"][..], &["kill"][..]] {
        let before = n1.status().unwrap();
        assert_eq!(before.state, RunState::Running);
        docker(&[action, &[&container]].concat());
        if action[0] == "kill" {
            absent(&n1).await;
            docker(&["start", &container]);
        }
        // A new guard reports, the permit of the primary is still valid, and yet nothing runs.
        let idle = until("a new guard reports", async || {
            n1.status().filter(|status| status.state == RunState::Idle)
        })
        .await;
        assert_eq!((idle.run, idle.postmaster), (before.run, None));
        n1.right(1);
        // It has looked at that permit again and again.
        let later = until("it reports again", async || {
            let since = |status: &GuardStatus| status.heartbeat.since(idle.heartbeat);
            n1.status().filter(|status| since(status) >= Duration::from_millis(500))
        });
        assert_eq!(later.await.state, RunState::Idle);
        assert_eq!(n1.driver.probe(soon(5)).await, Err(ProbeError::Refused));
        // Not even as a new run: only a guard that saw the crash may start a primary in place.
        n1.next_run();
        n1.right(1);
        let refused = until("it is refused", async || {
            n1.status().filter(|status| status.state == RunState::Refused)
        })
        .await;
        assert!(refused.reason.contains("refused to start as primary"), "{}", refused.reason);
        n1.driver.prepare_standby(None, soon(20)).await.unwrap();
        assert!(n1.start().await.in_recovery);
        n1.right(1);
        n1.promote().await;
        assert_eq!(n1.sql("SELECT count(*) FROM t"), "1");
    }
}

#[tokio::test]
async fn at_the_deadline_what_was_executed_in_the_container_dies_too() {
    let n1 = Node::new_primary("n1").await;
    let container = n1.container();
    docker(&["exec", "-d", &container, "sleep", "1000"]);
    docker(&[
        "exec",
        "-d",
        "--user",
        "postgres",
        &container,
        "sh",
        "-c",
        "sleep 1001 & sleep 1000",
    ]);
    let sleeping = || docker(&["top", &container, "-o", "pid,args"]).contains("sleep 1000");
    until("they run", async || sleeping().then_some(())).await;
    let deadline = boot_now().after(Duration::from_millis(600));
    n1.permit(1, Order::Primary { epoch: Epoch(1), deadline });
    until("it is killed", async || {
        n1.status().filter(|status| status.state == RunState::KilledAtDeadline)
    })
    .await;
    assert!(boot_now() < deadline.after(Duration::from_millis(100)), "too late");
    let left = docker(&["top", &container, "-o", "pid,args"]);
    assert_eq!(left.lines().count(), 2, "only the guard is left: {left}");
}

#[tokio::test]
async fn a_paused_container_is_named_and_killed_and_comes_back_as_a_standby() {
    let n1 = Node::new_primary("n1").await;
    let container = n1.container();
    docker(&["pause", &container]);
    until("it is named", async || n1.driver.trouble().filter(|line| line.contains("is paused")))
        .await;
    until("the guard is silent", async || {
        matches!(n1.driver.guard(), GuardSeen::Silent { .. }).then_some(())
    })
    .await;
    let refused = n1.driver.kill_orphans(soon(2)).await;
    assert!(matches!(refused, Err(ActionError::Cannot { .. })), "{refused:?}");
    let began = std::time::Instant::now();
    n1.driver.kill_guard(soon(10)).await.unwrap();
    eprintln!("killing a paused container: {:?}", began.elapsed());
    absent(&n1).await;
    n1.driver.kill_orphans(soon(10)).await.unwrap();
    let began = std::time::Instant::now();
    n1.driver.ensure_guard(soon(20)).await.unwrap();
    eprintln!("starting the container until its guard reports: {:?}", began.elapsed());
    n1.driver.prepare_standby(None, soon(20)).await.unwrap();
    assert!(n1.start().await.in_recovery);
    until("all is well", async || n1.driver.trouble().is_none().then_some(())).await;
}

#[tokio::test]
async fn a_removed_container_is_made_again_as_it_was() {
    let n1 = Node::new_primary("n1").await;
    let container = n1.container();
    let asked = "{{json .Config}} {{.HostConfig.NetworkMode}} {{.Image}}";
    let mounted = || {
        let format = "{{range .Mounts}}{{println .Source .Destination .RW}}{{end}}";
        let seen = docker(&["inspect", "--format", format, &container]);
        let mut lines: Vec<String> = seen.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let seen = || docker(&["inspect", "--format", asked, &container]);
    let plain = |text: String| {
        // Drawn by the engine, or said by it in two ways.
        let host = text.split("\"Hostname\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let id = docker(&["inspect", "--format", "{{.Image}}", &container]);
        let name = format!("\"Image\":\"{}\"", image());
        let text = host.map_or(text.clone(), |host| text.replace(host, "HOST"));
        text.replace(&name, &format!("\"Image\":\"{id}\""))
    };
    let (before, mounts) = (plain(seen()), mounted());
    docker(&["rm", "-f", &container]);
    until("it is named", async || n1.driver.trouble().filter(|line| line.contains("is missing")))
        .await;
    n1.driver.kill_orphans(soon(10)).await.unwrap();
    // Somebody else may be making it at this moment.
    let early = n1.driver.ensure_guard(soon(20)).await.unwrap_err().to_string();
    assert!(early.contains("is missing: made again after"), "{early}");
    until("it is made again", async || n1.driver.ensure_guard(soon(20)).await.ok()).await;
    assert_eq!(plain(seen()), before);
    assert_eq!(mounted(), mounts, "anonymous volumes too");
    n1.driver.prepare_standby(None, soon(20)).await.unwrap();
    assert!(n1.start().await.in_recovery);
    // Of one that nobody ever saw nothing can be made.
    let mut config = n1.driver.config().clone();
    config.node = "n9".parse().unwrap();
    let mut never = docker_config(&config);
    never.memory.set_extension("never");
    let faults = examine(&never, &config).unwrap_err();
    assert!(faults[0].ends_with("is missing: make it with docker compose up -d"), "{faults:?}");
}

#[tokio::test]
async fn a_foreign_container_on_the_volume_is_named_and_nothing_is_started() {
    let n1 = Node::new_primary("n1").await;
    n1.stop(StopMode::Fast).await;
    docker(&["stop", &n1.container()]);
    absent(&n1).await;
    let dir = n1.dir.path().display().to_string();
    let label = format!("{TEST_LABEL}={}", std::process::id());
    let run = |volume: &str| {
        let fixed = ["run", "-d", "--rm", "--label", &label, "--entrypoint", "sleep", "-v", volume];
        docker(&[&fixed[..], &[image(), "1000"]].concat())
    };
    let reader = run(&format!("{dir}:/backup:ro"));
    let other = run(&format!("{dir}:/var/lib/postgresql"));
    let name = docker(&["inspect", "--format", "{{.Name}}", &other]);
    let name = name.trim_start_matches('/');
    for refused in [
        n1.driver.ensure_guard(soon(10)).await,
        n1.driver.prepare_standby(None, soon(10)).await,
        n1.driver.move_aside("x", soon(10)).await.map(drop),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("stop it"), "{error}");
    }
    until("it is a trouble", async || n1.driver.trouble().filter(|line| line.contains(name))).await;
    docker(&["kill", &other]);
    n1.driver.ensure_guard(soon(20)).await.unwrap();
    n1.driver.prepare_standby(None, soon(20)).await.unwrap();
    docker(&["kill", &reader]);
}

#[tokio::test]
async fn a_tool_that_was_made_and_never_started_is_removed_too() {
    let n1 = Node::new_primary("n1").await;
    n1.stop(StopMode::Fast).await;
    let running = LeftBehind::start(&n1, "pg_receivewal", &["-D", "/tmp", "-h", "192.0.2.1"]);
    let dir = format!("org.haclt.data-dir={}", n1.data().display());
    let labels = ["--label", "org.haclt.tool=pg_rewind", "--label", &dir];
    let created = docker(&[&["create"][..], &labels, &[image(), "true"]].concat());
    let later = driver(n1.driver.config().clone());
    later.prepare_standby(None, soon(20)).await.unwrap();
    running.ends().await;
    assert!(try_docker(&["inspect", &created]).is_err(), "it is still there");
}

#[tokio::test]
async fn a_margin_holds_from_the_start_of_a_run_to_its_end() {
    let n1 = Node::new_primary("n1").await;
    let margin = Some(Duration::from_millis(100));
    assert_eq!(n1.status().unwrap().margin, margin);
    let mut config = n1.driver.config().clone();
    config.margin = Duration::from_millis(400);
    let later = driver(config);
    later.ensure_guard(soon(10)).await.unwrap();
    let refused = later.promote(soon(5)).await.unwrap_err().to_string();
    assert!(refused.contains("has a margin of 100 ms, configured are 400 ms"), "{refused}");
    assert_eq!(n1.status().unwrap().margin, margin, "it runs");
    n1.stop(StopMode::Fast).await;
    later.prepare_standby(None, soon(20)).await.unwrap();
    // Not by the first driver, which would say its own margin again.
    n1.permit(n1.next_run(), Order::Standby);
    n1.answers().await;
    assert_eq!(n1.status().unwrap().margin, Some(Duration::from_millis(400)));
    // Without a launch file that can be believed nothing starts.
    n1.stop(StopMode::Fast).await;
    std::fs::write(n1.driver.config().permit_dir.join("launch"), "haclt launch 1\n").unwrap();
    n1.permit(n1.next_run(), Order::Standby);
    let refused = until("it is refused", async || {
        n1.status().filter(|status| status.state == RunState::Refused)
    })
    .await;
    assert!(refused.reason.contains("launch file"), "{}", refused.reason);
}

#[tokio::test]
async fn every_fault_of_a_container_is_told_at_once() {
    let n1 = Node::new("n1");
    let config: InstanceConfig = n1.driver.config().clone();
    let docker_config = docker_config(&config);
    docker(&["rm", "-f", &docker_config.container]);
    let args: Vec<String> =
        create_args(&config).into_iter().map(|word| word.replace(":ro", "")).collect();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.splice(1..1, ["--privileged", "--pid", "host"]);
    docker(&args);
    let faults = examine(&docker_config, &config).unwrap_err().join("\n");
    for part in ["it is privileged", "its pid mode is host", "is mounted writable"] {
        assert!(faults.contains(part), "{part}: {faults}");
    }
    docker(&["rm", "-f", &docker_config.container]);
    let name = docker_config.container.clone();
    let label = format!("{TEST_LABEL}={}", std::process::id());
    docker(&["create", "--name", &name, "--label", &label, image()]);
    let faults = examine(&docker_config, &config).unwrap_err().join("\n");
    for part in ["its entrypoint is docker-entrypoint.sh", "lies in none of its volumes"] {
        assert!(faults.contains(part), "{part}: {faults}");
    }
}
