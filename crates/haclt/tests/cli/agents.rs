//! Which agent is believed, and what is said of those that are of no use.

use std::time::Instant;

use ha_proto::v1::{StatusReply, WalQuorumStatus};
use tonic::Status;

use crate::agent::{self, Agent};
use crate::{DONE, FAILED, HANGS, REFUSED, TABLE, WRONG, ask, assert_ran};

#[tokio::test]
async fn an_agent_that_cannot_be_reached_is_noted_and_the_next_one_asked() {
    let agent = Agent::answering(agent::healthy()).await;
    let (_refusing, refused) = agent::refusing();
    let ran = ask(&[refused, agent.address], &["status"]).await;
    assert_ran(&ran, DONE, TABLE, &format!("note: {refused}: connection refused\n"));

    let (_hanging, hangs) = agent::hanging().await;
    let ran = ask(&[hangs, agent.address], &["status", "--timeout", "1s"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (DONE, TABLE));
    // Half of the second, less what passed before its share was reckoned.
    let waited = ran.err.strip_prefix(&format!("note: {hangs}: no answer within "));
    let waited = waited.and_then(|rest| rest.strip_suffix(" ms\n")).expect(&ran.err);
    assert!((400..=500).contains(&waited.parse().unwrap()), "{waited}");

    let (_listener, _queue, gone) = agent::unreachable().await;
    let ran = ask(&[gone, agent.address], &["status"]).await;
    assert_ran(&ran, DONE, TABLE, &format!("note: {gone}: no connection within 700 ms\n"));
}

#[tokio::test]
async fn the_first_agent_that_knows_enough_is_the_only_one_asked() {
    let (first, second) =
        (Agent::answering(agent::healthy()).await, Agent::answering(agent::healthy()).await);
    let ran = ask(&[first.address, second.address], &["status"]).await;
    assert_ran(&ran, DONE, TABLE, "");
    assert_eq!((first.asked(), second.asked()), (1, 0));
}

#[tokio::test]
async fn an_agent_without_a_leader_is_believed_only_if_no_other_knows_better() {
    let cut_off = Agent::answering(agent::cut_off()).await;
    let agent = Agent::answering(agent::healthy()).await;
    let ran = ask(&[cut_off.address, agent.address], &["status"]).await;
    assert_ran(&ran, DONE, TABLE, "");

    let (_refusing, refused) = agent::refusing();
    let ran = ask(&[refused, cut_off.address], &["status"]).await;
    assert_eq!(ran.code, DONE);
    let expected = "\
cluster orders   epoch 7   lease unknown   raft leader unknown, term 12, no quorum
state no_quorum: 1 of 3 voters answers
NODE  ROLE  STATE  TIMELINE  FLUSHED  LAG  SYNC
";
    assert_eq!(ran.out, expected);
    let note = "note: no agent that answered knows a leader with a quorum: this is what one of \
                them sees by itself";
    assert_eq!(ran.err, format!("note: {refused}: connection refused\n{note}\n"));
}

#[tokio::test]
async fn among_agents_without_a_leader_one_with_a_quorum_knows_best() {
    let mut electing = agent::cut_off();
    electing.reason = "an election is under way".into();
    electing.state = "leaderless".into();
    electing.raft.get_or_insert_default().quorum = true;
    let cut_off = Agent::answering(agent::cut_off()).await;
    let electing = Agent::answering(electing).await;
    for order in [[&cut_off, &electing], [&electing, &cut_off]] {
        let ran = ask(&order.map(|agent| agent.address), &["status"]).await;
        assert!(ran.out.contains("state leaderless: an election is under way"), "{}", ran.out);
    }
}

#[tokio::test]
async fn views_of_two_clusters_are_never_mixed() {
    let cut_off = Agent::answering(agent::cut_off()).await;
    let other =
        Agent::answering(StatusReply { cluster: "payments".into(), ..agent::healthy() }).await;
    let ran = ask(&[cut_off.address, other.address], &["status"]).await;
    assert!(ran.out.starts_with("cluster orders "), "{}", ran.out);
    let note = format!("note: {}: it belongs to another cluster, payments\n", other.address);
    assert!(ran.err.starts_with(&note), "{}", ran.err);
}

#[tokio::test]
async fn the_wrong_cluster_is_refused_by_us_and_by_the_agent() {
    let agent = Agent::answering(agent::healthy()).await;
    let args = ["--cluster", "payments"];
    for command in ["status", "explain"] {
        let ran = ask(&[agent.address], &[&args[..], &[command]].concat()).await;
        let expected = format!(
            "error: agent {} belongs to cluster orders, not to cluster payments\n\
             hint: Check `--cluster` against `--endpoint` and `HACLT_ENDPOINTS`.\n",
            agent.address
        );
        assert_ran(&ran, REFUSED, "", &expected);
    }
    assert_eq!(ask(&[agent.address], &["status", "--cluster", "orders"]).await.code, DONE);

    let strict = Agent::scripted(|_, request| match request.cluster.as_str() {
        "" | "orders" => Ok(agent::healthy()),
        other => Err(Status::failed_precondition(format!("this is not cluster {other}"))),
    })
    .await;
    let ran = ask(&[strict.address], &["status", "--cluster", "payments"]).await;
    let expected =
        format!("error: agent {} refuses: this is not cluster payments\n", strict.address);
    assert_ran(&ran, REFUSED, "", &expected);

    // What is on the screen stays there, whatever a second agent says.
    let cut_off = Agent::answering(agent::cut_off()).await;
    let ran = ask(&[cut_off.address, strict.address], &["status", "--cluster", "orders"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (DONE, TABLE));
    let grudging = Agent::failing(Status::failed_precondition("no")).await;
    let ran = ask(&[cut_off.address, grudging.address], &["status"]).await;
    assert_eq!(ran.code, DONE);
    let note = format!("note: {}: no\n", grudging.address);
    assert!(ran.err.starts_with(&note), "{}", ran.err);
}

#[tokio::test]
async fn an_agents_error_decides_the_exit_code() {
    let said = |message: &str| format!("error: could not get an answer from any agent: {message}");
    #[rustfmt::skip]
    let table = [
        (Status::failed_precondition("a rule"), REFUSED, "error: agent ADDRESS refuses: a rule\n".to_owned()),
        (Status::aborted("another change"),     REFUSED, "error: agent ADDRESS refuses: another change\n".to_owned()),
        (Status::not_found("no such thing"),    FAILED,  "error: agent ADDRESS found nothing: no such thing\n".to_owned()),
        (Status::invalid_argument("too long"),  WRONG,   "error: agent ADDRESS does not accept the request: too long\n".to_owned()),
        (Status::internal("disk\n full"),       FAILED,  said("ADDRESS: disk full\nhint: Look into the log of ha-agent")),
        (Status::unavailable("starting"),       FAILED,  said("ADDRESS: starting\n")),
        (Status::deadline_exceeded(""),         FAILED,  said("ADDRESS: deadline expired before operation could complete\n")),
        (Status::unimplemented(""),             FAILED,  said("ADDRESS: what listens there does not know the request\nhint: Check that agents")),
    ];
    for (status, code, expected) in table {
        let agent = Agent::failing(status).await;
        let ran = ask(&[agent.address], &["status"]).await;
        let expected = expected.replace("ADDRESS", &agent.address.to_string());
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{}", ran.err);
        assert!(ran.err.starts_with(&expected), "{}", ran.err);
    }
}

#[tokio::test]
async fn an_agent_that_fails_does_not_stop_us_from_asking_the_next() {
    let failing = Agent::failing(Status::internal("disk full")).await;
    let agent = Agent::answering(agent::healthy()).await;
    let ran = ask(&[failing.address, agent.address], &["status"]).await;
    assert_ran(&ran, DONE, TABLE, &format!("note: {}: disk full\n", failing.address));
}

#[tokio::test]
async fn a_malformed_reply_is_not_shown() {
    let mut reply = agent::healthy();
    reply.nodes[0].flushed_lsn = "far".into();
    let agent = Agent::answering(reply).await;
    let ran = ask(&[agent.address], &["status", "--json"]).await;
    let expected = format!(
        "error: could not get an answer from any agent: {}: malformed reply: node n1 has an \
         invalid flushed_lsn: \"far\"\n\
         hint: Check that agents of haclt listen there, and are of the same version as `haclt`.\n",
        agent.address
    );
    assert_ran(&ran, FAILED, "", &expected);

    let garbled = agent::framing(agent::grpc_reply(&[0xff, 0xff, 0xff]));
    let ran = ask(&[garbled], &["status"]).await;
    let expected = format!("{garbled}: malformed reply: it cannot be decoded\n");
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""));
    assert!(ran.err.contains(&expected), "{}", ran.err);
}

