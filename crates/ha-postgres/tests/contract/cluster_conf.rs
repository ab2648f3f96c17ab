//! What the cluster's configuration sets: by role, against `ALTER SYSTEM`, over restarts, and the way back.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use ha_core::permit::{Order, StopMode};
use ha_postgres::driver::{
    ClusterApplied, ClusterConf, Pending, PendingChange, PostgresDriver, Verdict,
};

use crate::support::{Node, soon};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn everywhere(pairs: &[(&str, &str)]) -> ClusterConf {
    ClusterConf { everywhere: map(pairs), ..ClusterConf::default() }
}

async fn apply(node: &Node, conf: ClusterConf, standby: bool) -> ClusterApplied {
    node.driver.want(Some(conf));
    node.driver.apply_cluster(standby, soon(10)).await.unwrap()
}

fn pending(name: &str, change: PendingChange) -> Vec<Pending> {
    vec![Pending { name: name.to_owned(), change }]
}

#[tokio::test]
async fn the_clusters_parameters_follow_the_role_and_alter_system_does_not_win() {
    let n1 = Node::new_primary("n1").await;
    let conf = ClusterConf {
        everywhere: map(&[("work_mem", "7MB"), ("jit", "off")]),
        primary: map(&[("work_mem", "9MB")]),
        standby: map(&[("work_mem", "5MB")]),
        rules: Vec::new(),
    };
    let applied = apply(&n1, conf.clone(), false).await;
    assert_eq!(applied, ClusterApplied { changed: true, ..ClusterApplied::default() });
    assert_eq!(n1.sql("SHOW work_mem"), "9MB");
    assert_eq!(n1.sql("SHOW jit"), "off");
    let again = n1.driver.apply_cluster(false, soon(10)).await.unwrap();
    assert_eq!(again, ClusterApplied::default(), "nothing is written twice");

    n1.sql("ALTER SYSTEM SET work_mem = '1MB'");
    n1.sql("ALTER SYSTEM SET maintenance_work_mem = '80MB'");
    let applied = n1.driver.apply_cluster(false, soon(10)).await.unwrap();
    assert_eq!(applied.reset, ["work_mem"]);
    assert_eq!(n1.sql("SHOW work_mem"), "9MB");
    assert_eq!(n1.sql("SHOW maintenance_work_mem"), "80MB", "not the cluster's");

    // A clone has the primary's files, until it is configured.
    let n2 = Node::new("n2");
    n2.driver.want(Some(conf));
    n2.driver.clone_from(&n1.upstream(), None, &|_, _| {}, soon(60)).await.unwrap();
    n2.driver.prepare_standby(Some(&n1.upstream()), soon(10)).await.unwrap();
    n2.start().await;
    n2.streams().await;
    assert_eq!(n2.sql("SHOW work_mem"), "5MB");
    // Taken out again.
    let applied = apply(&n2, ClusterConf::default(), true).await;
    assert!(applied.changed && applied.pending.is_empty(), "{applied:?}");
    assert_eq!(n2.sql("SHOW work_mem"), "4MB");
}

#[tokio::test]
async fn what_needs_a_restart_is_pending_until_there_was_one() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    for (node, standby) in [(&n1, false), (&n2, true)] {
        assert_eq!(apply(node, ClusterConf::default(), standby).await.pending, []);
    }
    let more = everywhere(&[("max_connections", "150")]);
    let grows = pending("max_connections", PendingChange::Grows);
    assert_eq!(apply(&n1, more.clone(), false).await.pending, grows);
    assert_eq!(apply(&n2, more.clone(), true).await.pending, grows);
    n2.stop(StopMode::Fast).await;
    n2.driver.prepare_standby(Some(&n1.upstream()), soon(10)).await.unwrap();
    n2.start().await;
    assert_eq!(n2.sql("SHOW max_connections"), "150");
    assert_eq!(n2.driver.apply_cluster(true, soon(10)).await.unwrap().pending, []);
    // A start that nobody ordered changes nothing.
    n1.driver.want(None);
    n1.crash().await;
    n1.driver.prepare_restart_in_place(true, soon(10)).await.unwrap();
    n1.next_run();
    n1.right(1);
    n1.answers().await;
    assert_eq!(n1.sql("SHOW max_connections"), "100");
    assert_eq!(apply(&n1, more, false).await.pending, grows);
    n1.stop(StopMode::Fast).await;
    n1.driver.prepare_restart_in_place(true, soon(10)).await.unwrap();
    n1.next_run();
    n1.right(1);
    n1.answers().await;
    assert_eq!(n1.sql("SHOW max_connections"), "150");
    n2.streams().await;

    // A standby that is restarted first keeps what its primary runs with, and says so (rule 65).
    let fewer = everywhere(&[("max_connections", "60")]);
    let shrinks = pending("max_connections", PendingChange::Shrinks);
    assert_eq!(apply(&n1, fewer.clone(), false).await.pending, shrinks);
    assert_eq!(apply(&n2, fewer, true).await.pending, shrinks);
    n2.stop(StopMode::Fast).await;
    n2.driver.prepare_standby(Some(&n1.upstream()), soon(10)).await.unwrap();
    n2.start().await;
    assert_eq!(n2.sql("SHOW max_connections"), "150");
    assert_eq!(n2.driver.apply_cluster(true, soon(10)).await.unwrap().pending, shrinks);
}

