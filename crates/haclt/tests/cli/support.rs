//! `haclt support-bundle`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ha_proto::v1::SupportChunk;
use tonic::Status;

use crate::agent::{self, Agent, Script};
use crate::{DONE, FAILED, REFUSED, WRONG, ask, run};

/// Unpacks a bundle and returns its files by their names, without the directory that they are in.
fn unpacked(path: &Path) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.arg("xzf").arg(path).arg("-C").arg(dir.path());
    assert!(tar.status().unwrap().success());
    let root = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut found = Vec::new();
    let mut dirs = vec![root.clone()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn text<'a>(files: &'a [(String, String)], name: &str) -> &'a str {
    let found = files.iter().find(|(known, _)| known == name);
    &found.unwrap_or_else(|| panic!("{name} is in it: {files:?}")).1
}

#[tokio::test]
async fn a_bundle_holds_what_the_cluster_says_and_every_nodes_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.tar.gz");
    let output = file.to_str().unwrap();
    let script = Script {
        explain: Box::new(|_, _| Err(Status::internal("it hurts, password=hunter2 says"))),
        support: Box::new(|_, ask| match ask.node.as_str() {
            "n2" => Err(Status::unavailable("node n2: connection refused")),
            "n3" => {
                let part = SupportChunk { file: "a.txt".into(), ..Default::default() };
                Ok(vec![Ok(part), Err(Status::unavailable("gone"))])
            }
            _ => Ok(agent::support(&ask)),
        }),
        ..Script::default()
    };
    let agent = Agent::start(script).await;
    let args = ["support-bundle", "--output", output, "--since", "2026-11-26T03:00:00Z"];
    let ran = ask(&[agent.address], &args).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    let begin = format!("{output}: ");
    assert!(ran.out.starts_with(&begin) && ran.out.contains("of 1 of 3 nodes"), "{}", ran.out);
    for line in ["node n2 is unreachable", "node n3 is incomplete: gone", "connection refused"] {
        assert!(ran.err.contains(line), "{}", ran.err);
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no scratch file is left");

    let files = unpacked(&file);
    let log = text(&files, "nodes/n1/agent/log.txt");
    assert_eq!(log, "node n1 since 1795662000000\nsecond part\n");
    assert!(text(&files, "nodes/n2/UNREACHABLE.txt").contains("connection refused"));
    assert!(text(&files, "nodes/n3/INCOMPLETE.txt").contains("gone"));
    assert!(text(&files, "cluster/status.txt").contains("n2    primary"));
    for name in ["status", "doctor", "events", "history", "node_list", "config_show"] {
        let json = text(&files, &format!("cluster/{name}.json"));
        assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{name}: {json}");
    }
    let manifest: serde_json::Value = serde_json::from_str(text(&files, "MANIFEST.json")).unwrap();
    assert_eq!((&manifest["format"], &manifest["cluster"]), (&1.into(), &"orders".into()));
    assert_eq!(manifest["nodes"][1]["outcome"], "unreachable");
    let listed: Vec<&str> =
        manifest["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(listed.len(), files.len() - 1, "all but the manifest itself");
    assert!(
        files.iter().all(|(name, _)| name == "MANIFEST.json" || listed.contains(&name.as_str()))
    );
    let left_out = manifest["left_out"].to_string();
    for what in ["cluster/explain.json", "password=[removed]", "permission denied", "nodes/n2"] {
        assert!(left_out.contains(what), "{what}: {left_out}");
    }
    assert!(!files.iter().any(|(_, text)| text.contains("hunter2")), "a secret of the cluster's");

    let shown = run(&["support-bundle", "--list", output]).await;
    assert_eq!(shown.code, DONE, "{}", shown.err);
    assert!(shown.out.contains("/nodes/n1/agent/log.txt\n"), "{}", shown.out);
    let shown = run(&["support-bundle", "--list", output, "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(json["files"].as_array().unwrap().len(), files.len());
}

#[tokio::test]
async fn no_file_is_replaced_unless_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.tar.gz");
    let output = file.to_str().unwrap();
    fs::write(&file, "mine").unwrap();
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["support-bundle", "--output", output]).await;
    let expected = format!("error: cannot write bundle {output}: there is such a file\nhint: ");
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""), "{}", ran.err);
    assert!(ran.err.starts_with(&expected), "{}", ran.err);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let args = ["support-bundle", "--output", output, "--force", "--json", "--node", "n3"];
    let ran = ask(&[agent.address], &args).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, ran.err.as_str()), (DONE, ""));
    assert_eq!(
        json["nodes"],
        serde_json::json!([{"name": "n3", "outcome": "complete", "why": null}])
    );
    assert_eq!(json["bytes"], fs::metadata(&file).unwrap().len());
    let files = unpacked(&file);
    assert!(!files.iter().any(|(name, _)| name.starts_with("nodes/n1")), "only n3");
    let shown = run(&["support-bundle", "--list", "/no/such.tar.gz"]).await;
    assert_eq!(shown.code, FAILED);
    assert!(
        shown.err.starts_with("error: could not use bundle /no/such.tar.gz: "),
        "{}",
        shown.err
    );
}

#[tokio::test]
async fn without_an_agent_or_a_node_of_that_name_there_is_no_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.tar.gz");
    let output = file.to_str().unwrap();
    let (socket, nobody) = agent::refusing();
    let ran = ask(&[nobody], &["support-bundle", "--output", output]).await;
    assert_eq!(ran.code, FAILED, "{}", ran.err);
    drop(socket);
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["support-bundle", "--output", output, "--node", "n9"]).await;
    assert_eq!(ran.code, WRONG);
    assert!(ran.err.contains("node \"n9\" is not a node of this cluster"), "{}", ran.err);
    let args = ["support-bundle", "--output", output, "--cluster", "payments"];
    assert_eq!(ask(&[agent.address], &args).await.code, REFUSED);
    // Whoever sends names that lead elsewhere sends nothing.
    let leads = |_, _| {
        let part = SupportChunk { file: "../../x".into(), ..Default::default() };
        Ok(vec![Ok(part)])
    };
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let bad = Agent::start(Script { support: Box::new(leads), ..Script::default() }).await;
    let ran = ask(&[bad.address], &["support-bundle", "--output", output]).await;
    assert!(ran.code == DONE && ran.err.contains("a file of the name \"../../x\""), "{}", ran.err);
    let files = unpacked(&file);
    let mut nodes = files.iter().filter(|(name, _)| name.starts_with("nodes/"));
    assert!(nodes.all(|(name, _)| name.ends_with("/INCOMPLETE.txt")), "{files:?}");
}
