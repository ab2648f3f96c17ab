//! `haclt diverged`.

use ha_proto::v1::{DivergedEntry, DivergedListReply, DivergedShowReply, DivergedTransaction};
use tonic::Status;

use crate::agent::{self, Agent, Script};
use crate::{DONE, FAILED, REFUSED, UNKNOWN, WRONG, ask, assert_ran, at_a_terminal, list};

/// Starts an agent that shows this.
async fn showing(reply: Result<DivergedShowReply, Status>) -> Agent {
    let diverged_show = Box::new(move |_, _| reply.clone());
    Agent::start(Script { diverged_show, ..Script::default() }).await
}

#[tokio::test]
async fn diverged_wal_is_a_table_or_an_object() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["diverged", "list"]).await;
    let expected = "\
ID  NODE  EPOCH  FORK         END          BYTES     FOUND
 3  n1        7  0/3000060@1  0/4000060@1  16.0 MiB  2026-02-28T23:59:59Z
";
    assert_ran(&ran, DONE, expected, "");
    let ran = ask(&[agent.address], &["diverged", "list", "--json"]).await;
    assert_ran(&ran, DONE, include_str!("diverged-list.json"), "");

    let none = Box::new(|_, _| Ok(DivergedListReply::default()));
    let agent = Agent::start(Script { diverged_list: none, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["diverged", "list"]).await;
    assert_ran(&ran, DONE, "no diverged WAL is known\n", "");
    let ran = ask(&[agent.address], &["diverged", "list", "--json"]).await;
    assert_ran(&ran, DONE, "{\n  \"entries\": []\n}\n", "");
}

#[tokio::test]
async fn what_is_in_it_is_shown() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["diverged", "show", "3"]).await;
    let expected = "\
diverged WAL 3 of node n1, epoch 7, found 2026-02-28T23:59:59Z
fork          0/3000060 on timeline 1
end           0/4000060 on timeline 1
size          16.0 MiB (16777216 B)
directory     /var/lib/haclt/diverged/7-1-0_3000060
transactions  12
XID  COMMITTED                RECORDS  RELATIONS
743  2026-02-28 23:59:58 UTC       21  1663/5/16384, catalog
and 11 more
";
    assert_ran(&ran, DONE, expected, "");
    let ran = ask(&[agent.address], &["diverged", "show", "3", "--json"]).await;
    assert_ran(&ran, DONE, include_str!("diverged-show.json"), "");
}

