//! WAL files of real servers: read, received, kept, and given to a node that lacks them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Node, REPLICATION_PASSWORD, bin_dir, run_as, soon, until};
use ha_core::permit::StopMode;
use ha_core::{Lsn, NodeId, TimelineId, WalPosition};
use ha_postgres::driver::{PostgresDriver, Upstream};
use ha_postgres::wal::files::{Tip, WalName, list, segment_name, serve, tip_of_server};
use ha_postgres::wal::receiver::{ReceiveError, Receiver, ReceiverConfig, tools};
use ha_postgres::wal::scan::{end_of_records, read_header};
use ha_postgres::wal::store::WalStore;
use ha_postgres::{Role, Secret};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::task::JoinHandle;

const SEGMENT: u64 = 16 << 20;

/// A node that keeps WAL and runs no server.
struct Witness {
    dir: TempDir,
    name: NodeId,
    receiver: Receiver,
    store: WalStore,
}

/// A receiver at work; dropping it ends it.
struct Receiving(JoinHandle<ReceiveError>);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Witness {
    fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("ha-postgres-test-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let wal = dir.path().join("wal");
        let name: NodeId = name.parse().unwrap();
        let receiver = Receiver::new(ReceiverConfig {
            node: name.clone(),
            bin_dir: bin_dir(),
            dir: wal.clone(),
            replication: Role {
                name: "haclt_replication".to_owned(),
                password: Secret::new(REPLICATION_PASSWORD).into(),
            },
            run_as: run_as(),
        });
        Self { dir, name, receiver, store: WalStore::open(wal).unwrap() }
    }

    fn slot_on(&self, node: &Node) {
        node.sql(&format!("SELECT pg_create_physical_replication_slot('{}', true)", self.name));
    }

    fn receive_from(&self, node: &Node) -> Receiving {
        let (receiver, upstream) = (self.receiver.clone(), node.upstream());
        Receiving(tokio::spawn(async move {
            let Err(error) = receiver.run(&upstream).await;
            error
        }))
    }

    async fn end_of_receiving(&self, upstream: &Upstream) -> ReceiveError {
        let run = tokio::time::timeout_at(soon(20), self.receiver.run(upstream));
        let Err(error) = run.await.expect("it ends by itself");
        error
    }

    fn pids(&self) -> Vec<i32> {
        let mark = format!("HACLT_DATA_DIR={}", self.store.dir().display());
        let pid = |entry: std::io::Result<fs::DirEntry>| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            environment.split(|b| *b == 0).any(|e| e == mark.as_bytes()).then_some(pid)
        };
        fs::read_dir("/proc").unwrap().filter_map(pid).collect()
    }

    async fn has(&self, lsn: Lsn) -> Tip {
        until(&format!("the witness has {lsn}"), async || {
            let tip = self.store.tip().unwrap()?;
            (tip.end.lsn >= lsn).then_some(tip)
        })
        .await
    }

    async fn stops(&self, receiving: Receiving) {
        drop(receiving);
        self.receiver.ended(soon(5)).await.unwrap();
        assert_eq!(self.pids(), [0; 0], "nothing is left");
    }
}

