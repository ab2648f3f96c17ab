//! What `haclt doctor` finds: nothing on a healthy cluster, and whatever is broken by name, with its node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use ha_tests::{Cluster, Plan, eventually, scenario, within};
use serde_json::Value;

use super::FAULTS;

/// What a machine of tests has although nothing is wrong: the guard may not be allowed real-time
/// priority there, and other tests keep processor and disk busy.
const MACHINE: [&str; 5] =
    ["guard-not-real-time", "fsync-slow", "peer-slow", "clock-rate", "disk-low"];

/// One finding: what, where, how bad, the evidence.
#[derive(Debug)]
struct Found {
    id: String,
    node: String,
    severity: String,
    evidence: String,
}

fn examine(c: &Cluster, arguments: &[&str]) -> (i32, Vec<Found>) {
    let output = c.haclt(&[&["doctor", "--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {why}"));
    let findings = json["findings"].as_array().expect("findings").iter().map(|found| {
        let text = |key: &str| found[key].as_str().expect("a text").to_owned();
        Found {
            id: text("id"),
            node: text("node"),
            severity: text("severity"),
            evidence: text("evidence"),
        }
    });
    (output.status.code().expect("not killed"), findings.collect())
}

/// Returns what is wrong beyond what a machine of tests has.
fn wrong(found: &[Found]) -> Vec<&Found> {
    let bad = |found: &&Found| found.severity == "warning" || found.severity == "critical";
    found.iter().filter(bad).filter(|found| !MACHINE.contains(&found.id.as_str())).collect()
}

fn has(found: &[Found], severity: &str, id: &str, node: &str, evidence: &str) -> bool {
    found.iter().any(|f| {
        f.id == id && f.node == node && f.severity == severity && f.evidence.contains(evidence)
    })
}

#[track_caller]
fn assert_has(found: &[Found], severity: &str, id: &str, node: &str, evidence: &str) {
    let there = has(found, severity, id, node, evidence);
    assert!(there, "no {severity} {id} of {node} with {evidence:?}: {:#?}", wrong(found));
}

#[test]
fn the_doctor_finds_nothing_on_a_healthy_cluster_and_names_whatever_is_broken() {
    let plan = Plan::within(180).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["does not answer", "slot"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_in_force(1, within(20)).await;
        // A standby may be asked before its slots are made, a second after it streams.
        let until = Instant::now() + within(30);
        let found = loop {
            let (_, found) = examine(c, &[]);
            if wrong(&found).is_empty() {
                break found;
            }
            assert!(Instant::now() < until, "still wrong: {:#?}", wrong(&found));
        };
        c.say(&format!("{} checks", found.len()));
        let unchecked: Vec<&Found> =
            found.iter().filter(|f| f.evidence.starts_with("could not check")).collect();
        let allowed = |f: &&&Found| MACHINE.contains(&f.id.as_str());
        assert_eq!(unchecked.iter().filter(allowed).count(), unchecked.len(), "{unchecked:#?}");
        for (from, to) in [(&primary, &standby), (&standby, &primary)] {
            for id in ["replication-refused", "rewind-refused"] {
                assert_has(&found, "ok", id, from, &format!("the database of {to}"));
            }
        }
        for (from, to) in [(&primary, &witness), (&witness, &primary), (&standby, &witness)] {
            assert_has(&found, "ok", "peer-unreachable", from, &format!("agent of {to}"));
        }
        assert_has(&found, "ok", "synchronous-differs", &primary, "ANY 1");
        let (_, only) = examine(c, &[&standby]);
        assert!(!only.is_empty() && only.iter().all(|f| f.node == standby), "{only:#?}");

        // A slot of nobody, a password that others may read, a rule that keeps the other node out.
        let slot = "select pg_create_physical_replication_slot('forgotten', true)";
        c.node(&primary).sql(slot).await.expect("a primary");
        let secret = c.base.join("replication");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("a file of ours");
        let rules = c.node(&standby).pgdata().join("haclt_hba.conf");
        let before = fs::read_to_string(&rules).expect("the rules");
        let closed = format!("host replication haclt_replication all reject\n{before}");
        fs::write(&rules, closed).expect("the rules");
        c.node(&standby).sql("select pg_reload_conf()").await.expect("a standby");
        let (code, found) = eventually("the rules are in force", within(10), async || {
            let (code, found) = examine(c, &[]);
            has(&found, "critical", "replication-refused", &primary, "").then_some((code, found))
        })
        .await;
        assert_eq!(code, 1);
        assert_has(&found, "warning", "slot-inactive", &primary, "forgotten");
        assert_has(&found, "critical", "secret-readable", &primary, "mode 0644");
        let evidence = "refused user haclt_replication: pg_hba.conf rejects";
        assert_has(&found, "critical", "replication-refused", &primary, evidence);
        assert_has(&found, "critical", "replication-refused", &witness, "(SQLSTATE 28000)");
        assert_has(&found, "ok", "rewind-refused", &primary, &standby);
        // What is named as the mend mends it.
        let change = "alter system set shared_buffers = '24MB'";
        c.node(&standby).sql(change).await.expect("a standby");
        c.node(&standby).sql("select pg_reload_conf()").await.expect("a standby");
        let (_, found) = examine(c, &[&standby]);
        assert_has(&found, "warning", "pending-restart", &standby, "shared_buffers");
        let restarted = c.haclt(&["restart", &standby, "--if-pending"]);
        assert!(restarted.status.success(), "{restarted:?}");
        c.healthy(within(30)).await;
        let (_, found) = examine(c, &[]);
        for (id, node) in [("pending-restart", &standby), ("replication-refused", &primary)] {
            assert_has(&found, "ok", id, node, "");
        }
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("a file of ours");
        let drop = "select pg_drop_replication_slot('forgotten')";
        c.node(&primary).sql(drop).await.expect("a primary");

        // An agent that is gone, and then the majority with it.
        c.node_mut(&witness).kill_everything();
        let (code, found) = examine(c, &[]);
        assert_eq!(code, 1);
        assert_has(&found, "critical", "agent-silent", &witness, "");
        assert_has(&found, "critical", "peer-unreachable", &primary, &format!("of {witness}"));
        assert_has(&found, "critical", "peer-unreachable", &standby, &format!("of {witness}"));
        assert!(!has(&found, "critical", "replication-refused", &primary, ""), "mended");
        c.node_mut(&standby).kill_everything();
        let (code, found) = examine(c, &[]);
        assert_eq!(code, 1, "no quorum is needed");
        assert_has(&found, "critical", "agent-silent", &standby, "");
        assert_has(&found, "critical", "database-unreachable", &primary, &standby);
        c.node_mut(&standby).start();
        c.node_mut(&witness).config.set("health.failures", "5");
        c.node_mut(&witness).start();
        c.healthy(within(60)).await;
        let (_, found) = examine(c, &[]);
        let evidence = "health.failures is 5 here, 4 on";
        assert_has(&found, "warning", "configuration-differs", &witness, evidence);
    });
}