#[tokio::test]
async fn what_a_newer_agent_leaves_out_or_adds_is_no_error() {
    let mut reply = agent::healthy();
    (reply.lease, reply.raft) = (None, None);
    reply.wal_quorum = Some(WalQuorumStatus::default());
    reply.nodes[1].state = "checkpointing".into();
    let agent = Agent::answering(reply).await;
    let ran = ask(&[agent.address], &["status"]).await;
    assert_eq!(ran.code, DONE);
    assert!(ran.out.contains("lease unknown   raft unknown\n"), "{}", ran.out);
    assert!(ran.out.contains("n2    primary  checkpointing "), "{}", ran.out);
    let ran = ask(&[agent.address], &["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&json["lease"], &json["raft"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn another_service_on_that_port_is_recognised() {
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let postgres = b"E\0\0\0\x40SFATAL\0VFATAL\0C0A000\0Munsupported frontend protocol\0\0";
    let servers =
        [agent::blurting(http), agent::blurting(postgres), agent::framing(agent::not_found())];
    for server in servers {
        let ran = ask(&[server], &["status"]).await;
        let expected = format!(
            "error: could not get an answer from any agent: {server}: what listens there does not \
             speak gRPC\n\
             hint: Use the agents' gRPC port (`grpc` in their configuration), not their HTTP port \
             nor PostgreSQL's.\n"
        );
        assert_ran(&ran, FAILED, "", &expected);
    }
}

#[tokio::test]
async fn if_nobody_answers_everybody_is_named() {
    let (_one, first) = agent::refusing();
    let (_two, second) = agent::refusing();
    let (_three, third) = agent::hanging().await;
    let started = Instant::now();
    let ran = ask(&[first, second, third], &["--timeout", "600ms", "status"]).await;
    let begin = format!(
        "error: could not reach any agent: {first}: connection refused; {second}: connection \
         refused; {third}: no answer within "
    );
    assert!(ran.err.starts_with(&begin), "{}", ran.err);
    assert!(ran.err.contains("\nhint: Check that ha-agent runs on those machines"), "{}", ran.err);
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""));
    assert!(started.elapsed() < HANGS, "it gave up by itself");
}

#[tokio::test]
async fn an_agent_that_froze_is_given_up_before_a_long_timeout_ends() {
    let (_hanging, hangs) = agent::hanging().await;
    let started = Instant::now();
    let ran = ask(&[hangs], &["status", "--timeout", "50s"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""), "{}", ran.err);
    assert!(started.elapsed().as_secs() < 30, "{}", ran.err);
}
