//! `haclt support-bundle`: what somebody needs who helps, from every node that answers, and no secret.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use ha_tests::{Cluster, Plan, eventually, programs, scenario, within};
use serde_json::Value;

use super::FAULTS;

/// What is planted on the primary: in SQL, in a message of the server's, and in a table.
const IN_SQL: &str = "planted-in-SQL-4711";
const IN_MESSAGE: &str = "planted-in-a-message-4712";
const IN_TABLE: &str = "planted-in-a-table-4713";

/// A bundle that was unpacked.
struct Unpacked {
    output: Output,
    dir: PathBuf,
}

impl Unpacked {
    fn make(c: &Cluster, name: &str, arguments: &[&str]) -> Self {
        let file = c.base.join(format!("{name}.tar.gz"));
        let path = file.to_str().expect("a plain path");
        let all = [&["support-bundle", "--output", path], arguments].concat();
        let output = c.haclt(&all);
        assert_eq!(output.status.code(), Some(0), "{}", programs::said(&output));
        let mode = fs::metadata(&file).expect("a bundle").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let dir = c.base.join(name);
        fs::create_dir(&dir).expect("a writable directory");
        let dir_path = dir.to_str().expect("a plain path");
        let unpacked = programs::run(Path::new("tar"), &["xzf", path, "-C", dir_path]);
        assert!(unpacked.status.success(), "{}", programs::said(&unpacked));
        let root = fs::read_dir(&dir).expect("unpacked").next().expect("a root");
        Self { output, dir: root.expect("readable").path() }
    }

    fn text(&self, name: &str) -> String {
        let path = self.dir.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn said(&self) -> String {
        programs::said(&self.output)
    }

    /// Returns every file that holds one of these texts.
    fn holding(&self, texts: &[String]) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.dir.clone()];
        while let Some(next) = dirs.pop() {
            for entry in fs::read_dir(next).expect("a directory") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let data = String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned();
                let held = texts.iter().filter(|text| data.contains(text.as_str()));
                found.extend(held.map(|text| (path.clone(), text.clone())));
            }
        }
        found
    }
}

async fn plant(c: &Cluster, primary: &str) {
    let session = c.node(primary).session().await.expect("a session");
    let secret = fs::read_to_string(c.base.join("superuser")).expect("a secret");
    let secret = secret.trim();
    for statement in [
        "set log_statement = 'all'".to_owned(),
        format!("create role app login\n password '{IN_SQL}'"),
        "create table planted (value text unique)".to_owned(),
        format!("insert into planted values ('{IN_TABLE}')"),
        format!("do $$ begin raise log 'cannot reach host=x password={IN_MESSAGE}'; end $$"),
        format!("do $$ begin raise log 'and {secret} is known'; end $$"),
    ] {
        session.batch_execute(&statement).await.expect("a primary");
    }
    let twice = format!("insert into planted values ('{IN_TABLE}')");
    assert!(session.batch_execute(&twice).await.is_err(), "a value that is there already");
}

