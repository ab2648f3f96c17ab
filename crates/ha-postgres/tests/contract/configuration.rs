//! What is configured, what cannot be changed behind our back, and that no secret shows.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Node, soon};
use ha_core::permit::StopMode;
use ha_postgres::Secret;
use ha_postgres::driver::PostgresDriver;

#[tokio::test]
async fn alter_system_changes_nothing_that_matters() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let tricks = [
        ("hot_standby", "off"),
        ("wal_level", "minimal"),
        ("wal_log_hints", "off"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("port", "1"),
        ("listen_addresses", ""),
        ("hba_file", "/dev/null"),
        ("restore_command", "false"),
        ("recovery_target_timeline", "current"),
        ("recovery_target_name", "x"),
        ("recovery_min_apply_delay", "1h"),
        ("primary_slot_name", "other"),
        ("primary_conninfo", "host=nowhere"),
        ("promote_trigger_file", "/tmp"),
        ("max_connections", "1"),
    ];
    let names = tricks.map(|(name, _)| format!("'{name}'")).join(", ");
    let settings =
        format!("SELECT name, setting FROM pg_settings WHERE name IN ({names}) ORDER BY 1");
    let before = n2.sql(&settings);
    for (name, value) in tricks {
        let set = format!("ALTER SYSTEM SET {name} = '{value}'");
        if !n2.psql("postgres", crate::support::SUPERUSER_PASSWORD, &set).status.success() {
            assert_eq!(name, "wal_level", "only PostgreSQL's own checks may refuse {name}");
        }
    }
    // The one that a reload brings in is put right by following again.
    n2.driver.follow(Some(&n1.upstream()), soon(10)).await.unwrap();
    n2.stop(StopMode::Fast).await;
    n2.driver.prepare_standby(Some(&n1.upstream()), soon(10)).await.unwrap();
    n2.start().await;
    n2.streams().await;
    assert_eq!(n2.sql(&settings), before);
    assert!(!n2.driver.probe(soon(5)).await.unwrap().pending_restart);
}

#[tokio::test]
async fn the_users_configuration_stays_as_it_is_apart_from_one_line_at_its_end() {
    let n1 = Node::new_primary("n1").await;
    n1.stop(StopMode::Fast).await;
    let path = n1.data().join("postgresql.conf");
    let ours = "include 'haclt.conf'\n";
    let made = std::fs::read_to_string(&path).unwrap();
    assert!(made.ends_with(ours) && made.matches("haclt.conf").count() == 1);
    let users = made.replace(ours, "") + "work_mem = '7MB'\nport = 1";
    // A comment in an encoding of old.
    let latin = |text: &str| [b"# gr\xfc\xdfe\n", text.as_bytes()].concat();
    std::fs::write(&path, latin(&users)).unwrap();
    let auto = n1.data().join("postgresql.auto.conf");
    std::fs::write(&auto, "# note\nwork_mem = '8MB'\nprimary_conninfo = 'host=x'\n").unwrap();
    for _ in 0..2 {
        n1.driver.prepare_standby(None, soon(10)).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), latin(&format!("{users}\n{ours}")));
        assert_eq!(std::fs::read_to_string(&auto).unwrap(), "# note\nwork_mem = '8MB'\n");
    }
    let unchanged = std::fs::metadata(&path).unwrap().modified().unwrap();
    n1.driver.prepare_standby(None, soon(10)).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), unchanged);
    n1.start().await;
    assert_eq!(n1.sql("SHOW work_mem"), "8MB");
}

#[tokio::test]
async fn a_standby_is_raised_to_what_the_primary_runs_with_and_lowered_again() {
    let more = |config: &mut ha_postgres::InstanceConfig| {
        config.parameters.insert("max_connections".to_owned(), "150".to_owned());
        config.parameters.insert("max_locks_per_transaction".to_owned(), "80".to_owned());
    };
    let n1 = Node::with("n1", more);
    n1.become_primary().await;
    let n2 = Node::new_standby("n2", &n1).await;
    assert_eq!(n2.sql("SHOW max_connections"), "150");
    assert_eq!(n2.sql("SHOW max_locks_per_transaction"), "80");
    assert_eq!(n2.sql("SHOW max_worker_processes"), "8");
    // ALTER SYSTEM of a lower value would keep it from starting.
    n2.sql("ALTER SYSTEM SET max_connections = 20");
    n2.stop(StopMode::Fast).await;
    n2.driver.prepare_standby(Some(&n1.upstream()), soon(10)).await.unwrap();
    n2.start().await;
    assert_eq!(n2.sql("SHOW max_connections"), "150");
}

#[tokio::test]
async fn a_restart_in_place_runs_as_a_primary_on_the_same_timeline() {
    let n1 = Node::new_primary("n1").await;
    n1.sql("CREATE TABLE t AS SELECT 1");
    n1.crash().await;
    n1.driver.prepare_restart_in_place(true, soon(10)).await.unwrap();
    n1.next_run();
    n1.right(1);
    let probe = n1.answers().await;
    assert!(!probe.in_recovery);
    assert_eq!(probe.timeline.0, 2);
    assert_eq!(n1.sql("SELECT count(*) FROM t"), "1");
}

