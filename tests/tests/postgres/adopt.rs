//! A server of the distribution, without any container, becomes the cluster's, and an ordinary server
//! again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ha_tests::node::{Node, SUPERUSER_PASSWORD, chown};
use ha_tests::programs::{self, said};
use ha_tests::{Plan, eventually, scenario, within};

/// An ordinary server: data, configuration and sockets where its owner had them.
struct Old {
    data: PathBuf,
    /// Where its configuration is, if not with the data.
    etc: PathBuf,
    sockets: PathBuf,
}

impl Old {
    /// Makes a server below `base`, as Debian would: its configuration apart from the data.
    fn make(base: &Path, data: &Path) -> Self {
        let (etc, sockets) = (base.join("etc"), base.join("s"));
        for dir in [base, &etc, &sockets, data.parent().expect("a directory above")] {
            std::fs::create_dir_all(dir).expect("a writable directory");
            chown(dir);
        }
        let password = base.join("password");
        std::fs::write(&password, format!("{SUPERUSER_PASSWORD}\n")).expect("writable");
        chown(&password);
        let (flag, place) =
            (format!("--pwfile={}", password.display()), data.display().to_string());
        let words =
            ["-U", "postgres", "--auth-local=peer", "--auth-host=scram-sha-256", "--no-sync"];
        as_server("initdb", &[&words[..], &[&flag, "-D", &place]].concat());
        for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            std::fs::rename(data.join(file), etc.join(file)).expect("what initdb made");
        }
        let old = Self { data: data.to_owned(), etc, sockets };
        let place = |name: &str| old.etc.join(name).display().to_string();
        let mut conf = std::fs::read_to_string(place("postgresql.conf")).expect("readable");
        for (name, value) in [
            ("data_directory", old.data.display().to_string()),
            ("hba_file", place("pg_hba.conf")),
            ("ident_file", place("pg_ident.conf")),
            ("unix_socket_directories", old.sockets.display().to_string()),
            ("listen_addresses", String::new()),
            ("work_mem", "7MB".to_owned()),
            ("autovacuum", "off".to_owned()),
            ("port", "5499".to_owned()),
            ("max_wal_senders", "3".to_owned()),
            ("dynamic_shared_memory_type", "mmap".to_owned()),
        ] {
            writeln!(conf, "{name} = '{value}'").expect("writing to a String cannot fail");
        }
        std::fs::write(place("postgresql.conf"), conf).expect("writable");
        let mut rules = std::fs::read_to_string(place("pg_hba.conf")).expect("readable");
        rules.push_str("host orders app 127.0.0.0/8 trust\n");
        std::fs::write(place("pg_hba.conf"), rules).expect("writable");
        old.start();
        old.sql("create role app login");
        old.sql("create database orders owner app");
        old.sql("create table bills as select n as id from generate_series(1, 500) n");
        old
    }

    fn start(&self) {
        let options = format!("-c config_file={}", self.etc.join("postgresql.conf").display());
        let log = self.etc.join("log").display().to_string();
        let data = self.data.display().to_string();
        as_server("pg_ctl", &["start", "-w", "-s", "-o", &options, "-l", &log, "-D", &data]);
    }

    fn stop(&self) {
        let data = self.data.display().to_string();
        as_server("pg_ctl", &["stop", "-w", "-s", "-m", "fast", "-D", &data]);
    }

    fn sql(&self, statement: &str) -> String {
        let host = self.sockets.display().to_string();
        as_server("psql", &["-XAtq", "-h", &host, "-p", "5499", "-c", statement])
    }

    fn runs(&self) -> bool {
        self.data.join("postmaster.pid").exists()
    }
}

