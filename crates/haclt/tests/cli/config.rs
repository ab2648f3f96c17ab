//! `haclt config`.

use std::time::Duration;

use ha_proto::v1::{ConfigSetReply, ConfigShowReply};
use tonic::Status;

use crate::agent::{self, Agent, Script};
use crate::{
    DONE, FAILED, REFUSED, TABLE, UNKNOWN, WRONG, ask, assert_ran, at_a_terminal, list, run,
};

const SET: [&str; 4] = ["config", "set", "durability.mode", "quorum"];
const RISKY: [&str; 4] = ["config", "set", "durability.mode", "async"];

const DOUBT: &str = "\
hint: The order may have taken effect. It can be given again: what is done already is not done \
twice.
";

const MEANT: &str = "\
error: this may lose data, and without a terminal nobody can be asked whether it is meant
hint: If it is meant, say so with `--yes`.
";

/// Starts an agent that answers a change with `reply`.
async fn setting(reply: Result<ConfigSetReply, Status>) -> Agent {
    let config_set = Box::new(move |_, _| reply.clone());
    Agent::start(Script { config_set, ..Script::default() }).await
}

fn accepted() -> ConfigSetReply {
    ConfigSetReply {
        outcome: "accepted".into(),
        detail: "awaited: n3 to\nacknowledge".into(),
        ..agent::done()
    }
}

#[tokio::test]
async fn the_configuration_is_a_table_or_an_object() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["config", "show"]).await;
    let expected = "\
version 8
KEY              VALUE   IN FORCE  ABOUT
durability.mode  quorum  async     who acknowledges a commit: quorum, strict-standby or async
";
    assert_ran(&ran, DONE, expected, "");
    let ran = ask(&[agent.address], &["config", "show", "--json"]).await;
    let expected = r#"{
  "version": 8,
  "items": [
    {
      "key": "durability.mode",
      "value": "quorum",
      "in_force": "async",
      "about": "who acknowledges a commit: quorum, strict-standby or async",
      "awaited": null
    }
  ],
  "nodes": []
}
"#;
    assert_ran(&ran, DONE, expected, "");
}

#[tokio::test]
async fn one_key_is_printed_as_scripts_want_it() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["config", "get", "durability.mode"]).await;
    let note = "note: durability.mode is not in force yet: async is\n";
    assert_ran(&ran, DONE, "quorum\n", note);
    let ran = ask(&[agent.address], &["config", "get", "durability.mode", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, ran.err.as_str()), (DONE, ""));
    assert_eq!((&json["value"], &json["in_force"]), (&"quorum".into(), &"async".into()));

    let ran = ask(&[agent.address], &["config", "get", "nope"]).await;
    let expected = "error: unknown key \"nope\": expected one of durability.mode\n";
    assert_ran(&ran, WRONG, "", expected);
    let empty = Box::new(|_, _| Ok(ConfigShowReply::default()));
    let bare = Agent::start(Script { config_show: empty, ..Script::default() }).await;
    let ran = ask(&[bare.address], &["config", "get", "durability.mode"]).await;
    let expected = "error: unknown key \"durability.mode\": the agent has none\n";
    assert_ran(&ran, WRONG, "", expected);
}

#[tokio::test]
async fn a_change_that_is_in_force_is_done() {
    let agent = setting(Ok(agent::done())).await;
    let ran = ask(&[agent.address], &SET).await;
    let expected = "\
durability.mode is quorum now, before async (version 9)
any 1 of n1, n3 acknowledges
";
    assert_ran(&ran, DONE, expected, "");
    let ran = ask(&[agent.address], &[&SET[..], &["--json"]].concat()).await;
    let expected = r#"{
  "key": "durability.mode",
  "value": "quorum",
  "outcome": "done",
  "detail": "any 1 of n1, n3 acknowledges",
  "before": "async",
  "version": 9
}
"#;
    assert_ran(&ran, DONE, expected, "");
    let same = ConfigSetReply { outcome: "unchanged".into(), version: 9, ..Default::default() };
    let agent = setting(Ok(same)).await;
    let expected = "unchanged: durability.mode is quorum already (version 9)\n";
    assert_ran(&ask(&[agent.address], &SET).await, DONE, expected, "");
}

