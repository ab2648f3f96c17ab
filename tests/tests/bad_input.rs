//! Bad input: one clear line, the right code, nothing changed, the agent alive.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ha_proto::v1::admin_client::AdminClient;
use ha_proto::v1::agent_client::AgentClient;
use ha_proto::v1::raft_client::RaftClient;
use ha_proto::v1::{
    HelloRequest, ProposeRequest, RaftRequest, RenewRequest, ReportRequest, StatusRequest,
};
use ha_tests::status::channel;
use ha_tests::{Cluster, Config, Plan, eventually, programs, scenario, status, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

/// Runs the agent with `--check`; it must not change anything.
fn check(path: &Path) -> Output {
    Command::new(programs::program("ha-agent"))
        .args(["--check", "--config"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .expect("the agent can be run")
}

fn names_under(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .flat_map(|path| [vec![path.clone()], names_under(&path)].concat())
        .collect();
    found.sort();
    found
}

/// Returns the lines that the agent complained with, after looking at their form.
fn complaints(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    assert!(!text.contains("panicked"), "{text}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(!lines.is_empty(), "a failure without a word");
    for line in &lines {
        assert!(line.starts_with("error: ") || line.starts_with("hint: "), "{line}");
        assert!(!line.ends_with('.') || line.starts_with("hint: "), "{line}");
    }
    lines
}

#[test]
fn each_fault_of_the_configuration_is_one_line_and_changes_nothing() {
    scenario(Plan::within(60), async |c| {
        let good = c.node("n1").config.clone();
        let path = c.node("n1").write_config();
        let done = check(&path);
        assert_eq!(done.status.code(), Some(0), "{}", programs::said(&done));
        let wrong = |key: &str, value: &str| {
            let mut config = good.clone();
            config.set(key, value);
            config
        };
        let without = |key: &str| {
            let mut config = good.clone();
            config.remove(key);
            config
        };
        #[rustfmt::skip]
        let table: Vec<(Config, &str)> = vec![
            (without("cluster"), "cluster is missing"),
            (without("node"), "node is missing"),
            (without("kind"), "kind is missing"),
            (without("data_dir"), "data_dir is missing"),
            (without("listen.grpc"), "listen.grpc is missing"),
            (without("postgres.listen"), "postgres.listen is missing"),
            (without("postgres.bin_dir"), "postgres.bin_dir is missing"),
            (without("postgres.superuser_password_file"), "postgres.superuser_password_file is missing"),
            (without("peers.n3"), "2 voters survive no more failures"),
            (without("peers.n1"), "peers: this node, n1, is not among them"),
            (wrong("no_such_key", "1"), "unknown key no_such_key"),
            (wrong("lease.tttl", "\"3s\""), "unknown key lease.tttl"),
            (wrong("lease.ttl", "3"), "lease.ttl: expected a duration"),
            (wrong("lease.ttl", "\"3\""), "lease.ttl"),
            (wrong("lease.ttl", "\"1s\""), "lease.ttl 1s is too short"),
            (wrong("lease.margin", "\"10ms\""), "lease.margin"),
            (wrong("lease.renew_interval", "\"1ms\""), "lease.renew_interval"),
            (wrong("lease.drift_per_mille", "0"), "lease.drift_per_mille"),
            (wrong("raft.election_min", "\"2s\""), "raft.election_min"),
            (wrong("raft.heartbeat", "\"1s\""), "raft.heartbeat"),
            (wrong("health.failures", "1"), "one miss never demotes"),
            (wrong("health.interval", "\"0s\""), "health.interval"),
            (wrong("durability.mode", "\"sync\""), "\"sync\" is unknown"),
            (wrong("durability.lag_bytes_max", "\"16MB\""), "durability.lag_bytes_max"),
            (wrong("kind", "\"arbiter\""), "kind: \"arbiter\" is neither"),
            (wrong("kind", "\"witness\""), "a witness has no Postgres"),
            (wrong("node", "\"N 1\""), "node: invalid node name"),
            (wrong("listen.grpc", "\"nonsense\""), "\"nonsense\" is no host:port"),
            (wrong("listen.grpc", "\"127.0.0.1:0\""), "is no host:port"),
            (wrong("peers.n2", "\"nowhere\""), "peers.n2: \"nowhere\" is no host:port"),
            (wrong("postgres.listen", "\"0.0.0.0:5432\""), "postgres.advertise is missing"),
            (wrong("postgres.driver", "\"docker\""), "postgres.container is missing"),
            (wrong("postgres.driver", "\"docker\""), "postgres.bin_dir: not with driver \"docker\""),
            (wrong("postgres.driver", "\"podman\""), "postgres.driver: \"podman\" is neither"),
            (wrong("postgres.container", "\"n1\""), "postgres.container: not with driver \"process\""),
            (wrong("postgres.rejoin", "\"maybe\""), "postgres.rejoin: \"maybe\" is none of"),
            (wrong("postgres.on_agent_stop", "\"panic\""), "postgres.on_agent_stop"),
            (wrong("postgres.priority", "99999999999"), "postgres.priority"),
            (wrong("postgres.promotable", "\"perhaps\""), "postgres.promotable"),
            (wrong("postgres.data_dir", "\"relative/path\""), "is not an absolute path"),
            (wrong("postgres.guard", "\"/no/such/guard\""), "postgres.guard: cannot use /no/such/guard"),
            (wrong("postgres.bin_dir", "\"/no/such/dir\""), "postgres.bin_dir: cannot use /no/such/dir/postgres"),
            (wrong("postgres.run_as", "\"root\""), "PostgreSQL cannot run as root"),
            (wrong("postgres.run_as", "\"nobody-of-that-name\""), "there is no user"),
            (wrong("postgres.superuser_password_file", "\"/no/such/file\""), "cannot read superuser password file /no/such/file"),
            (wrong("postgres.superuser", "\"haclt_replication\""), "are the same"),
            (wrong("postgres.parameters.port", "\"1\""), "setting port is managed by haclt"),
            (wrong("postgres.parameters.fsync", "\"off\""), "setting fsync is managed by haclt"),
            (wrong("log.format", "\"xml\""), "log.format: \"xml\""),
        ];
        let before = names_under(&c.base);
        for (config, expected) in table {
            fs::write(&path, config.render()).expect("a writable directory");
            let done = check(&path);
            assert_eq!(done.status.code(), Some(2), "{expected}: {}", programs::said(&done));
            let lines = complaints(&done);
            assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:?}");
        }
        assert_eq!(names_under(&c.base), before, "nothing was made or removed");
    });
}

#[test]
fn all_faults_of_a_configuration_are_reported_at_once() {
    scenario(Plan::within(30), async |c| {
        let node = c.node_mut("n1");
        node.config.text("kind", "king").text("lease.ttl", "1s").text("colour", "red");
        node.config.text("postgres.rejoin", "never");
        let done = check(&node.write_config());
        assert_eq!(done.status.code(), Some(2));
        let lines = complaints(&done);
        assert!(lines.len() >= 3, "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("unknown key colour")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("lease.ttl")), "{lines:?}");
    });
}

#[test]
fn an_unreadable_file_is_named() {
    scenario(Plan::within(30), async |c| {
        let dir = c.base.clone();
        let table: [(&str, Option<&str>, &str); 4] = [
            ("absent.toml", None, "absent.toml: No such file or directory"),
            ("broken.toml", Some("cluster = \"x\nnode = 1"), "broken.toml: line 1"),
            ("twice.toml", Some("node = \"a\"\nnode = \"b\"\n"), "twice.toml: line 2"),
            ("empty.toml", Some(""), "cluster is missing"),
        ];
        for (name, text, expected) in table {
            let path = dir.join(name);
            if let Some(text) = text {
                fs::write(&path, text).expect("a writable directory");
            }
            let done = check(&path);
            let lines = complaints(&done);
            assert_eq!(done.status.code(), Some(2), "{lines:?}");
            assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:?}");
        }
        let folder = check(&dir);
        assert_eq!(folder.status.code(), Some(2));
        assert!(complaints(&folder)[0].contains("Is a directory"));
        let bytes = dir.join("bytes.toml");
        fs::write(&bytes, [0xff, 0xfe, 0x00]).expect("a writable directory");
        assert_eq!(check(&bytes).status.code(), Some(2));
    });
}

#[test]
fn a_password_file_must_hold_one_line_and_never_shows_up() {
    scenario(Plan::within(30), async |c| {
        let file = c.base.join("password");
        c.node_mut("n1").config.text("postgres.superuser_password_file", file.display());
        let path = c.node("n1").write_config();
        for text in ["", "\n", "two-Secret\nlines-Secret\n"] {
            fs::write(&file, text).expect("a writable directory");
            let done = check(&path);
            assert_eq!(done.status.code(), Some(2), "{text:?}");
            let said = complaints(&done).join("\n");
            assert!(said.contains("must hold one line") && !said.contains("Secret"), "{said}");
        }
    });
}

#[test]
fn wrong_arguments_of_the_programs_end_with_usage() {
    scenario(Plan::within(30), async |_| {
        for (program, arguments, code) in [
            ("ha-agent", &[][..], 2),
            ("ha-agent", &["--config"][..], 2),
            ("ha-agent", &["--no-such"][..], 2),
            ("haclt", &["no-such-command"][..], 2),
            ("haclt", &["--endpoint", "nonsense", "status"][..], 2),
            ("haclt", &["--timeout", "soon", "status"][..], 2),
            ("haclt", &["--endpoint", "127.0.0.1:1", "--timeout", "500ms", "status"][..], 1),
        ] {
            let done = programs::run(&programs::program(program), arguments);
            let said = programs::said(&done);
            assert_eq!(done.status.code(), Some(code), "{program} {arguments:?}: {said}");
            assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    });
}

#[test]
fn an_agent_without_reachable_peers_waits_and_says_so() {
    scenario(Plan::within(60), async |c| {
        c.node_mut("n1").start();
        let node = c.node("n1");
        let status = eventually("it answers", within(20), async || node.status().await).await;
        assert_eq!(status.state, "no_quorum", "{}", status::brief(&status));
        assert!(status.reason.contains("1 of 3 nodes answer"), "{}", status.reason);
        assert!(fs::read_dir(node.pgdata()).is_ok_and(|mut dir| dir.next().is_none()));
        let end = c.node_mut("n1").stop_agent(within(20)).await;
        assert_eq!(end.code(), Some(0));
        assert_eq!(c.processes(), []);
    });
}

#[test]
fn an_agent_of_another_cluster_is_not_let_in() {
    scenario(Plan::within(90).announces(&["serves cluster", "cannot"]), async |c| {
        c.node_mut("n3").config.text("cluster", "invoices");
        c.start_agents();
        let address = c.node("n3").grpc();
        eventually("it answers", within(20), async || status::status(&address).await).await;
        ha_tests::wait::always("no database is made", within(3), async || {
            fs::read_dir(c.node("n1").pgdata()).is_ok_and(|mut dir| dir.next().is_none())
        })
        .await;
        let done = c.haclt(&["--cluster", "orders", "status"]);
        c.say(&format!("haclt exits with {:?}", done.status.code()));
        let address = c.node("n3").grpc();
        let wrong = ["--endpoint", &address, "--cluster", "orders", "status"];
        let done = programs::run(&programs::program("haclt"), &wrong);
        assert_eq!(done.status.code(), Some(3), "refused: {}", programs::said(&done));
        assert!(programs::said(&done).contains("invoices"), "{}", programs::said(&done));
        // Under its right name it may come: its store is of the other cluster, and that is said.
        c.node_mut("n3").kill_agent();
        c.node_mut("n3").config.text("cluster", "orders");
        c.node_mut("n3").start();
        let end = c.node_mut("n3").agent_end(within(20)).await;
        assert_eq!(end.code(), Some(1));
        let said = ha_tests::logs::read(&c.node("n3").log());
        assert!(said.contains("belongs to cluster \"invoices\""), "{said}");
        c.announce("error: ");
        c.announce("agent ended");
    });
}

#[test]
fn haclt_answers_in_json_as_documented() {
    scenario(Plan::within(90), async |c| {
        c.bootstrap().await;
        let done = c.haclt(&["status", "--json"]);
        assert_eq!(done.status.code(), Some(0), "{}", programs::said(&done));
        let json: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
        for key in [
            "cluster",
            "state",
            "reason",
            "epoch",
            "timeline",
            "durability",
            "paused",
            "lease",
            "raft",
            "wal_quorum",
            "nodes",
        ] {
            assert!(json.get(key).is_some(), "{key} in {json}");
        }
        assert_eq!(json["state"], "healthy");
        assert_eq!(json["lease"]["holder"], "n1");
        assert_eq!(json["raft"]["voters"], serde_json::json!(["n1", "n2", "n3"]));
        assert_eq!(json["nodes"][1]["state"], "streaming");
        assert_eq!(json["nodes"][2]["role"], "witness");
        let explained = c.haclt(&["explain", "--json"]);
        assert_eq!(explained.status.code(), Some(0));
        let json: serde_json::Value = serde_json::from_slice(&explained.stdout).expect("JSON");
        assert_eq!(json["if_primary_died"]["successor"], "n2");
    });
}

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, tonic::Status>, code: Code, names: &str) {
    let status = answer.expect_err(names);
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(names), "{names:?} in {:?}", status.message());
    assert!(!status.message().contains('\n'), "one line: {:?}", status.message());
}

async fn refuse_bad_agent_calls(address: &str) {
    let mut agent = AgentClient::new(channel(address)).max_encoding_message_size(64 << 20);
    let hello = |cluster: &str, from: &str, to: &str, protocol: u32| HelloRequest {
        cluster: cluster.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        incarnation: 1,
        protocol,
        store: String::new(),
    };
    let precondition = Code::FailedPrecondition;
    let answer = agent.hello(hello("invoices", "n1", "n3", 1)).await;
    assert_refused(answer, precondition, "serves cluster \"orders\", not \"invoices\"");
    // A stranger is told who answers: it may have to hear that its own cluster was given up.
    let answer = agent.hello(hello("orders", "n9", "n3", ha_proto::PROTOCOL)).await;
    let told = answer.expect("an answer").into_inner();
    assert_eq!((told.node.as_str(), told.expected_store.as_str()), ("n3", ""));
    let answer = agent.hello(hello("orders", "N 9\n", "n3", 1)).await;
    assert_refused(answer, Code::InvalidArgument, "malformed request");
    let answer = agent.hello(hello("orders", "n1", "n2", 1)).await;
    assert_refused(answer, precondition, "this is node n3");
    let answer = agent.hello(hello("orders", "n1", "n3", 99)).await;
    assert_refused(answer, precondition, "protocol");
    let propose = |cluster: &str, from: &str, command: &[u8]| ProposeRequest {
        cluster: cluster.to_owned(),
        from: from.to_owned(),
        command: command.to_vec(),
    };
    for command in [&b"not json"[..], b"{}", b"{\"no_such_command\":{}}", b"", &[0xff, 0x00]] {
        let answer = agent.propose(propose("orders", "n1", command)).await;
        assert_refused(answer, Code::InvalidArgument, "malformed command");
    }
    let answer = agent.propose(propose("invoices", "n1", b"{}")).await;
    assert_refused(answer, precondition, "invoices");
    let answer = agent.propose(propose("orders", "n7", b"{}")).await;
    assert_refused(answer, precondition, "n7 is not a node");
    let huge = vec![b' '; 2 << 20];
    let answer = agent.propose(propose("orders", "n1", &huge)).await;
    assert_refused(answer, Code::OutOfRange, "too large");
    let renew = RenewRequest {
        cluster: "orders".to_owned(),
        node: "n8".to_owned(),
        epoch: u64::MAX,
        request_id: 1,
        flushed: None,
        container: String::new(),
    };
    assert_refused(agent.renew(renew.clone()).await, precondition, "n8 is not a node");
    // A renewal of an epoch that was never granted is an answer, not an error, and it is no.
    let never = agent.renew(RenewRequest { node: "n2".to_owned(), ..renew }).await;
    let answer = never.expect("an answer").into_inner().answer;
    assert!(matches!(answer, Some(ha_proto::v1::renew_reply::Answer::Refused(_))), "{answer:?}");
    let report = ReportRequest { cluster: "x".to_owned(), from: "n1".to_owned(), fresh: true };
    assert_refused(agent.report(report).await, precondition, "\"x\"");
    let mut admin = AdminClient::new(channel(address));
    let answer = admin.status(StatusRequest { cluster: "x".to_owned() }).await;
    assert_refused(answer, precondition, "serves cluster \"orders\", not \"x\"");
}

async fn refuse_bad_raft_calls(address: &str, store: &str) {
    let mut raft = RaftClient::new(channel(address));
    let good = RaftRequest {
        format: 1,
        cluster: "orders".to_owned(),
        from: "n1".to_owned(),
        to: "n3".to_owned(),
        to_store: store.to_owned(),
        payload: b"{}".to_vec(),
    };
    let precondition = Code::FailedPrecondition;
    let wrong = RaftRequest { format: 7, ..good.clone() };
    assert_refused(raft.append(wrong).await, precondition, "format 7");
    let wrong = RaftRequest { cluster: "invoices".to_owned(), ..good.clone() };
    assert_refused(raft.append(wrong).await, precondition, "\"invoices\"");
    let wrong = RaftRequest { to: "n2".to_owned(), ..good.clone() };
    assert_refused(raft.vote(wrong).await, precondition, "\"n2\"");
    let wrong = RaftRequest { to_store: "0".repeat(32), ..good.clone() };
    assert_refused(raft.vote(wrong).await, precondition, "store");
    let wrong = RaftRequest { from: "n3".to_owned(), ..good.clone() };
    assert_refused(raft.pre_vote(wrong).await, precondition, "that is this node");
    for payload in [&b"{}"[..], b"not json", b"null", b"[]", &[0; 64]] {
        let wrong = RaftRequest { payload: payload.to_vec(), ..good.clone() };
        assert_refused(raft.append(wrong.clone()).await, Code::InvalidArgument, "invalid payload");
        assert_refused(raft.vote(wrong.clone()).await, Code::InvalidArgument, "invalid payload");
        let answer = raft.install_snapshot(wrong.clone()).await;
        assert_refused(answer, Code::InvalidArgument, "invalid");
        let answer = raft.transfer_leader(wrong).await;
        assert_refused(answer, Code::InvalidArgument, "invalid payload");
    }
}

async fn survive_garbage(address: &str) {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let flood = vec![0xff_u8; 200_000];
    let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for bytes in [&b"\0"[..], get, &[&preface[..], &flood].concat(), &flood] {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("a listener");
        // It may close before everything is written.
        drop(stream.write_all(bytes).await);
        let mut answer = Vec::new();
        drop(tokio::time::timeout(within(1), stream.read_to_end(&mut answer)).await);
    }
}

fn store_of(c: &Cluster, name: &str) -> String {
    let text = fs::read_to_string(c.node(name).raft_dir().join("store/identity"));
    let json: serde_json::Value = serde_json::from_str(&text.expect("a store")).expect("JSON");
    json["store_id"].as_str().expect("an identity").to_owned()
}

#[test]
fn malformed_grpc_is_refused_by_name_and_changes_nothing() {
    scenario(Plan::within(120), async |c| {
        let (primary, _) = c.bootstrap().await;
        let before = c.settled(within(20)).await;
        let address = c.node("n3").grpc();
        refuse_bad_agent_calls(&address).await;
        refuse_bad_raft_calls(&address, &store_of(c, "n3")).await;
        for node in c.nodes() {
            survive_garbage(&node.grpc()).await;
        }
        for node in c.nodes_mut() {
            assert!(node.agent_runs(), "{} is alive", node.name);
        }
        let after = c.settled(within(20)).await;
        assert_eq!((after.epoch, status::holder(&after)), (before.epoch, primary.as_str()));
        let term = |s: &ha_proto::v1::StatusReply| s.raft.as_ref().map(|raft| raft.term);
        assert_eq!(term(&before), term(&after), "no message moved the Raft term");
    });
}
