//! A pair of ordinary containers becomes a cluster, and an ordinary pair again.

use ha_tests::compose::{Compose, docker, is_there};
use ha_tests::pair::{APP_PASSWORD, Pair, SUPERUSER_PASSWORD};
use ha_tests::programs::said;
use ha_tests::within;

use super::{MAJOR, run_on};

/// A debug build of the agent dies there.
const CRASH: &str = "HACLT_TEST_CRASH_POINT";

/// Runs `haclt adopt` on a node, as the documents say; returns its exit code and what it said.
fn adopt(c: &Compose, node: &str, further: &[&str], arguments: &[&str]) -> (i32, String) {
    let mut words = vec!["run", "--rm", "-T", "--no-deps"];
    words.extend(further);
    words.extend(["--entrypoint", "haclt", node, "adopt", "--config", "/etc/haclt/agent.toml"]);
    words.extend(arguments);
    let output = c.compose_output(&words);
    (output.status.code().unwrap_or(-1), said(&output))
}

/// Runs a statement over the network with a password, beside the agent of n3, and returns what it says.
fn sql(c: &Compose, node: &str, user: &str, password: &str, statement: &str) -> String {
    let host = format!("host={node}-postgres user={user} dbname=app");
    let password = format!("PGPASSWORD={password}");
    let container = c.container("n3");
    let words = ["exec", "--env", &password, &container, "psql", "-XAtq", &host, "-c", statement];
    docker(&words).trim().to_owned()
}

#[test]
fn a_pair_of_ordinary_containers_is_adopted_fails_over_and_goes_back() {
    if !is_there() {
        return;
    }
    run_on(async {
        // Goes last: the cluster uses its volumes.
        let pair = Pair::start(MAJOR).await;
        let mut c = Compose::prepare(MAJOR, None);
        c.say("an ordinary pair");
        let volumes = [pair.volume("primary"), pair.volume("standby")];
        let names = [("HACLT_N1_VOLUME", volumes[0].as_str()), ("HACLT_N2_VOLUME", &volumes[1])];
        c.put_on_top("compose.adopt.yaml", &names);
        let make =
            ["--make-secrets", "--secrets", "/etc/haclt/secrets", "--guard", "/opt/haclt/guard"];
        c.compose(&[&["run", "--rm", "-T", "init"], &make[..]].concat());

        looked_at(&c, &pair);
        c.say("dry run");
        adopted(&c, &pair).await;
        c.say("adopted");
        c.start().await;
        at_work(&mut c).await;
        c.say("at work");
        failed_over(&mut c).await;
        c.say("failed over");
        given_back(&mut c, &pair).await;
        c.say("an ordinary pair again");
    });
}

