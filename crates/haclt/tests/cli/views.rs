//! What `status` and `explain` show.

use ha_proto::v1::StatusReply;
use tonic::Status;

use crate::agent::{self, Agent, Script};
use crate::{DONE, FAILED, TABLE, ask, assert_ran};

#[tokio::test]
async fn status_is_a_table() {
    let agent = Agent::answering(agent::healthy()).await;
    let ran = ask(&[agent.address], &["status"]).await;
    assert_ran(&ran, DONE, TABLE, "");
}

#[tokio::test]
async fn status_as_json_has_the_shape_of_the_design() {
    let agent = Agent::answering(agent::healthy()).await;
    let ran = ask(&[agent.address], &["status", "--json"]).await;
    assert_ran(&ran, DONE, include_str!("status.json"), "");
}

#[tokio::test]
async fn a_degraded_cluster_is_shown_and_its_exit_code_is_asked_for() {
    let mut reply = agent::healthy();
    reply.state = "degraded".into();
    reply.reason = "node n1 is\n\u{1b}[31munreachable".into();
    reply.nodes[0].troubles = vec!["disk 91 % full".into()];
    let agent = Agent::answering(reply).await;
    let ran = ask(&[agent.address], &["status"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (DONE, ""));
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines[1], "state degraded: node n1 is [31munreachable");
    assert_eq!(lines.last(), Some(&"n1: disk 91 % full"));

    let ran = ask(&[agent.address], &["status", "--exit-code"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (FAILED, ""));
    let healthy = Agent::answering(agent::healthy()).await;
    assert_eq!(ask(&[healthy.address], &["status", "--exit-code"]).await.code, DONE);
    let paused = Agent::answering(StatusReply { paused: true, ..agent::healthy() }).await;
    assert_eq!(ask(&[paused.address], &["status", "--exit-code"]).await.code, FAILED);
}

#[tokio::test]
async fn what_would_be_lost_now_is_the_last_line_and_the_last_key() {
    let loss = "up to 1.5 KiB: n1 has not received them\n\u{1b}[2J";
    let agent = Agent::answering(StatusReply { loss: loss.into(), ..agent::healthy() }).await;
    let ran = ask(&[agent.address], &["status"]).await;
    let line = "loss now: up to 1.5 KiB: n1 has not received them [2J\n";
    assert_ran(&ran, DONE, &format!("{TABLE}{line}"), "");
    let ran = ask(&[agent.address], &["status", "--json"]).await;
    let end = "  ],\n  \"loss\": \"up to 1.5 KiB: n1 has not received them [2J\"\n}\n";
    assert!(ran.out.ends_with(end), "{}", ran.out);
}

#[tokio::test]
async fn explain_reads_as_paragraphs() {
    let agent = Agent::answering(agent::healthy()).await;
    let ran = ask(&[agent.address], &["explain"]).await;
    let expected = "\
the cluster is healthy

n1: rule following
  Node n2 holds the lease, so n1 streams from it and acknowledges its commits as
  a member of the WAL quorum.

n2: rule serving
  It holds the lease.
  Waiting for: the backup to end

If the primary died now:
  Node n1 would be promoted: it has all acknowledged WAL
  Not chosen: n4 is 20 MiB behind
  Acknowledged commits lost: 0 B. Every acknowledged commit is on n1 or n3.
  Writes would be accepted again after about 3.5 s.
";
    assert_ran(&ran, DONE, expected, "");

    let ran = ask(&[agent.address], &["explain", "--json"]).await;
    assert_ran(&ran, DONE, include_str!("explain.json"), "");
}

#[tokio::test]
async fn explain_asks_the_agent_that_knows_most() {
    let cut_off = Agent::start(Script {
        status: Box::new(|_, _| Ok(agent::cut_off())),
        explain: Box::new(|_, _| Err(Status::internal("asked the wrong agent"))),
        ..Script::default()
    });
    let (cut_off, agent) = (cut_off.await, Agent::answering(agent::healthy()).await);
    let ran = ask(&[cut_off.address, agent.address], &["explain"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (DONE, ""));
    assert!(ran.out.starts_with("the cluster is healthy\n"));

    let ran = ask(&[cut_off.address], &["explain"]).await;
    let said = format!("{}: asked the wrong agent\n", cut_off.address);
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""));
    let expected = format!("error: could not get an answer from any agent: {said}");
    assert!(ran.err.starts_with(&expected), "{}", ran.err);
}

#[tokio::test]
async fn an_agent_that_hangs_leaves_time_for_the_explanation() {
    let cut_off = Agent::answering(agent::cut_off()).await;
    let (_hanging, hangs) = agent::hanging().await;
    let ran = ask(&[cut_off.address, hangs], &["explain", "--timeout", "1s"]).await;
    assert_eq!(ran.code, DONE, "{}", ran.err);
    assert!(ran.out.starts_with("the cluster is healthy\n"), "{}", ran.out);
    assert!(ran.err.starts_with(&format!("note: {hangs}: no answer within ")), "{}", ran.err);
}