#[tokio::test]
async fn a_server_that_does_not_start_gets_what_it_last_ran_with() {
    let n1 = Node::new_primary("n1").await;
    apply(&n1, everywhere(&[("work_mem", "7MB")]), false).await;
    let greedy =
        everywhere(&[("work_mem", "9MB"), ("shared_preload_libraries", "no_such_library")]);
    let applied = apply(&n1, greedy.clone(), false).await;
    let waits = pending("shared_preload_libraries", PendingChange::Other);
    assert_eq!((&applied.pending, &applied.fallen_back), (&waits, &None));
    assert_eq!(n1.sql("SHOW work_mem"), "9MB");
    n1.stop(StopMode::Fast).await;
    n1.driver.prepare_standby(None, soon(10)).await.unwrap();
    n1.permit(n1.next_run(), Order::Standby);
    n1.is_gone().await;
    assert!(n1.driver.condemn_cluster().unwrap(), "another start is worth a try");
    n1.driver.prepare_standby(None, soon(10)).await.unwrap();
    n1.start().await;
    assert_eq!(n1.sql("SHOW work_mem"), "7MB");
    let applied = n1.driver.apply_cluster(true, soon(10)).await.unwrap();
    assert!(applied.fallen_back.is_some() && !applied.changed, "{applied:?}");
    // Another value is another try.
    let applied = apply(&n1, everywhere(&[("work_mem", "8MB")]), true).await;
    assert_eq!((applied.fallen_back, applied.pending), (None, vec![]));
    assert_eq!(n1.sql("SHOW work_mem"), "8MB");
    assert!(!n1.driver.condemn_cluster().unwrap(), "it runs with it");
    // So is an operator's reload.
    apply(&n1, greedy, true).await;
    assert!(n1.driver.condemn_cluster().unwrap());
    assert!(n1.driver.apply_cluster(true, soon(10)).await.unwrap().fallen_back.is_some());
    n1.driver.reload(soon(10)).await.unwrap();
    assert_eq!(n1.driver.apply_cluster(true, soon(10)).await.unwrap().fallen_back, None);
}

#[tokio::test]
async fn a_rule_of_the_cluster_lets_in_and_a_faulty_one_is_put_back() {
    let n1 = Node::new_primary("n1").await;
    n1.sql("CREATE ROLE guest LOGIN");
    let enters = || n1.psql("guest", "none", "SELECT 1").status.success();
    assert!(!enters());
    let rules = vec!["host all guest all trust".to_owned()];
    let conf = ClusterConf { rules, ..ClusterConf::default() };
    assert_eq!(apply(&n1, conf.clone(), false).await.fallen_back, None);
    assert!(enters());
    n1.driver.admit_clients(false, soon(10)).await.unwrap();
    assert!(!enters());
    let with_more = ClusterConf { everywhere: map(&[("jit", "off")]), ..conf.clone() };
    apply(&n1, with_more, false).await;
    assert!(!enters(), "still kept out");
    n1.driver.admit_clients(true, soon(10)).await.unwrap();
    assert!(enters());
    let rules = vec!["host all guest all nonsense".to_owned()];
    let applied = apply(&n1, ClusterConf { rules, ..ClusterConf::default() }, false).await;
    assert!(applied.fallen_back.is_some_and(|why| why.contains("nonsense")));
    assert!(enters(), "the rules of before");
    apply(&n1, ClusterConf::default(), false).await;
    assert!(!enters());
}

#[tokio::test]
async fn the_server_is_asked_whether_it_would_take_a_value() {
    let n1 = Node::new_primary("n1").await;
    #[rustfmt::skip]
    let table = [
        ("work_mem",            "64MB",          Ok(Verdict::Reload)),
        ("work_mem",            "64 apples",     Err("invalid value")),
        ("timezone",            "Europe/Oslo",   Ok(Verdict::Reload)),
        ("timezone",            "Moon/Crater",   Err("invalid value")),
        ("statement_timeout",   "1ms",           Ok(Verdict::Reload)),
        ("log_min_messages",    "loud",          Err("invalid value")),
        ("checkpoint_timeout",  "10min",         Ok(Verdict::Reload)),
        ("checkpoint_timeout",  "10s",           Err("outside of 30")),
        ("shared_buffers",      "96MB",          Ok(Verdict::Restart)),
        ("shared_buffers",      "96 MiB",        Err("no unit")),
        ("max_connections",     "many",          Err("not a number")),
        ("archive_mode",        "always",        Ok(Verdict::Restart)),
        ("archive_mode",        "sometimes",     Err("none of")),
        ("block_size",          "4096",          Err("nobody can set it")),
        ("no_such_parameter",   "1",             Err("no such parameter")),
        ("auto_explain.any",    "1",             Ok(Verdict::Unchecked)),
    ];
    for (name, value, expected) in table {
        let asked = n1.driver.check_parameters(&map(&[(name, value)]), soon(10)).await.unwrap();
        match (&asked[name], expected) {
            (Verdict::Refused(why), Err(text)) => assert!(why.contains(text), "{name}: {why}"),
            (verdict, expected) => assert_eq!(Ok(verdict), expected.as_ref(), "{name} = {value}"),
        }
    }
    assert_eq!(n1.sql("SHOW work_mem"), "4MB");
}
