//! Who acknowledges commits, who may log in, what a detached standby has, and WAL from the spool.

#![expect(clippy::print_stderr, reason = "measurements, for whoever runs the tests")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver as Lines, channel};
use std::time::Duration;

use crate::support::{Node, SUPERUSER_PASSWORD, bin_dir, run_as, soon, until};
use ha_core::permit::StopMode;
use ha_core::{Lsn, NodeId};
use ha_postgres::driver::{ActionError, Detached, PostgresDriver, Receivers, Synchronous};
use rustix::process::Signal;
use tokio::time::Instant;

/// A session that stays open.
struct Session {
    psql: Child,
    input: ChildStdin,
    lines: Lines<String>,
}

impl Session {
    fn open(node: &Node) -> Self {
        let mut psql = Command::new(bin_dir().join("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-d", "postgres", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-p", &node.port.to_string()])
            .env("PGPASSWORD", SUPERUSER_PASSWORD)
            .current_dir("/");
        let mut psql = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (psql.stdin.take().unwrap(), psql.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _nobody_listens = send.send(line);
            }
        });
        let mut session = Self { psql, input, lines };
        session.begin("SELECT 'open'");
        session.ends_with("open");
        session
    }

    fn begin(&mut self, sql: &str) {
        writeln!(self.input, "{sql};").unwrap();
        self.input.flush().unwrap();
    }

    fn ends_with(&self, line: &str) {
        assert_eq!(self.lines.recv_timeout(Duration::from_secs(20)).as_deref(), Ok(line));
    }

    /// Begins a commit that says so when it is acknowledged.
    fn commit(&mut self, value: u32) {
        self.begin(&format!("INSERT INTO t VALUES ({value}) RETURNING 'committed'"));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ended = self.psql.kill();
        let _ended = self.psql.wait();
    }
}

fn any(names: &[&str]) -> Synchronous {
    Synchronous::Any {
        required: 1,
        members: names.iter().map(|name| name.parse().unwrap()).collect(),
    }
}

async fn receivers(node: &Node) -> Receivers {
    node.driver.receivers(soon(5)).await.unwrap()
}

async fn waits(node: &Node, sessions: u32) -> Receivers {
    until("the commit waits", async || {
        Some(receivers(node).await).filter(|seen| seen.waiting == sessions)
    })
    .await
}

/// Waits until the standby has said what it has flushed.
async fn is_heard(primary: &Node, name: &str) -> i32 {
    until("the standby is heard", async || {
        let seen = receivers(primary).await;
        seen.rows.iter().find(|row| row.name == name && row.flushed > Lsn::ZERO).map(|row| row.pid)
    })
    .await
}

