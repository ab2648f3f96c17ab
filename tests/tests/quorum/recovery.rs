//! A majority that is lost for good.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ha_tests::{Cluster, Plan, eventually, programs, scenario, status, within};
use rustix::process::{Pid, Signal, kill_process_group};

use super::FAULTS;
use super::killed_orders::{Dice, rounds};

fn order(c: &Cluster, node: &str, more: &[&str]) -> Command {
    let config = c.node(node).write_config();
    let config = config.to_str().expect("plain").to_owned();
    let words = [&["recover", "--force-new-cluster", "--config", &config], more].concat();
    let mut command = Command::new(programs::program("haclt"));
    command.args(words).stdin(Stdio::null());
    command
}

fn recover(c: &Cluster, node: &str, more: &[&str]) -> Output {
    order(c, node, more).output().expect("haclt can be run")
}

fn copy(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    let done = Command::new("cp").arg("-a").args([from, to]).status().expect("cp can be run");
    assert!(done.success(), "{} to {}", from.display(), to.display());
}

fn text(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[track_caller]
fn refused(c: &Cluster, node: &str, more: &[&str], why: &str) {
    let output = recover(c, node, more);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains(why), "{text}");
}

#[test]
fn one_data_node_that_is_left_goes_on_and_who_comes_back_is_fenced() {
    let mut announced = FAULTS.to_vec();
    // The permit of an agent whose directory was removed by hand is not the new one's.
    let by_hand = "permit was damaged or gone";
    announced.extend(["agent ended", "cannot join cluster", "was made anew", by_hand]);
    scenario(Plan::within(240).quorum().announces(&announced).patience(20), async |c| {
        let (primary, burnt) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(20)).await;
        let confirmed = ["--confirm", ha_tests::cluster::CLUSTER];
        refused(c, &primary, &confirmed, &format!("the agent of node {primary} runs"));
        refused(c, "n3", &confirmed, "node n3 is a witness");

        c.node_mut("n3").kill_everything();
        c.node_mut(&primary).kill_agent();
        refused(c, &primary, &confirmed, &format!("the agent of node {burnt} answers"));
        c.node_mut(&burnt).kill_everything();
        let acks = c.end_writing_unchecked().await;
        refused(c, &primary, &["--confirm", "other"], "nothing was changed");

        // Nobody is there to type a name: the plan alone.
        let shown = recover(c, &primary, &[]);
        let said = text(&shown);
        assert!(shown.status.success(), "{said}");
        for part in ["would be made anew", "It cannot know", "[ ] ", "nothing was changed"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        let plan = recover(c, &primary, &["--json"]);
        let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).expect("one object");
        assert_eq!(plan["given_up"].as_array().map(Vec::len), Some(2), "{plan}");

        let done = recover(c, &primary, &confirmed);
        assert!(done.status.success(), "{}", text(&done));
        assert!(text(&done).contains("its old store is kept as"), "{}", text(&done));
        c.node_mut(&primary).start();
        c.await_status("it serves alone", within(40), |s| {
            status::holder(s) == primary && status::node(s, &primary).rule == "serving"
        })
        .await;
        c.assert_nothing_lost_on(&primary, &acks).await;
        c.node(&primary).sql("insert into writes values (900000001, 'after')").await.expect("open");

        // One cluster is enough.
        refused(c, &burnt, &confirmed, "was made anew already");

        // Both burnt hosts come back: together they are a majority of what was.
        c.node_mut("n3").start();
        c.node_mut(&burnt).start();
        for node in ["n3", &burnt] {
            let ended = c.node_mut(node).agent_end(within(30)).await;
            assert_eq!(ended.code(), Some(3), "{node} ends by a rule");
            let log = fs::read_to_string(c.node(node).log()).expect("a log");
            assert!(log.contains("was made anew from node"), "{node} says why: {log}");
        }
        let holder = c.node(&primary).status().await.expect("an answer");
        assert_eq!(status::holder(&holder), primary, "{}", status::brief(&holder));
        assert!(c.node(&burnt).sql("select 1").await.is_err(), "its database is down");

        // Taken in again: the witness with its store emptied; a database of before is refused, empty it is cloned.
        for (node, refuse) in [("n3", false), (burnt.as_str(), true)] {
            c.node_mut(node).kill_everything();
            fs::remove_dir_all(c.node(node).dir.join("agent")).expect("an agent's directory");
            c.node_mut(node).config.set("join", "true");
            c.node_mut(node).start();
            let grpc = c.node(node).grpc();
            eventually("its agent listens", within(10), async || c.node(node).status().await).await;
            let order = ["node", "add", node, &grpc, "--timeout", "60"];
            if refuse {
                let output = c.haclt(&order);
                assert_eq!(output.status.code(), Some(3), "{}", text(&output));
                assert!(
                    text(&output).contains("may have a database of before"),
                    "{}",
                    text(&output)
                );
                c.node_mut(node).kill_everything();
                let data = c.node(node).pgdata();
                for entry in fs::read_dir(&data).expect("a data directory") {
                    let path = entry.expect("readable").path();
                    let removed = if path.is_dir() {
                        fs::remove_dir_all(path)
                    } else {
                        fs::remove_file(path)
                    };
                    removed.expect("removable");
                }
                c.node_mut(node).start();
                eventually("its agent listens", within(10), async || c.node(node).status().await)
                    .await;
            }
            let output = eventually("it is taken in", within(60), async || {
                let output = c.haclt(&order);
                output.status.success().then_some(output)
            })
            .await;
            c.say(text(&output).trim());
        }
        c.healthy(within(60)).await;
        c.quorum_in_force(1, within(40)).await;
        c.same_rows(within(20)).await;
        let mut out = std::io::stdout().lock();
        drop(writeln!(out, "{}", text(&c.haclt(&["events", "--since", "10m"]))));
    });
}

