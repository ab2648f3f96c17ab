//! From nothing to a healthy cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ha_tests::node::{REPLICATION_PASSWORD, SUPERUSER_PASSWORD};
use ha_tests::{Plan, logs, programs, scenario, status, within};

#[test]
fn an_empty_cluster_becomes_healthy_with_one_initdb_and_one_clone() {
    scenario(Plan::within(90), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let status = c.healthy(within(5)).await;
        assert_eq!(primary, "n1", "all are empty, so the first by name makes the database");
        assert_eq!((status.epoch, status.timeline), (1, 2), "every primary is promoted");
        let logs: Vec<String> = c.nodes().iter().map(|n| logs::read(&n.log())).collect();
        let logs = logs.concat();
        assert_eq!(logs.matches("event=\"step_done\" node=n1 step=\"bootstrap\"").count(), 1);
        assert_eq!(logs.matches("step=\"clone\" took_ms").count(), 1);
        let (p, s) = (c.node(&primary), c.node(&standby));
        let id = "select system_identifier from pg_control_system()";
        assert_eq!(p.sql(id).await, s.sql(id).await);
        assert_eq!(p.sql("show data_checksums").await.as_deref(), Ok("on"));
        assert_eq!(s.sql("select pg_is_in_recovery()").await.as_deref(), Ok("t"));
        let witness = c.witness();
        let attached = "select string_agg(application_name, ',' order by application_name) \
                        from pg_stat_replication";
        ha_tests::eventually("standby and witness receive", within(15), async || {
            let has = p.sql(attached).await.ok()?;
            (has == format!("{standby},{witness}")).then_some(())
        })
        .await;
        let slots = "select string_agg(slot_name, ',' order by slot_name) \
                     from pg_replication_slots where slot_type = 'physical'";
        ha_tests::eventually("each has a slot for every other (rule 78)", within(15), async || {
            let has = (p.sql(slots).await.ok()?, s.sql(slots).await.ok()?);
            let wanted = (format!("{standby},{witness}"), format!("{primary},{witness}"));
            (has == wanted).then_some(())
        })
        .await;
    });
}

#[test]
fn a_new_cluster_trusts_nobody_and_keeps_its_secrets() {
    scenario(Plan::within(90), async |c| {
        let (primary, standby) = c.bootstrap().await;
        for name in [&primary, &standby] {
            let node = c.node(name);
            for file in ["pg_hba.conf", "haclt_hba.conf"] {
                let hba = fs::read_to_string(node.pgdata().join(file)).expect("a readable file");
                let rules: Vec<&str> = hba
                    .lines()
                    .filter(|l| !l.trim_start().starts_with('#') && !l.trim().is_empty())
                    .collect();
                let trusting = rules.iter().find(|l| l.contains("trust") || l.contains("peer"));
                assert_eq!(trusting, None, "{file} of {name}");
            }
            let wrong = node.session_as("postgres", "wrong").await.expect_err("a wrong password");
            assert!(ha_tests::node::said(&wrong).contains("password authentication failed"));
            let mode = |path: std::path::PathBuf| {
                fs::metadata(&path).expect("it is there").permissions().mode() & 0o777
            };
            let run_dir = node.dir.join("pg/data.haclt");
            assert_eq!(mode(run_dir.join("pgpass")) & 0o077, 0, "the pass file is for its owner");
            assert_eq!(mode(node.pgdata()) & 0o077, 0, "PGDATA is for its owner");
            let conf = fs::read_to_string(node.pgdata().join("haclt.conf")).expect("readable");
            assert!(!conf.contains(REPLICATION_PASSWORD), "no password in haclt.conf");
        }
        for secret in [SUPERUSER_PASSWORD, REPLICATION_PASSWORD] {
            for node in c.nodes() {
                assert!(!logs::read(&node.log()).contains(secret), "a secret in {}", node.name);
                for entry in walk(&node.dir.join("log")) {
                    assert!(!logs::read(&entry).contains(secret), "secret in {}", entry.display());
                }
            }
            for process in c.processes() {
                assert!(!process.command.contains(secret), "a secret in the process list");
                let environment = fs::read(format!("/proc/{}/environ", process.pid));
                let environment = environment.unwrap_or_default();
                assert!(!String::from_utf8_lossy(&environment).contains(secret));
            }
        }
    });
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_data_directory_that_is_there_already_becomes_the_clusters() {
    scenario(Plan::within(90), async |c| {
        let pgdata = c.node("n2").pgdata();
        // As an operator made it, by hand, on the second node.
        ha_tests::by_hand::initdb(&pgdata, &c.base.join("password-for-initdb"));
        let control = programs::postgres_dir().join("pg_controldata");
        let before = programs::said(&programs::run(&control, &[&pgdata.display().to_string()]));
        c.start_agents();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), "n2", "it has the data");
        let id = c.node("n1").sql("select system_identifier from pg_control_system()").await;
        let id = id.expect("an answer");
        assert!(before.contains(&id), "the same cluster: {id} in {before}");
    });
}