/// A dry run says what it would do and does nothing.
fn looked_at(c: &Compose, pair: &Pair) {
    // The first connection to a database leaves files.
    for database in ["app", "postgres", "template1"] {
        pair.exec("primary", &["psql", "-XqU", "postgres", "-d", database, "-c", "checkpoint"]);
    }
    let since = "{{.State.StartedAt}} {{.HostConfig.RestartPolicy.Name}}";
    let before = (pair.fingerprint("primary"), pair.inspect("primary", since));
    let from = ["--from-container", &pair.container("primary")];
    let (code, text) = adopt(c, "n1", &[], &from);
    assert_eq!(code, 0, "{text}");
    for wanted in [
        "a primary, system identifier ",
        "restart policy always -> ",
        "no role haclt -> role haclt, superuser",
        "listen_addresses = * -> listen_addresses = 0.0.0.0",
        "max_connections",
        "nothing is changed without --yes",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    assert!(!text.contains("Secret") && !text.contains("SCRAM-SHA-256$"), "{text}");
    let after = (pair.fingerprint("primary"), pair.inspect("primary", since));
    assert_eq!(before, after, "a dry run changes nothing");
    let (code, text) = adopt(c, "n2", &[], &["--from-container", &pair.container("standby")]);
    assert_eq!(code, 3, "{text}");
    assert!(
        text.contains("error: role haclt is not there yet, and a standby cannot make it"),
        "{text}"
    );
    let (code, text) = adopt(c, "n1", &[], &["--from-container", "no-such-container"]);
    assert!(
        code == 1 && text.contains("cannot look at container no-such-container"),
        "{code} {text}"
    );
    let (code, text) = adopt(c, "n2", &[], &from);
    assert!(code == 1 && text.contains("which is not mounted here"), "{code} {text}");
    let (code, text) = adopt(c, "n1", &[], &["--undo"]);
    assert!(code == 1 && text.contains("was not adopted: nothing to undo"), "{code} {text}");
}

/// Adopts both, the first in three attempts of which two are killed.
async fn adopted(c: &Compose, pair: &Pair) {
    let from = pair.container("primary");
    let do_it = ["--from-container", &from, "--yes"];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mount = format!("{}:/crash", dir.path().display());
    let variable = format!("{CRASH}=/crash/point");
    let further = ["-v", &mount, "-e", &variable];
    for place in ["adopt:stopping", "adopt:Bring(\"base\")"] {
        std::fs::write(dir.path().join("point"), place).expect("a directory of ours");
        let (code, text) = adopt(c, "n1", &further, &do_it);
        assert_eq!(code, 4, "{place}: {text}");
        assert!(!dir.path().join("point").exists(), "it never came to {place}: {text}");
    }
    let (code, text) = adopt(c, "n1", &[], &do_it);
    assert!(code == 0 && text.contains("adopted: the database of node n1"), "{code} {text}");
    let (code, text) = adopt(c, "n1", &[], &do_it);
    assert!(code == 0 && text.contains("it is done already"), "{code} {text}");
    let from = pair.container("standby");
    let (code, text) = adopt(c, "n2", &[], &["--from-container", &from, "--yes"]);
    assert_eq!(code, 0, "{text}");
    for which in ["primary", "standby"] {
        let state = "{{.State.Running}} {{.State.ExitCode}} {{.HostConfig.RestartPolicy.Name}}";
        assert_eq!(pair.inspect(which, state), "false 0 no", "{which}");
        let said = pair.resurrect(which).await;
        assert!(said.contains("exists but is not empty"), "{which}: {said}");
    }
}

/// The data is there, settings, rules and passwords hold, and nothing was cloned.
async fn at_work(c: &mut Compose) {
    let primary = c.primary().await;
    let app = |statement: &str| sql(c, &primary, "app", APP_PASSWORD, statement);
    assert_eq!(app("select count(*), sum(id) from orders"), "1000|500500");
    for (name, value) in [
        ("shared_buffers", "96MB"),
        ("work_mem", "7MB"),
        ("log_statement", "ddl"),
        ("wal_keep_size", "320MB"),
        ("max_connections", "77"),
        ("maintenance_work_mem", "80MB"),
        ("wal_log_hints", "on"),
    ] {
        assert_eq!(app(&format!("show {name}")), value, "{name}");
    }
    let super_user = sql(
        c,
        &primary,
        "postgres",
        SUPERUSER_PASSWORD,
        "select rolname from pg_roles \
                         where rolname like 'haclt%' order by 1",
    );
    assert_eq!(super_user, "haclt\nhaclt_replication");
    for service in ["n1", "n2"] {
        let log = c.log(service);
        assert!(!log.contains("step=\"clone\""), "{service} was cloned: {log}");
    }
}

/// The primary's database is killed; the other has everything.
async fn failed_over(c: &mut Compose) {
    let (old, new) = (c.primary().await, c.standby().await);
    docker(&["kill", &c.container(&old)]);
    docker(&["kill", &c.container(&format!("{old}-postgres"))]);
    c.await_status(&format!("{new} is primary"), within(60), |s| {
        ha_tests::status::holder(s) == new
    })
    .await;
    ha_tests::eventually("it accepts writes", within(30), async || {
        let host = format!("host={new}-postgres user=app dbname=app");
        let password = format!("PGPASSWORD={APP_PASSWORD}");
        let insert =
            "insert into orders values (2001, 'after the failover') on conflict do nothing";
        let container = c.container("n3");
        let words = ["exec", "--env", &password, &container, "psql", "-XAtq", &host, "-c", insert];
        let done = std::process::Command::new("docker").args(words).output().expect("docker");
        done.status.success().then_some(())
    })
    .await;
    c.compose(&["up", "--detach"]);
    c.healthy(within(120)).await;
    assert_eq!(sql(c, &new, "app", APP_PASSWORD, "select count(*) from orders"), "1001");
    assert_eq!(sql(c, &new, "app", APP_PASSWORD, "show work_mem"), "7MB");
}

/// The way back, with what was written meanwhile.
async fn given_back(c: &mut Compose, pair: &Pair) {
    let (code, text) = adopt(c, "n1", &[], &["--undo", "--yes"]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("runs on the data directory"), "{text}");
    c.compose(&["stop", "n2", "n2-postgres"]);
    c.await_status("n1 is primary", within(90), |s| ha_tests::status::holder(s) == "n1").await;
    ha_tests::eventually("n1 accepts writes", within(30), async || {
        let recovery = sql(c, "n1", "app", APP_PASSWORD, "select pg_is_in_recovery()");
        (recovery == "f").then_some(())
    })
    .await;
    sql(c, "n1", "app", APP_PASSWORD, "insert into orders values (3001, 'on the way back')");
    c.compose(&["stop", "n1", "n1-postgres"]);
    let (code, text) = adopt(c, "n1", &[], &["--undo"]);
    assert!(code == 0 && text.contains("restart policy always again"), "{code} {text}");
    for node in ["n1", "n2"] {
        let (code, text) = adopt(c, node, &[], &["--undo", "--yes"]);
        assert!(code == 0 && text.contains("undone: "), "{node}: {code} {text}");
    }
    docker(&["start", &pair.container("primary"), &pair.container("standby")]);
    pair.ready("primary").await;
    let rows = ["psql", "-XAtqU", "postgres", "-d", "app", "-c", "select count(*) from orders"];
    assert_eq!(pair.exec("primary", &rows).trim(), "1002");
    assert_eq!(pair.sql("primary", "show work_mem"), "7MB");
    assert_eq!(pair.sql("primary", "select count(*) from pg_replication_slots"), "0");
    let policy = "{{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(pair.inspect("primary", policy), "always");
    let names = pair.exec("primary", &["ls", "-A", "/var/lib/postgresql/data"]);
    let ours = names.lines().find(|name| name.starts_with("data") || name.ends_with("haclt"));
    assert_eq!(ours, None, "{names}");
    pair.streaming().await;
    assert_eq!(pair.exec("standby", &rows).trim(), "1002");
}
