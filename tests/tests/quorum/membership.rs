//! Nodes that come and go while clients write.

use std::time::Duration;

use ha_tests::{Cluster, Plan, eventually, scenario, status, within};
use tokio::time::sleep;

use super::FAULTS;

/// Runs `haclt`; returns its exit code and what it printed to both streams.
fn haclt(c: &Cluster, arguments: &[&str]) -> (i32, String) {
    let output = c.haclt(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("not killed"), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn done(c: &Cluster, arguments: &[&str]) -> String {
    let (code, text) = haclt(c, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

#[track_caller]
fn refused(c: &Cluster, arguments: &[&str], code: i32, why: &str) {
    let (found, text) = haclt(c, arguments);
    assert_eq!(found, code, "{arguments:?}: {text}");
    assert!(text.contains(why), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
}

/// Takes in a node that was made before.
fn add(c: &mut Cluster, name: &str) {
    let node = c.node_mut(name);
    let grpc = node.grpc();
    node.start();
    // An agent that has just been started may not listen yet, and the agents may be electing a leader.
    let mut last = (1, String::new());
    for _ in 0..100 {
        last = haclt(c, &["node", "add", name, &grpc, "--timeout", "60"]);
        if last.0 != 1 && !last.1.contains("cannot be taken in") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(last.0, 0, "{}", last.1);
    assert!(
        last.1.contains(&format!("node {name} is part of the cluster, and votes")),
        "{}",
        last.1
    );
}

fn voters(c: &Cluster) -> Vec<String> {
    let list = done(c, &["node", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("one object");
    let nodes = list["nodes"].as_array().expect("a list");
    let votes = nodes.iter().filter(|node| node["raft"] == "voter");
    votes.map(|node| node["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn nodes_come_and_an_old_primary_goes_while_clients_write() {
    scenario(Plan::within(240).quorum().announces(&FAULTS).patience(20), async |c| {
        let (old, _) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        // Clients know every database that there will be.
        c.new_node("n4", true).config.set("postgres.read", "false");
        c.write().await;
        add(c, "n4");
        // Its tags are its own word, which the others ask for once in a while.
        eventually("its tags are shown", within(10), async || {
            done(c, &["node", "list"]).contains("  read=false  ").then_some(())
        })
        .await;
        c.quorum_in_force(2, within(40)).await;
        // It will not have heard of n5, nor of whoever is elected then.
        c.node_mut("n3").kill_everything();
        c.new_node("n5", false);
        add(c, "n5");
        assert_eq!(voters(c), ["n1", "n2", "n3", "n4", "n5"]);
        c.streaming(within(60)).await;

        // Two of five may be lost at once: the primary, and a voter that was there from the beginning.
        c.more_writes(100, within(20)).await;
        c.node_mut(&old).kill_everything();
        c.more_writes(100, within(30)).await;
        let now = c.await_status("a new primary", within(20), |s| {
            !status::holder(s).is_empty() && status::holder(s) != old
        });
        let new = status::holder(&now.await).to_owned();
        // An agent that starts again knows the nodes that its configuration does not name.
        c.node_mut("n3").start();
        c.node_mut(&old).start();
        c.healthy(within(60)).await;
        c.streaming(within(60)).await;

        let text = done(c, &["node", "remove", &old, "--timeout", "60"]);
        assert!(text.contains(&format!("node {old} is out")), "{text}");
        assert!(!voters(c).contains(&old));
        assert!(c.node(&old).postmaster().is_none(), "its database is down");
        c.quorum_in_force(2, within(20)).await;
        let slots = "select coalesce(string_agg(slot_name, ' '), '') from pg_replication_slots";
        eventually("its slot is gone", within(20), async || {
            let left = c.node(&new).sql(slots).await.ok()?;
            (!left.contains(&old)).then_some(())
        })
        .await;
        let mut gone = c.forget(&old);
        c.healthy(within(40)).await;

        // An old host that comes back disturbs nobody, and is nobody.
        let before = c.node(&new).status().await.expect("an answer");
        gone.start();
        sleep(Duration::from_secs(5)).await;
        let after = c.node(&new).status().await.expect("an answer");
        let term = |status: &ha_proto::v1::StatusReply| status.raft.as_ref().map(|raft| raft.term);
        assert_eq!(term(&after), term(&before), "nobody elects with it");
        assert_eq!(after.epoch, before.epoch);
        assert!(gone.postmaster().is_none(), "its database stays down");
        assert!(gone.agent_runs());

        // Taken in again, it goes on from what it has.
        done(c, &["node", "add", &old, &gone.grpc(), "--timeout", "60"]);
        c.remember(gone);
        c.streaming(within(60)).await;
        c.healthy(within(40)).await;
        c.end_writing_and_check(None).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn orders_about_nodes_that_cannot_be_carried_out_change_nothing() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let nobody = c.new_node("n4", true).grpc();
        let known = c.node(&standby).grpc();
        refused(c, &["node", "add", "n4"], 2, "node n4 is new: say where its agent listens");
        let (code, text) = haclt(c, &["node", "add", "n4", "here"]);
        assert!(code == 2 && text.contains("it has no port"), "{text}");
        refused(c, &["node", "add", "n4", &nobody], 3, "cannot be taken in");
        refused(c, &["node", "add", "n4", &known], 3, &format!("this is node {standby}"));
        refused(c, &["node", "remove", "n4"], 2, "is not a node of this cluster");
        refused(c, &["node", "remove", "n3"], 3, "2 nodes would be left");
        let same = done(c, &["node", "add", &standby]);
        assert!(same.contains("is part of the cluster"), "{same}");
        let node = c.node_mut("n4");
        node.start();
        eventually("its agent listens", within(10), async || node.status().await).await;
        assert_eq!(voters(c), ["n1", "n2", "n3"], "it founds nothing and joins nothing by itself");
        c.node_mut("n4").kill_everything();
        c.new_node("n5", false);
        add(c, "n5");
        refused(c, &["node", "remove", &primary], 3, "holds the lease");
        done(c, &["pause"]);
        refused(c, &["node", "remove", "n5"], 3, "the cluster is paused");
        done(c, &["resume"]);
        assert_eq!(voters(c), ["n1", "n2", "n3", "n5"]);
        c.forget("n4");
        c.healthy(within(40)).await;
    });
}

#[test]
fn an_order_whose_leader_died_is_given_again_and_goes_on() {
    let mut announced = FAULTS.to_vec();
    announced.push("sled");
    scenario(Plan::within(240).quorum().announces(&announced).patience(20), async |c| {
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let node = c.new_node("n4", false);
        let grpc = node.grpc();
        node.start();
        eventually("its agent listens", within(10), async || node.status().await).await;
        for after_ms in [20, 60, 120, 250] {
            for order in [&["node", "add", "n4", &grpc][..], &["node", "remove", "n4"]] {
                let status = c.settled(within(30)).await;
                let leader = status.raft.expect("its place").leader;
                let mut child = c.haclt_child(order);
                sleep(Duration::from_millis(after_ms)).await;
                c.node_mut(&leader).kill_agent();
                child.kill().expect("ours");
                child.wait().expect("ours");
                c.node_mut(&leader).start();
                c.settled(within(30)).await;
                let (code, text) = haclt(c, &[order, &["--timeout", "60"]].concat());
                // What was cut short may have been carried out to the end.
                let out = code == 2 && text.contains("is not a node of this cluster");
                assert!(code == 0 || (order[1] == "remove" && out), "{order:?}: {code} {text}");
                c.say(&format!("{order:?}, cut short after {after_ms} ms: {}", text.trim()));
                if order[1] == "remove" {
                    let old = c.forget("n4");
                    drop(std::fs::remove_dir_all(old.dir.join("agent")));
                    let node = c.new_node("n4", false);
                    node.start();
                    eventually("its agent listens", within(10), async || node.status().await).await;
                }
            }
        }
        c.forget("n4");
        assert_eq!(voters(c), ["n1", "n2", "n3"]);
        c.healthy(within(40)).await;
        c.end_writing_and_check(None).await;
    });
}