/// Runs one of PostgreSQL's programs as the server's user; panics if it fails.
fn as_server(name: &str, words: &[&str]) -> String {
    let program = programs::postgres_dir().join(name);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    let quiet = name == "pg_ctl";
    command.args(words).current_dir("/").stdin(std::process::Stdio::null());
    if quiet {
        // A server that it starts would hold a pipe open.
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let status = command.status().expect("the program can be run");
        assert!(status.success(), "{name} {words:?}: {status}");
        return String::new();
    }
    let output = command.output().expect("the program can be run");
    assert!(output.status.success(), "{name} {words:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs `haclt adopt` for a node; returns its exit code and what it said.
fn adopt(node: &Node, words: &[&str]) -> (i32, String) {
    let config = node.write_config();
    let mut command = Command::new(programs::program("haclt"));
    command.args(["adopt", "--config"]).arg(config).args(words);
    let output = command.stdin(std::process::Stdio::null()).output().expect("haclt can be run");
    (output.status.code().unwrap_or(-1), said(&output))
}

/// Every file and its content, but for what a running server changes by itself.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("readable").filter_map(Result::ok) {
            let path = entry.path();
            let name = path.display().to_string();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            } else if !["pg_wal", "pg_control", "pg_internal.init", "pg_stat", "pg_dynshmem"]
                .iter()
                .any(|n| name.contains(n))
            {
                found.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

#[test]
fn a_server_of_the_distribution_becomes_the_clusters_with_its_data_settings_and_rules() {
    scenario(Plan::within(150), async |c| {
        let base = c.base.join("old");
        let old = Old::make(&base, &base.join("main"));
        // The first connection to a database leaves files.
        for database in ["orders", "template1"] {
            let host = old.sockets.display().to_string();
            as_server(
                "psql",
                &["-XAtq", "-h", &host, "-p", "5499", "-d", database, "-c", "checkpoint"],
            );
        }
        let before = files(&base);
        let dir = old.data.display().to_string();
        let from = ["--from-data-dir", dir.as_str()];
        let (code, text) = adopt(c.node("n1"), &from);
        assert_eq!(code, 0, "{text}");
        for wanted in [
            "postgresql.conf in the data directory",
            "max_wal_senders = 3 -> max_wal_senders = 16",
            "port = 5499 -> port = ",
            "the server: it runs -> it is stopped in order",
            "work_mem",
        ] {
            let text = text.replace("  server:", "  the server:");
            assert!(text.contains(wanted), "{wanted:?} in {text}");
        }
        let changed: Vec<PathBuf> = files(&base)
            .into_iter()
            .filter(|(n, t)| before.get(n) != Some(t))
            .map(|(n, _)| n)
            .collect();
        assert_eq!(changed, Vec::<PathBuf>::new(), "a dry run changes nothing");
        assert!(old.runs());
        let (code, text) = adopt(c.node("n1"), &[&from[..], &["--yes"]].concat());
        assert_eq!(code, 0, "{text}");
        assert!(!old.runs());
        c.start_agents();
        c.healthy(within(90)).await;
        let n1 = c.node("n1");
        assert_eq!(n1.sql("select count(*) from bills").await.as_deref(), Ok("500"));
        assert_eq!(n1.sql("show work_mem").await.as_deref(), Ok("7MB"));
        assert_eq!(n1.sql("show max_wal_senders").await.as_deref(), Ok("16"));
        let rules = std::fs::read_to_string(n1.pgdata().join("haclt_hba.conf")).expect("readable");
        assert!(rules.ends_with("host orders app 127.0.0.0/8 trust\n"), "{rules}");
        let n2 = c.node("n2");
        eventually("the clone has it all, the rules too", within(30), async || {
            let rows = n2.sql("select count(*) from bills").await.ok()?;
            (rows == "500" && n2.pgdata().join("haclt_user_hba.conf").exists()).then_some(())
        })
        .await;
    });
}

#[test]
fn an_adoption_in_place_that_was_undone_leaves_the_server_as_it_was() {
    scenario(Plan::within(90), async |c| {
        let data = c.node("n1").pgdata();
        std::fs::remove_dir(&data).expect("an empty directory");
        let old = Old::make(&c.base.join("old"), &data);
        let dir = data.display().to_string();
        let do_it = ["--from-data-dir", dir.as_str(), "--yes"];
        let (code, text) = adopt(c.node("n1"), &do_it);
        assert_eq!(code, 0, "{text}");
        assert!(!old.runs() && data.join("haclt_user_hba.conf").exists());
        let (code, text) = adopt(c.node("n1"), &["--undo", "--yes"]);
        assert!(code == 0 && text.contains("undone: "), "{code} {text}");
        let names: Vec<String> = std::fs::read_dir(&data)
            .expect("readable")
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        let ours =
            names.iter().find(|name| name.starts_with("haclt") || *name == "postgresql.conf");
        assert_eq!(ours, None, "{names:?}");
        old.start();
        assert_eq!(old.sql("select count(*) from bills"), "500");
        assert_eq!(old.sql("show work_mem"), "7MB");
        old.stop();
        // Nothing stands in the way of doing it once more, and going back from work.
        old.start();
        let (code, text) = adopt(c.node("n1"), &do_it);
        assert_eq!(code, 0, "{text}");
        c.start_agents();
        c.healthy(within(60)).await;
        let (code, text) = adopt(c.node("n1"), &["--undo", "--yes"]);
        assert!(code == 3 && text.contains("the agent of this node is running"), "{code} {text}");
        let n1 = c.node("n1");
        n1.sql("insert into bills values (501)").await.expect("a primary");
        let other = c.node_mut("n2");
        other.stop_agent(within(30)).await;
        c.primary_is("n1", within(30)).await;
        c.node_mut("n1").stop_agent(within(60)).await;
        let (code, text) = adopt(c.node("n1"), &["--undo", "--yes"]);
        assert!(code == 0 && text.contains("undone: "), "{code} {text}");
        old.start();
        assert_eq!(old.sql("select count(*) from bills"), "501");
        assert_eq!(old.sql("select count(*) from pg_replication_slots"), "0");
        old.stop();
        let (code, text) = adopt(c.node("n1"), &["--undo", "--yes"]);
        assert!(code == 1 && text.contains("was not adopted: nothing to undo"), "{code} {text}");
        for node in c.nodes_mut() {
            node.kill_agent();
        }
    });
}