#[tokio::test]
async fn the_agent_is_told_the_cluster_and_how_long_to_wait() {
    #[rustfmt::skip]
    let table: [(&[&str], bool, std::ops::RangeInclusive<u64>); 6] = [
        // options                          wait   for milliseconds
        (&[],                               true,  50_000..=59_000),
        (&["--timeout", "20"],              true,  15_000..=19_000),
        (&["--timeout", "20s"],             true,  15_000..=19_000),
        (&["--timeout", "2000ms"],          true,  1..=1_500),
        (&["--no-wait"],                    false, 0..=0),
        (&["--no-wait", "--timeout", "9"],  false, 0..=0),
    ];
    for (options, wait, wait_ms) in table {
        let agent = setting(Ok(agent::done())).await;
        let ran = ask(&[agent.address], &[&SET[..], options].concat()).await;
        assert_eq!(ran.code, DONE, "{options:?}: {}", ran.err);
        let [order] = agent.sets().try_into().unwrap();
        let told = (order.cluster.as_str(), order.key.as_str(), order.value.as_str(), order.wait);
        assert_eq!(told, ("orders", "durability.mode", "quorum", wait), "{options:?}");
        assert!(wait_ms.contains(&order.wait_ms), "{options:?}: {}", order.wait_ms);
    }
    // The option of all commands, which stands before this one's name.
    let agent = setting(Ok(agent::done())).await;
    let ran = ask(&[agent.address], &[&["--timeout", "10s"], &SET[..]].concat()).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    assert!((5_000..=9_000).contains(&agent.sets()[0].wait_ms), "{:?}", agent.sets());
}

#[tokio::test]
async fn a_change_that_is_not_in_force_in_time_says_what_is_awaited() {
    let agent = setting(Ok(accepted())).await;
    let text = "\
durability.mode is to be quorum, before async; it is not in force yet (version 9)
awaited: n3 to acknowledge
";
    let ran = ask(&[agent.address], &[&SET[..], &["--timeout", "2"]].concat()).await;
    let err = "\
error: could not see durability.mode = quorum come into force within 2 s: awaited: n3 to acknowledge
hint: The change goes on by itself: `haclt config show` says when it is in force, `haclt explain` \
what is awaited.
";
    assert_ran(&ran, UNKNOWN, text, err);
    let ran = ask(&[agent.address], &[&SET[..], &["--no-wait"]].concat()).await;
    assert_ran(&ran, DONE, text, "");
}

#[tokio::test]
async fn what_the_agent_says_to_a_change_decides_the_exit_code() {
    #[rustfmt::skip]
    let table = [
        (Status::invalid_argument("unknown value \"sync\" of\n durability.mode"), WRONG,
         "error: agent ADDRESS does not accept the request: unknown value \"sync\" of durability.mode\n"),
        (Status::failed_precondition("the cluster is paused"), REFUSED,
         "error: agent ADDRESS refuses: the cluster is paused\n"),
        (Status::aborted("another change is under way"), REFUSED,
         "error: agent ADDRESS refuses: another change is under way\n"),
        (Status::unavailable("no Raft leader"), FAILED,
         "error: could not get an answer from any agent: ADDRESS: no Raft leader\n"),
        (Status::deadline_exceeded("not committed in time"), UNKNOWN,
         "error: could not find out whether it is done: ADDRESS: not committed in time\n"),
        (Status::internal("disk full"), UNKNOWN,
         "error: could not find out whether it is done: ADDRESS: disk full\n"),
        (Status::unimplemented(""), FAILED,
         "error: could not get an answer from any agent: ADDRESS: what listens there does not know the request\n"),
    ];
    for (status, code, expected) in table {
        let agent = setting(Err(status)).await;
        let args = ["config", "set", "durability.mode", "sync"];
        let ran = ask(&[agent.address], &args).await;
        let expected = expected.replace("ADDRESS", &agent.address.to_string());
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{}", ran.err);
        assert!(ran.err.starts_with(&expected), "{}", ran.err);
        assert_eq!(ran.err.ends_with(DOUBT), code == UNKNOWN, "{}", ran.err);
    }
    let newer = setting(Ok(ConfigSetReply { outcome: "queued".into(), ..agent::done() })).await;
    let ran = ask(&[newer.address], &SET).await;
    assert_eq!((ran.code, ran.out.as_str()), (UNKNOWN, ""));
    assert!(ran.err.contains("it has an unknown outcome: \"queued\""), "{}", ran.err);
}

#[tokio::test]
async fn an_order_without_an_answer_is_given_to_the_next_agent() {
    let agent = setting(Ok(agent::done())).await;
    for status in [Status::unavailable("no Raft leader"), Status::deadline_exceeded("slow")] {
        let failing = setting(Err(status.clone())).await;
        let ran = ask(&[failing.address, agent.address], &SET).await;
        let note = format!("note: {}: {}\n", failing.address, status.message());
        assert_eq!((ran.code, ran.err), (DONE, note));
        assert_eq!(failing.sets()[0].value, agent.sets()[0].value);
    }

    // It dies before it answers, after it was told.
    let config_set = Box::new(|_, _| std::panic::resume_unwind(Box::new("killed")));
    let dying = Agent::start(Script { config_set, ..Script::default() }).await;
    let ran = ask(&[dying.address, agent.address], &SET).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    let ran = ask(&[dying.address], &SET).await;
    assert_eq!((ran.code, ran.out.as_str()), (UNKNOWN, ""));
    assert!(ran.err.ends_with(DOUBT), "{}", ran.err);
}

