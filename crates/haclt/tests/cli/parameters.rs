//! `haclt config`, as far as it is about several keys: PostgreSQL's parameters.

use std::os::unix::fs::PermissionsExt as _;

use ha_proto::v1::{ConfigItem, ConfigNode, ConfigShowReply, RestartPlanReply};
use tonic::Status;

use crate::agent::{self, Agent, Script};
use crate::{DONE, FAILED, REFUSED, Ran, WRONG, ask, assert_ran, haclt, list, run_to_end};

/// A cluster with two parameters, one of which waits for a restart.
fn with_parameters() -> ConfigShowReply {
    let item = |key: &str, value: &str, awaited: &str| ConfigItem {
        key: key.into(),
        value: value.into(),
        in_force: String::new(),
        about: "parameter of every server".into(),
        awaited: awaited.into(),
    };
    let mut reply = agent::configuration();
    reply.items.extend([
        item("postgres.parameters.log_line_prefix", "%m [%p] ", ""),
        item("postgres.parameters.max_connections", "150", "waits for a restart of n1, n2"),
    ]);
    let node = |name: &str, version, pending: &[&str]| ConfigNode {
        name: name.into(),
        version,
        pending: pending.iter().map(|&name| name.to_owned()).collect(),
    };
    reply.nodes = vec![node("n1", Some(8), &["max_connections"]), node("n2", None, &[])];
    reply
}

async fn start() -> Agent {
    let config_show = Box::new(|_, _| Ok(with_parameters()));
    Agent::start(Script { config_show, ..Script::default() }).await
}

#[tokio::test]
async fn what_waits_for_a_restart_is_shown_by_key_and_by_node() {
    let agent = start().await;
    let ran = ask(&[agent.address], &["config", "show"]).await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[4].contains("150") && lines[4].contains("waits for a restart of n1, n2"));
    let nodes = "\
NODE  VERSION  WAITS FOR A RESTART
n1          8  max_connections
n2          -  -
";
    assert!(ran.out.ends_with(nodes), "{}", ran.out);
    let key = "postgres.parameters.max_connections";
    let ran = ask(&[agent.address], &["config", "get", key]).await;
    let note = format!("note: {key} waits for a restart of n1, n2\n");
    assert_ran(&ran, DONE, "150\n", &note);
    let ran = ask(&[agent.address], &["config", "show", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["nodes"][0]["pending_restart"][0], "max_connections");
    assert_eq!(json["items"][2]["awaited"], "waits for a restart of n1, n2");
}