#[test]
fn a_support_bundle_holds_every_node_that_answers_and_no_secret() {
    let plan = Plan::within(180).quorum().announces(&FAULTS).patience(30);
    scenario(plan.announces(&["does not answer", "slot"]), async |c| {
        let (primary, standby) = c.bootstrap().await;
        let witness = c.witness();
        c.quorum_in_force(1, within(20)).await;
        plant(c, &primary).await;
        let log = c.node(&primary).dir.join("log/postgresql");
        let logged = |text: &str| {
            let files = fs::read_dir(&log).expect("a log").filter_map(Result::ok);
            let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
            texts.any(|log| log.contains(text))
        };
        for planted in [IN_SQL, IN_MESSAGE, IN_TABLE] {
            assert!(logged(planted), "{planted} is in the server's own log");
        }
        let mut secrets: Vec<String> = [IN_SQL, IN_MESSAGE, IN_TABLE].map(str::to_owned).to_vec();
        for name in ["superuser", "replication"] {
            let text = fs::read_to_string(c.base.join(name)).expect("a secret");
            secrets.push(text.trim().to_owned());
        }
        secrets.push("SCRAM-SHA-256$4096".to_owned());

        let whole = Unpacked::make(c, "healthy", &[]);
        assert!(whole.said().contains("of 3 of 3 nodes"), "{}", whole.said());
        c.say(whole.said().lines().next().unwrap_or_default());
        assert_eq!(whole.holding(&secrets), []);
        for node in [&primary, &standby] {
            for file in [
                "guard/permit",
                "guard/guard.status",
                "postgres/haclt.conf",
                "postgres/postgresql.auto.conf",
                "postgres/PG_VERSION",
                "postgres/pg_wal.txt",
            ] {
                assert!(!whole.text(&format!("nodes/{node}/{file}")).is_empty(), "{node} {file}");
            }
        }
        for node in [&primary, &standby, &witness] {
            let text = |file: &str| whole.text(&format!("nodes/{node}/{file}"));
            assert!(text("agent/log.txt").contains("agent started"), "{node}");
            assert!(text("agent/configuration.txt").contains("renew_interval"), "{node}");
            assert!(text("agent/state.txt").contains("cluster_id"), "{node}");
            assert!(text("versions.txt").contains("uname: Linux"), "{node}");
            assert!(text("machine.txt").contains("bytes free"), "{node}");
            assert!(text("time.txt").contains("CLOCK_BOOTTIME"), "{node}");
            assert!(text("agent/raft.txt").contains("term"), "{node}");
        }
        let server_logs = whole.dir.join(format!("nodes/{primary}/postgres/log"));
        let texts = fs::read_dir(server_logs).expect("logs").filter_map(Result::ok);
        let server: String =
            texts.map(|file| fs::read_to_string(file.path()).expect("a text")).collect();
        for line in ["database system is ready", "password=[removed]", "and [removed] is known"] {
            assert!(server.contains(line), "{line} in {server}");
        }
        let cluster: Value =
            serde_json::from_str(&whole.text("cluster/status.json")).expect("JSON");
        assert_eq!(cluster["state"], "healthy");
        for file in ["explain", "doctor", "events", "history", "config_show", "node_list"] {
            let text = whole.text(&format!("cluster/{file}.json"));
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "{file}: {text}");
        }
        let manifest: Value = serde_json::from_str(&whole.text("MANIFEST.json")).expect("JSON");
        let files = manifest["files"].as_array().expect("a list");
        for file in files {
            let path = whole.dir.join(file["path"].as_str().expect("a path"));
            let bytes = fs::metadata(&path).expect("what is listed is there").len();
            assert_eq!(file["bytes"], bytes, "{}", path.display());
        }

        // Whoever breaks off a bundle hinders no other one.
        let broken = c.base.join("broken.tar.gz");
        let mut child =
            c.haclt_child(&["support-bundle", "--output", broken.to_str().expect("plain")]);
        child.kill().expect("our child");
        child.wait().expect("our child");
        eventually("the next bundle is whole", within(30), async || {
            let path = c.base.join("next.tar.gz");
            let path = path.to_str().expect("a plain path");
            let made = c.haclt(&["support-bundle", "--force", "--output", path]);
            programs::said(&made).contains("of 3 of 3 nodes").then_some(())
        })
        .await;
        let later = Unpacked::make(c, "later", &["--since", "1s", "--node", &standby]);
        assert!(later.said().contains("of 1 of 1 nodes"), "{}", later.said());
        let about = format!("nodes/{standby}/agent/log.txt");
        assert!(later.text(&about).len() < whole.text(&about).len(), "older lines are left out");

        c.node_mut(&standby).kill_everything();
        let partial = Unpacked::make(c, "partial", &[]);
        let said = partial.said();
        assert!(said.contains("of 2 of 3 nodes"), "{said}");
        assert!(said.contains(&format!("warning: node {standby} is unreachable: ")), "{said}");
        let why = partial.text(&format!("nodes/{standby}/UNREACHABLE.txt"));
        assert!(why.contains(&standby), "{why}");
        assert_eq!(partial.holding(&secrets), []);
        c.node_mut(&standby).start();
        c.healthy(within(60)).await;
    });
}