/// Killed at any moment, it has made the cluster anew, or the same order does.
#[test]
fn a_recovery_that_is_cut_short_is_done_by_the_same_order_again() {
    let announced = [&FAULTS[..], &["was made anew"]].concat();
    let plan = Plan::within(120 + 10 * rounds()).quorum().announces(&announced);
    scenario(plan.patience(20), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        c.more_writes(50, within(20)).await;
        for node in c.nodes_mut() {
            node.kill_everything();
        }
        let acks = c.end_writing_unchecked().await;
        let confirmed = ["--confirm", ha_tests::cluster::CLUSTER];
        let (store, before) = (c.node(&primary).dir.join("agent"), c.base.join("before"));
        copy(&store, &before);
        let began = Instant::now();
        let done = recover(c, &primary, &confirmed);
        assert!(done.status.success(), "{}", text(&done));
        let lasts = u64::try_from(began.elapsed().as_millis()).expect("a short while");

        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let (mut anew, mut again) = (0, 0);
        // Quick, as no server has to start.
        for _ in 0..rounds() * 5 {
            copy(&before, &store);
            // With the program that it has do the work.
            let mut order = order(c, &primary, &confirmed);
            let order = order.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
            let mut order = order.spawn().expect("haclt can be run");
            let group = i32::try_from(order.id()).ok().and_then(Pid::from_raw);
            tokio::time::sleep(Duration::from_millis(dice.below(lasts))).await;
            kill_process_group(group.expect("a pid"), Signal::KILL).expect("our own children");
            order.wait().expect("a child");
            // What was killed is gone a moment later.
            let done = eventually("the store is free", within(10), async || {
                let done = recover(c, &primary, &confirmed);
                (!text(&done).contains("stop it first")).then_some(done)
            })
            .await;
            let said = text(&done);
            match done.status.code() {
                Some(0) => anew += 1,
                Some(3) if said.contains("was made anew already") => again += 1,
                code => panic!("{code:?}: {said}"),
            }
        }
        c.say(&format!("{anew} made anew by the second order, {again} by the first"));
        c.node_mut(&primary).start();
        c.await_status("it serves alone", within(40), |s| {
            status::holder(s) == primary && status::node(s, &primary).rule == "serving"
        })
        .await;
        c.assert_nothing_lost_on(&primary, &acks).await;
    });
}