#[tokio::test]
async fn keys_are_unset_together_and_values_asked_about_without_a_change() {
    let agent = start().await;
    let keys = ["postgres.parameters.work_mem", "postgres.parameters.max_connections"];
    let ran = ask(&[agent.address], &[&["config", "unset"], &keys[..]].concat()).await;
    let expected = "\
postgres.parameters.work_mem: 4MB -> (unset)
postgres.parameters.max_connections: 4MB -> (unset)  [needs a restart]
done, version 9: on n1, n2
";
    assert_ran(&ran, DONE, expected, "");
    let ran = ask(&[agent.address], &["config", "validate", keys[0], "7MB"]).await;
    let expected = "postgres.parameters.work_mem: 4MB -> 7MB\npossible; nothing was changed\n";
    assert_ran(&ran, DONE, expected, "");
    let [unset, asked] = agent.changes().try_into().unwrap();
    assert_eq!((unset.check_only, unset.version, unset.changes.len()), (false, None, 2));
    assert!(asked.check_only && !asked.wait);
    assert_eq!(asked.changes[0].after.as_deref(), Some("7MB"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wanted");
    std::fs::write(&file, "postgres.parameters.work_mem = 9MB\nnonsense\n").unwrap();
    let ask_file = ["config", "validate", "--file", file.to_str().unwrap()];
    let ran = ask(&[agent.address], &ask_file).await;
    assert_eq!((ran.code, ran.out.as_str()), (WRONG, ""));
    assert!(ran.err.contains("line 2 has no ="), "{}", ran.err);
    std::fs::write(&file, "postgres.parameters.work_mem = 9MB\n").unwrap();
    let ran = ask(&[agent.address], &[&ask_file[..], &["--json"]].concat()).await;
    let expected = r#"{
  "outcome": "possible",
  "detail": null,
  "version": 8,
  "changes": [
    {
      "key": "postgres.parameters.work_mem",
      "before": "4MB",
      "after": "9MB",
      "needs": "reload"
    }
  ]
}
"#;
    assert_ran(&ran, DONE, expected, "");
    for (error, code) in [
        (Status::invalid_argument("no such parameter"), WRONG),
        (Status::failed_precondition("managed by haclt"), REFUSED),
    ] {
        let config_change = Box::new(move |_, _| Err(error.clone()));
        let agent = Agent::start(Script { config_change, ..Script::default() }).await;
        let ran = ask(&[agent.address], &["config", "validate", keys[0], "1"]).await;
        assert_eq!(ran.code, code, "{}", ran.err);
    }
}

#[tokio::test]
async fn the_history_says_who_changed_what() {
    let agent = start().await;
    let ran = ask(&[agent.address], &["config", "history"]).await;
    let expected = "\
VERSION  TIME                  BY        WHAT
      8  2026-02-28T23:59:59Z  ann@host  postgres.parameters.work_mem: (unset) -> 64MB
      9  2026-02-28T23:59:59Z            postgres.parameters.work_mem: 64MB -> (unset)
";
    assert_ran(&ran, DONE, expected, "");
    let ran = ask(&[agent.address], &["config", "history", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let entry = &json["entries"][0];
    assert_eq!((&entry["by"], &entry["changes"][0]["after"]), (&"ann@host".into(), &"64MB".into()));
}

/// Runs `haclt config edit` with a script as the editor.
async fn edit(agent: &Agent, script: &str) -> (Ran, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let editor = dir.path().join("editor");
    std::fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = haclt(&["--endpoint", &list(&[agent.address]), "config", "edit"]);
    command.env("EDITOR", &editor).env("TMPDIR", dir.path()).env("PATH", "/usr/bin:/bin");
    let ran = run_to_end(command).await;
    let left = std::fs::read_dir(dir.path()).unwrap();
    let left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    (ran, left.filter(|name| name != "editor").collect())
}

#[tokio::test]
async fn what_was_edited_is_one_change_of_the_version_that_was_read() {
    let agent = start().await;
    let (ran, left) = edit(&agent, "true").await;
    assert_ran(&ran, DONE, "unchanged: nothing was edited\n", "");
    assert_eq!((agent.changes().len(), left.len()), (0, 0));

    let script = "sed -i /max_conn/d \"$1\"; echo 'postgres.standby.jit = off' >>\"$1\"";
    let (ran, left) = edit(&agent, script).await;
    assert_eq!((ran.code, left.len()), (DONE, 0), "{}", ran.err);
    let [order] = agent.changes().try_into().unwrap();
    let changes: Vec<_> =
        order.changes.iter().map(|change| (change.key.as_str(), change.after.as_deref())).collect();
    let expected =
        [("postgres.parameters.max_connections", None), ("postgres.standby.jit", Some("off"))];
    assert_eq!((changes.as_slice(), order.version), (&expected[..], Some(8)));

    let (ran, _) = edit(&agent, "echo nonsense >>\"$1\"").await;
    assert_eq!(ran.code, WRONG, "{}", ran.err);
    let (ran, left) = edit(&agent, "exit 7").await;
    assert_eq!((ran.code, left.len()), (FAILED, 0), "{}", ran.err);
    assert!(ran.err.contains("could not edit with"), "{}", ran.err);
    assert_eq!(agent.changes().len(), 1);
}

#[tokio::test]
async fn an_edit_that_somebody_else_was_quicker_than_is_refused_and_kept() {
    let aborted = || Status::aborted("it has version 9, the change is meant for version 8");
    let config_show = Box::new(|_, _| Ok(with_parameters()));
    let config_change = Box::new(move |_, _| Err(aborted()));
    let agent = Agent::start(Script { config_show, config_change, ..Script::default() }).await;
    let (ran, left) = edit(&agent, "echo 'postgres.standby.jit = off' >>\"$1\"").await;
    assert_eq!((ran.code, left.len()), (REFUSED, 1), "{}", ran.err);
    assert!(ran.err.contains("it has version 9") && ran.err.contains(&left[0]), "{}", ran.err);
}

#[tokio::test]
async fn where_a_parameter_shrinks_the_primary_is_restarted_in_place_and_first() {
    for (grows, expected) in
        [(&[][..], &["n2", "n1"][..]), (&["max_wal_senders"], &["n1", "n2", "n1"])]
    {
        let grows: Vec<String> = grows.iter().map(|&name| name.to_owned()).collect();
        let plan = move |node: &str| RestartPlanReply {
            pending: vec!["max_connections".into()],
            shrinks: vec!["max_connections".into()],
            grows: grows.clone(),
            ..agent::restart_plan(node)
        };
        let restart_plan =
            Box::new(move |_, ask: ha_proto::v1::RestartPlanRequest| -> Result<_, Status> {
                Ok(plan(&ask.node))
            });
        let agent = Agent::start(Script { restart_plan, ..Script::default() }).await;
        let ran = ask(&[agent.address], &["restart", "--all", "--if-pending"]).await;
        assert_eq!(ran.code, DONE, "{}", ran.err);
        let nodes: Vec<String> = agent.restarts().into_iter().map(|order| order.node).collect();
        assert_eq!(nodes, expected);
        assert!(agent.switchovers().is_empty());
    }
}
