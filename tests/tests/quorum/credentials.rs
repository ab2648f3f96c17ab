//! New passwords for the internal users: nobody is cut off, whenever an agent dies, and what cannot be finished
//! is not begun.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ha_tests::{Cluster, Plan, eventually, node, processes, scenario, status, within};
use rustix::process::Signal;
use serde_json::Value;

use super::FAULTS;

const REPLICATION: &str = "haclt_replication";
const FILES: [&str; 2] = ["superuser", "replication"];

/// Gives every node files of its own, as on machines of its own.
fn own_files(c: &mut Cluster) {
    let base = c.base.clone();
    for node in c.nodes_mut() {
        let dir = node.dir.join("secrets");
        fs::create_dir(&dir).expect("a writable directory");
        for name in FILES {
            let file = dir.join(name);
            fs::copy(base.join(name), &file).expect("readable");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a file of ours");
        }
        let section = if node.is_data { "postgres" } else { "witness" };
        let keys = if node.is_data { &FILES[..] } else { &FILES[1..] };
        for name in keys {
            let key = format!("{section}.{name}_password_file");
            node.config.text(&key, dir.join(name).display());
        }
    }
}

fn file(c: &Cluster, node: &str, name: &str) -> PathBuf {
    c.node(node).dir.join("secrets").join(name)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("readable").trim_end().to_owned()
}

/// Returns the replication user's password, which has to be the same everywhere, with none beside it.
#[track_caller]
fn password(c: &Cluster) -> String {
    let mut all: Vec<String> = Vec::new();
    for node in c.nodes() {
        all.push(read(&file(c, &node.name, "replication")));
        for name in FILES {
            let next = file(c, &node.name, &format!("{name}.next"));
            assert!(!next.exists(), "{} is left", next.display());
        }
    }
    all.dedup();
    assert_eq!(all.len(), 1, "the nodes have different passwords");
    all.remove(0)
}

/// Runs the order; returns its exit code and all that it says.
fn rotate(c: &Cluster, arguments: &[&str]) -> (i32, String) {
    let ran = c.haclt(&[&["credentials", "rotate", "--wait", "20"], arguments].concat());
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.code().expect("not killed"), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn rotated(c: &Cluster, arguments: &[&str]) {
    let (code, said) = rotate(c, arguments);
    assert_eq!(code, 0, "{said}");
}

fn shown(c: &Cluster) -> Vec<Value> {
    let ran = c.haclt(&["credentials", "show", "--json"]);
    let json: Value = serde_json::from_slice(&ran.stdout).expect("an object");
    json["credentials"].as_array().expect("a list").clone()
}

/// Has whoever receives WAL connect anew, with what its pass file holds.
async fn reconnects(c: &mut Cluster, name: &str) {
    let began = Instant::now();
    let before = c.node(name).await_receiver(within(20)).await;
    processes::send(before, Signal::TERM);
    eventually(&format!("{name} receives again"), within(20), async || {
        c.node(name).receiver().filter(|now| *now != before)
    })
    .await;
    // One that is refused ends at once.
    let all = async || {
        let seen = c.node(name).status().await?;
        let quorum = seen.wal_quorum?;
        quorum.acknowledging.contains(&name.to_owned()).then_some(())
    };
    eventually(&format!("{name} acknowledges again"), within(20), all).await;
    let took = began.elapsed().as_millis();
    c.say(&format!("{name} receives over a new connection after {took} ms"));
}

/// Panics if a log of the cluster holds one of these.
fn assert_nowhere_logged(c: &Cluster, secrets: &[String]) {
    let mut dirs = vec![c.base.clone()];
    let mut logs = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("data") && !path.ends_with("secrets") {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "log" || end == "csv") {
                let text =
                    String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
                let found = secrets.iter().any(|secret| text.contains(secret.as_str()));
                assert!(!found && !text.contains("SCRAM-SHA-256$"), "in {}", path.display());
                logs += 1;
            }
        }
    }
    assert!(logs >= 3, "found {logs} logs");
}

