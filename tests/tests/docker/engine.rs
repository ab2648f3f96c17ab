//! The Docker daemon ends, and starts again: in order, as in an upgrade, and by SIGKILL. The machine's
//! own engine has nothing to do with it: each story has one of its own.

use std::time::{Duration, Instant};

use ha_tests::compose::Compose;
use ha_tests::engine::{Engine, can_be_made};
use ha_tests::{status, within};
use rustix::process::Signal;

use super::{MAJOR, story_of};

const AGENTS: [&str; 3] = ["n1", "n2", "n3"];
/// Longer than the ttl, longer than the engine's events are missed.
const OUTAGE: Duration = Duration::from_secs(12);

fn story(live_restore: bool, body: impl AsyncFnOnce(&mut Compose)) {
    if can_be_made() {
        let prepare = || (Compose::prepare(MAJOR, Some(Engine::start(live_restore))), ());
        story_of(prepare, async |c, ()| body(c).await);
    }
}

/// Ends the daemon, leaves it away for longer than the lease lives, and starts it again.
fn restart(c: &mut Compose, signal: Signal) {
    c.engine().end(signal);
    std::thread::sleep(OUTAGE);
    c.engine().run();
}

#[test]
fn a_daemon_without_live_restore_may_be_restarted_and_killed_rule_102() {
    story(false, async |c| {
        for (signal, what) in [(Signal::TERM, "SIGTERM"), (Signal::KILL, "SIGKILL")] {
            let writer = c.write().await;
            restart(c, signal);
            c.told(&format!("{what} to the Docker daemon, started again"), writer).await;
        }
        without_agents(c).await;
    });
}

/// Rule 102: a restart policy starts the guard, and the guard alone starts nothing.
async fn without_agents(c: &mut Compose) {
    let names = AGENTS.map(|agent| c.container(agent));
    let writer = c.write().await;
    for name in &names {
        c.docker(&["update", "--restart=no", name]);
    }
    restart(c, Signal::KILL);
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        for node in ["n1", "n2"] {
            let database = c.container(&format!("{node}-postgres"));
            let programs = c.docker(&["top", &database, "-o", "pid,comm"]);
            assert!(programs.contains("ha-guard"), "it was not started: {programs}");
            assert!(!programs.contains("postgres"), "nobody gave it a role: {programs}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for name in &names {
        c.docker(&["update", "--restart=always", name]);
        c.docker(&["start", name]);
    }
    c.told("SIGKILL to the Docker daemon, agents started later", writer).await;
}

/// Waits until every agent of a database says that it has no engine.
async fn named(c: &Compose) {
    let seen = c.await_status("the missing engine is named", within(30), |s| {
        let names = |node: &str| {
            let troubles = &status::node(s, node).troubles;
            troubles.iter().any(|trouble| trouble.contains("Docker engine cannot be reached"))
        };
        names("n1") && names("n2")
    });
    assert_ne!(seen.await.state, "healthy");
}

/// Ends the daemon; guards, servers and agents go on. Returns what clients saw of it.
async fn outage(c: &mut Compose, signal: Signal, what: &str) {
    let before = c.healthy(within(30)).await;
    let writer = c.write().await;
    c.engine().end(signal);
    named(c).await;
    tokio::time::sleep(OUTAGE).await;
    c.more(&writer, 20, within(5)).await;
    c.engine().run();
    let told = c.told(&format!("{what} to the Docker daemon, live-restore"), writer).await;
    let after = c.healthy(within(30)).await;
    assert_eq!((after.epoch, status::holder(&after)), (before.epoch, status::holder(&before)));
    assert!(told.gap < Duration::from_secs(1), "writes were gone for {:?}", told.gap);
}

/// Kills the primary's postmaster from outside: nobody can ask the engine for anything, and with
/// `compose.yaml` the names of containers are the engine's too. Whatever can be done without it is done,
/// and the rest once it is back.
async fn crash(c: &mut Compose) {
    let primary = c.primary().await;
    let database = c.container(&format!("{primary}-postgres"));
    let pid = c.docker(&["inspect", "--format", "{{.State.Pid}}", &database]);
    let guard: i32 = pid.trim().parse().expect("a process id");
    let writer = c.write().await;
    c.engine().end(Signal::KILL);
    named(c).await;
    ha_tests::processes::kill_child(guard, "postgres");
    tokio::time::sleep(OUTAGE).await;
    c.engine().run();
    c.told("the primary's server killed while there is no engine", writer).await;
}

#[test]
fn with_live_restore_the_databases_go_on_and_nothing_fails_over_while_the_daemon_is_away() {
    story(true, async |c| {
        c.go_past_the_engine();
        outage(c, Signal::TERM, "SIGTERM").await;
        outage(c, Signal::KILL, "SIGKILL").await;
        crash(c).await;
    });
}