#[test]
fn all_faults_of_a_configuration_are_reported_at_once() {
    let node = Node::new("n1");
    let mut config = node.driver.config().clone();
    config.superuser.name = "a\"b".to_owned();
    config.replication.password = Secret::new("two\nlines").into();
    config.hba = vec!["a\nb".to_owned()];
    config.parameters = BTreeMap::from(
        [("Port", "1"), ("primary_conninfo", ""), ("wal_level", "minimal"), ("a b", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let error = config.faults().join("; ");
    for part in ["a\\\"b", "password", "pg_hba", "Port", "primary_conninfo", "minimal", "a b"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("two"), "{error}");
}

/// Says where a secret is to be seen: command lines and environments of all processes.
fn seen_in_processes(secrets: &[&str]) -> Option<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().parse::<i32>().is_ok()) {
        for file in ["cmdline", "environ"] {
            let path = entry.path().join(file);
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if secrets.iter().any(|secret| text.contains(secret)) {
                return Some(format!("{}: {text}", path.display()));
            }
        }
    }
    None
}

fn files_with(dir: &Path, secrets: &[&str], found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with(&path, secrets, found);
        } else if path.is_file() {
            let text = std::fs::read(&path).unwrap();
            let contains =
                |secret: &&str| text.windows(secret.len()).any(|w| w == secret.as_bytes());
            if secrets.iter().any(contains) {
                found.push(path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_shows_in_a_log_a_file_or_a_process() {
    const SECRETS: [&str; 2] = ["Xq7superSecret", "Xq7replicationSecret"];
    let secret = |config: &mut ha_postgres::InstanceConfig| {
        config.superuser.password = Secret::new(SECRETS[0]).into();
        config.replication.password = Secret::new(SECRETS[1]).into();
        config.parameters.insert("log_statement".to_owned(), "all".to_owned());
        config.parameters.insert("log_connections".to_owned(), "on".to_owned());
        config.parameters.insert("log_replication_commands".to_owned(), "on".to_owned());
    };
    let done = std::sync::Arc::new(AtomicBool::new(false));
    let watching = std::sync::Arc::clone(&done);
    let watch = std::thread::spawn(move || {
        while !watching.load(Ordering::Relaxed) {
            if let Some(seen) = seen_in_processes(&SECRETS) {
                return Some(seen);
            }
        }
        None
    });
    let (n1, n2) = (Node::with("n1", secret), Node::with("n2", secret));
    n1.become_primary().await;
    n2.driver.clone_from(&n1.upstream(), None, &|_, _| {}, soon(60)).await.unwrap();
    n2.start().await;
    n2.streams().await;
    n2.driver.follow(None, soon(10)).await.unwrap();
    n1.driver.probe_write(soon(5)).await.unwrap();
    n1.crash().await;
    n2.right(2);
    n2.promote().await;
    n2.driver.checkpoint(soon(10)).await.unwrap();
    n1.driver.rewind(&n2.upstream(), soon(30)).await.unwrap();
    n1.start().await;
    done.store(true, Ordering::Relaxed);
    assert_eq!(watch.join().unwrap(), None);
    for (node, secret_files) in [(&n1, 1), (&n2, 0)] {
        let mut found = Vec::new();
        files_with(node.dir.path(), &SECRETS, &mut found);
        // Whoever follows nobody needs no password, and shall not follow by mistake.
        assert_eq!(found.len(), secret_files, "{found:?}");
        for file in found {
            assert_eq!(file, node.dir.path().join("data.haclt/pgpass"));
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        for file in ["pg_hba.conf", "haclt_hba.conf"] {
            let text = std::fs::read_to_string(node.data().join(file)).unwrap();
            let rules = text.lines().filter(|line| !line.starts_with('#'));
            assert!(rules.clone().count() > 0 && rules.clone().all(|rule| !rule.contains("trust")));
        }
    }
    assert_eq!(format!("{:?}", n1.driver).matches("Secret\"").count(), 0);
}

#[tokio::test]
async fn are_read_again_by_order_unless_something_is_wrong_with_them() {
    let node = Node::new_primary("n1").await;
    let file = node.data().join("postgresql.conf");
    let original = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{original}\nwork_mem = '9MB'\nmax_connections = 77\n")).unwrap();
    let reloaded = node.driver.reload(soon(10)).await.unwrap();
    assert_eq!(reloaded.faults, Vec::<String>::new());
    assert_eq!(reloaded.pending_restart, ["max_connections"]);
    assert_eq!(node.sql("SHOW work_mem"), "9MB");
    std::fs::write(&file, format!("{original}\nwork_mem = 'much'\n")).unwrap();
    let reloaded = node.driver.reload(soon(10)).await.unwrap();
    assert!(reloaded.faults.iter().any(|fault| fault.contains("work_mem")), "{reloaded:?}");
    assert_eq!(node.sql("SHOW work_mem"), "9MB");
    std::fs::write(&file, original).unwrap();
    assert_eq!(node.driver.reload(soon(10)).await.unwrap().faults, Vec::<String>::new());
    assert_ne!(node.sql("SHOW work_mem"), "9MB");
}
