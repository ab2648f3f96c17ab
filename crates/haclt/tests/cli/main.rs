//! Runs the real `haclt` against agents of our own: what users and scripts get to see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "a test has no users")]

mod agent;

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ha_proto::v1::{StatusReply, WalQuorumStatus};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::Status;

use crate::agent::{Agent, Script};

/// Longer than anything here may take.
const HANGS: Duration = Duration::from_mins(1);

const TABLE: &str = "\
cluster orders   epoch 7   lease n2, 2.4 s left   raft leader n3, term 12
NODE  ROLE     STATE      TIMELINE  FLUSHED    LAG  SYNC
n1    standby  streaming         4  0/5A3C9F0  0 B  sync
n2    primary  running           4  0/5A3C9F0  -    -
n3    witness  receiving         -  0/5A3C9F0  0 B  sync
";

const DONE: i32 = 0;
const FAILED: i32 = 1;
const WRONG: i32 = 2;
const REFUSED: i32 = 3;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn haclt(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haclt"));
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run_to_end(mut command: Command) -> Ran {
    let output = timeout(HANGS, command.output()).await.expect("haclt ends").unwrap();
    Ran {
        code: output.status.code().expect("haclt ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn run(args: &[&str]) -> Ran {
    run_to_end(haclt(args)).await
}

/// Asks these addresses, in this order.
async fn ask(addresses: &[SocketAddr], args: &[&str]) -> Ran {
    run(&[&["--endpoint", &list(addresses)], args].concat()).await
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[track_caller]
fn assert_ran(ran: &Ran, code: i32, out: &str, err: &str) {
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (code, out, err));
}

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
async fn endpoints_come_from_the_option_or_the_environment() {
    let agent = Agent::answering(agent::healthy()).await;
    let mut command = haclt(&["status"]);
    command.env("HACLT_ENDPOINTS", agent.address.to_string());
    assert_ran(&run_to_end(command).await, DONE, TABLE, "");

    // The option wins, wherever it stands, even over an environment that makes no sense.
    let address = agent.address.to_string();
    for args in [["--endpoint", &address, "status"], ["status", "--endpoint", &address]] {
        let mut command = haclt(&args);
        command.env("HACLT_ENDPOINTS", "nonsense");
        assert_ran(&run_to_end(command).await, DONE, TABLE, "");
    }
    let mut command = haclt(&["status"]);
    command.env("HACLT_ENDPOINTS", "nonsense");
    let ran = run_to_end(command).await;
    assert!(ran.err.starts_with("error: invalid endpoint \"nonsense\": it has no port\nhint: "));
    assert_eq!(ran.code, WRONG);

    // An agent may run on this machine: what is certain is which endpoint is asked.
    let mut command = haclt(&["status", "--cluster", "no-such-cluster"]);
    command.env("HACLT_ENDPOINTS", "");
    let ran = run_to_end(command).await;
    assert!(ran.err.contains("127.0.0.1:7400"), "{}", ran.err);
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_a_usage_error_that_names_them() {
    #[rustfmt::skip]
    let table: [(&[&str], &str); 13] = [
        (&["--endpoint", "db1", "status"],                  "error: invalid endpoint \"db1\": it has no port\n"),
        (&["--endpoint", "db1:7400,::1:7400", "explain"],   "error: invalid endpoint \"::1:7400\": an IPv6 address is written in brackets"),
        (&["--endpoint", "http://db1:7400", "status"],      "error: invalid endpoint \"http://db1:7400\": expected HOST:PORT, not a URL\n"),
        (&["--endpoint", "db1:1,db2:1,DB1:1", "status"],    "error: endpoint db1:1 is named twice\n"),
        (&["--endpoint", "a:1", "--endpoint", "a:1", "status"], "error: endpoint a:1 is named twice\n"),
        (&["status", "--timeout", "5"],                     "error: invalid value '5' for '--timeout <DURATION>': expected a whole number and a unit"),
        (&["status", "--timeout", "0s"],                    "error: invalid value '0s' for '--timeout <DURATION>'"),
        (&["status", "--watch", "often"],                   "error: invalid value 'often' for '--watch [<SECONDS>]'"),
        (&["status", "--watch", "--exit-code"],             "error: the argument '--watch [<SECONDS>]' cannot be used with '--exit-code'"),
        (&["status", "n1"],                                 "error: unexpected argument 'n1' found"),
        (&["restart"],                                      "error: unrecognized subcommand 'restart'"),
        (&["completions", "csh"],                           "error: invalid value 'csh' for '<SHELL>'"),
        (&[],                                               "Watch over a PostgreSQL cluster"),
    ];
    for (args, expected) in table {
        let ran = run(args).await;
        assert_eq!((ran.code, ran.out.as_str()), (WRONG, ""), "{args:?}");
        assert!(ran.err.starts_with(expected), "{args:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn help_and_version_are_what_they_were() {
    let ran = run(&["--version"]).await;
    assert_ran(&ran, DONE, &format!("haclt {}\n", env!("CARGO_PKG_VERSION")), "");
    #[rustfmt::skip]
    let table: [(&[&str], &str); 4] = [
        (&["-h"],                    include_str!("help.txt")),
        (&["--help"],                include_str!("help-long.txt")),
        (&["status", "--help"],      include_str!("help-status.txt")),
        (&["explain", "-h"],         include_str!("help-explain.txt")),
    ];
    for (args, expected) in table {
        let ran = run(args).await;
        assert_ran(&ran, DONE, expected, "");
        assert!(ran.out.lines().all(|line| line.len() <= 100), "{args:?}");
    }
}

#[tokio::test]
async fn completions_are_scripts_their_shell_can_read() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell]).await;
        assert_eq!((ran.code, ran.err.as_str()), (DONE, ""), "{shell}");
        assert!(ran.out.contains("explain") && ran.out.contains("exit-code"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("haclt.bash");
    std::fs::write(&script, run(&["completions", "bash"]).await.out).unwrap();
    let check = "source \"$1\" && complete -p haclt";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-ec", check, "-"]).arg(&script);
    let ran = run_to_end(bash).await;
    assert!(ran.code == 0 && ran.out.contains("haclt") && ran.err.is_empty(), "{}", ran.err);
    let mut bash = Command::new("bash");
    bash.arg("-n").arg(&script);
    assert_ran(&run_to_end(bash).await, 0, "", "");
}

#[tokio::test]
async fn manual_pages_are_printed_or_written() {
    let ran = run(&["man"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (DONE, ""));
    assert!(ran.out.starts_with(".ie") && ran.out.contains("\n.TH haclt 1"), "{}", ran.out);

    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("share/man1");
    let ran = run(&["man", "--dir", pages.to_str().unwrap()]).await;
    assert_ran(&ran, DONE, "", "");
    let mut names: Vec<_> = std::fs::read_dir(&pages)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected =
        ["haclt-completions.1", "haclt-explain.1", "haclt-man.1", "haclt-status.1", "haclt.1"];
    assert_eq!(names, expected);
    let page = std::fs::read_to_string(pages.join("haclt-status.1")).unwrap();
    assert!(page.contains("exit\\-code") && page.contains("HACLT_ENDPOINTS"), "{page}");

    std::fs::write(dir.path().join("file"), "").unwrap();
    let file = dir.path().join("file");
    let ran = run(&["man", "--dir", file.to_str().unwrap()]).await;
    let begin = format!("error: could not write manual pages to directory {}: ", file.display());
    assert_eq!((ran.code, ran.out.as_str()), (FAILED, ""));
    assert!(ran.err.starts_with(&begin), "{}", ran.err);
}

/// Reads lines until one begins with `begin`.
async fn read_until(
    lines: &mut tokio::io::Lines<impl tokio::io::AsyncBufRead + Unpin>,
    begin: &str,
) {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with(begin) {
                return;
            }
        }
        panic!("no line begins with {begin:?}");
    };
    timeout(HANGS, found).await.expect("haclt goes on");
}

async fn ended(child: &mut Child) -> ExitStatus {
    timeout(HANGS, child.wait()).await.expect("haclt ends").unwrap()
}

/// Starts an agent whose epoch is the number of times it was asked, and fails at the second time.
async fn counting() -> Agent {
    Agent::scripted(|call, _| match call {
        2 => Err(Status::unavailable("starting")),
        epoch => Ok(StatusReply { epoch, ..agent::healthy() }),
    })
    .await
}

#[tokio::test]
async fn a_watched_status_goes_on_until_it_is_interrupted() {
    let agent = counting().await;
    let address = agent.address.to_string();
    let mut child = haclt(&["status", "--watch", "0.1", "--endpoint", &address]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    read_until(&mut lines, "cluster orders   epoch 1 ").await;
    read_until(&mut lines, "n3    witness").await;
    // Frames stand apart, and what lies between them is no end.
    let gap = timeout(HANGS, lines.next_line()).await.expect("haclt goes on").unwrap();
    assert_eq!(gap.as_deref(), Some(""));
    read_until(&mut lines, "cluster orders   epoch 3 ").await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(ended(&mut child).await.signal(), Some(2));
    let mut notes = String::new();
    child.stderr.take().unwrap().read_to_string(&mut notes).await.unwrap();
    let begin = "error: could not get an answer from any agent: ";
    assert!(notes.starts_with(&format!("{begin}{address}: starting\nhint: ")), "{notes}");
}

#[tokio::test]
async fn a_watched_status_as_json_is_one_object_per_line() {
    let agent = counting().await;
    let address = agent.address.to_string();
    let args = ["status", "--json", "--watch", "0.1", "--endpoint", &address];
    let mut child = haclt(&args).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for epoch in [1, 3, 4] {
        let line = timeout(HANGS, lines.next_line()).await.expect("haclt goes on").unwrap();
        let json: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(json["epoch"], epoch);
    }
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_watched_status_ends_if_it_is_refused() {
    let agent = Agent::answering(agent::healthy()).await;
    let ran = ask(&[agent.address], &["status", "--watch", "--cluster", "payments"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (REFUSED, ""));
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_error() {
    let agent = Agent::answering(agent::healthy()).await;
    let address = agent.address.to_string();
    let table: [&[&str]; 7] = [
        &["status", "--endpoint", &address],
        &["status", "--json", "--endpoint", &address],
        &["status", "--watch", "0.1", "--endpoint", &address],
        &["explain", "--endpoint", &address],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ];
    for args in table {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = haclt(args);
        let child = command.stdout(writer).spawn().unwrap();
        let output = timeout(HANGS, child.wait_with_output()).await.expect("haclt ends").unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(DONE), ""), "{args:?}");
    }
}

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error() {
    let agent = Agent::answering(agent::healthy()).await;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = haclt(&["status", "--endpoint", &agent.address.to_string()]);
    let child = command.stdout(full).spawn().unwrap();
    let output = timeout(HANGS, child.wait_with_output()).await.expect("haclt ends").unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(FAILED));
    assert!(err.starts_with("error: could not write to standard output: No space left"), "{err}");
}