#[tokio::test]
async fn a_node_that_does_not_answer_leaves_its_transactions_unknown() {
    let silent = DivergedShowReply {
        entry: Some(agent::diverged_entry()),
        note: "node n1: connection refused".into(),
        ..Default::default()
    };
    let agent = showing(Ok(silent)).await;
    let ran = ask(&[agent.address], &["diverged", "show", "3"]).await;
    let out = "\
diverged WAL 3 of node n1, epoch 7, found 2026-02-28T23:59:59Z
fork          0/3000060 on timeline 1
end           0/4000060 on timeline 1
size          16.0 MiB (16777216 B)
directory     unknown: the node does not answer
note: node n1: connection refused
";
    let err = "\
error: could not ask node n1 what is in diverged WAL 3
hint: Try again once `haclt status` shows that the node is reachable.
";
    assert_ran(&ran, FAILED, out, err);
    let ran = ask(&[agent.address], &["diverged", "show", "3", "--json"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (FAILED, err));
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&json["reachable"], &json["kept"]), (&false.into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn a_number_that_is_unknown_or_none_is_named() {
    let agent = showing(Err(Status::not_found("there is no diverged WAL 9"))).await;
    let ran = ask(&[agent.address], &["diverged", "show", "9"]).await;
    let expected =
        format!("error: agent {} found nothing: there is no diverged WAL 9\n", agent.address);
    assert_ran(&ran, FAILED, "", &expected);
    let ran = ask(&[agent.address], &["diverged", "show", "18446744073709551616"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (WRONG, ""));
}

#[tokio::test]
async fn a_report_that_makes_no_sense_is_not_shown() {
    let commit_lsn = "near\u{1b}".to_owned();
    let odd = DivergedTransaction { commit_lsn, ..Default::default() };
    let reply = DivergedShowReply { transactions: vec![odd], ..agent::diverged() };
    let agent = showing(Ok(reply)).await;
    let ran = ask(&[agent.address], &["diverged", "show", "3"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""));
    let fault = "malformed reply: diverged WAL 3 has an invalid commit_lsn: \"near\"";
    assert!(ran.err.contains(fault), "{}", ran.err);

    let nameless = DivergedEntry { node: String::new(), ..agent::diverged_entry() };
    let entries = vec![nameless];
    let diverged_list = Box::new(move |_, _| Ok(DivergedListReply { entries: entries.clone() }));
    let agent = Agent::start(Script { diverged_list, ..Script::default() }).await;
    let ran = ask(&[agent.address], &["diverged", "list"]).await;
    assert!(ran.code == FAILED && ran.err.contains("invalid node name"), "{}", ran.err);
}

#[tokio::test]
async fn a_copy_is_dropped_only_if_that_is_meant() {
    let agent = Agent::start(Script::default()).await;
    let ran = ask(&[agent.address], &["diverged", "drop", "3"]).await;
    let expected = "\
error: this may lose data, and without a terminal nobody can be asked whether it is meant
hint: If it is meant, say so with `--yes`.
";
    assert_ran(&ran, WRONG, "", expected);
    assert_eq!((agent.asked(), agent.drops().len()), (0, 0));

    let ran = ask(&[agent.address], &["diverged", "drop", "3", "--yes"]).await;
    let expected = "diverged WAL 3 is removed: /var/lib/haclt/diverged/7-1-0_3000060\n";
    assert_ran(&ran, DONE, expected, "");
    let [order] = agent.drops().try_into().unwrap();
    assert_eq!((order.cluster.as_str(), order.id), ("orders", 3));
    let ran = ask(&[agent.address], &["diverged", "drop", "3", "--yes", "--json"]).await;
    let expected =
        "{\n  \"id\": 3,\n  \"directory\": \"/var/lib/haclt/diverged/7-1-0_3000060\"\n}\n";
    assert_ran(&ran, DONE, expected, "");
}

#[tokio::test]
async fn at_a_terminal_the_clusters_name_is_asked_for_before_a_drop() {
    let agent = Agent::start(Script::default()).await;
    let endpoint = list(&[agent.address]);
    let args = ["--endpoint", &endpoint, "diverged", "drop", "3"];
    let (code, shown) = at_a_terminal(&args, "yes").await;
    let cost = "Diverged WAL 3 of cluster orders is the only copy of 16.0 MiB of WAL with at least \
                12 committed transactions that node n1 had and the cluster has not, in \
                /var/lib/haclt/diverged/7-1-0_3000060.";
    assert!(shown.contains(cost), "{shown}");
    assert_eq!((code, agent.drops().len()), (FAILED, 0), "{shown}");
    let (code, shown) = at_a_terminal(&args, "orders").await;
    assert_eq!((code, agent.drops().len()), (DONE, 1), "{shown}");

    let unknown = showing(Err(Status::not_found("there is no diverged WAL 3"))).await;
    let endpoint = list(&[unknown.address]);
    let args = ["--endpoint", &endpoint, "diverged", "drop", "3"];
    let (code, shown) = at_a_terminal(&args, "orders").await;
    assert!(!shown.contains("Type the name") && shown.contains("found nothing"), "{shown}");
    assert_eq!((code, unknown.drops().len()), (FAILED, 0));
}

#[tokio::test]
async fn what_the_agent_says_to_a_drop_decides_the_exit_code() {
    #[rustfmt::skip]
    let table = [
        (Status::not_found("there is no diverged WAL 3"),      FAILED),
        (Status::failed_precondition("node n1 is rewinding"),  REFUSED),
        (Status::unavailable("node n1 does not answer"),       FAILED),
        (Status::deadline_exceeded("node n1 does not answer"), UNKNOWN),
    ];
    for (status, code) in table {
        let error = status.clone();
        let diverged_drop = Box::new(move |_, _| Err(error.clone()));
        let agent = Agent::start(Script { diverged_drop, ..Script::default() }).await;
        let ran = ask(&[agent.address], &["diverged", "drop", "3", "--yes"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{}", ran.err);
        assert!(ran.err.contains(status.message()), "{}", ran.err);
    }
}