fn as_server_user(program: &str) -> Command {
    let mut command = Command::new(bin_dir().join(program));
    if let Some(user) = run_as() {
        command.uid(user.uid).gid(user.gid);
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn give(path: &Path) {
    if let Some(user) = run_as() {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

/// Clients that write records of all sizes until this is dropped.
struct Load(Child);

impl Load {
    fn on(node: &Node) -> Self {
        node.sql("CREATE TABLE IF NOT EXISTS load (i int, t text)");
        let script = "DO $$ BEGIN FOR i IN 1..100000 LOOP \
             INSERT INTO load SELECT n, repeat('x', (random() * 900)::int) \
               FROM generate_series(1, (random() * 40)::int) n; \
             PERFORM pg_logical_emit_message(false, 'load', repeat('y', (random() * 30000)::int)); \
             IF i % 400 = 0 THEN PERFORM pg_switch_wal(); END IF; \
             COMMIT; END LOOP; END $$";
        let child = Command::new(bin_dir().join("psql"))
            .args(["-X", "-q", "-d", "postgres", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-p", &node.port.to_string(), "-c", script])
            .env("PGPASSWORD", crate::support::SUPERUSER_PASSWORD)
            .current_dir("/")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn flushed(node: &Node) -> Lsn {
    node.sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap()
}

fn timeline(node: &Node) -> TimelineId {
    let name = node.sql("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
    TimelineId(u32::from_str_radix(&name[..8], 16).unwrap())
}

/// What `pg_waldump` says of a copy: the first record it finds, and the end of the last.
fn dumped(dir: &Path, timeline: TimelineId, first: u64, last: u64) -> (Lsn, Lsn) {
    let output = as_server_user("pg_waldump")
        .args([format!("--timeline={timeline}"), format!("--start={}", Lsn(first * SEGMENT))])
        .arg(format!("--end={}", Lsn((last + 1) * SEGMENT)))
        .arg("--path")
        .arg(dir)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let records: Vec<&str> = text.lines().filter(|line| line.contains("lsn: ")).collect();
    let after = |line: &str, word: &str| line.split(word).nth(1).unwrap().to_owned();
    let begin =
        |line: &str| -> Lsn { after(line, "lsn: ").split(',').next().unwrap().parse().unwrap() };
    let last = records.last().expect("it holds records");
    let lengths = after(last, "len (rec/tot):");
    let total = lengths.split(',').next().unwrap().split('/').nth(1).unwrap();
    let (mut at, mut left) =
        (begin(last).0, total.trim().parse::<u64>().unwrap().next_multiple_of(8));
    loop {
        if at.is_multiple_of(8192) {
            at += if at.is_multiple_of(SEGMENT) { 40 } else { 24 };
        }
        let room = 8192 - at % 8192;
        if left <= room {
            at += left;
            break;
        }
        (at, left) = (at + room, left - room);
    }
    if last.contains("desc: SWITCH") {
        at = at.next_multiple_of(SEGMENT);
    }
    (begin(records[0]), Lsn(at))
}

/// Copies the segments from a number on, as they are at this moment.
fn copied(pg_wal: &Path, from: u64, to: &Path) {
    for file in list(pg_wal).unwrap() {
        if file.name.number(SEGMENT).is_some_and(|number| number >= from) {
            let copy = to.join(file.path.file_name().unwrap());
            if fs::copy(&file.path, &copy).is_ok() {
                give(&copy);
            }
        }
    }
}

#[tokio::test]
async fn the_scan_of_a_server_under_load_ends_where_pg_waldump_ends() {
    let n1 = Node::new_primary("n1").await;
    let timeline = timeline(&n1);
    let load = Load::on(&n1);
    let pg_wal = n1.data().join("pg_wal");
    for round in 0..25 {
        let grown = flushed(&n1).0 + 300_000;
        until("there is more WAL", async || (flushed(&n1).0 > grown).then_some(())).await;
        let copy = tempfile::tempdir().unwrap();
        fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let before = flushed(&n1);
        let number = (before.0 - 1) / SEGMENT;
        copied(&pg_wal, number, copy.path());
        let last = list(copy.path()).unwrap().last().unwrap().name.number(SEGMENT).unwrap();
        let (first, end) = dumped(copy.path(), timeline, number, last);
        let tip = tip_of_server(copy.path(), timeline, &[], first, Lsn::ZERO).unwrap();
        assert_eq!(tip.end, WalPosition { timeline, lsn: end }, "round {round}");
        assert!(tip.end.lsn >= before, "round {round}: {tip:?} is before {before}");
        let in_last = end_of_records(copy.path(), timeline, (end.0 - 1) / SEGMENT, None).unwrap();
        assert_eq!(in_last.end, end, "round {round}: {in_last:?}");
    }
    drop(load);
    // And once the last of them has gone, to the byte, up to what is flushed: before, that may lie in a
    // record.
    let history = n1.driver.local_history().unwrap();
    let end = until("nobody writes, and the scan ends at what is flushed", async || {
        let committed = n1.committed();
        let end = flushed(&n1);
        let tip = tip_of_server(&pg_wal, timeline, &history, committed, end).unwrap();
        (tip.end.lsn == end && tip.damaged.is_none()).then_some(end)
    })
    .await;
    let header = read_header(&pg_wal.join(segment_name(timeline, (end.0 - 1) / SEGMENT, SEGMENT)));
    let header = header.unwrap();
    let identifier = n1.sql("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(header.system_identifier.to_string(), identifier);
    assert_eq!(header.segment_bytes, SEGMENT);
    assert_eq!(header.major(), tools(&bin_dir()).ok());
}

#[tokio::test]
async fn a_receiver_is_killed_at_any_time_and_goes_on() {
    let n1 = Node::new_primary("n1").await;
    let n3 = Witness::new("n3");
    n3.slot_on(&n1);
    let load = Load::on(&n1);
    let mut seen = Lsn::ZERO;
    for round in 0..6 {
        let receiving = n3.receive_from(&n1);
        let committed = n1.committed();
        n3.has(committed).await;
        // What it had acknowledged it still has when it is dead, and says so exactly.
        let kept = "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'n3'";
        let acknowledged = n1.sql(kept).parse().unwrap_or(Lsn::ZERO);
        if round % 2 == 0 {
            n3.stops(receiving).await;
        } else {
            let pids = n3.pids();
            assert_eq!(pids.len(), 1, "{pids:?}");
            kill_process(Pid::from_raw(pids[0]).unwrap(), Signal::KILL).unwrap();
            let mut receiving = receiving;
            let error = (&mut receiving.0).await.unwrap();
            assert!(matches!(error, ReceiveError::Ended(_)), "{error}");
        }
        let tip = n3.store.tip().unwrap().unwrap();
        assert_eq!(tip.damaged, None);
        assert!(tip.end.lsn >= seen.max(committed), "round {round}: {tip:?}");
        assert!(tip.written.lsn >= acknowledged, "round {round}: {tip:?}, {acknowledged}");
        seen = tip.end.lsn;
    }
    drop(load);
    let mut seen: Vec<u8> = fs::read(n3.dir.path().join("wal.pass")).unwrap();
    seen.truncate(6);
    let mode = fs::metadata(n3.dir.path().join("wal.pass")).unwrap().permissions().mode();
    assert_eq!((seen.as_slice(), mode & 0o777), (b"*:*:*:".as_slice(), 0o600));
}

#[tokio::test]
async fn a_receiver_of_an_earlier_agent_is_killed() {
    let n3 = Witness::new("n3");
    let mut earlier = Command::new("sleep")
        .arg("600")
        .env("HACLT_DATA_DIR", n3.store.dir())
        .env("HACLT_STARTED_BY", "1:1")
        .spawn()
        .unwrap();
    assert!(n3.receiver.ended(soon(0)).await.is_err());
    n3.receiver.stop_leftovers(soon(5)).await.unwrap();
    n3.receiver.ended(soon(0)).await.unwrap();
    assert!(!earlier.wait().unwrap().success());
}

#[tokio::test]
async fn why_a_receiver_ends_is_told() {
    let n1 = Node::new_primary("n1").await;
    let n3 = Witness::new("n3");
    let error = n3.end_of_receiving(&n1.upstream()).await;
    assert_eq!(error, ReceiveError::SlotMissing);
    n3.slot_on(&n1);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = Upstream { port: nobody, ..n1.upstream() };
    let error = n3.end_of_receiving(&closed).await;
    assert!(matches!(error, ReceiveError::Unreachable(_)), "{error}");
    let receiving = n3.receive_from(&n1);
    n3.has(n1.committed()).await;
    let mut other = Witness::new("n3");
    let error = other.end_of_receiving(&n1.upstream()).await;
    assert!(matches!(error, ReceiveError::SlotInUse(_)), "{error}");
    n3.stops(receiving).await;
    // A directory that cannot be written.
    other.receiver = n3.receiver.clone();
    let segment = list(n3.store.dir()).unwrap().pop().unwrap().path;
    let partial = segment.file_name().unwrap().to_owned();
    fs::remove_file(&segment).unwrap();
    fs::create_dir(n3.store.dir().join(partial)).unwrap();
    let error = other.end_of_receiving(&n1.upstream()).await;
    assert!(matches!(error, ReceiveError::Disk(_)), "{error}");
    let mut config = n3.receiver.config().clone();
    config.replication.password = Secret::new("wrong").into();
    let Err(error) = Receiver::new(config).run(&n1.upstream()).await;
    assert!(matches!(error, ReceiveError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_change_of_timeline_is_followed() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let n3 = Witness::new("n3");
    n3.slot_on(&n1);
    n3.slot_on(&n2);
    n1.sql("CREATE TABLE t AS SELECT generate_series(1, 10000)");
    let receiving = n3.receive_from(&n1);
    n3.has(n1.committed()).await;
    n3.stops(receiving).await;
    // From the standby, and on when it is promoted.
    n2.catches_up_with(&n1).await;
    let receiving = n3.receive_from(&n2);
    n3.has(n1.committed()).await;
    n1.crash().await;
    n2.right(2);
    n2.promote().await;
    let tip = n3.has(n2.committed()).await;
    n3.stops(receiving).await;
    assert_eq!(tip.end.timeline, timeline(&n2));
    assert_eq!(tip.history, n2.driver.local_history().unwrap());
    assert_eq!(n3.store.set_aside(timeline(&n2), &tip.history).unwrap(), None);
}

#[tokio::test]
async fn wal_that_the_new_primary_lacks_is_set_aside_and_receiving_goes_on() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let n3 = Witness::new("n3");
    n3.slot_on(&n1);
    n3.slot_on(&n2);
    let receiving = n3.receive_from(&n1);
    n1.sql("CREATE TABLE t (i int)");
    n2.catches_up_with(&n1).await;
    n2.driver.follow(None, soon(10)).await.unwrap();
    until("n2 receives nothing", async || {
        let probe = n2.driver.probe(soon(5)).await.ok()?;
        (!probe.streaming).then_some(())
    })
    .await;
    n1.sql("INSERT INTO t SELECT generate_series(1, 1000); SELECT pg_switch_wal()");
    let lost = n3.has(n1.committed()).await;
    n1.crash().await;
    drop(receiving);
    n2.right(2);
    n2.promote().await;
    let error = n3.end_of_receiving(&n2.upstream()).await;
    assert!(matches!(error, ReceiveError::NotInHistory(_)), "{error}");
    let history = n2.driver.upstream_history(&n2.upstream(), soon(5)).await.unwrap();
    let aside = n3.store.set_aside(history.timeline, &history.switches).unwrap().unwrap();
    let fork = *history.switches.last().unwrap();
    assert_eq!(aside.fork, WalPosition { timeline: fork.timeline, lsn: fork.end });
    assert!(lost.end.lsn > fork.end);
    assert!(aside.segments >= 2, "{aside:?}");
    let receiving = n3.receive_from(&n2);
    let tip = n3.has(n2.committed()).await;
    assert_eq!((tip.end.timeline, tip.damaged), (history.timeline, None));
    n3.stops(receiving).await;
}

#[tokio::test]
async fn wal_that_is_gone_is_told() {
    let n1 = Node::with("n1", |config| {
        for (name, value) in [("wal_keep_size", "0"), ("max_slot_wal_keep_size", "16MB")] {
            config.parameters.insert(name.to_owned(), value.to_owned());
        }
        config.parameters.insert("max_wal_size".to_owned(), "32MB".to_owned());
    });
    n1.become_primary().await;
    let n3 = Witness::new("n3");
    n3.slot_on(&n1);
    let receiving = n3.receive_from(&n1);
    n3.has(n1.committed()).await;
    n3.stops(receiving).await;
    for _ in 0..6 {
        n1.sql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 1000000))");
        n1.sql("SELECT pg_switch_wal()");
        n1.sql("CHECKPOINT");
    }
    assert_eq!(n1.sql("SELECT wal_status FROM pg_replication_slots"), "lost");
    let error = n3.end_of_receiving(&n1.upstream()).await;
    assert!(matches!(error, ReceiveError::WalRemoved(_)), "{error}");
    n1.sql("SELECT pg_drop_replication_slot('n3')");
    n3.slot_on(&n1);
    let error = n3.end_of_receiving(&n1.upstream()).await;
    assert!(matches!(error, ReceiveError::WalRemoved(_)), "{error}");
    // What there is of it stays readable.
    assert!(n3.store.tip().unwrap().unwrap().damaged.is_none());
}

#[tokio::test]
async fn a_truncated_segment_is_told_and_received_anew() {
    let n1 = Node::new_primary("n1").await;
    let n3 = Witness::new("n3");
    n3.slot_on(&n1);
    let receiving = n3.receive_from(&n1);
    n1.sql("CREATE TABLE t AS SELECT generate_series(1, 30000)");
    let whole = n3.has(n1.committed()).await;
    n3.stops(receiving).await;
    let partial = list(n3.store.dir()).unwrap().pop().unwrap();
    assert!(matches!(partial.name, WalName::Segment { partial: true, .. }));
    for length in [100_001, 20] {
        let file = fs::OpenOptions::new().write(true).open(&partial.path).unwrap();
        file.set_len(length).unwrap();
        let tip = n3.store.tip().unwrap().unwrap();
        assert!(tip.damaged.is_some(), "{tip:?}");
        assert!(tip.end < whole.end);
        let receiving = n3.receive_from(&n1);
        let tip = n3.has(whole.end.lsn).await;
        assert_eq!(tip.damaged, None);
        n3.stops(receiving).await;
    }
}

#[tokio::test]
async fn the_store_stays_usable_for_the_receiver_when_it_is_pruned() {
    let n1 = Node::new_primary("n1").await;
    let n3 = Witness::new("n3");
    n3.slot_on(&n1);
    let receiving = n3.receive_from(&n1);
    for _ in 0..5 {
        n1.sql("SELECT pg_logical_emit_message(true, 'x', 'y'); SELECT pg_switch_wal()");
    }
    let tip = n3.has(n1.committed()).await;
    let keep = Lsn(tip.oldest.0 + 2 * SEGMENT);
    assert_eq!(n3.store.prune(keep).unwrap().bytes, 2 * SEGMENT);
    assert_eq!(n3.store.tip().unwrap().unwrap().oldest, keep);
    let dropped = n3.store.enforce(1).unwrap().unwrap();
    assert!(dropped.up_to > keep, "{dropped:?}");
    assert_eq!(n3.store.tip().unwrap().unwrap().oldest, dropped.up_to);
    n3.has(n1.committed()).await;
    n3.stops(receiving).await;
    n3.store.prune(Lsn(u64::MAX)).unwrap();
    let receiving = n3.receive_from(&n1);
    n3.has(n1.committed()).await;
    n3.stops(receiving).await;
}

/// Puts the pieces where the standby restores WAL from.
fn restore(pieces: &[ha_postgres::wal::files::Piece], spool: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for piece in pieces {
        let mut bytes = fs::read(&piece.path).unwrap();
        bytes.truncate(usize::try_from(piece.bytes).unwrap());
        bytes.resize(usize::try_from(piece.segment_bytes).unwrap(), 0);
        let path = spool.join(&piece.name);
        fs::write(&path, bytes).unwrap();
        give(&path);
        paths.push(path);
    }
    paths
}

#[tokio::test]
async fn a_standby_replays_over_a_change_of_timeline_what_a_witness_gives_it() {
    let n1 = Node::new_primary("n1").await;
    let n2 = Node::new_standby("n2", &n1).await;
    let late = Node::new_standby("n4", &n1).await;
    let n3 = Witness::new("n3");
    n3.slot_on(&n1);
    n3.slot_on(&n2);
    n1.sql("CREATE TABLE t (i int)");
    late.catches_up_with(&n1).await;
    late.stop(StopMode::Fast).await;
    let receiving = n3.receive_from(&n1);
    n1.sql("INSERT INTO t SELECT generate_series(1, 300000)");
    n3.has(n1.committed()).await;
    n2.catches_up_with(&n1).await;
    n1.crash().await;
    drop(receiving);
    n2.right(2);
    n2.promote().await;
    let receiving = n3.receive_from(&n2);
    n2.sql("INSERT INTO t SELECT generate_series(1, 5000)");
    n3.has(n2.committed()).await;
    n2.crash().await;
    n3.stops(receiving).await;
    // Both primaries are gone: the witness alone has what they committed.
    let tip = n3.store.tip().unwrap().unwrap();
    let from = late.driver.end_of_wal(soon(20)).await.unwrap();
    assert!(from.timeline < tip.end.timeline && tip.oldest <= from.lsn, "{from}, {tip:?}");
    late.driver.prepare_standby(None, soon(10)).await.unwrap();
    let pieces = serve(n3.store.dir(), from, tip.end, &tip.history).unwrap();
    assert!(pieces.len() >= 3, "{pieces:?}");
    restore(&pieces, &late.driver.spool());
    late.start().await;
    let probe = until("it has replayed all", async || {
        let probe = late.driver.probe(soon(5)).await.ok()?;
        (probe.replayed >= tip.end.lsn).then_some(probe)
    })
    .await;
    assert_eq!((probe.replayed, probe.timeline), (tip.end.lsn, tip.end.timeline));
    assert_eq!(late.sql("SELECT count(*) FROM t"), "305000");
    // As the server sees itself.
    let wal = late.driver.wal_dir();
    let own = tip_of_server(&wal, tip.end.timeline, &tip.history, probe.replayed, Lsn::ZERO);
    assert_eq!(own.unwrap().end, tip.end);
}