fn server_log(node: &Node) -> String {
    let directory = node.driver.config().log_dir.join("postgresql");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

async fn primary_with_table() -> Node {
    let n1 = Node::new_primary("n1").await;
    n1.sql("CREATE TABLE t (i int)");
    n1
}

/// Rule 100: it is not called on before every backend that existed has read it.
#[tokio::test]
async fn sessions_that_were_open_before_wait_from_the_barrier_on_rule_100() {
    let n1 = primary_with_table().await;
    let n2 = Node::new_standby("n2", &n1).await;
    is_heard(&n1, "n2").await;
    let mut sessions: Vec<Session> = (0..4).map(|_| Session::open(&n1)).collect();
    for session in &mut sessions {
        session.commit(1);
        session.ends_with("committed");
    }
    let committed = n1.committed();
    let began = Instant::now();
    let behind = n1.driver.settle_synchronous(&any(&["n9"]), soon(10)).await.unwrap();
    eprintln!("barrier from nobody: {:?}", began.elapsed());
    assert!(behind >= committed, "{behind} is before {committed}");
    for session in &mut sessions {
        session.commit(2);
    }
    let seen = waits(&n1, 4).await;
    assert_eq!(seen.setting, any(&["n9"]).setting());
    assert!(seen.rows.iter().all(|row| row.priority == 0), "{seen:?}");
    let began = Instant::now();
    let later = n1.driver.settle_synchronous(&any(&["n2"]), soon(10)).await.unwrap();
    eprintln!("barrier from one to another: {:?}", began.elapsed());
    assert!(later > behind);
    for session in &sessions {
        session.ends_with("committed");
    }
    assert_eq!(receivers(&n1).await.waiting, 0);
    // What was tested with hangs nowhere and alarmed nobody.
    assert_eq!(n1.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), "0");
    assert!(!server_log(&n1).contains("cancel"), "{}", server_log(&n1));
    let refused = n2.driver.settle_synchronous(&any(&["n1"]), soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Failed { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_commit_waits_while_closed_and_goes_on_with_the_first_who_counts() {
    let n1 = primary_with_table().await;
    let _n2 = Node::new_standby("n2", &n1).await;
    n1.driver.set_synchronous(&Synchronous::Closed, soon(10)).await.unwrap();
    assert_eq!(n1.driver.probe(soon(5)).await.unwrap().synchronous, "FIRST 1 (haclt_nobody)");
    let mut session = Session::open(&n1);
    loop {
        session.commit(1);
        if session.lines.recv_timeout(Duration::from_millis(300)).is_err() {
            break;
        }
        // The checkpointer has yet to read it.
    }
    let waiting = waits(&n1, 1).await;
    until("it waits for longer", async || {
        let seen = receivers(&n1).await;
        (seen.longest_wait_ms > waiting.longest_wait_ms + 100).then_some(())
    })
    .await;
    n1.driver.probe_write(soon(5)).await.unwrap();
    n1.driver.set_synchronous(&any(&["n2"]), soon(10)).await.unwrap();
    session.ends_with("committed");
    // Again, when nothing is to be changed.
    let began = Instant::now();
    n1.driver.set_synchronous(&any(&["n2"]), soon(10)).await.unwrap();
    eprintln!("setting what is set: {:?}", began.elapsed());
    let began = Instant::now();
    for _ in 0..100 {
        receivers(&n1).await;
    }
    eprintln!("a look at receivers: {:?}", began.elapsed() / 100);
}

#[tokio::test]
async fn a_promoted_standby_acknowledges_nothing_before_it_is_told_by_whom() {
    let n1 = primary_with_table().await;
    let n2 = Node::new_standby("n2", &n1).await;
    n2.catches_up_with(&n1).await;
    n1.stop(StopMode::Fast).await;
    n2.driver.detach(soon(10)).await.unwrap();
    n2.right(2);
    let began = Instant::now();
    n2.driver.promote(soon(10)).await.unwrap();
    let promoted = began.elapsed();
    eprintln!("promotion with a spool: {promoted:?}");
    let mut session = Session::open(&n2);
    session.commit(1);
    waits(&n2, 1).await;
    let began = Instant::now();
    n2.driver.settle_synchronous(&any(&["n1"]), soon(10)).await.unwrap();
    eprintln!("barrier after a promotion: {:?}", began.elapsed());
    waits(&n2, 1).await;
    // The user of the peers can be mended although commits wait.
    n2.driver.keep_internal_user(soon(5)).await.unwrap();
    n2.crash().await;
    n2.driver.prepare_restart_in_place(true, soon(10)).await.unwrap();
    n2.next_run();
    n2.right(2);
    n2.answers().await;
    assert_eq!(receivers(&n2).await.setting, Synchronous::Closed.setting());
    n2.driver.settle_synchronous(&Synchronous::Nobody, soon(10)).await.unwrap();
    n2.sql("INSERT INTO t VALUES (2)");
}

#[tokio::test]
async fn the_barrier_does_not_trust_a_setting_that_the_checkpointer_has_not_read() {
    let n1 = primary_with_table().await;
    let mut session = Session::open(&n1);
    let ask = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let checkpointer: i32 = n1.sql(ask).parse().unwrap();
    n1.signal(checkpointer, Signal::STOP);
    let limit = Instant::now() + Duration::from_millis(700);
    let early = n1.driver.settle_synchronous(&any(&["n2"]), limit).await;
    // Live in every new session, and yet nothing waits.
    let seen = receivers(&n1).await;
    session.commit(1);
    session.ends_with("committed");
    n1.signal(checkpointer, Signal::CONT);
    assert!(matches!(early, Err(ActionError::TimedOut { .. })), "{early:?}");
    assert_eq!(seen.setting, Synchronous::Closed.setting());
    n1.driver.settle_synchronous(&any(&["n2"]), soon(10)).await.unwrap();
    session.commit(2);
    waits(&n1, 1).await;
}

#[tokio::test]
async fn a_frozen_walsender_is_ended_by_the_barrier() {
    let n1 = primary_with_table().await;
    let _n2 = Node::new_standby("n2", &n1).await;
    is_heard(&n1, "n2").await;
    n1.driver.settle_synchronous(&any(&["n2"]), soon(10)).await.unwrap();
    let sender = until("it counts", async || {
        receivers(&n1).await.rows.into_iter().find(|row| row.priority > 0)
    })
    .await;
    n1.signal(sender.pid, Signal::STOP);
    let began = Instant::now();
    n1.driver.settle_synchronous(&any(&["n3"]), soon(10)).await.unwrap();
    eprintln!("barrier with a frozen walsender: {:?}", began.elapsed());
    let seen = receivers(&n1).await;
    assert!(seen.rows.iter().all(|row| row.pid != sender.pid), "{seen:?}");
    let mut session = Session::open(&n1);
    session.commit(1);
    waits(&n1, 1).await;
    // It is back, and counts for nothing.
    is_heard(&n1, "n2").await;
    waits(&n1, 1).await;
    assert!(session.lines.try_recv().is_err());
}

#[tokio::test]
async fn what_alter_system_says_about_it_is_reset() {
    let n1 = primary_with_table().await;
    let n2 = Node::new_standby("n2", &n1).await;
    n1.driver.set_synchronous(&any(&["n2"]), soon(10)).await.unwrap();
    for node in [&n1, &n2] {
        let to = any(&["n2"]);
        node.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
        node.sql("SELECT pg_reload_conf()");
        node.driver.set_synchronous(&to, soon(10)).await.unwrap();
        assert_eq!(node.sql("SHOW synchronous_standby_names"), to.setting());
        let auto = node.data().join("postgresql.auto.conf");
        assert!(!std::fs::read_to_string(auto).unwrap().contains("synchronous"));
    }
    // Its own upstream, too.
    n2.sql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'");
    n2.driver.detach(soon(10)).await.unwrap();
    assert_eq!(n2.sql("SHOW primary_conninfo"), "");
}

#[tokio::test]
async fn a_detached_standby_receives_nothing_more_until_it_follows_again() {
    let n1 = primary_with_table().await;
    let n2 = Node::new_standby("n2", &n1).await;
    for round in 0..5 {
        let caught = n2.catches_up_with(&n1).await;
        assert!(caught.wal_receiver);
        let committed = n1.committed();
        until("it has it", async || {
            let seen = receivers(&n1).await;
            seen.rows.iter().any(|row| row.flushed >= committed).then_some(())
        })
        .await;
        let began = Instant::now();
        let detached = n2.driver.detach(soon(10)).await.unwrap();
        eprintln!("detach: {:?}", began.elapsed());
        assert!(detached.flushed >= committed, "{detached:?}");
        assert_eq!(detached.timeline, caught.timeline);
        // On a busy machine replay needs a moment to notice; nothing is received meanwhile.
        let first = detached;
        let detached = until("replay has noticed", async || {
            Some(n2.driver.detach(soon(10)).await.unwrap()).filter(|seen| seen.exhausted)
        })
        .await;
        assert_eq!((detached.timeline, detached.flushed), (first.timeline, first.flushed));
        let ahead = n1.committed();
        n1.sql("SELECT pg_switch_wal()");
        // As when it is asked twice; and several turns of the startup process later.
        for _ in 0..3 {
            let again = n2.driver.detach(soon(10)).await.unwrap();
            // Replay that looks for more in this very moment is not known to have seen the end: the cautious
            // answer, which no election goes by.
            let positions = |it: &Detached| Detached { exhausted: true, ..*it };
            assert_eq!(positions(&again), positions(&detached));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let seen = n2.driver.probe(soon(5)).await.unwrap();
        assert!(!seen.wal_receiver && !seen.streaming && seen.flushed < ahead, "{seen:?}");
        assert!(receivers(&n1).await.rows.is_empty(), "round {round}");
        n2.driver.follow(Some(&n1.upstream()), soon(10)).await.unwrap();
        n2.streams().await;
    }
    let refused = n1.driver.detach(soon(5)).await;
    assert!(matches!(refused, Err(ActionError::Failed { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_standby_whose_replay_is_held_up_is_detached_all_the_same() {
    let n1 = primary_with_table().await;
    let n2 = Node::with("n2", |config| {
        let never = "-1".to_owned();
        config.parameters.insert("max_standby_streaming_delay".to_owned(), never);
    });
    n2.driver.clone_from(&n1.upstream(), None, &|_, _| {}, soon(60)).await.unwrap();
    n2.start().await;
    n2.streams().await;
    n2.catches_up_with(&n1).await;
    // A query on the standby that replay must wait for: it does not look at its settings then.
    let mut reader = Session::open(&n2);
    reader.begin("BEGIN; SELECT 'read' FROM t UNION ALL SELECT 'read' LIMIT 1");
    reader.ends_with("read");
    n1.sql("ALTER TABLE t ADD COLUMN j int");
    let committed = n1.committed();
    until("it has received it", async || {
        let seen = n2.driver.probe(soon(5)).await.unwrap();
        (seen.flushed >= committed && seen.replayed < committed).then_some(())
    })
    .await;
    let began = Instant::now();
    let detached = n2.driver.detach(soon(10)).await.unwrap();
    eprintln!("detach while replay is held up: {:?}", began.elapsed());
    assert!(detached.flushed >= committed && detached.replayed < committed, "{detached:?}");
    assert!(!detached.exhausted);
    let ahead = n1.committed();
    drop(reader);
    let later = until("all is replayed", async || {
        Some(n2.driver.detach(soon(10)).await.unwrap()).filter(|seen| seen.exhausted)
    })
    .await;
    assert_eq!(later.flushed, detached.flushed);
    assert!(later.replayed >= committed && later.flushed < ahead, "{later:?}");
}

#[tokio::test]
async fn ordinary_clients_are_kept_out_and_let_in() {
    let n1 = Node::new_primary("n1").await;
    n1.sql("CREATE ROLE app LOGIN PASSWORD 'app'");
    let n2 = Node::new_standby("n2", &n1).await;
    let enters = |user: &str, password: &str| n1.psql(user, password, "SELECT 1").status.success();
    assert!(enters("app", "app"));
    let began = Instant::now();
    n1.driver.admit_clients(false, soon(10)).await.unwrap();
    eprintln!("keeping clients out: {:?}", began.elapsed());
    let refused = n1.psql("app", "app", "SELECT 1");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("reject"), "{refused:?}");
    assert!(enters("postgres", SUPERUSER_PASSWORD));
    n1.driver.admit_clients(false, soon(10)).await.unwrap();
    // A standby comes back meanwhile.
    n2.driver.detach(soon(10)).await.unwrap();
    n2.driver.follow(Some(&n1.upstream()), soon(10)).await.unwrap();
    n2.streams().await;
    n1.driver.admit_clients(true, soon(10)).await.unwrap();
    assert!(enters("app", "app"));
    n1.crash().await;
    n1.driver.prepare_restart_in_place(false, soon(10)).await.unwrap();
    n1.next_run();
    n1.right(1);
    n1.answers().await;
    assert!(!enters("app", "app"));
    n1.driver.admit_clients(true, soon(10)).await.unwrap();
    assert!(enters("app", "app"));
    assert!(n2.psql("app", "app", "SELECT 1").status.success());
}

#[tokio::test]
async fn a_faulty_rule_is_named_when_clients_are_to_be_let_in() {
    let node = Node::with("n1", |config| config.hba = vec!["host all all all scram".to_owned()]);
    node.driver.initdb(soon(60)).await.unwrap();
    let file = node.data().join("haclt_hba.conf");
    // The server would not start with it.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(" scram\n", " scram-sha-256\n")).unwrap();
    node.start().await;
    let refused = node.driver.admit_clients(true, soon(5)).await;
    let Err(ActionError::Cannot { why, .. }) = refused else { panic!("{refused:?}") };
    assert!(why.contains("line 6") && why.contains("scram"), "{why}");
}

#[tokio::test]
async fn wal_in_the_spool_is_replayed_and_the_next_start_finds_it_empty() {
    let n1 = primary_with_table().await;
    let n2 = Node::new_standby("n2", &n1).await;
    n2.catches_up_with(&n1).await;
    let detached = n2.driver.detach(soon(10)).await.unwrap();
    n1.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    let committed = n1.committed();
    let name = n1.sql(&format!("SELECT pg_walfile_name('{committed}')"));
    n1.sql("SELECT pg_switch_wal()");
    let place = n2.driver.spool().join(&name);
    let scratch = n2.driver.spool().join("coming");
    std::fs::copy(n1.driver.wal_dir().join(&name), &scratch).unwrap();
    if let Some(owner) = run_as() {
        std::os::unix::fs::chown(&scratch, Some(owner.uid), Some(owner.gid)).unwrap();
    }
    std::fs::rename(&scratch, &place).unwrap();
    assert!(detached.flushed < committed);
    let began = Instant::now();
    let seen = until("it is replayed", async || {
        Some(n2.driver.detach(soon(10)).await.unwrap()).filter(|seen| seen.replayed >= committed)
    })
    .await;
    eprintln!("replayed from the spool after {:?}", began.elapsed());
    assert!(seen.flushed >= committed, "{seen:?}");
    assert_eq!(n2.sql("SELECT count(*) FROM t"), "1000");
    n2.driver.clear_spool().unwrap();
    assert!(!place.exists());
    std::fs::write(n2.driver.spool().join("old"), "").unwrap();
    n2.stop(StopMode::Fast).await;
    n2.driver.prepare_standby(Some(&n1.upstream()), soon(10)).await.unwrap();
    assert_eq!(std::fs::read_dir(n2.driver.spool()).unwrap().count(), 0);
    n2.start().await;
    n2.streams().await;
    n2.catches_up_with(&n1).await;
}

#[tokio::test]
async fn the_kept_session_survives_a_restart_and_callers_that_give_up() {
    let n1 = Node::new_primary("n1").await;
    let slot: NodeId = "n2".parse().unwrap();
    receivers(&n1).await;
    let pid = || {
        n1.sql(
            "SELECT string_agg(pid::text, ',') FROM pg_stat_activity \
             WHERE application_name = 'haclt' AND backend_type = 'client backend'",
        )
    };
    let before = pid();
    receivers(&n1).await;
    assert_eq!(pid(), before, "it is the same session");
    // Given up in the middle of an answer.
    for micros in [0, 50, 100, 200, 400, 800] {
        let look = n1.driver.receivers(soon(5));
        let _given_up = tokio::time::timeout(Duration::from_micros(micros), look).await;
        assert!(!receivers(&n1).await.in_recovery);
    }
    n1.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE application_name = 'haclt' AND backend_type = 'client backend'",
    );
    receivers(&n1).await;
    n1.driver.keep_slots(&[slot], &[], &[], soon(5)).await.unwrap();
    n1.stop(StopMode::Fast).await;
    assert!(n1.driver.receivers(soon(5)).await.is_err());
    n1.driver.prepare_standby(None, soon(10)).await.unwrap();
    n1.start().await;
    let seen = receivers(&n1).await;
    assert!(seen.in_recovery && seen.flushed > Lsn::ZERO && seen.timeline.0 == 2, "{seen:?}");
}
