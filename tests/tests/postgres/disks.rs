//! Full disks.

use std::fs;

use ha_tests::mount::SmallDisk;
use ha_tests::{Plan, admin, eventually, logs, node, scenario, status, within};

use super::FAILOVER;

#[test]
fn a_full_disk_under_pgdata_is_named_and_a_healthy_standby_takes_over() {
    let plan = Plan::within(180).announces(&FAILOVER).may_lose(500);
    let plan =
        plan.announces(&["database did not answer", "node fenced", "No space left", "step failed"]);
    scenario(plan, async |c| {
        c.set_on_data_nodes("health.interval", "\"500ms\"");
        c.set_on_data_nodes("health.failures", "3");
        c.set_on_data_nodes("health.free_bytes_min", "\"16MiB\"");
        c.set_on_data_nodes("postgres.parameters.wal_keep_size", "\"16MB\"");
        c.set_on_data_nodes("postgres.parameters.max_wal_size", "\"64MB\"");
        let small = c.node("n1").dir.join("small");
        let disk = SmallDisk::mount(&small, 220);
        fs::create_dir(small.join("data")).expect("a new disk");
        for path in [small.clone(), small.join("data")] {
            node::chown(&path);
        }
        c.node_mut("n1").config.text("postgres.data_dir", small.join("data").display());
        let (primary, standby) = c.bootstrap().await;
        assert_eq!(primary, "n1");
        c.write().await;
        c.more_writes(20, within(10)).await;
        let ballast = disk.fill();
        let named = c.await_status("the full disk is named", within(30), |s| {
            let lines = &status::node(s, "n1").troubles;
            lines.iter().any(|l| l.contains("bytes are free") || l.contains("No space left"))
        });
        let named = named.await;
        c.say(&status::node(&named, "n1").troubles.join("; "));
        let fat = "insert into writes select 5000000 + g, repeat('f', 2000) from generate_series(1, 40000) g";
        let full = c.node("n1").sql(fat).await.expect_err("there is no room for it");
        assert!(full.contains("No space left") || full.contains("closed"), "{full}");
        // Either the standby takes over, or the reason stays in sight until there is room again.
        let moved = tokio::time::timeout(within(20), c.primary_is(&standby, within(30))).await;
        if moved.is_err() {
            let still = c.trouble("n1", "bytes are free", within(5)).await;
            assert_eq!(still.state, "degraded");
        }
        c.say(if moved.is_ok() { "moved" } else { "stayed, named" });
        fs::remove_file(ballast).expect("the ballast");
        let after = c.healthy(within(90)).await;
        assert_eq!(status::holder(&after) == standby, moved.is_ok());
        c.more_writes(20, within(20)).await;
        c.end_writing_and_check(Some(500)).await;
        c.kill_all();
        drop(disk);
    });
}

#[test]
fn a_full_disk_does_not_move_the_primary_to_an_equally_full_node() {
    let plan = Plan::within(180).announces(&FAILOVER);
    scenario(plan.announces(&["database did not answer", "step failed"]), async |c| {
        c.set_on_data_nodes("health.interval", "\"500ms\"");
        c.set_on_data_nodes("health.failures", "3");
        c.set_on_data_nodes("health.free_bytes_min", "\"16MiB\"");
        let mut disks = Vec::new();
        for name in ["n1", "n2"] {
            let small = c.node(name).dir.join("small");
            disks.push(SmallDisk::mount(&small, 260));
            fs::create_dir(small.join("data")).expect("a new disk");
            node::chown(&small);
            node::chown(&small.join("data"));
            c.node_mut(name).config.text("postgres.data_dir", small.join("data").display());
        }
        let (primary, _) = c.bootstrap().await;
        let before = c.healthy(within(10)).await;
        // The standby first: it must be known to be as full when the primary fails.
        let mut ballast = Vec::new();
        for (name, disk) in ["n2", "n1"].into_iter().zip(disks.iter().rev()) {
            ballast.push(disk.fill());
            c.trouble(name, "bytes are free", within(30)).await;
        }
        ha_tests::wait::always("nobody moves", within(6), async || {
            let Some(now) = c.node("n3").status().await else { return true };
            now.epoch == before.epoch && status::holder(&now) == primary
        })
        .await;
        let told = ha_tests::programs::said(&c.haclt(&["explain"]));
        assert!(told.contains("bytes are free"), "{told}");
        // The primary's first: a full primary beside a standby with room would rightly move.
        for (name, path) in ["n1", "n2"].into_iter().zip(ballast.into_iter().rev()) {
            fs::remove_file(path).expect("the ballast");
            c.await_status("there is room again", within(30), |s| {
                status::node(s, name).troubles.is_empty()
            })
            .await;
        }
        let after = c.healthy(within(60)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        c.kill_all();
        drop(disks);
    });
}

#[test]
fn a_full_disk_under_the_raft_store_ends_that_agent_with_its_name_and_the_cluster_goes_on() {
    let plan = Plan::within(150).announces(&FAILOVER);
    let plan = plan.announces(&[
        "No space left",
        "Raft stopped",
        "the Raft store has failed",
        "sled::pagecache",
        "openraft::core::heartbeat",
        "failed to send RaftMsg to RaftCore",
    ]);
    scenario(plan, async |c| {
        let small = c.node("n3").dir.join("small");
        let disk = SmallDisk::mount(&small, 8);
        let wal = c.node("n3").dir.join("wal");
        let config = &mut c.node_mut("n3").config;
        config.text("data_dir", small.join("agent").display());
        // No segment would fit onto the small disk.
        config.text("witness.wal_dir", wal.display());
        let (primary, standby) = c.bootstrap().await;
        c.write().await;
        let ballast = disk.fill();
        // Commands that are refused take room in the log all the same.
        let cluster = "x".repeat(20_000);
        let command =
            format!(r#"{{"found":{{"cluster":"{cluster}","cluster_id":1,"nodes":{{}}}}}}"#);
        for _ in 0..400 {
            for node in [&primary, &standby, &"n3".to_owned()] {
                admin::propose(&c.node(node).grpc(), "orders", command.as_bytes()).await;
            }
            if !c.node_mut("n3").agent_runs() {
                break;
            }
        }
        let end = c.node_mut("n3").agent_end(within(60)).await;
        assert_eq!(end.code(), Some(1), "it says that it failed");
        let said = logs::read(&c.node("n3").log());
        let line = said.lines().rfind(|line| line.starts_with("error:")).expect("one clear line");
        assert!(line.contains("raft") || line.contains("Raft"), "it names what is full: {line}");
        c.say(line);
        // Two agents of three: the cluster goes on, and comes back whole.
        c.more_writes(20, within(20)).await;
        fs::remove_file(ballast).expect("the ballast");
        c.node_mut("n3").start();
        let node = c.node("n3");
        eventually("it answers again", within(20), async || node.status().await).await;
        c.healthy(within(40)).await;
        c.end_writing_and_check(None).await;
        c.kill_all();
        drop(disk);
    });
}
