//! What `haclt config` sets for all servers: parameters by role, restarts in the right order, rules who may log in.

use ha_tests::{Cluster, Plan, eventually, scenario, within};

use super::FAULTS;

/// Runs `haclt config …`; returns its exit code and what it printed to both streams.
fn config(c: &Cluster, arguments: &[&str]) -> (i32, String) {
    haclt(c, &[&["config"], arguments].concat())
}

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
    let (found, text) = config(c, arguments);
    assert_eq!(found, code, "{arguments:?}: {text}");
    assert!(text.contains(why), "{arguments:?}: {text}");
}

/// Waits until a server shows that value.
async fn shows(c: &Cluster, node: &str, name: &str, value: &str) {
    let what = format!("{node} has {name} = {value}");
    eventually(&what, within(15), async || {
        let now = c.node(node).sql(&format!("show {name}")).await.ok()?;
        (now == value).then_some(())
    })
    .await;
}

#[test]
fn parameters_reach_every_server_and_follow_the_role() {
    scenario(Plan::within(200).quorum().announces(&FAULTS), async |c| {
        c.announce("was changed by ALTER SYSTEM: it is reset");
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let text = done(c, &["config", "set", "postgres.parameters.work_mem", "7MB"]);
        assert!(text.contains("on n1, n2"), "{text}");
        for node in [&primary, &standby] {
            assert_eq!(c.node(node).sql("show work_mem").await.as_deref(), Ok("7MB"));
        }
        done(c, &["config", "set", "postgres.primary.work_mem", "9MB"]);
        done(c, &["config", "set", "postgres.standby.WORK_MEM", "5MB"]);
        shows(c, &primary, "work_mem", "9MB").await;
        shows(c, &standby, "work_mem", "5MB").await;

        // A rewind of the files by hand, as an administrator does it who does not know better (rule 64).
        c.node(&primary).sql("alter system set work_mem = '1MB'").await.expect("a superuser");
        c.node(&primary).sql("select pg_reload_conf()").await.expect("a superuser");
        shows(c, &primary, "work_mem", "1MB").await;
        shows(c, &primary, "work_mem", "9MB").await;

        done(c, &["switchover"]);
        c.healthy(within(40)).await;
        shows(c, &standby, "work_mem", "9MB").await;
        shows(c, &primary, "work_mem", "5MB").await;

        // A server that starts has them at once, a new copy too.
        done(c, &["restart", &primary]);
        assert_eq!(c.node(&primary).sql("show work_mem").await.as_deref(), Ok("5MB"));
        done(c, &["reclone", &primary]);
        c.healthy(within(60)).await;
        assert_eq!(c.node(&primary).sql("show work_mem").await.as_deref(), Ok("5MB"));

        let keys = ["primary", "standby", "parameters"].map(|of| format!("postgres.{of}.work_mem"));
        done(c, &["config", "unset", &keys[0], &keys[1], &keys[2]]);
        for node in [&primary, &standby] {
            shows(c, node, "work_mem", "4MB").await;
        }
        let text = done(c, &["config", "history"]);
        let by = std::env::var("USER").unwrap_or_default();
        assert!(text.contains("postgres.parameters.work_mem: (unset) -> 7MB"), "{text}");
        assert!(text.contains("postgres.parameters.work_mem: 7MB -> (unset)"), "{text}");
        assert!(text.contains(&by), "{text}");
        c.end_writing_and_check(Some(0)).await;
    });
}

#[test]
fn what_is_not_ours_to_give_or_no_value_is_refused_and_changes_nothing() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        c.bootstrap().await;
        #[rustfmt::skip]
        let table = [
            ("postgres.parameters.synchronous_commit",  "off",      3, "managed by haclt: it would change"),
            ("postgres.parameters.primary_conninfo",    "host=x",   3, "managed by haclt"),
            ("postgres.standby.port",                   "1",        3, "managed by haclt"),
            ("postgres.parameters.fsync",               "off",      3, "managed by haclt"),
            ("postgres.parameters.no_such_parameter",   "1",        2, "the server has no such parameter"),
            ("postgres.parameters.work_mem",            "64 apples", 2, "invalid value"),
            ("postgres.parameters.checkpoint_timeout",  "1s",       2, "outside of"),
            ("postgres.parameters.shared_buffers",      "96KB",     2, "no unit"),
            ("postgres.parameters.max_connections",     "10",       2, "too low"),
            ("postgres.parameters.block_size",          "4096",     2, "nobody can set it"),
            ("postgres.hba.010",                        "host all", 2, "names no user"),
            ("postgres.hba.7",                          "host all all all trust", 2, "000 to 999"),
            ("postgres.work_mem",                       "1MB",      2, "unknown key"),
            ("work_mem",                                "1MB",      2, "unknown key"),
        ];
        for (key, value, code, why) in table {
            refused(c, &["set", key, value], code, why);
            refused(c, &["validate", key, value], code, why);
        }
        let text = done(c, &["config", "show"]);
        assert!(text.starts_with("version 0\n") && !text.contains("postgres."), "{text}");
        let text = done(c, &["config", "validate", "postgres.parameters.shared_buffers", "96MB"]);
        assert!(
            text.contains("[needs a restart]") && text.contains("nothing was changed"),
            "{text}"
        );
    });
}