#[test]
fn passwords_are_changed_under_writes_and_nobody_is_cut_off() {
    let plan = Plan::within(240).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["killed", "switchover"]), async |c| {
        own_files(c);
        let (primary, standby) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        let (old, old_superuser) = (password(c), read(&file(c, &primary, "superuser")));
        let receivers = [
            c.node(&standby).await_receiver(within(20)).await,
            c.node(&witness).await_receiver(within(20)).await,
        ];
        let (code, said) = rotate(c, &["--dry-run"]);
        assert!(code == 0 && said.contains("nothing was changed"), "{said}");
        assert_eq!(password(c), old);
        let began = Instant::now();
        rotated(c, &[]);
        c.say(&format!("both passwords changed in {} ms", began.elapsed().as_millis()));
        c.more_writes(50, within(20)).await;
        let (new, new_superuser) = (password(c), read(&file(c, &primary, "superuser")));
        assert!(new != old && new_superuser != old_superuser);
        let writes = c.writer().so_far();
        assert!(writes.1.is_empty(), "writes without an answer: {:?}", writes.1);
        let now = [c.node(&standby).receiver(), c.node(&witness).receiver()];
        assert_eq!(now, receivers.map(Some), "they kept their connections");
        for (user, secret) in [("postgres", &old_superuser), (REPLICATION, &old)] {
            for name in [&primary, &standby] {
                let refused = c.node(name).session_as(user, secret).await;
                let why = node::said(&refused.expect_err("the old password is refused"));
                assert!(why.contains("password authentication failed"), "{why}");
            }
        }
        assert_nowhere_logged(c, &[old, old_superuser, new, new_superuser]);
        for entry in shown(c) {
            assert_eq!(
                (&entry["agrees"], &entry["half_way"]),
                (&"yes".into(), &false.into()),
                "{entry}"
            );
        }
        let events = String::from_utf8_lossy(&c.haclt(&["events"]).stdout).into_owned();
        assert!(events.contains("credentials_rotated"), "{events}");
        reconnects(c, &standby).await;
        reconnects(c, &witness).await;
        let done = c.haclt(&["switchover", "--timeout", "60"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let seen = c.healthy(within(60)).await;
        assert_eq!(status::holder(&seen), standby);
        c.quorum_in_force(1, within(40)).await;
        c.more_writes(20, within(20)).await;
        c.node_mut(&standby).kill_everything();
        c.primary_is(&primary, within(60)).await;
        c.more_writes(20, within(30)).await;
        c.node_mut(&standby).start();
        c.healthy(within(90)).await;
        rotated(c, &[REPLICATION]);
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn an_agent_may_die_at_any_step_of_changing_a_password() {
    let plan = Plan::within(400).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["killed", "kept WAL"]), async |c| {
        own_files(c);
        c.bootstrap().await;
        c.quorum_in_force(1, within(20)).await;
        c.write().await;
        // Of whom, and where: the one that leads the change takes the steps of all.
        let places = [
            ("standby", "credentials:staged"),
            ("leader", "credentials:all-staged"),
            ("primary", "credentials:altering"),
            ("primary", "credentials:altered"),
            ("leader", "credentials:told"),
            ("leader", "credentials:taken"),
            ("standby", "credentials:promoted"),
            ("witness", "credentials:promoted"),
        ];
        for (who, place) in places {
            let user = if who == "witness" || who == "leader" { REPLICATION } else { "postgres" };
            let seen = c.settled(within(60)).await;
            let primary = status::holder(&seen).to_owned();
            let standby = c.other(&primary);
            let dies = match who {
                "primary" => primary,
                "standby" => standby.clone(),
                "witness" => c.witness(),
                _ => seen.raft.expect("Raft").leader,
            };
            let before = password(c);
            c.node(&dies).crash_at(place);
            let (code, said) = rotate(c, &[user]);
            c.node_mut(&dies).crashed(within(20)).await;
            assert_ne!(code, 0, "{place}: {said}");
            c.node_mut(&dies).start();
            c.say(&format!("{dies} died at {place}"));
            c.healthy(within(60)).await;
            c.quorum_in_force(1, within(40)).await;
            // Half-way as it is, whoever has to connect anew gets in.
            reconnects(c, &standby).await;
            let witness = c.witness();
            reconnects(c, &witness).await;
            rotated(c, &[user]);
            let now = password(c);
            assert_eq!(now != before, user == REPLICATION, "{place}");
            c.more_writes(10, within(20)).await;
        }
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}

#[test]
fn what_could_not_be_finished_is_not_begun() {
    let plan = Plan::within(150).quorum().announces(&FAULTS).patience(30);
    scenario(plan, async |c| {
        own_files(c);
        let (_, standby) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_in_force(1, within(20)).await;
        let old = password(c);
        let refused = |c: &Cluster, words: &[&str]| {
            let (code, said) = rotate(c, &[REPLICATION]);
            assert_eq!(code, 3, "{said}");
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
            assert!(said.contains("nothing was changed"), "{said}");
        };
        let (code, said) = rotate(c, &["nobody"]);
        assert!(
            code == 2 && said.contains("no internal user") && said.contains(REPLICATION),
            "{said}"
        );
        // A file that differs.
        let theirs = file(c, &witness, "replication");
        fs::write(&theirs, "another\n").expect("writable");
        refused(c, &[&witness, "different passwords"]);
        let found = c.haclt(&["doctor"]);
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(text.contains("credentials-differ"), "{text}");
        fs::write(&theirs, format!("{old}\n")).expect("writable");
        // A node that is away.
        c.node_mut(&standby).kill_everything();
        refused(c, &[&format!("node {standby} does not answer")]);
        c.node_mut(&standby).start();
        c.healthy(within(60)).await;
        assert_eq!(password(c), old);
        // One that was begun by hand.
        fs::write(file(c, &standby, "replication.next"), "by hand\n").expect("writable");
        refused(c, &["replication.next was not made by haclt"]);
        let found = c.haclt(&["doctor"]);
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(text.contains("credentials-half-way"), "{text}");
        fs::remove_file(file(c, &standby, "replication.next")).expect("there");
        rotated(c, &[REPLICATION]);
        assert_ne!(password(c), old);
    });
}

#[test]
fn a_primary_may_be_lost_while_its_server_alone_knows_the_new_password() {
    let plan = Plan::within(240).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["killed", "kept WAL"]), async |c| {
        own_files(c);
        let (mut primary, mut standby) = c.bootstrap().await;
        c.write().await;
        for (user, place) in [
            (REPLICATION, "credentials:altering"),
            (REPLICATION, "credentials:altered"),
            ("postgres", "credentials:altered"),
        ] {
            c.quorum_in_force(1, within(40)).await;
            c.settled(within(40)).await;
            c.node(&primary).crash_at(place);
            let (code, said) = rotate(c, &[user]);
            c.node_mut(&primary).crashed(within(20)).await;
            assert_ne!(code, 0, "{place}: {said}");
            c.node_mut(&primary).kill_everything();
            c.primary_is(&standby, within(60)).await;
            c.writes_on(&standby, within(40)).await;
            c.node_mut(&primary).start();
            c.healthy(within(90)).await;
            rotated(c, &[user]);
            password(c);
            c.say(&format!("{primary} was lost at {place}, of {user}"));
            (primary, standby) = (standby, primary);
        }
        c.end_writing_and_check(Some(0)).await;
        c.same_rows(within(20)).await;
    });
}