#[tokio::test]
async fn what_a_second_agent_refuses_a_first_one_may_have_done() {
    let doubtful = setting(Err(Status::deadline_exceeded("slow"))).await;
    let refusing = setting(Err(Status::failed_precondition("a change is under way"))).await;
    let ran = ask(&[doubtful.address, refusing.address], &SET).await;
    let expected = format!(
        "error: could not find out whether it is done: {}: slow; {}: a change is under way\n{DOUBT}",
        doubtful.address, refusing.address
    );
    assert_ran(&ran, UNKNOWN, "", &expected);

    let down = setting(Err(Status::unavailable("no Raft leader"))).await;
    let ran = ask(&[down.address, refusing.address], &SET).await;
    assert_eq!(ran.code, REFUSED, "nothing was done: {}", ran.err);
}

#[tokio::test]
async fn an_order_never_goes_to_another_cluster() {
    let failing = setting(Err(Status::unavailable("no Raft leader"))).await;
    let payments = ha_proto::v1::StatusReply { cluster: "payments".into(), ..agent::healthy() };
    let status = Box::new(move |_, _| Ok(payments.clone()));
    let other = Agent::start(Script { status, ..Script::default() }).await;
    let ran = ask(&[failing.address, other.address], &SET).await;
    assert_eq!(ran.code, FAILED, "{}", ran.err);
    assert!(ran.err.contains("it belongs to another cluster, payments"), "{}", ran.err);
    let ran = ask(&[other.address], &[&["--cluster", "orders"], &SET[..]].concat()).await;
    assert_eq!(ran.code, REFUSED, "{}", ran.err);
    assert_eq!(other.sets(), []);
}

#[tokio::test]
async fn an_order_that_finds_no_answer_in_time_has_an_unknown_outcome() {
    let agent = setting(Err(Status::internal(agent::NEVER))).await;
    let ran = ask(&[agent.address], &[&SET[..], &["--timeout", "1"]].concat()).await;
    let begin = format!(
        "error: could not find out whether it is done: {}: no answer within",
        agent.address
    );
    assert_eq!((ran.code, ran.out.as_str()), (UNKNOWN, ""));
    assert!(ran.err.starts_with(&begin), "{}", ran.err);
}

#[tokio::test]
async fn what_may_lose_data_is_not_done_unasked() {
    let agent = setting(Ok(agent::done())).await;
    let ran = ask(&[agent.address], &RISKY).await;
    assert_ran(&ran, WRONG, "", MEANT);
    assert_eq!((agent.asked(), agent.sets().len()), (0, 0));
    assert_ran(&run(&RISKY).await, WRONG, "", MEANT);

    let ran = ask(&[agent.address], &[&RISKY[..], &["--yes"]].concat()).await;
    assert_eq!((ran.code, ran.err.as_str()), (DONE, ""));
    assert_eq!(agent.sets()[0].value, "async");
}

#[tokio::test]
async fn at_a_terminal_the_clusters_name_is_asked_for() {
    let agent = setting(Ok(agent::done())).await;
    let endpoint = ["--endpoint", &list(&[agent.address])];
    let (code, shown) = at_a_terminal(&[&endpoint, &RISKY[..]].concat(), "payments").await;
    let cost = "In durability mode async, cluster orders acknowledges commits before another node \
                has them: what no standby has received is lost with the primary. At present the \
                nearest standby, n1, is 0 B behind.";
    assert!(shown.contains(cost), "{shown}");
    let refusal = "error: not confirmed: the cluster is orders, and what was typed is \"payments\"";
    assert!(shown.contains(refusal), "{shown}");
    assert_eq!((code, agent.sets().len()), (FAILED, 0));

    let (code, shown) = at_a_terminal(&[&endpoint, &RISKY[..]].concat(), "orders").await;
    assert!(shown.contains("durability.mode is async now"), "{shown}");
    assert_eq!((code, agent.sets().len()), (DONE, 1));
    let (code, shown) = at_a_terminal(&[&endpoint[..], &["status"]].concat(), "").await;
    assert_eq!(code, DONE);
    assert!(shown.replace('\r', "").contains(TABLE), "{shown}");
}

#[tokio::test]
async fn a_long_wait_does_not_make_the_search_for_an_agent_long() {
    let (_hanging, hangs) = agent::hanging().await;
    let agent = setting(Ok(agent::done())).await;
    let started = std::time::Instant::now();
    let ran = ask(&[hangs, agent.address], &SET).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    assert!(ran.err.starts_with(&format!("note: {hangs}: no answer within ")), "{}", ran.err);
    assert!(started.elapsed() < Duration::from_secs(10), "of the 60 seconds there are");
}