#[test]
fn what_needs_a_restart_waits_for_it_and_grows_and_shrinks_in_the_right_order_rule_65() {
    scenario(Plan::within(300).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let key = "postgres.parameters.max_worker_processes";
        let text = done(c, &["config", "set", key, "12"]);
        assert!(text.contains("waits for a restart (max_worker_processes)"), "{text}");
        let text = done(c, &["config", "show"]);
        assert!(text.contains("waits for a restart of n1, n2"), "{text}");
        // The primary alone would leave the standby behind.
        let (code, text) = haclt(c, &["restart", &primary]);
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(&format!("restart node {standby} first")), "{text}");
        // Whoever takes over goes on with what it has; one that comes back as its standby may have more.
        c.node_mut(&primary).kill_everything();
        c.primary_is(&standby, within(40)).await;
        c.node_mut(&primary).start();
        c.healthy(within(40)).await;
        shows(c, &standby, "max_worker_processes", "8").await;
        shows(c, &primary, "max_worker_processes", "12").await;

        done(c, &["restart", "--all", "--if-pending"]);
        c.healthy(within(60)).await;
        for node in [&primary, &standby] {
            assert_eq!(c.node(node).sql("show max_worker_processes").await.as_deref(), Ok("12"));
        }
        let nothing = "not restarted, no parameter waits for it";
        let text = done(c, &["restart", "--all", "--if-pending"]);
        assert_eq!(text.matches(nothing).count(), 2, "{text}");

        done(c, &["config", "set", key, "10"]);
        let text = done(c, &["restart", "--all", "--if-pending"]);
        assert!(text.contains("max_worker_processes shrinks"), "{text}");
        c.healthy(within(60)).await;
        for node in [&primary, &standby] {
            assert_eq!(c.node(node).sql("show max_worker_processes").await.as_deref(), Ok("10"));
        }
        let text = done(c, &["config", "show"]);
        assert!(!text.contains("waits for a restart of"), "{text}");
        // What a node's own file says counts there, and that is said.
        let own = "postgres.parameters.max_connections";
        let text = done(c, &["config", "set", own, "40"]);
        assert!(text.contains("has max_connections of its own"), "{text}");
        let text = done(c, &["config", "show"]);
        assert!(text.contains("set otherwise in the agent's file on n1, n2"), "{text}");
        c.more_writes(10, within(10)).await;
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn a_server_that_would_not_start_runs_with_what_it_had() {
    scenario(Plan::within(200).quorum().announces(&FAULTS), async |c| {
        c.announce("the next start is with the parameters of before");
        c.announce("did not start with the cluster's configuration");
        let (_, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let key = "postgres.parameters.shared_preload_libraries";
        done(c, &["config", "set", key, "no_such_library"]);
        let (_, text) = haclt(c, &["restart", &standby]);
        c.say(&text);
        let trouble = "runs with the parameters of before";
        c.trouble(&standby, trouble, within(60)).await;
        assert!(c.node(&standby).postmaster().is_some(), "it runs");
        done(c, &["config", "unset", key]);
        c.healthy(within(40)).await;
    });
}

#[test]
fn a_rule_of_the_cluster_lets_in_until_it_is_unset() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        let (primary, standby) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.node(&primary).sql("create role guest login").await.expect("a primary");
        let key = "postgres.hba.010";
        done(c, &["config", "set", key, "host all guest all trust"]);
        for node in [&primary, &standby] {
            eventually("the guest is let in", within(10), async || {
                c.node(node).session_as("guest", "none").await.ok()
            })
            .await;
        }
        done(c, &["config", "unset", key]);
        for node in [&primary, &standby] {
            let tried = c.node(node).session_as("guest", "none").await;
            assert!(tried.is_err(), "still let in on {node}");
        }
    });
}

#[test]
fn of_two_edits_at_once_the_second_is_refused_with_the_version() {
    scenario(Plan::within(120).quorum().announces(&FAULTS), async |c| {
        let (primary, _) = c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        let grpc = c.node(&primary).grpc();
        let version = ha_tests::admin::config_show(&grpc).await.expect("an answer").version;
        let change = |value: &'static str| {
            ha_tests::admin::config_change(
                &grpc,
                Some(version),
                "postgres.parameters.work_mem",
                Some(value),
            )
        };
        let (first, second) = tokio::join!(change("7MB"), change("8MB"));
        let failed = [&first, &second].into_iter().filter_map(|reply| reply.as_ref().err());
        let failed: Vec<&String> = failed.collect();
        assert_eq!(failed.len(), 1, "{first:?} {second:?}");
        let expected = format!("the current one is {}", version + 1);
        let known = format!("it has version {}", version + 1);
        assert!(failed[0].contains(&expected) || failed[0].contains(&known), "{}", failed[0]);
        assert!(failed[0].starts_with("Aborted"), "{}", failed[0]);
        let late = change("9MB").await.expect_err("the version is past");
        assert!(late.contains(&known), "{late}");
        let shown = ha_tests::admin::config_show(&grpc).await.expect("an answer");
        assert_eq!(shown.version, version + 1);
    });
}
